"""Every statistic against an independent computation: another library, a closed form, a simulation or a published figure."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
from small_records import CHOICES, answer
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from osler import metrics
from osler.errors import DataError
from osler.types import Record


def record(outcome: str = "correct", **fields: Any) -> Record:
    return replace(answer(0), outcome=outcome, **fields)


def marks(correct: int, total: int, modality: str = "mri") -> list[Record]:
    return [record("correct" if i < correct else "incorrect", modality=modality, sample_id=f"toy/{modality}/{i}") for i in range(total)]


@pytest.mark.parametrize(("correct", "total"), [(0, 1), (1, 1), (0, 5), (5, 5), (8, 10), (286, 300), (211, 300), (1, 1000)])
def test_wilson_interval(correct: int, total: int) -> None:
    found = metrics.accuracy(marks(correct, total))
    low, high = proportion_confint(correct, total, method="wilson")
    assert (found.correct, found.total, found.value) == (correct, total, correct / total)
    assert (found.low, found.high) == pytest.approx((max(0, low), min(1, high)), abs=1e-12)
    # Wilson's limits solve (p - value)^2 = z^2 p (1 - p) / total.
    z = scipy.stats.norm.ppf(0.975)
    for limit in (found.low, found.high):
        assert limit is not None
        assert (limit - correct / total) ** 2 == pytest.approx(z**2 * limit * (1 - limit) / total, abs=1e-12)


def test_no_records_have_no_accuracy() -> None:
    found = metrics.accuracy([])
    assert (found.value, found.low, found.high, found.total, str(found)) == (None, None, None, 0, "–")
    summary = metrics.summarize([])
    assert {summary.chance, summary.no_answer, summary.ambiguous, summary.well_formed, summary.truncated, summary.mean_tokens} == {None}
    assert metrics.average([]).value is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (metrics.Estimate(value=0.7822, low=0.731, high=0.82549), "78.2 [73.1, 82.5]"),
        (metrics.proportion(0, 5), "0.0 [0.0, 43.4]"),
        (metrics.proportion(0, 0), "–"),
    ],
)
def test_how_an_estimate_prints(value: metrics.Estimate, text: str) -> None:
    assert str(value) == text


def test_the_rates_of_a_summary_stand_apart() -> None:
    records = [
        record("correct", num_tokens=10),
        record("incorrect", num_tokens=20, is_well_formed=False),
        record("no_answer", num_tokens=30, is_well_formed=False, finish_reason="length"),
        record("ambiguous", num_tokens=60),
        record("correct", num_tokens=80, choices=("yes", "no")),
    ]
    found = metrics.summarize(records)
    assert found.accuracy.value == 0.4
    assert (found.incorrect, found.no_answer, found.ambiguous, found.well_formed, found.truncated) == (0.2, 0.2, 0.2, 0.6, 0.2)
    assert found.mean_tokens == 40
    assert found.chance == pytest.approx((4 * 0.25 + 0.5) / 5)


@pytest.mark.parametrize(
    ("choices", "expected"),
    [([()], None), ([(), CHOICES], 0.25), ([("yes", "no"), CHOICES], 0.375)],
)
def test_chance(choices: list[tuple[str, ...]], expected: float | None) -> None:
    assert metrics.chance([record(choices=options) for options in choices]) == expected


def test_groups_have_the_order_of_the_taxonomy() -> None:
    records = [
        record(modality=modality, question_type=question_type)
        for modality in (None, "endoscopy", "xray", "ct")
        for question_type in ("lesion_grading", "anatomy_identification")
    ]
    assert list(metrics.group(records, ("modality",))) == [("ct",), ("xray",), ("endoscopy",), (None,)]
    cells = metrics.group(records, ("question_type", "modality"))
    assert list(cells)[:2] == [("anatomy_identification", "ct"), ("anatomy_identification", "xray")]
    assert all(len(members) == 1 for members in cells.values())


def average_by_modality(records: list[Record]) -> metrics.Estimate:
    return metrics.average([metrics.accuracy(members) for members in metrics.group(records, ("modality",)).values()])


def test_average_of_one_group_is_its_wilson_interval() -> None:
    found, expected = average_by_modality(marks(8, 10)), metrics.proportion(8, 10)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_average_weighs_groups_alike() -> None:
    records = marks(286, 300) + marks(21, 30, "ct") + marks(2070, 3000, "xray")
    found = average_by_modality(records)
    assert found.value == pytest.approx((286 / 300 + 0.7 + 0.69) / 3)
    # A parametric bootstrap, each modality drawn on its own.
    rng = np.random.default_rng(0)
    draws = sum(rng.binomial(n, k / n, size=200_000) / n for k, n in ((286, 300), (21, 30), (2070, 3000))) / 3
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.01)


def test_average_needs_a_value_of_every_group() -> None:
    parts = [metrics.proportion(8, 10), metrics.proportion(6, 10)]
    assert metrics.average(parts).value == pytest.approx(0.7)
    assert metrics.average([*parts, metrics.proportion(0, 0)]).value is None


def test_average_covers_the_truth() -> None:
    """Of 500 experiments with known accuracies, about 95 % of the intervals hold the true average."""
    rng = np.random.default_rng(1)
    truth = {"mri": (0.95, 40), "ct": (0.7, 40), "xray": (0.6, 40)}
    mean = sum(p for p, _ in truth.values()) / 3
    hits = 0
    for _ in range(500):
        found = metrics.average([metrics.proportion(int(rng.binomial(n, p)), n) for p, n in truth.values()])
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= mean <= found.high
    assert 0.92 <= hits / 500 <= 0.98


def pairs(both: int, gained: int, lost: int, neither: int) -> tuple[list[Record], list[Record]]:
    outcomes = [("correct", "correct")] * both + [("incorrect", "correct")] * gained
    outcomes += [("correct", "no_answer")] * lost + [("ambiguous", "incorrect")] * neither
    before = [record(first, sample_id=f"toy/{i}") for i, (first, _) in enumerate(outcomes)]
    after = [record(second, sample_id=f"toy/{i}") for i, (_, second) in enumerate(outcomes)]
    return before, after[::-1]  # the order of records does not matter


TABLES = [(36, 12, 2, 0), (120, 80, 25, 75), (10, 3, 3, 20), (500, 40, 10, 450), (0, 7, 1, 12)]


@pytest.mark.parametrize("cells", TABLES)
def test_paired_difference(cells: tuple[int, int, int, int]) -> None:
    both, gained, lost, neither = cells
    found = metrics.paired_difference(*pairs(*cells))
    assert (found.num_samples, found.gained, found.lost) == (sum(cells), gained, lost)
    assert found.difference.value == pytest.approx((gained - lost) / sum(cells))
    assert found.p_value == pytest.approx(mcnemar([[both, gained], [lost, neither]], exact=True).pvalue)
    # Near the percentile bootstrap over pairs, which narrows where few pairs changed.
    changes = np.repeat([0.0, 1.0, -1.0, 0.0], cells)
    bootstrap = scipy.stats.bootstrap((changes,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(0))
    limits = (found.difference.low, found.difference.high)
    assert limits == pytest.approx(tuple(bootstrap.confidence_interval), abs=0.25 / math.sqrt(sum(cells)))


def test_paired_difference_as_published() -> None:
    """Newcombe (1998), method 10, for the table 36, 12, 2, 0: from 0.0569 to 0.3404."""
    found = metrics.paired_difference(*pairs(36, 12, 2, 0)).difference
    assert (found.low, found.high) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@pytest.mark.integration
def test_paired_difference_covers_the_truth() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for cells in rng.multinomial(60, [0.5, 0.25, 0.1, 0.15], size=300):
        found = metrics.paired_difference(*pairs(*(int(cell) for cell in cells))).difference
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0.15 <= found.high
    assert 0.91 <= hits / 300 <= 0.99


@pytest.mark.parametrize(
    ("cells", "value", "p_value"),
    [((0, 0, 0, 0), None, None), ((20, 0, 0, 0), 0.0, 1.0), ((0, 20, 0, 0), 1.0, 2 * 0.5**20), ((15, 0, 0, 5), 0.0, 1.0)],
)
def test_paired_difference_at_the_edges(cells: tuple[int, int, int, int], value: float | None, p_value: float | None) -> None:
    found = metrics.paired_difference(*pairs(*cells))
    assert (found.difference.value, found.p_value) == (value, pytest.approx(p_value) if p_value is not None else None)
    if value is not None:
        assert found.difference.low is not None
        assert found.difference.high is not None
        assert -1 <= found.difference.low <= value <= found.difference.high <= 1
        assert found.difference.high - found.difference.low > 0.05


def test_paired_difference_uses_shared_samples_only() -> None:
    before, after = pairs(3, 2, 1, 4)
    extra = record("correct", sample_id="toy/only-after")
    assert metrics.paired_difference(before, [*after, extra]) == metrics.paired_difference(before, after)


def test_paired_difference_refuses_a_sample_twice() -> None:
    before, after = pairs(3, 2, 1, 4)
    with pytest.raises(DataError, match="two records on one side"):
        metrics.paired_difference(before, after + after[:1])
