"""`matrix.json` read back: the figures of every matrix, as the terminal and the pages show them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from osler.errors import DataError
from osler.files import read_text
from osler.metrics import Estimate, MatrixMeans
from osler.metrics.estimates import NO_ESTIMATE
from osler.metrics.matrices import Cell
from osler.reports.matrices import ROW_TITLES, Row, comparison_title, scores_title

MATRIX_FILE: Final = "matrix.json"
MAX_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFigures:
    """One cell of one matrix. What there is nothing to measure of is None."""

    accuracy: Estimate
    num_questions: int
    gain: Estimate  # over the best blind baseline
    baseline: str | None = None  # "majority_letter"
    blind: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixFigures:
    """One matrix: a policy for each domain, each tested on all of them."""

    row: Row
    strategy: str | None
    cells: Mapping[Cell, CellFigures]
    means: MatrixMeans
    train_means: Mapping[str, Estimate]  # of a policy over all test domains
    test_means: Mapping[str, Estimate]  # of a test domain over all policies
    gain_means: MatrixMeans | None  # None for the blind baseline

    @property
    def title(self) -> str:
        """What a person reads: "GRPO, No-Think"."""
        return scores_title(self.row, self.strategy)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeFigures:
    """One cell of the difference of two matrices."""

    difference: Estimate
    num_questions: int
    gained: int | None  # newly right; None in a file that does not count them
    lost: int | None
    adjusted_p: float | None
    is_significant: bool | None  # None for an empty cell


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceFigures:
    """One matrix minus another."""

    after: MatrixFigures
    before: MatrixFigures
    cells: Mapping[Cell, ChangeFigures]
    means: MatrixMeans
    published: Mapping[Cell, float] | None  # what a paper reports for the same cells
    published_means: tuple[float | None, float | None, float | None]  # diagonal, off-diagonal, all

    @property
    def title(self) -> str:
        """What a person reads: "GRPO: No-Think minus Think"."""
        return comparison_title((self.after.row, self.after.strategy), (self.before.row, self.before.strategy))


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisFigures:
    """All matrices of one axis."""

    axis: str  # "question_type"
    domains: tuple[str, ...]
    num_train: Mapping[str, int]  # training questions of each domain, 0 where there are none
    num_test: Mapping[str, int]
    matrices: Mapping[str, MatrixFigures]  # by name, "grpo-no_think"
    differences: tuple[DifferenceFigures, ...]
    notes: tuple[str, ...]  # what is missing, and why

    @property
    def title(self) -> str:
        """What a person reads: "question type"."""
        return self.axis.replace("_", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixReport:
    """What `osler matrix` left."""

    title: str  # of the recipe
    axes: tuple[AxisFigures, ...]


def read_matrix(folder: Path) -> MatrixReport:
    """The matrices of a folder that `osler matrix` wrote. Raises DataError in one line."""
    path = folder / MATRIX_FILE
    text = read_text(path, MAX_BYTES, "name the folder that `osler matrix` wrote")
    try:
        values = json.loads(text)
        axes = tuple(axis_from_json(str(axis), found) for axis, found in values["axes"].items())
        return MatrixReport(title=str(values["recipe"]), axes=axes)
    except (KeyError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError):
        raise DataError(f"{path} does not hold matrices: run the same `osler matrix` command again, which writes it anew") from None


def axis_from_json(axis: str, values: Mapping[str, Any]) -> AxisFigures:
    """What `matrices.axis_to_json` wrote. Raises KeyError, ValueError, TypeError, AttributeError or ArithmeticError for anything else."""
    domains = tuple(str(name) for name in values["domains"])
    matrices = {str(name): _read_scores(domains, found) for name, found in values["matrices"].items()}
    return AxisFigures(
        axis=axis,
        domains=domains,
        num_train={name: int(values["train_questions"][name]) for name in domains},
        num_test={name: int(values["test_questions"][name]) for name in domains},
        matrices=matrices,
        differences=tuple(_read_difference(domains, matrices, found) for found in values["differences"].values()),
        notes=tuple(map(str, values["notes"])),
    )


def _read_scores(domains: tuple[str, ...], values: Mapping[str, Any]) -> MatrixFigures:
    if values["row"] not in ROW_TITLES:
        raise ValueError(f"{values['row']!r} is no row of a matrix")
    cells: dict[Cell, CellFigures] = {}
    for train, test in _pairs(domains):
        found = values["cells"][train][test]
        gain = found.get("image_gain") or {"value": None, "low": None, "high": None}
        baseline = gain.get("baseline")
        cells[train, test] = CellFigures(
            accuracy=_share(found),
            num_questions=int(found["questions"]),
            gain=_estimate(gain),
            baseline=None if baseline is None else str(baseline),
            blind=_number(gain.get("blind")),
        )
    strategy = values["strategy"]
    gains = values.get("image_gain_means")
    return MatrixFigures(
        row=str(values["row"]),
        strategy=None if strategy is None else str(strategy),
        cells=cells,
        means=_means(values["means"], _share),
        train_means=_line_means(values.get("train_means"), domains, cells, 0),
        test_means=_line_means(values.get("test_means"), domains, cells, 1),
        gain_means=None if gains is None else _means(gains),
    )


def _line_means(
    values: Mapping[str, Any] | None, domains: tuple[str, ...], cells: Mapping[Cell, CellFigures], side: int
) -> dict[str, Estimate]:
    """The means of rows or columns; without intervals in a file that does not hold them, for which cells alone do not suffice."""
    if values is not None:
        return {name: _share(values[name]) for name in domains}
    found = {}
    for name in domains:
        line = [part.accuracy.value for cell, part in cells.items() if cell[side] == name]
        known = [value for value in line if value is not None]
        found[name] = NO_ESTIMATE if len(known) < len(line) else Estimate(value=sum(known) / len(known), low=None, high=None)
    return found


def _read_difference(domains: tuple[str, ...], matrices: Mapping[str, MatrixFigures], values: Mapping[str, Any]) -> DifferenceFigures:
    cells: dict[Cell, ChangeFigures] = {}
    published: dict[Cell, float] = {}
    for train, test in _pairs(domains):
        found = values["cells"][train][test]
        cells[train, test] = ChangeFigures(
            difference=_estimate(found),
            num_questions=int(found["questions"]),
            gained=_count(found.get("gained")),
            lost=_count(found.get("lost")),
            adjusted_p=_number(found["adjusted_p"]),
            is_significant=None if found["is_significant"] is None else bool(found["is_significant"]),
        )
        if (value := _number(found.get("published"))) is not None:
            published[train, test] = value
    means = values.get("published_means") or {}
    diagonal, rest, everything = (_number(means.get(name)) for name in ("diagonal", "off_diagonal", "all"))
    return DifferenceFigures(
        after=matrices[values["after"]],
        before=matrices[values["before"]],
        cells=cells,
        means=_means(values["means"]),
        published=published or None,
        published_means=(diagonal, rest, everything),
    )


def _pairs(domains: tuple[str, ...]) -> list[Cell]:
    return [(train, test) for train in domains for test in domains]


def _means(values: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Estimate] | None = None) -> MatrixMeans:
    read = read or _estimate
    return MatrixMeans(diagonal=read(values["diagonal"]), off_diagonal=read(values["off_diagonal"]), everything=read(values["all"]))


def _share(values: Mapping[str, Any]) -> Estimate:
    """An estimate that cannot be negative."""
    found = _estimate(values)
    if found.value is not None and found.value < 0:
        raise ValueError(f"{found.value!r} is no share")
    return found


def _estimate(values: Mapping[str, Any]) -> Estimate:
    return Estimate(value=_number(values["value"]), low=_number(values["low"]), high=_number(values["high"]))


def _number(value: Any) -> float | None:
    """A share, or a difference of two. Raises ValueError for what is neither, NaN included."""
    if value is None:
        return None
    if not -1 <= value <= 1:
        raise ValueError(f"{value!r} is no share")
    return float(value)


def _count(value: Any) -> int | None:
    return None if value is None else int(value)
