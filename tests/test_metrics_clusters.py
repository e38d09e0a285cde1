"""Clusters, paired tests and power, each against another library, brute force, a simulation or a published figure."""

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from small_records import answer, answers
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from osler import metrics
from osler.errors import DataError
from osler.metrics.clusters import clustered_difference, clustered_mean, design_effect, flip_test
from osler.metrics.estimates import wilson
from osler.types import Record


@pytest.mark.parametrize(("share", "size"), [(0.0, 1), (1.0, 7), (0.3, 12.5), (0.5, 2.25), (0.999, 4000.5)])
def test_wilson_takes_fractions_of_a_question(share: float, size: float) -> None:
    low, high = proportion_confint(share * size, size, method="wilson")
    assert wilson(share, size) == pytest.approx((max(0, low), min(1, high)), abs=1e-12)


A, B, C = (answer(i, image=image, subject=subject) for i, (image, subject) in enumerate([("x", "p"), ("x", None), ("y", "p")]))
ALONE = answer(3)


def given(number: int, own: str | None = None, subject: str | None = None) -> Record:
    """A question under an ablation, with image "x" instead of its own."""
    own_image_uris = answer(number + 10, image=own).image_uris
    return replace(answer(number + 10, image="x", subject=subject), ablation="swap_within", own_image_uris=own_image_uris)


ROWS: list[tuple[str, list[Record], str, tuple[int, ...]]] = [
    ("nothing", [], "subject", ()),
    ("one", [A], "subject", (0,)),
    ("a shared image", [A, B, ALONE], "image", (0, 0, 1)),
    ("a shared subject", [A, C, ALONE], "subject", (0, 0, 1)),
    ("subjects do not count for images", [A, C], "image", (0, 1)),
    ("nothing is shared by samples", [A, B, C], "sample", (0, 1, 2)),
    ("through a third", [B, C, A], "subject", (0, 0, 0)),
    ("the same sample twice", [A, ALONE, A], "sample", (0, 1, 0)),
    ("records without a subject are not joined", [answer(4), answer(5)], "subject", (0, 1)),
    ("the image that two questions were given", [given(0), given(1)], "subject", (0, 1)),
    ("their own image", [given(0, "x"), given(1, "x"), B], "subject", (0, 0, 0)),
    ("their own subject", [given(0, subject="p"), given(1, subject="p")], "subject", (0, 0)),
    ("no subject: not joined with the donor's subject", [given(0), A], "subject", (0, 1)),
    ("another dataset's image", [answer(0, image="x"), answer(0, image="x", dataset="other")], "subject", (0, 1)),
]


@pytest.mark.parametrize(("name", "records", "unit", "expected"), ROWS, ids=[row[0] for row in ROWS])
def test_what_belongs_together(name: str, records: list[Record], unit: metrics.Unit, expected: tuple[int, ...]) -> None:
    assert metrics.cluster(records, unit) == expected


def draw(seed: int, num_clusters: int, agreement: float, largest: int = 6) -> tuple[list[float], list[int]]:
    """Answers that are correlated within clusters: the larger `agreement`, the more."""
    rng = np.random.default_rng(seed)
    values: list[float] = []
    labels: list[int] = []
    for number in range(num_clusters):
        lean = rng.beta(0.6 / agreement, 0.4 / agreement)
        size = int(rng.integers(1, largest + 1))
        values += rng.binomial(1, lean, size).astype(float).tolist()
        labels += [number] * size
    return values, labels


@pytest.mark.parametrize(("seed", "num_clusters"), [(0, 5), (1, 40), (2, 200)])
def test_the_variance_is_that_of_a_cluster_robust_regression(seed: int, num_clusters: int) -> None:
    values, labels = draw(seed, num_clusters, 0.5)
    mean = clustered_mean(values, labels)
    assert mean is not None
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": np.asarray(labels)})
    assert mean.value == pytest.approx(float(fit.params[0]))
    assert mean.covariance(mean) == pytest.approx(float(fit.cov_params()[0, 0]))
    plain = sm.OLS(values, np.ones(len(values))).fit(cov_type="HC1")
    expected = float(fit.cov_params()[0, 0]) / float(plain.cov_params()[0, 0])
    assert design_effect(values, labels) == pytest.approx(max(1.0, expected))


@pytest.mark.parametrize("rights", [[1], [0, 0, 0], [1, 1, 0, 1], [1] * 30 + [0] * 7])
def test_with_an_image_for_each_question_nothing_changes(rights: list[int]) -> None:
    records = answers(rights)
    plain, clustered = metrics.accuracy(records), metrics.accuracy(records, "subject")
    assert (clustered.low, clustered.high, clustered.num_clusters) == (plain.low, plain.high, len(rights))
    mean = clustered_mean([float(right) for right in rights], range(len(rights)))
    assert mean is not None
    assert (mean.estimate().low, mean.estimate().high) == pytest.approx((plain.low, plain.high), abs=1e-9)


@pytest.mark.parametrize(
    ("rights", "images", "same_as"),
    [
        ([1] * 12, [i // 3 for i in range(12)], (4, 4)),  # nothing says that questions of one image are independent
        ([0] * 12, [i // 3 for i in range(12)], (0, 4)),
        ([1, 1, 1], ["x"] * 3, (1, 1)),
        ([1, 1, 1, 0], ["x"] * 4, None),
    ],
)
def test_clusters_at_the_edges(rights: list[int], images: list[object], same_as: tuple[int, int] | None) -> None:
    found = metrics.accuracy(answers(rights, images), "image")
    assert (found.correct, found.total, found.value) == (sum(rights), len(rights), sum(rights) / len(rights))
    low, high = wilson(*((same_as[0] / same_as[1], same_as[1]) if same_as else (found.value or 0.0, 1)))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_an_empty_cell_has_no_interval() -> None:
    found = metrics.accuracy([], "subject")
    assert (found.value, found.low, found.high, found.num_clusters, str(found)) == (None, None, None, None, "–")


def test_fully_agreeing_clusters_count_once() -> None:
    """Four copies of every question add no information: the interval is near that of the single questions."""
    rng = np.random.default_rng(0)
    rights = rng.binomial(1, 0.6, 200).tolist()
    four = metrics.accuracy(answers([right for right in rights for _ in range(4)], [i for i in range(200) for _ in range(4)]), "image")
    one = metrics.accuracy(answers(rights))
    assert (four.low, four.high) == pytest.approx((one.low, one.high), abs=1e-3)


@pytest.mark.parametrize(("num_images", "words"), [(1, " (n = 1)"), (2, " (n = 2)"), (9, " (n = 9)"), (10, "")])
def test_few_images_are_printed_beside_the_interval(num_images: int, words: str) -> None:
    images = [number % num_images for number in range(20)]
    before, after = (answers([number % every == 0 for number in range(20)], images) for every in (3, 2))
    share = str(metrics.accuracy(after, "image"))
    change = metrics.points(metrics.paired_difference(before, after, "image").difference)
    for text in (share, change):
        assert text.endswith(f"]{words}")


def bootstrap_interval(values: Sequence[float], labels: Sequence[int]) -> tuple[float, float]:
    """The percentile interval of a bootstrap that draws whole clusters."""
    rng = np.random.default_rng(0)
    sums, sizes = np.bincount(labels, weights=values), np.bincount(labels)
    drawn = rng.integers(0, len(sums), (9999, len(sums)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize(("seed", "num_clusters"), [(3, 60), (4, 150)])
def test_the_clustered_interval_is_near_its_bootstrap(seed: int, num_clusters: int) -> None:
    values, labels = draw(seed, num_clusters, 0.6)
    mean = clustered_mean(values, labels)
    assert mean is not None
    robust = mean.estimate()
    assert (robust.low, robust.high) == pytest.approx(bootstrap_interval(values, labels), abs=0.02)


# Paired


@pytest.mark.parametrize(("gained", "lost"), [(3, 1), (5, 5), (9, 2), (2, 0)])
def test_flipping_single_questions_is_mcnemars_test(gained: int, lost: int) -> None:
    assert flip_test([1.0] * gained + [-1.0] * lost + [0.0] * 5) == pytest.approx(
        float(mcnemar([[4, gained], [lost, 2]], exact=True).pvalue)
    )


SUMS = [[2.0, 1.0, -1.0, 3.0], [0.25, -0.75, 2.0, 1.0, 1.0, -0.5], [1.0], [], [0.0, 0.0], [2.0, -2.0]]


@pytest.mark.parametrize("sums", SUMS, ids=str)
def test_flipping_clusters_is_a_count_of_all_signs(sums: list[float]) -> None:
    totals = [sum(sign * value for sign, value in zip(signs, sums, strict=True)) for signs in itertools.product((1, -1), repeat=len(sums))]
    above, below = (sum(compare * total >= compare * sum(sums) - 1e-9 for total in totals) for compare in (1, -1))
    assert flip_test(sums) == pytest.approx(min(1.0, 2 * min(above, below) / len(totals)))


def test_flipping_many_clusters_is_drawn_with_a_seed() -> None:
    sums = np.random.default_rng(0).normal(0.3, 1, 80).tolist()
    assert flip_test(sums) == flip_test(sums)
    expected = scipy.stats.ttest_1samp(sums, 0).pvalue
    assert flip_test(sums) == pytest.approx(expected, abs=0.02)


def both_sides(seed: int, num_images: int) -> tuple[list[Record], list[Record]]:
    rng = np.random.default_rng(seed)
    before: list[float] = []
    after: list[float] = []
    images: list[object] = []
    for image in range(num_images):
        lean = rng.beta(1.2, 0.8)
        gain = rng.normal(0.1, 0.25)
        for _ in range(int(rng.integers(1, 6))):
            before.append(float(rng.random() < lean))
            after.append(float(rng.random() < min(1, max(0, lean + gain))))
            images.append(image)
    return answers(before, images), answers(after, images)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_clustered_difference_is_near_its_bootstrap(seed: int) -> None:
    before, after = both_sides(seed, 80)
    found = metrics.paired_difference(before, after, "image")
    changes = [metrics.is_correct(second) - metrics.is_correct(first) for first, second in zip(before, after, strict=True)]
    assert found == metrics.paired_difference(before, after[::-1], "image")
    assert found.num_clusters == 80 < found.num_samples
    assert found.difference.value == pytest.approx(np.mean(changes))
    limits = bootstrap_interval(changes, metrics.cluster(after, "image"))
    assert (found.difference.low, found.difference.high) == pytest.approx(limits, abs=0.02)
    plain = metrics.paired_difference(before, after)
    assert (plain.gained, plain.lost, plain.num_clusters) == (found.gained, found.lost, found.num_samples)
    assert (found.discordance, found.p_value is not None) == ((found.gained + found.lost) / found.num_samples, True)


def sides(table: tuple[int, int, int, int], copies: int = 1) -> tuple[list[Record], list[Record]]:
    """Records with so many right on both sides, gained, lost and wrong on both, each in `copies` questions about one image."""
    both, gained, lost, neither = table
    before, after = [1] * both + [0] * gained + [1] * lost + [0] * neither, [1] * both + [1] * gained + [0] * lost + [0] * neither
    images = [image for image in range(sum(table)) for _ in range(copies)]
    first, second = ([right for right in side for _ in range(copies)] for side in (before, after))
    return answers(first, images), answers(second, images)


def newcombe(both: int, gained: int, lost: int, neither: int) -> tuple[float, float]:
    """The limits of Newcombe's method 10, written out from his paper."""
    total = both + gained + lost + neither
    limits = [proportion_confint(right, total, method="wilson") for right in (both + gained, both + lost)]
    shares = [(both + gained) / total, (both + lost) / total]
    margins = math.sqrt((both + gained) * (lost + neither) * (both + lost) * (gained + neither))
    agreement = both * neither - gained * lost
    phi = 0.0 if margins == 0 else (max(agreement - total / 2, 0) if agreement > 0 else agreement) / margins
    (low_1, high_1), (low_2, high_2) = limits
    delta = math.sqrt((shares[0] - low_1) ** 2 - 2 * phi * (shares[0] - low_1) * (high_2 - shares[1]) + (high_2 - shares[1]) ** 2)
    epsilon = math.sqrt((high_1 - shares[0]) ** 2 - 2 * phi * (high_1 - shares[0]) * (shares[1] - low_2) + (shares[1] - low_2) ** 2)
    return shares[0] - shares[1] - delta, shares[0] - shares[1] + epsilon


TABLES = [(36, 12, 2, 0), (30, 0, 0, 20), (20, 1, 0, 29), (5, 20, 21, 4), (1, 0, 0, 1), (0, 10, 0, 0), (0, 0, 0, 10), (150, 9, 3, 38)]


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_clusters_of_one_have_newcombes_interval(table: tuple[int, int, int, int]) -> None:
    before, after = sides(table)
    found = metrics.paired_difference(before, after, "subject")
    assert (found.difference.low, found.difference.high) == pytest.approx(newcombe(*table), abs=1e-9)
    assert found.p_value == metrics.paired_difference(before, after).p_value


@pytest.mark.parametrize("table", [(120, 0, 0, 80), (190, 0, 0, 10), (110, 8, 2, 80)], ids=str)
def test_agreeing_clusters_have_the_interval_of_as_many_questions(table: tuple[int, int, int, int]) -> None:
    """Four copies of every question add no information, and if no answer changed the interval is that of the images, not a point."""
    found = metrics.paired_difference(*sides(table, copies=4), "image")
    assert (found.num_samples, found.num_clusters) == (800, 200)
    assert (found.difference.low, found.difference.high) == pytest.approx(newcombe(*table), abs=1e-3)


UNMOVED = [
    ("nothing changed", [1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 1, 0], "aabbcc"),
    ("a gain and a loss about each image", [1, 0, 0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 0, 1, 1, 1], "aabbccdd"),
]


@pytest.mark.parametrize(("name", "before", "after", "images"), UNMOVED, ids=[row[0] for row in UNMOVED])
def test_the_interval_is_not_a_point_if_no_image_changed(name: str, before: list[int], after: list[int], images: str) -> None:
    found = metrics.paired_difference(answers(before, list(images)), answers(after, list(images)), "image").difference
    assert found.value == 0
    assert found.low is not None and found.high is not None  # noqa: PT018
    assert found.low < -0.05 < 0.05 < found.high
    gain = metrics.image_gain(answers(after, list(images)), {"x": metrics.record_credits(answers(before, list(images)))}, "image").gain
    assert (gain.low, gain.high) == pytest.approx((found.low, found.high))


def test_rare_changes_are_covered() -> None:
    """Of 300 experiments in which 1 % of the answers change, many show no change at all, and the interval still contains the truth."""
    rng = np.random.default_rng(1)
    images = np.repeat(np.arange(60), 3)
    hits = still = 0
    for _ in range(300):
        before = rng.random(60) < 0.5
        after = before | (rng.random(60) < 0.02)
        first, second = (clustered_mean(np.repeat(side, 3).astype(float).tolist(), images.tolist()) for side in (before, after))
        assert first is not None and second is not None  # noqa: PT018
        found = clustered_difference(second, first)
        assert found.low is not None and found.high is not None  # noqa: PT018
        hits += found.low <= 0.01 <= found.high
        still += bool((before == after).all())
    assert still / 300 > 0.4
    assert hits / 300 >= 0.93


@pytest.mark.parametrize(
    ("rights", "images", "value", "p_value"),
    [([], [], None, None), ([1, 1], ["x", "x"], 1.0, 1.0), ([0, 0, 0], ["x", "x", "y"], 0.0, 1.0), ([1] * 8, list("aabbccdd"), 1.0, 0.125)],
)
def test_clustered_differences_at_the_edges(rights: list[int], images: list[object], value: float | None, p_value: float | None) -> None:
    found = metrics.paired_difference(answers([0] * len(rights), images), answers(rights, images), "image")
    assert (found.difference.value, found.p_value) == (value, p_value)
    assert found.design_effect is None
    if found.difference.low is not None and found.difference.high is not None:
        assert found.difference.high - found.difference.low > 0.3


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([], []),
        ([None], [None]),
        ([0.04], [0.04]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # m - k + 1 times the k-th smallest, never falling
        ([0.5, None, 0.02, 0.9], [1.0, None, 0.06, 1.0]),
    ],
)
def test_holm(p_values: list[float | None], expected: list[float | None]) -> None:
    assert metrics.holm(p_values) == tuple(pytest.approx(value) if value is not None else None for value in expected)


def test_holm_leaves_garbage_collection_as_it_was() -> None:
    frozen = gc.get_freeze_count()
    metrics.holm([0.01, 0.04])
    assert (gc.isenabled(), gc.get_freeze_count()) == (True, frozen)


# Power


def exact_power(difference: float, num_samples: int, discordance: float) -> float:
    """By summing over all numbers of changed pairs, for McNemar's test in its mid-p form, which is near the normal one."""
    share = (discordance + difference) / (2 * discordance)
    power = 0.0
    for changed in range(1, num_samples + 1):
        weight = scipy.stats.binom.pmf(changed, num_samples, discordance)
        if weight < 1e-9:
            continue
        gained = np.arange(changed + 1)
        tail = scipy.stats.binom.cdf(np.minimum(gained, changed - gained), changed, 0.5)
        mid = 2 * tail - scipy.stats.binom.pmf(gained, changed, 0.5)
        power += weight * float(scipy.stats.binom.pmf(gained, changed, share)[mid <= 0.05].sum())
    return power


@pytest.mark.parametrize(
    ("difference", "num_samples", "discordance"), [(0.06, 600, 0.22), (0.1, 150, 0.3), (-0.05, 300, 0.15), (0.0, 300, 0.2)]
)
def test_power_is_near_the_exact_one(difference: float, num_samples: int, discordance: float) -> None:
    found = metrics.paired_power(difference, num_samples=num_samples, discordance=discordance)
    assert found == pytest.approx(exact_power(difference, num_samples, discordance), abs=0.02)
    doubled = metrics.paired_power(difference, num_samples=2 * num_samples, discordance=discordance, design_effect=2)
    assert doubled == pytest.approx(found)


@pytest.mark.parametrize(("num_samples", "discordance", "power"), [(600, 0.22, 0.8), (100, 0.5, 0.9), (50, 1.0, 0.8)])
def test_the_detectable_difference_has_its_power(num_samples: int, discordance: float, power: float) -> None:
    found = metrics.minimum_detectable_difference(num_samples, discordance, power=power)
    assert found is not None
    assert metrics.paired_power(found, num_samples=num_samples, discordance=discordance) == pytest.approx(power, abs=1e-4)
    # Connett's formula by hand, solved for the number of pairs.
    first, second = scipy.stats.norm.ppf([0.975, power])
    pairs = (first * math.sqrt(discordance) + second * math.sqrt(discordance - found**2)) ** 2 / found**2
    assert pairs == pytest.approx(num_samples, rel=1e-3)


@pytest.mark.parametrize(("num_samples", "discordance"), [(0, 0.5), (3, 0.2), (600, 0.0)])
def test_too_few_questions_detect_nothing(num_samples: int, discordance: float) -> None:
    assert metrics.minimum_detectable_difference(num_samples, discordance) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"discordance": 1.2}, "discordance is a share"),
        ({"discordance": -0.1}, "discordance is a share"),
        ({"discordance": float("nan")}, "discordance is a share"),
        ({"alpha": 0.0}, "alpha is the chance"),
        ({"power": 0.01}, "power is the chance"),
        ({"power": 1.0}, "power is the chance"),
        ({"design_effect": 0.5}, "design effect is at least 1"),
        ({"num_samples": -1}, "number of questions"),
    ],
)
def test_shares_that_cannot_be(values: dict[str, float], message: str) -> None:
    given = {"num_samples": 100, "discordance": 0.2, **values}
    with pytest.raises(DataError, match=message):
        metrics.minimum_detectable_difference(**given)  # type: ignore[arg-type]


def test_a_difference_beyond_the_discordance_cannot_be() -> None:
    with pytest.raises(DataError, match="discordance"):
        metrics.paired_power(0.3, num_samples=10, discordance=0.2)
