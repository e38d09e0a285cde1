"""Whether a policy that says 80 % is right in 80 % of the cases."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from osler.errors import DataError
from osler.metrics.confidence import Rated, known
from osler.metrics.estimates import Proportion, proportion
from osler.types import LETTERS, Record

BinKind = Literal["width", "mass"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """The answers whose confidence lies in (low, high]: one bar of a reliability diagram. The lowest bin holds its lower edge too."""

    low: float
    high: float
    confidence: float | None  # their mean; None for an empty bin
    accuracy: Proportion


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How well confidence fits accuracy. All None where no answer has a confidence."""

    num_answers: int  # that have a confidence
    confidence: float | None  # their mean
    accuracy: Proportion  # of the same answers
    expected_error: float | None  # ECE of `bins`
    brier: float | None  # mean squared distance of the confidence from 1 for a right and 0 for a wrong answer
    bins: tuple[Bin, ...]


def calibrate(rated: Iterable[Rated], *, num_bins: int = 10, bins: BinKind = "width") -> Calibration:
    """A reliability diagram with its expected calibration error and Brier score.

    `bins` of equal width (Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3) or equal mass (Nguyen and O'Connor 2015,
    https://aclanthology.org/D15-1182; equal confidences stay together, so there may be fewer). Answers without a confidence are left out.
    Raises DataError for a confidence outside [0, 1] or less than one bin.
    """
    confidences, rights = known(rated)
    found = _bins(confidences, rights, _edges(confidences, num_bins, bins))
    size = len(confidences)
    return Calibration(
        num_answers=size,
        confidence=sum(confidences) / size if size else None,
        accuracy=proportion(sum(rights), size),
        expected_error=expected_calibration_error(found),
        brier=sum((share - right) ** 2 for share, right in zip(confidences, rights, strict=True)) / size if size else None,
        bins=tuple(found),
    )


def expected_calibration_error(bins: Sequence[Bin]) -> float | None:
    """The mean distance of confidence from accuracy over bins, each weighed by its answers; None for no answers."""
    total = sum(part.accuracy.total for part in bins)
    distances = [
        part.accuracy.total * abs(part.accuracy.value - part.confidence)
        for part in bins
        if part.accuracy.value is not None and part.confidence is not None
    ]
    return sum(distances) / total if total else None


def multiclass_brier(records: Iterable[Record]) -> float | None:
    """Brier's (1950) own score over all options, 0 for certain and right to 2 for certain and wrong; None without probabilities.

    Unlike `Calibration.brier` it counts every closed question with probabilities, whatever answer was read.
    """
    scores = [
        sum((share - (letter == record.target)) ** 2 for letter, share in zip(LETTERS, record.option_probabilities, strict=False))
        for record in records
        if record.option_probabilities is not None
    ]
    return sum(scores) / len(scores) if scores else None


def _edges(confidences: Sequence[float], num_bins: int, bins: BinKind) -> list[float]:
    """The lowest edge, then the upper edge of every bin."""
    if num_bins < 1:
        raise DataError(f"a reliability diagram needs at least one bin, not {num_bins}")
    if bins == "width" or not confidences:
        return [k / num_bins for k in range(num_bins + 1)]
    ranked = sorted(confidences)
    last = [-(-k * len(ranked) // num_bins) - 1 for k in range(1, num_bins + 1)]  # of each bin, by rank
    return [ranked[0], *sorted({ranked[position] for position in last if position >= 0})]


def _bins(confidences: Sequence[float], rights: Sequence[bool], edges: Sequence[float]) -> list[Bin]:
    members: list[list[int]] = [[] for _ in edges[1:]]
    for position, confidence in enumerate(confidences):
        members[bisect_left(edges, confidence, lo=1) - 1].append(position)
    return [
        Bin(
            low=low,
            high=high,
            confidence=sum(confidences[position] for position in inside) / len(inside) if inside else None,
            accuracy=proportion(sum(rights[position] for position in inside), len(inside)),
        )
        for low, high, inside in zip(edges[:-1], edges[1:], members, strict=True)
    ]
