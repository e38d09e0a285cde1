"""The table of open questions: policies beside blind baselines, and a judge beside both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small_records import answer

from osler.audits.credits import write_credits
from osler.cli.judge import print_judges
from osler.evaluation.judge.prompt import PROMPT_SHA256, Ruling
from osler.evaluation.judge.rulings import RulingRow, append_ruling, case_of, rulings_file
from osler.evaluation.judge.summary import read_judges
from osler.evaluation.records import append_records
from osler.reports.load_runs import Evaluation
from osler.reports.make import write_report
from osler.reports.open_questions import OpenRow, open_rows
from osler.types import Record

ROWS = [
    # target, answer, outcome, rule
    ("Liver", "the liver", "correct", "exact"),
    ("Pleural effusion", "small pleural effusion", "incorrect", "undecided"),
    ("Mass", "large mass", "incorrect", "undecided"),
    ("Liver", "spleen", "incorrect", "different"),
    ("Liver", None, "no_answer", ""),
]
NEAREST = {f"toy/{number}": text for number, text in enumerate(("Liver", "effusion", "mass", "Heart", "Liver"))}


def records() -> list[Record]:
    return [
        replace(
            answer(number, choices=(), letter=text),
            prompt="What is it?\nGive only a short answer inside <answer> </answer>.",
            target=target,
            outcome=outcome,
            rule=f"answer_tag.text.{rule}" if rule else "empty",
        )
        for number, (target, text, outcome, rule) in enumerate(ROWS)
    ]


def section(html: str) -> str:
    """The section on open questions; "" without it."""
    return html.partition('<section id="open"')[2].partition("</section>")[0]


def shares(row: OpenRow) -> tuple[float | None, ...]:
    return tuple(None if share is None else round(share, 3) for share in (row.right.value, row.wrong, row.undecided, row.unread))


def test_every_answer_is_right_wrong_undecided_or_unread() -> None:
    blind, policy = open_rows(
        [Evaluation(label="grpo", title="GRPO", records=tuple(records()), blind_answers={"Nearest question": NEAREST})]
    )
    assert (blind.title, blind.is_blind, policy.title, policy.is_blind) == ("Nearest question", True, "GRPO", False)
    assert shares(policy) == (0.2, 0.2, 0.4, 0.2)
    assert shares(blind) == (0.6, 0.2, 0.2, 0.0)
    assert policy.token_f1.value == pytest.approx((1 + 4 / 5 + 2 / 3) / 5)


def test_blind_rows_stand_once_for_each_set_of_questions() -> None:
    whole = Evaluation(label="a", title="A", records=tuple(records()), blind_answers={"Nearest question": NEAREST})
    other = replace(whole, label="b", title="B")
    part = replace(whole, label="c", title="C", records=tuple(records()[:2]))
    without = replace(whole, label="d", title="D", blind_answers={})
    partial = replace(whole, label="e", title="E", records=tuple(records()[1:]), blind_answers={"Nearest question": {"toy/1": "x"}})
    assert [row.title for row in open_rows([whole, other, without])] == ["Nearest question", "A", "B", "D"]
    assert [row.title for row in open_rows([whole, part])][:2] == ["Nearest question (questions of A)", "Nearest question (questions of C)"]
    assert [row.title for row in open_rows([partial])] == ["E"]
    assert open_rows([replace(whole, records=(answer(1),))]) == ()


def test_the_page_shows_rules_judge_and_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    path = run / "records" / "grpo.jsonl"
    append_records(path, records())
    write_credits(path, {"Nearest question": dict.fromkeys(NEAREST, 0.5)}, {"Nearest question": NEAREST})
    write_report([run], tmp_path / "before.html", find_image=lambda _: None)
    before = (tmp_path / "before.html").read_text()
    assert "ROUGE-L" in section(before)
    assert "judge" not in section(before)

    for number, ruling in ((1, Ruling.RIGHT), (3, Ruling.RIGHT)):
        record = records()[number]
        case = case_of(record)
        assert case is not None
        texts = {"question": case.question, "target": case.target, "answer": case.answer, "reply": ""}
        row = RulingRow(key=case.key("big"), ruling=ruling, model="big", prompt=PROMPT_SHA256, sample_id=record.sample_id, **texts)
        append_ruling(rulings_file(path), row)
    (found,) = read_judges(path, records())
    assert found.undecided == {"right": 1, "wrong": 0, "undecided": 0, "none": 1}
    assert (found.rules.correct, found.both.correct, found.num_questions) == (1, 2, 5)
    assert (found.checked_wrong["right"], found.agreement.correct, found.agreement.total) == (1, 0, 1)
    write_report([run], tmp_path / "after.html", find_image=lambda _: None)
    after = (tmp_path / "after.html").read_text()
    assert "By rules and judge" in section(after)
    assert "big, prompt" in section(after)
    assert after.replace(section(after), section(before)) == before  # all other figures are those of the rules
    print_judges([("GRPO", found)])
    assert "Rules and judge" in capsys.readouterr().out
