"""The tables of both papers: a row for each policy, a column for each modality or question type, and their average."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TextIO

from osler import metrics
from osler.metrics import Estimate, GroupKey, ImageGain, PairedDifference, Proportion, Summary, Unit, percent, points
from osler.reports.load_runs import Evaluation
from osler.taxonomy import Modality, QuestionType
from osler.types import Record

UNIT: Final[Unit] = "subject"
"""What the intervals of every table take to be independent: questions that share no image and no patient or case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyRow:
    """One policy: its accuracy in each column, and their plain mean, which has no value unless every column has one."""

    title: str
    detail: str
    cells: tuple[Proportion, ...]
    average: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyTable:
    """Rows of policies over shared columns."""

    columns: tuple[str | None, ...]  # ("mri", "ct"); None for questions without a label
    rows: tuple[AccuracyRow, ...]
    chance: tuple[float | None, ...]  # of each column, then their mean

    def is_best(self, row: AccuracyRow, column: int) -> bool:
        """Whether no other row has more in this column (the last column is the average). With one row nothing is best."""
        values = [value for value in (_estimates(other)[column].value for other in self.rows) if value is not None]
        return len(values) > 1 and _estimates(row)[column].value == max(values)

    def total(self, column: int) -> int | None:
        """The number of questions of a column, where every row that has any has the same number."""
        totals = {row.cells[column].total for row in self.rows} - {0}
        return totals.pop() if len(totals) == 1 else None


def _estimates(row: AccuracyRow) -> tuple[Estimate, ...]:
    return (*row.cells, row.average)


def accuracy_table(evaluations: Sequence[Evaluation], by: GroupKey = "modality", *, in_domain: Collection[str] = ()) -> AccuracyTable:
    """The accuracy of every evaluation in every group that any of them has, the groups of `in_domain` first."""
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
    """One policy: accuracy by modality (rows) and question type (columns)."""

    title: str
    rows: tuple[str | None, ...]
    columns: tuple[str | None, ...]
    cells: tuple[tuple[Proportion, ...], ...]


def accuracy_matrix(evaluation: Evaluation, *, in_domain: Collection[str] = ()) -> Matrix:
    """Accuracy by modality, those of `in_domain` first, and question type; a cell without records has no value."""
    found = metrics.table(evaluation.records, by=("modality", "question_type"), unit=UNIT)
    rows = _order({key[0] for key in found}, in_domain)
    columns = tuple(sorted({key[1] for key in found}, key=metrics.taxonomy_order))
    empty = metrics.proportion(0, 0)
    cells = tuple(tuple(found[row, column].accuracy if (row, column) in found else empty for column in columns) for row in rows)
    return Matrix(title=evaluation.title, rows=rows, columns=columns, cells=cells)


@dataclass(frozen=True, slots=True, kw_only=True)
class GainRow:
    """One policy: its image gain in each column, and their plain mean."""

    title: str
    cells: tuple[ImageGain, ...]
    average: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class GainTable:
    """Image gains of policies over shared columns."""

    columns: tuple[str | None, ...]
    rows: tuple[GainRow, ...]


def gain_table(evaluations: Sequence[Evaluation], by: GroupKey = "modality", *, in_domain: Collection[str] = ()) -> GainTable | None:
    """What every policy gains by the image in every group; None where no blind answers are known.

    They are the blind rows among the evaluations, and those that an evaluation keeps beside its records.

    A baseline counts in a cell when it answered all its questions; a cell without one has no value. The mean of the columns has one when
    all of them do.
    """
    blind = {row.title: metrics.record_credits(row.records) for row in evaluations if row.is_blind}
    looking = [row for row in evaluations if row.records and not row.is_blind]
    if not looking or not (blind or any(row.blind for row in looking)):
        return None
    groups = [metrics.group(row.records, (by,)) for row in looking]
    columns = _order({key[0] for found in groups for key in found}, in_domain)
    rows = []
    for row, found in zip(looking, groups, strict=True):
        cells = tuple(_gain(found.get((name,), []), {**row.blind, **blind}) for name in columns)
        rows.append(GainRow(title=row.title, cells=cells, average=metrics.average([cell.gain for cell in cells], lowest=-1.0)))
    return GainTable(columns=columns, rows=tuple(rows))


def _gain(records: Sequence[Record], blind: Mapping[str, Mapping[str, float]]) -> ImageGain:
    asked = {record.sample_id for record in records}
    baselines = {title: found for title, found in blind.items() if asked <= found.keys()}
    # A question asked more than once, as with rotated options, has no one answer to compare.
    return metrics.image_gain(records if baselines and len(asked) == len(records) else (), baselines, UNIT)


def describe_clusters(evaluations: Iterable[Evaluation]) -> str | None:
    """How many draws the intervals count where those are fewer than the questions, e.g. "1,061 questions about 96 images or patients"."""
    for row in evaluations:
        found = metrics.accuracy(row.records, UNIT)
        if found.num_clusters is not None and found.num_clusters < found.total:
            return f"{found.total:,} questions about {found.num_clusters:,} separate images or patients"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRow:
    """One policy: what became of its answers."""

    title: str
    summary: Summary


def outcome_rows(evaluations: Iterable[Evaluation]) -> tuple[OutcomeRow, ...]:
    """The outcome shares of every evaluation."""
    return tuple(OutcomeRow(title=row.title, summary=metrics.summarize(row.records)) for row in evaluations)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRow:
    """One policy against another on the questions that both answered."""

    title: str
    baseline: str
    change: PairedDifference
    adjusted_p: float | None  # Holm's, over the rows
    detectable: float | None  # the smallest true change that as many questions find in four of five experiments


def change_rows(evaluations: Sequence[Evaluation]) -> tuple[ChangeRow, ...]:
    """How every evaluation differs from where it started: the zero-shot row of its strategy, else the first one, else the first row."""
    looking = [row for row in evaluations if not row.is_blind]
    starts = [row for row in looking if row.is_zero_shot] or looking[:1]
    found = []
    for row in looking:
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
    """What a person reads for a modality or a question type: "xray" -> "X-ray", None -> "Unlabelled", other names as they are."""
    if name in (None, "none"):  # "none" in a manifest
        return "Unlabelled"
    if name in tuple(Modality):
        return Modality(name).title
    return QuestionType(name).title if name in tuple(QuestionType) else name


def render_table(
    rows: Sequence[tuple[str, Sequence[Record]]],
    *,
    by: GroupKey = "modality",
    in_domain: Collection[str] = (),
    blind: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    file: TextIO | None = None,
) -> None:
    """Print accuracies in per cent with their 95 % intervals, one line per (label, records) pair, e.g. "78.2 [73.1, 82.5]".

    `in_domain` names the columns that the policies were trained on, `blind` what answers earn that never saw the image. Writes to standard
    output unless `file` is given: in colour with the best of each column bold on a terminal, as plain text elsewhere.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    evaluations = [Evaluation(label=label, title=label, records=tuple(records), blind=blind) for label, records in rows]
    content = accuracy_table(evaluations, by, in_domain=in_domain)
    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        console = Console(file=file, highlight=False, width=240)  # a log file has no width to fit in
    heads = [group_title(name) + (" (in-domain)" if name in in_domain else "") for name in content.columns]
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII2, show_edge=False, pad_edge=False)
    table.add_column("")
    for head in (*heads, "Average"):
        table.add_column(Text(head), justify="right")
    needed = max((len(row.title) for row in content.rows), default=0) + sum(max(len(head), 20) + 3 for head in (*heads, "Average"))
    gains = gain_table(evaluations, by, in_domain=in_domain)
    gained = {row.title: points(row.average) for row in gains.rows} if gains is not None else {}
    if gains is not None:
        table.add_column("Image gain", justify="right")
        needed += 23
    break_line = "\n" if needed > console.width else " "
    for row in content.rows:
        # Text, because rich would read the brackets of an interval or of a label as markup.
        cells = [
            Text(str(value).replace(" [", f"{break_line}["), style="bold green" if content.is_best(row, column) else "")
            for column, value in enumerate(_estimates(row))
        ]
        if gains is not None:
            cells.append(Text(gained.get(row.title, "").replace(" [", f"{break_line}[")))
        table.add_row(Text(row.title), *cells)
    table.add_section()
    table.add_row(Text("Guessing", style="dim"), *(Text(percent(value), style="dim") for value in content.chance))
    console.print(table)
    if gains is not None:
        console.print("Image gain: accuracy minus the best blind baseline of each column, guessing included; paired, mean of the columns.")
    if (clusters := describe_clusters(evaluations)) is not None:
        console.print(f"{clusters[0].upper()}{clusters[1:]}: intervals take those to be independent, not the questions.")
