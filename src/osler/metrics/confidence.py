"""How sure a policy was of an answer, from what its record kept: the probabilities of the options, or the share of votes."""

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
class Rated:
    """An answer as calibration sees it."""

    confidence: float | None  # in [0, 1]; None where there is no answer, or nothing says how sure it is
    is_correct: bool


def rate(records: Iterable[Record], source: ConfidenceSource) -> list[Rated]:
    """Every record with the probability of the option that it answered, or with its share of votes.

    Raises DataError for a confidence outside [0, 1].
    """
    return [Rated(confidence=_confidence(record, source), is_correct=is_correct(record)) for record in records]


def sources_of(records: Sequence[Record]) -> tuple[ConfidenceSource, ...]:
    """The sources that at least one answer of these records has."""
    return tuple(source for source in _SOURCES if any(_confidence(record, source) is not None for record in records))


def known(rated: Iterable[Rated]) -> tuple[list[float], list[bool]]:
    """The confidences that there are, and whether each answer was right. Raises DataError for one outside [0, 1]."""
    pairs = [(item.confidence, item.is_correct) for item in rated if item.confidence is not None]
    for confidence, _ in pairs:
        if not 0 <= confidence <= 1:
            raise DataError(f"a confidence of {confidence} is none: give a share from 0 to 1")
    return [confidence for confidence, _ in pairs], [right for _, right in pairs]


def _confidence(record: Record, source: ConfidenceSource) -> float | None:
    if record.answer is None:
        return None
    if source == "vote_share":
        return record.vote_share
    if record.option_probabilities is None or len(record.answer) != 1:
        return None
    place = LETTERS.find(record.answer)
    return record.option_probabilities[place] if 0 <= place < len(record.option_probabilities) else None
