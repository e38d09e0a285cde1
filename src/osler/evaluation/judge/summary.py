"""What a judge's rulings say beside the rules: the undecided answers by ruling, both together, and where judge and rules agree."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from osler.evaluation.compare import UNIT
from osler.evaluation.judge.prompt import Ruling
from osler.evaluation.judge.rulings import Judge, RulingRow, case_of, read_rulings, rulings_file
from osler.grading.grade import is_undecided
from osler.metrics import Proportion, accuracy, is_correct
from osler.metrics.clusters import clustered_proportion
from osler.types import Record

NO_RULING: Final = "none"
"""Beside the rulings: answers that were not sent, or whose requests failed."""

Counts = Mapping[str, int]
"""Ruling, or "none" -> number of answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSummary:
    """One judge on the open answers of one records file. Shares have 95 % intervals by image or patient."""

    judge: Judge
    num_questions: int
    rules: Proportion  # right by the rules, of all open questions
    both: Proportion  # right by the rules, or undecided by them and right by the judge
    undecided: Counts  # the answers that no rule decides, by ruling; they add up to all of them
    checked_right: Counts  # answers that the rules call right and the judge has ruled on
    checked_wrong: Counts
    agreement: Proportion  # of the decided answers that the judge calls right or wrong: called so by the rules too

    def to_json(self) -> dict[str, Any]:
        """Shares of one with their intervals, and numbers of answers; a share of nothing is null."""
        return {
            "model": self.judge.model,
            "prompt": self.judge.prompt,
            "questions": self.num_questions,
            "rules": self.rules.to_json(),
            "rules_and_judge": self.both.to_json(),
            "undecided": dict(self.undecided),
            "checked": {"right": dict(self.checked_right), "wrong": dict(self.checked_wrong)},
            "agreement": {**self.agreement.to_json(), "of": self.agreement.total},
        }


def read_judges(path: Path, records: Sequence[Record]) -> tuple[JudgeSummary, ...]:
    """The summary of every judge with rulings beside a records file, of which `records` are the content. Raises DataError."""
    asked = [record for record in records if not record.choices]
    found = read_rulings(rulings_file(path)) if asked else {}
    return tuple(summarize_judge(asked, found[judge], judge) for judge in sorted(found))


def summarize_judge(records: Sequence[Record], rows: Mapping[str, RulingRow], judge: Judge) -> JudgeSummary:
    """`records` are those of open questions, `rows` the lines of this judge by key.

    An answer without a ruling is never counted as wrong.
    """
    keys = {record.sample_id: case.key(judge.model, judge.prompt) for record in records if (case := case_of(record)) is not None}
    rulings = {name: rows[key].ruling for name, key in keys.items() if key in rows}
    open_records = [record for record in records if is_undecided(record.rule)]
    checked = [record for record in checked_sample(records, rows) if record.sample_id in rulings]
    agreed = [record for record in checked if rulings[record.sample_id] is not Ruling.UNDECIDED]
    is_right = [is_correct(record) or (is_undecided(record.rule) and rulings.get(record.sample_id) is Ruling.RIGHT) for record in records]
    is_same = [is_correct(record) == (rulings[record.sample_id] is Ruling.RIGHT) for record in agreed]
    return JudgeSummary(
        judge=judge,
        num_questions=len(records),
        rules=accuracy(records, UNIT),
        both=clustered_proportion(list(records), is_right, UNIT),
        undecided=_count(open_records, rulings, [*Ruling, NO_RULING]),
        checked_right=_count([record for record in checked if is_correct(record)], rulings, list(Ruling)),
        checked_wrong=_count([record for record in checked if not is_correct(record)], rulings, list(Ruling)),
        agreement=clustered_proportion(agreed, is_same, UNIT),
    )


def decided_records(records: Iterable[Record]) -> list[Record]:
    """The records whose answer the rules call right or wrong, in an order that depends on the ids only and is random otherwise.

    The first of them are the sample of `--check-decided`, so that a larger sample contains a smaller one.
    """
    decided = [record for record in records if record.answer is not None and not is_undecided(record.rule)]
    return sorted(decided, key=lambda record: hashlib.sha256(record.sample_id.encode()).digest())


def checked_sample(records: Iterable[Record], rows: Mapping[str, RulingRow]) -> list[Record]:
    """The sample of decided records that was asked about: up to the last one with a request of its own.

    Records beyond may have a ruling too, because their texts equal those of another record; frequent texts would count too much.
    """
    asked = {row.sample_id for row in rows.values()}
    decided = decided_records(records)
    size = max((number for number, record in enumerate(decided, start=1) if record.sample_id in asked), default=0)
    return decided[:size]


def _count(records: Sequence[Record], rulings: Mapping[str, Ruling], names: Sequence[str]) -> Counts:
    found = [str(rulings.get(record.sample_id, NO_RULING)) for record in records]
    return {str(name): found.count(str(name)) for name in names}
