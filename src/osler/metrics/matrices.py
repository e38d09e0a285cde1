"""Train x test matrices: mean accuracy and image gain with intervals, and the difference of two matrices with significant cells marked.

The cells of one column hold answers of several policies to the same questions, so they are not independent. All intervals are therefore
clustered over the whole matrix: all answers to a question, and to other questions about its image or subject, are one cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated

from pydantic import Field

from osler.metrics.accuracy import is_correct, mean_accuracy
from osler.metrics.clusters import Unit, cluster, clustered_difference, mean_of_groups
from osler.metrics.estimates import Estimate, plain
from osler.metrics.gain import ImageGain, choose_baseline, gain_over
from osler.metrics.paired import PairedDifference, Pairs, compare_pairs, holm, pair
from osler.types import Record

Cell = tuple[str, str]
"""Train domain and test domain: ("mri", "ct")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixMeans:
    """Means over cells with equal weights, in shares of one; no value if a cell is empty, or there is no such cell."""

    diagonal: Estimate  # tested on the domain of training
    off_diagonal: Estimate
    everything: Annotated[Estimate, Field(alias="all")]  # "all" in files; called "overall" in both papers


@dataclass(frozen=True, slots=True, kw_only=True)
class CellDifference:
    """One cell of the difference of two matrices."""

    change: PairedDifference
    adjusted_p: float | None  # by Holm, over all cells of the matrix
    is_significant: bool | None  # None for an empty cell


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixDifference:
    """One matrix minus another, per cell and on average."""

    cells: Mapping[Cell, CellDifference]
    means: MatrixMeans


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixGains:
    """The image gain of each cell over the best blind baseline of that cell, and the mean gains."""

    cells: Mapping[Cell, ImageGain]
    means: MatrixMeans


def matrix_means(
    cells: Mapping[Cell, Sequence[Record]], unit: Unit = "subject", *, has: Callable[[Record], bool] = is_correct
) -> MatrixMeans:
    """The mean accuracy of the diagonal, of the other cells, and of all cells, with intervals by `unit`.

    `has` replaces being correct by another property of a record, of whose share the means are then taken.
    """

    return _means(cells, lambda chosen: plain(mean_accuracy([cells[cell] for cell in chosen], unit, has=has)))


def matrix_difference(
    before: Mapping[Cell, Sequence[Record]], after: Mapping[Cell, Sequence[Record]], unit: Unit = "subject", *, alpha: float = 0.05
) -> MatrixDifference:
    """`after` minus `before`, paired by sample within each cell, e.g. No-Think minus Think; cells of only one matrix are empty.

    A cell is significant if its p-value, adjusted by Holm over all cells that have one, is below `alpha`. Raises DataError if a cell
    holds a sample twice.
    """
    pairs = {cell: pair(before.get(cell, ()), after.get(cell, ())) for cell in dict.fromkeys([*before, *after])}
    changes = {cell: compare_pairs(members, unit) for cell, members in pairs.items()}
    adjusted = holm([change.p_value for change in changes.values()])
    cells = {
        cell: CellDifference(change=change, adjusted_p=p_value, is_significant=None if p_value is None else p_value < alpha)
        for (cell, change), p_value in zip(changes.items(), adjusted, strict=True)
    }
    return MatrixDifference(cells=cells, means=_mean_differences(pairs, unit))


def matrix_gains(
    cells: Mapping[Cell, Sequence[Record]], blind: Mapping[Cell, Mapping[str, Mapping[str, float]]], unit: Unit = "subject"
) -> MatrixGains:
    """The image gain of each cell; `blind` maps each cell to the baselines fitted on its train domain (see `image_gain`).

    Raises DataError for a credit outside [0, 1], or a cell that holds a sample twice.
    """
    chosen = {cell: choose_baseline(records, blind.get(cell, {})) for cell, records in cells.items()}
    gains = {cell: gain_over(baseline, pairs, unit) for cell, (baseline, pairs) in chosen.items()}
    return MatrixGains(cells=gains, means=_mean_differences({cell: pairs for cell, (_, pairs) in chosen.items()}, unit))


def _means(cells: Iterable[Cell], mean: Callable[[Sequence[Cell]], Estimate]) -> MatrixMeans:
    names = list(cells)
    return MatrixMeans(
        diagonal=mean([cell for cell in names if cell[0] == cell[1]]),
        off_diagonal=mean([cell for cell in names if cell[0] != cell[1]]),
        everything=mean(names),
    )


def _mean_differences(pairs: Mapping[Cell, Pairs], unit: Unit) -> MatrixMeans:
    def mean_difference(chosen: Sequence[Cell]) -> Estimate:
        clusters = cluster(chain.from_iterable(pairs[cell].records for cell in chosen), unit)
        after = mean_of_groups([pairs[cell].after for cell in chosen], clusters)
        before = mean_of_groups([pairs[cell].before for cell in chosen], clusters)
        return plain(clustered_difference(after, before))

    return _means(pairs, mean_difference)
