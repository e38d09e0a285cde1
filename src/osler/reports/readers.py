"""The section "Readers": how people agree with each other, with themselves and with policies, and how long they took."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import median, quantiles
from typing import Final

from osler.evaluation.compare import UNIT
from osler.evaluation.readings import MAJORITY, MAX_READERS, Part, Reading, answered_twice, reader_label
from osler.metrics.agreement import Agreement, cohen_kappa, fleiss_kappa
from osler.reports.load_runs import Evaluation, Run
from osler.types import Record

MAX_PAIRED: Final = 6
"""Readers up to which every pair has a row."""

COHEN: Final = "Cohen's κ"
FLEISS: Final = "Fleiss' κ"

PART_TITLES: Final = {Part.WITHOUT_IMAGE: "without image", Part.UNAIDED: "with image", Part.WITH_MODEL: "with image and model"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementRow:
    """Raters and how they agree."""

    title: str  # "Reader 1 and Reader 2"
    statistic: str
    agreement: Agreement


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeRow:
    """How long a reader took for the cases of one part, in seconds."""

    title: str  # "Reader 1"
    part: str  # "with image"
    num_cases: int
    median: float
    quartiles: tuple[float, float] | None  # the first and the third; None for fewer than two cases

    @property
    def median_text(self) -> str:
        """ "12.3 s"."""
        return f"{self.median:.1f} s"

    @property
    def quartiles_text(self) -> str:
        """ "[9.0, 18.4]"; "" for one case."""
        return "" if self.quartiles is None else f"[{self.quartiles[0]:.1f}, {self.quartiles[1]:.1f}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderPart:
    """The content of the section."""

    agreements: tuple[AgreementRow, ...]
    times: tuple[TimeRow, ...]


def build_readers(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> ReaderPart | None:
    """The agreement and the times of the readers of all runs; None where no person answered. `evaluations` have records."""
    agreements = [row for run in runs for row in _agreements(run, [one for one in evaluations if one.run == run.name])]
    times = [row for run in runs for row in _times(run)]
    return ReaderPart(agreements=tuple(agreements), times=tuple(times)) if agreements or times else None


def _agreements(run: Run, evaluations: Sequence[Evaluation]) -> Iterator[AgreementRow]:
    """Readers with each other, each with themselves, and their majority, or the only reader, with the policies."""
    by_label = {row.label: row for row in evaluations if row.is_reader}
    alone, aided = (_of_part(by_label, part) for part in (Part.UNAIDED, Part.WITH_MODEL))
    if len(alone) <= MAX_PAIRED:
        for one, other in combinations(alone, 2):
            title = f"{one.title} and {other.title}"
            yield AgreementRow(title=title, statistic=COHEN, agreement=cohen_kappa(one.records, other.records, UNIT))
    for title, group in (("All readers", alone), ("All readers with model", aided)):
        if len(group) > 1:
            yield AgreementRow(title=title, statistic=FLEISS, agreement=fleiss_kappa([row.records for row in group], UNIT))
    for number, readings in run.readings.items():
        if (row := by_label.get(reader_label(number, Part.UNAIDED))) is not None and (twice := answered_twice(readings)):
            first, again = _records_of_both(twice, row.records)
            yield AgreementRow(title=f"{row.title}, asked twice", statistic=COHEN, agreement=cohen_kappa(first, again, UNIT))
    together = by_label.get(MAJORITY) or (alone[0] if len(alone) == 1 else None)
    if together is None:
        return
    for policy in (row for row in evaluations if not row.is_reader and not row.is_blind):
        title = f"{policy.title} and {together.title}"
        yield AgreementRow(title=title, statistic=COHEN, agreement=cohen_kappa(policy.records, together.records, UNIT))


def _of_part(by_label: dict[str, Evaluation], part: Part) -> list[Evaluation]:
    """The single readers of one part, in their order."""
    numbers = range(1, MAX_READERS + 1)
    return [row for number in numbers if (row := by_label.get(reader_label(number, part))) is not None]


def _records_of_both(twice: Sequence[tuple[Reading, Reading]], records: Iterable[Record]) -> tuple[list[Record], list[Record]]:
    """The records of the first answers to repeated questions, and the same with the second answers."""
    by_sample = {record.sample_id: record for record in records}
    both = [(by_sample[again.sample_id], again.answer) for _, again in twice if again.sample_id in by_sample]
    return [record for record, _ in both], [replace(record, answer=answer) for record, answer in both]


def _times(run: Run) -> Iterator[TimeRow]:
    for part in Part:
        seconds = {
            f"Reader {number}": [one.seconds for one in readings if one.part is part and not one.is_repeat]
            for number, readings in run.readings.items()
        }
        everyone = [value for values in seconds.values() for value in values]
        rows = {**seconds, **({"All readers": everyone} if len(run.readings) > 1 else {})}
        for title, values in rows.items():
            if values:
                first, _, third = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (0.0, 0.0, 0.0)
                limits = (first, third) if len(values) > 1 else None
                yield TimeRow(title=title, part=PART_TITLES[part], num_cases=len(values), median=median(values), quartiles=limits)
