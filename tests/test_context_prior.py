"""The blind baseline of the patient context: what a context gives away, and that data without one are audited as before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from small_audits import run

from osler.audits.baselines import ALL_BASELINES, BASELINES, blind_credits
from osler.audits.context_prior import ContextWords
from osler.audits.credits import compute_credits
from osler.audits.findings import read_audit, save_audit
from osler.audits.open_baselines import open_answers
from osler.cli.audit import print_audit
from osler.config import load_config
from osler.context import Context
from osler.reports.audit_page import verdict
from osler.reports.report import render_audit_page
from osler.types import Sample

TITLE = ALL_BASELINES["context_prior"].title


def question(number: int, target: str, context: Context | None, choices: tuple[str, ...] = ("Pneumonia", "Fracture")) -> Sample:
    return Sample(
        id=f"test/{number}",
        dataset="test",
        images=(),
        question="?",
        choices=choices,
        target=target,
        modality=None,
        question_type=None,
        context=context,
    )


COUGH, FALL = Context(indication="Cough, fever"), Context(indication="Fell down")
TRAIN = [question(number, *[("A", COUGH), ("B", FALL)][number % 2]) for number in range(8)]
CASES = [
    ("words of train", "A", Context(indication="fever"), 1.0),
    ("words of train, the other way", "B", Context(history="He fell"), 1.0),
    ("words that mislead", "A", Context(indication="fell down"), 0.0),
    ("no word of train", "A", Context(history="pale"), 0.5),
    ("no context", "A", None, 0.5),
    ("no words", "B", Context(age=70), 0.5),
]


@pytest.mark.parametrize(("name", "target", "context", "credit"), CASES, ids=[row[0] for row in CASES])
def test_the_words_of_a_context_answer(name: str, target: str, context: Context | None, credit: float) -> None:
    found = blind_credits(TRAIN, [question(99, target, context)])
    assert found["context_prior"] == {"test/99": pytest.approx(credit)}


def test_age_groups_sex_and_side_are_words() -> None:
    train = [question(number, "AB"[number % 2], Context(age=[8, 70][number % 2], sex="MF"[number % 2])) for number in range(8)]
    test = [question(20, "A", Context(age=12)), question(21, "B", Context(age="elderly")), question(22, "B", Context(sex="F"))]
    assert set(blind_credits(train, test)["context_prior"].values()) == {1.0}
    assert ContextWords.of(Context(age=30, laterality="L", text="Pale, 30")).words == {"age:adult", "laterality:left", "pale", "30"}  # type: ignore[union-attr]


def test_an_option_that_stands_in_the_context_answers_for_new_options() -> None:
    drugs = ["abscess", "cyst", "X-ray burn", "stone", "naevus", "sarcoma"]
    train = [question(i, "A", Context(history=f"known {one}"), (one, drugs[i - 1])) for i, one in enumerate(drugs)]
    (credit,) = blind_credits(train, [question(9, "B", Context(text="Polyp, seen before"), ("Ulcer", "polyp"))])["context_prior"].values()
    assert credit == 1.0


def test_options_and_order_alone_say_nothing() -> None:
    """Every option is right as often as it is wrong beside the same words: the baseline is at chance."""
    train = [question(number, "AB"[number // 2 % 2], [COUGH, FALL][number % 2]) for number in range(16)]
    test = [question(20 + number, "AB"[number % 2], COUGH) for number in range(4)]
    assert set(blind_credits(train, test)["context_prior"].values()) == {0.5}


def test_without_contexts_nothing_is_added() -> None:
    bare = [question(number, "AB"[number % 2], None) for number in range(4)]
    assert blind_credits(bare, bare).keys() == BASELINES.keys()
    assert blind_credits([], TRAIN).keys() == {"longest", "shortest", "lower_case"}
    opened = [question(number, "liver", None, ()) for number in range(4)]
    assert "context_prior" not in open_answers(opened, opened)


def test_open_questions_are_answered_beside_the_same_context() -> None:
    train = [question(number, ("pneumonia", "fracture")[number % 3 == 0], (FALL if number % 3 == 0 else COUGH), ()) for number in range(9)]
    test = [question(20, "fracture", FALL, ()), question(21, "pneumonia", Context(text="new"), ()), question(22, "fracture", COUGH, ())]
    assert list(open_answers(train, test)["context_prior"].values()) == ["fracture", "pneumonia", "pneumonia"]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Rows whose indication gives the answer away."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for split, start in (("train", 0), ("test", 100)):
        lines = []
        for number in range(start, start + 80):
            row: dict[str, Any] = {"id": f"{number}", "image": "a.png", "question": "Which?", "options": ["Pneumonia", "Fracture"]}
            row |= {"answer": "AB"[number % 2], "modality": "xray", "indication": ["cough", "fall"][number % 2]}
            lines.append(json.dumps(row) + "\n")
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    return tmp_path


def test_the_audit_shows_what_contexts_give_away(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--data.reader=jsonl", f"--data.root={rows}")
    found = run(*arguments)
    assert found.main.blind["context_prior"]["xray"]["xray"] == 1.0
    assert found.main.blind["option_prior"]["xray"]["xray"] == 0.5
    assert any(reason.startswith("shortcut: context prior answers 100.0 % of xray blind") for reason in found.reasons)
    print_audit(found)
    told = capsys.readouterr().out
    assert "Context prior" in told
    assert "The questions give themselves away: " in told
    assert "and the context prior answers 100.0 % of xray blind, more than 10.0 points above guessing (50.0 %)" in told
    assert "at chance" not in told
    assert "at chance, but not all: 1 of" in verdict(found.main)  # by the count of results alone
    assert "words of the patient context" in render_audit_page(found)
    save_audit(found.to_json(), tmp_path / "audit.json")
    assert read_audit(tmp_path / "audit.json") == found
    data = load_config(None, arguments).data
    from osler.data.select import load_split

    assert set(compute_credits(data, load_split(data, "test")).credits[TITLE].values()) == {1.0}


def test_data_without_contexts_have_no_such_row(rows: Path) -> None:
    for split in ("train", "test"):
        path = rows / f"{split}.jsonl"
        path.write_text(path.read_text().replace("indication", "remark"))
    found = run("--data.reader=jsonl", f"--data.root={rows}")
    assert found.main.blind.keys() == BASELINES.keys()
    assert "Context prior" not in render_audit_page(found)
