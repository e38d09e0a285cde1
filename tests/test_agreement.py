"""Kappas of published tables, what has no kappa, and intervals by images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from small_records import answer

from osler.errors import DataError
from osler.metrics.agreement import Agreement, _Cohen, _Fleiss, _kappas, coefficient, cohen_kappa, fleiss_kappa
from osler.metrics.estimates import NO_ESTIMATE, ClusteredEstimate, Estimate
from osler.types import Record


def rate(letters: Sequence[str | None], images: Sequence[object] | None = None) -> list[Record]:
    pictures = [None] * len(letters) if images is None else images
    return [answer(number, letter=letter, image=image) for number, (letter, image) in enumerate(zip(letters, pictures, strict=True))]


def two_raters(table: Sequence[Sequence[int]]) -> tuple[str, str]:
    """The answers of two raters with this contingency table."""
    pairs = [("ABCDE"[i], "ABCDE"[j]) for i, row in enumerate(table) for j, count in enumerate(row) for _ in range(count)]
    return "".join(first for first, _ in pairs), "".join(second for _, second in pairs)


# Observed and expected agreement by hand, and kappa = (observed - expected) / (1 - expected).
COHEN = [
    ([[20, 5], [10, 15]], 0.7, 0.4),  # expected (25 * 30 + 25 * 20) / 50^2 = 0.5
    ([[45, 15], [25, 15]], 0.6, 0.06 / 0.46),  # Smeeton 1985: (60 * 70 + 40 * 30) / 100^2 = 0.54
    ([[25, 35], [5, 35]], 0.6, 0.14 / 0.54),  # (60 * 30 + 40 * 70) / 100^2 = 0.46
    ([[0, 5], [5, 0]], 0.0, -1.0),
    ([[4, 0, 0], [0, 3, 0], [0, 0, 3]], 1.0, 1.0),
]


@pytest.mark.parametrize(("table", "observed", "kappa"), COHEN)
def test_cohens_kappa_of_known_tables(table: Sequence[Sequence[int]], observed: float, kappa: float) -> None:
    first, second = two_raters(table)
    found = cohen_kappa(rate(first), rate(second))
    assert found.kappa.value == pytest.approx(kappa)
    assert found.observed.value == pytest.approx(observed)
    assert (found.num_questions, found.num_raters) == (len(first), 2)


FLEISS_1971 = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip
"""Ten subjects, fourteen raters, five categories: observed 0.378, expected 0.213, kappa 0.210."""


def several_raters(counts: Sequence[Sequence[int]]) -> list[str]:
    rows = ["".join("ABCDE"[category] * number for category, number in enumerate(row)) for row in counts]
    return ["".join(column) for column in zip(*rows, strict=True)]


def test_fleiss_kappa_of_the_usual_example() -> None:
    found = fleiss_kappa([rate(letters) for letters in several_raters(FLEISS_1971)])
    assert found.kappa.value == pytest.approx(0.210, abs=5e-4)
    assert found.observed.value == pytest.approx(0.378, abs=5e-4)
    assert (found.num_questions, found.num_raters) == (10, 14)


NOTHING = [
    cohen_kappa([], []),
    cohen_kappa(rate("AB"), []),
    cohen_kappa(rate([None, "A"]), rate(["A", None])),  # no question that both answered
    fleiss_kappa([]),
    fleiss_kappa([rate("ABC")]),
    cohen_kappa([answer(0, choices=(), letter="liver")], [answer(0, choices=(), letter="liver")]),  # an open question
]


@pytest.mark.parametrize("found", NOTHING)
def test_nothing_to_measure_is_none(found: Agreement) -> None:
    assert (found.kappa, found.observed, found.num_questions) == (NO_ESTIMATE, NO_ESTIMATE, 0)
    assert coefficient(found.kappa) == "–"


@pytest.mark.parametrize("kappa", [cohen_kappa(rate("AAAA"), rate("AAAA")), fleiss_kappa([rate("AAAA")] * 3)])
def test_one_letter_alone_has_no_kappa(kappa: Agreement) -> None:
    assert kappa.kappa == NO_ESTIMATE
    assert kappa.observed.value == 1.0


@pytest.mark.parametrize("raters", [[rate("ABAB")] * 2, [rate("ABAB")] * 3])
def test_perfect_agreement_has_no_interval(raters: list[list[Record]]) -> None:
    found = fleiss_kappa(raters)
    assert (found.kappa.value, found.kappa.low, found.kappa.high) == (pytest.approx(1.0), None, None)


def test_one_image_has_no_interval() -> None:
    found = cohen_kappa(rate("ABAB", [0] * 4), rate("ABBB", [0] * 4))
    assert (found.kappa.low, found.kappa.high) == (None, None)


def test_the_interval_counts_images_and_not_questions() -> None:
    """The same answers, each four times: questions of their own narrow the interval, questions about one image do not."""
    first, second = two_raters([[20, 5], [10, 15]])
    alone = cohen_kappa(rate(first), rate(second)).kappa
    repeated = cohen_kappa(rate(first * 4), rate(second * 4)).kappa
    images = list(range(50)) * 4
    shared = cohen_kappa(rate(first * 4, images), rate(second * 4, images)).kappa
    assert (shared.value, shared.low, shared.high) == pytest.approx((alone.value, alone.low, alone.high), abs=0.03)
    assert width(repeated) == pytest.approx(width(alone) / 2, rel=0.1)


def width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def test_the_interval_is_near_that_of_large_samples() -> None:
    """The asymptotic standard error of the first table is 0.1270 (Fleiss, Cohen and Everitt 1969, as statsmodels computes it)."""
    first, second = two_raters([[20, 5], [10, 15]])
    assert width(cohen_kappa(rate(first), rate(second)).kappa) == pytest.approx(2 * 1.96 * 0.1270, rel=0.06)


@pytest.mark.parametrize("seed", range(6))
def test_draws_have_the_kappa_of_statsmodels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes_NR = rng.integers(0, 4, (30, 2 if seed % 2 else 5))
    clusters = list(rng.permutation(30))
    kind = _Cohen if seed % 2 else _Fleiss
    (drawn,) = _kappas(kind.of(codes_NR, 4, clusters), np.ones((1, 30)))  # type: ignore[attr-defined]
    assert drawn == pytest.approx(kind.of(codes_NR, 4, clusters).value(), abs=1e-12)  # type: ignore[attr-defined]


def test_a_sample_twice_is_refused() -> None:
    with pytest.raises(DataError, match="two records"):
        cohen_kappa([answer(1), answer(1)], [answer(1)])


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(value=0.712, low=0.55, high=0.841), "0.71 [0.55, 0.84]"),
        (ClusteredEstimate(value=-0.1, low=None, high=None, num_clusters=4), "−0.10 [–, –] (n = 4)"),
    ],
)
def test_text(estimate: Estimate, text: str) -> None:
    assert coefficient(estimate) == text
