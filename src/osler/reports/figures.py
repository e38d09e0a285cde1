"""Figures as SVG text for a page: the same input gives the same bytes, text stays text, and nothing points outside."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from osler.metrics import Estimate
from osler.reports.load_runs import Curve, Run
from osler.reports.tables import AccuracyTable, group_title

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from matplotlib.lines import Line2D

PALETTE: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5f5f5f", "#b8a900")
"""Okabe and Ito's colours, which colour-blind readers can tell apart, the dark ones first."""

INK: Final = "#333a40"
GRID: Final = "#e3e7ea"

_PANELS: Final = (
    ("Reward", "reward", "reward"),
    ("Completion length", "tokens", "completion_length"),
    ("Groups whose rewards are all equal", "share", "zero_std"),
    ("Distance from the reference (KL)", "nats per token", "kl"),
)
"""Title, y label and curve of the training figures, in order."""

MAX_BARS: Final = 6
"""Policies in one group of bars; more cannot be told apart."""

MAX_RAW: Final = 3
"""Lines with their values as logged behind them; with more only the means are drawn."""

_WIDE: Final = 5.4
WIDTH: Final = 4.3  # inches; 413 px, so that a figure fits a telephone without shrinking its text


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of a page."""

    title: str
    svg: str
    description: str  # for readers who do not see it


@contextmanager
def style(salt: str) -> Iterator[None]:
    """The look of every figure; `salt` makes the identifiers inside the SVG repeatable."""
    import matplotlib as mpl

    settings: dict[str, Any] = {
        "svg.hashsalt": salt,
        "svg.fonttype": "none",
        "text.parse_math": False,  # a policy may be called "$x$"
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.edgecolor": "#aab2b8",
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
    }
    with mpl.rc_context(settings):
        yield


def new_canvas(height: float, width: float = WIDTH) -> Canvas:
    """An empty figure of so many inches."""
    # Not pyplot: it keeps global state and picks a screen.
    from matplotlib.figure import Figure as Canvas

    return Canvas(figsize=(width, height), layout="constrained")


def to_svg(canvas: Canvas, description: str) -> str:
    """The figure as SVG for a page, with a text for readers who do not see it."""
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    # Group names repeat from figure to figure, and an id may stand once in a page; clip paths have hashed names and stay.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font: ([^\"]*?)'[^\"]*?sans-serif", r"font: \1sans-serif", svg)
    label = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{label}" ', svg, count=1)


def training_figures(runs: Sequence[Run]) -> list[Figure]:
    """Reward, its parts, completion length and KL over the steps, a line per run; the loss where a run logged no reward."""
    shown = [run for run in runs if run.curves][: len(PALETTE)]
    figures = []
    for title, unit, name in _PANELS:
        if lines := {run.name: run.curves[name] for run in shown if name in run.curves}:
            figures.append(_curve_figure(title, unit, lines))
    rewarded = [run for run in shown if "reward" in run.curves]
    if len(rewarded) == 1:  # with more, the lines of runs and those of parts would need two keys
        parts = {name.removeprefix("reward: "): curve for name, curve in rewarded[0].curves.items() if name.startswith("reward: ")}
        figures[1:1] = [_curve_figure("Parts of the reward", "reward", parts)] if parts else []
    losses = {run.name: run.curves["loss"] for run in shown if "loss" in run.curves and "reward" not in run.curves}
    if losses:
        figures.append(_curve_figure("Loss (runs without a reward)", "nats per token", losses))
    return figures


def _curve_figure(title: str, unit: str, lines: Mapping[str, Curve]) -> Figure:
    description = f"{title} over training steps: " + "; ".join(
        f"{name} from {curve.values[0]:.3g} at step {curve.steps[0]:g} to {curve.values[-1]:.3g} at step {curve.steps[-1]:g}"
        for name, curve in lines.items()
    )
    with style(title):
        columns = key_columns(list(lines), WIDTH)
        canvas = new_canvas(2.5 + (0.18 * -(-len(lines) // columns) if len(lines) > 1 else 0))
        axes = canvas.add_subplot()
        for colour, (name, curve) in zip(PALETTE, lines.items(), strict=False):
            mean = moving_average(curve.values)
            if len(curve.values) > 20 and len(lines) <= MAX_RAW:
                axes.plot(curve.steps, curve.values, color=colour, alpha=0.25, linewidth=0.7)
            axes.plot(curve.steps, mean, color=colour, linewidth=1.7, label=name, marker="o" if len(mean) == 1 else None, markersize=4)
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.margins(x=0.02)
        if len(lines) > 1:
            canvas.legend(loc="outside upper left", ncols=columns)
        svg = to_svg(canvas, description)
    return Figure(title=title, svg=svg, description=description)


def moving_average(values: Sequence[float]) -> list[float]:
    """The mean over the last 5 % of the values (at least one), ending at each value."""
    window = max(1, len(values) // 20)
    return [sum(part) / len(part) for end in range(1, len(values) + 1) if (part := values[max(0, end - window) : end])]


def accuracy_figure(table: AccuracyTable, name: str) -> Figure:
    """Horizontal bars with 95 % intervals, and a line where guessing lies.

    A group of bars for each column and the average, a bar in it for each policy; with more policies than MAX_BARS, the averages only.
    """
    grouped = len(table.rows) <= MAX_BARS
    groups = [*(group_title(column) for column in table.columns), "Average"] if grouped else [row.title for row in table.rows]
    series = {row.title: (*row.cells, row.average) for row in table.rows} if grouped else {"average": [row.average for row in table.rows]}
    guesses = table.chance if grouped else [table.chance[-1]] * len(groups)
    description = f"Accuracy by {name}: " + "; ".join(f"{row.title}: average {row.average} per cent" for row in table.rows)
    drawn = [
        Series(title=title, colour=colour, estimates=tuple(found)) for colour, (title, found) in zip(PALETTE, series.items(), strict=False)
    ]
    svg = draw_bars(groups, drawn, guesses, salt=name, description=description)
    return Figure(title=f"Accuracy by {name}" if grouped else f"Average accuracy by {name}", svg=svg, description=description)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The bars of one colour, one for each group; an estimate without a value has none."""

    title: str
    colour: str
    estimates: tuple[Estimate, ...]


def draw_bars(groups: Sequence[str], series: Sequence[Series], guesses: Sequence[float | None], *, salt: str, description: str) -> str:
    """Groups of horizontal bars of accuracy with 95 % intervals, and a line where guessing lies in each, as SVG."""
    thickness = 0.8 / max(1, len(series))
    with style(salt):
        canvas = new_canvas(1.0 + len(groups) * (0.25 + 0.17 * len(series)), width=_WIDE)
        axes = canvas.add_subplot()
        for index, one in enumerate(series):
            places = [group + (index - (len(series) - 1) / 2) * thickness for group in range(len(groups))]
            _bars(axes, places, one.estimates, thickness, one.colour, one.title)
        guessing: list[Line2D] = []
        for group, guess in enumerate(guesses):
            if guess is not None:
                guessing = axes.plot([100 * guess] * 2, [group - 0.45, group + 0.45], color=INK, linewidth=1, linestyle=(0, (3, 2)))
        axes.set_yticks(range(len(groups)), groups)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(groups) - 0.45, -0.55)
        axes.set_xlim(0, 100)
        axes.set_xlabel("accuracy, %")
        axes.grid(axis="x", color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        bars, names = axes.get_legend_handles_labels()
        names = [*names, "guessing"][: len(bars) + len(guessing)]
        canvas.legend([*bars, *guessing], names, loc="outside upper left", ncols=key_columns(names, _WIDE))
        return to_svg(canvas, description)


def key_columns(names: Sequence[str], width: float) -> int:
    """How many columns of a key fit over a figure of so many inches: an inch holds 15 letters, and a handle is as wide as nine."""
    room = 15 * width
    widths = [len(name) + 9 for name in names] or [9]
    return len(widths) if sum(widths) <= room else max(1, int(room / max(widths)))


def _bars(axes: Axes, places: Sequence[float], estimates: Sequence[Estimate], thickness: float, colour: str, label: str) -> None:
    known = [(place, part.value, part.low, part.high) for place, part in zip(places, estimates, strict=True)]
    drawn = [(p, 100 * v, 100 * low, 100 * high) for p, v, low, high in known if v is not None and low is not None and high is not None]
    label = label.lstrip("_") or "run"  # matplotlib leaves labels that start with "_" out of the key
    axes.barh([p for p, *_ in drawn], [v for _, v, *_ in drawn], thickness * 0.9, color=colour, alpha=0.85, label=label)
    errors = [[v - low for _, v, low, _ in drawn], [high - v for _, v, _, high in drawn]]
    axes.errorbar([v for _, v, *_ in drawn], [p for p, *_ in drawn], xerr=errors, fmt="none", ecolor=INK, elinewidth=0.9, capsize=1.8)
