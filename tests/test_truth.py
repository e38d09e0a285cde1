"""The truth of reasonings: shares, luck, paired changes, tables and matrices, from records with known statements."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from small_matrices import make_matrices, report_of
from small_records import answer

from osler.cli.matrix import print_matrices
from osler.evaluation.truth import measure_truth, reasoning_state, truth_difference
from osler.facts import Fact, Facts, Kind, Statement, Truth
from osler.metrics.truth import checked, state_of
from osler.reports.matrices import AxisMatrices, MatrixRecords, read_matrix
from osler.types import Record

SIGNS = ("a bright ring", "a dark area", "a pale spot")
T, F, N = Truth.TRUE, Truth.FALSE, Truth.NOT_CHECKABLE


def sign(value: str, truth: Truth = N, *, kind: Kind = Kind.SIGN, repeats_answer: bool = False) -> Statement:
    return Statement(kind=kind, value=value, begin=0, end=len(value), truth=truth, repeats_answer=repeats_answer)


def facts(*values: str) -> Facts:
    """Each value is a sign that the image shows; every other sign is known to be absent."""
    return Facts(facts=tuple(Fact(kind=Kind.SIGN, value=value) for value in values), closed=(Kind.SIGN,))


def reasoned(number: int, said: Sequence[Statement] | None, *, is_right: bool = True, text: str | None = None, **others: object) -> Record:
    """A Think record about an image that shows the first sign, with the statements `said`."""
    record = answer(number, is_right, **others)  # type: ignore[arg-type]
    joined = None if said is None else ". ".join(part.value for part in said)
    reasoning = joined if text is None else text
    statements = None if said is None else tuple(said)
    return replace(record, strategy="think", reasoning=reasoning, statements=statements, facts=facts(SIGNS[0]))


STATES = [
    ([], "unchecked"),
    ([sign("x", N)], "unchecked"),
    ([sign("x", T)], "true"),
    ([sign("x", T), sign("y", N)], "true"),
    ([sign("x", F)], "false"),
    ([sign("x", T), sign("y", F)], "false"),
    ([sign("x", T, repeats_answer=True)], "unchecked"),  # a conclusion is no evidence
    ([sign("x", F, repeats_answer=True), sign("y", T)], "true"),
]


@pytest.mark.parametrize(("said", "state"), STATES)
def test_the_state_of_a_reasoning(said: list[Statement], state: str) -> None:
    assert state_of(said) == state == reasoning_state(reasoned(0, said))
    assert len(checked(said)) == sum(part.truth is not N and not part.repeats_answer for part in said)


WITHOUT = [
    ("facts unknown", {"facts": None}, None),
    ("no-think", {"strategy": "no_think", "reasoning": None, "statements": None}, None),
    ("strategy of another package", {"strategy": "ponder", "reasoning": None, "statements": None}, None),
    ("think, but silent", {"reasoning": None, "statements": None}, "unchecked"),
    ("think-after, but silent", {"strategy": "think_after", "reasoning": None, "statements": None}, "unchecked"),
    ("reasons unasked", {"strategy": "no_think"}, "true"),
]


@pytest.mark.parametrize(("name", "fields", "state"), WITHOUT, ids=[row[0] for row in WITHOUT])
def test_silence_is_not_truth(name: str, fields: dict[str, object], state: str | None) -> None:
    record = replace(reasoned(0, [sign("x", T)]), **fields)  # type: ignore[arg-type]
    assert reasoning_state(record) == state
    assert (measure_truth([record]) is None) is (state is None)


def five() -> list[Record]:
    """Two true reasonings, one of a wrong answer; two false; one unchecked. Texts 1 and 4 differ only in case and signs."""
    return [
        reasoned(0, [sign(SIGNS[0], T), sign("x", N)]),
        reasoned(1, [sign(SIGNS[0], T)], is_right=False, text="Bright ring!"),
        reasoned(2, [sign(SIGNS[0], T), sign(SIGNS[1], F)]),
        reasoned(3, [sign(SIGNS[1], F)], is_right=False),
        reasoned(4, [sign("x", T, repeats_answer=True)], text="a  bright ring"),
    ]


def test_shares_and_counts() -> None:
    records = [*five(), replace(five()[4], sample_id="toy/5", image_uris=("5.png",), reasoning="A bright ring.")]
    found = measure_truth(records)
    assert found is not None
    shares = (found.true_reasonings, found.true_statements, found.right_for_false_reason, found.right_for_no_reason)
    assert [(share.correct, share.total) for share in shares] == [(2, 6), (3, 5), (1, 4), (2, 4)]
    assert (found.num_reasonings, found.num_checked, found.distinct) == (6, 5, 5)
    assert found.most_common == ("a  bright ring", 2)
    assert found.mean_words == pytest.approx((4 + 2 + 6 + 3 + 3 + 3) / 6)
    values = json.loads(json.dumps(found.to_json()))
    assert values["true_reasonings"]["value"] == pytest.approx(1 / 3)
    assert (values["checked_statements"], values["distinct_reasonings"], values["most_common"]["count"]) == (5, 5, 2)


def test_nothing_to_measure_is_none_and_never_zero() -> None:
    found = measure_truth([reasoned(0, None, is_right=False)])
    assert found is not None
    assert [found.true_statements.value, found.right_for_false_reason.value, found.most_common] == [None, None, None]
    assert str(found.right_for_no_reason) == "\N{EN DASH}"
    assert measure_truth([]) is None


def test_intervals_are_by_subject() -> None:
    said = [[sign("x", T if i % 2 else F)] for i in range(20)]
    apart = measure_truth([reasoned(i, part) for i, part in enumerate(said)])
    joined = measure_truth([reasoned(i, part, subject=str(i % 2)) for i, part in enumerate(said)])
    assert apart is not None
    assert joined is not None
    for name in ("true_reasonings", "true_statements"):
        narrow, wide = getattr(apart, name), getattr(joined, name)
        assert (narrow.value, wide.value, wide.num_clusters) == (0.5, 0.5, 2)
        assert wide.high - wide.low > narrow.high - narrow.low


def test_paired_changes() -> None:
    before = five()
    after = [reasoned(number, [sign(SIGNS[1], F)]) for number in range(5)]
    change = truth_difference(before, after)
    assert change is not None
    assert (change.true_reasonings.gained, change.true_reasonings.lost, change.true_reasonings.num_samples) == (0, 2, 5)
    assert (change.accuracy.gained, change.accuracy.num_samples) == (2, 5)
    # Questions 0, 2 and 4 are right on both sides; before, the reasoning of 2 was false.
    assert (change.right_for_false_reason.gained, change.right_for_false_reason.num_samples) == (2, 3)
    assert change.to_json()["true_reasonings"]["value"] == pytest.approx(-2 / 5)
    assert truth_difference(before, [replace(record, facts=None) for record in after]) is None


def matrix(own: Truth, other: Truth) -> AxisMatrices:
    """Zero-shot and GRPO with Think: on each diagonal the reasonings are `own`, off it `other`; a blind matrix without reasonings."""
    domains = ("mri", "ct")
    cells = {
        (train, test): [reasoned(i, [sign("x", own if train == test else other)], dataset=test) for i in range(4)]
        for train in domains
        for test in domains
    }
    silent = {cell: [replace(record, strategy="no_think", reasoning=None) for record in records] for cell, records in cells.items()}
    return make_matrices(
        MatrixRecords(row="grpo", strategy="think", cells=cells), MatrixRecords(row="grpo", strategy="no_think", cells=silent)
    )


def test_a_matrix_has_truth_beside_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    found = matrix(T, F)
    think, no_think = found.matrices.values()
    assert think.truth_means is not None
    assert think.right_for_false_reason_means is not None
    assert (think.truth_means.diagonal.value, think.truth_means.off_diagonal.value) == (1.0, 0.0)
    assert (think.right_for_false_reason_means.diagonal.value, think.right_for_false_reason_means.everything.value) == (0.0, 0.5)
    cell = think.cells["mri"]["ct"].truth
    assert cell is not None
    assert (cell.value, cell.num_reasonings, cell.right_for_false_reason.value) == (0.0, 4, 1.0)
    assert (no_think.truth_means, no_think.cells["mri"]["ct"].truth) == (None, None)
    print_matrices([found])
    assert "True reasonings, diagonal" in capsys.readouterr().out


def test_a_matrix_file_is_read_with_and_without_truth(tmp_path: Path) -> None:
    report = report_of(matrix(T, N))
    values = report.to_json()
    (tmp_path / "matrix.json").write_text(json.dumps(values))
    assert read_matrix(tmp_path) == report
    for part in values["axes"]["modality"]["matrices"].values():  # as an earlier version wrote it
        del part["truth_means"], part["right_for_false_reason_means"]
        for cell in (cell for row in part["cells"].values() for cell in row.values()):
            del cell["truth"]
    (tmp_path / "matrix.json").write_text(json.dumps(values))
    old = read_matrix(tmp_path).axes["modality"].matrices["grpo-think"]
    assert (old.truth_means, old.cells["mri"]["mri"].truth) == (None, None)
