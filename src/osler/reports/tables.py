"""The tables of both papers: a row for each policy, a column for each modality or question type, and the mean of the columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from osler import metrics
from osler.audits.baselines import ALL_BASELINES
from osler.audits.open_baselines import OPEN_BASELINES
from osler.evaluation.compare import UNIT
from osler.metrics import Estimate, GroupKey, ImageGain, PairedDifference, Proportion, percent
from osler.reports.heat import HeatMap, Tile, shade
from osler.reports.load_runs import Evaluation, unaided_label
from osler.taxonomy import Modality, QuestionType
from osler.types import Record, answer_text

T = TypeVar("T")

_TITLES: Final[Mapping[str | None, str]] = {
    None: "Unlabelled",
    "none": "Unlabelled",
    **{str(name): name.title for name in (*Modality, *QuestionType)},
}
"""Titles of modalities and question types; "none" stands in a manifest for a question without a label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRow(Generic[T]):
    """One policy: a value for each column, and the mean of the columns, which has no value when a column has none."""

    title: str
    detail: str = ""  # "osler-tiny, think"
    cells: tuple[T, ...]
    average: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTable(Generic[T]):
    """Policies over shared columns."""

    columns: tuple[str | None, ...]  # ("mri", "ct"); None for questions without a label
    rows: tuple[PolicyRow[T], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyTable(PolicyTable[Proportion]):
    """The accuracies of policies."""

    chance: tuple[float | None, ...]  # the accuracy of guessing in each column, then the mean

    def is_best(self, row: PolicyRow[Proportion], column: int) -> bool:
        """Whether no row is higher in this column; the last column is the average. False where only one row has a value."""

        def value(policy: PolicyRow[Proportion]) -> float | None:
            return (*policy.cells, policy.average)[column].value

        values = [share for other in self.rows if (share := value(other)) is not None]
        return len(values) > 1 and value(row) == max(values)

    def total(self, column: int) -> int | None:
        """The number of questions of a column; None when rows with questions differ in their number."""
        totals = {row.cells[column].total for row in self.rows} - {0}
        return totals.pop() if len(totals) == 1 else None


def accuracy_table(evaluations: Sequence[Evaluation], by: GroupKey = "modality", *, in_domain: Collection[str] = ()) -> AccuracyTable:
    """The accuracy of every evaluation in every modality or question type that any of them has, those of `in_domain` first."""
    groups = [metrics.group(row.records, (by,)) for row in evaluations]
    columns = order_groups({key[0] for group in groups for key in group}, in_domain)
    rows = []
    for evaluation, group in zip(evaluations, groups, strict=True):
        members = [group.get((name,), []) for name in columns]
        cells = tuple(metrics.accuracy(records, UNIT) for records in members)
        average = metrics.mean_accuracy(members, UNIT)
        rows.append(PolicyRow(title=evaluation.title, detail=evaluation.detail, cells=cells, average=average))
    guesses = [metrics.chance([record for group in groups for record in group.get((name,), [])]) for name in columns]
    mean = metrics.mean([guess for guess in guesses if guess is not None]) if None not in guesses else None
    return AccuracyTable(columns=columns, rows=tuple(rows), chance=(*guesses, mean))


def order_groups(names: Collection[str | None], first: Collection[str] = ()) -> tuple[str | None, ...]:
    """The columns of a table: the names of `first`, then the others, both in the order of the taxonomy."""
    return tuple(sorted(names, key=lambda name: (name not in first, metrics.taxonomy_order(name))))


def accuracy_map(evaluation: Evaluation, *, in_domain: Collection[str] = ()) -> HeatMap:
    """One policy's accuracy by modality (rows, those of `in_domain` first) and question type (columns)."""
    groups = metrics.group(evaluation.records, ("modality", "question_type"))
    columns = order_groups({key[1] for key in groups})

    def tile(key: tuple[str | None, ...]) -> Tile:
        accuracy = metrics.accuracy(groups.get(key, []), UNIT)
        return Tile(text=percent(accuracy.value), detail=str(accuracy.total or ""), style=shade(accuracy.value), hint=str(accuracy))

    return HeatMap(
        title=evaluation.title,
        columns=tuple(map(group_title, columns)),
        rows=tuple(
            (group_title(row), tuple(tile((row, column)) for column in columns))
            for row in order_groups({key[0] for key in groups}, in_domain)
        ),
    )


def gain_table(evaluations: Sequence[Evaluation], *, in_domain: Collection[str] = ()) -> PolicyTable[ImageGain] | None:
    """The image gain of every policy in every modality; None without blind answers, or without answers by policies that get the images.

    Blind answers are the blind rows among the evaluations, and the credits that an evaluation keeps beside its records. A cell counts the
    baselines that answered all its questions, and has no value without one. The average has a value when every column has one.
    """
    blind = [row for row in evaluations if row.is_blind]
    sighted = [row for row in evaluations if row.records and not row.is_blind]
    if not sighted or not (blind or any(row.blind for row in sighted)):
        return None
    groups = [metrics.group(row.records, ("modality",)) for row in sighted]
    columns = order_groups({key[0] for group in groups for key in group}, in_domain)
    rows = []
    for row, group in zip(sighted, groups, strict=True):
        credit = {**row.blind, **{one.title: metrics.record_credits(same_questions(one, row)) for one in blind}}
        cells = tuple(_gain(group.get((name,), []), credit) for name in columns)
        rows.append(PolicyRow(title=row.title, cells=cells, average=metrics.average([cell.gain for cell in cells], lowest=-1.0)))
    return PolicyTable(columns=columns, rows=tuple(rows))


def _gain(records: Sequence[Record], blind: Mapping[str, Mapping[str, float]]) -> ImageGain:
    questions = {record.sample_id for record in records}
    baselines = {title: by_sample for title, by_sample in blind.items() if questions <= by_sample.keys()}
    # A question with several records, as with rotated options, has no single answer to compare.
    return metrics.image_gain(records if baselines and len(questions) == len(records) else (), baselines, UNIT)


def describe_baselines(table: PolicyTable[ImageGain]) -> str:
    """What the named baselines of a table do without the image: "Case: how an option is capitalised."; "" for none of Osler's rules."""
    named = dict.fromkeys(cell.baseline for row in table.rows for cell in row.cells)
    rules = {rule.title: rule.what for rule in OPEN_BASELINES.values()} | {rule.title: rule.what for rule in ALL_BASELINES.values()}
    return " ".join(f"{title}: {rules[title]}." for title in named if title in rules)


def describe_clusters(evaluations: Iterable[Evaluation]) -> str | None:
    """How many questions are about how many independent images or patients: "1,061 questions about 96 separate images or patients".

    Evaluations that differ have their numbers behind their titles. None where every question has an image or a patient of its own.
    """
    titles: dict[tuple[int, int], list[str]] = {}
    for row in evaluations:
        accuracy = metrics.accuracy(row.records, UNIT)
        if accuracy.total:
            titles.setdefault((accuracy.total, accuracy.num_clusters or accuracy.total), []).append(row.title)
    if all(total == clusters for total, clusters in titles):
        return None
    told = {_count_clusters(*numbers): names for numbers, names in titles.items()}
    return next(iter(told)) if len(told) == 1 else "; ".join(f"{text} ({', '.join(names)})" for text, names in told.items())


def _count_clusters(total: int, clusters: int) -> str:
    if clusters == total:
        return f"{total:,} questions, each about an image and a patient of its own"
    return f"{total:,} questions about {clusters:,} separate images or patients"


FEW: Final = "n: separate images or patients behind an interval, where they are fewer than ten: too few to rely on it."
"""Explains what `metrics.few_clusters` adds to an interval."""


def has_few_clusters(table: AccuracyTable) -> bool:
    """Whether an accuracy of the table rests on fewer than ten images or patients."""
    return any(metrics.few_clusters(cell) for row in table.rows for cell in row.cells)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRow:
    """One policy compared with another on the questions that both answered."""

    title: str
    baseline: str
    change: PairedDifference
    adjusted_p: float | None = None  # Holm's correction over the rows
    detectable: float | None  # the smallest true change that this many questions detect with a power of 80 %


def change_rows(evaluations: Sequence[Evaluation]) -> tuple[ChangeRow, ...]:
    """Every evaluation compared with its baseline: the zero-shot row of its strategy, else the first zero-shot row, else the first row.

    Only answers to the same questions are compared, and a row that shares none with a baseline has none. Readers are no baseline of
    policies: a reader is compared with the last policy, and a reader who saw a model's answers with the same reader without them.
    """
    sighted = [row for row in evaluations if not row.is_blind]
    policies = [row for row in sighted if not row.is_reader]
    baselines = [row for row in policies if row.is_zero_shot] or policies[:1]
    rows = []
    for row in sighted:
        if row.is_reader:
            baseline = next((one for one in sighted if (one.run, one.label) == (row.run, unaided_label(row.label))), None)
            candidates = [baseline] if baseline is not None else policies[::-1]
        elif row in baselines:
            candidates = []
        else:
            candidates = sorted(baselines, key=lambda start: start.strategies != row.strategies)
        pairs = ((start, same_questions(start, row)) for start in candidates)
        start, before = next(((start, shared) for start, shared in pairs if shared), (None, ()))
        if start is not None:
            change = metrics.paired_difference(before, row.records, UNIT)
            rows.append(ChangeRow(title=row.title, baseline=start.title, change=change, detectable=_detectable(change)))
    adjusted = metrics.holm([row.change.p_value for row in rows])
    return tuple(replace(row, adjusted_p=p_value) for row, p_value in zip(rows, adjusted, strict=True))


def same_questions(before: Evaluation, after: Evaluation) -> tuple[Record, ...]:
    """The records of `before` whose questions `after` has too: of one dataset and split, with the same id, options and right answer.

    Two files of rows that are only numbered use one id for two questions.
    """
    if before.split is not None and after.split is not None and before.split != after.split:
        return ()
    asked = {_question(record) for record in after.records}
    return tuple(record for record in before.records if _question(record) in asked)


def _question(record: Record) -> tuple[str, str, tuple[str, ...], str | None]:
    return record.dataset, record.sample_id, tuple(sorted(record.choices)), answer_text(record.target, record.choices)


def _detectable(change: PairedDifference) -> float | None:
    if not change.discordance:
        return None
    return metrics.minimum_detectable_difference(change.num_samples, change.discordance, design_effect=change.design_effect or 1.0)


def group_title(name: str | None) -> str:
    """The title of a modality or a question type: "xray" -> "X-ray", None -> "Unlabelled", other names unchanged."""
    return _TITLES.get(name) or str(name)
