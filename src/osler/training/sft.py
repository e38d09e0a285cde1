"""`osler sft`: supervised fine-tuning on reference completions, the baseline of both papers.

By default it has the budget of `osler train` with the same recipe (questions and steps), the strategy's target, and labels for the
completion only. `sft_target = "med_r1_sft"` reproduces Med-R1's published baseline, handicaps included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from osler.config import Config
from osler.errors import ConfigError
from osler.prompts import target_completion
from osler.run_folder import Run
from osler.training.arguments import build_arguments, check_reporters, check_trained_dtype, grpo_arguments
from osler.training.checkpoints import finished_run, load_for_training, start_run, train_and_save
from osler.training.dataset import build_dataset, option_shuffler, read_prompts
from osler.types import Prompt, Sample

if TYPE_CHECKING:
    from osler.policies.load import Policy
    from osler.training.trainer import OslerSFTTrainer

MED_R1_SFT: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "learning_rate": 2e-5,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,  # a fraction below 1 is a share of all steps
        "num_train_epochs": 1,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 16,  # 128 questions a step on one device
    }
)
"""Settings of Med-R1's published baseline (arXiv 2503.13939, from its code)."""

SHARED_KEYS: Final[tuple[str, ...]] = (
    "bf16",
    "fp16",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
    "logging_steps",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "disable_tqdm",
)
"""Technical keys of `[grpo]` that SFT uses too, unless `[sft]` sets them."""


def train_sft(config: Config, out: Path, *, fresh: bool = False) -> Run:
    """Fine-tune a policy and save it in the run folder `out`; an interrupted run of the same recipe resumes, unless `fresh`.

    The recipe, the questions, their targets, the policy and the length of every prompt are checked before anything is written. Returns the
    run's paths; the trained policy is in `run.policy`. Raises OslerError for user errors.
    """
    check_trained_dtype(config, "sft")
    if config.data.mixture != "proportional" or config.data.curriculum != "none":
        raise ConfigError("[data] mixture and curriculum choose GRPO's questions: add --data.mixture=proportional --data.curriculum=none")
    prompts = read_prompts(config)
    if not fresh and (finished := finished_run(out, config, prompts)) is not None:
        return finished
    targets = [sft_target(prompt.sample, config) for prompt in prompts]
    check_reporters(config.trainer.report_to)
    arguments = sft_arguments(config, out, len(prompts))
    policy = load_for_training(config, prompts, arguments)

    run = start_run(out, config, policy, prompts, arguments, fresh=fresh)
    train_and_save(lambda: build_trainer(config, policy, prompts, targets, arguments), policy, run, config)
    return run


def build_trainer(config: Config, policy: Policy, prompts: Sequence[Prompt], targets: Sequence[str], arguments: Any) -> OslerSFTTrainer:
    """TRL's SFT trainer over questions and targets; the labels include the end-of-turn token."""
    from osler.policies.lora import lora_config
    from osler.training.trainer import OslerSFTTrainer, VisibleTextCollator

    shuffler = option_shuffler(config, arguments)
    return OslerSFTTrainer(
        model=policy.model,
        args=arguments,
        train_dataset=build_dataset(prompts, targets, shuffler=shuffler, complete=lambda sample: sft_target(sample, config)),
        callbacks=None if shuffler is None else [shuffler],
        processing_class=policy.processor,
        data_collator=VisibleTextCollator(policy.processor) if config.sft_target == "med_r1_sft" else None,
        peft_config=lora_config(config.policy.lora, policy.family) if config.policy.lora is not None else None,
    )


def sft_target(sample: Sample, config: Config) -> str:
    """The reference completion: the strategy's target, or Med-R1's published text, which teaches "None" as reasoning."""
    if config.sft_target == "med_r1_sft":
        return f"None\n\n<answer> {sample.target} </answer>"
    return target_completion(sample, config.prompt.strategy)


def sft_arguments(config: Config, out: Path, num_samples: int) -> Any:
    """TRL's SFTConfig of a recipe: the matched budget, overridden by `[sft]`; or the settings of Med-R1's published baseline."""
    from trl import SFTConfig

    shared = {key: config.grpo[key] for key in SHARED_KEYS if key in config.grpo}
    if config.sft_target == "med_r1_sft":
        values = {**shared, **config.sft, **MED_R1_SFT}  # the published numbers override the recipe
    else:
        values = {**matched_sft_arguments(config, num_samples), **shared, **config.sft}
    if "num_train_epochs" in config.sft and "max_steps" not in config.sft:
        values.pop("max_steps", None)  # it would override num_train_epochs
    # max_length=None: prompt lengths are checked, and nothing is truncated.
    completion_only = config.sft_target == "strategy"
    arguments = build_arguments(SFTConfig, "sft", values, config, out, max_length=None, completion_only_loss=completion_only)
    if values.get("max_steps") == 0:  # TRL would use its default number of epochs
        raise ConfigError(
            f"[grpo] makes no step of {num_samples} questions, so SFT with the same budget has none: "
            "select more questions, or set [sft] max_steps"
        )
    return arguments


def matched_sft_arguments(config: Config, num_samples: int) -> dict[str, Any]:
    """Batch size, gradient accumulation and steps with which SFT trains on as many questions in as many steps as `[grpo]`.

    TRL counts completions in a batch of GRPO: 32 completions with 8 generations are 4 questions, so SFT's batch is 4.

    Raises ConfigError when a process of GRPO holds only a part of a group.
    """
    grpo = grpo_arguments(config, Path("unused"))
    completions = grpo.per_device_train_batch_size * grpo.gradient_accumulation_steps
    if completions % grpo.num_generations:
        raise ConfigError(
            f"[grpo] gives a process {completions} completions a step, not whole groups of {grpo.num_generations}: "
            "set per_device_train_batch_size, gradient_accumulation_steps and max_steps in [sft]"
        )
    has_whole_groups = grpo.per_device_train_batch_size % grpo.num_generations == 0
    accumulation = grpo.gradient_accumulation_steps if has_whole_groups else 1
    return {
        "per_device_train_batch_size": completions // grpo.num_generations // accumulation,
        "gradient_accumulation_steps": accumulation,
        "max_steps": grpo.max_steps if grpo.max_steps > 0 else count_grpo_steps(grpo, num_samples),
    }


def count_grpo_steps(grpo: Any, num_samples: int) -> int:
    """The number of GRPO updates in its epochs: each rollout gives `steps_per_generation * num_iterations` micro-batches."""
    rollouts: int = num_samples // (grpo.generation_batch_size // grpo.num_generations)
    micro_batches = rollouts * grpo.steps_per_generation * grpo.num_iterations
    steps_per_epoch: int = math.ceil(micro_batches / grpo.gradient_accumulation_steps)
    return math.ceil(steps_per_epoch * float(grpo.num_train_epochs))
