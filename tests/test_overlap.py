"""Token F1 and ROUGE-L: known values, a slow path, and the table of open questions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_records import answers

from osler.cli.tables import print_accuracies
from osler.metrics import rouge_l, summarize_open, token_f1
from osler.metrics.overlap import longest_common_subsequence
from osler.reports.leniency import describe_undecided, open_blind, undecided_share
from osler.types import Record

VALUES = [
    # answer, reference, token F1, ROUGE-L
    ("liver", "Liver", 1, 1),
    ("The liver.", "liver", 1, 1),
    ("liver", "spleen", 0, 0),
    ("", "liver", 0, 0),
    ("liver", "", 0, 0),
    ("", "", 0, 0),
    ("left lung", "lung", 2 / 3, 2 / 3),
    ("lung left", "left lung", 1, 1 / 2),
    ("liver liver liver", "liver", 1 / 2, 1 / 2),
    ("heart and liver", "liver heart", 4 / 5, 2 / 5),
    ("the cat sat on the mat", "the cat was on a mat", 3 / 4, 3 / 4),
    ("左肺", "右肺", 1 / 2, 1 / 2),
    ("肝脏", "肝", 2 / 3, 2 / 3),
]


@pytest.mark.parametrize(("answer", "reference", "f1", "rouge"), VALUES)
def test_overlap(answer: str, reference: str, f1: float, rouge: float) -> None:
    assert token_f1(answer, reference) == pytest.approx(f1)
    assert rouge_l(answer, reference) == pytest.approx(rouge)


def slow_subsequence(one: list[str], other: list[str]) -> int:
    """The textbook table."""
    row = [0] * (len(other) + 1)
    for word in one:
        row = [0, *row[1:]] if not other else row
        new = [0]
        for place, candidate in enumerate(other):
            new.append(row[place] + 1 if word == candidate else max(new[-1], row[place + 1]))
        row = new
    return row[-1]


WORDS = st.lists(st.sampled_from("abcd"), max_size=12)


@given(one=WORDS, other=WORDS)
def test_the_subsequence_is_the_longest(one: list[str], other: list[str]) -> None:
    assert longest_common_subsequence(one, other) == slow_subsequence(one, other)


@given(answer=st.text(max_size=30), reference=st.text(max_size=30))
def test_overlap_is_a_symmetric_share(answer: str, reference: str) -> None:
    assert 0 <= rouge_l(answer, reference) <= token_f1(answer, reference) <= 1
    assert token_f1(answer, reference) == token_f1(reference, answer)
    assert rouge_l(answer, reference) == pytest.approx(rouge_l(reference, answer))


def open_records() -> list[Record]:
    texts = [
        ("liver", "correct", "exact"),
        ("small liver", "incorrect", "undecided"),
        ("spleen", "incorrect", "different"),
        (None, "no_answer", ""),
    ]
    rows = answers([1, 0, 0, 0], choices=())
    return [
        replace(row, target="Liver", answer=text, outcome=outcome, rule=f"answer_tag.text.{rule}" if rule else "empty")
        for row, (text, outcome, rule) in zip(rows, texts, strict=True)
    ]


def test_summary_of_open_questions() -> None:
    found = summarize_open([*open_records(), *answers([1, 1])], "subject")
    assert found is not None
    assert (found.accuracy.correct, found.accuracy.total) == (1, 4)
    assert found.token_f1.value == found.rouge_l.value == pytest.approx((1 + 2 / 3) / 4)
    assert found.token_f1.low is not None
    assert found.token_f1.low < (1 + 2 / 3) / 4 < (found.token_f1.high or 0)
    assert summarize_open(answers([1, 1])) is None


def test_every_table_says_how_many_open_answers_are_undecided(capsys: pytest.CaptureFixture[str]) -> None:
    rows = open_records()
    answered = {"Question prior": {row.sample_id: "the small liver" for row in rows}}
    print_accuracies([("GRPO", rows)], blind={"GRPO": {}}, blind_answers={"GRPO": answered})
    text = capsys.readouterr().out
    assert "Undecided open answers, which count as not correct: GRPO 25.0 % of the open questions." in text
    lines = [line for line in text.splitlines() if line.count("|") == 7][1:]
    cells = [[cell.strip().partition(" [")[0] for cell in line.split("|")] for line in lines]
    assert cells == [
        ["blind: Question prior", "4", "0.0", "0.0", "100.0", "0.0", "66.7", "66.7"],
        ["GRPO", "4", "25.0", "25.0", "25.0", "25.0", "41.7", "41.7"],
    ]
    print_accuracies([("GRPO", answers([1, 0]))])
    assert "pen " not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("shares", "line"),
    [
        ({"a": None}, None),
        ({"a": 0.0, "b": None}, "Undecided open answers, which count as not correct: none."),
        ({"a": 0.5, "b": 0.0}, "Undecided open answers, which count as not correct: a 50.0 % of the open questions; others none."),
    ],
)
def test_line_about_undecided_answers(shares: dict[str, float | None], line: str | None) -> None:
    assert describe_undecided(shares) == line


def test_shares_of_open_questions_only() -> None:
    assert undecided_share(answers([1, 0])) is None
    assert undecided_share([*answers([1, 0]), *open_records()]) == 0.25
    assert open_blind(open_records(), {"partial": {}}) is None
    assert open_blind(answers([1]), {}) is None
