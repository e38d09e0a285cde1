"""Calibration: whether answers given with 80 % confidence are right in 80 % of the cases."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from osler.errors import DataError
from osler.metrics.confidence import RatedAnswer, with_confidence
from osler.metrics.estimates import Proportion, mean, proportion
from osler.types import LETTERS, Record

BinKind = Literal["width", "mass"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """The answers with a confidence in (low, high]: one bar of a reliability diagram. The lowest bin includes its lower edge."""

    low: float
    high: float
    confidence: float | None  # mean of the bin; None if it is empty
    accuracy: Proportion


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How well confidence agrees with accuracy, over the answers that have a confidence; all None if no answer has one."""

    num_answers: int
    confidence: float | None  # mean
    accuracy: Proportion
    expected_error: float | None  # ECE: mean of |accuracy - confidence| over `bins`, weighted by their number of answers, in [0, 1]
    brier: float | None  # mean squared difference between the confidence and 1 for a right, 0 for a wrong answer
    bins: tuple[Bin, ...]


def calibrate(rated: Iterable[RatedAnswer], *, num_bins: int = 10, bins: BinKind = "width") -> Calibration:
    """The reliability diagram of the answers that have a confidence, with the expected calibration error and the Brier score.

    `bins` have equal width (Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3) or equal mass (Nguyen and O'Connor 2015,
    https://aclanthology.org/D15-1182); equal confidences share a bin, so there may be fewer bins of equal mass. Raises DataError for a
    confidence outside [0, 1], or `num_bins` below 1.
    """
    confidences, rights = with_confidence(rated)
    filled = _fill_bins(confidences, rights, _edges(confidences, num_bins, bins))
    errors = [
        part.accuracy.total * abs(part.accuracy.value - part.confidence)
        for part in filled
        if part.accuracy.value is not None and part.confidence is not None
    ]
    return Calibration(
        num_answers=len(confidences),
        confidence=mean(confidences),
        accuracy=proportion(sum(rights), len(confidences)),
        expected_error=sum(errors) / len(confidences) if confidences else None,
        brier=mean([(confidence - right) ** 2 for confidence, right in zip(confidences, rights, strict=True)]),
        bins=tuple(filled),
    )


def multiclass_brier(records: Iterable[Record]) -> float | None:
    """Brier's (1950) original score over all options: from 0 (certain and right) to 2 (certain and wrong).

    The mean over all records that hold option probabilities, also those without a readable answer; None if there are no such records.
    """
    return mean(
        [
            sum((share - (letter == record.target)) ** 2 for letter, share in zip(LETTERS, record.option_probabilities, strict=False))
            for record in records
            if record.option_probabilities is not None
        ]
    )


def _edges(confidences: Sequence[float], num_bins: int, bins: BinKind) -> list[float]:
    """The lowest edge, then the upper edge of every bin."""
    if num_bins < 1:
        raise DataError(f"a reliability diagram needs at least one bin, not {num_bins}")
    if bins == "width" or not confidences:
        return [k / num_bins for k in range(num_bins + 1)]
    ranked = sorted(confidences)
    last = [-(-k * len(ranked) // num_bins) - 1 for k in range(1, num_bins + 1)]  # rank of the last answer of each bin
    return [ranked[0], *sorted({ranked[rank] for rank in last if rank >= 0})]


def _fill_bins(confidences: Sequence[float], rights: Sequence[bool], edges: Sequence[float]) -> list[Bin]:
    members: list[list[int]] = [[] for _ in edges[1:]]
    for index, confidence in enumerate(confidences):
        members[bisect_left(edges, confidence, lo=1) - 1].append(index)
    return [
        Bin(
            low=low,
            high=high,
            confidence=mean([confidences[index] for index in inside]),
            accuracy=proportion(sum(rights[index] for index in inside), len(inside)),
        )
        for low, high, inside in zip(edges[:-1], edges[1:], members, strict=True)
    ]
