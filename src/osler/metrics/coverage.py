"""Selective answering: accuracy against coverage, and the confidence threshold that reaches a target accuracy."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from osler.errors import DataError
from osler.metrics.clusters import Unit, cluster
from osler.metrics.confidence import RatedAnswer, with_confidence
from osler.metrics.estimates import Proportion, proportion
from osler.types import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class CoveragePoint:
    """Coverage and accuracy if only answers with at least this confidence are given."""

    threshold: float
    coverage: float | None  # share of all questions that are answered; a question without a confidence never is
    accuracy: Proportion  # of the answers given


@dataclass(frozen=True, slots=True, kw_only=True)
class Abstention:
    """A threshold chosen on validation questions, and its result there and on test questions; None if no threshold reaches the target."""

    target: float
    validation: CoveragePoint | None
    test: CoveragePoint | None


def coverage_curve(rated: Iterable[RatedAnswer]) -> tuple[CoveragePoint, ...]:
    """One point per distinct confidence, from the highest threshold (few answers) to the lowest.

    Raises DataError for a confidence outside [0, 1].
    """
    answers = list(rated)
    points = []
    given = right = 0
    for threshold, members in _by_confidence(answers):
        given, right = given + len(members), right + sum(members)
        points.append(CoveragePoint(threshold=threshold, coverage=given / len(answers), accuracy=proportion(right, given)))
    return tuple(points)


def at_threshold(rated: Iterable[RatedAnswer], threshold: float) -> CoveragePoint:
    """Coverage and accuracy at a threshold; the coverage of no questions is None. Raises DataError for a confidence outside [0, 1]."""
    answers = list(rated)
    confidences, rights = with_confidence(answers)
    kept = [right for confidence, right in zip(confidences, rights, strict=True) if confidence >= threshold]
    coverage = len(kept) / len(answers) if answers else None
    return CoveragePoint(threshold=threshold, coverage=coverage, accuracy=proportion(sum(kept), len(kept)))


def risk_coverage_area(rated: Iterable[RatedAnswer]) -> float | None:
    """The area under the risk-coverage curve (AURC), in [0, 1]: the mean over k of the error rate of the k most confident answers.

    Geifman and El-Yaniv (2017), https://arxiv.org/abs/1705.08500. For equal confidences it is the expected value over their random order.
    Answers without a confidence are left out; None if no answer has one. 0 is best; random confidences give the error rate of all
    answers. Raises DataError for a confidence outside [0, 1].
    """
    given, wrong, area = 0, 0.0, 0.0
    for _, members in _by_confidence(rated):
        error = 1 - sum(members) / len(members)
        for _ in members:
            given, wrong = given + 1, wrong + error
            area += wrong / given
    return area / given if given else None


def choose_threshold(rated: Iterable[RatedAnswer], target: float) -> float | None:
    """The threshold of the largest coverage at which the lower limit of the accuracy's 95 % interval is at least `target`.

    The lower limit, not the accuracy itself, because the accuracy of few answers can be high by chance. None if no threshold reaches the
    target. Raises DataError for a target outside (0, 1] or a confidence outside [0, 1].
    """
    if not 0 < target <= 1:
        raise DataError(f"a target accuracy of {target}: it must be above 0 and at most 1")
    reached = [point.threshold for point in coverage_curve(rated) if (point.accuracy.low or 0.0) >= target]
    return reached[-1] if reached else None


def abstain(validation: Sequence[RatedAnswer], test: Sequence[RatedAnswer], target: float) -> Abstention:
    """Choose a threshold on `validation` by `choose_threshold`, then apply it to both sets. Raises DataError as `choose_threshold` does."""
    threshold = choose_threshold(validation, target)
    if threshold is None:
        return Abstention(target=target, validation=None, test=None)
    return Abstention(target=target, validation=at_threshold(validation, threshold), test=at_threshold(test, threshold))


def split_clusters(records: Sequence[Record], unit: Unit = "subject", *, seed: int = 0) -> tuple[list[Record], list[Record]]:
    """Two random halves (validation, test) that share no cluster, i.e. by default no image and no subject."""
    clusters = cluster(records, unit)
    numbers = sorted(set(clusters))
    first = frozenset(random.Random(seed).sample(numbers, len(numbers) // 2))
    halves: tuple[list[Record], list[Record]] = ([], [])
    for record, number in zip(records, clusters, strict=True):
        halves[number not in first].append(record)
    return halves


def _by_confidence(rated: Iterable[RatedAnswer]) -> list[tuple[float, list[bool]]]:
    """Each distinct confidence, from high to low, with whether its answers are correct."""
    ranked = sorted(zip(*with_confidence(rated), strict=True), key=lambda pair: -pair[0])
    return [(confidence, [right for _, right in members]) for confidence, members in groupby(ranked, key=lambda pair: pair[0])]
