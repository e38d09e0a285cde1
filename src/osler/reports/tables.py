"""The tables of both papers: a row for each policy, a column for each modality or question type, and the mean of the columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from osler import metrics
from osler.evaluation.compare import UNIT
from osler.metrics import Estimate, GroupKey, ImageGain, PairedDifference, Proportion, Summary
from osler.reports.load_runs import Evaluation
from osler.taxonomy import Modality, QuestionType
from osler.types import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyRow:
    """The accuracy of one policy in each column, and the mean of the columns, without a value when a column has none."""

    title: str
    detail: str
    cells: tuple[Proportion, ...]
    average: Estimate

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """The cells, then the average."""
        return (*self.cells, self.average)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyTable:
    """Accuracies of policies over shared columns."""

    columns: tuple[str | None, ...]  # ("mri", "ct"); None for questions without a label
    rows: tuple[AccuracyRow, ...]
    chance: tuple[float | None, ...]  # the accuracy of guessing in each column, then the mean

    def is_best(self, row: AccuracyRow, column: int) -> bool:
        """Whether no row is higher in this column; the last column is the average. False where only one row has a value."""
        values = [value for other in self.rows if (value := other.estimates[column].value) is not None]
        return len(values) > 1 and row.estimates[column].value == max(values)

    def total(self, column: int) -> int | None:
        """The number of questions of a column; None when rows with questions differ in their number."""
        totals = {row.cells[column].total for row in self.rows} - {0}
        return totals.pop() if len(totals) == 1 else None


def accuracy_table(evaluations: Sequence[Evaluation], by: GroupKey = "modality", *, in_domain: Collection[str] = ()) -> AccuracyTable:
    """The accuracy of every evaluation in every modality or question type that any of them has, those of `in_domain` first."""
    groups = [metrics.group(row.records, (by,)) for row in evaluations]
    columns = _order({key[0] for found in groups for key in found}, in_domain)
    rows = []
    for evaluation, found in zip(evaluations, groups, strict=True):
        cells = tuple(metrics.accuracy(found.get((name,), []), UNIT) for name in columns)
        rows.append(AccuracyRow(title=evaluation.title, detail=evaluation.detail, cells=cells, average=metrics.average(cells)))
    everything = [[record for found in groups for record in found.get((name,), [])] for name in columns]
    guesses = [metrics.chance(records) for records in everything]
    known = [guess for guess in guesses if guess is not None]
    mean = sum(known) / len(known) if known and len(known) == len(guesses) else None
    return AccuracyTable(columns=columns, rows=tuple(rows), chance=(*guesses, mean))


def _order(names: Collection[str | None], first: Collection[str]) -> tuple[str | None, ...]:
    return tuple(sorted(names, key=lambda name: (name not in first, metrics.taxonomy_order(name))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """The accuracy of one policy by modality (rows) and question type (columns)."""

    title: str
    rows: tuple[str | None, ...]
    columns: tuple[str | None, ...]
    cells: tuple[tuple[Proportion, ...], ...]


def accuracy_matrix(evaluation: Evaluation, *, in_domain: Collection[str] = ()) -> Matrix:
    """Accuracy by modality, those of `in_domain` first, and by question type; a cell without records has no value."""
    found = metrics.group(evaluation.records, ("modality", "question_type"))
    rows = _order({key[0] for key in found}, in_domain)
    columns = tuple(sorted({key[1] for key in found}, key=metrics.taxonomy_order))
    cells = tuple(tuple(metrics.accuracy(found.get((row, column), []), UNIT) for column in columns) for row in rows)
    return Matrix(title=evaluation.title, rows=rows, columns=columns, cells=cells)


@dataclass(frozen=True, slots=True, kw_only=True)
class GainRow:
    """The image gain of one policy in each column, and the mean of the columns."""

    title: str
    cells: tuple[ImageGain, ...]
    average: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class GainTable:
    """Image gains of policies over shared columns."""

    columns: tuple[str | None, ...]
    rows: tuple[GainRow, ...]


def gain_table(evaluations: Sequence[Evaluation], by: GroupKey = "modality", *, in_domain: Collection[str] = ()) -> GainTable | None:
    """The image gain of every policy in every column; None without blind answers or without a policy that saw the images.

    Blind answers are the blind rows among the evaluations, and the credits that an evaluation keeps beside its records. A cell counts the
    baselines that answered all its questions, and has no value without one. The average has a value when every column has one.
    """
    blind = {row.title: metrics.record_credits(row.records) for row in evaluations if row.is_blind}
    sighted = [row for row in evaluations if row.records and not row.is_blind]
    if not sighted or not (blind or any(row.blind for row in sighted)):
        return None
    groups = [metrics.group(row.records, (by,)) for row in sighted]
    columns = _order({key[0] for found in groups for key in found}, in_domain)
    rows = []
    for row, found in zip(sighted, groups, strict=True):
        cells = tuple(_gain(found.get((name,), []), {**row.blind, **blind}) for name in columns)
        rows.append(GainRow(title=row.title, cells=cells, average=metrics.average([cell.gain for cell in cells], lowest=-1.0)))
    return GainTable(columns=columns, rows=tuple(rows))


def _gain(records: Sequence[Record], blind: Mapping[str, Mapping[str, float]]) -> ImageGain:
    asked = {record.sample_id for record in records}
    baselines = {title: found for title, found in blind.items() if asked <= found.keys()}
    # A question that was asked several times, as with rotated options, has no single answer to compare.
    return metrics.image_gain(records if baselines and len(asked) == len(records) else (), baselines, UNIT)


def describe_clusters(evaluations: Iterable[Evaluation]) -> str | None:
    """The number of independent clusters when it is below that of questions: "1,061 questions about 96 separate images or patients"."""
    for row in evaluations:
        found = metrics.accuracy(row.records, UNIT)
        if found.num_clusters is not None and found.num_clusters < found.total:
            return f"{found.total:,} questions about {found.num_clusters:,} separate images or patients"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRow:
    """The outcomes of one policy."""

    title: str
    summary: Summary


def outcome_rows(evaluations: Iterable[Evaluation]) -> tuple[OutcomeRow, ...]:
    """The outcome shares of every evaluation."""
    return tuple(OutcomeRow(title=row.title, summary=metrics.summarize(row.records)) for row in evaluations)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRow:
    """One policy compared with another on the questions that both answered."""

    title: str
    baseline: str
    change: PairedDifference
    adjusted_p: float | None  # Holm's correction over the rows
    detectable: float | None  # the smallest true change that this many questions detect with a power of 80 %


def change_rows(evaluations: Sequence[Evaluation]) -> tuple[ChangeRow, ...]:
    """Every evaluation compared with its baseline: the zero-shot row of its strategy, else the first zero-shot row, else the first row."""
    sighted = [row for row in evaluations if not row.is_blind]
    starts = [row for row in sighted if row.is_zero_shot] or sighted[:1]
    found = []
    for row in sighted:
        if row in starts:
            continue
        baseline = next((start for start in starts if start.strategies == row.strategies), starts[0])
        found.append((row.title, baseline.title, metrics.paired_difference(baseline.records, row.records, UNIT)))
    adjusted = metrics.holm([change.p_value for *_, change in found])
    return tuple(
        ChangeRow(title=title, baseline=baseline, change=change, adjusted_p=p_value, detectable=_detectable(change))
        for (title, baseline, change), p_value in zip(found, adjusted, strict=True)
    )


def _detectable(change: PairedDifference) -> float | None:
    if not change.discordance:
        return None
    return metrics.minimum_detectable_difference(change.num_samples, change.discordance, design_effect=change.design_effect or 1.0)


def group_title(name: str | None) -> str:
    """The title of a modality or a question type: "xray" -> "X-ray", None -> "Unlabelled", other names unchanged."""
    if name in (None, "none"):  # "none" in a manifest
        return "Unlabelled"
    if name in tuple(Modality):
        return Modality(name).title
    return QuestionType(name).title if name in tuple(QuestionType) else name
