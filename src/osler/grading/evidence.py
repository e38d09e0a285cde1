"""The reward for true evidence: the statements of a reasoning that do not repeat its answer, checked against the facts of the image.

The reward of a reasoning is (1 + c) (1 - d) - 1, between -1 and 1:

- c is the credit of its true statements that bear on the question, divided by ENOUGH, at most 1. A statement's credit is 1 minus the share
  of the other images of the batch of which it is true as well: what is true of every image says nothing and earns nothing.
- d is the number of its false statements, divided by ENOUGH, at most 1.

Two informative true statements give 1, further ones nothing; two false ones give -1. For a statement that is true of a share q of the
images, a blind guess can gain at most (1 - q) (1 - d) / ENOUGH with probability q and loses (1 + c) / ENOUGH with probability 1 - q
(nothing where d is 1, but then it gains nothing either). So its expectation is never above 0, whatever else the reasoning says.

A reasoning that says nothing about the question, or only what is true of every image, gets at most -1 / ENOUGH, as for one false statement.
Otherwise a policy that is often wrong learns to keep silent, or to describe something else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from osler.facts import Facts, Kind, Statement, Term, Truth
from osler.grading.fact_check import check
from osler.grading.grade import grade
from osler.grading.statements import judge
from osler.metrics.truth import checked, state_of
from osler.prompts import Format, find_strategy
from osler.taxonomy import QuestionType
from osler.types import answer_text

ENOUGH: Final = 2
"""So many informative true statements earn everything, and so many false ones lose everything."""

_Claim = tuple[Kind, str, str | None, bool]
"""What is stated, wherever it stands: kind, value, about, holds."""


def reward_evidence(credit: float, num_false: int) -> float:
    """The reward of a reasoning, from the summed credit of its true statements and the number of its false ones."""
    return (1 + min(credit / ENOUGH, 1)) * (1 - min(num_false / ENOUGH, 1)) - 1


def judge_evidence(
    text: str,
    *,
    choices: Sequence[str],
    target: str,
    strategy: str,
    facts: Facts,
    terms: Sequence[Term],
    question_type: QuestionType | None = None,
) -> tuple[Statement, ...] | None:
    """The different statements of a completion's reasoning that do not repeat its answer; None where the strategy asks for no reasoning."""
    if find_strategy(strategy).format not in (Format.THINK_ANSWER, Format.ANSWER_THINK):
        return None
    verdict = grade(text, choices=choices, target=target, strategy=strategy)
    answer = answer_text(verdict.answer, choices)
    judged = judge(verdict.reasoning or "", facts=facts, terms=terms, answer_text=answer, question_type=question_type)
    claims = {_claim(statement): statement for statement in judged if not statement.repeats_answer}
    return tuple(claims.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Commonness:
    """Of how many images of a batch a statement is true."""

    facts: Mapping[str, Facts]  # by sample id
    _counts: dict[_Claim, tuple[int, int]] = field(default_factory=dict)  # images of which it is true, images where it can be checked

    def credit(self, statement: Statement) -> float:
        """What a statement that is true of its own image, one of the batch, earns: from 0, true of all others, to 1, true of none.

        Images whose facts do not decide the statement are left out; without others there is nothing to compare with, and it earns 1.
        """
        claim = _claim(statement)
        if claim not in self._counts:
            truths = [check(statement, facts) for facts in self.facts.values()]
            self._counts[claim] = truths.count(Truth.TRUE), len(truths) - truths.count(Truth.NOT_CHECKABLE)
        num_true, num_checked = self._counts[claim]
        return 1 - (num_true - 1) / (num_checked - 1) if num_checked > 1 else 1.0

    def reward(self, evidence: Iterable[Statement]) -> float:
        """The reward of a reasoning about one image of the batch."""
        found = list(evidence)
        credit = sum(self.credit(statement) for statement in found if statement.truth is Truth.TRUE and statement.is_relevant)
        reward = reward_evidence(credit, sum(statement.truth is Truth.FALSE for statement in found))
        is_silent = credit == 0 and not any(statement.truth is Truth.FALSE and statement.is_relevant for statement in found)
        return min(reward, -1 / ENOUGH) if is_silent else reward


def summarise_evidence(judged: Collection[Sequence[Statement] | None]) -> dict[str, float]:
    """Shares for the log: `true_reasonings` of all completions, `true` of all checked statements (absent if none), and `per_completion`."""
    truths = [statement.truth for evidence in judged for statement in checked(evidence or ())]
    shares = {
        "true_reasonings": sum(state_of(evidence or ()) == "true" for evidence in judged) / max(len(judged), 1),
        "per_completion": len(truths) / max(len(judged), 1),
    }
    return shares | ({"true": truths.count(Truth.TRUE) / len(truths)} if truths else {})


def _claim(statement: Statement) -> _Claim:
    return statement.kind, statement.value, statement.about, statement.holds
