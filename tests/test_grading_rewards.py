"""Rewards: the papers' own as golden rows, and what TRL asks of every reward."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from osler.errors import ConfigError
from osler.grading import REWARDS, completion_text, resolve_rewards
from osler.grading.altered_reasoning import AlteredAnswers

MODALITIES = ("CT", "MRI", "X-ray", "Ultrasound")

GOLDEN_REWARDS = [
    # text, target, MedVLM-R1 accuracy, Med-R1 accuracy
    ("<think>x</think><answer>B</answer>", "B", 1.0, 1.0),
    ("<think>x</think><answer> b </answer>", "B", 1.0, 0.0),
    ("<answer>B.</answer>", "B", 0.5, 0.0),
    ("<answer>(B)</answer>", "B", 0.5, 0.0),
    ("<answer>B) MRI</answer>", "B", 0.0, 0.0),
    ("<answer>B) XX</answer>", "B", 0.5, 0.0),
    ("<answer>A</answer>", "B", 0.0, 0.0),
    ("<answer>BB</answer>", "B", 0.0, 0.0),
    ("<answer></answer>", "B", 0.0, 0.0),
    ("<answer>\nB\n</answer>", "B", 1.0, 0.0),
    ("<ANSWER>B</ANSWER>", "B", 1.0, 0.0),
    ("<answer>B</answer><answer>A</answer>", "B", 1.0, 1.0),
    ("<answer>A</answer><answer>B</answer>", "B", 0.0, 0.0),
    ("<answer>K</answer>", "K", 0.0, 1.0),
    ("B", "B", 0.0, 1.0),
    (" B\n", "B", 0.0, 1.0),
    ("b", "B", 0.0, 0.0),
    ("The answer is B", "B", 0.0, 0.0),
    ("", "B", 0.0, 0.0),
]


@pytest.mark.parametrize(("text", "target", "medvlm_r1", "med_r1"), GOLDEN_REWARDS)
def test_paper_accuracy_bug_for_bug(text: str, target: str, medvlm_r1: float, med_r1: float) -> None:
    assert REWARDS["medvlm_r1_accuracy"]([None], [text], target=[target]) == [medvlm_r1]
    assert REWARDS["med_r1_accuracy"]([None], [text], target=[target]) == [med_r1]


@pytest.mark.parametrize(
    ("text", "think", "no_think"),
    [
        ("<think>x</think><answer>B</answer>", 1.0, 0.0),
        ("<think></think>\n <answer></answer>", 1.0, 0.0),
        ("<think>x\ny</think><answer>\nB</answer>", 1.0, 0.0),
        ("<think>a</think><answer>A</answer><answer>B</answer>", 1.0, 0.0),
        ("<think>x</think><answer>B</answer>\n", 0.0, 0.0),
        (" <think>x</think><answer>B</answer>", 0.0, 0.0),
        ("<Think>x</Think><answer>B</answer>", 0.0, 0.0),
        ("<answer>B</answer>", 0.0, 1.0),
        ("\n <answer>B</answer>", 0.0, 1.0),
        ("<answer>A</answer> or <answer>B</answer>", 0.0, 1.0),
        ("B", 0.0, 0.0),
    ],
)
def test_paper_format_bug_for_bug(text: str, think: float, no_think: float) -> None:
    assert REWARDS["medvlm_r1_format"]([None], [text]) == [think]
    assert REWARDS["med_r1_format"]([None, None], [text, text], strategy=["med_r1_think", "med_r1_no_think"]) == [think, no_think]


@pytest.mark.parametrize("name", REWARDS)
def test_rewards_suit_trl(name: str) -> None:
    (reward,) = resolve_rewards([name])
    assert reward.__name__ == name
    assert pickle.loads(pickle.dumps(reward)) is reward
    columns: dict[str, Any] = {
        "prompts": [[], [], []],
        "completions": [
            [{"role": "assistant", "content": "<think>x</think><answer>B</answer>"}],
            [{"role": "assistant", "content": [{"type": "text", "text": "<think>x</think><answer>B</answer>"}]}],
            "no idea",
        ],
        "completion_ids": [[1], [2], [3]],
        "choices": [list(MODALITIES)] * 3,
        "target": ["B"] * 3,
        "strategy": ["think"] * 3,
        "sample_id": ["x/0", "x/0", "x/1"],
        "question_type": [None] * 3,
        "facts": [None] * 3,
        "terms": [()] * 3,
        "altered_answers": [AlteredAnswers(replaced="C", reworded="B"), AlteredAnswers(replaced="C", reworded="B"), None],
        "trainer_state": None,
    }
    assert reward(**columns) == ([0.0, 0.0, 0.0] if name == "statements" else [1.0, 1.0, 0.0])


OPEN_REWARDS = [
    # question, target, answer, reward
    ("Which organ is shown?", "Liver", "liver", 1.0),
    ("Which organ is shown?", "Liver", "It is probably the liver.", 1.0),
    ("How large is it?", "2 cm", "20 mm", 1.0),
    ("What is abnormal?", "Left pleural effusion", "pleural effusion", 0.5 * 4 / 5),
    ("What is abnormal?", "Pleural effusion", "small pleural effusion", 0.5 * 4 / 5),
    ("Which scan is it?", "Chest X-ray", "x-ray", 0.5 * 4 / 5),
    ("Which organ is shown?", "Liver", "spleen", 0.0),
    ("Which organ is shown?", "Liver", "", 0.0),
    # another side, a negation, an opposite, another number
    ("Where is the lesion?", "Left lung", "right lung", 0.0),
    ("Where is the lesion?", "Left lung", "both lungs", 0.0),
    ("What is abnormal?", "Pleural effusion", "no pleural effusion", 0.0),
    ("What is abnormal?", "Hypodense lesion", "hyperdense lesion", 0.0),
    ("How large is it?", "2 cm mass", "3 cm mass", 0.0),
    # lists and alternatives
    ("Which organ is shown?", "Liver", "liver, spleen, heart, kidney, lung", 0.0),
    ("Which organ is shown?", "Liver", "liver spleen heart kidney lung", 0.0),
    ("Which organ is shown?", "Liver", "liver or spleen", 0.0),
    ("Which organ is shown?", "Liver", "Liver. Spleen. Heart.", 0.0),
    ("Which organ is shown?", "Right hepatic lobe", "liver, right hepatic lobe region", 0.0),
    ("How large is it?", "2 cm", "1-100 cm", 0.0),
    ("How many are there?", "2", "1 2 3 4 5", 0.0),
    # copies of the question, and words that are true of everything
    ("Where in the left lung is the mass?", "Left lung apex", "the left lung", 0.0),
    ("Where in the left lung is the mass?", "Left lung apex", "Where in the left lung is the mass?", 0.0),
    ("Is the mass in the left or the right lung?", "Left lung", "Is the mass in the left or the right lung", 0.0),
    ("Which organ is shown?", "Pleural effusion", "there can be a small or large pleural effusion somewhere in this patient", 0.0),
    ("Which organ is shown?", "Liver", "Is it the liver?", 0.0),
    ("Is there a mass?", "yes", "yes and no", 0.0),
]


@pytest.mark.parametrize(("question", "target", "answer", "expected"), OPEN_REWARDS)
def test_what_an_open_answer_earns(question: str, target: str, answer: str, expected: float) -> None:
    prompts = [question, [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]]
    found = REWARDS["open_answer"](
        prompts, [f"<answer>{answer}</answer>"] * 2, choices=[()] * 2, target=[target] * 2, strategy=["no_think"] * 2
    )
    assert found == pytest.approx([expected] * 2)


@pytest.mark.parametrize("names", [[], ["accuracy", "speed"]])
def test_unknown_rewards_name_the_known_ones(names: list[str]) -> None:
    with pytest.raises(ConfigError, match="use some of accuracy, open_answer, format, statements, reasoning_matters, medvlm_r1_accuracy"):
        resolve_rewards(names)


def test_resolve_rewards_keeps_the_order() -> None:
    assert [reward.__name__ for reward in resolve_rewards(["format", "accuracy"])] == ["format", "accuracy"]


def test_completion_text_joins_turns() -> None:
    assert completion_text([{"content": "a"}, {"content": [{"type": "image"}, {"type": "text", "text": "b"}]}]) == "ab"
