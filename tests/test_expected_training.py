"""Trainings with `[trainer] expectation`: their gradient is that of the objective, and what samples have on average."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import recipe, solid_sample
from transformers import TrainerCallback

from osler.config import Config
from osler.data.select import load_split
from osler.errors import ConfigError, PolicyError
from osler.grading.rewards import resolve_rewards
from osler.policies.load import load_policy
from osler.policies.quiet import quiet_training
from osler.policies.sources import PACKAGED_POLICIES
from osler.prompts import render
from osler.training.arguments import grpo_arguments
from osler.training.expectation_settings import check_expectation, find_expectation
from osler.training.grpo import build_trainer
from osler.types import LETTERS, Prompt, Sample

pytestmark = pytest.mark.integration

PLAIN = {"max_steps": 1, "learning_rate": 0.0, "entropy_coef": 0.0, "save_strategy": "no", "loss_type": "dr_grpo", "scale_rewards": "none"}
NO_THINK = {"prompt": {"strategy": "no_think"}}
THINK = {"prompt": {"strategy": "think"}, "sampling": {"max_completion_length": 30}}
THINK_AFTER = {**THINK, "prompt": {"strategy": "think_after"}}
ENUMERATED = {"trainer": {"expectation": "enumerated"}}
PARTIAL = {"trainer": {"expectation": "partial"}}


def pay(completions: Sequence[Any], target: Sequence[str], **_: Any) -> list[float]:
    """A reward for each letter, and one for the length."""
    texts = [turns[0]["content"] for turns in completions]
    letters = [text.rpartition("<answer>")[2][:1] for text in texts]
    return [
        2.0 * (letter == gold) + 0.1 * (LETTERS.find(letter) % 3) + len(text) / 1000
        for text, letter, gold in zip(texts, letters, target, strict=True)
    ]


def pay_none(completions: Sequence[Any], **_: Any) -> list[None]:
    """A reward that applies to nothing."""
    return [None] * len(completions)


class Watch(TrainerCallback):  # type: ignore[misc]
    """Keeps the gradient of every step."""

    def __init__(self) -> None:
        self.gradients: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, _args: Any, _state: Any, _control: Any, *, model: Any, **_: Any) -> None:
        own = [weight for weight in model.parameters() if weight.requires_grad]
        self.gradients.append(torch.cat([weight.grad.flatten().float() for weight in own]))


def configure(*sections: dict[str, Any], **grpo: Any) -> Config:
    merged: dict[str, Any] = {"rewards": {"names": ["test_expected_training:pay"]}}
    for section in sections:
        for name, values in section.items():
            merged[name] = {**merged.get(name, {}), **values}
    merged["grpo"] = {"num_generations": 8, "per_device_train_batch_size": 16, "max_grad_norm": 1e9, **PLAIN, **grpo}
    return recipe(PACKAGED_POLICIES / "osler-tiny", **merged)


def train(config: Config, prompts: Sequence[Prompt], prepare: Callable[[Any], None] | None = None) -> tuple[Any, list[torch.Tensor]]:
    """The trainer after a training, and the gradients of its steps."""
    watch, arguments = Watch(), grpo_arguments(config, Path("run"))
    torch.manual_seed(0)
    policy, rewards = load_policy(config.policy), resolve_rewards(config.rewards.names)
    check_expectation(config, arguments, prompts, rewards)
    with quiet_training():
        trainer = build_trainer(config, policy, prompts, rewards, arguments)
        trainer.add_callback(watch)
        if prepare is not None:
            prepare(trainer)
        trainer.train()
    return trainer, watch.gradients


def read(config: Config, *, limit: int = 2) -> list[Prompt]:
    return [render(sample, config.prompt.strategy, phase="train") for sample in load_split(config.data, "train")][:limit]


def score(trainer: Any, prompts: Sequence[Prompt], completions: Sequence[Sequence[int]]) -> torch.Tensor:
    """Log-probabilities of completions, one behind each prompt, by the model's own forward pass, [N] lists of [C].

    Completions of equal length behind one prompt are the rows of one pass.
    """
    processor, found = trainer.processing_class, []
    for _, rows in groupby(zip(prompts, completions, strict=True), key=lambda row: (id(row[0]), len(row[1]))):
        together = list(rows)
        prompt, ids_NC = together[0][0], torch.tensor([ids for _, ids in together])
        (num, length), images = ids_NC.shape, [source.load() for source in prompt.sample.images]
        text = processor.apply_chat_template(list(prompt.messages), add_generation_prompt=True, tokenize=False)
        inputs = processor(text=[text] * num, images=images * num or None, return_tensors="pt")
        whole = torch.cat([inputs["input_ids"], ids_NC], dim=1)
        others = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
        others["mm_token_type_ids"] = torch.nn.functional.pad(others["mm_token_type_ids"], (0, length))
        logits = trainer.model(input_ids=whole, attention_mask=torch.ones_like(whole), **others).logits[:, -length - 1 : -1]
        found += logits.log_softmax(dim=-1).gather(2, ids_NC[..., None])[..., 0]
    return torch.nn.utils.rnn.pad_sequence(found, batch_first=True)


def enumerate_answers(trainer: Any, prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[list[int]], torch.Tensor]:
    """Every answer of every question: its prompt, its tokens and its reward."""
    tokenizer = trainer.processing_class.tokenizer
    asked = [(prompt, letter) for prompt in prompts for letter in LETTERS[: len(prompt.sample.choices)]]
    texts = [f"<answer>{letter}</answer>" for _, letter in asked]
    ids = [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in texts]
    paid = pay([[{"content": text}] for text in texts], [prompt.sample.target for prompt, _ in asked])
    return [prompt for prompt, _ in asked], ids, torch.tensor(paid)


def differentiate(trainer: Any, value: torch.Tensor) -> torch.Tensor:
    own = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    found = torch.autograd.grad(value, own, allow_unused=True)
    return torch.cat([torch.zeros_like(weight).flatten() if one is None else one.flatten() for weight, one in zip(own, found, strict=True)])


# What each loss of TRL divides the sum over a completion's tokens by: their number L = 4, the limit, or nothing; and cispo's factor.
TOKENS, LIMIT = 4, 6
LOSSES = {
    "grpo": 1 / TOKENS,
    "bnpo": 1 / TOKENS,
    "dr_grpo": 1 / LIMIT,
    "dapo": 1 / TOKENS,
    "cispo": 0.2 / TOKENS,
    "sapo": 1 / TOKENS,
    "vespo": 1 / TOKENS,
    "luspo": 1.0,
}
KINDS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *((loss, {"loss_type": loss}, {}) for loss in LOSSES),
    ("group", {"scale_rewards": "group"}, {}),
    ("batch", {"scale_rewards": "batch"}, {}),
    ("one_at_a_time", {}, {"trainer": {"groups_per_forward": 1}}),
    ("together", {}, {"trainer": {"groups_per_forward": 2}}),
    ("checkpointing", {"gradient_checkpointing": True}, {}),
    ("frozen", {}, {"policy": {"freeze_vision": True}}),
    ("accumulation", {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8, "loss_type": "grpo"}, {}),
    ("accumulation_dapo", {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8, "loss_type": "dapo"}, {}),
    ("accumulation_bnpo", {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8, "loss_type": "bnpo"}, {}),
]
QUICK = {"bnpo", "dapo", "group", "accumulation"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "grpo", "sections"), [pytest.param(*row, id=row[0], marks=[] if row[0] in QUICK else [pytest.mark.slow]) for row in KINDS]
)
def test_enumerated_answers_have_the_gradient_of_the_expected_reward(name: str, grpo: dict[str, Any], sections: dict[str, Any]) -> None:
    config = configure(NO_THINK, ENUMERATED, sections, **grpo)
    prompts = read(config)
    trainer, gradients = train(config, prompts)
    assert trainer.checked or not trainer.checks_itself
    asked, ids, paid = enumerate_answers(trainer, prompts)
    probs_BO, paid_BO = score(trainer, asked, ids).sum(dim=1).exp().view(2, -1), paid.view(2, -1)
    reward_B, square_B = (probs_BO * paid_BO).sum(dim=1), (probs_BO * paid_BO**2).sum(dim=1)
    deviation = {
        "group": (square_B - reward_B**2).detach().sqrt() + 1e-4,
        "batch": (square_B.mean() - reward_B.mean() ** 2).detach().sqrt() + 1e-4,
        "none": 1.0,
    }[str(config.grpo["scale_rewards"])]
    wanted = -(reward_B / deviation).mean() * LOSSES[str(config.grpo["loss_type"])]
    exact = differentiate(trainer, wanted)
    torch.testing.assert_close(gradients[0], exact, rtol=0, atol=2e-4 * float(exact.abs().max()))
    mean, total = float(reward_B.detach().mean()), float((square_B.mean() - reward_B.mean() ** 2).detach())
    line = next(line for line in trainer.state.log_history if "reward" in line)
    assert line["enumerated/mass"] == pytest.approx(float(probs_BO.detach().sum(dim=1).mean()), abs=1e-4)
    assert line["reward"] == pytest.approx(mean, abs=1e-4)
    assert line["enumerated/reward"] == pytest.approx(line["reward"], abs=1e-4)
    assert line["reward_std"] == pytest.approx(total**0.5, abs=1e-3)


def choose(num_choices: int, *, same: bool = False) -> Sample:
    texts = ["same"] * num_choices if same else [f"choice {number}" for number in range(num_choices)]
    sample = solid_sample((40 + num_choices, 56))
    return replace(sample, choices=tuple(texts), target=LETTERS[num_choices - 1], id=f"choose/{num_choices}")


@pytest.mark.parametrize("numbers", [*(pytest.param(pair, marks=pytest.mark.slow) for pair in ((2, 3), (4, 26))), (26, 5)])
def test_questions_may_have_any_number_of_options(numbers: tuple[int, int]) -> None:
    config = configure(NO_THINK, {"trainer": {"expectation": "enumerated", "min_enumerated_mass": 0}}, num_generations=26)
    config = config.model_copy(update={"grpo": {**config.grpo, "per_device_train_batch_size": 52}})
    prompts = [render(choose(number, same=number == 3), "no_think", phase="train") for number in numbers]
    trainer, gradients = train(config, prompts)
    asked, ids, paid = enumerate_answers(trainer, prompts)
    probs = score(trainer, asked, ids).sum(dim=1).exp()
    exact = differentiate(trainer, -(probs * paid).sum() / 2 / LIMIT)
    torch.testing.assert_close(gradients[0], exact, rtol=0, atol=2e-4 * float(exact.abs().max()))


def test_a_policy_without_the_format_learns_it_from_samples_first() -> None:
    config = configure(NO_THINK, {"trainer": {"expectation": "enumerated", "min_enumerated_mass": 1.0}})
    trainer, _ = train(config, read(config))
    line = next(line for line in trainer.state.log_history if "reward" in line)
    assert line["enumerated/sampled_steps"] == 1
    assert "enumerated/reward" not in line
    assert line["enumerated/mass"] < 1


def test_a_curriculum_counts_expected_rewards() -> None:
    config = configure(NO_THINK, ENUMERATED, {"rewards": {"names": ["accuracy"]}, "data": {"curriculum": "variance"}})
    prompts = read(config)
    trainer, _ = train(config, prompts)
    asked, ids, _ = enumerate_answers(trainer, prompts)
    with torch.no_grad():
        probs_BO = score(trainer, asked, ids).sum(dim=1).exp().view(2, -1)
    right = [float(probs[LETTERS.index(prompt.sample.target)]) for probs, prompt in zip(probs_BO, prompts, strict=True)]
    curriculum = trainer.curriculum
    assert curriculum.right_N / curriculum.completions_N == pytest.approx(right, abs=1e-4)
    assert curriculum.spread_N / curriculum.completions_N == pytest.approx([p * (1 - p) for p in right], abs=1e-4)


def test_answers_longer_than_a_completion_are_refused() -> None:
    config = configure(NO_THINK, ENUMERATED, {"sampling": {"max_completion_length": 3}})
    with pytest.raises(ConfigError, match=r"an answer has 4 tokens and .* is 3: set it to 4 or more"):
        train(config, read(config))


def mean_and_error(gradients: Sequence[torch.Tensor], along: torch.Tensor) -> tuple[float, float]:
    """Mean of the gradients along a direction, and its standard error."""
    values = torch.stack([gradient @ along for gradient in gradients]).double()
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


SAMPLED: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], float]] = [
    *((f"no_think_{loss}", NO_THINK, ENUMERATED, {"loss_type": loss}, 0.02) for loss in LOSSES),
    ("no_think_group", NO_THINK, ENUMERATED, {"scale_rewards": "group"}, 0.05),
    ("no_think_beta", NO_THINK, ENUMERATED, {"beta": 0.5}, 0.02),
    ("no_think_cispo_beta", NO_THINK, ENUMERATED, {"beta": 0.5, "loss_type": "cispo"}, 0.02),
    ("no_think_grpo_beta", NO_THINK, ENUMERATED, {"beta": 0.5, "loss_type": "grpo", "use_bias_correction_kl": False}, 0.02),
    ("think_dapo_beta", THINK, PARTIAL, {"beta": 0.5, "loss_type": "dapo"}, 0.02),
    ("think", THINK, PARTIAL, {}, 0.02),
    ("think_group", THINK, PARTIAL, {"scale_rewards": "group"}, 0.05),
    ("think_grpo_beta", THINK, PARTIAL, {"loss_type": "grpo", "beta": 0.5}, 0.02),
    ("think_after", THINK_AFTER, ENUMERATED, {}, 0.02),
    ("think_after_grpo", THINK_AFTER, ENUMERATED, {"loss_type": "grpo", "scale_rewards": "group"}, 0.05),
]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "kind", "grpo", "bias"), [row[1:] for row in SAMPLED], ids=[row[0] for row in SAMPLED])
def test_the_gradient_is_the_mean_of_those_of_samples(
    strategy: dict[str, Any], kind: dict[str, Any], grpo: dict[str, Any], bias: float
) -> None:
    """Within four standard errors and what a group of 64 is off by: its own mean and deviation take part in its advantages."""
    steps = {**grpo, "max_steps": 20, "num_generations": 64, "per_device_train_batch_size": 128}
    prompts = read(configure(strategy))
    drift = {"beta": 0.0} if "beta" not in grpo else {}

    def move(trainer: Any) -> None:
        """Away from the reference, so that the penalty has a gradient."""
        torch.manual_seed(1)
        with torch.no_grad():
            for weight in trainer.model.parameters():
                weight.add_(0.01 * weight.std() * torch.randn_like(weight) if weight.ndim > 1 else 0.0)

    _, sampled = train(configure(strategy, **{**steps, **drift}), prompts, move)
    trainer, expected = train(configure(strategy, kind, **{**steps, **drift}), prompts, move)
    assert trainer.expectation.kind == kind["trainer"]["expectation"]
    exact = torch.stack(expected).mean(dim=0)
    generator = torch.Generator().manual_seed(0)
    directions = [exact / exact.norm(), *(torch.sign(torch.randn(exact.shape, generator=generator)) * exact.abs() for _ in range(4))]
    for direction in directions:
        (mean, error), (own_mean, own_error) = (mean_and_error(some, direction) for some in (sampled, expected))
        assert abs(mean - own_mean) <= 4 * (error**2 + own_error**2) ** 0.5 + bias * abs(own_mean)
    noise, own_noise = (float(torch.stack(some).var(dim=0).sum()) for some in (sampled, expected))
    # After the answer, what is left of the noise is that of the reasoning.
    assert own_noise < (1.1 if strategy is THINK_AFTER else 1) * noise


def test_letters_are_scored_as_if_they_had_been_written() -> None:
    """The log-probability of every letter behind each reasoning, against a pass over the completion with that letter."""
    config = configure(THINK, PARTIAL)
    prompts, seen = read(config), []

    def watch(trainer: Any) -> None:
        take = trainer._take_expectation

        def note(batch: dict[str, Any], logps_NC: Any, letter_logps_NO: Any, mask_NC: Any) -> Any:
            seen.append(({**batch}, letter_logps_NO.detach()))
            return take(batch, logps_NC, letter_logps_NO, mask_NC)

        trainer._take_expectation = note

    trainer, _ = train(config, prompts, watch)
    ((batch, letter_logps_NO),) = seen
    texts = [prompt.messages[0]["content"][-1]["text"] for prompt in prompts]
    tokenizer = trainer.processing_class.tokenizer
    checked = 0
    for row, place in enumerate(batch["letter_place"].tolist()):
        if place < 0:
            continue
        prompt = prompts[next(index for index, text in enumerate(texts) if text in tokenizer.decode(batch["prompt_ids"][row]))]
        ids = batch["completion_ids"][row].tolist()
        letters = batch["letter_ids"][row].tolist()
        with torch.no_grad():
            logps_OC = score(trainer, [prompt] * len(letters), [[*ids[:place], token] for token in letters])
        for option, logps in enumerate(logps_OC):
            assert float(letter_logps_NO[row, option]) == pytest.approx(float(logps[place]), abs=1e-4)
            checked += 1
    assert checked > 8


REFUSED: list[tuple[str, list[dict[str, Any]], dict[str, Any], str]] = [
    ("exact_filtered", [THINK, {"trainer": {"expectation": "exact"}, "sampling": {"top_p": 0.9}}], {}, "top_p = 1"),
    ("not_shared", [NO_THINK, {"trainer": {"expectation": "enumerated", "share_prefix": False}}], {}, "share_prefix = true"),
    ("reasons_first", [THINK, ENUMERATED], {}, 'expectation = "partial"'),
    ("answers_first", [NO_THINK, PARTIAL], {}, 'expectation = "enumerated"'),
    ("after", [THINK_AFTER, PARTIAL], {}, 'expectation = "enumerated"'),
    ("options", [NO_THINK, ENUMERATED], {"num_generations": 2, "per_device_train_batch_size": 4}, "num_generations = 4"),
    ("divided", [NO_THINK, ENUMERATED], {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}, "multiple of 8"),
    ("filtered", [NO_THINK, ENUMERATED, {"sampling": {"top_k": 20}}], {}, "top_k = 0"),
    ("dynamic", [THINK, PARTIAL, {"trainer": {"dynamic_sampling": 1}}], {}, "dynamic_sampling = 0"),
    ("batch", [THINK, PARTIAL], {"scale_rewards": "batch", "gradient_accumulation_steps": 2}, "scale_rewards"),
    ("sequence", [THINK, PARTIAL], {"importance_sampling_level": "sequence"}, "importance_sampling_level"),
    ("entropy", [NO_THINK, ENUMERATED], {"entropy_coef": 0.1}, "entropy_coef = 0"),
    ("after_rows", [THINK_AFTER, ENUMERATED], {"num_generations": 4}, "num_generations = 8"),
    ("truncated", [THINK, PARTIAL], {"mask_truncated_completions": True}, "mask_truncated_completions = false"),
    ("again", [THINK, PARTIAL, {"rewards": {"names": ["accuracy", "reasoning_matters"]}}], {}, "reasoning_matters"),
]


@pytest.mark.parametrize(
    ("strategy", "kind"), [("think", "partial"), ("no_think", "enumerated"), ("think_after", "enumerated"), ("zero_shot", "enumerated")]
)
def test_exact_is_the_kind_that_suits_the_strategy(strategy: str, kind: str) -> None:
    config = configure({"prompt": {"strategy": strategy}, "trainer": {"expectation": "exact"}})
    assert find_expectation(config, strategy) == kind
    check_expectation(config, grpo_arguments(config, Path("run")), read(config), resolve_rewards(config.rewards.names))


@pytest.mark.parametrize(("sections", "grpo", "told"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_has_no_expectation_is_refused(sections: list[dict[str, Any]], grpo: dict[str, Any], told: str) -> None:
    config = configure(*sections, **grpo)
    with pytest.raises(ConfigError, match=told) as refused:
        check_expectation(config, grpo_arguments(config, Path("run")), read(config), resolve_rewards(config.rewards.names))
    assert "\n" not in str(refused.value)
    assert 'or set it to "sampled"' in str(refused.value)


def test_a_rollout_that_is_not_osler_s_own_is_refused() -> None:
    config = configure(NO_THINK, ENUMERATED, pad_to_multiple_of=8)
    with pytest.raises(ConfigError, match="needs Osler's own rollout"):
        train(config, read(config))


def test_a_reward_that_does_not_apply_counts_as_nothing() -> None:
    """TRL leaves None out of the sum."""
    found = []
    for names in (["pay"], ["pay", "pay_none"]):
        named = {"rewards": {"names": [f"test_expected_training:{name}" for name in names]}}
        config = configure(NO_THINK, ENUMERATED, named, scale_rewards="group")
        found.append(train(config, read(config))[1][0])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize(("strategy", "kind"), [(NO_THINK, ENUMERATED), (THINK, PARTIAL)], ids=["enumerated", "partial"])
def test_wrong_log_probabilities_end_the_run(strategy: dict[str, Any], kind: dict[str, Any]) -> None:
    def spoil(trainer: Any) -> None:
        right = trainer._score_update
        trainer._score_update = lambda *args: tuple(values + 0.01 for values in right(*args))

    config = configure(strategy, kind)
    with pytest.raises(PolicyError, match='set it to "sampled"'):
        train(config, read(config), spoil)


@pytest.mark.parametrize(
    ("strategy", "kind", "sections", "grpo"),
    [
        pytest.param(NO_THINK, ENUMERATED, {"policy": {"lora": {"r": 4}}}, {"beta": 0.04}, id="enumerated_lora"),
        pytest.param(
            THINK, PARTIAL, {"policy": {"lora": {"r": 4}}}, {"beta": 0.04, "num_iterations": 2}, id="partial_lora", marks=pytest.mark.slow
        ),
        pytest.param(
            THINK_AFTER,
            ENUMERATED,
            {"trainer": {"groups_per_forward": 1}},
            {"num_iterations": 2},
            id="after_iterations",
            marks=pytest.mark.slow,
        ),
        pytest.param(THINK, PARTIAL, {"trainer": {"groups_per_forward": 1}}, {"loss_type": "cispo"}, id="partial_parts"),
        pytest.param(
            THINK,
            PARTIAL,
            {"grpo": {}},
            {"gradient_checkpointing": True, "loss_type": "vespo"},
            id="partial_checkpointing",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_policy_learns(strategy: dict[str, Any], kind: dict[str, Any], sections: dict[str, Any], grpo: dict[str, Any]) -> None:
    steps = {"max_steps": 12, "learning_rate": 5e-3 if "policy" in sections else 2e-4, "scale_rewards": "group", **grpo}
    config = configure(strategy, kind, sections, **{**steps, "save_strategy": "no"})
    trainer, gradients = train(config, read(config))
    lines = [line for line in trainer.state.log_history if "reward" in line]
    name = f"{kind['trainer']['expectation']}/reward"
    assert lines[-1][name] > lines[0][name] + 0.5
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    json.dumps(lines, allow_nan=False)
