"""Matrices as tables in a terminal and as heat maps on a page: the same grids in both, from what `matrix.json` holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TextIO

from osler.audits.baselines import BASELINES
from osler.metrics import DASH, Estimate, MatrixMeans, p_value, percent, points
from osler.metrics.matrices import Cell
from osler.reports.heat import HeatMap, Tile, shade, shade_difference
from osler.reports.matrices import TRAINED, AxisMatrices, axis_to_json
from osler.reports.matrix_file import AxisFigures, ChangeFigures, DifferenceFigures, MatrixFigures, MatrixReport, axis_from_json
from osler.reports.tables import group_title
from osler.reports.whole import Report, render_report

MINUS: Final = "\N{MINUS SIGN}"
CORNER: Final = "trained on \N{DOWNWARDS ARROW} tested on \N{RIGHTWARDS ARROW}"
PARTS: Final = ("diagonal", "off-diagonal", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeansRow:
    """One matrix in the summary."""

    title: str
    accuracy: MatrixMeans
    gain: MatrixMeans | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisPage:
    """One axis on the page."""

    found: AxisFigures
    means: tuple[MeansRow, ...]
    accuracy: tuple[HeatMap, ...]  # the first for each strategy, GRPO's where there is one
    other_accuracy: tuple[HeatMap, ...]
    gains: tuple[HeatMap, ...]
    other_gains: tuple[HeatMap, ...]
    differences: tuple[tuple[HeatMap, ...], ...]  # between strategies; the published one beside ours
    other_differences: tuple[HeatMap, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixPage:
    """What a page shows of one matrix folder."""

    title: str  # of the recipe
    axes: tuple[AxisPage, ...]


def build_matrix(report: MatrixReport) -> MatrixPage:
    """Gather the heat maps of every axis."""
    return MatrixPage(title=report.title, axes=tuple(build_axis(found) for found in report.axes))


def render_matrix_page(title: str, axes: Sequence[AxisMatrices]) -> str:
    """The page of one matrix folder alone."""
    return render_report(Report(matrices=(build_matrix(MatrixReport(title=title, axes=read_axes(axes))),)))


def read_axes(axes: Sequence[AxisMatrices]) -> tuple[AxisFigures, ...]:
    """Matrices as their file will hold them, so that a page made now and one made from the file are the same."""
    return tuple(axis_from_json(found.axis, axis_to_json(found)) for found in axes)


def render_matrices(axes: Sequence[AxisMatrices], *, file: TextIO | None = None) -> None:
    """Print the accuracies of every matrix and the differences between strategies, with what is published, and the means of all."""
    from rich.console import Console

    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        console = Console(file=file, highlight=False, width=240)  # a log file has no width to fit in
    for found in read_axes(axes):
        page = build_axis(found)
        shown = [*page.accuracy, *page.other_accuracy, *(heat for group in page.differences for heat in group)]
        for heat in shown:
            _print_heat(console, heat)
        if page.differences:
            console.print("* significant at 5 % after Holm's correction over the cells of the matrix")
        _print_means(console, page)
        for note in found.notes:
            console.print(note, markup=False)


def _print_heat(console: Any, heat: HeatMap) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"\n{heat.title}"), title_justify="left", box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII2)
    table.show_edge, table.pad_edge = False, False
    table.add_column("trained on")
    for name in heat.columns:
        table.add_column(Text("\n".join(name.split(" ")) if console.is_terminal else name), justify="right")
    for title, tiles in heat.rows:
        cells = [Text(tile.text + tile.star) for tile in tiles]
        table.add_row(Text(title), *cells)
    console.print(table)
    if heat.means:
        console.print(heat.means, markup=False)


def _print_means(console: Any, page: AxisPage) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = Text(f"\nMeans over cells, by {page.found.title}")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII2)
    table.show_edge, table.pad_edge = False, False
    table.add_column("")
    for head in ("Diagonal", "Off-diagonal", "All", "Image gain, diagonal", "off-diagonal", "all"):
        table.add_column(head, justify="right")
    for row in page.means:
        texts = [str(part) for part in _three(row.accuracy)]
        texts += [points(part) for part in _three(row.gain)] if row.gain is not None else [""] * 3
        table.add_row(Text(row.title), *(Text(text) for text in texts))
    console.print(table)


def build_axis(found: AxisFigures) -> AxisPage:
    """Every heat map of an axis, sorted into those that open and those that fold."""
    matrices = found.matrices
    trained = sorted((name for name, part in matrices.items() if part.row in TRAINED), key=lambda name: TRAINED.index(matrices[name].row))
    lead = matrices[trained[0]].row if trained else None
    blind = [name for name, part in matrices.items() if part.row == "blind"]
    maps = {name: accuracy_map(found, matrices[name]) for name in (*trained, *blind)}
    gains = {name: gain_map(found, matrices[name], means) for name in trained if (means := matrices[name].gain_means) is not None}
    leading = [name for name in trained if matrices[name].row == lead]
    between = [part for part in found.differences if part.after.row == part.before.row]
    return AxisPage(
        found=found,
        means=tuple(MeansRow(title=part.title, accuracy=part.means, gain=part.gain_means) for part in matrices.values()),
        accuracy=tuple(maps[name] for name in leading),
        other_accuracy=tuple(heat for name, heat in maps.items() if name not in leading),
        gains=tuple(heat for name, heat in gains.items() if name in leading),
        other_gains=tuple(heat for name, heat in gains.items() if name not in leading),
        differences=tuple((difference_map(found, part), *published_map(found, part)) for part in between),
        other_differences=tuple(difference_map(found, part) for part in found.differences if part not in between),
    )


def accuracy_map(found: AxisFigures, part: MatrixFigures) -> HeatMap:
    """Accuracy in every cell, means at the edges, and the row of the same strategy that was not trained."""

    def tile(cell: Cell) -> Tile:
        share, total = part.cells[cell].accuracy, part.cells[cell].num_questions
        right = 0 if share.value is None else round(share.value * total)
        return Tile(text=percent(share.value), detail=_interval(share), style=shade(share.value), hint=f"{right} of {total}")

    rows = [(name, [tile((name, test)) for test in found.domains], part.train_means[name]) for name in found.domains]
    zero = next((other for other in found.matrices.values() if other.row == "zero_shot" and other.strategy == part.strategy), None)
    edges = [("Mean of column", part.test_means, part.means.everything)]
    if zero is not None:
        edges.append(("Zero-shot", zero.test_means, zero.means.everything))
    return HeatMap(
        title=f"{part.title}: accuracy, %",
        columns=(*(group_title(name) for name in found.domains), "Mean"),
        rows=(
            *((group_title(name), (*tiles, _edge(mean))) for name, tiles, mean in rows),
            *((title, tuple(_edge(value) for value in (*(line[name] for name in found.domains), last))) for title, line, last in edges),
        ),
        means=describe_means(part.means, str),
        corner=CORNER,
        has_diagonal=True,
    )


def _edge(value: Estimate) -> Tile:
    return Tile(text=percent(value.value), detail=_interval(value), style=shade(value.value), is_edge=True)


def gain_map(found: AxisFigures, part: MatrixFigures, means: MatrixMeans) -> HeatMap:
    """Accuracy minus the best blind baseline of every cell; hatched where the interval holds 0."""

    def tile(cell: Cell) -> Tile:
        figures = part.cells[cell]
        gain, name = figures.gain, figures.baseline
        hint = ""
        if name is not None:
            baseline = BASELINES[name].title.lower() if name in BASELINES else name
            hint = f"accuracy {percent(figures.accuracy.value)}, {baseline} {percent(figures.blind)}"
        is_open = gain.low is not None and gain.high is not None and gain.low <= 0 <= gain.high
        return Tile(
            text=_signed(gain.value),
            detail=_interval(gain),
            style=shade_difference(gain.value, is_faded=is_open),
            hint=hint,
            mark="interval holds 0" if is_open else "",
        )

    return _square(found, f"{part.title}: image gain, points", tile, describe_means(means, points))


def difference_map(found: AxisFigures, part: DifferenceFigures) -> HeatMap:
    """The difference of two matrices; hatched where a cell is not significant after Holm's correction."""
    return _square(found, f"{part.title}, points", lambda cell: _difference_tile(part.cells[cell]), describe_means(part.means, points))


def _difference_tile(cell: ChangeFigures) -> Tile:
    counts = "" if cell.gained is None or cell.lost is None else f": {cell.gained} newly right, {cell.lost} newly wrong"
    hint = "" if cell.adjusted_p is None else f"{cell.num_questions} questions{counts}; Holm's p {p_value(cell.adjusted_p)}"
    return Tile(
        text=_signed(cell.difference.value),
        detail=_interval(cell.difference),
        style=shade_difference(cell.difference.value, is_faded=cell.is_significant is False),
        hint=hint,
        mark="not significant" if cell.is_significant is False else "",
        star="*" if cell.is_significant else "",
    )


def published_map(found: AxisFigures, part: DifferenceFigures) -> tuple[HeatMap, ...]:
    """The published differences in the same cells: one heat map, or none."""
    values = part.published
    if values is None:
        return ()

    def tile(cell: Cell) -> Tile:
        return Tile(text=_signed(values.get(cell)), style=shade_difference(values.get(cell)))

    means = ", ".join(f"{name} {_signed(value)}" for name, value in zip(PARTS, part.published_means, strict=True))
    caption = "arXiv 2503.13939, Qwen2-VL-2B on OmniMedVQA. Other questions and another policy: compare the pattern, not the size."
    return (_square(found, "Published by Med-R1: GRPO, No-Think minus Think, points", tile, means, caption),)


def _square(found: AxisFigures, title: str, tile: Callable[[Cell], Tile], means: str, caption: str = "") -> HeatMap:
    return HeatMap(
        title=title,
        caption=caption,
        columns=tuple(group_title(name) for name in found.domains),
        rows=tuple((group_title(train), tuple(tile((train, test)) for test in found.domains)) for train in found.domains),
        means=means,
        corner=CORNER,
        has_diagonal=True,
    )


def describe_means(means: MatrixMeans, write: Callable[[Estimate], str]) -> str:
    """ "diagonal 61.2 [51.0, 70.4], off-diagonal 40.1 [35.2, 45.3], all 47.1 [42.4, 51.9]"."""
    return ", ".join(f"{name} {write(value)}" for name, value in zip(PARTS, _three(means), strict=True))


def _three(means: MatrixMeans) -> tuple[Estimate, Estimate, Estimate]:
    return means.diagonal, means.off_diagonal, means.everything


def _signed(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:+.1f}".replace("-", MINUS)


def _interval(value: Estimate) -> str:
    if value.low is None or value.high is None:
        return ""
    return f"[{100 * value.low:.0f}, {100 * value.high:.0f}]".replace("-0]", "0]").replace("[-0,", "[0,").replace("-", MINUS)
