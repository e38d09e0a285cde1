"""The confidence of a policy in its answer, from a record: the probability of the option that it chose, or the share of votes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from osler.errors import DataError
from osler.metrics.accuracy import is_correct
from osler.types import LETTERS, Record

ConfidenceSource = Literal["option_probabilities", "vote_share"]

_SOURCES: Final[tuple[ConfidenceSource, ...]] = ("option_probabilities", "vote_share")


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedAnswer:
    """The confidence of one answer and whether it is correct."""

    confidence: float | None  # in [0, 1]; None if there is no answer, or the record holds no confidence
    is_correct: bool


def rate_answers(records: Iterable[Record], source: ConfidenceSource) -> list[RatedAnswer]:
    """One entry per record: the confidence is the probability of the chosen option, or the share of votes for the answer."""
    return [RatedAnswer(confidence=confidence_of(record, source), is_correct=is_correct(record)) for record in records]


def confidence_sources(records: Sequence[Record]) -> tuple[ConfidenceSource, ...]:
    """The sources that give a confidence for at least one of these records."""
    return tuple(source for source in _SOURCES if any(confidence_of(record, source) is not None for record in records))


def with_confidence(rated: Iterable[RatedAnswer]) -> tuple[list[float], list[bool]]:
    """The confidences, and whether each answer is correct, of the answers that have a confidence.

    Raises DataError for a confidence outside [0, 1].
    """
    pairs = [(answer.confidence, answer.is_correct) for answer in rated if answer.confidence is not None]
    for confidence, _ in pairs:
        if not 0 <= confidence <= 1:
            raise DataError(f"a confidence of {confidence}: confidence must be between 0 and 1")
    return [confidence for confidence, _ in pairs], [right for _, right in pairs]


def confidence_of(record: Record, source: ConfidenceSource) -> float | None:
    """The confidence in the answer of one record; None without an answer, and where the record holds no confidence of this source."""
    if record.answer is None:
        return None
    if source == "vote_share":
        return record.vote_share
    if record.option_probabilities is None or len(record.answer) != 1:
        return None
    position = LETTERS.find(record.answer)
    return record.option_probabilities[position] if 0 <= position < len(record.option_probabilities) else None
