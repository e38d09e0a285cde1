"""A number with its 95 % interval: Wilson's interval of a share, and from it the intervals of averages and differences of shares."""

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
"""A share of one, or one share minus another. pydantic checks the bounds of these types when it reads a file, and rejects NaN."""

LEVEL: Final = 0.95
"""The confidence level of every interval."""

Z: Final = NormalDist().inv_cdf((1 + LEVEL) / 2)

DASH: Final = "\N{EN DASH}"
"""How a missing number is printed."""

MANY_CLUSTERS: Final = 10
"""From this number of independent images or patients on, it is not printed beside every interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval, in shares of one; all None if there are no data. Prints as "78.2 [73.1, 82.5]", in per cent."""

    value: Difference | None
    low: Difference | None
    high: Difference | None

    def to_json(self) -> dict[str, float | None]:
        """The keys `value`, `low` and `high`, in shares of one; each is None if there are no data."""
        return {"value": self.value, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return DASH if self.value is None else f"{percent(self.value)} [{percent(self.low)}, {percent(self.high)}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusteredEstimate(Estimate):
    """An estimate that knows how many independent images or patients it rests on, and prints few of them.

    "78.2 [41.0, 95.1] (n = 4)"
    """

    num_clusters: int | None = None  # None if the interval takes every question to be independent

    def __str__(self) -> str:
        return Estimate.__str__(self) + few_clusters(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion(ClusteredEstimate):
    """The share `correct` / `total` with its interval."""

    correct: int
    total: int

    # Without this line the dataclass would replace the inherited text by its list of fields.
    __str__ = ClusteredEstimate.__str__


def _reject_negative(estimate: Estimate) -> Estimate:
    if min(part or 0 for part in (estimate.value, estimate.low, estimate.high)) < 0:
        raise ValueError("a share cannot be negative")
    return estimate


ShareEstimate = Annotated[Estimate, AfterValidator(_reject_negative)]
"""The estimate of a share: pydantic rejects negative numbers when it reads a file."""

NO_ESTIMATE: Final = Estimate(value=None, low=None, high=None)
"""The estimate of no data."""


def plain(estimate: Estimate) -> Estimate:
    """The estimate without its number of clusters, as a file holds it."""
    return Estimate(value=estimate.value, low=estimate.low, high=estimate.high)


def percent(value: float | None) -> str:
    """A share of one as a percentage with one decimal, without the sign: 0.782 -> "78.2"; None -> a dash."""
    return DASH if value is None else f"{100 * value:.1f}"


def points(estimate: Estimate) -> str:
    """A difference of shares in percentage points, with its sign: "+23.1 [18.0, 28.1]"; a dash if it has no value."""
    if estimate.value is None:
        return DASH
    limits = [percent(limit) for limit in (estimate.low, estimate.high)]
    return f"{100 * estimate.value:+.1f} [{', '.join(limits)}]".replace("-", "\N{MINUS SIGN}") + few_clusters(estimate)


def few_clusters(estimate: Estimate) -> str:
    """The number of independent images or patients, for a reader who would trust the interval more than they allow."""
    number = estimate.num_clusters if isinstance(estimate, ClusteredEstimate) else None
    return "" if number is None or number >= MANY_CLUSTERS else f" (n = {number})"


def p_value(value: float | None) -> str:
    """A p-value as text: "0.031" or "< 0.001"; None -> a dash."""
    return DASH if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def mean(values: Sequence[float]) -> float | None:
    """The arithmetic mean; None for no values."""
    return sum(values) / len(values) if values else None


def proportion(correct: int, total: int) -> Proportion:
    """The share `correct` / `total` with Wilson's 95 % interval, e.g. 8 of 10 -> 0.8 [0.49, 0.94]; no value if `total` is 0."""
    if total == 0:
        return Proportion(correct=correct, total=total, value=None, low=None, high=None)
    low, high = wilson(correct / total, total)
    return Proportion(correct=correct, total=total, value=correct / total, low=low, high=high)


def wilson(share: float, size: float) -> tuple[float, float]:
    """The lower and upper limit, in [0, 1], of Wilson's (1927) score interval for a share observed in `size` independent questions.

    `size` may be fractional, e.g. an effective sample size. SciPy's interval takes whole counts only; that of statsmodels agrees to
    1e-12, but takes a second to import, which commands that need no other statistic would wait for.
    """
    centre = share + Z**2 / (2 * size)
    half_width = Z * sqrt(share * (1 - share) / size + Z**2 / (4 * size**2))
    scale = 1 + Z**2 / size
    # At a share of 0 or 1 that limit equals the share; rounding must not move it beyond.
    low = 0.0 if share <= 0 else max(0.0, (centre - half_width) / scale)
    high = 1.0 if share >= 1 else min(1.0, (centre + half_width) / scale)
    return low, high


def average(parts: Sequence[Estimate], *, lowest: float = 0.0) -> Estimate:
    """The plain mean of independent estimates, in shares of one; no value if there are no parts, or a part has no value.

    The interval: Zou, Huang and Zhang (2009), https://doi.org/10.1016/j.csda.2008.09.033. `lowest` is the smallest possible mean:
    0 for shares, -1 for differences of shares.
    """
    values = [(part.value, part.low, part.high) for part in parts]
    below = above = total = 0.0
    for value, low, high in values:
        if value is None or low is None or high is None:
            return NO_ESTIMATE
        total += value
        below += (value - low) ** 2
        above += (high - value) ** 2
    if not parts:
        return NO_ESTIMATE
    centre = total / len(parts)
    return Estimate(value=centre, low=max(lowest, centre - sqrt(below) / len(parts)), high=min(1.0, centre + sqrt(above) / len(parts)))


def subtract(after: Estimate, before: Estimate, correlation: float) -> Estimate:
    """`after` minus `before`, in shares of one, from the limits of both shares and the correlation of the two estimates, in [-1, 1].

    Newcombe (1998) and Zou (2008). No value if either side has none.
    """
    if after.value is None or after.low is None or after.high is None or before.value is None or before.low is None or before.high is None:
        return NO_ESTIMATE

    def distance(left: float, right: float) -> float:
        return sqrt(max(0.0, left**2 - 2 * correlation * left * right + right**2))

    value = after.value - before.value
    low = value - distance(after.value - after.low, before.high - before.value)
    high = value + distance(after.high - after.value, before.value - before.low)
    return Estimate(value=value, low=max(-1.0, low), high=min(1.0, high))
