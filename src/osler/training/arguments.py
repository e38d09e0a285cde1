"""TRL's arguments of a recipe: `[grpo]` is GRPOConfig and `[sft]` is SFTConfig, key for key, checked before anything is loaded."""

from __future__ import annotations

import dataclasses
import importlib.util
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pydantic import ConfigDict, TypeAdapter, ValidationError

from osler.config import ROLLOUT_KEYS, Config, PolicyConfig, nearest
from osler.errors import ConfigError, MissingExtra

OWNED_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(ROLLOUT_KEYS, "[sampling]"),
        "generation_kwargs": "[sampling]",
        "output_dir": "--out",
        "seed": "the recipe's seed",
        "data_seed": "the recipe's seed",
        "report_to": "[trainer] report_to",
        "run_name": "the recipe's name",
        "log_completions": "[trainer] print_completions_every",
        "reward_weights": "[rewards] weights",
        "model_init_kwargs": "[policy]",
        "use_cpu": "[policy] device",
        "max_length": "[trainer] max_prompt_length, which refuses and never truncates",
        "completion_only_loss": "sft_target",
        "resume_from_checkpoint": "the run folder: the same command resumes from its last checkpoint",
        "trust_remote_code": "no section: code from a hub is never run",
        "remove_unused_columns": "Osler: rewards need the columns",
        "push_to_hub": "a verb of its own",
    }
)
"""Keys of TRL's arguments that a recipe sets elsewhere, and where."""

DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "bf16": False,  # TRL turns it on; here weights compute in [policy] dtype unless a recipe asks for mixed precision
        "gradient_checkpointing": False,  # TRL turns it on, at a fifth of the speed; recipes for large models turn it on too
        "logging_steps": 1,
        "save_steps": 50,
        "save_total_limit": 2,
        "dataloader_num_workers": 0,  # images are cached in this process
    }
)
"""Osler's defaults, for keys whose default in TRL or Transformers does not suit."""


def build_arguments(arguments_class: type[Any], section: str, values: Mapping[str, Any], config: Config, out: Path, **own: Any) -> Any:
    """An instance of `arguments_class`, GRPOConfig or SFTConfig: DEFAULTS, overridden by the recipe's `values` and then by `own`.

    Raises ConfigError for an unknown key, a key that a recipe sets elsewhere (OWNED_KEYS), and a value that TRL refuses.
    """
    if config.policy.device.startswith("cuda:") and config.policy.device != "cuda:0":
        raise ConfigError(
            f"[policy] device = {config.policy.device!r}: training takes the first visible GPU; use auto and CUDA_VISIBLE_DEVICES"
        )
    hints = typing.get_type_hints(arguments_class)
    names = [field.name for field in dataclasses.fields(arguments_class)]
    for key in values:
        if key in OWNED_KEYS:
            raise ConfigError(f"[{section}] {key} belongs to {OWNED_KEYS[key]}: move it there")
        if key not in names:
            raise ConfigError(f"unknown key [{section}] {key}: {arguments_class.__name__} has no such setting{nearest(key, names)}")
    checked = {key: _check_value(section, key, value, hints[key]) for key, value in values.items()}
    owned = {
        "output_dir": str(out / "checkpoints"),
        "seed": config.seed,
        "data_seed": config.seed,
        "report_to": [name for name in config.trainer.report_to if name != "tensorboard"],
        "remove_unused_columns": False,
        "use_cpu": config.policy.device == "cpu",
        "dataloader_pin_memory": _has_accelerator(config.policy),
    }
    try:
        arguments = arguments_class(**{**_rename(DEFAULTS, names), **owned, **_rename(checked, names), **own})
    except (ValueError, TypeError) as error:
        remedy = f": this machine needs --{section}.bf16=false" if "bf16" in str(error) else ""
        raise ConfigError(f"[{section}] {error}{remedy}") from None
    if arguments.n_gpu > 1:
        raise ConfigError(f"{arguments.n_gpu} GPUs are visible to one process: set CUDA_VISIBLE_DEVICES to one, or use accelerate launch")
    return arguments


def grpo_arguments(config: Config, out: Path) -> Any:
    """TRL's GRPOConfig of a recipe: `[grpo]` key for key, with sampling from `[sampling]` and reward weights from `[rewards]`."""
    from trl import GRPOConfig

    weights = config.rewards.weights
    if weights is not None and len(weights) != len(config.rewards.names):
        raise ConfigError(f"[rewards] has {len(config.rewards.names)} names and {len(weights)} weights: give one weight for each name")
    own = {**config.sampling.model_dump(), "reward_weights": list(weights) if weights is not None else None}
    return build_arguments(GRPOConfig, "grpo", config.grpo, config, out, **own)


def check_reporters(names: Sequence[str]) -> None:
    """Raise ConfigError for a reporter that Transformers does not know, and MissingExtra for one that is not installed."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = sorted(INTEGRATION_TO_CALLBACK)
            raise ConfigError(f"[trainer] report_to does not know {name!r}{nearest(name, known)} (known: {', '.join(known)})")
        if name == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
            raise MissingExtra("tensorboard", "tensorboard")


def _check_value(section: str, key: str, value: Any, hint: Any) -> Any:
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        raise ConfigError(f"[{section}] {key}: {error.errors()[0]['msg']} (got {value!r})") from None


def _rename(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """`values` under the newer of two names of a setting, when `names` has both: Transformers warns about the older one."""
    newer = {key: key.replace("gradient_checkpointing", "activation_checkpointing") for key in values}
    return {newer[key] if newer[key] in names else key: value for key, value in values.items()}


def _has_accelerator(policy: PolicyConfig) -> bool:
    import torch

    return policy.device != "cpu" and torch.cuda.is_available()
