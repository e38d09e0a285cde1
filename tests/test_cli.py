"""The command line: exit codes, one-line mistakes, `--json`, and help that teaches."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import osler
from osler.cli.main import main, split_overrides
from osler.data.readers import READERS

VERBS = [
    ["demo"],
    ["data"],
    ["data", "check"],
    ["data", "view"],
    ["data", "phantom"],
    ["data", "convert"],
    ["train"],
    ["sft"],
    ["doctor"],
    ["eval"],
    ["ask"],
    ["report"],
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_teaches(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*verb, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert verb == ["data"] or "examples:\n  osler " + " ".join(verb) in text


@pytest.mark.parametrize(
    ("arguments", "own", "overrides"),
    [
        (["train", "demo", "--policy.path", "x"], ["train", "demo"], ["--policy.path", "x"]),
        (["train", "--policy.path", "x", "demo"], ["train", "demo"], ["--policy.path", "x"]),
        (["train", "--a.b=c d", "demo", "--json"], ["train", "demo", "--json"], ["--a.b=c d"]),
        (["train", "demo", "--out", "a.b"], ["train", "demo", "--out", "a.b"], []),
        (["train", "demo", "--a.b"], ["train", "demo"], ["--a.b"]),
        (["train", "demo", "--grpo.bf16", "--dry-run"], ["train", "demo", "--dry-run"], ["--grpo.bf16"]),
        (["train", "demo", "--a.b", "--c.d", "-1"], ["train", "demo"], ["--a.b", "--c.d", "-1"]),
        (["sft", "--sft_target=med_r1_sft", "--name", "x"], ["sft"], ["--sft_target=med_r1_sft", "--name", "x"]),
    ],
)
def test_split_overrides(arguments: list[str], own: list[str], overrides: list[str]) -> None:
    assert split_overrides(arguments) == (own, overrides)


MISTAKES = [
    (["train", "demo", "--grpo.bf16", "--dry-run"], "--grpo.bf16 needs a value"),
    (["train", "demo", "--grpo.bf16", "--data.seed=1"], "--grpo.bf16 needs a value"),
    (["train", "no-such-recipe"], "no recipe at no-such-recipe"),
    (["train", "demo", "--policy.pth=x"], "did you mean 'path'"),
    (["train", "demo", "--policy.path=/no/such/folder"], "/no/such/folder"),
    (["train", "demo", "--policy.path"], "needs a value"),
    (["train", "demo", "--grpo.learning_rat=1"], "did you mean 'learning_rate'"),
    (["train", "demo", "--grpo.temperature=1"], "--sampling.temperature=.."),
    (["train", "demo", "--rewards.names=['fluency']"], "fluency"),
    (["train", "demo", "--prompt.strategy=ponder"], "ponder"),
    (["train", "demo", "--trainer.max_prompt_length=20"], "phantom/train/mri"),
    (["train", "demo", "--grpo.per_device_train_batch_size=7"], "7"),
    (["train", "demo", "--data.reader=pacs"], "pacs"),
    (["train", "demo", "--data.train.modalities=['ct']", "--data.train.question_types=['x']"], "question_types"),
    (["train", "slake"], "root"),
    (["train", "slake", "--data.root=/no/such/folder"], "/no/such/folder"),
    (["train", "slake", "--data.root=/no/such/folder", "--data.languge=en"], "languge"),
    (["sft", "demo", "--sft.max_length=10"], "max_prompt_length"),
    (["eval", "demo", "--policy", "/no/such/folder"], "/no/such/folder"),
    (["eval", "demo", "--eval.engine=scripted"], "eval.script"),
    (["eval", "demo", "--label", "../x"], "--label"),
    (["report", "/no/such/run"], "/no/such/run"),
    (["data", "check", "--data.reader=jsonl", "--data.root=/no/such/file"], "/no/such/file"),
    (["data", "phantom", "--out", "phantom", "--size", "3"], "size"),
    (["data", "phantom", "--out", "phantom", "--contrast", "-1"], "contrast"),
    (["train", "demo", "--grpo.num_generations=7"], "num_generations"),
    (["train", "demo", "--data.manifest=/no/such/file"], "osler split"),
    (["audit", "--data.reader=phantom", "--fail-on", "luck"], "luck"),
    (["audit", "--data.reader=slake", "--data.root=/no/such/folder"], "/no/such/folder"),
    (["eval", "demo", "--ablation", "blur"], "blur"),
    (["eval", "demo", "--ablation", ","], "--ablation does not know ','"),
    (["eval", "demo", "--reasoning", "louder"], "louder"),
    (["matrix", "matrix_phantom", "--axis", "colour"], "colour"),
    (["matrix", "matrix_phantom", "--policies", "/no/such/folder"], "/no/such/folder"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "")
def test_mistakes_exit_with_2_and_one_line(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("osler: ")]
    assert len(lines) == 1
    assert words in lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "VERB"),
        (["trane"], "trane"),
        (["report"], "PATH"),
        (["demo", "--seed", "x"], "--seed"),
        (["split", "--protocol", "luck"], "medvlm_r1"),
        (["export", "--to", "nowhere"], "verl"),
    ],
)
def test_a_wrong_option_is_one_line_too(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_json_is_the_last_line_and_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "phantom"
    assert main(["data", "phantom", "--out", str(folder), "--train", "5", "--test", "5", "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["questions"] == 80
    assert "80 questions" in captured.err
    assert main(["data", "check", "--data.reader=med_r1", f"--data.root={folder}", "--data.axis=modality", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_samples"] == 80


def test_dry_run_loads_no_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "demo", "--dry-run", "--policy.path=Qwen/Qwen2-VL-2B-Instruct"]) == 0
    text = capsys.readouterr().out
    assert "Qwen/Qwen2-VL-2B-Instruct" in text
    assert "<think>" in text


def test_dry_run_of_sft_shows_its_target_and_fails_where_the_run_would(capsys: pytest.CaptureFixture[str]) -> None:
    slake = ["sft", "slake", f"--data.root={Path(__file__).parent / 'fixtures' / 'slake'}", "--data.train.modalities=[]", "--dry-run"]
    assert main([*slake, "--data.test.modalities=[]", "--prompt.strategy=think", "--data.rationales=facts"]) == 0
    assert "SFT learns to write:\n<think>" in capsys.readouterr().out
    assert main([*slake, "--data.test.modalities=[]", "--prompt.strategy=think"]) == 2
    assert "has no rationale" in capsys.readouterr().err


def test_dry_run_of_an_evaluation_asks_for_no_training_questions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "demo", "--dry-run", "--data.train.modalities=['ct']", "--data.train.limit=1", "--prompt.strategy=no_think"]) == 0
    text = capsys.readouterr().out
    assert "test: 900 questions" in text
    assert "train:" not in text.partition("test: 900")[2]


def test_convert_and_read_back(tmp_path: Path) -> None:
    out = tmp_path / "mri.jsonl"
    assert main(["data", "convert", "demo", "--data.train.limit=10", "--out", str(out)]) == 0
    converted = osler.read("jsonl", out)
    assert len(converted) == 10
    assert all(sample.images[0].load().size == (112, 112) for sample in converted)


@pytest.mark.parametrize("name", osler.__all__)
def test_public_face(name: str) -> None:
    assert getattr(osler, name)
    assert name in dir(osler)


def test_unknown_public_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        osler.nonsense  # noqa: B018


def stop_reading(root: Path, *, split: str | None = None) -> list[Any]:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("verb", "promise"), [(["train", "demo"], "; the same command continues where it stopped"), (["audit"], "")])
def test_ctrl_c_promises_what_is_true(verb: list[str], promise: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "is_stopped" not in READERS:
        osler.register_reader("is_stopped")(stop_reading)
    assert main([*verb, "--data.reader=is_stopped", f"--data.root={tmp_path}"]) == 130
    assert capsys.readouterr().err == f"osler: interrupted{promise}\n"


def test_ctrl_c_while_osler_is_imported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "argparse.py").write_text("raise KeyboardInterrupt")
    done = subprocess.run([sys.executable, "-m", "osler", "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "osler: interrupted\n")
