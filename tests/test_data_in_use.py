"""What the verbs do with data of which rows are refused, that were corrected, or that name no reader."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from osler.cli.main import main
from osler.data import readers
from osler.evaluation.votes import grade_group
from osler.prompts import render
from osler.types import Completion, FinishReason, Sample

SELECTION = ["--prompt.strategy=no_think", "--data.test.modalities=[]", "--data.train.modalities=[]", "--rewards.names=['accuracy']"]


def write_rows(folder: Path, *, answer: str = "A", grey: int = 50, broken: int = 0) -> Path:
    """Eight questions of each split, two images, and as many rows that are refused."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(2):
        Image.new("L", (56, 56), grey + number).save(folder / f"images/{number}.png")
    for split in ("train", "test"):
        rows: list[Any] = [
            {"id": f"{split}{number}", "image": f"images/{number % 2}.png", "question": f"Which, in {number}?", "choices": ["CT", "MRI"]}
            | {"answer": answer, "modality": "ct"}
            for number in range(8)
        ]
        rows += [{"image": "images/0.png", "question": "Which?", "answer": "B"}] * broken
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(autouse=True)
def _told_nothing() -> None:
    readers._TOLD.clear()


VERBS: dict[str, list[str]] = {
    "eval": ["eval", "demo", "--eval.engine=option_prior"],
    "dry run": ["train", "demo", "--dry-run"],
    "sft dry run": ["sft", "demo", "--dry-run"],
    "convert": ["data", "convert", "demo", "--split", "test"],
    "view": ["data", "view", "demo"],
    "export": ["export", "demo", "--to", "ms_swift", "--splits", "test"],
    "split": ["split", "demo", "--images", "none"],
    "audit": ["audit", "demo", "--images", "paths"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_once_that_rows_are_refused(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    root = write_rows(tmp_path / "data", broken=3)
    out = ["--out", str(tmp_path / ("out.html" if verb == "view" else "out"))] if "dry" not in verb and verb != "audit" else []
    command = [*VERBS[verb], "--data.reader=jsonl", f"--data.root={root}", *SELECTION, *out]
    caplog.set_level(logging.WARNING, logger="osler")
    assert main(command) == 0, capsys.readouterr().err
    lines = [record.getMessage() for record in caplog.records if record.name == "osler"]
    assert lines
    assert len(lines) == len(set(lines))
    for line in lines:
        assert "rows of jsonl are refused and left out, the first t" in line
        assert "is the letter 'B', and the row has no options" in line
    capsys.readouterr()
    assert main([*command, "--strict"]) == (1 if verb == "check" else 2)
    error = capsys.readouterr().err
    assert "rows are refused, the first " in error
    assert error.count("\n") == 1


def test_the_line_goes_to_standard_error_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = write_rows(tmp_path / "data", broken=1)
    logger = logging.getLogger("osler")
    root_handlers, logging.getLogger().handlers = logging.getLogger().handlers, []
    try:
        readers.read("jsonl", root, split="test")
    finally:
        logging.getLogger().handlers = root_handlers
    assert logger.handlers == []
    found = capfd.readouterr()
    assert found.out == ""
    assert found.err.startswith("osler: 1 of 9 rows of jsonl are refused")
    assert found.err.count("\n") == 1


def test_every_row_refused_is_said_with_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps({"image": "a.png", "question": "Which?", "answer": "B"}))
    assert main(["eval", "demo", "--data.reader=jsonl", f"--data.root={tmp_path}", *SELECTION, "--dry-run"]) == 2
    assert "every row of jsonl is refused, such as test.jsonl:1: the right answer is the letter 'B'" in capsys.readouterr().err


def test_a_refused_row_is_blamed_for_its_own_split_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = {"image": "a.png", "question": "Which?", "choices": ["CT", "MRI"]}
    rows = [{**question, "id": number, "answer": answer} for number, answer in enumerate(("A", "E"))]
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "test.jsonl").write_text("")
    assert main(["audit", "--data.reader=jsonl", f"--data.root={tmp_path}"]) == 2
    assert "[data.test] selects nothing from jsonl (split 'test'): it has no questions at all" in capsys.readouterr().err


# Records and policies belong to the answers and images that they were made with


def command_of(root: Path, out: Path) -> list[str]:
    return ["eval", "demo", "--data.reader=jsonl", f"--data.root={root}", *SELECTION, "--eval.engine=option_prior", "--out", str(out)]


@pytest.mark.parametrize("change", [{"answer": "B"}, {"grey": 90}])
def test_an_evaluation_of_changed_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]) -> None:
    root = write_rows(tmp_path / "data")
    command = command_of(root, tmp_path / "run")
    assert main(command) == 0
    assert main(command) == 0
    write_rows(root, **change)
    capsys.readouterr()
    assert main(command) == 2
    assert "was made with other answers or images of the questions" in capsys.readouterr().err
    assert main([*command, "--fresh"]) == 0


@pytest.mark.integration
@pytest.mark.parametrize("change", [{"answer": "B"}, {"grey": 90}])
def test_a_training_on_changed_data_is_refused(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    root = write_rows(tmp_path / "data")
    sizes = ["--grpo.num_generations=2", "--grpo.per_device_train_batch_size=4", "--grpo.max_steps=1", "--sampling.max_completion_length=3"]
    reader = ["--data.reader=jsonl", f"--data.root={root}", f"--policy.path={tiny_folder}", "--policy.device=cpu", "--data.train.limit=4"]
    command = ["train", "demo", "--out", str(tmp_path / "run"), *reader, *SELECTION, *sizes]
    assert main([*command, "--rewards.weights=[1]", "--grpo.disable_tqdm=true"]) == 0, capsys.readouterr().err
    write_rows(root, **change)
    capsys.readouterr()
    assert main([*command, "--rewards.weights=[1]", "--grpo.disable_tqdm=true"]) == 2
    assert "was trained on other answers or images: give another --out, or --fresh" in capsys.readouterr().err


def test_records_of_an_older_version_are_read_on(tmp_path: Path) -> None:
    root = write_rows(tmp_path / "data")
    command = command_of(root, tmp_path / "run")
    assert main(command) == 0
    terms = tmp_path / "run/records/eval.terms.json"
    kept = json.loads(terms.read_text())
    assert kept.pop("content")
    terms.write_text(json.dumps(kept))
    assert main(command) == 0


def test_a_blind_baseline_of_changed_training_answers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_rows(tmp_path / "data")
    assert main(command_of(root, tmp_path / "run")) == 0
    rows = (root / "train.jsonl").read_text()
    (root / "train.jsonl").write_text(rows.replace('"answer": "A"', '"answer": "B"'))
    capsys.readouterr()
    assert main(command_of(root, tmp_path / "run")) == 2
    assert "was made with other training questions" in capsys.readouterr().err


# A root without a reader


def test_the_reader_of_a_root_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_rows(tmp_path / "data")
    assert main(["data", "check", f"--data.root={root}"]) == 0
    found = capsys.readouterr()
    assert found.err.startswith("reader: jsonl (Rows of a file or a folder), because it holds test.jsonl, train.jsonl;")
    assert "16 samples, 2 images" in found.out
    assert main(["data", "check", f"--data.root={tmp_path / 'absent'}"]) == 2
    assert main(["data", "check", "--data.reader=phantom", f"--data.root={root}"]) == 2
    assert "phantoms are drawn and have no root" in capsys.readouterr().err


def test_check_shows_rows_and_writes_them_in_one_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "rows.csv"
    root.write_text("image,question,options,answer\na.png,Which?,\"['CT', 'MRI']\",B. MRI\na.png,Where?,\"['Arm', 'Leg']\",Leg\n")
    out = tmp_path / "one/rows.jsonl"
    assert main(["data", "check", f"--data.root={root}", "--images", "none", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "2  options in a text that holds a list  (rows.csv:1, rows.csv:2)" in text
    assert "1  right answer with letter and text  (rows.csv:1)" in text
    again = readers.read("jsonl", out, split="test")
    assert [(sample.question, sample.choices, sample.target) for sample in again] == [
        ("Which?", ("CT", "MRI"), "B"),
        ("Where?", ("Arm", "Leg"), "B"),
    ]


def test_check_keeps_the_splits_of_what_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_rows(tmp_path / "data")
    assert main(["data", "check", f"--data.root={root}", "--out", str(tmp_path / "all.jsonl")]) == 0
    for split in ("train", "test"):
        assert [sample.id for sample in readers.read("jsonl", tmp_path / "all.jsonl", images=root, split=split)] == [
            f"{split}{number}" for number in range(8)
        ]
    assert main(["data", "check", f"--data.root={root}", "--out", str(root / "all.jsonl")]) == 2
    assert "lies among the data" in capsys.readouterr().err


def test_no_question_is_not_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.csv").write_text("image,question,answer\n")
    assert main(["data", "check", f"--data.root={tmp_path}", "--strict"]) == 1
    assert "no question was read" in capsys.readouterr().out


# Votes


@pytest.mark.parametrize(
    ("texts", "answer", "share"),
    [
        (["Spleen", "spleen", "The spleen.", "Liver", "Liver"], "Spleen", 0.6),
        (["Liver", "spleen", "Spleen"], "spleen", 2 / 3),
        (["True", "yes", "No"], "True", 2 / 3),
    ],
)
def test_votes_on_open_answers_count_one_answer_in_every_spelling(texts: list[str], answer: str, share: float) -> None:
    sample = Sample(id="x", dataset="x", images=(), question="What?", choices=(), target="spleen", modality=None, question_type=None)
    group = [Completion(text=f"<answer>{text}</answer>", token_ids=(1,), finish_reason=FinishReason.STOP) for text in texts]
    record = grade_group(render(sample, "no_think"), group, "policy")
    assert (record.answer, record.vote_share) == (answer, share)
