"""Two runs on the same questions: the difference, its interval, its p-value, and p-values when there are many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from osler.errors import DataError
from osler.metrics.accuracy import is_correct
from osler.metrics.clusters import (
    NUM_RESAMPLES,
    Unit,
    bootstrap_mean,
    cluster,
    clustered_difference,
    clustered_mean,
    design_effect,
    flip_test,
)
from osler.metrics.estimates import NOTHING, Estimate
from osler.types import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """Accuracy after minus accuracy before on the samples that both answered, and a two-sided p-value.

    It is McNemar's exact one or, where clusters hold several samples, that of sign flips of whole clusters.
    """

    difference: Estimate
    num_samples: int
    gained: int  # wrong before, right after
    lost: int  # right before, wrong after
    p_value: float | None
    num_clusters: int = 0  # images or subjects; as many as samples where each is taken to be independent

    design_effect: float | None = None  # how many times the variance of as many independent samples; None where nothing changed

    @property
    def discordance(self) -> float | None:
        """The share of samples on which the two sides differ in being right."""
        return (self.gained + self.lost) / self.num_samples if self.num_samples else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Two sides of a comparison on shared samples: records to cluster by, and credits in [0, 1]."""

    records: tuple[Record, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]

    def cluster_sums(self, clusters: Sequence[int]) -> list[float]:
        """The summed difference of every cluster."""
        sums = [0.0] * (max(clusters, default=-1) + 1)
        for number, first, second in zip(clusters, self.before, self.after, strict=True):
            sums[number] += second - first
        # Thirds of a credit do not add up to nothing exactly.
        return [0.0 if abs(value) < 1e-9 else value for value in sums]


def pair(before: Iterable[Record], after: Iterable[Record]) -> Pairs:
    """The samples that both sides answered, in the order of their ids. Raises DataError when a side holds a sample twice."""
    first, second = by_sample(before), by_sample(after)
    shared = sorted(first.keys() & second.keys())
    return Pairs(
        records=tuple(second[name] for name in shared),
        before=tuple(float(is_correct(first[name])) for name in shared),
        after=tuple(float(is_correct(second[name])) for name in shared),
    )


def by_sample(records: Iterable[Record]) -> dict[str, Record]:
    """Records by their sample's id. Raises DataError for a second record of a sample."""
    found: dict[str, Record] = {}
    for record in records:
        if record.sample_id in found:
            raise DataError(f"the sample {record.sample_id!r} has two records on one side: compare one evaluation with one other")
        found[record.sample_id] = record
    return found


def paired_difference(before: Iterable[Record], after: Iterable[Record], unit: Unit = "sample") -> PairedDifference:
    """How accuracy changed on the samples that both sides answered.

    With independent samples the interval is Newcombe's score interval (see `clustered_difference`), and the p-value McNemar's. Where
    samples share an image or a subject, and `unit` says that this counts, the limits of both sides and their correlation come from the
    clusters, and the p-value from flipping whole clusters between the sides. Raises DataError when a side holds a sample twice.
    """
    pairs = pair(before, after)
    changes = [second - first for first, second in zip(pairs.before, pairs.after, strict=True)]
    gained, lost = changes.count(1.0), changes.count(-1.0)
    clusters = cluster(pairs.records, unit)
    num_clusters = max(clusters, default=-1) + 1
    first, second = clustered_mean(pairs.before, clusters), clustered_mean(pairs.after, clusters)
    if first is None or second is None:
        difference, p_value = NOTHING, None
    else:
        difference = clustered_difference(second, first)
        p_value = _mcnemar(gained, lost) if num_clusters == len(changes) else flip_test(pairs.cluster_sums(clusters))
    return PairedDifference(
        difference=difference,
        num_samples=len(changes),
        gained=gained,
        lost=lost,
        p_value=p_value,
        num_clusters=num_clusters,
        design_effect=design_effect(changes, clusters),
    )


def bootstrap_difference(
    before: Iterable[Record], after: Iterable[Record], unit: Unit = "subject", *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Estimate:
    """Accuracy after minus before with the percentile interval of a bootstrap that draws whole clusters of shared samples.

    No limits for fewer than two clusters. Raises DataError when a side holds a sample twice.
    """
    pairs = pair(before, after)
    changes = [second - first for first, second in zip(pairs.before, pairs.after, strict=True)]
    return bootstrap_mean(changes, cluster(pairs.records, unit), num_resamples=num_resamples, seed=seed)


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """P-values adjusted so that the chance of any false finding stays below the level (Holm 1979); None stays, and counts as no test."""
    known = [value for value in p_values if value is not None]
    if not known:
        return tuple(p_values)
    from statsmodels.stats.multitest import multipletests

    adjusted = iter(multipletests(known, method="holm")[1].tolist())
    return tuple(None if value is None else next(adjusted) for value in p_values)


def _mcnemar(gained: int, lost: int) -> float:
    """McNemar's test, exact and two-sided: a binomial test of the pairs that changed. Nothing changed: 1."""
    if gained + lost == 0:
        return 1.0
    from scipy.stats import binomtest  # takes half a second to import

    return float(binomtest(gained, gained + lost).pvalue)
