"""Two evaluations on the same questions: the difference of their accuracies, its interval and p-value, and Holm's correction."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from osler.errors import DataError
from osler.metrics.accuracy import is_correct
from osler.metrics.clusters import Unit, cluster, clustered_difference, clustered_mean, design_effect, flip_test
from osler.metrics.estimates import Estimate
from osler.types import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """Accuracy (or another share) after minus before, on the samples that both sides answered; None where there are no such samples."""

    difference: Estimate  # in shares of one
    num_samples: int
    gained: int  # wrong before, right after
    lost: int  # right before, wrong after
    p_value: float | None  # two-sided: McNemar's exact test, or sign flips of clusters where a cluster holds several samples
    num_clusters: int = 0  # independent images or subjects; equals `num_samples` if every sample is independent
    design_effect: float | None = None  # see `clusters.design_effect`; None if no sample changed

    @property
    def discordance(self) -> float | None:
        """The share of samples that are right on exactly one side."""
        return (self.gained + self.lost) / self.num_samples if self.num_samples else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """The two sides of a comparison on shared samples: one record per sample, used for clustering, and the credits of both sides."""

    records: tuple[Record, ...]
    before: tuple[float, ...]  # in [0, 1]
    after: tuple[float, ...]

    @property
    def changes(self) -> list[float]:
        """The credit after minus the credit before of every sample, in [-1, 1]."""
        return [after - before for before, after in zip(self.before, self.after, strict=True)]

    def cluster_sums(self, clusters: Sequence[int]) -> list[float]:
        """The sum of `changes` over each cluster."""
        sums = [0.0] * (max(clusters, default=-1) + 1)
        for number, change in zip(clusters, self.changes, strict=True):
            sums[number] += change
        # Credits of 1/3 do not cancel exactly.
        return [0.0 if abs(value) < 1e-9 else value for value in sums]


def pair(before: Iterable[Record], after: Iterable[Record], has: Callable[[Record], bool] = is_correct) -> Pairs:
    """The samples that both sides answered, sorted by id; the credit of a record that `has` the property is 1, else 0.

    Raises DataError if a side holds a sample twice.
    """
    first, second = by_sample(before), by_sample(after)
    shared = sorted(first.keys() & second.keys())
    return Pairs(
        records=tuple(second[name] for name in shared),
        before=tuple(float(has(first[name])) for name in shared),
        after=tuple(float(has(second[name])) for name in shared),
    )


def by_sample(records: Iterable[Record]) -> dict[str, Record]:
    """The records by sample id. Raises DataError for a second record of a sample."""
    by_id: dict[str, Record] = {}
    for record in records:
        if record.sample_id in by_id:
            raise DataError(f"the sample {record.sample_id!r} has two records on one side: compare one evaluation with one other")
        by_id[record.sample_id] = record
    return by_id


def paired_difference(
    before: Iterable[Record], after: Iterable[Record], unit: Unit = "sample", *, has: Callable[[Record], bool] = is_correct
) -> PairedDifference:
    """Accuracy `after` minus accuracy `before` on the samples that both sides answered, with an interval and a p-value by `unit`.

    `has` replaces being correct by another property of a record, of whose share the difference is then taken.

    With one sample per cluster the interval is Newcombe's score interval (see `clustered_difference`) and the p-value McNemar's. Else
    the limits of both sides and their correlation are cluster-robust, and the p-value is that of `flip_test`. Raises DataError if a side
    holds a sample twice.
    """
    return compare_pairs(pair(before, after, has), unit)


def compare_pairs(pairs: Pairs, unit: Unit) -> PairedDifference:
    """`paired_difference` of pairs with credits of 0 and 1."""
    changes = pairs.changes
    gained, lost = changes.count(1.0), changes.count(-1.0)
    clusters = cluster(pairs.records, unit)
    num_clusters = max(clusters, default=-1) + 1
    p_value = _mcnemar(gained, lost) if num_clusters == len(changes) else flip_test(pairs.cluster_sums(clusters))
    return PairedDifference(
        difference=clustered_difference(clustered_mean(pairs.after, clusters), clustered_mean(pairs.before, clusters)),
        num_samples=len(changes),
        gained=gained,
        lost=lost,
        p_value=p_value if changes else None,
        num_clusters=num_clusters,
        design_effect=design_effect(changes, clusters),
    )


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Holm's (1979) adjusted p-values, which bound the probability of any false positive; None stays None and is not counted as a test."""
    tests = [value for value in p_values if value is not None]
    if not tests:
        return tuple(p_values)
    from statsmodels.stats.multitest import multipletests

    with _hiding_from_collection():
        adjusted = iter(multipletests(tests, method="holm")[1].tolist())
    return tuple(None if value is None else next(adjusted) for value in p_values)


@contextmanager
def _hiding_from_collection() -> Iterator[None]:
    """Let a garbage collection see new objects alone: statsmodels 0.15 collects in every call, which takes a second beside torch."""
    is_hidden = gc.get_freeze_count() > 0
    if not is_hidden:
        gc.freeze()
    try:
        yield
    finally:
        if not is_hidden:
            gc.unfreeze()


def _mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact two-sided test: a binomial test on the samples that changed; 1 if none changed."""
    if gained + lost == 0:
        return 1.0
    from scipy.stats import binomtest  # takes half a second to import

    return float(binomtest(gained, gained + lost).pvalue)
