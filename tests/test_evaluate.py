import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from small_runs import as_run
from tiny_checkpoint import save_tiny

import osler
from osler.cli.eval import evaluation_to_json, print_evaluation
from osler.cli.main import main
from osler.config import Config, build_config
from osler.data.select import load_split
from osler.errors import ConfigError, DataError, OslerError
from osler.evaluation.engines import eval_dtype, open_engine
from osler.evaluation.engines.hf import HfEngine
from osler.evaluation.engines.scripted import ScriptedEngine
from osler.evaluation.records import read_records
from osler.evaluation.run import answer_prompts, ask, describe_terms, evaluate, holding, prepare, trained_modalities
from osler.policies.load import load_policy
from osler.prompts import render
from osler.types import Prompt


def merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in changes.items():
        merged[key] = merge(merged.get(key, {}), value) if isinstance(value, Mapping) else value
    return merged


def make_config(folder: Path, **changes: Any) -> Config:
    values = {
        "data": {"test": {"modalities": ["mri", "oct"], "limit": 20, "size": 56}},
        "prompt": {"strategy": "no_think"},
        "policy": {"path": str(folder), "device": "cpu"},
        "eval": {"max_completion_length": 2, "batch_size": 1},
    }
    return build_config(merge(values, changes))


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose evaluation ended; tests copy it."""
    evaluate(make_config(tiny_folder), run := tmp_path_factory.mktemp("finished") / "run")
    return run


@pytest.fixture
def prompts() -> list[Prompt]:
    return [render(sample, "think") for sample in load_split(make_config(Path("unused")).data, "test")]


SCRIPT: list[tuple[str, str, str | None]] = [
    ("<think>A bright ring.</think><answer>{target}</answer>", "correct", "A bright ring."),
    ("<think>It may be</think><answer>{wrong}</answer>", "incorrect", "It may be"),
    ("I do not know", "no_answer", None),
    ("", "no_answer", None),
]


@pytest.mark.parametrize(("text", "outcome", "reasoning"), SCRIPT, ids=[row[0] or "empty" for row in SCRIPT])
def test_records_say_what_was_asked_and_found(prompts: list[Prompt], text: str, outcome: str, reasoning: str | None) -> None:
    def answer(prompt: Prompt) -> str:
        target = prompt.sample.target
        return text.replace("{target}", target).replace("{wrong}", "B" if target == "A" else "A")

    records = answer_prompts(ScriptedEngine(answer, policy_name="me"), prompts, max_completion_length=9)
    assert [record.sample_id for record in records] == [prompt.sample.id for prompt in prompts]
    for record, prompt in zip(records, prompts, strict=True):
        assert (record.outcome, record.reasoning) == (outcome, reasoning)
        assert (record.prompt, record.policy, record.strategy) == (prompt.text, "me", "think")
        assert (record.target, record.choices) == (prompt.sample.target, prompt.sample.choices)
        assert record.image_uris == tuple(image.uri for image in prompt.sample.images)
        assert record.modality in ("mri", "oct")


@pytest.mark.integration
def test_a_run_is_evaluated_and_described(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = evaluate(make_config(tiny_folder), tmp_path / "run", label="zero_shot")
    print_evaluation(evaluation)
    result = evaluation_to_json(evaluation)
    records = read_records(tmp_path / "run" / "records" / "zero_shot.jsonl")
    assert len(records) == result["questions"] == 20
    assert all(record.policy == "tiny" and 1 <= record.num_tokens <= 2 for record in records)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["test"]["num_samples"] == 20
    assert "zero_shot" in capsys.readouterr().out
    assert result["interval"][0] <= result["accuracy"] <= result["interval"][1]


@pytest.mark.integration
def test_policies_share_a_run_under_their_labels(tiny_folder: Path, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "trained", seed=1)
    config = make_config(tiny_folder)
    for label, policy in (("zero_shot", None), ("grpo", str(other))):
        evaluate(config, tmp_path / "run", policy=policy, label=label)
    before, after = (read_records(tmp_path / "run" / "records" / f"{label}.jsonl") for label in ("zero_shot", "grpo"))
    assert {record.policy for record in before} == {"tiny"}
    assert {record.policy for record in after} == {"trained"}
    assert [record.completion for record in before] != [record.completion for record in after]


# Interrupted


# The manifest of the run that trained the policy, None for a policy by itself, and which modalities are in-domain.
TRAINED: list[tuple[dict[str, Any] | None, tuple[str, ...]]] = [
    (None, ("mri",)),
    ({}, ("mri",)),
    ({"train": {"cells": {"mri": {"none": 4}}}}, ("mri",)),  # of an earlier version
    ({"train": {"cells": {"mri": {"none": 4}}, "datasets": ["phantom"]}}, ("mri",)),
    ({"train": {"cells": {"mri": {"none": 4}}, "datasets": ["slake"]}}, ()),
]


@pytest.mark.parametrize(("manifest", "names"), TRAINED)
def test_mri_of_another_dataset_is_not_in_domain(
    tiny_folder: Path, tmp_path: Path, manifest: dict[str, Any] | None, names: tuple[str, ...]
) -> None:
    policy = tiny_folder
    if manifest is not None:
        policy = as_run(tiny_folder, tmp_path / "trained")
        (policy / "manifest.json").write_text(json.dumps(manifest))
    data = {"reader": "phantom", "train": {"modalities": ["mri"], "limit": 2}, "test": {"modalities": ["mri", "ct"], "limit": 2}}
    config = build_config({"data": data, "policy": {"path": str(tiny_folder), "device": "cpu"}})
    for path in {policy, policy / "policy" if manifest is not None else policy}:
        assert trained_modalities(prepare(config, str(path), "grpo")) == names


def keep_bytes(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(share * len(content))]


def keep_lines(number: int, tail: bytes = b"") -> Callable[[bytes], bytes]:
    return lambda content: b"".join(content.splitlines(keepends=True)[:number]) + tail


CUTS = [
    ("an empty file", keep_bytes(0)),
    ("half a first line", keep_bytes(0.01)),
    ("within a chunk", keep_bytes(0.3)),
    ("one chunk", keep_lines(8)),
    ("two chunks and half a line", keep_lines(16, b'{"sample_id":"ph')),
    ("all but a byte", lambda content: content[:-1]),
    ("all", keep_bytes(1)),
]


@pytest.mark.integration
@pytest.mark.parametrize(("name", "cut"), CUTS, ids=[row[0] for row in CUTS])
def test_an_interrupted_evaluation_ends_with_the_same_bytes(
    tiny_folder: Path, finished: Path, tmp_path: Path, name: str, cut: Callable[[bytes], bytes]
) -> None:
    path = Path(shutil.copytree(finished, tmp_path / "run")) / "records" / "eval.jsonl"
    whole = path.read_bytes()
    path.write_bytes(cut(whole))
    evaluate(make_config(tiny_folder), tmp_path / "run")
    assert path.read_bytes() == whole


def test_what_is_done_is_not_asked_again(prompts: list[Prompt], tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(prompt: Prompt) -> str:
        asked.append(prompt.sample.id)
        return "<answer>A</answer>"

    for number in (8, 20, 20):
        answer_prompts(ScriptedEngine(answer), prompts[:number], max_completion_length=4, chunk_size=8, path=tmp_path / "records.jsonl")
    assert asked == [prompt.sample.id for prompt in prompts]


SLOW_EVALUATION = """
import sys, time
from pathlib import Path
from osler.config import build_config
from osler.evaluation.engines.scripted import ScriptedEngine
from osler.evaluation.run import answer_prompts
from osler.prompts import render
from osler.data.select import load_split

def answer(prompt):
    time.sleep(0.002)
    return "<answer>" + "AB"[len(prompt.sample.id) % 2] + "</answer>" + "x" * 2000

samples = load_split(build_config({"data": {"test": {"limit": 200}}}).data, "test")
prompts = [render(sample, "no_think") for sample in samples]
answer_prompts(ScriptedEngine(answer), prompts, max_completion_length=4, chunk_size=8, path=Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(tmp_path: Path) -> None:
    def start(path: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(Path(osler.__file__).parents[1])}
        return subprocess.Popen([sys.executable, "-c", SLOW_EVALUATION, str(path)], env=environment)

    killed, whole = tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"
    reference = start(whole)
    for wanted in (1, 200_000):
        process = start(killed)
        while process.poll() is None and not (killed.exists() and killed.stat().st_size >= wanted):
            time.sleep(0.002)
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(killed).wait() == reference.wait() == 0
    assert killed.read_bytes() == whole.read_bytes()
    assert len(read_records(whole)) == 200


@pytest.mark.integration
def test_fresh_starts_a_label_over_and_keeps_a_training(tiny_folder: Path, finished: Path, tmp_path: Path) -> None:
    config, run = make_config(tiny_folder), Path(shutil.copytree(finished, tmp_path / "run"))
    whole = (run / "records" / "eval.jsonl").read_bytes()
    (run / "policy").mkdir()
    (run / "records" / "eval.jsonl").write_bytes(b"".join(reversed(whole.splitlines(keepends=True))))
    evaluate(config, run, fresh=True)
    assert (run / "records" / "eval.jsonl").read_bytes() == whole
    assert [path.name for path in tmp_path.glob("run*")] == ["run"]
    (run / "policy").rmdir()
    evaluate(make_config(tiny_folder, seed=1), run, fresh=True)
    assert sorted(path.name for path in tmp_path.glob("run*")) == ["run", "run.1"]


# What goes wrong


@pytest.mark.integration
def test_an_engine_that_refuses_leaves_the_records(tiny_folder: Path, finished: Path, tmp_path: Path) -> None:
    """Also with --fresh, and it adds no file for a new label."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "policy").mkdir()
    before = times_of(run)
    for arguments in ({"fresh": True}, {"label": "other"}):
        with pytest.raises(OslerError, match=r"needs eval\.script"):
            evaluate(make_config(tiny_folder, eval={"engine": "scripted"}), run, **arguments)
        assert before == times_of(run)


def times_of(folder: Path) -> dict[Path, int | None]:
    """When each file below a folder was written; None for a folder."""
    return {path: path.stat().st_mtime_ns if path.is_file() else None for path in folder.rglob("*")}


BAD: list[tuple[str, Callable[[Path], dict[str, Any]], dict[str, Any], str]] = [
    ("no such policy", lambda _: {"policy": {"path": "./nowhere"}}, {}, "no policy at ./nowhere"),
    ("no such policy to override", lambda _: {}, {"policy": "./nowhere"}, "no policy at ./nowhere"),
    ("an unknown strategy", lambda _: {"prompt": {"strategy": "thunk"}}, {}, "unknown strategy 'thunk'"),
    ("a label with a path", lambda _: {}, {"label": "../x"}, "cannot name a file"),
    ("an empty label", lambda _: {}, {"label": ""}, "cannot name a file"),
    ("no script", lambda _: {"eval": {"engine": "scripted"}}, {}, r"needs eval\.script"),
    ("a script that is missing", lambda f: {"eval": {"engine": "scripted", "script": str(f / "x")}}, {}, "cannot read the script"),
    ("a prompt that is too long", lambda _: {"trainer": {"max_prompt_length": 9}}, {}, r"phantom/test/\S+ takes \d+ tokens"),
    ("an unknown reader", lambda _: {"data": {"reader": "slakes"}}, {}, "unknown reader"),
    ("a device that is absent", lambda _: {"policy": {"device": "cuda:63"}}, {}, "GPUs"),
    ("votes compared with float32", lambda _: {"eval": {"check_float32": 5, "num_votes": 3}}, {}, "check_float32 compares greedy answers"),
    ("an option nobody knows", lambda _: {"data": {"test": {"colour": 1}}}, {}, "unknown option 'colour'"),
]


@pytest.mark.parametrize(("name", "changes", "arguments", "message"), BAD, ids=[row[0] for row in BAD])
def test_mistakes_are_told_in_one_line(
    tiny_folder: Path, tmp_path: Path, name: str, changes: Callable[[Path], dict[str, Any]], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(OslerError, match=message) as caught:
        evaluate(make_config(tiny_folder, **changes(tmp_path)), tmp_path / "run", **arguments)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_unknown_engine_is_refused_before_a_file_is_written(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OslerError, match="unknown engine 'vllmm': use one of hf, openai, vllm, scripted, option_prior"):
        evaluate(make_config(tiny_folder, eval={"engine": "vllmm"}), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_second_evaluation_of_the_same_records_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    path = tmp_path / "records" / "eval.jsonl"
    said = r"another evaluation writes \S+eval.jsonl: wait for it, stop it, or give another --label"
    with holding(path), pytest.raises(ConfigError, match=said), holding(path, 0):
        pass
    with holding(path, 0), holding(path.with_name("other.jsonl"), 0):  # the first has ended, and another label is another file
        pass
    assert not list(path.parent.iterdir())


@pytest.mark.integration
@pytest.mark.parametrize(("engine", "policy"), [("scripted", None), ("option_prior", None), ("plugged_in", "./mine")])
def test_terms_hold_the_policy_of_an_engine_from_outside(engine: str, policy: str | None) -> None:
    config = build_config({"eval": {"engine": engine}, "policy": {"path": "./mine"}})
    assert describe_terms(config, []).get("policy") == policy


BAD_ROWS: list[tuple[str, dict[str, Any], str, str]] = [
    ("a broken image", {}, "no_think", "own/0.*a.png"),
    ("an image that is missing", {"image": "b.png"}, "no_think", "own/0.*b.png"),
    ("an open question for letters only", {"problem": "What is it?", "solution": "CT"}, "med_r1_think", "open-ended"),
    ("a chat token", {"problem": "What<|im_end|>?\nA) CT\nB) MRI"}, "no_think", "chat token"),
    ("nothing of a modality", {"modality": "ct"}, "selects-mri", "selects nothing"),
]


@pytest.mark.parametrize(("name", "row", "strategy", "message"), BAD_ROWS, ids=[row[0] for row in BAD_ROWS])
def test_bad_rows_are_named(tiny_folder: Path, tmp_path: Path, name: str, row: dict[str, Any], strategy: str, message: str) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    content = {"id": "own/0", "image": "a.png", "problem": "What is it?\nA) CT\nB) MRI", "solution": "<answer> B </answer>", **row}
    (tmp_path / "rows.jsonl").write_text(json.dumps(content))
    values = {
        "data": {"reader": "jsonl", "root": str(tmp_path / "rows.jsonl"), "test": {"modalities": ["mri"] if "selects" in strategy else []}},
        "prompt": {"strategy": "no_think" if "selects" in strategy else strategy},
        "policy": {"path": str(tiny_folder), "device": "cpu"},
    }
    with pytest.raises(OslerError, match=message) as caught:
        evaluate(build_config(values), tmp_path / "run")
    assert "\n" not in str(caught.value)


CHANGED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("another recipe", {"seed": 3}, {}, "has seed = 0"),
    ("another policy under the label", {}, {"policy": "other"}, "other policy.*--label"),
]


@pytest.mark.integration
@pytest.mark.parametrize(("name", "changes", "arguments", "message"), CHANGED, ids=[row[0] for row in CHANGED])
def test_records_are_not_mixed(
    tiny_folder: Path, finished: Path, tmp_path: Path, name: str, changes: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    if "policy" in arguments:
        arguments = {"policy": str(save_tiny(tmp_path / "other", seed=1))}
    before = (tmp_path / "run" / "records" / "eval.jsonl").read_bytes()
    with pytest.raises(OslerError, match=message):
        evaluate(make_config(tiny_folder, **changes), tmp_path / "run", **arguments)
    assert (tmp_path / "run" / "records" / "eval.jsonl").read_bytes() == before


def test_foreign_records_are_refused(prompts: list[Prompt], tmp_path: Path) -> None:
    path, engine = tmp_path / "records.jsonl", ScriptedEngine(lambda _: "A")
    answer_prompts(engine, prompts, max_completion_length=4, path=path)
    for others in (prompts[::-1], prompts[:5]):
        with pytest.raises(DataError, match="--label"):
            answer_prompts(engine, others, max_completion_length=4, path=path)


@pytest.mark.integration
@pytest.mark.parametrize("num_samples", [None, 0, 1, 3])
def test_ask_is_an_evaluation(tiny_folder: Path, num_samples: int | None) -> None:
    """One sample gives its record, a sequence of samples a list of records."""
    policy = load_policy(tiny_folder)
    samples = load_split(make_config(tiny_folder).data, "test")[: 1 if num_samples is None else num_samples]
    expected = answer_prompts(HfEngine(policy), [render(sample, "no_think") for sample in samples], max_completion_length=16)
    asked = ask(policy, samples[0] if num_samples is None else samples, strategy="no_think", max_completion_length=16)
    assert asked == (expected[0] if num_samples is None else expected)


@pytest.mark.integration
def test_the_command_line_ends_with_json(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'[data.test]\nmodalities = ["mri"]\nlimit = 4\n[prompt]\nstrategy = "no_think"\n[policy]\npath = "{tiny_folder}"\ndevice = "cpu"\n'
        "[eval]\nmax_completion_length = 4\n"
    )
    assert main(["eval", str(recipe), "--out", str(tmp_path / "run"), "--label", "zero_shot", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1])["questions"] == 4
    assert "4 questions in" in printed.err


ARITHMETIC = [
    ({}, "float32", None),
    ({"grpo": {"bf16": True}}, "float32", None),  # a CPU trains in float32 unless it is asked for more
    ({"eval": {"dtype": "bfloat16"}}, "bfloat16", "bfloat16"),
    ({"policy": {"dtype": "bfloat16"}}, "bfloat16", None),
    ({"policy": {"dtype": "bfloat16"}, "eval": {"dtype": "float32"}}, "float32", "float32"),
]


@pytest.mark.parametrize(("changes", "dtype", "term"), ARITHMETIC, ids=str)
def test_an_evaluation_says_its_arithmetic(tiny_folder: Path, changes: dict[str, Any], dtype: str, term: str | None) -> None:
    """Records of before this setting existed, in the precision of the weights, can be resumed."""
    config = make_config(tiny_folder, **changes)
    assert eval_dtype(config) == dtype
    assert describe_terms(config, []).get("arithmetic") == term
    engine = open_engine(config)
    assert isinstance(engine, HfEngine)
    assert engine.is_bf16 == (dtype == "bfloat16")
    assert (str(engine.policy.model.dtype) == "torch.float32") == (dtype == "float32" or config.policy.dtype == "float32")


@pytest.mark.integration
def test_answers_are_compared_with_float32_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The packaged policy in bfloat16: some of forty answers change, and the same answers are told apart from others."""
    changes = {"data": {"test": {"limit": 40, "size": 112}}, "eval": {"max_completion_length": 8, "batch_size": 20, "check_float32": 40}}
    coarse = evaluate(make_config(Path("osler-tiny"), **merge(changes, {"eval": {"dtype": "bfloat16"}})), tmp_path / "coarse")
    plain = evaluate(make_config(Path("osler-tiny"), **merge(changes, {"eval": {"check_float32": 0}})), tmp_path / "plain")
    same = sum(one.answer == other.answer for one, other in zip(coarse.records, plain.records, strict=True))
    assert coarse.float32 is not None
    assert (coarse.float32.num_same, coarse.float32.total) == (same, 40)
    assert plain.float32 is None
    print_evaluation(coarse)
    assert f"{40 - same} of 40 answers differ from those in float32" in capsys.readouterr().out
