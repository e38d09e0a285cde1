"""The memory plan of a recipe: its settings, and the lengths of its own prompts, as a `Workload`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from osler.config import Config
from osler.doctor.memory_plan import MemoryPlan, plan_memory
from osler.doctor.memory_shape import ModelShape, read_shape
from osler.doctor.memory_work import Adapter, Kind, Optimizer, Sharding, Workload
from osler.errors import ConfigError
from osler.policies.image_tokens import count_image_tokens
from osler.policies.load import find_device, find_family, open_processor
from osler.policies.lora import lora_config
from osler.policies.sources import find_policy
from osler.training.arguments import grpo_arguments, read_deepspeed
from osler.training.dataset import read_prompts
from osler.training.sft import sft_arguments, sft_target
from osler.types import Prompt

MEASURED: Final = 32
"""Prompts whose tokens are counted, evenly spaced; the longest counts."""

PROCESSES: Final = ("fsdp", "fsdp_config", "deepspeed")
"""Settings that TRL's arguments take only where several processes run: they are read apart."""

OPTIMIZERS: Final[Mapping[str, Optimizer]] = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_bnb_8bit": "adamw_8bit",
    "adamw_8bit": "adamw_8bit",
    "paged_adamw_8bit": "adamw_8bit",
    "sgd": "sgd",
    "adafactor": "adafactor",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSize:
    """The largest of some prompts, in tokens."""

    tokens: int  # with those of images
    image_tokens: int
    images: int
    target: int = 0  # of the reference completion, for SFT


def plan_for(
    config: Config, policy_folder: Path, *, num_processes: int = 1, kind: Kind = "grpo", prompts: Sequence[Prompt] | None = None
) -> MemoryPlan:
    """The plan of `osler train` (`kind` "grpo") or `osler sft` with a recipe, for a checkpoint whose weights are not read.

    `prompts` are the rendered training questions, if they are at hand; else they are read. Raises what reading them raises, PolicyError
    for a family whose sizes are not known, and ConfigError for settings that TRL refuses.
    """
    return plan_memory(*work_of(config, policy_folder, num_processes=num_processes, kind=kind, prompts=prompts))


def work_of(
    config: Config, policy_folder: Path, *, num_processes: int = 1, kind: Kind = "grpo", prompts: Sequence[Prompt] | None = None
) -> tuple[ModelShape, Workload]:
    """The arguments of `plan_memory` for a recipe. Raises the same."""
    config = config.model_copy(update={"policy": config.policy.model_copy(update={"path": str(policy_folder)})})
    prompts = read_prompts(config) if prompts is None else prompts
    if not prompts:
        raise ConfigError("[data.train] selects no question, so there is no memory plan: select some")
    shape = read_shape(find_policy(config.policy.path).path)
    return shape, _workload(config, shape, measure_prompts(config, prompts, kind), len(prompts), num_processes, kind)


def measure_prompts(config: Config, prompts: Sequence[Prompt], kind: Kind) -> PromptSize:
    """The largest of MEASURED prompts, counted as the policy's processor counts them; images by their sizes alone."""
    processor = open_processor(config.policy)
    chosen = prompts[:: -(-len(prompts) // MEASURED)]
    texts = [processor.apply_chat_template(list(prompt.messages), add_generation_prompt=True, tokenize=False) for prompt in chosen]
    lengths = [len(ids) for ids in processor.tokenizer(texts, add_special_tokens=False)["input_ids"]]
    sizes = []
    for prompt, length in zip(chosen, lengths, strict=True):
        images = len(prompt.sample.images)
        tokens = sum(count_image_tokens(source, processor) for source in prompt.sample.images)
        sizes.append(PromptSize(tokens=length - images + tokens, image_tokens=tokens, images=images))
    target = 0
    if kind == "sft":
        targets = [sft_target(prompt.sample, config) for prompt in chosen]
        target = 2 + max(
            map(len, processor.tokenizer(targets, add_special_tokens=False)["input_ids"])
        )  # the end of the turn, and a newline
    return PromptSize(
        tokens=max(size.tokens for size in sizes),
        image_tokens=max(size.image_tokens for size in sizes),
        images=max(size.images for size in sizes),
        target=target,
    )


def _workload(config: Config, shape: ModelShape, size: PromptSize, num_prompts: int, num_processes: int, kind: Kind) -> Workload:
    alone = config.model_copy(update={name: _without_processes(getattr(config, name)) for name in ("grpo", "sft")})
    is_grpo = kind == "grpo"
    arguments = grpo_arguments(alone, Path("unused")) if is_grpo else sft_arguments(alone, Path("unused"), num_prompts)
    own, values = config.trainer, {**config.grpo, **({} if is_grpo else config.sft)}
    sharding, is_deepspeed = _sharding(values)
    has_reference = is_grpo and bool(arguments.beta)
    return Workload(
        kind=kind,
        rows=arguments.per_device_train_batch_size,
        accumulation=arguments.gradient_accumulation_steps,
        micro_batches=arguments.steps_per_generation if is_grpo else 1,
        num_generations=arguments.num_generations if is_grpo else 1,
        prompt=size.tokens,
        completion=config.sampling.max_completion_length if is_grpo else size.target,
        image_tokens=size.image_tokens,
        images=size.images,
        dtype=config.policy.dtype,
        autocast=bool(arguments.bf16) and config.policy.dtype == "float32",
        adapter=_adapter(config, shape),
        freezes_vision=config.policy.freeze_vision,
        checkpoints=bool(arguments.gradient_checkpointing),
        optimizer=_optimizer(str(getattr(arguments.optim, "value", arguments.optim))),
        master_copies=is_deepspeed and bool(arguments.bf16),
        has_reference=has_reference and config.policy.lora is None,
        scores_reference=has_reference,
        shares_prefix=own.share_prefix,
        keeps_groups=not is_grpo or _keeps_groups(arguments),
        groups_per_forward=own.groups_per_forward,
        reuses_rollout=is_grpo and arguments.num_iterations > 1,
        static_decoding=own.static_decoding,
        is_gpu=find_device(config.policy.device).type != "cpu",
        num_processes=num_processes,
        sharding=sharding if num_processes > 1 else "none",
        num_checkpoints=(arguments.save_total_limit or 0) + 1,
        stores=own.checkpoint,
    )


def _without_processes(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in PROCESSES}


def _sharding(values: Mapping[str, Any]) -> tuple[Sharding, bool]:
    """What processes share by these settings, and whether it is DeepSpeed that runs them."""
    deepspeed = read_deepspeed(values.get("deepspeed"))
    zero = deepspeed.get("zero_optimization")
    stage = zero.get("stage", 0) if isinstance(zero, Mapping) else 0
    stages: tuple[Sharding, ...] = ("none", "optimizer", "gradients", "weights")
    if values.get("fsdp"):
        return "weights", False
    return stages[stage] if stage in range(4) else "none", bool(deepspeed)


def _keeps_groups(arguments: Any) -> bool:
    """Whether no term of the loss is a mean over the tokens of a micro-batch, as `SharedPrefixGRPOTrainer.keeps_groups` asks."""
    return (
        arguments.loss_type != "bnpo"
        and not arguments.entropy_coef
        and not arguments.use_adaptive_entropy
        and arguments.top_entropy_quantile == 1.0
    )


def _optimizer(name: str) -> Optimizer:
    """The optimizer of TRL's `optim`. Raises ConfigError for one whose memory is not known here."""
    if name not in OPTIMIZERS:
        raise ConfigError(f"no memory plan for optim = {name!r}: known are {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name]


def _adapter(config: Config, shape: ModelShape) -> Adapter | None:
    """The adapter of `[policy.lora]`, by peft's rules for target modules."""
    section = config.policy.lora
    if section is None:
        return None
    targets = lora_config(section, find_family(find_policy(config.policy.path))).target_modules
    names = tuple(name for name in shape.linears if _is_target(name, targets))
    return Adapter(rank=section.r, targets=names)


def _is_target(name: str, targets: Any) -> bool:
    """Whether peft adapts the layer of that name: all of them, by a pattern of the whole name, or by its last parts."""
    full = f"model.language_model.layers.0.{name}"
    if targets == "all-linear":
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, full) is not None
    return any(full == target or full.endswith(f".{target}") for target in targets)
