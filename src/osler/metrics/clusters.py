"""Questions about one image or one subject are not independent: clusters of records, and intervals and tests that account for them.

Legend: Q questions, G clusters, S strata (the cells of a matrix, which have equal weights in its mean).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import sqrt
from typing import TYPE_CHECKING, Final, Literal

from osler.metrics.estimates import LEVEL, NO_ESTIMATE, ClusteredEstimate, Estimate, Proportion, proportion, subtract, wilson
from osler.types import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Unit = Literal["subject", "image", "sample"]
"""What is taken to be independent: questions ("sample"), or clusters of them that share an image, or an image or a subject ("subject").

Reports use "subject". A subject is a patient or a case.
"""

NUM_RESAMPLES: Final = 9999

_BATCH_ITEMS: Final = 1 << 22
"""Numbers that resampling holds in memory at a time: 32 MiB."""


def cluster(records: Iterable[Record], unit: Unit = "subject") -> tuple[int, ...]:
    """The cluster of each record, numbered from 0 in the order of first appearance: (0, 0, 1) if the first two share an image.

    "image" joins records that share any image, "subject" those that share an image or a subject, "sample" only records of one sample.
    The relation is transitive: "a and b" joins "b and c". Images and subjects of different datasets are different. Under an ablation the
    images of the unchanged question count, not those that replace them.
    """
    return connect(_keys(record, unit) for record in records)


def connect(keys: Iterable[Iterable[Hashable]], pairs: Iterable[tuple[Hashable, Hashable]] = ()) -> tuple[int, ...]:
    """The connected component of each item, numbered from 0 in the order of first appearance.

    `keys` gives the keys of each item. Two items are connected if they have a common key, or if they have the two keys of one of `pairs`.
    Raises KeyError for a pair with a key that no item has.
    """
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    keys_of_item = [tuple(item_keys) for item_keys in keys]
    count = len(keys_of_item)
    nodes: dict[Hashable, int] = {}  # a graph of the items, 0 .. count - 1, and of the keys
    edges = [(item, nodes.setdefault(key, count + len(nodes))) for item, item_keys in enumerate(keys_of_item) for key in item_keys]
    edges += [(nodes[one], nodes[other]) for one, other in pairs]
    if len(edges) == len(nodes):  # no common keys, no pairs
        return tuple(range(count))
    graph = coo_array((np.ones(len(edges), dtype=np.int8), np.transpose(edges)), shape=(count + len(nodes),) * 2)
    labels = connected_components(graph, directed=False)[1][:count].tolist()
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(label, len(numbers)) for label in labels)


def _keys(record: Record, unit: Unit) -> list[tuple[str, ...]]:
    """What joins a record to others: two records with a common key are in one cluster."""
    keys: list[tuple[str, ...]] = [("sample", record.sample_id)]
    if unit != "sample":
        own_images = record.image_uris if record.ablation is None else record.own_image_uris or ()
        keys += [("image", record.dataset, uri) for uri in own_images]
    if unit == "subject" and record.subject_id is not None:
        keys.append(("subject", record.dataset, record.subject_id))
    return keys


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusteredMean:
    """The mean of strata means, in shares of one, with each cluster's influence on it, which gives variances and covariances."""

    value: float
    num_values: int
    influence_G: NDArray[np.float64]

    @property
    def num_clusters(self) -> int:
        """The number of clusters G."""
        return len(self.influence_G)

    def covariance(self, other: ClusteredMean) -> float:
        """The covariance with a mean over the same clusters (with itself: the variance); 0 for one cluster.

        The cluster-robust sandwich estimate with the factor G / (G - 1) (Liang and Zeger 1986; CR1).
        """
        if self.num_clusters < 2:
            return 0.0
        return float(self.influence_G @ other.influence_G) * self.num_clusters / (self.num_clusters - 1)

    def estimate(self) -> ClusteredEstimate:
        """The mean, a share of one, with Wilson's limits at the effective sample size.

        With one question per cluster these are Wilson's own limits. Franco et al. (2019), https://doi.org/10.1093/jssam/smy019, compare
        such intervals.
        """
        low, high = wilson(min(1.0, max(0.0, self.value)), self.effective_size)
        return ClusteredEstimate(value=self.value, low=min(low, self.value), high=max(high, self.value), num_clusters=self.num_clusters)

    @property
    def bernoulli_variance(self) -> float:
        """The variance of one question that is right with this share: share (1 - share)."""
        return max(0.0, self.value * (1 - self.value))

    @property
    def effective_size(self) -> float:
        """The number of independent questions with the same variance of the mean: share (1 - share) / variance + 1.

        It is at most the true number, and reduced for few clusters (Korn and Graubard 1998). At a share of 0 or 1 it is the number of
        clusters.
        """
        if self.num_clusters < 2 or self.bernoulli_variance < 1e-12:
            return float(self.num_clusters)
        variance = self.covariance(self)
        is_larger = variance > self.bernoulli_variance / self.num_values
        size = self.bernoulli_variance / variance + 1 if is_larger else float(self.num_values)
        return max(1.0, min(size * _few_clusters_factor(self.num_values, self.num_clusters), self.num_values))


@lru_cache(maxsize=1024)
def _few_clusters_factor(num_values: int, num_clusters: int) -> float:
    """The squared ratio of Student's quantiles: 1 if every question is its own cluster, 0.70 for 100 questions in 8 clusters."""
    from scipy.special import stdtrit

    share = (1 + LEVEL) / 2
    ratio = stdtrit(max(num_values, num_clusters) - 1, share) / stdtrit(num_clusters - 1, share)
    return float(ratio) ** 2


def clustered_mean(values: Sequence[float], clusters: Sequence[int], strata: Sequence[int] | None = None) -> ClusteredMean | None:
    """The mean of the strata's means, with equal weights; without `strata` the plain mean. None for no values.

    `clusters` and `strata` give each value's number, counted from 0 without gaps. A cluster may have values in several strata: a question
    that several policies answered. The cluster-robust regression of statsmodels has the same variance, but not the covariance of two
    means, which `clustered_difference` needs.
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


def mean_of_groups(groups: Sequence[Sequence[float]], clusters: Sequence[int]) -> ClusteredMean | None:
    """The mean of the groups' means, with equal weights; None if there are no groups, or one of them is empty."""
    if not all(groups):
        return None
    strata = [number for number, values in enumerate(groups) for _ in values]
    return clustered_mean([value for values in groups for value in values], clusters, strata)


def clustered_proportion(records: Sequence[Record], is_right: Sequence[bool], unit: Unit) -> Proportion:
    """The share of true entries in `is_right`, one per record, with the interval of `ClusteredMean.estimate` and the number of clusters."""
    plain = proportion(sum(is_right), len(records))
    mean = clustered_mean([float(right) for right in is_right], cluster(records, unit))
    if mean is None:
        return plain
    plain = replace(plain, num_clusters=mean.num_clusters)
    if mean.num_clusters == len(records):
        return plain
    interval = mean.estimate()
    return replace(plain, low=interval.low, high=interval.high)


def clustered_difference(after: ClusteredMean | None, before: ClusteredMean | None) -> Estimate:
    """`after` minus `before`, in shares of one, from the limits of both and their correlation over the same clusters.

    No value if a side is None. With one question per cluster this is Newcombe's (1998) score interval for paired proportions, his method
    10, https://doi.org/10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-SIM954>3.0.CO;2-C. His continuity correction lowers a positive
    correlation by half a pair; here by half an effective pair. Without it the interval would be the point [0, 0] if every cluster's
    difference is 0, although answers could still change.
    """
    if after is None or before is None:
        return NO_ESTIMATE
    change = subtract(after.estimate(), before.estimate(), _correlation(after, before))
    return ClusteredEstimate(value=change.value, low=change.low, high=change.high, num_clusters=after.num_clusters)


def _correlation(after: ClusteredMean, before: ClusteredMean) -> float:
    """The correlation of two means, a positive one lowered by half an effective pair."""
    variances = after.covariance(after) * before.covariance(before)
    bernoulli = after.bernoulli_variance * before.bernoulli_variance
    # A side that is all right or all wrong has no variance, except for rounding.
    if variances < 1e-30 or bernoulli < 1e-24:
        return 0.0
    correlation = max(-1.0, min(1.0, after.covariance(before) / sqrt(variances)))
    if correlation > 0:
        pairs = sqrt(after.effective_size * before.effective_size)
        correlation = max(0.0, correlation - 1 / (2 * pairs * sqrt(bernoulli)))
    return correlation


def design_effect(values: Sequence[float], clusters: Sequence[int]) -> float | None:
    """The variance of the mean with clusters, divided by its variance if all values were independent (Kish 1965); at least 1.

    None if the values do not vary, or there are fewer than two clusters.
    """
    together, alone = clustered_mean(values, clusters), clustered_mean(values, range(len(values)))
    if together is None or alone is None or together.num_clusters < 2 or not alone.covariance(alone) > 1e-15:
        return None
    return max(1.0, together.covariance(together) / alone.covariance(alone))


def flip_test(sums: Sequence[float]) -> float:
    """The two-sided p-value of a sign-flip permutation test on the summed difference of each cluster; 1 if no cluster differs.

    Exact for up to 13 clusters that differ, else from 9,999 random flips with a fixed seed. With one question per cluster it is McNemar's
    exact test.
    """
    import numpy as np
    from scipy.stats import permutation_test

    changed = np.asarray([value for value in sums if value])  # flipping a sum of zero has no effect
    if len(changed) < 2:
        return 1.0
    test = permutation_test(
        (changed,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=NUM_RESAMPLES,
        batch=max(1, _BATCH_ITEMS // len(changed)),
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)
