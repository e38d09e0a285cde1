"""Matrices as tables in a terminal and as heat maps on one HTML page: the same grids in both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TextIO

from osler import __version__
from osler.metrics import DASH, Estimate, MatrixMeans, percent, points
from osler.metrics.matrices import Cell, CellDifference
from osler.reporting.matrices import TRAINED, AxisMatrices, Comparison, Scores, published_means
from osler.reporting.page import p_value, shade
from osler.reporting.tables import group_title

MINUS: Final = "\N{MINUS SIGN}"
_NOTHING: Final = "background: #f4f5f6; color: #6b747b"
_LOSS: Final = (196, 78, 0)
_GAIN: Final = (8, 96, 148)
_FULL: Final = 0.4
"""The difference that has the full colour; most lie within it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One cell of a heat map."""

    text: str  # "61.2", "+12.0", or a dash
    detail: str = ""  # "[51, 70]"
    style: str = _NOTHING
    hint: str = ""  # what a pointer shows
    mark: str = ""  # "not significant"; a tile with a mark is hatched
    star: str = ""  # "*" where a difference is significant, for terminals, which have no colours
    is_edge: bool = False  # a mean beside the cells, or another policy's row below them


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """One matrix to look at: rows where a policy was trained, columns where it was tested."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Tile, ...]], ...]
    means: str = ""  # "diagonal 61.2 [..], off-diagonal .., all .."


@dataclass(frozen=True, slots=True, kw_only=True)
class MeansRow:
    """One matrix in the summary."""

    title: str
    accuracy: MatrixMeans
    gain: MatrixMeans | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisPage:
    """One axis on the page."""

    found: AxisMatrices
    means: tuple[MeansRow, ...]
    accuracy: tuple[HeatMap, ...]  # the first for each strategy, GRPO's where there is one
    other_accuracy: tuple[HeatMap, ...]
    gains: tuple[HeatMap, ...]
    other_gains: tuple[HeatMap, ...]
    differences: tuple[tuple[HeatMap, ...], ...]  # between strategies; the published one beside ours
    other_differences: tuple[HeatMap, ...]


def render_matrices(axes: Sequence[AxisMatrices], *, file: TextIO | None = None) -> None:
    """Print the accuracies of every matrix and the differences between strategies, with what is published, and the means of all."""
    from rich.console import Console

    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        console = Console(file=file, highlight=False, width=240)  # a log file has no width to fit in
    for found in axes:
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


def render_matrix_page(title: str, axes: Sequence[AxisMatrices]) -> str:
    """The page as one HTML text that needs no other file and no network."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("osler.reporting", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=percent, points=points, group_title=group_title)
    pages = [build_axis(found) for found in axes]
    return environment.get_template("matrix.html.j2").render(title=title, pages=pages, version=__version__).lstrip()


def build_axis(found: AxisMatrices) -> AxisPage:
    """Every heat map of an axis, sorted into those that open and those that fold."""
    trained = sorted((part for part in found.scores if part.row in TRAINED), key=lambda part: TRAINED.index(part.row))
    lead = trained[0].row if trained else None
    blind = [part for part in found.scores if part.row == "blind"]
    maps = {part.name: accuracy_map(found, part) for part in (*trained, *blind)}
    gains = {part.name: gain_map(found, part) for part in trained if part.gains is not None}
    leading = [part.name for part in trained if part.row == lead]
    between = [part for part in found.comparisons if part.after.row == part.before.row]
    return AxisPage(
        found=found,
        means=tuple(
            MeansRow(title=part.title, accuracy=part.means, gain=None if part.gains is None else part.gains.means) for part in found.scores
        ),
        accuracy=tuple(maps[name] for name in leading),
        other_accuracy=tuple(heat for name, heat in maps.items() if name not in leading),
        gains=tuple(gains[name] for name in leading),
        other_gains=tuple(heat for name, heat in gains.items() if name not in leading),
        differences=tuple((difference_map(found, part), *published_map(found, part)) for part in between),
        other_differences=tuple(difference_map(found, part) for part in found.comparisons if part not in between),
    )


def accuracy_map(found: AxisMatrices, part: Scores) -> HeatMap:
    """Accuracy in every cell, means at the edges, and the row of the same strategy that was not trained."""

    def tile(cell: Cell) -> Tile:
        share = part.accuracy[cell]
        return Tile(text=percent(share.value), detail=_interval(share), style=shade(share.value), hint=f"{share.correct} of {share.total}")

    rows = [(name, [tile((name, test)) for test in found.domains], part.train_means[name]) for name in found.domains]
    zero = next((other for other in found.scores if other.row == "zero_shot" and other.strategy == part.strategy), None)
    edges = [("Mean of column", part.test_means, part.means.everything)]
    if zero is not None:
        edges.append(("Zero-shot", zero.test_means, zero.means.everything))
    return HeatMap(
        title=f"{part.title}: accuracy, %",
        caption="Per cent right, with 95 % intervals.",
        columns=(*(group_title(name) for name in found.domains), "Mean"),
        rows=(
            *((group_title(name), (*tiles, _edge(mean))) for name, tiles, mean in rows),
            *((title, tuple(_edge(value) for value in (*(line[name] for name in found.domains), last))) for title, line, last in edges),
        ),
        means=describe_means(part.means, str),
    )


def _edge(value: Estimate) -> Tile:
    return Tile(text=percent(value.value), detail=_interval(value), style=shade(value.value), is_edge=True)


def gain_map(found: AxisMatrices, part: Scores) -> HeatMap:
    """Accuracy minus the best blind baseline of every cell; hatched where the interval holds 0."""
    gains = part.gains
    assert gains is not None  # the blind baseline has no gain over itself

    def tile(cell: Cell) -> Tile:
        gain = gains.cells[cell]
        hint = f"accuracy {percent(gain.accuracy)}, {gain.baseline} {percent(gain.blind)}" if gain.baseline else ""
        low, high = gain.gain.low, gain.gain.high
        is_open = low is not None and high is not None and low <= 0 <= high
        return Tile(
            text=_signed(gain.gain.value),
            detail=_interval(gain.gain),
            style=shade_difference(gain.gain.value),
            hint=hint,
            mark="interval holds 0" if is_open else "",
        )

    return HeatMap(
        title=f"{part.title}: image gain, points",
        caption="Accuracy minus that of the best blind baseline fitted where the policy was trained, on the same questions, with 95 % "
        "intervals. Hatched where the interval holds 0: nothing shows that the policy looked.",
        columns=tuple(group_title(name) for name in found.domains),
        rows=_rows(found, tile),
        means=describe_means(gains.means, points),
    )


def difference_map(found: AxisMatrices, part: Comparison) -> HeatMap:
    """The difference of two matrices; hatched where a cell is not significant after Holm's correction."""

    def tile(cell: Cell) -> Tile:
        return _difference_tile(part.found.cells[cell])

    return HeatMap(
        title=f"{part.title}, points",
        caption="Differences on the same questions, with 95 % intervals. Hatched where not significant at 5 % after Holm's correction over "
        "the cells (McNemar's exact test, by images or patients where several questions share one).",
        columns=tuple(group_title(name) for name in found.domains),
        rows=_rows(found, tile),
        means=describe_means(part.found.means, points),
    )


def _difference_tile(cell: CellDifference) -> Tile:
    change = cell.change
    hint = "" if cell.adjusted_p is None else f"{change.num_samples} questions: {change.gained} newly right, {change.lost} newly wrong; "
    return Tile(
        text=_signed(change.difference.value),
        detail=_interval(change.difference),
        style=shade_difference(change.difference.value),
        hint=hint and f"{hint}Holm's p {p_value(cell.adjusted_p)}",
        mark="not significant" if cell.is_significant is False else "",
        star="*" if cell.is_significant else "",
    )


def published_map(found: AxisMatrices, part: Comparison) -> tuple[HeatMap, ...]:
    """The published differences in the same cells: one heat map, or none."""
    if part.published is None:
        return ()
    values: Mapping[Cell, float] = part.published

    def tile(cell: Cell) -> Tile:
        return Tile(text=_signed(values.get(cell)), style=shade_difference(values.get(cell)))

    names = ("diagonal", "off-diagonal", "all")
    means = ", ".join(f"{name} {_signed(value)}" for name, value in zip(names, published_means(part), strict=True))
    return (
        HeatMap(
            title="Published by Med-R1: GRPO, No-Think minus Think, points",
            caption="arXiv 2503.13939, Qwen2-VL-2B on OmniMedVQA. Other questions and another policy: compare the pattern, not the size.",
            columns=tuple(group_title(name) for name in found.domains),
            rows=_rows(found, tile),
            means=means,
        ),
    )


def _rows(found: AxisMatrices, tile: Callable[[Cell], Tile]) -> tuple[tuple[str, tuple[Tile, ...]], ...]:
    return tuple((group_title(train), tuple(tile((train, test)) for test in found.domains)) for train in found.domains)


def describe_means(means: MatrixMeans, write: Callable[[Estimate], str]) -> str:
    """ "diagonal 61.2 [51.0, 70.4], off-diagonal 40.1 [35.2, 45.3], all 47.1 [42.4, 51.9]"."""
    names = ("diagonal", "off-diagonal", "all")
    return ", ".join(f"{name} {write(value)}" for name, value in zip(names, _three(means), strict=True))


def _three(means: MatrixMeans) -> tuple[Estimate, Estimate, Estimate]:
    return means.diagonal, means.off_diagonal, means.everything


def _signed(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:+.1f}".replace("-", MINUS)


def _interval(value: Estimate) -> str:
    if value.low is None or value.high is None:
        return ""
    return f"[{100 * value.low:.0f}, {100 * value.high:.0f}]".replace("-0]", "0]").replace("[-0,", "[0,").replace("-", MINUS)


def shade_difference(value: float | None) -> str:
    """The colours of a difference as CSS: orange below 0, white at 0, blue above, full at 40 points, with text that stays readable."""
    if value is None:
        return _NOTHING
    strength = min(1.0, abs(value) / _FULL)
    red, green, blue = (round(255 + strength * (end - 255)) for end in (_GAIN if value > 0 else _LOSS))
    return f"background-color: rgb({red}, {green}, {blue}); color: {'#ffffff' if strength > 0.7 else '#1d2327'}"
