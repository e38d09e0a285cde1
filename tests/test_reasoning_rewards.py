"""Rewards for reasoning: altered reasoning, what a policy answers behind it, and what is paid for both."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared_prefix_cases import SAMPLES, pay, run
from small_runs import recipe
from tiny_checkpoint import save_tiny

from osler.config import build_config
from osler.data.select import load_split
from osler.errors import ConfigError
from osler.facts import Fact, Facts, Kind, Term
from osler.grading import resolve_rewards
from osler.grading.altered_reasoning import AlteredAnswers, alter, drop_conclusion, reword
from osler.grading.evidence import reward_evidence
from osler.policies.load import load_policy
from osler.policies.quiet import quiet_training
from osler.prompts import render
from osler.taxonomy import QuestionType
from osler.training.arguments import grpo_arguments
from osler.training.dataset import read_prompts
from osler.training.grpo import build_trainer, check_rewards
from osler.types import Sample

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


REWARDS_OF_EVIDENCE = [
    # credit of true statements, number of false ones, reward
    (0.0, 0, 0.0),
    (0.5, 0, 0.25),
    (1.0, 0, 0.5),
    (2.0, 0, 1.0),
    (9.0, 0, 1.0),
    (0.0, 1, -0.5),
    (1.0, 1, -0.25),
    (9.0, 1, 0.0),
    (0.0, 2, -1.0),
    (9.0, 2, -1.0),
    (0.0, 9, -1.0),
]


@pytest.mark.parametrize(("credit", "num_false", "expected"), REWARDS_OF_EVIDENCE)
def test_evidence_is_rewarded(credit: float, num_false: int, expected: float) -> None:
    assert reward_evidence(credit, num_false) == expected


@given(share=st.floats(0, 1), credit=st.floats(0, 5), num_false=st.integers(0, 5))
def test_a_blind_guess_never_pays(share: float, credit: float, num_false: int) -> None:
    """A further statement, true of a share of the images and said of any."""
    if_true, if_false = reward_evidence(credit + 1 - share, num_false), reward_evidence(credit, num_false + 1)
    assert share * if_true + (1 - share) * if_false <= reward_evidence(credit, num_false) + 1e-9


def small_facts(position: str, sign: str) -> Facts:
    values = {Kind.MODALITY: "mri", Kind.POSITION: position, Kind.SIGN: sign}
    return Facts(facts=tuple(Fact(kind=kind, value=value) for kind, value in values.items()), closed=tuple(values))


SIGNS = ("bright ring", "dark core", "dark edge")
IMAGES = [small_facts(position, sign) for position, sign in zip(("left", "right", "upper", "lower"), (*SIGNS, SIGNS[0]), strict=True)]
TERMS = tuple(Term(phrase=sign, kind=Kind.SIGN, value=sign) for sign in SIGNS)


def reward_statements(texts: list[str], facts: Sequence[Facts | None] = IMAGES, **columns: Any) -> list[float]:
    (reward,) = resolve_rewards(["statements"])
    own: dict[str, Any] = {"choices": ("ring", "mri"), "target": "A", "strategy": "think", "terms": TERMS, "question_type": None}
    repeated = {name: [value] * len(texts) for name, value in (own | columns).items() if name != "log_metric"}
    return reward(None, texts, sample_id=[str(number) for number in range(len(texts))], facts=facts, **repeated)


SAID = [
    # what is said of an image with a bright ring in the left half, reward with and without three other images
    ("", -0.5, -0.5),
    ("Hm", -0.5, -0.5),
    ("This is an MRI.", -0.5, 0.5),
    ("I see a bright ring.", 1 / 3, 0.5),
    ("I see a bright ring. There is a bright ring.", 1 / 3, 0.5),
    ("I see a bright ring. This is an MRI.", 1 / 3, 1.0),
    ("I see a dark core.", -0.5, -0.5),
    ("This is a CT.", -0.5, -0.5),
    ("I see a bright ring, a dark core.", -1 / 3, -0.25),
    ("I see a bright ring, a dark core and a dark edge.", -1.0, -1.0),
    ("The heart is enlarged.", -0.5, -0.5),
    ("The heart is enlarged. I see a bright ring.", 1 / 3, 0.5),
]


@pytest.mark.parametrize(("reasoning", "expected", "alone"), SAID)
def test_true_statements_are_rewarded(reasoning: str, expected: float, alone: float) -> None:
    texts = [think(reasoning)] * 4
    assert reward_statements(texts)[0] == pytest.approx(expected)
    assert reward_statements(texts[:1], IMAGES[:1]) == [pytest.approx(alone)]


NO_REWARD: list[tuple[str, dict[str, Any]]] = [
    ("<answer>A</answer>", {"strategy": "no_think"}),
    (think("I see a dark core."), {"strategy": "no_think"}),
    (think("I see a dark core."), {"strategy": "zero_shot"}),
    (think("I see a dark core."), {"facts": [None]}),
]


@pytest.mark.parametrize(("text", "columns"), NO_REWARD)
def test_without_reasoning_or_facts_nothing_is_rewarded(text: str, columns: dict[str, Any]) -> None:
    assert reward_statements([text], **{"facts": IMAGES[:1], **columns}) == [0.0]


SILENT: list[tuple[str, dict[str, Any]]] = [
    ("", {}),
    ("<answer>A</answer>", {}),
    ("<answer>A</answer>", {"strategy": "think_after"}),
    (think(""), {}),
    (think("It is a CT", "B"), {"choices": ("ring", "CT")}),  # repeats the answer
    (think("I see a bright ring."), {"terms": (Term(phrase=SIGNS[0], kind=Kind.SIGN, value=SIGNS[0], sign_of=Kind.ANATOMY),)}),
]


@pytest.mark.parametrize(("text", "columns"), SILENT)
def test_silence_costs_as_much_as_one_false_statement(text: str, columns: dict[str, Any]) -> None:
    """The question is about a disease, for which the last reasoning says nothing."""
    assert reward_statements([text], IMAGES[:1], **{"question_type": QuestionType.DISEASE_DIAGNOSIS, **columns}) == [-0.5]


def test_reasoning_after_the_answer_is_rewarded_too() -> None:
    assert reward_statements(["<answer>A</answer><think>I see a dark core.</think>"], IMAGES[:1], strategy="think_after") == [-0.5]


POLICIES: dict[str, Callable[[Sample, list[str]], str]] = {
    "trivially true": lambda sample, signs: "This is an MRI. This is not a CT.",
    "the most frequent sign": lambda sample, signs: signs[0],
    "nothing": lambda sample, signs: "",
    "everything": lambda sample, signs: ". ".join(signs),
    "another image": lambda sample, signs: signs[len(sample.id) % len(signs)],
}


@pytest.mark.parametrize("name", POLICIES)
def test_only_what_the_image_shows_pays(name: str) -> None:
    """On 32 phantoms of one modality, policies that do not look get at most 0; one that states two signs of the image gets more."""
    config = build_config({"data": {"reader": "phantom", "train": {"modalities": ["mri"], "limit": 32}, "test": {"modalities": ["ct"]}}})
    samples = load_split(config.data, "train")
    own = [[fact.value for fact in sample.facts.facts if fact.kind is Kind.SIGN] for sample in samples if sample.facts is not None]
    signs = [sign for sign, _ in Counter(sign for signs in own for sign in signs).most_common()]
    (reward,) = resolve_rewards(["statements"])

    def mean(reasonings: list[str]) -> float:
        names = ("choices", "target", "facts", "terms")
        columns = {name: [getattr(sample, name) for sample in samples] for name in names} | {"sample_id": [sample.id for sample in samples]}
        texts = [think(reasoning) for reasoning in reasonings]
        rewards: list[float] = reward(None, texts, strategy=["think"] * len(samples), question_type=[None] * len(samples), **columns)
        return sum(rewards) / len(samples)

    assert mean([POLICIES[name](sample, signs) for sample in samples]) <= 0
    assert mean([". ".join(shown[:2]) for shown in own]) > 0.5


def test_the_truth_of_a_step_is_logged() -> None:
    logged: dict[str, float] = {}
    (reward,) = resolve_rewards(["statements"])
    texts = [think("I see a bright ring. This is a CT."), think("I see a dark core."), think("Hm"), "<answer>A</answer>"]
    columns: dict[str, Any] = {"choices": [("a", "b")] * 4, "target": ["A"] * 4, "strategy": ["think"] * 4, "terms": [TERMS] * 4}
    columns["question_type"] = [None] * 4
    reward(None, texts, **columns, sample_id=list("abcd"), facts=IMAGES, log_metric=logged.__setitem__)
    assert logged == {"statements/true_reasonings": 1 / 4, "statements/true": 2 / 3, "statements/per_completion": 3 / 4}


REFUSED: list[tuple[list[str], str, bool, str]] = [
    (["statements"], "think", False, "no question of [data.train] has any"),
    (["statements"], "no_think", True, "set [prompt] strategy to think or think_after"),
    (["reasoning_matters"], "think_after", True, "set [prompt] strategy to think, or drop it"),
]


@pytest.mark.parametrize(("names", "strategy", "has_facts", "message"), REFUSED)
def test_rewards_that_are_always_zero_are_refused(names: list[str], strategy: str, has_facts: bool, message: str) -> None:
    samples = [replace(SAMPLES[0], facts=IMAGES[0] if has_facts else None)]
    prompts = [render(sample, strategy, phase="train") for sample in samples]
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_rewards(resolve_rewards(names), prompts)
    check_rewards(resolve_rewards(["accuracy", "format"]), prompts)
    check_rewards(resolve_rewards(["accuracy", "statements"]), [render(replace(SAMPLES[0], facts=IMAGES[0]), strategy, phase="train")])


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


@pytest.mark.integration
@pytest.mark.parametrize(("sections", "keeps_caches"), [row[1:] for row in ASKING], ids=[row[0] for row in ASKING])
def test_the_letters_are_those_of_the_whole_prompt(tmp_path: Path, sections: dict[str, Any], keeps_caches: bool) -> None:
    save_tiny(tmp_path / "policy", hidden=32, layers=2)
    found: list[torch.Tensor] = []
    for share in (True, False):
        trainer = ask_in_first_step(tmp_path / "policy", sections, found, share=share, keeps_caches=keeps_caches)
        assert not share or trainer.shares_prefix
    assert found[0].shape == (len(BEGINS), 3)
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
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
