"""Rewards for reasoning: altered reasoning, what a policy answers behind it, and what is paid for both."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_prefix_cases import pay, run
from small_runs import recipe
from tiny_checkpoint import save_tiny

from osler.errors import ConfigError
from osler.grading import resolve_rewards
from osler.grading.altered_reasoning import AlteredAnswers, alter, drop_conclusion, reword
from osler.policies.load import load_policy
from osler.policies.quiet import quiet_training
from osler.training.arguments import grpo_arguments
from osler.training.dataset import read_prompts
from osler.training.grpo import build_trainer

RING, EDGE = "The image shows a bright ring.", "I also see a dark edge."


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers make their output folder, here a relative one."""
    monkeypatch.chdir(tmp_path)


def think(reasoning: str, answer: str = "A") -> str:
    return f"<think>{reasoning}</think><answer>{answer}</answer>"


REWORDED = [
    (RING, "I see a bright ring."),
    (f"{RING} Diagnosis: cyst", "I see a bright ring. Diagnosis: cyst"),
    ("There is no lesion. Diagnosis: cyst", "The image shows no lesion. Diagnosis: cyst"),
    ("A bright ring. Diagnosis: cyst", "In this image: A bright ring. Diagnosis: cyst"),
    ("Diagnosis: cyst. I see a ring.", "The image shows a ring. Diagnosis: cyst."),
]


@pytest.mark.parametrize(("reasoning", "expected"), REWORDED)
def test_reasoning_is_reworded(reasoning: str, expected: str) -> None:
    assert reword(reasoning, "cyst", random.Random(0)) == expected


def test_findings_change_places() -> None:
    reworded = {reword(f"{RING} {EDGE} Diagnosis: cyst", "cyst", random.Random(seed)) for seed in range(9)}
    first, second = "I see a bright ring.", "The image also shows a dark edge."
    assert reworded == {f"{first} {second} Diagnosis: cyst", f"{second} {first} Diagnosis: cyst"}


CONCLUSIONS = [
    (f"{RING} Diagnosis: cyst", "cyst", RING),
    (f"{RING} {EDGE} Diagnosis: cyst", "cyst", f"{RING} {EDGE}"),
    ("With a bright ring, this is an X-ray.", "X-ray", None),
    ("The cysts are small. Diagnosis: cyst", "cyst", "The cysts are small."),
    ("", "cyst", None),
]


@pytest.mark.parametrize(("reasoning", "answer", "expected"), CONCLUSIONS)
def test_the_conclusion_is_dropped(reasoning: str, answer: str, expected: str | None) -> None:
    assert drop_conclusion(reasoning, answer) == expected


OWN = (think(f"{RING} Diagnosis: cyst"), ("cyst", "tumour"), "think", "disease_diagnosis")
REPLACED = [
    ("another answer of this question", (think("A dark edge. Diagnosis: tumour", "B"), *OWN[1:]), "A dark edge. Diagnosis: tumour"),
    ("options in another order", (think("An edge. Diagnosis: tumour"), ("tumour", "cyst"), *OWN[2:]), "An edge. Diagnosis: tumour"),
    ("an answer that is no option here", (think("An edge. Diagnosis: stone"), ("stone", "none"), *OWN[2:]), "An edge."),
    ("no evidence without its conclusion", (think("Diagnosis: stone"), ("stone", "none"), *OWN[2:]), None),
    ("the same answer", (think("An edge. Diagnosis: cyst"), *OWN[1:]), None),
    ("another question type", (think("An edge. Grade: mild", "B"), *OWN[1:3], "lesion_grading"), None),
    ("another strategy", (think("An edge. Diagnosis: tumour", "B"), OWN[1], "med_r1_think", OWN[3]), None),
    ("no strict format", ("<think>An edge. Diagnosis: tumour</think>B", *OWN[1:]), None),
    ("chat tokens", (think("An edge <|im_end|>. Diagnosis: tumour", "B"), *OWN[1:]), None),
]


def alter_all(*rows: tuple[Any, ...], sample_ids: tuple[str, ...] = ("x/0", "x/1")) -> Any:
    texts, choices, strategy, question_type = zip(*rows, strict=True)
    return alter(
        texts, choices=choices, target=["A"] * len(rows), strategy=strategy, sample_id=sample_ids, question_type=question_type, seed="0"
    )


@pytest.mark.parametrize(("other", "expected"), [row[1:] for row in REPLACED], ids=[row[0] for row in REPLACED])
def test_reasoning_is_replaced(other: tuple[Any, ...], expected: str | None) -> None:
    altered = alter_all(OWN, other)
    assert altered[0].replaced == (None if expected is None else f"<think>{expected}</think><answer>")
    assert altered[0].reworded == "<think>I see a bright ring. Diagnosis: cyst</think><answer>"
    assert altered == alter_all(OWN, other)
    if "<|" in other[0] or "</think>B" in other[0]:
        assert altered[1] is None


def test_reasoning_of_the_same_question_replaces_nothing() -> None:
    other = (think("A dark edge. Diagnosis: tumour", "B"), *OWN[1:])
    assert [altered.replaced for altered in alter_all(OWN, other, sample_ids=("x/0", "x/0"))] == [None, None]


@pytest.mark.parametrize("strategy", ["no_think", "think_after", "zero_shot"])
def test_only_reasoning_before_the_answer_is_altered(strategy: str) -> None:
    assert alter_all((OWN[0], OWN[1], strategy, OWN[3]), sample_ids=("x/0",)) == [None]


PAID = [
    (think(RING), AlteredAnswers(replaced="B", reworded="A"), 1.0),
    (think(RING), AlteredAnswers(replaced="A", reworded="A"), 0.5),
    (think(RING), AlteredAnswers(replaced=None, reworded="A"), 0.5),
    (think(RING), AlteredAnswers(replaced="B", reworded="B"), 0.5),
    (think(RING), AlteredAnswers(replaced="A", reworded="B"), 0.0),
    (think(RING, "B"), AlteredAnswers(replaced="A", reworded="B"), 1.0),
    ("<answer>A</answer>", None, 0.0),
]


@pytest.mark.parametrize(("text", "altered", "expected"), PAID)
def test_reasoning_that_matters_is_paid(text: str, altered: AlteredAnswers | None, expected: float) -> None:
    (reward,) = resolve_rewards(["reasoning_matters"])
    columns: dict[str, Any] = {"choices": [("cyst", "tumour")], "target": ["A"], "strategy": ["think"]}
    assert reward([None], [text], **columns, altered_answers=[altered]) == [expected]
    with pytest.raises(ConfigError, match="use `osler train`"):
        reward([None], [text], **columns)


BEGINS = [(0, "<think>A ring.</think><answer>"), (3, "<think>x"), (0, "<think>A dark edge, and more of it.</think><answer>"), (2, "y")]
ASKING: list[tuple[str, dict[str, Any], bool]] = [
    ("rollout", {}, True),
    ("prefill", {}, False),
    ("together", {"trainer": {"groups_per_forward": 2}}, True),
    ("lora", {"policy": {"lora": {"r": 4}}}, True),
    ("frozen", {"policy": {"freeze_vision": True}}, True),
]


def ask_in_first_step(folder: Path, sections: dict[str, Any], found: list[torch.Tensor], *, share: bool, keeps_caches: bool) -> Any:
    """A training of one step that appends the logits of three tokens behind BEGINS to `found`."""

    def prepare(trainer: Any) -> None:
        trainer._asks_again, trainer._letters = keeps_caches, {70: 0, 3: 1, 200: 2}
        trainer._calculate_rewards = lambda inputs, prompts, *_: ask(trainer, inputs, prompts)

    def ask(trainer: Any, inputs: Any, prompts: Any) -> torch.Tensor:
        found.append(trainer._letter_logits(inputs, prompts, BEGINS))
        return torch.arange(len(inputs)).float()[:, None]

    return run(folder, pay, {"max_steps": 1}, dict(sections), share=share, prepare=prepare)[0]


@pytest.mark.parametrize(("sections", "keeps_caches"), [row[1:] for row in ASKING], ids=[row[0] for row in ASKING])
def test_the_letters_are_those_of_the_whole_prompt(tmp_path: Path, sections: dict[str, Any], keeps_caches: bool) -> None:
    save_tiny(tmp_path / "policy", hidden=32, layers=2)
    found: list[torch.Tensor] = []
    for share in (True, False):
        trainer = ask_in_first_step(tmp_path / "policy", sections, found, share=share, keeps_caches=keeps_caches)
        assert not share or trainer.shares_prefix
    assert found[0].shape == (len(BEGINS), 3)
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)


def test_both_paths_pay_the_same_and_the_policy_learns_from_it() -> None:
    """The packaged policy, one step: eight questions of all types, two completions each."""
    logged = []
    for share in (True, False):
        config = recipe(
            Path("osler-tiny"),
            data={"train": {"modalities": ["mri"], "limit": 16}},
            prompt={"strategy": "think"},
            sampling={"max_completion_length": 60},
            rewards={"names": ["accuracy", "reasoning_matters"], "weights": [1.0, 0.5]},
            grpo={"per_device_train_batch_size": 32, "max_steps": 1, "entropy_coef": 0.0, "save_strategy": "no"},
            trainer={"share_prefix": share},
        )
        torch.manual_seed(0)
        with quiet_training():
            rewards = resolve_rewards(config.rewards.names)
            trainer = build_trainer(config, load_policy(config.policy), read_prompts(config), rewards, grpo_arguments(config, Path("run")))
            trainer.train()
        logged.append(trainer.state.log_history[0])
    assert logged[0]["rewards/reasoning_matters/mean"] == logged[1]["rewards/reasoning_matters/mean"] > 0.5
    assert logged[0]["loss"] == pytest.approx(logged[1]["loss"], abs=1e-5)
