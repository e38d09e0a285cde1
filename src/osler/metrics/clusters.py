"""Questions about one image or one subject are not independent: what counts as one draw, and intervals that know it.

Legend: Q questions, G clusters, S strata (cells whose means are averaged).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import sqrt
from typing import TYPE_CHECKING, Any, Final, Literal

from osler.metrics.estimates import LEVEL, NOTHING, Estimate, Proportion, proportion, subtract, wilson
from osler.types import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Unit = Literal["subject", "image", "sample"]
"""What is drawn independently. "subject", the default of reports, joins questions that share an image or a patient or case."""

NUM_RESAMPLES: Final = 9999

_BATCH_ITEMS: Final = 1 << 22
"""Numbers that resampling holds at once, 32 MiB of them."""


def cluster(records: Iterable[Record], unit: Unit = "subject") -> tuple[int, ...]:
    """A number for every record, equal where records belong together: [0, 0, 1] for two questions about one image and one about another.

    "image" joins records that share any image, "subject" those that share an image or a subject; both join through a third ("a and b"
    with "b and c"). Images and subjects of two datasets are never the same, a sample is always one with itself. Under an ablation a
    question's own images count, not those that it was given. Numbers count from 0 in the order of first sight.
    """
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    places: dict[tuple[str, ...], int] = {}
    rows: list[int] = []
    columns: list[int] = []
    count = 0
    for row, record in enumerate(records):
        count += 1
        for key in _ties(record, unit):
            rows.append(row)
            columns.append(places.setdefault(key, len(places)))
    if len(places) == len(rows) == count:  # every record has one tie, and no other shares it
        return tuple(range(count))
    size = count + len(places)
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, [count + column for column in columns])), shape=(size, size))
    parts = connected_components(graph, directed=False)[1][:count].tolist()
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(part, len(numbers)) for part in parts)


def _ties(record: Record, unit: Unit) -> list[tuple[str, ...]]:
    ties: list[tuple[str, ...]] = [("sample", record.sample_id)]
    if unit != "sample":
        ties += [("image", record.dataset, uri) for uri in _own_images(record)]
    if unit == "subject" and record.subject_id is not None:
        ties.append(("subject", record.dataset, record.subject_id))
    return ties


def _own_images(record: Record) -> tuple[str, ...]:
    """The images that the question is about: questions that were shown the same one in their place are no less independent for it."""
    return record.image_uris if record.ablation is None else record.own_image_uris or ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusteredMean:
    """A mean of strata's means with what each cluster adds to its deviation, so that two means over the same clusters can be compared."""

    value: float
    num_values: int
    influence_G: NDArray[np.float64]

    @property
    def num_clusters(self) -> int:
        """Clusters, those of both sides of a comparison included."""
        return len(self.influence_G)

    def covariance(self, other: ClusteredMean) -> float:
        """The sandwich estimate, cluster-robust with the factor G / (G - 1) (Liang and Zeger 1986; CR1); 0 for one cluster."""
        if self.num_clusters < 2:
            return 0.0
        return float(self.influence_G @ other.influence_G) * self.num_clusters / (self.num_clusters - 1)

    def estimate(self) -> Estimate:
        """The mean, a share, with Wilson's limits for the number of independent questions that would be as uncertain.

        That number is share (1 - share) / variance + 1, at most the true one, less for few clusters (Korn and Graubard 1998); where the
        share is 0 or 1, clusters count as one question each. So limits stay within [0, 1], and with one question in each cluster they
        are Wilson's own. Franco et al. (2019), https://doi.org/10.1093/jssam/smy019, compare such intervals.
        """
        low, high = wilson(min(1.0, max(0.0, self.value)), self.effective_size)
        return Estimate(value=self.value, low=min(low, self.value), high=max(high, self.value))

    @property
    def spread(self) -> float:
        """The variance of a single question with this share, share (1 - share)."""
        return max(0.0, self.value * (1 - self.value))

    @property
    def effective_size(self) -> float:
        """How many independent questions would leave the mean as uncertain, see `estimate`."""
        if self.num_clusters < 2 or self.spread < 1e-12:
            return float(self.num_clusters)
        variance = self.covariance(self)
        size = self.spread / variance + 1 if variance > self.spread / self.num_values else float(self.num_values)
        return max(1.0, min(size * _few_clusters(self.num_values, self.num_clusters), self.num_values))


@lru_cache(maxsize=1024)
def _few_clusters(num_values: int, num_clusters: int) -> float:
    """The squared ratio of Student's quantiles: 1 where every question is its own cluster, 0.70 for 100 questions in 8 clusters."""
    from scipy.special import stdtrit

    share = (1 + LEVEL) / 2
    ratio = stdtrit(max(num_values, num_clusters) - 1, share) / stdtrit(num_clusters - 1, share)
    return float(ratio) ** 2


def clustered_mean(values: Sequence[float], clusters: Sequence[int], strata: Sequence[int] | None = None) -> ClusteredMean | None:
    """The mean over strata of their means, each stratum weighing the same; without strata the plain mean. None for no values.

    `clusters` and `strata` count from 0 without gaps; a cluster may reach into several strata, as a question does that several
    policies answered.
    """
    import numpy as np

    if not values:
        return None
    x_Q = np.asarray(values, dtype=np.float64)
    stratum_Q = np.zeros(len(x_Q), dtype=np.int64) if strata is None else np.asarray(strata)
    sizes_S = np.bincount(stratum_Q)
    means_S = np.bincount(stratum_Q, weights=x_Q) / sizes_S
    deviation_Q = (x_Q - means_S[stratum_Q]) / (sizes_S[stratum_Q] * len(sizes_S))
    influence_G = np.bincount(np.asarray(clusters), weights=deviation_Q).astype(np.float64)
    return ClusteredMean(value=float(means_S.mean()), num_values=len(x_Q), influence_G=influence_G)


def clustered_proportion(records: Sequence[Record], is_right: Sequence[bool], unit: Unit) -> Proportion:
    """The share of records that are right with the interval of `ClusteredMean.estimate`, and the number of clusters."""
    clusters = cluster(records, unit)
    plain = proportion(sum(is_right), len(records))
    mean = clustered_mean([float(right) for right in is_right], clusters)
    if mean is None:
        return plain
    plain = replace(plain, num_clusters=mean.num_clusters)
    if mean.num_clusters == len(records):
        return plain
    found = mean.estimate()
    return replace(plain, low=found.low, high=found.high)


def clustered_difference(after: ClusteredMean, before: ClusteredMean) -> Estimate:
    """`after` minus `before` over the same clusters, from the limits of both and the correlation that the clusters show.

    With one question in each cluster this is Newcombe's (1998) score interval for paired proportions, his method 10,
    https://doi.org/10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-SIM954>3.0.CO;2-C. His continuity correction of a positive correlation
    takes half a pair off the pairs that agree by more than chance; here it is half of an effective pair. Without it the interval would be
    the point [0, 0] wherever every cluster's difference is 0, as if not a single answer could ever change.
    """
    variances = after.covariance(after) * before.covariance(before)
    spreads = after.spread * before.spread
    # An all-right or all-wrong side varies with nothing; rounding leaves it a trace of variance.
    if variances < 1e-30 or spreads < 1e-24:
        return subtract(after.estimate(), before.estimate(), 0.0)
    correlation = max(-1.0, min(1.0, after.covariance(before) / sqrt(variances)))
    if correlation > 0:
        pairs = sqrt(after.effective_size * before.effective_size)
        correlation = max(0.0, correlation - 1 / (2 * pairs * sqrt(spreads)))
    return subtract(after.estimate(), before.estimate(), correlation)


def design_effect(values: Sequence[float], clusters: Sequence[int]) -> float | None:
    """The variance of the mean with these clusters over its variance were all values independent (Kish 1965), at least 1.

    None where nothing varies, or there is one cluster only.
    """
    together, alone = clustered_mean(values, clusters), clustered_mean(values, range(len(values)))
    if together is None or alone is None or together.num_clusters < 2 or not alone.covariance(alone) > 1e-15:
        return None
    return max(1.0, together.covariance(together) / alone.covariance(alone))


def bootstrap_mean(values: Sequence[float], clusters: Sequence[int], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> Estimate:
    """The plain mean with the percentile interval of a cluster bootstrap: the same seed gives the same limits."""
    import numpy as np
    from scipy.stats import bootstrap

    if not values:
        return NOTHING
    sizes_G = np.bincount(np.asarray(clusters))
    sums_G = np.bincount(np.asarray(clusters), weights=np.asarray(values, dtype=np.float64))
    value = float(sums_G.sum() / sizes_G.sum())
    if len(sizes_G) < 2:
        return Estimate(value=value, low=None, high=None)

    def mean(sums: Any, sizes: Any, axis: int = -1) -> Any:
        return sums.sum(axis=axis) / sizes.sum(axis=axis)

    interval = bootstrap(
        (sums_G, sizes_G),
        mean,
        paired=True,
        vectorized=True,
        n_resamples=num_resamples,
        batch=max(1, _BATCH_ITEMS // len(sizes_G)),
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value=value, low=float(interval.low), high=float(interval.high))


def flip_test(sums: Sequence[float], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> float:
    """The two-sided p-value of clusters' summed differences, were each as likely to have the other sign; exact for up to 13 of them.

    McNemar's exact test where every cluster is one question. No cluster that differs: 1.
    """
    import numpy as np
    from scipy.stats import permutation_test

    changed = np.asarray([value for value in sums if value])  # a sum of zero has no sign to flip
    if len(changed) < 2:
        return 1.0

    def total(values: Any, axis: int = -1) -> Any:
        return values.sum(axis=axis)

    found = permutation_test(
        (changed,),
        total,
        permutation_type="samples",
        vectorized=True,
        n_resamples=num_resamples,
        batch=max(1, _BATCH_ITEMS // len(changed)),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
