"""Figures as SVG for a page. Equal input gives equal bytes, text stays text, and nothing refers to another file."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from osler.metrics import Estimate, points
from osler.reports.load_runs import Curve, Run
from osler.reports.tables import AccuracyTable, group_title
from osler.training.image_gain import PooledGain

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from numpy.typing import NDArray

PALETTE: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5f5f5f", "#b8a900")
"""The colours of Okabe and Ito, which colour-blind readers can tell apart, darkest first."""

INK: Final = "#333a40"

_STYLE: Final = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a policy may be called "$x$"
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": "#aab2b8",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e7ea",
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
_PANELS: Final = (
    ("Completion length", "tokens", "completion_length"),
    ("Groups whose rewards are all equal", "share", "zero_std"),
    ("Distance from the reference (KL)", "nats per token", "kl"),
    ("Entropy of the next token", "nats", "entropy"),
)
"""Title, y label and curve of the training figures behind those of the reward, in order."""

EXPECTED: Final = "Expected reward"

MAX_BARS: Final = 6
"""The most policies in one group of bars that can be told apart."""

MAX_RAW: Final = 3
"""The most lines that are drawn with their logged values behind them; with more lines only the means are drawn."""

WIDTH: Final = 4.3  # inches: 413 px, which fits the screen of a telephone without shrinking the text
_BARS_WIDTH: Final = 5.4
_LEGEND_ROW: Final = 0.18  # inches


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of a page."""

    title: str
    svg: str
    description: str  # for screen readers
    caption: str = ""


@contextmanager
def new_canvas(salt: str, height: float, width: float = WIDTH, grid: str = "both") -> Iterator[tuple[Canvas, Axes]]:
    """An empty canvas with axes, in the style of all figures; sizes in inches, `grid` the axes with grid lines.

    The style is active while this is open, so drawing and `to_figure` belong inside. `salt` makes the ids inside the SVG repeatable.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas  # not pyplot, which keeps global state and chooses a display

    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt, "axes.grid.axis": grid}):
        canvas = Canvas(figsize=(width, height), layout="constrained")
        yield canvas, canvas.add_subplot()


def to_figure(canvas: Canvas, title: str, description: str) -> Figure:
    """The canvas as an SVG element with a description for screen readers."""
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    # Ids of groups repeat between figures, but an id must be unique in a page; clip paths have hashed ids and stay.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font: ([^\"]*?)'[^\"]*?sans-serif", r"font: \1sans-serif", svg)
    label = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    svg = re.sub(r"<svg ", f'<svg role="img" aria-label="{label}" ', svg, count=1)
    return Figure(title=title, svg=svg, description=description)


def add_legend(canvas: Canvas, handles: Sequence[Any], names: Sequence[str]) -> None:
    """A legend above the axes; `handles` are what was drawn for each name."""
    names = [name.lstrip("_") or "run" for name in names]  # matplotlib leaves names that start with "_" out of a legend
    canvas.legend(handles, names, loc="outside upper left", ncols=_legend_columns(names, canvas.get_figwidth()))


def legend_height(names: Sequence[str]) -> float:
    """The height of a legend in a figure of the default width, in inches."""
    return _LEGEND_ROW * -(-len(names) // _legend_columns(names, WIDTH))


def _legend_columns(names: Sequence[str], width: float) -> int:
    # An inch holds 15 characters, and a handle is as wide as nine.
    room = 15 * width
    widths = [len(name) + 9 for name in names] or [9]
    return len(widths) if sum(widths) <= room else max(1, int(room / max(widths)))


def in_percent(places: Sequence[float], estimates: Sequence[Estimate]) -> NDArray[np.float64]:
    """Places, values, lower and upper limits, in shape [4, P], of the P estimates with an interval; all but the places in per cent."""
    import numpy as np

    points = [(place, part.value, part.low, part.high) for place, part in zip(places, estimates, strict=True)]
    rows = [(p, 100 * v, 100 * low, 100 * high) for p, v, low, high in points if v is not None and low is not None and high is not None]
    return np.array(rows, dtype=np.float64).reshape(-1, 4).T


def training_figures(runs: Sequence[Run]) -> list[Figure]:
    """Reward, its parts, completion length and KL over the steps, one line per run; the loss of runs that logged no reward."""
    drawn = [run for run in runs if run.curves][: len(PALETTE)]
    figures = _reward_figures([run for run in drawn if "reward" in run.curves])
    for title, unit, name in _PANELS:
        figures += _curve_figures(title, unit, {run.name: run.curves[name] for run in drawn if name in run.curves})
    expected = {run.name: curve for run in drawn if not run.is_enumerated and (curve := _expected(run)) is not None}
    figures += _curve_figures(EXPECTED, "reward", expected)
    figures += gain_figures(drawn)
    losses = {run.name: run.curves["loss"] for run in drawn if "loss" in run.curves and "reward" not in run.curves}
    return figures + _curve_figures("Loss (runs without a reward)", "nats per token", losses)


def _reward_figures(runs: Sequence[Run]) -> list[Figure]:
    """The reward over the steps and over the seconds of training, in which runs of different methods differ; the parts of that of one run.

    Where every answer was computed and none drawn, it is the expected reward, and no other figure shows that.
    """
    enumerated = [run.name for run in runs if run.is_enumerated]
    is_expected = len(enumerated) == len(runs)
    title = EXPECTED if is_expected else "Reward"
    figures = _curve_figures(title, "reward", {run.name: _reward(run) for run in runs})
    if len(runs) == 1:  # with more runs, the lines of runs and of parts would need two legends
        parts = {name.removeprefix("reward: "): curve for name, curve in runs[0].curves.items() if name.startswith("reward: ")}
        figures += _curve_figures(f"Parts of the {title.lower()}", "reward", parts)
    figures += _curve_figures(
        f"{title} over time", "reward", {run.name: curve for run in runs if (curve := _over_time(run))}, axis="seconds"
    )
    captions = [_describe_rewards(runs)]
    if enumerated and not is_expected:
        captions.append(f"Expected rewards: {', '.join(enumerated)}, where every answer is computed. Others are means over what was drawn.")
    return [replace(figure, caption=" ".join(filter(None, captions))) for figure in figures]


def _describe_rewards(runs: Sequence[Run]) -> str:
    """What runs are paid for, where that differs, because then the heights of their curves say nothing about each other."""
    paid = {run.name: _paid_for(run) for run in runs}
    if len({*paid.values()} - {None}) < 2:
        return ""
    told = "; ".join(f"{name} {text or 'not known'}" for name, text in paid.items())
    return f"These runs earn different rewards, so their heights cannot be compared: {told}."


def _paid_for(run: Run) -> str | None:
    """The rewards of a recipe with their weights: "accuracy + 2 statements"; None where the run does not say."""
    section = run.config.get("rewards")
    names = section.get("names") if isinstance(section, dict) else None
    if not isinstance(section, dict) or not isinstance(names, list):
        return None
    weights = section.get("weights")
    if not isinstance(weights, list) or len(weights) != len(names) or not all(isinstance(one, int | float) for one in weights):
        weights = [1] * len(names)
    return " + ".join(str(name) if weight == 1 else f"{weight:g} {name}" for name, weight in zip(names, weights, strict=True))


def _reward(run: Run) -> Curve:
    """The curve of a run's reward; of enumerated answers that of the updates, which are more than the rollouts."""
    return run.curves["enumerated" if run.is_enumerated else "reward"]


def _expected(run: Run) -> Curve | None:
    """The expected reward of a run that also drew."""
    return run.curves.get("expected", run.curves.get("enumerated"))


def _over_time(run: Run) -> Curve | None:
    """The reward over the seconds of training; None where a run logged no time, or began to count again when it resumed."""
    reward, seconds = _reward(run), run.curves.get("seconds")
    if seconds is None:
        return None
    times = dict(zip(seconds.steps, seconds.values, strict=True))
    points = [(times[step], value) for step, value in zip(reward.steps, reward.values, strict=True) if step in times]
    if not points or any(later <= earlier for (earlier, _), (later, _) in itertools.pairwise(points)):
        return None
    return Curve(steps=tuple(time for time, _ in points), values=tuple(value for _, value in points))


def _curve_figures(title: str, unit: str, lines: Mapping[str, Curve], axis: str = "step") -> list[Figure]:
    """One figure over steps or seconds, or none without lines."""
    if not lines:
        return []
    description = f"{title}, by {axis} of training: " + "; ".join(
        f"{name} from {curve.values[0]:.3g} at {axis} {curve.steps[0]:g} to {curve.values[-1]:.3g} at {axis} {curve.steps[-1]:g}"
        for name, curve in lines.items()
    )
    with new_canvas(title, 2.5 + (legend_height(list(lines)) if len(lines) > 1 else 0)) as (canvas, axes):
        handles: list[Any] = []
        for colour, curve in zip(PALETTE, lines.values(), strict=False):
            mean = moving_average(curve.values)
            if len(curve.values) > 20 and len(lines) <= MAX_RAW:
                axes.plot(curve.steps, curve.values, color=colour, alpha=0.25, linewidth=0.7)
            handles += axes.plot(curve.steps, mean, color=colour, linewidth=1.7, marker="o" if len(mean) == 1 else None, markersize=4)
        axes.set_xlabel(axis)
        axes.set_ylabel(unit)
        axes.margins(x=0.02)
        if unit == "share":
            axes.set_ylim(-0.03, 1.03)  # by itself the axis of a constant goes below 0
        if len(lines) > 1:
            add_legend(canvas, handles, list(lines))
        return [to_figure(canvas, title, description)]


def gain_figures(runs: Sequence[Run]) -> list[Figure]:
    """The image gain while runs trained: faint points of few questions each, and what the last ones say together."""
    drawn = {run.name: run for run in runs if "image_gain" in run.curves}
    if not drawn:
        return []
    title = "Image gain: accuracy less that with a blank image"
    told = [f"{name} {_last_gain(run)}" for name, run in drawn.items()]
    with new_canvas(title, 2.5 + (legend_height(list(drawn)) if len(drawn) > 1 else 0)) as (canvas, axes):
        handles: list[Any] = []
        axes.axhline(0, color=INK, linewidth=0.8, linestyle=(0, (3, 2)))
        for colour, run in zip(PALETTE, drawn.values(), strict=False):
            curve, gains = run.curves["image_gain"], run.gains
            if len(drawn) <= MAX_RAW:
                parts = [100 * value for value in curve.values]
                axes.plot(curve.steps, parts, color=colour, alpha=0.35, linestyle="none", marker="o", markersize=3.5)
                steps, _, lows, highs = in_percent([one.step for one in gains], [one.gain for one in gains])
                axes.fill_between(steps, lows, highs, color=colour, alpha=0.15, linewidth=0)
            values = [math.nan if one.gain.value is None else 100 * one.gain.value for one in gains]
            marker = "o" if len(gains) == 1 else None
            handles += axes.plot([one.step for one in gains], values, color=colour, linewidth=1.7, marker=marker, markersize=4)
        axes.set_xlabel("step")
        axes.set_ylabel("percentage points")
        axes.margins(x=0.02)
        if len(drawn) > 1:
            add_legend(canvas, handles, list(drawn))
        figure = to_figure(canvas, title, f"{title}, at the last step that asked: " + "; ".join(told))
    return [replace(figure, caption=_describe_pools([one for run in drawn.values() for one in run.gains]))]


def _last_gain(run: Run) -> str:
    if not run.gains:
        return f"{run.curves['image_gain'].values[-1]:.3g}"
    return f"{points(run.gains[-1].gain)} percentage points in the last {run.gains[-1].num_pooled} questions"


def _describe_pools(gains: Sequence[PooledGain]) -> str:
    """What points and line of the image gain rest on."""
    if not gains:
        return (
            "Each point has a few questions, other ones each time: this run did not log how many answers changed, so there is no interval."
        )
    few, many = (f(one.num_questions for one in gains) for f in (min, max))
    number = f"{many}" if few == many else f"{few} to {many}"
    return (
        f"A faint point has {number} questions, other ones each time, and moves by chance. The line is the gain of the last questions "
        f"together, {max(one.num_pooled for one in gains)} at most (fewer at first), with its 95 % interval, "
        "which takes them to be independent."
    )


def moving_average(values: Sequence[float]) -> list[float]:
    """The mean over the last 5 % of the values (at least one), ending at each value."""
    window = max(1, len(values) // 20)
    return [sum(part) / len(part) for end in range(1, len(values) + 1) if (part := values[max(0, end - window) : end])]


def accuracy_figure(table: AccuracyTable, name: str) -> Figure:
    """Horizontal bars with 95 % intervals, and a line at the accuracy of guessing.

    A group of bars for each column and the average, with a bar for each policy. With more than MAX_BARS policies, only the averages.
    """
    description = f"Accuracy by {name}: " + "; ".join(f"{row.title}: average {row.average} per cent" for row in table.rows)
    if len(table.rows) > MAX_BARS:
        averages, guesses = [row.average for row in table.rows], [table.chance[-1]] * len(table.rows)
        titles = [row.title for row in table.rows]
        return draw_bars(f"Average accuracy by {name}", titles, {"average": averages}, guesses, salt=name, description=description)
    groups = [*(group_title(column) for column in table.columns), "Average"]
    bars = {row.title: [*row.cells, row.average] for row in table.rows}
    return draw_bars(f"Accuracy by {name}", groups, bars, table.chance, salt=name, description=description)


def draw_bars(
    title: str,
    groups: Sequence[str],
    bars: Mapping[str, Sequence[Estimate]],
    guesses: Sequence[float | None],
    *,
    salt: str,
    description: str,
) -> Figure:
    """Groups of horizontal bars of accuracy with 95 % intervals, and a line at the accuracy of guessing in each group.

    `bars` maps the name of a colour to its estimates, one for each group; there is no bar for an estimate without a value.
    """
    thickness = 0.8 / max(1, len(bars))
    with new_canvas(salt, 1.0 + len(groups) * (0.25 + 0.17 * len(bars)), _BARS_WIDTH, grid="x") as (canvas, axes):
        handles: list[Any] = []
        for index, (colour, estimates) in enumerate(zip(PALETTE, bars.values(), strict=False)):
            offset = (index - (len(bars) - 1) / 2) * thickness
            places, values, lows, highs = in_percent([group + offset for group in range(len(groups))], estimates)
            handles.append(axes.barh(places, values, thickness * 0.9, color=colour, alpha=0.85))
            errors = [values - lows, highs - values]
            axes.errorbar(values, places, xerr=errors, fmt="none", ecolor=INK, elinewidth=0.9, capsize=1.8)
        guessing: list[Any] = []
        for group, guess in enumerate(guesses):
            if guess is not None:
                guessing = [*axes.plot([100 * guess] * 2, [group - 0.45, group + 0.45], color=INK, linewidth=1, linestyle=(0, (3, 2)))]
        axes.set_yticks(range(len(groups)), groups)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(groups) - 0.45, -0.55)
        axes.set_xlim(0, 100)
        axes.set_xlabel("accuracy, %")
        add_legend(canvas, [*handles, *guessing], [*bars, *["guessing"] * len(guessing)])
        return to_figure(canvas, title, description)
