"""Calibration and abstention, each against brute force, a closed form or a count by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from small_records import answer, answers
from statsmodels.stats.proportion import proportion_confint

from osler import metrics
from osler.errors import DataError
from osler.metrics import RatedAnswer
from osler.metrics.calibration import BinKind
from osler.metrics.coverage import at_threshold
from osler.types import Record


def rated(*pairs: tuple[float | None, float]) -> list[RatedAnswer]:
    return [RatedAnswer(confidence=confidence, is_correct=bool(right)) for confidence, right in pairs]


RECORDS: list[tuple[str, Record, float | None, float | None]] = [
    ("the letter's probability", answer(0, probabilities=(0.7, 0.1, 0.1, 0.1)), 0.7, None),
    ("of a wrong letter too", answer(0, False, probabilities=(0.2, 0.6, 0.1, 0.1)), 0.6, None),
    ("no answer has no confidence", answer(0, False, letter=None, probabilities=(0.2, 0.6, 0.1, 0.1), vote_share=0.0), None, None),
    ("a letter beyond the choices", answer(0, False, letter="E", probabilities=(0.2, 0.6, 0.1, 0.1)), None, None),
    ("an open answer", answer(0, choices=(), letter="ct", vote_share=0.75), None, 0.75),
    ("nothing kept", answer(0), None, None),
]


@pytest.mark.parametrize(("name", "record", "probability", "share"), RECORDS, ids=[row[0] for row in RECORDS])
def test_confidence_of_a_record(name: str, record: Record, probability: float | None, share: float | None) -> None:
    assert metrics.rate_answers([record], "option_probabilities")[0].confidence == probability
    assert metrics.rate_answers([record], "vote_share")[0].confidence == share
    known = [source for source, value in (("option_probabilities", probability), ("vote_share", share)) if value is not None]
    assert metrics.confidence_sources([record, answer(1)]) == tuple(known)


def test_a_diagram_by_hand() -> None:
    found = metrics.calibrate(rated((0.0, 0), (0.1, 1), (0.3, 0), (0.65, 1), (0.7, 0), (1.0, 1), (None, 1)))
    assert [(round(part.low, 1), part.accuracy.total, part.accuracy.correct) for part in found.bins if part.accuracy.total] == [
        (0.0, 2, 1),
        (0.2, 1, 0),
        (0.6, 2, 1),
        (0.9, 1, 1),
    ]
    assert found.num_answers == 6
    assert found.confidence == pytest.approx(2.75 / 6)
    assert found.expected_error == pytest.approx((2 * 0.45 + 0.3 + 2 * 0.175 + 0) / 6)
    assert found.brier == pytest.approx((0 + 0.81 + 0.09 + 0.1225 + 0.49 + 0) / 6)


def simulated(size: int, seed: int = 0) -> list[RatedAnswer]:
    rng = np.random.default_rng(seed)
    shares = rng.beta(4, 2, size)
    return rated(*zip(shares.tolist(), (rng.random(size) < shares**1.5).tolist(), strict=True))


@pytest.mark.parametrize("num_bins", [1, 7, 10, 15])
def test_equal_width_is_a_loop_over_bins(num_bins: int) -> None:
    items = simulated(400)
    error = 0.0
    found = metrics.calibrate(items, num_bins=num_bins)
    for k, part in enumerate(found.bins):
        inside = [item for item in items if k / num_bins < (item.confidence or 0) <= (k + 1) / num_bins]
        assert part.accuracy.total == len(inside)
        if inside:
            right = sum(item.is_correct for item in inside)
            mean = sum(item.confidence or 0 for item in inside) / len(inside)
            error += abs(right / len(inside) - mean) * len(inside) / 400
            low, high = proportion_confint(right, len(inside), method="wilson")
            assert (part.accuracy.low, part.accuracy.high) == pytest.approx((max(0, low), min(1, high)), abs=1e-9)
    assert found.expected_error == pytest.approx(error)


@pytest.mark.parametrize("num_bins", [1, 4, 10])
def test_equal_mass_is_a_split_of_the_ranks(num_bins: int) -> None:
    items = simulated(400, 1)
    ranked = sorted(items, key=lambda item: item.confidence or 0)
    parts = [ranked[k * 400 // num_bins : (k + 1) * 400 // num_bins] for k in range(num_bins)]
    distances = [abs(sum(item.is_correct for item in part) - sum(item.confidence or 0 for item in part)) for part in parts]
    found = metrics.calibrate(items, num_bins=num_bins, bins="mass")
    assert [part.accuracy.total for part in found.bins] == [400 // num_bins] * num_bins
    assert found.expected_error == pytest.approx(sum(distances) / 400)


def test_equal_confidences_stay_together() -> None:
    votes = rated(*[(k / 4, right) for k in (2, 3, 4) for right in (1, 0, 1) for _ in range(k)])
    assert metrics.calibrate(votes, bins="mass") == metrics.calibrate(votes[::-1], bins="mass")
    assert sum(part.accuracy.total for part in metrics.calibrate(votes, bins="mass").bins) == 27


@pytest.mark.parametrize("bins", ["width", "mass"])
@pytest.mark.parametrize(
    ("items", "error"), [([], None), (rated((None, 1)), None), (rated((0.8, 1)), 0.2), (rated((1.0, 1), (1.0, 1)), 0.0)]
)
def test_calibration_at_the_edges(items: list[RatedAnswer], error: float | None, bins: BinKind) -> None:
    found = metrics.calibrate(items, bins=bins)
    assert found.expected_error == (pytest.approx(error) if error is not None else None)
    assert found.brier == (pytest.approx(error**2) if error is not None else None)
    assert (found.accuracy.value, found.confidence) == ((None, None) if error is None else (1.0, 1 - error))


def test_a_calibrated_policy_has_no_error() -> None:
    rng = np.random.default_rng(2)
    shares = rng.random(50_000)
    items = rated(*zip(shares.tolist(), (rng.random(50_000) < shares).tolist(), strict=True))
    found = metrics.calibrate(items)
    assert found.expected_error == pytest.approx(0, abs=0.01)
    assert found.brier == pytest.approx(1 / 6, abs=0.005)  # the mean of p (1 - p)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [([], None), ([None], None), ([(1.0, 0.0)], 0.0), ([(0.0, 1.0)], 2.0), ([(0.5, 0.5), None, (0.7, 0.3)], (0.5 + 0.18) / 2)],
)
def test_brier_over_all_options(probabilities: list[tuple[float, ...] | None], expected: float | None) -> None:
    records = [answer(i, probabilities=shares) for i, shares in enumerate(probabilities)]
    assert metrics.multiclass_brier(records) == (pytest.approx(expected) if expected is not None else None)


# Abstention


ITEMS = rated((0.9, 1), (0.8, 1), (0.8, 0), (0.5, 1), (None, 0), (0.2, 0))


def test_a_coverage_curve_by_hand() -> None:
    found = [(p.threshold, p.coverage, p.accuracy.correct, p.accuracy.total) for p in metrics.coverage_curve(ITEMS)]
    assert found == [(0.9, 1 / 6, 1, 1), (0.8, 0.5, 2, 3), (0.5, 4 / 6, 3, 4), (0.2, 5 / 6, 3, 5)]
    for point in metrics.coverage_curve(ITEMS):
        assert at_threshold(ITEMS, point.threshold) == point
    assert at_threshold([], 0.5).coverage is None
    assert at_threshold(ITEMS, 0.95).accuracy.value is None


@pytest.mark.parametrize(
    "items",
    [ITEMS, rated((0.5, 1), (0.5, 0), (0.5, 0)), rated((0.9, 0), (0.1, 1)), rated((1.0, 1)), simulated(7)],
    ids=["ties", "all tied", "reversed", "one", "seven"],
)
def test_the_area_is_a_mean_over_all_orders(items: list[RatedAnswer]) -> None:
    known = [item for item in items if item.confidence is not None]
    areas = []
    for order in itertools.permutations(known):
        if all((a.confidence or 0) >= (b.confidence or 0) for a, b in itertools.pairwise(order)):
            wrong = np.cumsum([not item.is_correct for item in order])
            areas.append(float(np.mean(wrong / np.arange(1, len(order) + 1))))
    assert metrics.risk_coverage_area(items) == pytest.approx(sum(areas) / len(areas))


def test_random_confidence_has_the_error_rate_as_its_area() -> None:
    assert metrics.risk_coverage_area(rated(*[(0.5, right) for right in (1, 1, 0, 1)])) == pytest.approx(0.25)
    assert metrics.risk_coverage_area([]) is None


@pytest.mark.parametrize(
    ("items", "target", "expected"),
    [
        (ITEMS, 0.3, 0.5),
        (ITEMS, 0.22, 0.2),  # the largest coverage, though a smaller one misses the target
        (ITEMS, 0.9, None),
        (rated((0.9, 0)), 0.5, None),
        ([], 0.5, None),
        (rated((None, 1)), 0.5, None),
    ],
)
def test_the_threshold_of_the_widest_coverage(items: list[RatedAnswer], target: float, expected: float | None) -> None:
    assert metrics.choose_threshold(items, target) == expected
    reached = [p.threshold for p in metrics.coverage_curve(items) if p.accuracy.low is not None and p.accuracy.low >= target]
    assert expected == (min(reached) if reached else None)


def test_the_lower_limit_guards_against_luck() -> None:
    few = rated((0.9, 1), (0.9, 1), (0.5, 0))
    assert metrics.choose_threshold(few, 0.9) is None
    many = rated(*[(0.9, 1)] * 40, *[(0.5, 0)] * 40)
    assert metrics.choose_threshold(many, 0.9) == 0.9


def test_a_threshold_is_chosen_on_one_set_and_reported_on_another() -> None:
    validation, test = simulated(4000, 3), simulated(4000, 4)
    found = metrics.abstain(validation, test, 0.75)
    assert found.validation is not None
    assert found.test is not None
    assert found.validation.threshold == found.test.threshold
    assert 0.05 < (found.test.coverage or 0) < 0.9
    assert found.test.accuracy.value == pytest.approx(0.76, abs=0.03)
    assert metrics.abstain(validation, test, 1.0).test is None
    assert metrics.abstain([], [], 0.9).validation is None


def test_halves_share_no_image() -> None:
    records = answers([1] * 40, [i // 4 for i in range(40)])
    validation, test = metrics.split_clusters(records, seed=1)
    assert len(validation) == len(test) == 20
    assert not {record.image_uris for record in validation} & {record.image_uris for record in test}
    assert metrics.split_clusters(records, seed=1) == (validation, test) != metrics.split_clusters(records, seed=2)
    assert metrics.split_clusters([]) == ([], [])
    assert metrics.split_clusters([answer(0)]) == ([], [answer(0)])


@pytest.mark.parametrize("confidence", [-0.01, 1.01, math.nan, math.inf])
def test_a_confidence_is_a_share(confidence: float) -> None:
    for use in (metrics.calibrate, metrics.coverage_curve, metrics.risk_coverage_area):
        with pytest.raises(DataError, match="a confidence of"):
            use(rated((confidence, 1)))


@pytest.mark.parametrize("target", [0.0, -1.0, 1.1, math.nan])
def test_a_target_is_a_share(target: float) -> None:
    with pytest.raises(DataError, match="a target accuracy"):
        metrics.choose_threshold(ITEMS, target)


def test_a_diagram_needs_a_bin() -> None:
    with pytest.raises(DataError, match="at least one bin"):
        metrics.calibrate(ITEMS, num_bins=0)
