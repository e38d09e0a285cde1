"""Simulations: how often an interval that counts patients contains the truth."""

import numpy as np
import pytest
from test_metrics_clusters import draw

from osler import metrics
from osler.metrics.clusters import clustered_mean


def test_the_clustered_interval_covers_the_truth() -> None:
    """Of 200 experiments with correlated answers, about 95 % of the clustered intervals contain the truth, and fewer of Wilson's."""
    hits = plain = 0
    for seed in range(200):
        values, labels = draw(seed, 40, 0.8)
        mean = clustered_mean(values, labels)
        assert mean is not None
        found, naive = mean.estimate(), metrics.proportion(int(sum(values)), len(values))
        assert found.low is not None and found.high is not None and naive.low is not None and naive.high is not None  # noqa: PT018
        hits += found.low <= 0.6 <= found.high
        plain += naive.low <= 0.6 <= naive.high
    assert 0.92 <= hits / 200 <= 0.98
    assert plain / 200 < 0.85


@pytest.mark.parametrize(("num_patients", "highest"), [(2, 1.0), (3, 1.0), (5, 0.98), (10, 0.98), (50, 0.98)])
def test_the_interval_covers_the_truth_with_few_patients(num_patients: int, highest: float) -> None:
    """400 experiments, 20 questions per patient, correlation 0.3 within patients. For two or three patients it is wider than needed."""
    rng = np.random.default_rng(num_patients)
    leans = rng.beta(0.7 * 0.7 / 0.3, 0.3 * 0.7 / 0.3, (400, num_patients))
    labels = np.repeat(np.arange(num_patients), 20)
    hits = 0
    for lean_G in leans:
        mean = clustered_mean(rng.binomial(1, lean_G[labels]).astype(float).tolist(), labels.tolist())
        assert mean is not None
        found = mean.estimate()
        assert found.low is not None and found.high is not None  # noqa: PT018
        hits += found.low <= 0.7 <= found.high
    assert 0.93 <= hits / 400 <= highest
