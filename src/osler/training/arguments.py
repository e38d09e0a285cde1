"""TRL's arguments of a recipe: `[grpo]` is GRPOConfig and `[sft]` is SFTConfig, key for key, checked before anything is loaded."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pydantic import ConfigDict, TypeAdapter, ValidationError

from osler.config import ROLLOUT_KEYS, Config, nearest
from osler.errors import ConfigError, MissingExtra, naming_missing_packages

PLACES: Final[Mapping[str, str]] = MappingProxyType(
    {
        **{key: f"sampling.{key}" for key in ROLLOUT_KEYS},
        "seed": "seed",
        "data_seed": "seed",
        "report_to": "trainer.report_to",
        "run_name": "name",
        "log_completions": "trainer.print_completions_every",
        "reward_weights": "rewards.weights",
        "use_cpu": "policy.device",
        "max_length": "trainer.max_prompt_length",
        "max_prompt_length": "trainer.max_prompt_length",
        "completion_only_loss": "sft_target",
    }
)
"""Keys of TRL's arguments that a recipe sets elsewhere, and where."""

REFUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "output_dir": "the folder is --out",
        "generation_kwargs": "sampling has keys of its own in [sampling]",
        "model_init_kwargs": "the policy has keys of its own in [policy]",
        "resume_from_checkpoint": "the same command resumes from the last checkpoint",
        "trust_remote_code": "code from a hub is never run",
        "remove_unused_columns": "rewards need the columns",
        "push_to_hub": "nothing is uploaded; the trained policy is an ordinary model folder, which `hf upload` takes",
    }
)
"""Keys of TRL's arguments that no recipe sets, and why."""

LAUNCH: Final = "start them by `accelerate launch --num_processes 2 -m osler ..`, or leave it out"

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

    Raises ConfigError for an unknown key, a key that a recipe sets elsewhere (PLACES) or not at all (REFUSED), and a value that
    TRL refuses; MissingExtra for a package that a value needs.
    """
    if config.policy.device.startswith("cuda:") and config.policy.device != "cuda:0":
        raise ConfigError(
            f"[policy] device = {config.policy.device!r}: training takes the first visible GPU; use auto and CUDA_VISIBLE_DEVICES"
        )
    import torch
    from accelerate.utils import is_deepspeed_available

    from osler.policies.load import find_device

    device = find_device(config.policy.device)
    hints = typing.get_type_hints(arguments_class)
    names = [field.name for field in dataclasses.fields(arguments_class)]
    for key in values:
        if key in PLACES:
            raise ConfigError(f"[{section}] {key} is set elsewhere in a recipe: --{PLACES[key]}=..")
        if key in REFUSED:
            raise ConfigError(f"[{section}] {key} cannot be set, {REFUSED[key]}: leave it out")
        if key not in names:
            raise ConfigError(f"unknown key [{section}] {key}: {arguments_class.__name__} has no such setting{nearest(key, names)}")
    if values.get("deepspeed") and not is_deepspeed_available():  # Transformers finds out after it has kept the settings for the process
        raise MissingExtra("deepspeed", "deepspeed")
    checked = {key: _check_value(section, key, value, hints[key]) for key, value in values.items()}
    owned = {
        "output_dir": str(out / "checkpoints"),
        "seed": config.seed,
        "data_seed": config.seed,
        "report_to": [name for name in config.trainer.report_to if name != "tensorboard"],
        "remove_unused_columns": False,
        "use_cpu": device.type == "cpu",
        "dataloader_pin_memory": device.type == "cuda",
        **({"save_only_model": True} if config.trainer.checkpoint == "weights" else {}),
        **({"save_strategy": "no"} if config.trainer.checkpoint == "none" else {}),
    }
    try:
        with naming_missing_packages():
            arguments = arguments_class(**{**_rename(DEFAULTS, names), **owned, **_rename(checked, names), **own})
    except (ValueError, TypeError) as error:
        remedy = f": this machine needs --{section}.bf16=false" if "bf16" in str(error) else ""
        raise ConfigError(f"[{section}] {error}{remedy}") from None
    if arguments.n_gpu > 1:
        raise ConfigError(f"{arguments.n_gpu} GPUs are visible to one process: set CUDA_VISIBLE_DEVICES to one, or use accelerate launch")
    if arguments.fsdp and arguments.world_size == 1:
        raise ConfigError(f"[{section}] fsdp shares the weights of several processes, and this is one: {LAUNCH}")
    if arguments.deepspeed and not torch.distributed.is_initialized():  # it would look for MPI
        raise ConfigError(f"[{section}] deepspeed needs a launcher, for a single process too: {LAUNCH}")
    return arguments


def grpo_arguments(config: Config, out: Path) -> Any:
    """TRL's GRPOConfig of a recipe: `[grpo]` key for key, with sampling from `[sampling]` and reward weights from `[rewards]`."""
    from trl import GRPOConfig

    weights = config.rewards.weights
    own = {**config.sampling.model_dump(), "reward_weights": list(weights) if weights is not None else None}
    return build_arguments(GRPOConfig, "grpo", config.grpo, config, out, **own)


def check_trained_dtype(config: Config, section: str) -> None:
    """Raise ConfigError for a training that would change bfloat16 weights themselves; `section` is "grpo" or "sft".

    Two neighbouring bfloat16 numbers differ by 0.4 to 0.8 %, and an update of less than half of that is rounded away: at a learning rate of
    1e-6 the weights stand still. An adapter has float32 weights, and DeepSpeed updates float32 copies if its `bf16` is on.
    """
    values = {**({"bf16": config.grpo.get("bf16")} if section == "sft" else {}), **getattr(config, section)}  # [sft] takes it from [grpo]
    if deepspeed := read_deepspeed(values.get("deepspeed")):
        own = deepspeed.get("bf16")
        if isinstance(own, dict) and own.get("bf16_master_weights_and_grads"):
            raise ConfigError(
                f"[{section}] deepspeed: bf16_master_weights_and_grads rounds small updates of the weights away: leave it out"
            )
        if config.policy.dtype != "float32" and not values.get("bf16"):
            raise ConfigError(
                f"[policy] dtype = {config.policy.dtype!r} rounds small updates of the weights away, unless DeepSpeed keeps float32 copies "
                f"of them: add --{section}.bf16=true"
            )
    elif config.policy.dtype != "float32" and config.policy.lora is None:
        raise ConfigError(
            f"[policy] dtype = {config.policy.dtype!r} rounds small updates of the weights away, so they would stand still: train float32 "
            f"weights with bfloat16 arithmetic, --policy.dtype=float32 --{section}.bf16=true, or an adapter, --policy.lora.r=16"
        )


def read_deepspeed(value: Any) -> Mapping[str, Any]:
    """DeepSpeed's settings, given as a mapping, as JSON or as a JSON file; {} where TRL will refuse them."""
    if isinstance(value, str):
        try:
            value = json.loads(value if value.lstrip().startswith("{") else Path(value).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
    return value if isinstance(value, Mapping) else {}


def check_reporters(names: Sequence[str]) -> None:
    """Raise ConfigError for a reporter that Transformers does not know, and MissingExtra for one that is not installed."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = sorted(INTEGRATION_TO_CALLBACK)
            raise ConfigError(f"[trainer] report_to does not know {name!r}{nearest(name, known)} (known: {', '.join(known)})")
        if name not in get_available_reporting_integrations():
            raise MissingExtra(name, name if name == "tensorboard" else None)


def _check_value(section: str, key: str, value: Any, hint: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"[{section}] {key} = {value} is no number to train with")
    if key == "beta" and isinstance(value, (int, float)) and value < 0:
        raise ConfigError(f"[{section}] beta = {value} would reward the policy for leaving its reference: give 0 or more")
    if key == "fsdp" and isinstance(value, bool):  # what Transformers documents; its annotation still says text
        return value
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        raise ConfigError(f"[{section}] {key}: {error.errors()[0]['msg']} (got {value!r})") from None


def _rename(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """`values` under the newer of two names of a setting, when `names` has both: Transformers warns about the older one."""
    newer = {key: key.replace("gradient_checkpointing", "activation_checkpointing") for key in values}
    return {newer[key] if newer[key] in names else key: value for key, value in values.items()}
