"""The forest plot: the accuracy and the true reasonings of every policy, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from osler.metrics import Estimate, percent
from osler.reports.figures import INK, PALETTE, WIDTH, Figure, add_legend, in_percent, new_canvas, to_figure

MAX_ROWS: Final = 16
"""The most policies in the plot."""

_ROW: Final = 0.34  # inches
_APART: Final = 0.17  # half the distance between the two marks of a row, in rows
_TRUTH_COLOUR: Final = PALETTE[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForestRow:
    """One policy of the plot."""

    title: str  # "GRPO, Think"
    group: str  # rows of one group stand together: "think"
    accuracy: Estimate
    truth: Estimate | None  # true reasonings; None where there are none to check


def forest_figure(rows: Sequence[ForestRow], *, questions: str, guess: float | None) -> Figure | None:
    """A line for each of the first MAX_ROWS rows: a circle for accuracy, a diamond for truth; None without rows.

    `questions` says on which questions, e.g. "MRI". The dashed line is the accuracy of guessing.
    """
    if not rows:
        return None
    shown = sorted(rows[:MAX_ROWS], key=lambda row: [other.group for other in rows].index(row.group))
    has_truth = any(row.truth is not None and row.truth.value is not None for row in shown)
    title = f"Accuracy and true reasonings, {questions}" if has_truth else f"Accuracy, {questions}"
    texts = [f"{row.title}: accuracy {row.accuracy}" + ("" if row.truth is None else f", true reasonings {row.truth}") for row in shown]
    with new_canvas(title, 0.95 + _ROW * len(shown), WIDTH, grid="x") as (canvas, axes):
        apart = _APART if has_truth else 0.0
        handles = [_draw(axes, [place - apart for place in range(len(shown))], [row.accuracy for row in shown], PALETTE[0], "o")]
        names = ["accuracy"]
        if has_truth:
            judged = [(place + apart, row.truth) for place, row in enumerate(shown) if row.truth is not None]
            handles.append(_draw(axes, [place for place, _ in judged], [truth for _, truth in judged], _TRUTH_COLOUR, "D"))
            names.append("true reasonings")
        if guess is not None:
            handles += axes.plot([100 * guess] * 2, [-0.5, len(shown) - 0.5], color=INK, linewidth=1, linestyle=(0, (3, 2)))
            names.append("guessing")
        for place in range(1, len(shown)):
            if shown[place].group != shown[place - 1].group:
                axes.axhline(place - 0.5, color="#aab2b8", linewidth=0.8)
        axes.set_yticks(range(len(shown)), [row.title for row in shown])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of questions" if has_truth else "accuracy, %")
        add_legend(canvas, handles, names)
        guessing = "" if guess is None else f"; guessing {percent(guess)}"
        return to_figure(canvas, title, f"{title}, in per cent: {'; '.join(texts)}{guessing}")


def _draw(axes: Any, places: Sequence[float], estimates: Sequence[Estimate], colour: str, marker: str) -> Any:
    """One kind of marks with their intervals; the handle for the legend."""
    heights, values, lows, highs = in_percent(places, estimates)
    errors = [values - lows, highs - values]
    return axes.errorbar(values, heights, xerr=errors, fmt=marker, color=colour, ecolor=colour, elinewidth=1.3, capsize=2.2, markersize=5.5)
