"""What a report adds to accuracies: image gains, clusters and confidence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_report import STEPS, answers, evaluation, record, report_of

from osler.cli.tables import print_accuracies
from osler.reports.tables import gain_table


@pytest.mark.integration
def test_a_blind_row_brings_image_gains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blind = answers(6, 9, policy="option prior")
    html = report_of(tmp_path, {"blind": blind, "grpo": answers(8, 9), "sft": answers(4, 9)}, STEPS)
    assert "over Blind 66.7" in html
    assert "Blind</th><td" not in html[html.index("Changes</h3>") : html.index("Accuracy by modality</h3>")]
    rows = [evaluation("blind", blind), evaluation("grpo", answers(8, 9)), evaluation("other", [record(99)])]
    table = gain_table(rows)
    assert table is not None
    assert [row.title for row in table.rows] == ["GRPO", "other"]
    assert table.rows[0].average.value == pytest.approx(2 / 9)
    assert [cell.gain.value for cell in table.rows[1].cells] == [None, None]  # the baseline did not answer these questions
    assert gain_table(rows[1:]) is None
    print_accuracies([("Blind", blind), ("GRPO", answers(8, 9))])
    text = capsys.readouterr().out
    assert "Image gain" in text
    assert "+22.2 [" in text


@pytest.mark.integration
def test_every_table_says_how_many_answers_only_evaluation_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lenient = [replace(row, rule="statement.sentence") if number < 3 else row for number, row in enumerate(answers(8, 9))]
    line = "Answers read from sentences, which no reward pays for: Zero-shot 16.7 % of the answers; others none."
    print_accuracies([("Zero-shot", lenient), ("GRPO", answers(8, 9))])
    assert line in capsys.readouterr().out
    assert "no reward pays for: Zero-shot" in report_of(tmp_path, {"zero-shot": lenient, "grpo": answers(8, 9)})


def test_each_row_has_its_own_blind_baselines(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("Few", answers(8, 9)), ("Many", answers(8, 9))]
    own = {label: {"Prior": {row.sample_id: value for row in answers(8, 9)}} for label, value in (("Few", 0.5), ("Many", 0.75))}
    print_accuracies(rows, blind=own)
    gains = [line.rsplit("|", 1)[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith(("Few", "Many"))]
    assert [gain.split()[0] for gain in gains] == ["+38.9", "+13.9"]


def test_questions_of_one_image_are_counted_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = [replace(row, image_uris=(f"{number // 3}.png",)) for number, row in enumerate(answers(5, 9))]
    print_accuracies([("GRPO", shared)])
    assert "18 questions about 6 separate images or patients" in capsys.readouterr().out
    assert "18 questions about 6 separate images or patients" in report_of(tmp_path, {"grpo": shared})


@pytest.mark.integration
def test_confidence_has_its_own_section(tmp_path: Path) -> None:
    sure = [replace(row, option_probabilities=(0.9, 0.1), vote_share=0.75) for row in answers(8, 9)]
    none = [replace(row, answer=None, outcome="no_answer", option_probabilities=(0.9, 0.1)) for row in answers(8, 9)]
    html = report_of(tmp_path, {"grpo": sure, "sft": none, "zero_shot": answers(3, 9)})
    section = html[html.index('<section id="confidence"') : html.index('<section id="examples"')]
    assert section.count("<svg") == 1 + 2
    for text in ("option probabilities", "share of votes", "Reliability of GRPO (share of votes)", "75.0"):
        assert text in section
