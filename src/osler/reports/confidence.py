"""Whether the policies' confidence can be trusted: a table, reliability diagrams, and accuracy against coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from osler import metrics
from osler.metrics import Abstention, Calibration, ConfidenceSource, CoveragePoint, Estimate, percent
from osler.reports.figures import GRID, INK, PALETTE, WIDTH, Figure, key_columns, new_canvas, style, to_svg
from osler.reports.load_runs import Evaluation
from osler.reports.tables import UNIT

TARGET: Final = 0.9
"""The accuracy that the abstention threshold aims at."""

MAX_DIAGRAMS: Final = 4
"""Reliability diagrams on a page, of the last policies, so that the file stays small."""

MAX_BANDS: Final = 2
"""Curves with their intervals behind them; with more only the lines are drawn."""

MIN_ANSWERS: Final = 10
"""Where a curve of accuracy begins; that of fewer answers is noise."""

MAX_MARKED: Final = 12
"""Points of a curve that are marked; shares of votes have few."""

SOURCE_TITLES: Final = {"option_probabilities": "option probabilities", "vote_share": "share of votes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceRow:
    """One policy and one source of confidence."""

    title: str
    source: str  # "option probabilities"
    calibration: Calibration  # in ten bins of equal width
    error_by_mass: float | None  # ECE in ten bins of equal mass
    brier: float | None  # over all options; None for votes
    risk_area: float | None  # AURC
    abstention: Abstention  # chosen on one half of the images or subjects, reported on the other
    curve: tuple[CoveragePoint, ...]

    @property
    def name(self) -> str:
        """The row in a key: "GRPO, Think (share of votes)"."""
        return f"{self.title} ({self.source})"


def confidence_rows(evaluations: Sequence[Evaluation]) -> tuple[ConfidenceRow, ...]:
    """Every policy that looks at images, for every source of confidence that its records hold."""
    return tuple(_row(row, source) for row in evaluations if not row.is_blind for source in metrics.sources_of(row.records))


def _row(evaluation: Evaluation, source: ConfidenceSource) -> ConfidenceRow:
    rated = metrics.rate(evaluation.records, source)
    validation, test = (metrics.rate(half, source) for half in metrics.split_clusters(evaluation.records, UNIT))
    return ConfidenceRow(
        title=evaluation.title,
        source=SOURCE_TITLES[source],
        calibration=metrics.calibrate(rated),
        error_by_mass=metrics.calibrate(rated, bins="mass").expected_error,
        brier=metrics.multiclass_brier(evaluation.records) if source == "option_probabilities" else None,
        risk_area=metrics.risk_coverage_area(rated),
        abstention=metrics.abstain(validation, test, TARGET),
        curve=metrics.coverage_curve(rated),
    )


def confidence_figures(rows: Sequence[ConfidenceRow]) -> list[Figure]:
    """One curve of accuracy against coverage for all rows, and a reliability diagram for each of the last ones."""
    if not rows:
        return []
    return [coverage_figure(rows[-len(PALETTE) :]), *(reliability_figure(row) for row in rows[-MAX_DIAGRAMS:])]


def reliability_figure(row: ConfidenceRow) -> Figure:
    """Accuracy over mean confidence for every bin that has answers, with Wilson's intervals; bars say how many answers a bin has."""
    found = row.calibration
    title = f"Reliability of {row.name}"
    bins = [part for part in found.bins if part.accuracy.total]
    description = f"{title}, expected calibration error {percent(found.expected_error)} per cent: " + "; ".join(
        f"confidence {percent(part.confidence)}, accuracy {part.accuracy}, {part.accuracy.total} answers" for part in bins
    )
    with style(title):
        canvas = new_canvas(3.3)
        axes = canvas.add_subplot()
        axes.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle=(0, (3, 2)))
        for part in bins:
            share = 100 * part.accuracy.total / found.num_answers
            axes.bar(100 * part.low, share, width=100 * (part.high - part.low), align="edge", color=PALETTE[4], alpha=0.3, linewidth=0)
        places = [100 * part.confidence for part in bins if part.confidence is not None]
        values, lows, highs = _in_percent([part.accuracy for part in bins])
        errors = [[v - low for v, low in zip(values, lows, strict=True)], [high - v for v, high in zip(values, highs, strict=True)]]
        axes.errorbar(places, values, yerr=errors, color=PALETTE[0], marker="o", markersize=4, elinewidth=0.9, capsize=1.8)
        axes.set_xlim(0, 101.5)
        axes.set_ylim(0, 102)
        axes.set_xlabel("confidence, %")
        axes.set_ylabel("accuracy, %; bars: share of answers")
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        svg = to_svg(canvas, description)
    return Figure(title=title, svg=svg, description=description)


def coverage_figure(rows: Sequence[ConfidenceRow]) -> Figure:
    """Accuracy of the surest answers over the share of questions that they are, with Wilson's band where there is room for one."""
    title = "Accuracy against coverage"
    description = f"{title}: " + "; ".join(f"{row.name}: {_describe_curve(row.curve)}" for row in rows)
    names = [row.name for row in rows]
    with style(title):
        columns = key_columns(names, WIDTH)
        canvas = new_canvas(3.1 + 0.18 * -(-len(rows) // columns))
        axes = canvas.add_subplot()
        for colour, row in zip(PALETTE, rows, strict=False):
            shown = [point for point in row.curve if point.accuracy.total >= MIN_ANSWERS]
            places = [100 * point.coverage for point in shown if point.coverage is not None]
            values, lows, highs = _in_percent([point.accuracy for point in shown])
            marker = "o" if len(places) <= MAX_MARKED else None
            axes.plot(places, values, color=colour, linewidth=1.7, marker=marker, markersize=4)
            if len(rows) <= MAX_BANDS:
                axes.fill_between(places, lows, highs, color=colour, alpha=0.12, linewidth=0)
        axes.set_xlim(0, 101.5)
        axes.set_xlabel("share of questions answered, %")
        axes.set_ylabel("accuracy of those, %")
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        canvas.legend(axes.get_lines(), names, loc="outside upper left", ncols=columns)
        svg = to_svg(canvas, description)
    return Figure(title=title, svg=svg, description=description)


def _in_percent(parts: Sequence[Estimate]) -> tuple[list[float], list[float], list[float]]:
    """Values, lower and upper limits in per cent of the estimates that have them."""
    known = [(part.value, part.low, part.high) for part in parts]
    drawn = [(100 * v, 100 * low, 100 * high) for v, low, high in known if v is not None and low is not None and high is not None]
    return [v for v, _, _ in drawn], [low for _, low, _ in drawn], [high for _, _, high in drawn]


def _describe_curve(curve: Sequence[CoveragePoint]) -> str:
    if not curve:
        return "no answers"
    first, last = curve[0], curve[-1]
    return f"{first.accuracy} at {percent(first.coverage)} per cent of questions, {last.accuracy} at {percent(last.coverage)}"
