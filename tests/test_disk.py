"""The space of checkpoints: planned before the first step, refused where it does not fit, and explained when the disk is full anyway."""

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import recipe
from tiny_checkpoint import apply_lora

from osler.config import Config, LoraSection, PolicyConfig
from osler.errors import ConfigError, OslerError
from osler.policies.load import load_policy
from osler.policies.quiet import quiet_training
from osler.run_folder import Run
from osler.training.arguments import grpo_arguments
from osler.training.checkpoints import last_checkpoint
from osler.training.dataset import read_prompts
from osler.training.disk import NOTABLE_BYTES, check_space, plan_space
from osler.training.grpo import build_trainer, train_grpo
from osler.training.rollout_state import estimate_bytes


def full_at_step_two(trainer_state: Any, completions: list[Any], **_: Any) -> list[float]:
    """A reward function in a process whose disk is full from the third step on."""
    if trainer_state.global_step == 2:
        raise RuntimeError("PytorchStreamWriter failed writing file") from OSError(errno.ENOSPC, "No space left on device")
    return [0.0] * len(completions)


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) + sum(
        file.stat().st_size for file in folder.glob("optimizer*")
    )


PLANS: list[tuple[str, dict[str, Any], dict[str, Any], bool]] = [
    ("full", {}, {}, True),
    ("lora", {"lora": {"r": 32}}, {}, True),
    ("frozen", {"freeze_vision": True}, {}, True),
    ("full_amid", {}, {"num_iterations": 2}, True),
    ("full_amid_trl", {}, {"num_iterations": 2}, False),
    ("frozen_amid", {"freeze_vision": True}, {"num_iterations": 2}, True),
]


@pytest.mark.integration
@pytest.mark.parametrize(("policy", "grpo", "share"), [row[1:] for row in PLANS], ids=[row[0] for row in PLANS])
def test_the_plan_is_what_is_written(tiny_folder: Path, tmp_path: Path, policy: dict[str, Any], grpo: dict[str, Any], share: bool) -> None:
    config = recipe(tiny_folder, policy=policy, grpo={"save_steps": 1, "max_steps": 3, **grpo}, trainer={"share_prefix": share})
    rollout = estimate_bytes(make_trainer(config, tmp_path))
    assert (rollout > 0) == ("num_iterations" in grpo)
    run = train_grpo(config, tmp_path / "run")
    loaded = load_policy(PolicyConfig(path=str(tiny_folder), freeze_vision="freeze_vision" in policy))
    space = plan_space(apply_lora(loaded, LoraSection(r=32)) if "lora" in policy else loaded.model, 2, rollout)
    checkpoint = last_checkpoint(run.checkpoints)
    assert checkpoint is not None
    assert size_of(checkpoint) == pytest.approx(space.weights + space.optimizer + space.rollout, rel=0.25)
    assert size_of(run.policy) == pytest.approx(space.policy, rel=0.25)
    assert space.num_checkpoints == 3


def make_trainer(config: Config, folder: Path) -> Any:
    prompts, arguments = read_prompts(config), grpo_arguments(config, folder / "unused")
    with quiet_training():
        return build_trainer(config, load_policy(config.policy), prompts, [out_of_nothing], arguments)


def out_of_nothing(completions: list[Any], **_: Any) -> list[float]:
    return [0.0] * len(completions)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("checkpoint", "saved", "resumes"), [("resume", True, True), ("weights", True, False), ("none", False, False)], ids=str
)
def test_a_recipe_says_what_checkpoints_hold(tiny_folder: Path, tmp_path: Path, checkpoint: str, saved: bool, resumes: bool) -> None:
    run = train_grpo(recipe(tiny_folder, trainer={"checkpoint": checkpoint}, grpo={"save_steps": 1}), tmp_path / "run")
    assert run.policy.is_dir()
    assert any(run.checkpoints.glob("*/model.safetensors")) == saved
    assert (last_checkpoint(run.checkpoints) is not None) == resumes


def trainer_of(gigabytes: float) -> Any:
    """What `check_space` reads of a trainer, with weights of that size that take no memory."""
    model = torch.nn.Embedding(int(gigabytes * 1000), 250_000, device="meta")
    return SimpleNamespace(model=model, args=SimpleNamespace(save_total_limit=2))


def test_a_training_that_cannot_fit_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    run, config = Run(root=tmp_path), recipe(tiny_folder)
    with pytest.raises(ConfigError, match=r"up to 3 checkpoints and the policy take 10000000\.0 GB") as caught:
        check_space(trainer_of(1e6), run, config)
    assert "--trainer.checkpoint=weights (4000000.0 GB), --trainer.checkpoint=none (1000000.0 GB)" in str(caught.value)
    assert check_space(trainer_of(0.001), run, config) is None
    assert NOTABLE_BYTES == 1e9
    said = check_space(trainer_of(0.2), run, config)
    assert said is not None
    assert said.startswith("up to 3 checkpoints and the policy take 2.0 GB, and ")
    assert check_space(trainer_of(0.2), run, recipe(tiny_folder, trainer={"checkpoint": "none"})) is None


@pytest.mark.integration
def test_a_full_disk_keeps_what_was_written_and_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    grpo = {"save_steps": 1, "max_steps": 4}
    config = recipe(tiny_folder, grpo=grpo, rewards={"names": ["test_disk:full_at_step_two"]})
    with pytest.raises(OslerError, match=r"is full at step 2; the checkpoint of step 1 is kept: make room") as caught:
        train_grpo(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    kept = last_checkpoint(tmp_path / "run" / "checkpoints")
    assert kept is not None
    assert kept.name == "checkpoint-1"
