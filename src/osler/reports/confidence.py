"""The confidence section: a table, reliability diagrams, and accuracy against coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from osler import metrics
from osler.evaluation.compare import UNIT
from osler.metrics import Abstention, Calibration, ConfidenceSource, CoveragePoint, percent
from osler.reports.figures import INK, PALETTE, Figure, add_legend, in_percent, legend_height, new_canvas, to_figure
from osler.reports.load_runs import Evaluation

TARGET: Final = 0.9
"""The accuracy that the abstention threshold aims at."""

MAX_DIAGRAMS: Final = 4
"""The most reliability diagrams on a page, those of the last policies, so that the file stays small."""

MAX_BANDS: Final = 2
"""The most curves that are drawn with their intervals; with more curves only the lines are drawn."""

MIN_ANSWERS: Final = 10
"""Points of a curve with fewer answers are noise and are not drawn."""

MAX_MARKED: Final = 12
"""Points of a curve with at most so many points are marked; vote shares have few."""

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
    abstention: Abstention  # threshold chosen on one half of the images or subjects, tested on the other
    curve: tuple[CoveragePoint, ...]

    @property
    def name(self) -> str:
        """The row in a legend: "GRPO, Think (share of votes)"."""
        return f"{self.title} ({self.source})"


def confidence_rows(evaluations: Sequence[Evaluation]) -> tuple[ConfidenceRow, ...]:
    """One row for every policy (except blind baselines) and source of confidence in its records."""
    return tuple(_row(row, source) for row in evaluations if not row.is_blind for source in metrics.confidence_sources(row.records))


def _row(evaluation: Evaluation, source: ConfidenceSource) -> ConfidenceRow:
    rated = metrics.rate_answers(evaluation.records, source)
    validation, test = (metrics.rate_answers(half, source) for half in metrics.split_clusters(evaluation.records, UNIT))
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
    """One figure of accuracy against coverage for all rows, and a reliability diagram for each of the last rows."""
    if not rows:
        return []
    return [coverage_figure(rows[-len(PALETTE) :]), *(reliability_figure(row) for row in rows[-MAX_DIAGRAMS:])]


def reliability_figure(row: ConfidenceRow) -> Figure:
    """Accuracy over mean confidence for every bin with answers, with Wilson's intervals; bars show the share of answers in a bin."""
    calibration = row.calibration
    title = f"Reliability of {row.name}"
    bins = [part for part in calibration.bins if part.confidence is not None]
    description = f"{title}, expected calibration error {percent(calibration.expected_error)} per cent: " + "; ".join(
        f"confidence {percent(part.confidence)}, accuracy {part.accuracy}, {part.accuracy.total} answers" for part in bins
    )
    with new_canvas(title, 3.3) as (canvas, axes):
        axes.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle=(0, (3, 2)))
        for part in bins:
            share = 100 * part.accuracy.total / calibration.num_answers
            axes.bar(100 * part.low, share, width=100 * (part.high - part.low), align="edge", color=PALETTE[4], alpha=0.3, linewidth=0)
        confidences = [100 * part.confidence for part in bins if part.confidence is not None]
        places, values, lows, highs = in_percent(confidences, [part.accuracy for part in bins])
        errors = [values - lows, highs - values]
        axes.errorbar(places, values, yerr=errors, color=PALETTE[0], marker="o", markersize=4, elinewidth=0.9, capsize=1.8)
        axes.set_xlim(0, 101.5)
        axes.set_ylim(0, 102)
        axes.set_xlabel("confidence, %")
        axes.set_ylabel("accuracy, %; bars: share of answers")
        return to_figure(canvas, title, description)


def coverage_figure(rows: Sequence[ConfidenceRow]) -> Figure:
    """Accuracy of the most confident answers over their share of all questions, with Wilson's interval where few curves are drawn."""
    title = "Accuracy against coverage"
    description = f"{title}: " + "; ".join(f"{row.name}: {_describe_curve(row.curve)}" for row in rows)
    names = [row.name for row in rows]
    with new_canvas(title, 3.1 + legend_height(names)) as (canvas, axes):
        for colour, row in zip(PALETTE, rows, strict=False):
            points = [point for point in row.curve if point.accuracy.total >= MIN_ANSWERS]
            coverages = [100 * point.coverage for point in points if point.coverage is not None]
            places, values, lows, highs = in_percent(coverages, [point.accuracy for point in points])
            marker = "o" if len(places) <= MAX_MARKED else None
            axes.plot(places, values, color=colour, linewidth=1.7, marker=marker, markersize=4)
            if len(rows) <= MAX_BANDS:
                axes.fill_between(places, lows, highs, color=colour, alpha=0.12, linewidth=0)
        axes.set_xlim(0, 101.5)
        axes.set_xlabel("share of questions answered, %")
        axes.set_ylabel("accuracy of those, %")
        add_legend(canvas, axes.get_lines(), names)
        return to_figure(canvas, title, description)


def _describe_curve(curve: Sequence[CoveragePoint]) -> str:
    if not curve:
        return "no answers"
    first, last = curve[0], curve[-1]
    return f"{first.accuracy} at {percent(first.coverage)} per cent of questions, {last.accuracy} at {percent(last.coverage)}"
