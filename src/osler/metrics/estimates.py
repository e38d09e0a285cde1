"""A number with its interval, and the ways in which intervals are made: Wilson's for a share, from there averages and differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Annotated, Final

from pydantic import AfterValidator, Field

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Difference = Annotated[float, Field(ge=-1, le=1)]
"""A share, or one share minus another. pydantic checks the bounds of these types when it reads a file, and refuses NaN."""

LEVEL: Final = 0.95
Z: Final = NormalDist().inv_cdf((1 + LEVEL) / 2)

DASH: Final = "\N{EN DASH}"
"""What a number that does not exist prints as."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval, in shares of one; all None when there is nothing to measure. Prints as "78.2 [73.1, 82.5]"."""

    value: Difference | None
    low: Difference | None
    high: Difference | None

    def to_json(self) -> dict[str, float | None]:
        """`value`, `low` and `high`, each None when there is nothing to measure."""
        return {"value": self.value, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return DASH if self.value is None else f"{percent(self.value)} [{percent(self.low)}, {percent(self.high)}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion(Estimate):
    """`correct` of `total`, with Wilson's interval."""

    correct: int
    total: int
    num_clusters: int | None = None  # images or subjects that the interval counts, where it counts those and not questions

    # A dataclass would print its fields over the inherited text otherwise.
    __str__ = Estimate.__str__


def _refuse_negative(found: Estimate) -> Estimate:
    if min(part or 0 for part in (found.value, found.low, found.high)) < 0:
        raise ValueError("a share cannot be negative")
    return found


ShareEstimate = Annotated[Estimate, AfterValidator(_refuse_negative)]
"""An Estimate of a share; in a file none of its numbers is negative."""

NOTHING: Final = Estimate(value=None, low=None, high=None)


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal, e.g. 0.782 -> "78.2"; None -> a dash."""
    return DASH if value is None else f"{100 * value:.1f}"


def points(estimate: Estimate) -> str:
    """A difference in percentage points with its sign, e.g. "+23.1 [18.0, 28.1]"."""
    if estimate.value is None:
        return DASH
    limits = [percent(limit) for limit in (estimate.low, estimate.high)]
    return f"{100 * estimate.value:+.1f} [{', '.join(limits)}]".replace("-", "\N{MINUS SIGN}")


def p_value(value: float | None) -> str:
    """A p-value as text, e.g. "0.031" or "< 0.001"; None -> a dash."""
    return DASH if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def mean(values: Sequence[float]) -> float | None:
    """The arithmetic mean, None for no values."""
    return sum(values) / len(values) if values else None


def proportion(correct: int, total: int) -> Proportion:
    """`correct` of `total` with Wilson's 95 % interval, e.g. 8 of 10 -> 0.8 [0.49, 0.94]."""
    if total == 0:
        return Proportion(correct=correct, total=total, value=None, low=None, high=None)
    low, high = wilson(correct / total, total)
    return Proportion(correct=correct, total=total, value=correct / total, low=low, high=high)


def wilson(share: float, size: float) -> tuple[float, float]:
    """Wilson's (1927) limits of a share of `size` independent questions; `size` may be fractional, which scipy's own does not take."""
    centre = share + Z**2 / (2 * size)
    reach = Z * sqrt(share * (1 - share) / size + Z**2 / (4 * size**2))
    scale = 1 + Z**2 / size
    # At 0 and 1 the limit is the share itself; rounding must not move it beyond.
    low = 0.0 if share <= 0 else max(0.0, (centre - reach) / scale)
    high = 1.0 if share >= 1 else min(1.0, (centre + reach) / scale)
    return low, high


def average(parts: Sequence[Estimate], *, lowest: float = 0.0) -> Estimate:
    """The mean of independent estimates; nothing when there is none, or one of them has no value.

    The interval: Zou, Huang and Zhang (2009), https://doi.org/10.1016/j.csda.2008.09.033. `lowest` is what the mean can be at least:
    0 for shares, -1 for differences.
    """
    values = [(part.value, part.low, part.high) for part in parts]
    below = above = total = 0.0
    for value, low, high in values:
        if value is None or low is None or high is None:
            return NOTHING
        total += value
        below += (value - low) ** 2
        above += (high - value) ** 2
    if not parts:
        return NOTHING
    centre = total / len(parts)
    return Estimate(value=centre, low=max(lowest, centre - sqrt(below) / len(parts)), high=min(1.0, centre + sqrt(above) / len(parts)))


def subtract(after: Estimate, before: Estimate, correlation: float) -> Estimate:
    """`after` minus `before`, two shares whose estimates correlate, from the limits of both (Newcombe 1998; Zou 2008)."""
    if after.value is None or after.low is None or after.high is None or before.value is None or before.low is None or before.high is None:
        return NOTHING

    def distance(left: float, right: float) -> float:
        return sqrt(max(0.0, left**2 - 2 * correlation * left * right + right**2))

    value = after.value - before.value
    low = value - distance(after.value - after.low, before.high - before.value)
    high = value + distance(after.high - after.value, before.value - before.low)
    return Estimate(value=value, low=max(-1.0, low), high=min(1.0, high))
