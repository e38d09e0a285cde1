"""The image gain of a training, from the lines of its metrics: eight questions say little, the last 48 together more."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from osler.metrics.clusters import clustered_difference, clustered_mean
from osler.metrics.estimates import Estimate
from osler.training.rollout_figures import ACCURACY, ASKED, BLANK_ACCURACY, BOTH, DIFFERENT, HELD_OUT, QUESTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """How many of some questions were answered right with their images, with blank ones, and both ways."""

    num_questions: int  # with a read answer to the plain question
    plain: int
    blank: int
    both: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledGain:
    """The gain of the last questions up to a step."""

    step: float
    num_questions: int  # of the step's own line
    num_pooled: int  # of that line and lines before it
    gain: Estimate  # of the pooled questions, in shares of one


def pool_gains(lines: Iterable[Mapping[str, Any]]) -> tuple[PooledGain, ...]:
    """The gain at each line of `metrics.jsonl` that compares with blank images, over as many lines as hold HELD_OUT different questions.

    The questions are asked in turn, so that none is in a pool twice. Lines without the counts, as older versions wrote them, are left out.
    """
    pooled: deque[tuple[int, Compared]] = deque()  # how many were asked, and what came of it
    gains = []
    for line in lines:
        step, asked = line.get("step"), _count(line, ASKED)
        compared = _read(line)
        if not isinstance(step, (int, float)) or asked is None or compared is None:
            continue
        different = min(HELD_OUT, _count(line, DIFFERENT) or HELD_OUT)
        pooled.append((asked, compared))
        while len(pooled) > 1 and sum(number for number, _ in pooled) > different:
            pooled.popleft()
        parts = [part for _, part in pooled]
        number = sum(part.num_questions for part in parts)
        gains.append(PooledGain(step=step, num_questions=compared.num_questions, num_pooled=number, gain=estimate_gain(parts)))
    return tuple(gains)


def estimate_gain(parts: Iterable[Compared]) -> Estimate:
    """The paired difference of both accuracies with Newcombe's 95 % interval, of questions that are taken to be independent."""
    plain: list[float] = []
    blank: list[float] = []
    for part in parts:
        neither = part.num_questions - part.plain - part.blank + part.both
        plain += [1.0] * part.plain + [0.0] * (part.blank - part.both + neither)
        blank += [1.0] * part.both + [0.0] * (part.plain - part.both) + [1.0] * (part.blank - part.both) + [0.0] * neither
    each = range(len(plain))
    return clustered_difference(clustered_mean(plain, each), clustered_mean(blank, each))


MAX_COUNT: Final = 10_000
"""A line with more questions was not written by Osler, which asks HELD_OUT at most for each."""


def _count(line: Mapping[str, Any], name: str) -> int | None:
    value = line.get(name)
    return round(value) if isinstance(value, (int, float)) and 0 < value <= MAX_COUNT else None


def _read(line: Mapping[str, Any]) -> Compared | None:
    """The counts of a line; None where it has none, or such that cannot be."""
    number, shares = _count(line, QUESTIONS), [line.get(name) for name in (ACCURACY, BLANK_ACCURACY, BOTH)]
    if number is None or not all(isinstance(share, (int, float)) and math.isfinite(share) and 0 <= share <= 1 for share in shares):
        return None
    plain, blank, both = (round(number * share) for share in shares if share is not None)
    is_possible = both <= min(plain, blank) and plain + blank - both <= number
    return Compared(num_questions=number, plain=plain, blank=blank, both=both) if is_possible else None
