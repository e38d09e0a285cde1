"""Matrices from made-up records."""

from __future__ import annotations

from typing import Any

from osler.reports.matrices import AxisMatrices, MatrixRecords, MatrixReport, build_matrix, compare_all


def make_matrices(*parts: MatrixRecords, axis: str = "modality", notes: tuple[str, ...] = ()) -> AxisMatrices:
    """The matrices of an axis, with a blind baseline that earns a quarter of every question."""
    domains = tuple(dict.fromkeys(train for train, _ in parts[0].cells))
    earned = {record.sample_id: 0.25 for records in parts[0].cells.values() for record in records}
    size = max(len(records) for records in parts[0].cells.values())
    return AxisMatrices(
        axis=axis,  # type: ignore[arg-type]
        domains=domains,
        num_train=dict.fromkeys(domains, size),
        num_test=dict.fromkeys(domains, size),
        notes=notes,
        matrices={part.name: build_matrix(part, {domain: {"option_prior": earned} for domain in domains}) for part in parts},
        differences=compare_all(axis, parts),  # type: ignore[arg-type]
    )


def report_of(found: AxisMatrices, recipe: str = "made up") -> MatrixReport:
    return MatrixReport(recipe=recipe, axes={found.axis: found})


def axis_json(found: AxisMatrices) -> Any:
    return report_of(found).to_json()["axes"][found.axis]
