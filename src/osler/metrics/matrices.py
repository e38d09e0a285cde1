"""Train x test matrices: means with intervals, gains, and the difference of two matrices with the cells that differ marked.

Cells of one column ask the same questions of several policies, so they are not independent; every interval here goes by clusters, in
which all answers to one question, and to the other questions about its image or subject, count as one draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from osler.metrics.accuracy import is_correct
from osler.metrics.clusters import Unit, cluster, clustered_difference, clustered_mean
from osler.metrics.estimates import NOTHING, Estimate
from osler.metrics.gain import ImageGain, choose_baseline, image_gain
from osler.metrics.paired import PairedDifference, Pairs, holm, pair, paired_difference
from osler.types import Record

Cell = tuple[str, str]
"""Where a policy was trained and where it was tested: ("mri", "ct")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixMeans:
    """Plain means of cells, each cell weighing the same; no value where a cell has none, or there is no such cell."""

    diagonal: Estimate  # tested where it was trained
    off_diagonal: Estimate
    everything: Annotated[Estimate, Field(alias="all")]  # both papers' "overall"; "all" in a file


@dataclass(frozen=True, slots=True, kw_only=True)
class CellDifference:
    """One cell of the difference of two matrices."""

    change: PairedDifference
    adjusted_p: float | None  # Holm's, over the cells of the matrix
    is_significant: bool | None  # None for an empty cell


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixDifference:
    """One matrix minus another."""

    cells: Mapping[Cell, CellDifference]
    means: MatrixMeans


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixGains:
    """The image gain of every cell, each over the blind baseline that is best there, and the means of these gains."""

    cells: Mapping[Cell, ImageGain]
    means: MatrixMeans


def matrix_means(cells: Mapping[Cell, Sequence[Record]], unit: Unit = "subject") -> MatrixMeans:
    """The mean accuracy of the diagonal, of the rest and of all cells."""
    return _means(cells, lambda chosen: _mean_accuracy([cells[cell] for cell in chosen], unit))


def matrix_difference(
    before: Mapping[Cell, Sequence[Record]], after: Mapping[Cell, Sequence[Record]], unit: Unit = "subject", *, alpha: float = 0.05
) -> MatrixDifference:
    """`after` minus `before`, cell by cell on shared samples, e.g. No-Think minus Think; a cell of one matrix only is empty.

    A cell is significant when its p-value, adjusted by Holm over all cells that have one, is below `alpha`. Raises DataError when a cell
    holds a sample twice.
    """
    names = list(dict.fromkeys([*before, *after]))
    pairs = {cell: pair(before.get(cell, ()), after.get(cell, ())) for cell in names}
    changes = {cell: paired_difference(before.get(cell, ()), after.get(cell, ()), unit) for cell in names}
    adjusted = holm([changes[cell].p_value for cell in names])
    cells = {
        cell: CellDifference(change=changes[cell], adjusted_p=p_value, is_significant=None if p_value is None else p_value < alpha)
        for cell, p_value in zip(names, adjusted, strict=True)
    }
    return MatrixDifference(cells=cells, means=_means(pairs, lambda chosen: _mean_difference([pairs[cell] for cell in chosen], unit)))


def matrix_gains(
    cells: Mapping[Cell, Sequence[Record]],
    blind: Mapping[Cell, Mapping[str, Mapping[str, float]]],
    unit: Unit = "subject",
    *,
    with_guessing: bool = True,
) -> MatrixGains:
    """The image gain of every cell; `blind` holds the baselines of a cell, fitted where its policy was trained (see `image_gain`)."""
    gains = {cell: image_gain(records, blind.get(cell, {}), unit, with_guessing=with_guessing) for cell, records in cells.items()}
    chosen = {cell: choose_baseline(records, blind.get(cell, {}), with_guessing=with_guessing) for cell, records in cells.items()}
    pairs = {cell: found[1] if found else Pairs(records=(), before=(), after=()) for cell, found in chosen.items()}
    return MatrixGains(cells=gains, means=_means(pairs, lambda names: _mean_difference([pairs[cell] for cell in names], unit)))


def _means(cells: Iterable[Cell], mean: Callable[[Sequence[Cell]], Estimate]) -> MatrixMeans:
    names = list(cells)
    return MatrixMeans(
        diagonal=mean([cell for cell in names if cell[0] == cell[1]]),
        off_diagonal=mean([cell for cell in names if cell[0] != cell[1]]),
        everything=mean(names),
    )


def _mean_accuracy(cells: Sequence[Sequence[Record]], unit: Unit) -> Estimate:
    if not cells or not all(cells):
        return NOTHING
    found = clustered_mean(
        [float(is_correct(record)) for records in cells for record in records],
        cluster([record for records in cells for record in records], unit),
        _strata(cells),
    )
    return NOTHING if found is None else found.estimate()


def _mean_difference(cells: Sequence[Pairs], unit: Unit) -> Estimate:
    records = [part.records for part in cells]
    if not cells or not all(records):
        return NOTHING
    clusters, strata = cluster([record for members in records for record in members], unit), _strata(records)
    after = clustered_mean([value for part in cells for value in part.after], clusters, strata)
    before = clustered_mean([value for part in cells for value in part.before], clusters, strata)
    return NOTHING if after is None or before is None else clustered_difference(after, before)


def _strata(cells: Sequence[Sequence[object]]) -> list[int]:
    return [number for number, members in enumerate(cells) for _ in members]
