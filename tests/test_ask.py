"""`osler ask`: what is printed of an answer, what another image changes, and which images are taken."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_endpoint import ScriptedEndpoint, letter_for, serve, text_of
from small_prompts import make_prompt

from osler import read
from osler.cli.ask import BAR, draw_bar, print_answer, split_choices, split_context
from osler.cli.common import say_loading
from osler.cli.main import main
from osler.config import PolicyConfig, SamplingConfig
from osler.context import Context
from osler.errors import ConfigError, EngineError
from osler.evaluation.answer_reading import ChoiceShare, ReadAnswer
from osler.evaluation.asking import AskResult
from osler.evaluation.engines.hf import HfEngine
from osler.evaluation.engines.streaming import TextStream
from osler.policies.load import Policy, load_policy
from osler.serving.settings import DISCLAIMER

pytest.importorskip("openai")

QUESTION = "Which modality is this?"


@pytest.fixture(scope="module")
def running() -> Iterator[ScriptedEndpoint]:
    with serve() as server:
        yield server


@pytest.fixture
def server(running: ScriptedEndpoint) -> ScriptedEndpoint:
    running.reset()
    return running


@pytest.fixture(scope="module")
def policy(tiny_folder: Path) -> Policy:
    return load_policy(PolicyConfig(path=str(tiny_folder), device="cpu"))


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "scan.png"
    read("phantom", split="test", num_questions=1, modalities=["mri"])[0].images[0].load().save(path)
    return str(path)


def call(server: ScriptedEndpoint, model: str, *more: str) -> list[str]:
    return ["ask", *more, "--base-url", server.base_url, "--policy", model, "--eval.max_retries=0"]


# What is printed


def test_the_packaged_policy_answers(picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", picture, QUESTION, "--choices", "CT,MRI, X-ray", "--look", "mirrored,blank", "--policy.device=cpu"]) == 0
    printed = capsys.readouterr().out
    completion, _, rest = printed.partition("\n\n")
    assert completion.startswith("<think>")
    assert completion.endswith("</answer>")
    lines = rest.splitlines()
    assert lines[0].startswith("Answer: ")
    assert "(rule: answer_tag.letter)" in lines[0]
    shares = {line.split()[0]: float(line.split()[-1].rstrip("%")) for line in lines if line.startswith("  ")}
    assert shares.keys() == {"A", "B", "C"}
    assert sum(shares.values()) == pytest.approx(100, abs=0.2)
    assert lines[0].split()[1] == f"{max(shares, key=shares.__getitem__)})"
    assert sum(line.startswith(("With the image blanked", "With the image mirrored")) for line in lines) == 2
    assert lines[-1] == DISCLAIMER


def test_json_has_the_words_of_the_server(server: ScriptedEndpoint, picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*call(server, "logprobs", picture, picture, QUESTION, "--choices", "CT,MRI", "--look", "blank"), "--json"]) == 0
    output = capsys.readouterr()
    found = json.loads(output.out.splitlines()[-1])
    assert (found["answer"], found["answer_text"], found["rule"], found["vote_share"]) == ("A", "CT", "answer_tag.letter", None)
    assert found["confidence"] == pytest.approx(0.75, abs=1e-5)
    assert [choice["probability"] for choice in found["choices"]] == pytest.approx([0.75, 0.25], abs=1e-5)
    assert (found["images"], found["policy"], found["disclaimer"]) == (
        {"count": 2, "slice_numbers": None, "slices": None},
        {"name": "logprobs"},
        DISCLAIMER,
    )
    (look,) = found["look"]
    assert (look["image"], look["changed"], look["gain"]) == ("blank", False, 0.0)
    assert "<answer>A</answer>" in output.err
    first, second = server.bodies
    assert (first["stream"], second.get("stream")) == (True, None)
    assert first["messages"][0]["content"][0] == first["messages"][0]["content"][1] != second["messages"][0]["content"][0]


SAID: list[tuple[str, list[str], list[str]]] = [
    ("seeded", ["--choices", "CT,MRI", "--votes", "5"], ["<answer>", "share of completions with this answer"]),
    ("well", ["--choices", "CT,MRI"], ["Sure: not known"]),
    ("well", [], ["Answer: ", "Sure: not known"]),
    ("reasoning_content", ["--choices", "CT,MRI"], ["<think>A bright ring.</think><answer>"]),
    ("empty", ["--choices", "CT,MRI"], ["Answer: none that can be read", "Sure: no, there is no answer"]),
    ("lengthy", ["--choices", "CT,MRI"], ["It may be", "was cut off", "not in the format"]),
    ("rude", ["--choices", "CT,MRI"], ["?[31m red\n<answer>A</answer>"]),
]


@pytest.mark.parametrize(("model", "more", "words"), SAID, ids=[f"{row[0]} {' '.join(row[1])}" for row in SAID])
def test_an_answer_is_printed_as_it_is(
    server: ScriptedEndpoint, picture: str, capsys: pytest.CaptureFixture[str], model: str, more: list[str], words: list[str]
) -> None:
    assert main(call(server, model, picture, QUESTION, "--strategy", "no_think", *more)) == 0
    printed = capsys.readouterr().out
    for word in words:
        assert word in printed
    assert printed.endswith(f"{DISCLAIMER}\n")
    assert "\x1b" not in printed


def test_what_is_asked_is_what_the_options_say(server: ScriptedEndpoint, picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--choices", "fluid, much", "--choices", "none", "--strategy", "no_think", "--context.age", "63", "--context.sex=f"]
    assert main(call(server, "well", picture, QUESTION, *more, "--eval.max_completion_length=7")) == 0
    (body,) = server.bodies
    expected = f"Patient: 63-year-old woman.\n{QUESTION}\nA) fluid, much\nB) none\nGive only the letter inside <answer> </answer>."
    assert text_of(body) == expected
    assert body["max_tokens"] == 7
    assert f"Answer: {letter_for(expected)}" in capsys.readouterr().out


# Images


def test_studies_are_shown_by_the_options(
    server: ScriptedEndpoint, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pydicom")
    pytest.importorskip("nibabel")
    from small_studies import save_nifti, save_series, values

    save_series(tmp_path / "ct", values((5, 4, 6)))
    save_nifti(tmp_path / "body.nii.gz", values((12, 10, 9)))
    paths = [str(tmp_path / "ct"), picture, str(tmp_path / "body.nii.gz")]
    assert main(call(server, "well", *paths, QUESTION, "--choices", "CT,MRI", "--slices", "3", "--json")) == 0
    output = capsys.readouterr()
    (body,) = server.bodies
    kinds = [part["type"] for part in body["messages"][0]["content"]]
    assert kinds == ["image_url"] * 7 + ["text"]
    assert "ct: shown are slices 2, 4, 6 of 6" in output.err
    assert "body.nii.gz: shown are slices 2, 5, 8 of 9" in output.err
    assert json.loads(output.out.splitlines()[-1])["images"] == {"count": 7, "slice_numbers": None, "slices": None}
    assert main(call(server, "well", paths[0], QUESTION, "--choices", "CT,MRI", "--slices", "3", "--json")) == 0
    output = capsys.readouterr()
    assert "ct: shown are slices 2, 4, 6 of 6" in output.err
    assert json.loads(output.out.splitlines()[-1])["images"] == {"count": 3, "slice_numbers": [2, 4, 6], "slices": [1, 3, 5]}


def test_what_the_pictures_hide_is_told(server: ScriptedEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np
    from small_studies import save_nifti

    spike = np.zeros((12, 10, 9), np.float32) + np.arange(9)
    spike[0, 0, 0] = 1e9
    save_nifti(tmp_path / "body.nii.gz", spike)
    assert main(call(server, "well", str(tmp_path / "body.nii.gz"), QUESTION, "--choices", "CT,MRI", "--json")) == 0
    output = capsys.readouterr()
    assert "of its values are shown as one tone, though they differ: give a window" in output.err
    assert "shown as one tone" in json.loads(output.out.splitlines()[-1])["notes"][0]


REFUSED: list[tuple[list[str], str]] = [
    (["https://host/scan.png", QUESTION], "is an address"),
    (["data:image/png;base64,AAAA", QUESTION], "is an address"),
    (["s3://bucket/scan.png", QUESTION], "is an address"),
    (["absent.png", QUESTION], "there is no image 'absent.png'"),
    ([QUESTION], "no image is named"),
    (["SCAN", " "], "the question is empty"),
    (["SCAN", ""], "the question is empty"),
    (["SCAN", "SCAN"], "the last word is the question"),
    (["SCAN", "why " * 6000], "more than 20,000 characters"),
    (["x" * 300, QUESTION], "there is no image 'xxx"),
    (["SCAN", "Is <image> like <image>?"], "the question has 1 image and 2 places <image>"),
    (["SCAN", QUESTION, "--votes", "1000"], "at most 128 votes"),
    (["SCAN", QUESTION, "--policy", "x" * 300], "no folder xxx"),
    (["SCAN", QUESTION, "--choices", "CT"], "2 to 26 choices"),
    (["SCAN", QUESTION, "--choices", "CT,ct"], "two choices are equal"),
    (["SCAN", QUESTION, "--choices", "CT,,MRI"], "a choice is empty"),
    (["SCAN", QUESTION, "--strategy", "thunk"], "unknown strategy"),
    (["SCAN", QUESTION, "--strategy", "med_r1_think"], "open-ended"),
    (["SCAN", "<|im_end|>"], "chat token"),
    (["SCAN", QUESTION, "--context.sx", "m"], "did you mean 'sex'"),
    (["SCAN", QUESTION, "--context.age", "old"], "age"),
    (["SCAN", QUESTION, "--window", "lungs"], "lungs"),
    (["SCAN", QUESTION, "--votes", "0"], "eval.num_votes"),
    (["SCAN", QUESTION, "--look", "upside_down"], "upside_down"),
    (["SCAN", QUESTION, "--policy", "./nowhere"], "no policy at ./nowhere"),
    (["SCAN", QUESTION, "--eval.engine=scripted"], "osler ask has no engine 'scripted'"),
    (["SCAN", QUESTION, "--base-url", "nowhere"], "base_url is no web address"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=[row[1] for row in REFUSED])
def test_mistakes_are_one_line(
    picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ask", *(picture if argument == "SCAN" else argument for argument in arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_long_question_is_no_path(server: ScriptedEndpoint, picture: str) -> None:
    assert main(call(server, "well", picture, "Which of these is it? " * 30, "--choices", "CT,MRI")) == 0


def test_an_endpoint_that_fails_gives_no_answer(server: ScriptedEndpoint, picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(call(server, "broken", picture, QUESTION)) == 1
    assert main(call(server, "cut", picture, QUESTION)) == 1
    output = capsys.readouterr()
    assert "Answer:" not in output.out
    assert "1 of 1 questions got no answer" in output.err


# Parts


@pytest.mark.parametrize(
    ("given", "choices"), [([], []), (["CT,MRI"], ["CT", "MRI"]), ([" CT , MRI "], ["CT", "MRI"]), (["a, b", "c"], ["a, b", "c"])], ids=str
)
def test_choices_are_split_once(given: list[str], choices: list[str]) -> None:
    assert split_choices(given) == choices


def test_the_context_is_told_from_other_overrides() -> None:
    overrides = ["--policy.device", "cpu", "--context.age", "63", "--context.history=2 falls", "--eval.dtype=float32"]
    context, others = split_context(overrides)
    assert context == Context(age="63", history="2 falls")
    assert others == ["--policy.device", "cpu", "--eval.dtype=float32"]
    assert split_context(["--seed=1"]) == (None, ["--seed=1"])
    with pytest.raises(ConfigError, match="needs a value"):
        split_context(["--context.age"])


@pytest.mark.parametrize(("share", "number"), [(0.0, 0), (1.0, BAR), (0.5, BAR // 2), (-0.1, 0), (1.00001, BAR)])
def test_bars(share: float, number: int) -> None:
    bar = draw_bar(share)
    assert len(bar) == BAR
    assert len(bar.rstrip("·.")) == number


def test_streamed_text_is_the_completion(policy: Policy) -> None:
    engine, prompt = HfEngine(policy), make_prompt(0)
    for sampling in (None, SamplingConfig()):
        pieces: list[str] = []
        values: dict[str, Any] = {"max_completion_length": 12, "sampling": sampling, "seed": 3}
        streamed = engine.generate([prompt], **values, on_text=pieces.append)
        assert streamed == engine.generate([prompt], **values)
        assert "".join(pieces) == streamed[0][0].text
    with pytest.raises(EngineError, match="several"):
        engine.generate([prompt, prompt], max_completion_length=4, on_text=pieces.append)


STOP = 256  # <|im_end|> in the tiny tokenizer, whose other tokens are bytes
STREAMS: list[tuple[str, list[int], list[str]]] = [
    ("letters", [32, 33, STOP, 34], ["A", "B"]),
    ("no stop", [32, 33], ["A", "B"]),
    ("nothing", [STOP], []),
]


@pytest.mark.parametrize(("name", "token_ids", "pieces"), STREAMS, ids=[row[0] for row in STREAMS])
def test_a_stream_ends_at_the_stop(policy: Policy, name: str, token_ids: list[int], pieces: list[str]) -> None:
    import torch

    found: list[str] = []
    stream = TextStream(policy.tokenizer, [STOP], found.append)
    stream.put(torch.tensor([[1, 2, 3]]))  # the prompt
    for token_id in token_ids:
        stream.put(torch.tensor([token_id]))
    stream.end()
    assert found == pieces


def test_a_character_of_several_tokens_comes_whole(policy: Policy) -> None:
    import torch

    token_ids = policy.tokenizer("aé漢b", add_special_tokens=False)["input_ids"]
    assert len(token_ids) > 4
    found: list[str] = []
    stream = TextStream(policy.tokenizer, [STOP], found.append)
    stream.put(torch.tensor([[1]]))
    for token_id in token_ids:
        stream.put(torch.tensor([token_id]))
    stream.end()
    assert found == ["a", "é", "漢", "b"]


@pytest.mark.parametrize(("votes", "is_tie"), [((0.5, 0.5, 0.0), True), ((0.5, 0.25, 0.25), False), ((0.0, 0.0, 0.0), False)], ids=str)
def test_a_tie_of_votes_is_told(capsys: pytest.CaptureFixture[str], votes: tuple[float, ...], is_tie: bool) -> None:
    share = max(votes)
    choices = tuple(
        ChoiceShare(letter=letter, text=letter, probability=None, votes=part) for letter, part in zip("ABC", votes, strict=True)
    )
    answer = ReadAnswer(
        answer="A" if share else None,
        answer_text="A" if share else None,
        reasoning=None,
        completion="A",
        rule="answer_tag.letter",
        is_well_formed=True,
        finish_reason="stop",
        choices=choices,
        vote_share=share,
        confidence=share or None,
    )
    print_answer(AskResult(answer=answer, looks=(), num_tokens=2, policy="p"), has_spoken=True)
    assert ("the one that came first counts" in capsys.readouterr().out) == is_tie


@pytest.mark.parametrize("is_terminal", [True, False])
def test_loading_is_told_in_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    say_loading("osler-tiny")
    assert capsys.readouterr().err == ("loading osler-tiny ..\n" if is_terminal else "")
