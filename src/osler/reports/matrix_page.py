"""What a page and a terminal show of train x test matrices: heat maps of accuracy, image gain, truth and differences, and the means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from osler.audits.baselines import ALL_BASELINES
from osler.metrics import DASH, Estimate, MatrixMeans, p_value, percent, points
from osler.metrics.estimates import NO_ESTIMATE
from osler.reports.heat import HeatMap, Tile, shade, shade_difference
from osler.reports.leniency import describe_leniency, describe_undecided
from osler.reports.matrices import (
    TRAINED,
    AccuracyMatrix,
    AxisMatrices,
    MatrixComparison,
    MatrixReport,
    PublishedMeans,
    difference_title,
)
from osler.reports.tables import group_title

MINUS: Final = "\N{MINUS SIGN}"
CORNER: Final = "trained on \N{DOWNWARDS ARROW} tested on \N{RIGHTWARDS ARROW}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisPage:
    """The content of a page about one axis."""

    figures: AxisMatrices
    notes: tuple[str, ...]
    accuracy: tuple[HeatMap, ...]  # the leading row, GRPO where there is one, with each strategy
    other_accuracy: tuple[HeatMap, ...]
    gains: tuple[HeatMap, ...]
    other_gains: tuple[HeatMap, ...]
    truths: tuple[HeatMap, ...]  # true reasonings, where a strategy asks for a reasoning
    other_truths: tuple[HeatMap, ...]
    differences: tuple[HeatMap, ...]  # between strategies; each is followed by the published one
    other_differences: tuple[HeatMap, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixPage:
    """The content of a page about one matrix folder."""

    title: str  # of the recipe
    axes: tuple[AxisPage, ...]


def build_matrix_page(report: MatrixReport) -> MatrixPage:
    """The heat maps of every axis."""
    return MatrixPage(title=report.recipe, axes=tuple(build_axis(axis) for axis in report.axes.values()))


def build_axis(axis: AxisMatrices) -> AxisPage:
    """Every heat map of an axis, divided into those that are always visible and those that fold."""
    matrices = axis.matrices
    trained = sorted((name for name, part in matrices.items() if part.row in TRAINED), key=lambda name: TRAINED.index(matrices[name].row))
    leading = [name for name in trained if matrices[name].row == matrices[trained[0]].row]
    blind = [name for name, part in matrices.items() if part.row == "blind"]
    maps = {name: accuracy_map(axis, matrices[name]) for name in (*trained, *blind)}
    gains = {name: gain_map(axis, matrices[name], means) for name in trained if (means := matrices[name].image_gain_means) is not None}
    truths = {name: truth_map(axis, part, part.truth_means) for name, part in matrices.items() if part.truth_means is not None}
    changes = list(axis.differences.values())
    between = [part for part in changes if matrices[part.after].row == matrices[part.before].row]
    return AxisPage(
        figures=axis,
        notes=(
            *axis.notes,
            describe_leniency({part.title: part.lenient for part in matrices.values() if part.row != "blind"}),
            *filter(None, [describe_undecided({part.title: part.undecided for part in matrices.values() if part.row != "blind"})]),
        ),
        accuracy=tuple(maps[name] for name in leading),
        other_accuracy=tuple(heat for name, heat in maps.items() if name not in leading),
        gains=tuple(heat for name, heat in gains.items() if name in leading),
        other_gains=tuple(heat for name, heat in gains.items() if name not in leading),
        truths=tuple(heat for name, heat in truths.items() if name in leading),
        other_truths=tuple(heat for name, heat in truths.items() if name not in leading),
        differences=tuple(heat for part in between for heat in (difference_map(axis, part), *published_map(axis, part))),
        other_differences=tuple(difference_map(axis, part) for part in changes if part not in between),
    )


def accuracy_map(axis: AxisMatrices, part: AccuracyMatrix) -> HeatMap:
    """Accuracy in every cell, means at the edges, and the zero-shot row of the same strategy."""

    def tile(train: str, test: str) -> Tile:
        accuracy = part.cells[train][test]
        return _share_tile(accuracy, hint=f"{round((accuracy.value or 0) * accuracy.num_questions)} of {accuracy.num_questions}")

    def edge(mean: Estimate) -> Tile:
        return _share_tile(mean, is_edge=True)

    heat = _square(axis, f"{part.title}: accuracy, %", tile, describe_means(part.means, str))
    rows = [(title, (*tiles, edge(part.train_means[train]))) for train, (title, tiles) in zip(axis.domains, heat.rows, strict=True)]
    below = [("Mean of column", part)]
    below += [("Zero-shot", other) for other in axis.matrices.values() if (other.row, other.strategy) == ("zero_shot", part.strategy)]
    for title, other in below:
        rows.append((title, tuple(map(edge, (*(other.test_means[name] for name in axis.domains), other.means.everything)))))
    return replace(heat, columns=(*heat.columns, "Mean"), rows=tuple(rows))


def gain_map(axis: AxisMatrices, part: AccuracyMatrix, means: MatrixMeans) -> HeatMap:
    """Accuracy minus the best blind baseline of every cell; hatched where the interval contains 0."""

    def tile(train: str, test: str) -> Tile:
        accuracy = part.cells[train][test]
        gain = accuracy.image_gain
        if gain is None:
            return _change_tile(NO_ESTIMATE)
        hint = ""
        if gain.baseline is not None:
            baseline = ALL_BASELINES[gain.baseline].title.lower() if gain.baseline in ALL_BASELINES else gain.baseline
            hint = f"accuracy {percent(accuracy.value)}, {baseline} {percent(gain.blind)}"
        has_zero = gain.low is not None and gain.high is not None and gain.low <= 0 <= gain.high
        return _change_tile(gain, hint, "interval holds 0" if has_zero else "")

    return _square(axis, f"{part.title}: image gain, points", tile, describe_means(means, points))


def truth_map(axis: AxisMatrices, part: AccuracyMatrix, means: MatrixMeans) -> HeatMap:
    """The share of true reasonings in every cell."""

    def tile(train: str, test: str) -> Tile:
        truth = part.cells[train][test].truth
        if truth is None:
            return _share_tile(NO_ESTIMATE)
        return _share_tile(truth, hint=f"{truth.num_reasonings} reasonings; right for a false reason {truth.right_for_false_reason}")

    return _square(axis, f"{part.title}: true reasonings, %", tile, describe_means(means, str))


def difference_map(axis: AxisMatrices, part: MatrixComparison) -> HeatMap:
    """The difference of two matrices; hatched where a cell is not significant after Holm's correction."""

    def tile(train: str, test: str) -> Tile:
        cell = part.cells[train][test]
        counts = f"{cell.num_questions} questions: {cell.gained} newly right, {cell.lost} newly wrong"
        hint = "" if cell.adjusted_p is None else f"{counts}; Holm's p {p_value(cell.adjusted_p)}"
        change = _change_tile(cell, hint, "not significant" if cell.is_significant is False else "")
        return replace(change, star="*" if cell.is_significant else "")

    title = difference_title(axis.matrices[part.after], axis.matrices[part.before])
    return _square(axis, f"{title}, points", tile, describe_means(part.means, points))


def published_map(axis: AxisMatrices, part: MatrixComparison) -> tuple[HeatMap, ...]:
    """The published differences in the same cells: one heat map, or none."""
    if part.published_means is None:
        return ()

    def tile(train: str, test: str) -> Tile:
        return _change_tile(Estimate(value=part.cells[train][test].published, low=None, high=None))

    means = describe_means(part.published_means, _signed)
    caption = "arXiv 2503.13939, Qwen2-VL-2B on OmniMedVQA. Other questions and another policy: compare the pattern, not the size."
    return (_square(axis, "Published by Med-R1: GRPO, No-Think minus Think, points", tile, means, caption),)


def _share_tile(share: Estimate, *, hint: str = "", is_edge: bool = False) -> Tile:
    return Tile(text=percent(share.value), detail=_interval(share), style=shade(share.value), hint=hint, is_edge=is_edge)


def _change_tile(change: Estimate, hint: str = "", mark: str = "") -> Tile:
    style = shade_difference(change.value, is_faded=bool(mark))
    return Tile(text=_signed(change.value), detail=_interval(change), style=style, hint=hint, mark=mark)


def _square(axis: AxisMatrices, title: str, tile: Callable[[str, str], Tile], means: str, caption: str = "") -> HeatMap:
    """A heat map of train (rows) by test domains (columns), with the tiles of `tile(train, test)`."""
    return HeatMap(
        title=title,
        caption=caption,
        columns=tuple(map(group_title, axis.domains)),
        rows=tuple((group_title(train), tuple(tile(train, test) for test in axis.domains)) for train in axis.domains),
        means=means,
        corner=CORNER,
        has_diagonal=True,
    )


def describe_means(means: MatrixMeans | PublishedMeans, write: Callable[..., str]) -> str:
    """ "diagonal 61.2 [51.0, 70.4], off-diagonal 40.1 [35.2, 45.3], all 47.1 [42.4, 51.9]"; `write` makes the text of one mean."""
    return f"diagonal {write(means.diagonal)}, off-diagonal {write(means.off_diagonal)}, all {write(means.everything)}"


def _signed(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:+.1f}".replace("-", MINUS)


def _interval(value: Estimate) -> str:
    if value.low is None or value.high is None:
        return ""
    return f"[{100 * value.low:.0f}, {100 * value.high:.0f}]".replace("-0]", "0]").replace("[-0,", "[0,").replace("-", MINUS)
