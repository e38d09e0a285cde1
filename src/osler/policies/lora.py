"""LoRA adapters: the configuration of a new one, saving it, and loading a saved one onto its base."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osler.config import LoraSection
from osler.errors import ConfigError, PolicyError, first_line
from osler.files import replacing
from osler.policies.families import Family
from osler.policies.quiet import quiet_loading

if TYPE_CHECKING:
    from peft import LoraConfig


def lora_config(section: LoraSection, family: Family) -> LoraConfig:
    """peft's LoraConfig of `[policy.lora]`, for TRL's `peft_config`. The vision tower gets no adapter unless a target module names it.

    Raises ConfigError for an adapter of the output layer.
    """
    from peft import LoraConfig

    targets = section.target_modules if isinstance(section.target_modules, str) else list(section.target_modules)
    tower = family.vision.rpartition(".")[2]
    named = [targets] if isinstance(targets, str) else targets
    adapts_vision = any(tower in target for target in named)
    if any(target.rpartition(".")[2] == "lm_head" for target in named):
        raise ConfigError("[policy.lora] target_modules names lm_head, whose adapter TRL would never train: leave it out")
    return LoraConfig(
        r=section.r,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        target_modules=targets,
        exclude_modules=None if adapts_vision else rf"(.*\.)?{re.escape(family.vision)}\..*",
        task_type="CAUSAL_LM",
    )


def base_of(model: Any) -> Any:
    """The Transformers model inside peft's wrapper; `model` itself where it has no adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def describe_adapter(model: Any, family: Family, *, freeze_vision: bool) -> str:
    """One line that counts the modules that peft's wrapper `model` adapts: "LoRA adapts 28 modules: 28 of the text model (q_proj, ..)".

    Raises ConfigError for an adapter of a frozen vision tower, and of an embedding that is tied to the output layer: merged, the two would
    differ, and a checkpoint stores one of them.
    """
    weights = [name for name, _ in model.named_parameters() if ".lora_A" in name or ".lora_embedding_A" in name]
    names = [name.partition(".lora_")[0].removeprefix("base_model.model.") for name in weights]
    tower = [name for name in names if name.startswith(f"{family.vision}.")]
    ends = [name for name in names if name.rpartition(".")[2] in ("embed_tokens", "lm_head")]
    if tower and freeze_vision:
        raise ConfigError(
            f"[policy] freeze_vision is on and [policy.lora] adapts {tower[0]}: set it to false, or name other target_modules"
        )
    config = base_of(model).config
    if ends and any(getattr(one, "tie_word_embeddings", False) for one in (config, config.get_text_config())):
        raise ConfigError(f"[policy.lora] adapts {ends[0]}, whose weights are both embedding and output layer: name other target_modules")
    parts = {"of the text model": [name for name in names if name not in tower], "of the vision tower": tower}
    counts = [f"{len(own)} {where} ({', '.join(sorted({name.rpartition('.')[2] for name in own}))})" for where, own in parts.items() if own]
    return f"LoRA adapts {len(names)} modules: {', '.join(counts)}"


def load_adapter(model: Any, adapter: Path, *, merge: bool) -> Any:
    """`model` with the saved adapter: merged into the weights, or as peft's wrapper around it. Raises PolicyError if it does not fit."""
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        with quiet_loading():
            wrapped = PeftModel.from_pretrained(model, str(adapter), is_trainable=False)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise PolicyError(f"the adapter in {adapter} does not fit its base: {first_line(error)}") from None
    return wrapped.merge_and_unload() if merge else wrapped


def save_adapter(model: Any, weights: dict[str, Any] | None, folder: Path) -> None:
    """Write the adapter of peft's wrapper `model`, a few megabytes, in peft's format; `weights` replace the model's own."""
    with replacing(folder) as draft, quiet_loading():
        model.save_pretrained(str(draft), state_dict=weights)
        (draft / "README.md").unlink(missing_ok=True)  # peft's empty model card
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed before it saved its policy
