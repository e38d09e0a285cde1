"""How well raters agree beyond chance: Cohen's kappa of two, Fleiss' kappa of several, with bootstrap intervals over images and subjects.

The categories are the letters of the options, so only questions with choices count. Two raters who guess agree on one question in k, and
letters say so where the options differ from question to question; texts of options would not.

Legend: N questions, G clusters, B bootstrap draws, R raters, K categories.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from osler.metrics.clusters import Unit, cluster, clustered_mean
from osler.metrics.estimates import DASH, LEVEL, NO_ESTIMATE, ClusteredEstimate, Estimate, few_clusters
from osler.metrics.paired import by_sample
from osler.types import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NUM_DRAWS: Final = 2000
"""Bootstrap draws of an interval."""

MIN_DEFINED: Final = 0.5
"""Share of draws in which kappa must be defined for an interval: it is not where all answers of a draw are one letter."""

_BATCH_ITEMS: Final = 1 << 22
"""Numbers that resampling holds in memory at a time: 32 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The agreement of raters on the questions with choices that all of them answered."""

    kappa: Estimate  # in [-1, 1]; None without questions, and where every answer is one letter, so that chance alone agrees
    observed: Estimate  # the share of pairs of answers that are equal, in [0, 1]
    num_questions: int
    num_raters: int


def cohen_kappa(first: Iterable[Record], second: Iterable[Record], unit: Unit = "subject") -> Agreement:
    """Cohen's kappa (1960) of two raters, or of one rater who answered twice. Raises DataError where a side holds a sample twice.

    The interval is a percentile bootstrap over clusters by `unit`. It is None for one cluster, and where the raters always agree: all draws
    are 1 then, and say nothing about how rare a disagreement is.
    """
    return _agree([first, second], unit, is_fleiss=False)


def fleiss_kappa(raters: Sequence[Iterable[Record]], unit: Unit = "subject") -> Agreement:
    """Fleiss' kappa (1971) of two or more raters, with an interval as `cohen_kappa`; nothing of fewer than two."""
    if len(raters) < 2:
        return Agreement(kappa=NO_ESTIMATE, observed=NO_ESTIMATE, num_questions=0, num_raters=len(raters))
    return _agree(raters, unit, is_fleiss=True)


def coefficient(estimate: Estimate) -> str:
    """A kappa as text: "0.71 [0.55, 0.84]"; a dash for each number that is None."""

    def show(value: float | None) -> str:
        return DASH if value is None else f"{value:.2f}".replace("-", "\N{MINUS SIGN}")

    if estimate.value is None:
        return DASH
    return f"{show(estimate.value)} [{show(estimate.low)}, {show(estimate.high)}]{few_clusters(estimate)}"


def _agree(sides: Sequence[Iterable[Record]], unit: Unit, *, is_fleiss: bool) -> Agreement:
    import numpy as np

    answers = [by_sample(record for record in side if record.choices and record.answer is not None) for side in sides]
    shared = sorted(set.intersection(*(set(side) for side in answers)))
    if not shared:
        return Agreement(kappa=NO_ESTIMATE, observed=NO_ESTIMATE, num_questions=0, num_raters=len(sides))
    clusters = cluster([answers[0][name] for name in shared], unit)
    letters = [[str(side[name].answer) for side in answers] for name in shared]
    numbers = {letter: number for number, letter in enumerate(sorted({letter for row in letters for letter in row}))}
    codes_NR = np.array([[numbers[letter] for letter in row] for row in letters])
    tables = _Fleiss.of(codes_NR, len(numbers), clusters) if is_fleiss else _Cohen.of(codes_NR, len(numbers), clusters)
    pairs = clustered_mean(_equal_pairs(codes_NR), clusters)
    assert pairs is not None
    return Agreement(kappa=_estimate(tables), observed=pairs.estimate(), num_questions=len(shared), num_raters=len(sides))


def _equal_pairs(codes_NR: NDArray[np.int64]) -> list[float]:
    """For each question the share of pairs of raters who gave the same answer."""
    import numpy as np

    num_raters = codes_NR.shape[1]
    counts = [np.bincount(row) for row in codes_NR]
    return [float((count * (count - 1)).sum()) / (num_raters * (num_raters - 1)) for count in counts]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cohen:
    """The contingency tables of two raters, one per cluster."""

    tables_GKK: NDArray[np.float64]

    @classmethod
    def of(cls, codes_NR: NDArray[np.int64], num_categories: int, clusters: Sequence[int]) -> _Cohen:
        import numpy as np

        tables_GKK = np.zeros((max(clusters) + 1, num_categories, num_categories))
        np.add.at(tables_GKK, (np.asarray(clusters), codes_NR[:, 0], codes_NR[:, 1]), 1.0)
        return cls(tables_GKK=tables_GKK)

    @property
    def num_clusters(self) -> int:
        return len(self.tables_GKK)

    def value(self) -> float:
        """Kappa by statsmodels."""
        from statsmodels.stats.inter_rater import cohens_kappa

        return float(cohens_kappa(self.tables_GKK.sum(axis=0), return_results=False))

    def observed_and_expected(self, weights_BG: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The observed and the expected agreement of each draw; statsmodels takes 0.4 ms for one draw."""
        import numpy as np

        tables_BKK = np.tensordot(weights_BG, self.tables_GKK, axes=1)
        tables_BKK /= tables_BKK.sum(axis=(1, 2), keepdims=True)
        observed_B = np.trace(tables_BKK, axis1=1, axis2=2)
        return observed_B, (tables_BKK.sum(axis=1) * tables_BKK.sum(axis=2)).sum(axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fleiss:
    """How often each category was given, question by question, and the clusters of the questions."""

    counts_NK: NDArray[np.float64]
    clusters_N: NDArray[np.int64]

    @classmethod
    def of(cls, codes_NR: NDArray[np.int64], num_categories: int, clusters: Sequence[int]) -> _Fleiss:
        import numpy as np

        counts_NK = (codes_NR[:, :, None] == np.arange(num_categories)).sum(axis=1).astype(np.float64)
        return cls(counts_NK=counts_NK, clusters_N=np.asarray(clusters))

    @property
    def num_clusters(self) -> int:
        return int(self.clusters_N.max()) + 1

    def value(self) -> float:
        """Kappa by statsmodels."""
        from statsmodels.stats.inter_rater import fleiss_kappa as of_counts

        return float(of_counts(self.counts_NK))

    def observed_and_expected(self, weights_BG: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As for two raters."""
        import numpy as np

        num_raters = self.counts_NK[0].sum()
        pairs_N = (self.counts_NK * (self.counts_NK - 1)).sum(axis=1) / (num_raters * (num_raters - 1))
        per_question = np.column_stack([np.ones(len(pairs_N)), pairs_N, self.counts_NK])
        sums_G = np.zeros((self.num_clusters, per_question.shape[1]))
        np.add.at(sums_G, self.clusters_N, per_question)
        sums_B = weights_BG @ sums_G
        shares_BK = sums_B[:, 2:] / (sums_B[:, :1] * num_raters)
        return sums_B[:, 1] / sums_B[:, 0], (shares_BK**2).sum(axis=1)


def _estimate(tables: _Cohen | _Fleiss) -> Estimate:
    import numpy as np

    (expected,) = tables.observed_and_expected(np.ones((1, tables.num_clusters)))[1]
    if expected > 1 - 1e-9:
        return NO_ESTIMATE
    low, high = _limits(tables)
    return ClusteredEstimate(value=tables.value(), low=low, high=high, num_clusters=tables.num_clusters)


def _limits(tables: _Cohen | _Fleiss) -> tuple[float | None, float | None]:
    """The percentiles of kappa over resampled clusters (Efron and Tibshirani 1993, chapter 13), with a fixed seed."""
    import numpy as np

    draws = np.concatenate([_kappas(tables, weights_BG) for weights_BG in _resample(tables.num_clusters)])
    defined = draws[np.isfinite(draws)]
    if len(defined) < MIN_DEFINED * NUM_DRAWS or np.ptp(defined) < 1e-9:
        return None, None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _resample(num_clusters: int) -> Iterable[NDArray[np.float64]]:
    """How often each cluster is drawn, in batches of draws."""
    import numpy as np

    rng = np.random.default_rng(0)
    size = max(1, min(NUM_DRAWS, _BATCH_ITEMS // num_clusters))
    for start in range(0, NUM_DRAWS, size):
        number = min(size, NUM_DRAWS - start)
        yield rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=number).astype(np.float64)


def _kappas(tables: _Cohen | _Fleiss, weights_BG: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kappa of each draw; NaN where every answer of the draw is one letter."""
    import numpy as np

    observed_B, expected_B = tables.observed_and_expected(weights_BG)
    room_B = 1 - expected_B
    is_defined = room_B > 1e-9
    return np.where(is_defined, (observed_B - expected_B) / np.where(is_defined, room_B, 1.0), np.nan)
