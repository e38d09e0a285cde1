"""Scripted policies that read the context, the image, both or neither: the command, its JSON and the report say which."""

from __future__ import annotations

import html as markup
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_report import answers, report_of

import osler
from osler.cli.main import main
from osler.evaluation.compare import compare
from osler.evaluation.records import read_records
from osler.evaluation.reliance import follows, judge_reliance
from osler.metrics import paired_difference
from osler.metrics.gain import MIN_CHANGED
from osler.types import Completion, FinishReason, Prompt, Record

NUM = 48


def context_says(prompt: Prompt) -> bool:
    return "Indication: effusion" in prompt.text


def image_says(prompt: Prompt) -> bool:
    return bool(prompt.sample.images) and prompt.sample.images[0].load().getpixel((0, 0)) == (200, 200, 200)


POLICIES: dict[str, tuple[Callable[[Prompt], bool], str]] = {
    "context": (context_says, "reads the context and not the image"),
    "image": (image_says, "reads the image and not the context"),
    "both": (lambda prompt: context_says(prompt) and image_says(prompt), "reads both the context and the image"),
    "neither": (lambda prompt: int(prompt.sample.id.rpartition("/")[2]) % 3 == 0, "reads neither the context nor the image"),
}


class Scripted:
    """Answers by a rule about the prompt."""

    def __init__(self, name: str) -> None:
        self.policy_name, (self.says_yes, _) = name, POLICIES[name]

    def generate(self, prompts: Any, *, max_completion_length: int, num_generations: int = 1, sampling: Any = None, seed: int = 0) -> Any:
        texts = [f"<answer>{'A' if self.says_yes(prompt) else 'B'}</answer>" for prompt in prompts]
        return [[Completion(text=text, token_ids=(1,), finish_reason=FinishReason.STOP)] * num_generations for text in texts]


for name in POLICIES:
    osler.register_engine(f"reading_{name}")(lambda _, name=name: Scripted(name))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions that the context and the image both answer; two more have no context."""
    folder = tmp_path_factory.mktemp("rows")
    lines = []
    for number in range(NUM + 2):
        is_yes = number % 2 == 0
        Image.new("RGB", (8, 8), (200 if is_yes else 20,) * 3).save(folder / f"{number}.png")
        row = {"id": f"row/{number}", "image": f"{number}.png", "question": "Is there an effusion?", "options": ["Yes", "No"]}
        row |= {"answer": "AB"[not is_yes], "modality": "xray", "subject_id": f"p{number}"}
        known = {"age": 40 + number % 9, "sex": "MF"[number % 2], "indication": "effusion" if is_yes else "no effusion"}
        lines.append(json.dumps(row | (known if number < NUM else {})) + "\n")
    (folder / "test.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def command(rows: Path, out: Path, engine: str, *arguments: str) -> list[str]:
    data = ["--data.reader=jsonl", f"--data.root={rows}", "--data.train.modalities=[]", "--data.test.modalities=[]", "--data.test.limit=99"]
    return ["eval", "demo", *data, f"--eval.engine={engine}", "--prompt.strategy=no_think", "--out", str(out), "--json", *arguments]


def section(html: str) -> str:
    """The text of the section about the context."""
    part = html[html.index('<section id="reading"') :].split("</section>")[0]
    return " ".join(markup.unescape(re.sub(r"<[^>]+>", " ", part)).split())


CHANGES = ("no_context", "context_shuffled", "context_contradictory")


@pytest.mark.integration
@pytest.mark.parametrize("name", POLICIES)
def test_what_a_policy_reads_is_found_out(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    out = tmp_path / "run"
    verdict = POLICIES[name][1]
    assert main(command(rows, out, f"reading_{name}")) == 0
    assert main(command(rows, out, f"reading_{name}", "--ablation", "blank,swap_within," + ",".join(CHANGES))) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out.splitlines()[-1])
    assert found["context"] == {
        "questions": NUM,
        "follows_context": name in ("context", "both"),
        "follows_image": name in ("image", "both"),
        "verdict": verdict,
    }
    assert f"eval {verdict}, on {NUM} questions with a patient context" in printed.err
    assert {change: found["probes"][change]["left_out"] for change in CHANGES} == {change: {"no patient context": 2} for change in CHANGES}
    contradicted = read_records(out / "records" / "eval.context_contradictory.jsonl")
    assert {record.context_changes for record in contradicted} == {("age", "sex", "indication")}
    assert all("6-year-old" in record.prompt for record in contradicted)

    page = tmp_path / "report.html"
    osler.report([out], page)
    html = page.read_text(encoding="utf-8")
    text = section(html)
    assert f"run {verdict}." in text
    assert ('class="found-out"' in html) == (name == "context")
    assert ("Change of its accuracy by the context: no context" in html) == (name == "context")
    for title in ("Context and image as they are", "No context", "Context of another patient", "Contradictory context", "Image: blank"):
        assert f"{title} {NUM}" in text
    assert f"the contradictory contexts say the opposite of age in {NUM} questions, sex in {NUM}, indication in {NUM}." in text


def test_all_leaves_out_what_cannot_be_asked(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = tmp_path / "test.jsonl"
    lines = [json.loads(line) for line in (rows / "test.jsonl").read_text().splitlines()]
    bare.write_text("".join(json.dumps({key: row[key] for key in row if key not in ("age", "sex", "indication")}) + "\n" for row in lines))
    arguments = [f"--data.root={bare}", f"--data.images={rows}"]
    assert main(command(rows, tmp_path / "run", "reading_image", *arguments, "--ablation", "all")) == 0
    printed = capsys.readouterr()
    assert f"not asked, because no test question has one: {', '.join(CHANGES)}" in printed.err
    assert json.loads(printed.out.splitlines()[-1])["context"] is None
    assert main(command(rows, tmp_path / "none", "reading_image", *arguments, "--ablation", "no_context")) == 2
    assert "--ablation no_context changes the patient context, but no test question has one: use data with one" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    papers = ["--prompt.strategy=med_r1_no_think", "--ablation", "context_shuffled"]
    assert main(command(rows, tmp_path / "none", "reading_image", *papers)) == 2
    assert "but the strategy med_r1_no_think does not show it: use data" in capsys.readouterr().err


def test_other_contexts_are_other_questions(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The terms beside records hold the context, so records of other contexts are not resumed."""
    own = tmp_path / "rows"
    shutil.copytree(rows, own)
    asked = command(own, tmp_path / "run", "reading_neither", "--ablation", "context_shuffled")
    assert main(asked) == 0
    (own / "test.jsonl").write_text((rows / "test.jsonl").read_text().replace('"age": 40', '"age": 41'))
    capsys.readouterr()
    assert main(asked) == 2
    assert "was made with other" in capsys.readouterr().err


# The rule

PLAIN = answers(6, 9)


def changed(name: str, records: list[Record], answer: str | None = None, num: int = 0) -> list[Record]:
    """The records under a change; the first `num` give another answer."""
    fields = ("age",) if "contradictory" in name else None
    marked = [replace(one, ablation=name, context_changes=fields) for one in records]
    outcome = "correct" if answer == "A" else "incorrect"
    return [replace(one, answer=answer, outcome=outcome) for one in marked[:num]] + marked[num:]


def many(num: int) -> list[Record]:
    return answers(num // 4, num // 2)


@pytest.mark.parametrize(
    ("num", "num_changed", "expected"),
    [
        (200, 0, False),
        (200, 2, False),
        (16, 0, None),  # the upper limit of 0 of 16 is 19 %
        (200, 20, None),  # the interval holds 10 %
        (200, 45, True),
    ],
)
def test_few_questions_decide_nothing(num: int, num_changed: int, expected: bool | None) -> None:
    plain = [replace(one, answer="A", outcome="correct") for one in many(num)]
    result = compare("no_context", plain, changed("no_context", plain, "C", num_changed))
    # A wrong letter lowers the accuracy, which decides earlier than the share of changed answers.
    accuracy = result.change
    assert accuracy is not None
    is_lower = accuracy.difference.high is not None and accuracy.difference.high < 0
    assert follows([result]) is (True if is_lower else expected)
    same = result.same_answer
    assert same is not None
    assert same.low is not None
    assert (1 - same.low < MIN_CHANGED) == (expected is False)


def test_an_accuracy_that_rises_shows_no_reading() -> None:
    plain = [replace(one, answer="B", outcome="incorrect") for one in many(60)]
    assert follows([compare("blank", plain, changed("blank", plain, "A", 4))]) is None
    assert follows([]) is None


def test_only_questions_with_a_context_count() -> None:
    plain = many(100)
    part = changed("context_shuffled", plain[:40])
    found = judge_reliance(plain, {"context_shuffled": part, "blank": changed("blank", plain, "C", 100)})
    assert found is not None
    assert [one.num_questions for one in found.image] == [40]
    assert len(found.plain) == 40
    assert judge_reliance(plain, {"blank": plain}) is None


@pytest.mark.integration
@pytest.mark.parametrize(
    ("evaluations", "present", "absent"),
    [
        (
            {"grpo": PLAIN, "grpo.no_context": changed("no_context", PLAIN)},
            ["GRPO whether it reads the context is not clear from 18 questions; whether it reads the image was not asked"],
            ["Image:", "say the opposite of"],
        ),
        ({"grpo.no_context": changed("no_context", PLAIN)}, ["GRPO was not asked the unaltered questions", "No context 18"], ["nan"]),
        (
            {"grpo": PLAIN, "grpo.no_context": changed("no_context", [replace(one, policy="other") for one in PLAIN])},
            None,
            [],
        ),
        ({"grpo": PLAIN, "grpo.blank": changed("blank", PLAIN)}, None, []),
        ({"blind": answers(6, 9, policy="option prior")}, None, []),
    ],
)
def test_what_is_missing_is_said(
    tmp_path: Path, evaluations: dict[str, list[Record]], present: list[str] | None, absent: list[str]
) -> None:
    html = report_of(tmp_path, evaluations)
    assert ('id="reading"' in html) == (present is not None)
    assert ("another policy or strategy answered under no context, so that is not shown" in html) == ("policy='other'" in repr(evaluations))
    text = section(html) if present is not None else ""
    for part in present or []:
        assert part in text
    for part in absent:
        assert part not in text


def test_the_numbers_by_hand(tmp_path: Path) -> None:
    altered = changed("context_contradictory", PLAIN, "B", 9)
    text = section(report_of(tmp_path, {"grpo": PLAIN, "grpo.context_contradictory": altered}))
    difference = paired_difference(PLAIN, altered, "subject")
    assert (difference.gained, difference.lost) == (0, 6)
    assert "Contradictory context 18 33.3 [16.3, 56.3] −33.3 [" in text
    same = compare("context_contradictory", PLAIN, altered).same_answer
    assert same is not None
    assert same.value is not None
    assert f"{100 * (1 - same.value):.1f} [" in text
    assert "GRPO: the contradictory contexts say the opposite of age in 18 questions." in text
