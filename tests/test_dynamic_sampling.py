"""Dynamic sampling: questions that teach nothing give way to others, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_prefix_cases import SAMPLES, pay, run
from small_runs import recipe
from tiny_checkpoint import save_tiny

from osler.errors import ConfigError, PolicyError
from osler.policies.load import load_policy
from osler.policies.quiet import quiet_training
from osler.prompts import render
from osler.training.arguments import grpo_arguments
from osler.training.grpo import build_trainer, check_sharing
from osler.training.shared_prefix.dynamic_sampling import find_equal, replace_groups


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("policies") / "sharp", hidden=32, layers=2)


def make_batch(prompt: int, completion: int, groups: int, value: int) -> dict[str, Any]:
    """Two completions a group, every tensor filled with a value of its own."""
    rows = 2 * groups
    return {
        "prompt_ids": torch.full((rows, prompt), value),
        "prompt_mask": torch.ones(rows, prompt, dtype=torch.long),
        "completion_ids": torch.full((rows, completion), value),
        "completion_mask": torch.ones(rows, completion, dtype=torch.long),
        "mm_token_type_ids": torch.cat([torch.ones(rows, prompt), torch.zeros(rows, completion)], dim=1).long(),
        "advantages": torch.full((rows,), float(value)),
        "rollout_logps": torch.full((rows, completion), -float(value)),
        "group_id": torch.arange(groups).repeat_interleave(2),
        "num_items_in_batch": torch.tensor(rows * completion),
    }


@pytest.mark.parametrize(("prompt", "completion"), [(3, 2), (5, 4), (2, 6)])
def test_groups_are_replaced_whole(prompt: int, completion: int) -> None:
    """Narrower prompts gain padding on the left, narrower completions on the right, on either side of the exchange."""
    merged = replace_groups(make_batch(4, 3, 3, 1), make_batch(prompt, completion, 2, 2), {0: 1, 2: 0}, 2, pad_id=9)
    width, steps = max(prompt, 4), max(completion, 3)
    old, new = [9] * (width - 4) + [1] * 4, [9] * (width - prompt) + [2] * prompt
    assert merged["prompt_ids"].tolist() == [new, new, old, old, new, new]
    assert merged["completion_ids"][1:3].tolist() == [[2] * completion + [9] * (steps - completion), [1] * 3 + [9] * (steps - 3)]
    assert merged["mm_token_type_ids"][0].tolist() == [0] * (width - prompt) + [1] * prompt + [0] * steps
    assert merged["mm_token_type_ids"][2].tolist() == [0] * (width - 4) + [1] * 4 + [0] * steps
    assert merged["prompt_mask"].sum(dim=1).tolist() == [prompt, prompt, 4, 4, prompt, prompt]
    assert merged["rollout_logps"].sum(dim=1).tolist() == [-2.0 * completion] * 2 + [-3.0] * 2 + [-2.0 * completion] * 2
    assert merged["advantages"].tolist() == [2, 2, 1, 1, 2, 2]
    assert merged["group_id"].tolist() == [0, 0, 1, 1, 2, 2]
    assert int(merged["num_items_in_batch"]) == 4 * completion + 2 * 3


def test_what_is_not_known_is_not_mixed() -> None:
    batch = make_batch(2, 2, 1, 1)
    with pytest.raises(AssertionError, match="pixel_values"):
        replace_groups({**batch, "pixel_values": torch.zeros(2)}, batch, {0: 0}, 2, pad_id=0)
    both = {**batch, "tool_mask": torch.zeros(2, 2)}
    with pytest.raises(AssertionError, match="tool_mask"):
        replace_groups(both, both, {0: 0}, 2, pad_id=0)


def test_equal_groups_are_found() -> None:
    assert find_equal(torch.tensor([0.0, 0.0, 1.0, -1.0, 0.0, 0.0]), 2) == [0, 2]


def pay_questions(completion_ids: list[list[int]], sample_id: list[str], **others: Any) -> list[float]:
    """Half of the questions teach nothing."""
    taught = {sample.id for sample in SAMPLES[::2]}
    rewards = pay(completion_ids, **others)
    return [reward + row if own in taught else 1.0 for row, (own, reward) in enumerate(zip(sample_id, rewards, strict=True))]


Train = Callable[[dict[str, Any], dict[str, Any]], Any]


@pytest.fixture(scope="module")
def train(folder: Path) -> Train:
    """A training of three steps with these settings; the same settings are trained with once."""
    kept: dict[str, Any] = {}

    def start(grpo: dict[str, Any], trainer: dict[str, Any]) -> Any:
        settings = {"max_steps": 3, "shuffle_dataset": False, **grpo}
        name = repr((settings, trainer))
        if name not in kept:
            kept[name] = run(folder, pay_questions, settings, {"trainer": trainer}, share=True)
        return kept[name]

    return start


SETTINGS: dict[str, dict[str, Any]] = {
    "one": {},
    "two": {"num_iterations": 2},
    "split": {"beta": 0.04, "gradient_accumulation_steps": 2},
}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("grpo", "rounds"),
    [
        pytest.param(SETTINGS[name], rounds, id=f"{name}-{rounds}", marks=[pytest.mark.slow] if name != "one" and rounds == 1 else [])
        for name in SETTINGS
        for rounds in (1, 6)
    ],
)
def test_a_training_asks_other_questions(train: Train, rounds: int, grpo: dict[str, Any]) -> None:
    """The update learns from what replaced them, and the metrics stay those of the questions first asked."""
    results = {number: train(grpo, {"dynamic_sampling": number}) for number in (0, rounds)}
    plain, dynamic = results[0][2], results[rounds][2]
    assert results[rounds][0].checked
    assert dynamic[0]["frac_reward_zero_std"] == plain[0]["frac_reward_zero_std"] == pytest.approx(0.5)
    assert dynamic[0]["reward"] == pytest.approx(plain[0]["reward"])
    assert dynamic[0]["dynamic_sampling/resampled_groups"] >= 1
    if rounds > 1:
        assert dynamic[0]["dynamic_sampling/groups_without_advantage"] == 0.0
        assert dynamic[0]["grad_norm"] != pytest.approx(plain[0]["grad_norm"], rel=1e-3)
    assert "dynamic_sampling/resampled_groups" not in plain[0]


@pytest.mark.integration
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_bound_on_groups_changes_no_training(train: Train, limit: int) -> None:
    """Of three groups some are replaced by a rollout that fits the bound, which the first one did not."""
    settings = {"num_generations": 4, "per_device_train_batch_size": 12}
    free, bound = (train(settings, {"dynamic_sampling": 1, "groups_per_forward": size}) for size in (0, limit))
    assert bound[1] == free[1]
    for name, weight in free[3].items():
        torch.testing.assert_close(bound[3][name], weight, rtol=0, atol=1e-5)


REFUSED = [
    ({"trainer": {"dynamic_sampling": 1, "share_prefix": False}}, r"^\[trainer\] dynamic_sampling works with shared prefixes only"),
    ({"trainer": {"static_decoding": True, "share_prefix": False}}, r"^\[trainer\] static_decoding works with shared prefixes only"),
    ({"trainer": {"vision_cache": "kept"}}, r"^\[trainer\] vision_cache keeps what a frozen vision tower computes: set \[policy\]"),
    ({"trainer": {"dynamic_sampling": 1}, "grpo": {"scale_rewards": "batch"}}, r"dynamic_sampling replaces single groups"),
    (
        {"trainer": {"dynamic_sampling": 1}, "grpo": {"multi_objective_aggregation": "normalize_then_sum"}},
        r"dynamic_sampling replaces single groups",
    ),
    ({"trainer": {"dynamic_sampling": -1}}, r"trainer.dynamic_sampling"),
    ({"trainer": {"groups_per_forward": -1}}, r"trainer.groups_per_forward"),
    ({"trainer": {"vision_cache_gb": 0}}, r"trainer.vision_cache_gb"),
    ({"grpo": {"num_generations": 3}}, r"divisible"),
]


@pytest.mark.parametrize(("sections", "message"), REFUSED, ids=[row[1][:40] for row in REFUSED])
def test_a_wrong_setting_is_one_line(folder: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_sharing(config := recipe(folder, **sections), grpo_arguments(config, Path("run")))
    assert "\n" not in str(caught.value)


def build(folder: Path, prepare: Any, **sections: Any) -> Any:
    config = recipe(folder, **sections)
    policy = load_policy(config.policy)
    prepare(policy.model)
    with quiet_training():
        prompts = [render(sample, "no_think", phase="train") for sample in SAMPLES]
        return build_trainer(config, policy, prompts, [pay], grpo_arguments(config, Path("run")))


def test_weights_that_are_nowhere_are_one_line(folder: Path) -> None:
    with pytest.raises(PolicyError, match=r"^the policy has weights on the meta device: load them"):
        build(folder, lambda model: model.to("meta"))


def attend_eagerly(model: Any) -> None:
    model.config.text_config._attn_implementation = "eager"


def become_another(model: Any) -> None:
    model.config.model_type = "other_vl"


@pytest.mark.parametrize(
    ("change", "reason"), [(attend_eagerly, "is eager, not sdpa"), (become_another, "other_vl is no supported family")]
)
def test_a_policy_that_cannot_share_says_so(folder: Path, capsys: pytest.CaptureFixture[str], change: Any, reason: str) -> None:
    """Training goes TRL's way; dynamic sampling, which needs shared prefixes, is refused."""
    assert not build(folder, change).shares_prefix
    lines = [line for line in capsys.readouterr().err.splitlines() if "not shared" in line]
    assert len(lines) == 1
    assert lines[0].startswith("prompts are not shared within groups: ")
    assert lines[0].endswith(reason)
    with pytest.raises(ConfigError, match="dynamic_sampling needs shared prefixes"):
        build(folder, change, trainer={"dynamic_sampling": 1})


@pytest.mark.integration
def test_the_check_is_seen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, pay, {"max_steps": 1}, {}, share=True)
    assert "prompts are shared within groups: log-probabilities differ by " in capsys.readouterr().err
