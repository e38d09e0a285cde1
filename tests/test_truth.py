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
from osler.cli.tables import print_accuracies
from osler.evaluation.truth import luck, measure_truth, reasoning_state, truth_difference, truth_to_json
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
    ("reasons unasked", {"strategy": "no_think"}, None),
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


def shown(number: int, seen: str, /, *said: str, **others: object) -> Record:
    """A record about an image with the sign `seen`; its reasoning states the signs `said`."""
    statements = [sign(value, T if value == seen else F) for value in said]
    return replace(reasoned(number, statements, **others), facts=facts(seen))  # type: ignore[arg-type]


def test_luck_with_usual_statements() -> None:
    """A is stated most often, then B. The reasoning with two statements gets both, so one of them is false of its image."""
    records = [shown(0, "A", "A"), shown(1, "A", "B"), shown(2, "B", "A"), shown(3, "C", "A", "B"), shown(4, "B")]
    found = luck(records)
    assert found is not None
    assert (found.usual.true_reasonings.correct, found.usual.num_reasonings) == (2, 5)  # 0 and 1; the silent one is unchecked
    assert (found.usual.true_statements.correct, found.usual.num_checked) == (2, 5)
    conclusion = sign("B", T, repeats_answer=True)
    told = [replace(record, statements=(*(record.statements or ()), conclusion)) for record in records]
    assert luck(told) == found  # conclusions are no evidence


def test_usual_statements_are_those_of_the_same_modality_and_question_type() -> None:
    records = [shown(0, "A", "A"), shown(1, "B", "B", modality="ct"), replace(shown(2, "C", "C"), question_type="lesion_grading")]
    found = luck(records)
    assert found is not None
    assert (found.usual.true_reasonings.correct, found.usual.num_reasonings) == (3, 3)


@pytest.mark.parametrize("seed", range(5))
def test_no_reasoning_is_compared_with_its_own_image_or_subject(seed: int) -> None:
    """Every image has a sign of its own, which its two questions state; images 8 and 9 are of one subject."""
    records = [
        shown(number, own, own, image=number // 2, subject="s" if number > 15 else None)
        for number in range(20)
        for own in [f"sign {min(number // 2, 8)}"]
    ]
    found = luck(records, seed)
    assert found == luck(records, seed)
    assert found is not None
    assert (found.other_image.true_reasonings.correct, found.other_image.num_reasonings) == (0, 20)
    assert found.other_image.true_reasonings.num_clusters == 9


def test_luck_without_another_subject_or_anything_known() -> None:
    alone = luck([shown(0, "A", "A"), shown(1, "A", "A", modality="ct")])
    assert alone is not None
    assert (alone.other_image.true_reasonings.value, alone.usual.true_reasonings.value) == (None, 1.0)
    assert luck([answer(0)]) is None
    assert truth_to_json([answer(0)]) is None


def said_of(modality: str, *, right: int, true: int, size: int = 8, strategy: str = "think") -> list[Record]:
    rows = [
        shown(i, SIGNS[i % 2], SIGNS[(i + (i >= true)) % 2], is_right=i < right, dataset=modality, modality=modality) for i in range(size)
    ]
    return [replace(row, strategy=strategy) for row in rows]


def test_the_json_has_each_modality() -> None:
    found = json.loads(json.dumps(truth_to_json([*said_of("mri", right=4, true=6), *said_of("ct", right=4, true=0)])))
    assert (found["reasonings"], found["true_reasonings"]["value"]) == (16, 6 / 16)
    assert {name: part["true_reasonings"]["value"] for name, part in found["modalities"].items()} == {"ct": 0.0, "mri": 0.75}
    assert found["modalities"]["ct"]["luck"].keys() == {"usual_statements", "other_image"}


def test_one_policy_has_a_column_for_each_modality(capsys: pytest.CaptureFixture[str]) -> None:
    print_accuracies([("eval", [*said_of("mri", right=4, true=6), *said_of("ct", right=4, true=0)])], in_domain=["mri"])
    lines = {line.split("|")[0].strip(): line.split("|")[1:] for line in capsys.readouterr().out.splitlines() if "|" in line}
    assert [cell.split()[0] for cell in lines["True reasonings"]] == ["75.0", "0.0"]
    assert [cell.split()[0] for cell in lines["Right, false reason"]] == ["0.0", "100.0"]
    assert [cell.strip() for cell in lines["Checked"]] == ["8", "8"]
    assert lines["eval"][-1].split()[0] == "37.5"


def test_several_policies_have_a_row_each(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("zero", said_of("mri", right=4, true=6)), ("after", said_of("mri", right=8, true=0, strategy="think_after"))]
    print_accuracies([*rows, ("silent", [answer(i, modality="mri", dataset="mri") for i in range(8)])], in_domain=["mri", "ct"])
    accuracies, truths, measures = capsys.readouterr().out.split("\n\n")
    assert "silent" in accuracies
    assert truths.startswith("True reasonings")
    assert measures.startswith("Is the reasoning true? MRI")
    assert "silent" not in truths + measures
    assert [line.split("|")[1].split()[0] for line in measures.splitlines()[3:5]] == ["75.0", "0.0"]


def test_nothing_is_printed_without_reasonings(capsys: pytest.CaptureFixture[str]) -> None:
    print_accuracies([("eval", [answer(i) for i in range(8)])])
    assert "rue" not in capsys.readouterr().out


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
    text = capsys.readouterr().out
    assert "True reasonings, diagonal" in text
    assert "GRPO, Think: true reasonings, %" in text
    assert "GRPO, No-Think: true reasonings, %" not in text


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
