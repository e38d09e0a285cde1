"""Matrices from made-up records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from small_records import answers

from osler.metrics.matrices import Cell
from osler.reports.matrices import AxisMatrices, MatrixRecords, MatrixReport, build_matrix, compare_all
from osler.types import Record


def cells(own: float, other: float, domains: Sequence[str], size: int, empty: Sequence[str] = ()) -> dict[Cell, Sequence[Record]]:
    """Records with the accuracy `own` on the diagonal and `other` off it; train domains of `empty` have none."""
    return {
        (train, test): [] if train in empty else answers([i < size * (own if train == test else other) for i in range(size)], dataset=test)
        for train in domains
        for test in domains
    }


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
