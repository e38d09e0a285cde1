"""Image gain and matrices, each against a count by hand, a simulation or the paired test of single cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from small_records import answer, answers

from osler import metrics
from osler.errors import DataError
from osler.metrics import ImageGain
from osler.metrics.matrices import Cell
from osler.types import Record

RIGHT = [1, 1, 1, 0]
HALF = {f"toy/{i}": 0.5 for i in range(4)}
ROWS: list[tuple[str, list[Record], Mapping[str, Mapping[str, float]], str | None, float | None]] = [
    ("guessing is always a baseline", answers(RIGHT), {}, "guessing", 0.75 - 0.25),
    ("the better baseline", answers(RIGHT), {"prior": HALF, "letter": dict.fromkeys(HALF, 0.3)}, "prior", 0.25),
    ("worse than guessing", answers(RIGHT), {"prior": dict.fromkeys(HALF, 0.0)}, "guessing", 0.5),
    ("shared ties", answers(RIGHT), {"prior": {"toy/0": 1, "toy/1": 1 / 3, "toy/2": 1 / 3, "toy/3": 1 / 3}}, "prior", 0.25),
    ("shared questions only", answers(RIGHT), {"prior": {"toy/0": 0.5, "toy/3": 0.5}}, "prior", 0.0),
    ("worse than blind", answers([0, 0, 0, 1]), {"prior": dict.fromkeys(HALF, 1.0)}, "prior", -0.75),
    ("open-ended questions cannot be guessed", answers(RIGHT, choices=()), {}, "guessing", 0.75),
    ("nothing in common", answers(RIGHT), {"prior": {"other/1": 1.0}}, None, None),
    ("no questions", [], {"prior": HALF}, None, None),
    ("one question", answers([1]), {"prior": HALF}, "prior", 0.5),
]


@pytest.mark.parametrize(("name", "records", "blind", "baseline", "gain"), ROWS, ids=[row[0] for row in ROWS])
def test_image_gain(
    name: str, records: list[Record], blind: Mapping[str, Mapping[str, float]], baseline: str | None, gain: float | None
) -> None:
    found = metrics.image_gain(records, blind)
    assert found.baseline == baseline
    assert found.gain.value == (pytest.approx(gain) if gain is not None else None)
    if gain is None:
        assert (found.accuracy, found.blind, found.p_value, found.num_samples, str(found.gain)) == (None, None, None, 0, "–")
    else:
        assert found.gain.low is not None
        assert found.gain.high is not None
        assert -1 <= found.gain.low < gain < found.gain.high <= 1


@pytest.mark.parametrize("credit", [-0.1, 1.5, float("nan")])
def test_a_credit_is_a_share(credit: float) -> None:
    with pytest.raises(DataError, match="the baseline 'prior' gives 'toy/0' a credit"):
        metrics.image_gain(answers([1]), {"prior": {"toy/0": credit}})


def test_a_question_twice_is_refused() -> None:
    with pytest.raises(DataError, match="two records on one side"):
        metrics.image_gain([answer(0), answer(0)], {})


def test_credits_of_records() -> None:
    records = [answer(0, False), answer(1, choices=("yes", "no")), answer(2, choices=())]
    assert metrics.record_credits(records) == {"toy/0": 0, "toy/1": 1, "toy/2": 1}
    assert metrics.guess_credits(records) == {"toy/0": 0.25, "toy/1": 0.5, "toy/2": 0}


@pytest.mark.slow
def test_the_interval_of_a_gain_covers_the_truth() -> None:
    """Over blind credits with ties, and images with several questions each."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        leans = np.repeat(rng.beta(3, 1, 60), 3)
        credit = rng.choice([0.0, 0.5, 1.0], size=180, p=[0.5, 0.2, 0.3])
        records = answers((rng.random(180) < leans).astype(int).tolist(), np.repeat(np.arange(60), 3).tolist())
        blind = {record.sample_id: float(value) for record, value in zip(records, credit, strict=True)}
        gain = metrics.image_gain(records, {"prior": blind}, "image").gain
        assert gain.low is not None
        assert gain.high is not None
        hits += gain.low <= 0.75 - 0.4 <= gain.high
    assert hits >= 90


def test_binary_credits_are_a_paired_difference() -> None:
    rng = np.random.default_rng(1)
    before, after = (answers(rng.binomial(1, share, 200).tolist()) for share in (0.4, 0.6))
    gain = metrics.image_gain(after, {"blind": metrics.record_credits(before)})
    change = metrics.paired_difference(before, after)
    assert gain.gain.value == pytest.approx(change.difference.value)
    assert (gain.gain.low, gain.gain.high) == pytest.approx((change.difference.low, change.difference.high), abs=0.005)
    assert gain.p_value == pytest.approx(change.p_value, abs=0.02)


# Matrices


def matrix(shares: Mapping[Cell, float], size: int, seed: int = 0, images: int | None = None) -> dict[Cell, list[Record]]:
    """Policies in rows; a column asks each of them the same questions, some of which are easy for all."""
    rng = np.random.default_rng(seed)
    columns = sorted({column for _, column in shares})
    ease = {column: np.repeat(rng.normal(0, 0.15, images or size), size // (images or size)) for column in columns}
    return {
        (row, column): answers(
            (rng.random(size) < share + ease[column]).astype(int).tolist(),
            [i % (images or size) if images else i for i in range(size)],
            dataset=column,
        )
        for (row, column), share in shares.items()
    }


SHARES = {("mri", "mri"): 0.9, ("mri", "ct"): 0.5, ("ct", "mri"): 0.4, ("ct", "ct"): 0.8}


def test_means_of_a_matrix_are_plain_means_of_cells() -> None:
    cells = matrix(SHARES, 40)
    cells["ct", "ct"] = cells["ct", "ct"][:10]
    value = {cell: sum(metrics.is_correct(record) for record in records) / len(records) for cell, records in cells.items()}
    found = metrics.matrix_means(cells)
    assert found.everything.value == pytest.approx(sum(value.values()) / 4)
    assert found.diagonal.value == pytest.approx((value["mri", "mri"] + value["ct", "ct"]) / 2)
    assert found.off_diagonal.value == pytest.approx((value["mri", "ct"] + value["ct", "mri"]) / 2)


def test_the_interval_of_a_mean_is_a_bootstrap_of_questions() -> None:
    """Resampling a question resamples the answers of all policies to it."""
    cells = matrix(SHARES, 200, seed=3)
    found = metrics.matrix_means(cells).everything
    rng = np.random.default_rng(0)
    right = {cell: np.asarray([metrics.is_correct(record) for record in records]) for cell, records in cells.items()}
    means = []
    for _ in range(1500):
        drawn = {column: rng.integers(0, 200, 200) for column in ("mri", "ct")}
        means.append(np.mean([right[cell][drawn[cell[1]]].mean() for cell in right]))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.012)


EMPTY: list[tuple[str, dict[Cell, list[Record]], tuple[bool, bool, bool]]] = [
    ("no cells", {}, (False, False, False)),
    ("one cell of one sample", {("mri", "mri"): answers([1])}, (True, False, True)),
    ("an empty cell", {("mri", "mri"): answers([1]), ("mri", "ct"): []}, (True, False, False)),
    ("one row", {("zero-shot", "mri"): answers([1, 0]), ("zero-shot", "ct"): answers([1])}, (False, True, True)),
]


@pytest.mark.parametrize(("name", "cells", "has_value"), EMPTY, ids=[row[0] for row in EMPTY])
def test_matrices_that_lack_cells(name: str, cells: dict[Cell, list[Record]], has_value: tuple[bool, bool, bool]) -> None:
    for found in (
        metrics.matrix_means(cells),
        metrics.matrix_difference(cells, cells).means,
        metrics.matrix_gains(cells, {}).means,
    ):
        values = (found.diagonal, found.off_diagonal, found.everything)
        assert tuple(part.value is not None for part in values) == has_value
        for part in values:
            assert (part.low is None) == (part.value is None)


def test_the_difference_of_matrices_marks_cells_by_holm() -> None:
    before = matrix(dict.fromkeys(SHARES, 0.5), 200, seed=4)
    after = matrix({**dict.fromkeys(SHARES, 0.5), ("mri", "mri"): 0.95}, 200, seed=5)
    del after["ct", "mri"]
    found = metrics.matrix_difference(before, after)
    assert list(found.cells) == list(before)
    tests = {cell: metrics.paired_difference(before[cell], after.get(cell, []), "subject") for cell in before}
    assert {cell: part.change for cell, part in found.cells.items()} == tests
    adjusted = metrics.holm([test.p_value for test in tests.values()])
    assert tuple(part.adjusted_p for part in found.cells.values()) == adjusted
    marks = {cell: part.is_significant for cell, part in found.cells.items()}
    assert marks == {("mri", "mri"): True, ("mri", "ct"): False, ("ct", "mri"): None, ("ct", "ct"): False}
    assert found.means.everything.value is None
    assert found.means.diagonal.value == pytest.approx(
        sum((tests[cell].difference.value or 0) for cell in (("mri", "mri"), ("ct", "ct"))) / 2
    )


def test_the_mean_difference_is_a_bootstrap_of_images() -> None:
    before, after = matrix(SHARES, 120, seed=6, images=40), matrix({cell: 0.1 + share for cell, share in SHARES.items()}, 120, 7, images=40)
    found = metrics.matrix_difference(before, after).means.everything
    changes = {cell: by_image(before[cell], after[cell]) for cell in before}
    rng = np.random.default_rng(0)
    means = []
    for _ in range(1500):
        drawn = {column: rng.integers(0, 40, 40) for column in ("mri", "ct")}
        means.append(np.mean([change[drawn[cell[1]]].mean() for cell, change in changes.items()]))
    assert found.value == pytest.approx(np.mean([change.mean() for change in changes.values()]))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.015)


def by_image(before: Sequence[Record], after: Sequence[Record]) -> np.ndarray:
    """The mean change of each of 40 images, which have three questions each."""
    change = np.asarray([metrics.is_correct(b) * 1.0 for b in after]) - np.asarray([metrics.is_correct(a) * 1.0 for a in before])
    return change.reshape(3, 40).mean(axis=0)


def test_gains_of_a_matrix_are_those_of_its_cells() -> None:
    cells = matrix(SHARES, 60, seed=8)
    blind = {cell: {"prior": {record.sample_id: 0.5 for record in records}} for cell, records in cells.items()}
    found = metrics.matrix_gains(cells, blind)
    expected: dict[Cell, ImageGain] = {cell: metrics.image_gain(records, blind[cell]) for cell, records in cells.items()}
    assert found.cells == expected
    assert found.means.everything.value == pytest.approx(sum((gain.gain.value or 0) for gain in expected.values()) / 4)
