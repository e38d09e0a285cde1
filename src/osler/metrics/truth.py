"""Is the reasoning true? Shares of true reasonings and true statements, from statements that were compared with the facts of their image.

Only evidence counts. A statement that repeats the answer is the conclusion: it is right or wrong together with the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from osler.facts import Statement, Truth
from osler.metrics.accuracy import is_correct
from osler.metrics.clusters import Unit, clustered_proportion
from osler.metrics.estimates import Proportion, mean
from osler.text import fold_words
from osler.types import Record

ReasoningState = Literal["true", "false", "unchecked"]
"""True: at least one statement was checked, and none is false. False: at least one is false. Unchecked: no statement could be checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthShares:
    """How much of a set of reasonings is true; a share of nothing has no value."""

    true_reasonings: Proportion  # of all reasonings
    true_statements: Proportion  # of the checked statements

    @property
    def num_reasonings(self) -> int:
        """The number of reasonings about images of which something is known."""
        return self.true_reasonings.total

    @property
    def num_checked(self) -> int:
        """The number of statements that could be checked."""
        return self.true_statements.total

    def to_json(self) -> dict[str, Any]:
        """Shares of one as `value`, `low` and `high`, None where there is nothing to measure, and the two counts."""
        return {
            "reasonings": self.num_reasonings,
            "checked_statements": self.num_checked,
            "true_reasonings": self.true_reasonings.to_json(),
            "true_statements": self.true_statements.to_json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningTruth(TruthShares):
    """The truth of the reasonings of one policy, beside its right answers."""

    right_for_false_reason: Proportion  # of the right answers: the reasoning is false
    right_for_no_reason: Proportion  # of the right answers: nothing in the reasoning could be checked
    relevant_reasonings: Proportion  # of all reasonings: true, with a true statement that bears on the question
    distinct: int  # different texts; case and signs are ignored
    most_common: tuple[str, int] | None  # the most frequent text and how often it occurs
    mean_words: float | None  # of a reasoning

    def to_json(self) -> dict[str, Any]:
        """The keys of `TruthShares`, and those of this class."""
        return {
            # super() without arguments does not work in a dataclass with slots.
            **TruthShares.to_json(self),
            "right_for_false_reason": self.right_for_false_reason.to_json(),
            "right_for_no_reason": self.right_for_no_reason.to_json(),
            "relevant_reasonings": self.relevant_reasonings.to_json(),
            "distinct_reasonings": self.distinct,
            "most_common": None if self.most_common is None else {"text": self.most_common[0], "count": self.most_common[1]},
            "mean_words": self.mean_words,
        }


def checked(statements: Iterable[Statement]) -> list[Statement]:
    """The evidence that was found true or false."""
    return [part for part in statements if not part.repeats_answer and part.truth is not Truth.NOT_CHECKABLE]


def state_of(statements: Iterable[Statement]) -> ReasoningState:
    """The state of the reasoning that makes these statements; "unchecked" without any."""
    found = {part.truth for part in checked(statements)}
    return "false" if Truth.FALSE in found else "true" if found else "unchecked"


def is_to_the_point(statements: Sequence[Statement]) -> bool:
    """Whether the reasoning is true and gives a reason: one of its true statements bears on the question."""
    return state_of(statements) == "true" and any(part.is_relevant for part in checked(statements))


def truth_shares(records: Sequence[Record], statements: Sequence[Sequence[Statement]], unit: Unit = "subject") -> TruthShares:
    """The truth of `statements`, one sequence for each record; the records say which of them are independent."""
    pairs = [(record, part) for record, parts in zip(records, statements, strict=True) for part in checked(parts)]
    is_true = [state_of(parts) == "true" for parts in statements]
    return TruthShares(
        true_reasonings=clustered_proportion(records, is_true, unit),
        true_statements=clustered_proportion([record for record, _ in pairs], [part.truth is Truth.TRUE for _, part in pairs], unit),
    )


def summarize_truth(records: Sequence[Record], unit: Unit = "subject") -> ReasoningTruth:
    """The truth of the reasonings of these records. A record without statements counts as an unchecked reasoning."""
    shares = truth_shares(records, [record.statements or () for record in records], unit)
    right = [record for record in records if is_correct(record)]
    states = [state_of(record.statements or ()) for record in right]
    folded = [fold_words(record.reasoning or "") for record in records]
    counts = Counter(text for text in folded if text)
    [(first, count)] = counts.most_common(1) or [("", 0)]
    return ReasoningTruth(
        true_reasonings=shares.true_reasonings,
        true_statements=shares.true_statements,
        right_for_false_reason=clustered_proportion(right, [state == "false" for state in states], unit),
        right_for_no_reason=clustered_proportion(right, [state == "unchecked" for state in states], unit),
        relevant_reasonings=clustered_proportion(records, [is_to_the_point(record.statements or ()) for record in records], unit),
        distinct=len(counts),
        most_common=((records[folded.index(first)].reasoning or "").strip(), count) if first else None,
        mean_words=mean([len((record.reasoning or "").split()) for record in records]),
    )
