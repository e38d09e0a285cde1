"""Answering only when sure: accuracy against coverage, and the threshold that reaches a target accuracy."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from osler.errors import DataError
from osler.metrics.clusters import Unit, cluster
from osler.metrics.confidence import Rated, known
from osler.metrics.estimates import Proportion, proportion
from osler.types import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class CoveragePoint:
    """What remains when only answers of at least this confidence are given."""

    threshold: float
    coverage: float | None  # share of all questions; one without an answer or a confidence is never covered
    accuracy: Proportion  # of the answers given


@dataclass(frozen=True, slots=True, kw_only=True)
class Abstention:
    """A threshold chosen on one set of questions and what it does on another. None where no threshold reaches the target."""

    target: float
    validation: CoveragePoint | None
    test: CoveragePoint | None


def coverage_curve(rated: Iterable[Rated]) -> tuple[CoveragePoint, ...]:
    """A point for every confidence that occurs, the highest first: fewer answers to more. Equal confidences are given or kept together.

    Raises DataError for a confidence outside [0, 1].
    """
    everything = list(rated)
    points = []
    given = right = 0
    for threshold, members in _blocks(everything):
        given, right = given + len(members), right + sum(members)
        points.append(CoveragePoint(threshold=threshold, coverage=given / len(everything), accuracy=proportion(right, given)))
    return tuple(points)


def at_threshold(rated: Iterable[Rated], threshold: float) -> CoveragePoint:
    """What remains of these questions at a threshold; no coverage where there is no question."""
    everything = list(rated)
    confidences, rights = known(everything)
    kept = [right for confidence, right in zip(confidences, rights, strict=True) if confidence >= threshold]
    coverage = len(kept) / len(everything) if everything else None
    return CoveragePoint(threshold=threshold, coverage=coverage, accuracy=proportion(sum(kept), len(kept)))


def risk_coverage_area(rated: Iterable[Rated]) -> float | None:
    """The area under the risk-coverage curve (AURC): the mean error of the k surest answers over k = 1 to all. None for no answers.

    Geifman and El-Yaniv (2017), https://arxiv.org/abs/1705.08500; answers of equal confidence come in random order, and this is its mean.
    Answers without a confidence are left out. 0 is best, the error rate of all answers is what random confidences get.
    """
    given, wrong, area = 0, 0.0, 0.0
    for _, members in _blocks(list(rated)):
        rate = 1 - sum(members) / len(members)
        for _ in members:
            given, wrong = given + 1, wrong + rate
            area += wrong / given
    return area / given if given else None


def choose_threshold(rated: Iterable[Rated], target: float, *, bound: Literal["value", "low"] = "low") -> float | None:
    """The threshold of the widest coverage whose accuracy is at least `target`; None where none reaches it.

    With `bound` "low" it is the lower limit of the accuracy's interval that must reach it, which guards against a lucky stretch of few
    answers; "value" takes the accuracy itself. Raises DataError for a target outside (0, 1].
    """
    if not 0 < target <= 1:
        raise DataError(f"a target accuracy is a share above 0 and up to 1, not {target}")
    reached = [point.threshold for point in coverage_curve(rated) if (getattr(point.accuracy, bound) or 0.0) >= target]
    return reached[-1] if reached else None


def abstain(validation: Sequence[Rated], test: Sequence[Rated], target: float, *, bound: Literal["value", "low"] = "low") -> Abstention:
    """Choose the threshold on `validation` (see `choose_threshold`) and say what it does there and on `test`."""
    threshold = choose_threshold(validation, target, bound=bound)
    if threshold is None:
        return Abstention(target=target, validation=None, test=None)
    return Abstention(target=target, validation=at_threshold(validation, threshold), test=at_threshold(test, threshold))


def split_clusters(records: Sequence[Record], unit: Unit = "subject", *, seed: int = 0) -> tuple[list[Record], list[Record]]:
    """Two halves with no image or subject in common, for validation and test; which cluster goes where is the seed's choice."""
    clusters = cluster(records, unit)
    numbers = sorted(set(clusters))
    first = frozenset(random.Random(seed).sample(numbers, len(numbers) // 2))
    halves: tuple[list[Record], list[Record]] = ([], [])
    for record, number in zip(records, clusters, strict=True):
        halves[number not in first].append(record)
    return halves


def _blocks(rated: Sequence[Rated]) -> list[tuple[float, list[bool]]]:
    """Confidences from high to low, each with whether its answers were right."""
    ranked = sorted(zip(*known(rated), strict=True), key=lambda pair: -pair[0])
    return [(confidence, [right for _, right in members]) for confidence, members in groupby(ranked, key=lambda pair: pair[0])]
