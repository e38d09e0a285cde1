"""Numbers over many records: accuracy with its interval, per cell and on average, paired comparisons, and the shares beside them.

Every interval is a 95 % one. A proportion has Wilson's (1927); an average of proportions and a difference of paired proportions are put
together from Wilson's limits (Newcombe 1998; Zou, Huang and Zhang 2009), so that none collapses to a point at 0 or 100 %. An empty cell
has no value: None, which prints as a dash, never 0.0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from typing import Final, Literal

from osler.errors import DataError
from osler.taxonomy import Modality, QuestionType
from osler.types import FinishReason, Outcome, Record

GroupKey = Literal["modality", "question_type", "dataset", "subject_id", "strategy", "policy"]

DASH: Final = "\N{EN DASH}"
"""What a number that does not exist prints as."""

_RANKS: Final[Mapping[str, int]] = {name: rank for rank, name in enumerate((*Modality, *QuestionType))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval, in shares of one; all None when there is nothing to measure. Prints as "78.2 [73.1, 82.5]"."""

    value: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return DASH if self.value is None else f"{percent(self.value)} [{percent(self.low)}, {percent(self.high)}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion(Estimate):
    """`correct` of `total`, with Wilson's interval."""

    correct: int
    total: int

    # A dataclass would print its fields over the inherited text otherwise.
    __str__ = Estimate.__str__


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a set of records comes to. The rates are shares of all records, None where there are none."""

    accuracy: Proportion
    chance: float | None  # what guessing would get: 0.25 for four choices
    incorrect: float | None
    no_answer: float | None
    ambiguous: float | None
    well_formed: float | None
    truncated: float | None  # stopped by the length limit
    mean_tokens: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """Accuracy after minus accuracy before on the samples that both answered, and McNemar's exact two-sided p-value."""

    difference: Estimate
    num_samples: int
    gained: int  # wrong before, right after
    lost: int  # right before, wrong after
    p_value: float | None


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal, e.g. 0.782 -> "78.2"; None -> a dash."""
    return DASH if value is None else f"{100 * value:.1f}"


def proportion(correct: int, total: int) -> Proportion:
    """`correct` of `total` with Wilson's 95 % interval, e.g. 8 of 10 -> 0.8 [0.49, 0.94]."""
    if total == 0:
        return Proportion(correct=correct, total=total, value=None, low=None, high=None)
    low, high = _wilson(correct, total)
    return Proportion(correct=correct, total=total, value=correct / total, low=low, high=high)


def accuracy(records: Collection[Record]) -> Proportion:
    """The share of correct records. No answer and an ambiguous one count as not correct."""
    return proportion(sum(is_correct(record) for record in records), len(records))


def is_correct(record: Record) -> bool:
    """Whether grading found the right answer."""
    return record.outcome == Outcome.CORRECT


def chance(records: Iterable[Record]) -> float | None:
    """What guessing evenly among the choices would get on average; open-ended questions are left out, None when all are."""
    shares = [1 / len(record.choices) for record in records if record.choices]
    return _mean(shares)


def summarize(records: Collection[Record]) -> Summary:
    """Accuracy, and the shares that explain it."""
    return Summary(
        accuracy=accuracy(records),
        chance=chance(records),
        incorrect=_mean([record.outcome == Outcome.INCORRECT for record in records]),
        no_answer=_mean([record.outcome == Outcome.NO_ANSWER for record in records]),
        ambiguous=_mean([record.outcome == Outcome.AMBIGUOUS for record in records]),
        well_formed=_mean([record.is_well_formed for record in records]),
        truncated=_mean([record.finish_reason == FinishReason.LENGTH for record in records]),
        mean_tokens=_mean([record.num_tokens for record in records]),
    )


def group(records: Iterable[Record], by: Sequence[GroupKey]) -> dict[tuple[str | None, ...], list[Record]]:
    """Records by the values of some fields, in the order of the taxonomy, then of the alphabet; None comes last."""
    cells: dict[tuple[str | None, ...], list[Record]] = {}
    for record in records:
        cells.setdefault(tuple(getattr(record, name) for name in by), []).append(record)
    return {key: cells[key] for key in sorted(cells, key=lambda key: [taxonomy_order(name) for name in key])}


def taxonomy_order(name: str | None) -> tuple[bool, int, str]:
    """A sort key: the taxonomy's own names in its order, other names by the alphabet, None last."""
    return name is None, _RANKS.get(name or "", len(_RANKS)), name or ""


def table(records: Iterable[Record], by: Sequence[GroupKey] = ("modality",)) -> dict[tuple[str | None, ...], Summary]:
    """One summary per cell that has records, e.g. `by=("modality", "question_type")` for the matrix of both papers."""
    return {key: summarize(members) for key, members in group(records, by).items()}


def macro_average(records: Iterable[Record], by: GroupKey = "modality", names: Collection[str | None] | None = None) -> Estimate:
    """The mean of the groups' accuracies, each group weighing the same: the papers' "average" over modalities.

    With `names` the average is over exactly these groups, and None when one of them is empty.
    The interval: Zou, Huang and Zhang (2009), https://doi.org/10.1016/j.csda.2008.09.033, from each group's Wilson limits.
    """
    cells = {key[0]: accuracy(members) for key, members in group(records, (by,)).items()}
    if names is not None:
        cells = {name: cells.get(name, proportion(0, 0)) for name in names}
    return average(list(cells.values()))


def average(parts: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates; nothing when there is none, or one of them has no value."""
    values = [(part.value, part.low, part.high) for part in parts]
    below = above = total = 0.0
    for value, low, high in values:
        if value is None or low is None or high is None:
            return Estimate(value=None, low=None, high=None)
        total += value
        below += (value - low) ** 2
        above += (high - value) ** 2
    if not parts:
        return Estimate(value=None, low=None, high=None)
    mean = total / len(parts)
    return Estimate(value=mean, low=max(0.0, mean - sqrt(below) / len(parts)), high=min(1.0, mean + sqrt(above) / len(parts)))


def paired_difference(before: Iterable[Record], after: Iterable[Record]) -> PairedDifference:
    """How accuracy changed on the samples that both sides answered.

    The interval is Newcombe's (1998) score interval for paired proportions, his method 10,
    https://doi.org/10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-SIM954>3.0.CO;2-C. Raises DataError when a side holds a sample twice.
    """
    first, second = _by_sample(before), _by_sample(after)
    shared = sorted(first.keys() & second.keys())
    both = sum(first[name] and second[name] for name in shared)
    gained = sum(second[name] and not first[name] for name in shared)
    lost = sum(first[name] and not second[name] for name in shared)
    neither = len(shared) - both - gained - lost
    return PairedDifference(
        difference=_newcombe(both=both, gained=gained, lost=lost, neither=neither),
        num_samples=len(shared),
        gained=gained,
        lost=lost,
        p_value=_mcnemar(gained, lost) if shared else None,
    )


def _newcombe(*, both: int, gained: int, lost: int, neither: int) -> Estimate:
    total = both + gained + lost + neither
    if total == 0:
        return Estimate(value=None, low=None, high=None)
    low_after, high_after = _wilson(both + gained, total)
    low_before, high_before = _wilson(both + lost, total)
    after, before = (both + gained) / total, (both + lost) / total
    phi = _corrected_phi(both=both, gained=gained, lost=lost, neither=neither)

    def distance(left: float, right: float) -> float:
        return sqrt(max(0.0, left**2 - 2 * phi * left * right + right**2))

    value = after - before
    low = value - distance(after - low_after, high_before - before)
    high = value + distance(high_after - after, before - low_before)
    return Estimate(value=value, low=max(-1.0, low), high=min(1.0, high))


def _corrected_phi(*, both: int, gained: int, lost: int, neither: int) -> float:
    """The correlation of a 2 x 2 table, pulled towards 0 where it is positive (Newcombe 1998); 0 where a margin is empty."""
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if margins == 0:
        return 0.0
    determinant: float = both * neither - gained * lost
    if determinant > 0:
        determinant = max(determinant - (both + gained + lost + neither) / 2, 0.0)
    return determinant / sqrt(margins)


@lru_cache(maxsize=4096)  # a page asks for the same cell several times, and scipy takes a fraction of a millisecond for each
def _wilson(correct: int, total: int) -> tuple[float, float]:
    from scipy.stats import binomtest  # takes half a second to import

    interval = binomtest(correct, total).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def _mcnemar(gained: int, lost: int) -> float:
    """McNemar's test, exact and two-sided: a binomial test of the pairs that changed. Nothing changed: 1."""
    if gained + lost == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue)


def _by_sample(records: Iterable[Record]) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for record in records:
        if record.sample_id in found:
            raise DataError(f"the sample {record.sample_id!r} has two records on one side: compare one evaluation with one other")
        found[record.sample_id] = is_correct(record)
    return found


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
