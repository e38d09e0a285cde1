"""Open questions in a table: what the rules make of each policy's answers and of blind ones, words in common, and what a judge adds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from osler.evaluation.compare import UNIT
from osler.evaluation.judge.summary import JudgeSummary
from osler.grading.comparison import compare
from osler.grading.grade import is_undecided
from osler.metrics import Estimate, Proportion, mean, summarize_open
from osler.reports.load_runs import Evaluation
from osler.types import Outcome, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRow:
    """One policy, or one blind baseline, on open questions. Shares are of all of them: right, wrong, undecided and unread add up to one."""

    title: str  # "GRPO", "Nearest question"
    detail: str = ""  # "osler-tiny, no_think"
    is_blind: bool
    right: Proportion  # by the rules
    wrong: float
    undecided: float
    unread: float  # no answer, or more than one
    token_f1: Estimate
    rouge_l: Estimate
    judges: tuple[JudgeSummary, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Shares of one; the first three with their intervals."""
        estimates = {"right": self.right, "token_f1": self.token_f1, "rouge_l": self.rouge_l}
        return {
            **{name: estimate.to_json() for name, estimate in estimates.items()},
            "wrong": self.wrong,
            "undecided": self.undecided,
            "unread": self.unread,
        }


def open_rows(evaluations: Sequence[Evaluation]) -> tuple[OpenRow, ...]:
    """The blind baselines, once for each set of questions, then the policies; () without open questions."""
    asked = [(row, records) for row in evaluations if not row.is_blind and (records := [one for one in row.records if not one.choices])]
    sets: dict[frozenset[str], tuple[Evaluation, list[Record]]] = {}
    for row, records in asked:
        questions = frozenset(record.sample_id for record in records)
        if all(questions <= answers.keys() for answers in row.blind_answers.values()) and row.blind_answers:
            sets.setdefault(questions, (row, records))
    blind = [
        _make_row(f"{title} (questions of {row.title})" if len(sets) > 1 else title, blind_records(records, answers), is_blind=True)
        for row, records in sets.values()
        for title, answers in row.blind_answers.items()
    ]
    policies = [replace(_make_row(row.title, records), detail=row.detail, judges=row.judges) for row, records in asked]
    return (*blind, *policies)


def blind_records(records: Collection[Record], answers: Mapping[str, str]) -> list[Record]:
    """The records of open questions with the answers of a blind baseline, by sample id, and the verdicts of the rules on these."""
    return list(_with_answers(records, answers))


def _with_answers(records: Collection[Record], answers: Mapping[str, str]) -> Iterator[Record]:
    for record in records:
        found = compare(answer := answers[record.sample_id], record.target)
        outcome = Outcome.CORRECT if found.is_right else Outcome.INCORRECT
        yield replace(record, answer=answer, outcome=outcome, rule=f"text.{found.rule}")


def _make_row(title: str, records: Sequence[Record], *, is_blind: bool = False) -> OpenRow:
    found = summarize_open(records, UNIT)
    assert found is not None, "the caller has open questions"
    undecided = mean([is_undecided(record.rule) for record in records]) or 0.0
    unread = mean([record.answer is None for record in records]) or 0.0
    wrong = mean([record.answer is not None and record.outcome != Outcome.CORRECT and not is_undecided(record.rule) for record in records])
    return OpenRow(
        title=title,
        is_blind=is_blind,
        right=found.accuracy,
        wrong=wrong or 0.0,
        undecided=undecided,
        unread=unread,
        token_f1=found.token_f1,
        rouge_l=found.rouge_l,
    )
