"""Prompts: the papers' strings to the character, ours short, images first."""

from __future__ import annotations

from typing import Any

import pytest

from osler.errors import ConfigError, DataError
from osler.prompts import STRATEGIES, Format, find_strategy, render, target_completion
from osler.types import Sample

CHOICES = ("CT", "MRI", "H&E, stained (E)", "X-ray")
LINES = "Which modality?\nA) CT\nB) MRI\nC) H&E, stained (E)\nD) X-ray"
INLINE = "Which modality? A)CT, B)MRI, C)H&E, stained (E), D)X-ray"
PAPERS = ("medvlm_r1", "medvlm_r1_zero_shot", "med_r1_think", "med_r1_no_think", "med_r1_zero_shot")
OURS = ("think", "no_think", "think_after", "zero_shot")


def make_sample(**changes: Any) -> Sample:
    """A four-choice sample without images, with some fields changed."""
    fields: dict[str, Any] = {
        "id": "toy/1",
        "dataset": "toy",
        "images": (),
        "question": "Which modality?",
        "choices": CHOICES,
        "target": "B",
        "modality": None,
        "question_type": None,
        "rationale": "A bright skull.",
    }
    return Sample(**(fields | changes))


GOLDEN = [
    (
        "medvlm_r1",
        "train",
        f"\n        {LINES} \n        Your task: \n        1. Think through the question step by step, enclose your reasoning process in <think>...</think> tags. \n        2. Then provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags.\n        3. No extra information or text outside of these tags.\n        ",  # noqa: E501
    ),
    (
        "medvlm_r1",
        "eval",
        f"\n    {LINES} \n    Your task: \n    1. Think through the question step by step, enclose your reasoning process in <think>...</think> tags. \n    2. Then provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags.\n    3. No extra information or text outside of these tags.\n    ",  # noqa: E501
    ),
    ("medvlm_r1_zero_shot", "train", f"\n    {LINES} \n    Your task: provide the correct single-letter choice (A, B, C, D,...).\n    "),
    ("medvlm_r1_zero_shot", "eval", f"\n    {LINES} \n    Your task: provide the correct single-letter choice (A, B, C, D,...).\n    "),
    (
        "med_r1_think",
        "train",
        f"{INLINE} Your task: 1. Think through the question step by step, enclose your reasoning process in <think>...</think> tags. 2. Then provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags. 3. No extra information or text outside of these tags.",  # noqa: E501
    ),
    (
        "med_r1_think",
        "eval",
        f"{INLINE} Think through the question step by step in <think>...</think> tags. Then provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags.",  # noqa: E501
    ),
    (
        "med_r1_no_think",
        "train",
        f"{INLINE} Your task: 1. Provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags. 2. No extra information or text outside of this tag.",  # noqa: E501
    ),
    ("med_r1_no_think", "eval", f"{INLINE} Provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags."),
    ("med_r1_zero_shot", "train", f"{INLINE} Provide the correct single-letter choice (A, B, C, D,...)."),
    ("med_r1_zero_shot", "eval", f"{INLINE} Provide the correct single-letter choice (A, B, C, D,...)."),
    ("think", "train", f"{LINES}\nThink inside <think> </think>, then give the letter inside <answer> </answer>."),
    ("think", "eval", f"{LINES}\nThink inside <think> </think>, then give the letter inside <answer> </answer>."),
    ("no_think", "eval", f"{LINES}\nGive only the letter inside <answer> </answer>."),
    ("think_after", "eval", f"{LINES}\nGive the letter inside <answer> </answer>, then explain inside <think> </think>."),
    ("zero_shot", "eval", f"{LINES}\nGive only the letter."),
]


@pytest.mark.parametrize(("strategy", "phase", "text"), GOLDEN)
def test_prompt_to_the_character(strategy: str, phase: Any, text: str) -> None:
    assert render(make_sample(), strategy, phase=phase).text == text


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("num_images", [0, 1, 3])
def test_images_come_first_in_one_user_turn(strategy: str, num_images: int) -> None:
    prompt = render(make_sample(images=("image",) * num_images), strategy)
    (message,) = prompt.messages
    assert message["role"] == "user"
    assert [part["type"] for part in message["content"]] == ["image"] * num_images + ["text"]
    assert prompt.strategy == strategy


@pytest.mark.parametrize("strategy", OURS)
def test_ours_show_context_and_do_not_change_with_the_phase(strategy: str) -> None:
    sample = make_sample(context="67-year-old man, cough")
    assert render(sample, strategy).text.startswith("Patient: 67-year-old man, cough\nWhich modality?\nA) CT")
    assert render(sample, strategy).text == render(sample, strategy, phase="train").text


@pytest.mark.parametrize("strategy", OURS)
def test_ours_ask_an_open_question_for_a_short_answer(strategy: str) -> None:
    text = render(make_sample(choices=(), target="Spleen"), strategy).text
    assert text.startswith("Which modality?\n")
    assert "a short answer" in text
    assert "letter" not in text


@pytest.mark.parametrize("strategy", PAPERS)
def test_papers_leave_context_out_and_refuse_open_questions(strategy: str) -> None:
    assert render(make_sample(context="a cough"), strategy).text == render(make_sample(), strategy).text
    with pytest.raises(DataError, match="use think, no_think"):
        render(make_sample(choices=()), strategy)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"choices": tuple(map(str, range(27)))}, "at most 26"),
        ({"question": "Hi<|im_end|>"}, "chat token"),
        ({"choices": ("<|image_pad|>", "b")}, "chat token"),
    ],
)
def test_render_refuses(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        render(make_sample(**changes), "think")


@pytest.mark.parametrize("question", ["What is {Question}?", "{0} {answer} {{}}", "a\\1b"])
def test_braces_in_a_question_are_left_alone(question: str) -> None:
    assert render(make_sample(question=question), "think").text.startswith(f"{question}\nA) CT")


@pytest.mark.parametrize(
    "call", [find_strategy, lambda name: render(make_sample(), name), lambda name: target_completion(make_sample(), name)]
)
def test_unknown_strategy_names_the_known_ones(call: Any) -> None:
    with pytest.raises(ConfigError, match="'cot': use one of think, no_think, think_after, zero_shot, medvlm_r1"):
        call("cot")


@pytest.mark.parametrize(
    ("strategy", "completion"),
    [
        ("think", "<think>A bright skull.</think><answer>B</answer>"),
        ("no_think", "<answer>B</answer>"),
        ("think_after", "<answer>B</answer><think>A bright skull.</think>"),
        ("zero_shot", "B"),
        ("medvlm_r1", "<think>A bright skull.</think>\n<answer>B</answer>"),
        ("medvlm_r1_zero_shot", "B"),
        ("med_r1_think", "<think>A bright skull.</think>\n<answer>B</answer>"),
        ("med_r1_no_think", "<answer>B</answer>"),
        ("med_r1_zero_shot", "B"),
    ],
)
def test_target_completion(strategy: str, completion: str) -> None:
    assert target_completion(make_sample(), strategy) == completion


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("rationale", [None, " "])
def test_only_thinking_needs_a_rationale(strategy: str, rationale: str | None) -> None:
    sample = make_sample(rationale=rationale)
    if STRATEGIES[strategy].format in (Format.THINK_ANSWER, Format.ANSWER_THINK):
        with pytest.raises(DataError, match="no rationale"):
            target_completion(sample, strategy)
    else:
        assert "B" in target_completion(sample, strategy)


def test_tags_in_a_rationale_are_refused() -> None:
    with pytest.raises(DataError, match="remove them"):
        target_completion(make_sample(rationale="so </think><answer>A</answer>"), "think")


def test_open_target_completion_holds_the_text() -> None:
    assert target_completion(make_sample(choices=(), target="Spleen"), "no_think") == "<answer>Spleen</answer>"
