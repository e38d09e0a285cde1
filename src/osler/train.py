"""`osler train`: GRPO on the questions of a recipe.

A step draws a few questions, lets the policy answer each G times, rewards every answer, and moves the policy towards the answers that
earned more than the others of their group.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osler.config import Config
from osler.errors import ConfigError
from osler.runs import Run, open_run, write_json
from osler.scoring import resolve_rewards
from osler.training import (
    add_callbacks,
    build_dataset,
    check_reporters,
    describe_samples,
    grpo_arguments,
    load_for_training,
    name_reference,
    quiet_upstream,
    read_prompts,
    run_trainer,
    save_policy,
)
from osler.types import Prompt

if TYPE_CHECKING:
    from osler.models import Policy
    from osler.scoring import RewardFunction
    from osler.trainer import OslerGRPOTrainer


def train(config: Config, out: Path, *, fresh: bool = False) -> Run:
    """Train a policy and save it in the run at `out`; go on where an earlier run of the same recipe stopped.

    Nothing is written until the recipe, the questions, the policy and the length of every prompt have been checked.

    Raises OslerError for whatever the user can mend.
    """
    if not fresh and Run(root=out).policy.is_dir():
        return open_run(out, config)  # finished before; raises when it was another recipe's
    prompts = read_prompts(config)
    rewards = resolve_rewards(config.rewards.names)
    check_reporters(config.trainer.report_to)
    arguments = grpo_arguments(config, out)
    check_group(arguments, len(prompts))
    policy = load_for_training(config, prompts)

    run = open_run(out, config, resume=not fresh)
    write_json(run.manifest, {"policy": policy.name, "train": describe_samples([prompt.sample for prompt in prompts])})
    if arguments.beta and config.policy.lora is None:
        name_reference(policy, config, run)
    with quiet_upstream():
        trainer = build_trainer(config, policy, prompts, rewards, arguments)
        add_callbacks(trainer, run, config)
        run_trainer(trainer, run)
        save_policy(trainer, policy.processor, run.policy)
    return run


def build_trainer(
    config: Config, policy: Policy, prompts: Sequence[Prompt], rewards: Sequence[RewardFunction], arguments: Any
) -> OslerGRPOTrainer:
    """TRL's trainer over the questions, with a fresh LoRA adapter where the recipe asks for one."""
    from osler.models import lora_config
    from osler.shared_trainer import SharedPrefixGRPOTrainer
    from osler.trainer import OslerGRPOTrainer

    trainer_class = SharedPrefixGRPOTrainer if config.trainer.share_prefix else OslerGRPOTrainer
    return trainer_class(
        model=policy.model,
        reward_funcs=list(rewards),
        args=arguments,
        train_dataset=build_dataset(prompts),
        processing_class=policy.processor,
        peft_config=lora_config(config.policy.lora, policy.family) if config.policy.lora is not None else None,
        print_completions_every=config.trainer.print_completions_every,
    )


def check_group(arguments: Any, num_prompts: int) -> None:
    """Raise ConfigError where the questions do not fill one rollout: TRL would train on nothing."""
    wanted = arguments.generation_batch_size // arguments.num_generations
    if num_prompts < wanted:
        raise ConfigError(
            f"[data.train] gives {num_prompts} questions and one rollout takes {wanted}: select more, or give [grpo] a smaller batch"
        )
