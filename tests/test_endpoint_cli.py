"""`osler eval` with an endpoint: short options, records one by one, missing answers, what is kept and what is never written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_endpoint import KEY, ScriptedEndpoint, is_unlucky, letter_for, serve, text_of

from osler.cli.main import main
from osler.config import Config, build_config
from osler.data.select import load_split
from osler.errors import ConfigError, DataError, MissingAnswers
from osler.evaluation.engines.scripted import ScriptedEngine
from osler.evaluation.one_by_one import kept_records
from osler.evaluation.records import append_records, read_records
from osler.evaluation.run import answer_prompts, describe_terms, evaluate
from osler.evaluation.usage import RequestUsage, cost_of, read_usage, summarize_usage, usage_file
from osler.prompts import render
from osler.types import Prompt

pytest.importorskip("openai")

NUM = 24


@pytest.fixture(scope="module")
def running() -> Iterator[ScriptedEndpoint]:
    with serve() as server:
        yield server


@pytest.fixture
def server(running: ScriptedEndpoint) -> ScriptedEndpoint:
    running.reset()
    return running


def make_config(server: ScriptedEndpoint, model: str = "well", **evaluation: Any) -> Config:
    settings = {"engine": "openai", "base_url": server.base_url, "max_retries": 0, "timeout": 30, "max_completion_length": 16}
    return build_config(
        {
            "data": {"test": {"modalities": ["mri", "oct"], "limit": NUM, "size": 56}},
            "prompt": {"strategy": "no_think"},
            "policy": {"path": model},
            "eval": {**settings, **evaluation},
        }
    )


@pytest.fixture(scope="module")
def finished(running: ScriptedEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose every question was answered well; whoever changes it copies it."""
    running.reset()
    evaluate(make_config(running), run := tmp_path_factory.mktemp("finished") / "run")
    return run


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    config = build_config({"data": {"test": {"modalities": ["mri", "oct"], "limit": NUM, "size": 56}}})
    return [render(sample, "no_think") for sample in load_split(config.data, "test")]


def write_expected(path: Path, prompts: list[Prompt], model: str) -> bytes:
    """The records that an engine writes which answers in order and never fails."""
    scripted = ScriptedEngine(lambda prompt: f"<answer>{letter_for(prompt.text)}</answer>", policy_name=model)
    answer_prompts(scripted, prompts, max_completion_length=16, path=path)
    return path.read_bytes()


def asked(server: ScriptedEndpoint) -> list[str]:
    return [text_of(body) for body in server.bodies]


# Records, one by one


@pytest.mark.integration
def test_records_are_those_of_any_engine_with_these_answers(server: ScriptedEndpoint, prompts: list[Prompt], tmp_path: Path) -> None:
    result = evaluate(make_config(server), tmp_path / "run")
    assert result.path.read_bytes() == write_expected(tmp_path / "expected.jsonl", prompts, "well")
    assert result.usage is not None
    assert (result.usage.num_requests, result.usage.num_uncounted, result.usage.models) == (NUM, NUM, {"well": NUM})
    server.reset()
    again = evaluate(make_config(server), tmp_path / "run")
    assert again.records == result.records
    assert not server.bodies


@pytest.mark.integration
def test_only_what_is_missing_is_asked_again(server: ScriptedEndpoint, prompts: list[Prompt], tmp_path: Path) -> None:
    config, path = make_config(server, "some_fail"), tmp_path / "run" / "records" / "eval.jsonl"
    unlucky = [prompt for prompt in prompts if is_unlucky(prompt.text)]
    assert 0 < len(unlucky) < NUM
    with pytest.raises(MissingAnswers, match=f"{len(unlucky)} of {NUM} questions"):
        evaluate(config, tmp_path / "run")
    assert {record.sample_id for record in read_records(path)} == {prompt.sample.id for prompt in prompts if prompt not in unlucky}
    assert all(record.outcome in ("correct", "incorrect") for record in read_records(path))
    server.reset()
    server.is_well.set()
    result = evaluate(config, tmp_path / "run")
    assert sorted(asked(server)) == sorted(prompt.text for prompt in unlucky)
    assert path.read_bytes() == write_expected(tmp_path / "expected.jsonl", prompts, "some_fail")
    assert result.usage is not None
    assert result.usage.num_requests == NUM


@pytest.mark.integration
@pytest.mark.parametrize("kept", ["none", "half a line", "some in another order", "all in another order", "all but a newline"])
def test_an_interrupted_evaluation_ends_with_the_same_bytes(
    finished: Path, server: ScriptedEndpoint, prompts: list[Prompt], tmp_path: Path, kept: str
) -> None:
    whole = write_expected(tmp_path / "expected.jsonl", prompts, "well")
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "records" / "eval.jsonl"
    lines = whole.splitlines(keepends=True)
    content, num_left = {
        "none": (b"", NUM),
        "half a line": (lines[3] + lines[0][:40], NUM - 1),
        "some in another order": (b"".join(lines[9:4:-1]), NUM - 5),
        "all in another order": (b"".join(reversed(lines)), 0),
        "all but a newline": (whole[:-1], 0),
    }[kept]
    path.write_bytes(content)
    server.reset()
    evaluate(make_config(server, concurrency=3), tmp_path / "run")
    assert path.read_bytes() == whole
    assert len(server.bodies) == num_left


@pytest.mark.integration
def test_votes_draw_the_same_when_they_are_resumed(server: ScriptedEndpoint, tmp_path: Path) -> None:
    config = make_config(server, "seeded", num_votes=5)
    path = evaluate(config, tmp_path / "run").path
    whole = path.read_bytes()
    assert len({record.vote_share for record in read_records(path)}) > 1
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[20:]))
    server.reset()
    evaluate(config, tmp_path / "run")
    assert path.read_bytes() == whole
    assert len(server.bodies) == 5 * 20


@pytest.mark.integration
def test_rotations_of_a_question_are_told_apart(server: ScriptedEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["eval", "demo", "--limit", "3", "--base-url", server.base_url, "--policy", "well", "--eval.max_retries=0"]
    call += ["--out", str(tmp_path / "run"), "--circular", "--prompt.strategy=no_think"]
    assert main(call) == 0
    path = tmp_path / "run" / "records" / "eval.circular.jsonl"
    whole, num_requests = path.read_bytes(), len(server.bodies)
    assert num_requests == len(read_records(path)) > 3
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:1:-1]))
    assert main(call) == 0
    assert path.read_bytes() == whole
    assert len(server.bodies) == num_requests + 2
    capsys.readouterr()


def test_foreign_records_are_refused(server: ScriptedEndpoint, prompts: list[Prompt], tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_expected(path, prompts[:3], "well")
    assert sorted(kept_records(path, prompts)) == [0, 1, 2]
    with pytest.raises(DataError, match="not asked"):
        kept_records(path, prompts[1:])
    append_records(path, read_records(path)[:1])
    with pytest.raises(DataError, match="not so often"):
        kept_records(path, prompts)


@pytest.mark.integration
def test_fresh_starts_over(server: ScriptedEndpoint, tmp_path: Path) -> None:
    evaluate(make_config(server), tmp_path / "run")
    (tmp_path / "run" / "policy").mkdir()
    result = evaluate(make_config(server), tmp_path / "run", fresh=True)
    assert len(server.bodies) == 2 * NUM
    assert len(read_usage(usage_file(result.path))) == NUM


# Terms


CHANGED = [
    ({"dialect": "openai"}, "dialect"),
    ({"extra_body": {"top_k": 3}}, "extra_body"),
    ({"reported_model": "x"}, "reported_model"),
    ({"max_image_side": 50}, "max_image_side"),
]


@pytest.mark.integration
@pytest.mark.parametrize(("changes", "term"), CHANGED, ids=[row[1] for row in CHANGED])
def test_what_changes_answers_is_a_term(
    finished: Path, server: ScriptedEndpoint, tmp_path: Path, changes: dict[str, Any], term: str
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(ConfigError, match=f"with other {term}"):
        evaluate(make_config(server, **changes), tmp_path / "run")


def test_the_address_the_key_and_the_pace_are_no_terms(server: ScriptedEndpoint) -> None:
    one = make_config(server)
    other = make_config(server, base_url="https://other/v1", api_key_env="X", concurrency=3, timeout=5, max_retries=1, price_in=1.0)
    assert describe_terms(one, []) == describe_terms(other, [])
    assert describe_terms(one, [])["policy"] == "well"
    assert "127.0.0.1" not in json.dumps(describe_terms(one, []))


# The command


@pytest.mark.integration
def test_the_command(server: ScriptedEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSLER_TEST_KEY", KEY)
    call = ["eval", "demo", "--limit", "9", "--engine", "openai", "--base-url", server.base_url, "--policy", "counting", "--json"]
    call += ["--out", str(tmp_path / "run"), "--eval.api_key_env=OSLER_TEST_KEY", "--eval.price_in=2", "--eval.price_out=10"]
    assert main(call) == 0
    output = capsys.readouterr()
    found = json.loads(output.out.splitlines()[-1])
    assert (found["questions"], found["mean_tokens"]) == (9, 7.0)
    usage = found["usage"]
    assert (usage["num_requests"], usage["prompt_tokens"], usage["completion_tokens"], usage["num_refused"]) == (9, 900, 63, 0)
    assert usage["cost"] == pytest.approx(9 * 0.00027)
    assert usage["fingerprints"] == {"fp_1": 7, "fp_2": 2}
    assert "9 requests" in output.err
    assert "2 configurations" in output.err
    assert server.headers_seen[-1]["Authorization"] == f"Bearer {KEY}"
    written = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert KEY.encode() not in written + output.out.encode() + output.err.encode()


@pytest.mark.integration
def test_an_address_alone_names_the_engine(server: ScriptedEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["eval", "demo", "--limit", "2", "--base-url", server.base_url, "--policy", "well", "--out", str(tmp_path / "run")]
    assert main(call) == 0
    assert len(server.bodies) == 2
    capsys.readouterr()


def test_it_is_said_that_images_leave_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that no server has, so that nothing leaves."""
    monkeypatch.setenv("OSLER_TEST_KEY", KEY)
    call = ["eval", "demo", "--limit", "1", "--base-url", "http://nowhere.invalid/v1", "--policy", "m", "--out", str(tmp_path / "run")]
    assert main([*call, "--eval.api_key_env=OSLER_TEST_KEY"]) == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == "note: questions, images and patient contexts are sent to nowhere.invalid"
    assert "without encryption" in second
    assert "connection" in third


EXITS = [
    # model, more arguments, exit code, words
    ("broken", [], 1, "2 of 2 questions got no answer, which is not counted as wrong (http_500 2"),
    ("refusing", [], 2, "does not answer"),
    ("well", ["--base-url", "nowhere"], 2, "base_url is no web address"),
    ("well", ["--engine", "hf"], 2, "well"),
    ("well", ["--eval.concurrency=0"], 2, "eval.concurrency"),
    ("well", ["--limit", "0"], 2, "data.test.limit"),
    ("well", ["--eval.timeout=nan"], 2, "eval.timeout"),
]


@pytest.mark.parametrize(("model", "more", "code", "words"), EXITS, ids=[row[3][:40] for row in EXITS])
def test_exit_codes(
    server: ScriptedEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, more: list[str], code: int, words: str
) -> None:
    call = ["eval", "demo", "--limit", "2", "--base-url", server.base_url, "--policy", model, "--eval.max_retries=0"]
    assert main([*call, "--out", str(tmp_path / "run"), *more]) == code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("osler: ")]
    assert words in line
    assert not (tmp_path / "run").exists()


def test_the_engine_needs_an_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "demo", "--limit", "2", "--engine", "openai", "--out", str(tmp_path / "run")]) == 2
    assert "needs eval.base_url, such as --base-url" in capsys.readouterr().err


# Usage


def row(number: int, **changes: Any) -> RequestUsage:
    values: dict[str, Any] = {"sample_id": f"own/{number}", "number": 0, "seconds": float(number), "attempts": 1, "first_text": None}
    values |= {"prompt_tokens": 10, "completion_tokens": 2, "cost": None, "model": "m", "fingerprint": None}
    return RequestUsage(**{**values, "finish_reason": "stop", "refusal": None, **changes})


def test_usage_is_summed() -> None:
    assert summarize_usage([]) is None
    rows = [row(number) for number in range(1, 101)]
    rows += [row(500, attempts=3, prompt_tokens=None, cost=0.5, refusal="no"), row(600, cost=0.25, model=None)]
    found = summarize_usage(rows)
    assert found is not None
    assert (found.num_requests, found.num_repeated, found.num_refused, found.num_uncounted) == (102, 1, 1, 1)
    assert (found.prompt_tokens, found.completion_tokens, found.cost, found.models) == (1010, 204, 0.75, {"m": 101})
    assert (found.median_seconds, found.slow_seconds) == (51.0, 97.0)


COSTS: list[tuple[tuple[int | None, int | None, float | None, float | None], float | None]] = [
    ((1_000_000, 0, 2.0, 8.0), 2.0),
    ((0, 500_000, 2.0, 8.0), 4.0),
    ((None, 1, 2.0, 8.0), None),
    ((1, 1, None, 8.0), None),
    ((1, 1, 0.0, 0.0), 0.0),
]


@pytest.mark.parametrize(("numbers", "cost"), COSTS, ids=str)
def test_costs(numbers: tuple[Any, Any, Any, Any], cost: float | None) -> None:
    assert cost_of(*numbers) == cost


def test_a_line_that_is_no_usage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "usage" / "eval.jsonl"
    path.parent.mkdir()
    path.write_text('{"sample_id": "x"}\n')
    with pytest.raises(DataError, match="entry 1, is no usage"):
        read_usage(path)
