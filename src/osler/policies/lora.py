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
from osler.policies.weight_names import PREFIX, PRESENT, adapted_modules, find_names, rename_targets, to_present

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
    names = _adapted_modules(model)
    tower = [name for name in names if name.startswith(f"{family.vision}.")]
    if tower and freeze_vision:
        raise ConfigError(
            f"[policy] freeze_vision is on and [policy.lora] adapts {tower[0]}: set it to false, or name other target_modules"
        )
    if tied := _find_tied(model, names):
        raise ConfigError(f"[policy.lora] adapts {tied}, whose weights are both embedding and output layer: name other target_modules")
    parts = {"of the text model": [name for name in names if name not in tower], "of the vision tower": tower}
    counts = [f"{len(own)} {where} ({', '.join(sorted({name.rpartition('.')[2] for name in own}))})" for where, own in parts.items() if own]
    return f"LoRA adapts {len(names)} modules: {', '.join(counts)}"


def _adapted_modules(model: Any) -> list[str]:
    """The names of the modules that have LoRA weights in peft's wrapper `model`."""
    weights = [name for name, _ in model.named_parameters() if ".lora_A" in name or ".lora_embedding_A" in name]
    return [name.partition(".lora_")[0].removeprefix(PREFIX) for name in weights]


def _find_tied(model: Any, names: list[str]) -> str | None:
    """The first of the adapted modules that shares its weights with the other end of the model; None if there is none."""
    ends = [name for name in names if name.rpartition(".")[2] in ("embed_tokens", "lm_head")]
    config = base_of(model).config
    return ends[0] if ends and any(getattr(one, "tie_word_embeddings", False) for one in (config, config.get_text_config())) else None


def load_adapter(model: Any, adapter: Path, family: Family, *, is_merged: bool) -> Any:
    """`model` with the saved adapter: merged into the weights, or as peft's wrapper around it.

    Weights under the former names of the family's modules are read too. Raises PolicyError unless the adapter holds exactly the weights
    that its configuration asks for; peft would only warn, and give the base.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with quiet_loading():
            wrapped = _load_wrapped(model, adapter, family, load_file(adapter / "adapter_model.safetensors"))
    except (OSError, ValueError, RuntimeError, TypeError, LookupError, re.error, SafetensorError) as error:
        raise PolicyError(f"the adapter in {adapter} does not fit its base: {first_line(error)}") from None
    if not is_merged:
        return wrapped
    if tied := _find_tied(wrapped, _adapted_modules(wrapped)):
        raise PolicyError(
            f"the adapter in {adapter} adapts {tied}, whose weights are both embedding and output layer: "
            "merge it into a base with tie_word_embeddings = false"
        )
    return merge(wrapped)


def merge(wrapped: Any) -> Any:
    """The model inside peft's wrapper with the adapter added to its weights, in float32, and rounded once to their own type.

    In bfloat16 peft would round the difference before it adds it. One layer at a time is in float32.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    for layer in [module for module in wrapped.modules() if isinstance(module, LoraLayer)]:
        base = layer.get_base_layer()
        kind = base.weight.dtype
        layer.to(torch.float32)
        layer.merge()
        base.to(kind)
    return wrapped.unload()


def _load_wrapped(model: Any, adapter: Path, family: Family, weights: dict[str, Any]) -> Any:
    """peft's wrapper around `model`, with the `weights` of an adapter's file."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    config = LoraConfig.from_pretrained(str(adapter))
    if str(start := config.init_lora_weights).startswith("pissa_niter_"):  # peft would subtract another part of the base
        raise PolicyError(
            f"the adapter in {adapter} began with init_lora_weights = {start!r}, which changes its base by random numbers "
            "that are not saved: save it again with peft's path_initial_model_for_weight_conversion"
        )
    config.inference_mode = True
    config.base_model_name_or_path = model.name_or_path
    modules = [name for name, _ in model.named_modules()]
    names = find_names(weights, family, modules)
    if names != PRESENT:
        rename_targets(config, names, modules, adapted_modules(weights, names))
    wrapped = get_peft_model(model, config)
    named = {PREFIX + to_present(key.removeprefix(PREFIX), names): (key, weight) for key, weight in weights.items()}
    if len(named) < len(weights):
        raise PolicyError(f"the adapter in {adapter} names a weight twice, with and without {PREFIX}: save it again")
    expected = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    # peft also saves the weights below the adapter of an embedding or output layer.
    accepted = get_peft_model_state_dict(wrapped, save_embedding_layers=True)
    if unexpected := [key for name, (key, _) in named.items() if name not in accepted]:
        raise _misfit(adapter, "no module of the base takes", unexpected, "so load it onto the base that it was trained on")
    if missing := [name for name in expected if name not in named]:
        raise _misfit(adapter, "its file lacks", missing, "which its config asks for: save or download it again")
    if misshapen := [key for name, (key, weight) in named.items() if weight.shape != accepted[name].shape]:
        raise _misfit(adapter, "the base has another shape for", misshapen, "so load it onto the base that it was trained on")
    set_peft_model_state_dict(wrapped, {name: weight for name, (_, weight) in named.items()})
    return wrapped.eval()


def _misfit(adapter: Path, what: str, keys: list[str], remedy: str) -> PolicyError:
    others = f" and {len(keys) - 1} others" if len(keys) > 1 else ""
    return PolicyError(f"the adapter in {adapter} does not fit its base: {what} {keys[0].removeprefix(PREFIX)}{others}, {remedy}")


def save_adapter(model: Any, weights: dict[str, Any] | None, folder: Path) -> None:
    """Write the adapter of peft's wrapper `model`, a few megabytes, in peft's format; `weights` replace the model's own."""
    with replacing(folder) as draft, quiet_loading():
        model.save_pretrained(str(draft), state_dict=weights)
        (draft / "README.md").unlink(missing_ok=True)  # peft's empty model card
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed before it saved its policy
