"""Loading a policy: model, processor and device, from a packaged name, a local folder or a hub id (`sources`).

Weights are read from safetensors files only and code of a checkpoint is never run. The checkpoint's sampling defaults are ignored:
Qwen2-VL's generation_config.json has top_k 1 and temperature 0.01, which would make all completions of a group equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osler.config import PolicyConfig
from osler.errors import PolicyError, first_line
from osler.policies.clips import read_clips
from osler.policies.families import FAMILIES, Family
from osler.policies.lora import load_adapter
from osler.policies.processor import load_processor
from osler.policies.quiet import quiet_loading
from osler.policies.sources import Source, find_policy, known_policies

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A model with the processor that prepares its input."""

    model: Any  # a transformers model in evaluation mode, on `device`
    processor: Any
    name: str  # "osler-tiny"; what records and reports say
    family: Family
    device: torch.device

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer; it pads on the left."""
        return self.processor.tokenizer


def load_policy(policy: PolicyConfig | str | Path, *, merge_adapter: bool = True) -> Policy:
    """Load a policy: `policy` is a `[policy]` section, or a packaged name, a folder or a hub id (all other settings at their defaults).

    A LoRA adapter is loaded onto the base that its adapter_config.json names and, with `merge_adapter`, merged into the weights.
    `[policy.lora]` is not applied here: it configures the adapter that training adds (`lora.lora_config`).

    Raises PolicyError, in one line, for a path that does not exist, an unknown architecture, pickled or incomplete weights, and a device
    or an attention implementation that is not available.
    """
    config = policy if isinstance(policy, PolicyConfig) else PolicyConfig(path=str(policy))
    source = find_policy(config.path)
    family = find_family(source)
    device = find_device(config.device)
    model = _load_model(source, config)
    # The name that a later adapter stores as its base: a packaged policy by its name, not by a path of this machine.
    model.name_or_path = model.config._name_or_path = config.path if source.adapter is None else source.path
    if source.adapter is not None:
        model = load_adapter(model, source.adapter, family, is_merged=merge_adapter)
    processor = _load_processor(source, family, config)
    model.generation_config = _neutral_generation_config(model, processor.tokenizer)
    if config.freeze_vision:
        model.get_submodule(family.vision).requires_grad_(False)
    return Policy(model=model.to(device).eval(), processor=processor, name=source.name, family=family, device=device)


def open_processor(config: PolicyConfig) -> Any:
    """The processor of a policy alone, with the sizes of images that `[policy]` sets. Raises PolicyError as `load_policy` does."""
    source = find_policy(config.path)
    return _load_processor(source, find_family(source), config)


def find_family(source: Source) -> Family:
    """The family of a checkpoint, by the `model_type` of its config.json. Raises PolicyError for one that Osler does not know."""
    from transformers import PreTrainedConfig

    try:
        values, _ = PreTrainedConfig.get_config_dict(source.path)
    except (OSError, ValueError) as error:
        raise PolicyError(_explain_missing(source, error)) from None
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or (family := FAMILIES.get(model_type)) is None:
        raise PolicyError(f"{source.name} is of the type {model_type!r}: Osler supports {', '.join(FAMILIES)}")
    return family


def find_device(name: str) -> torch.device:
    """The device of that name, e.g. "cpu" or "cuda:1". "auto" is a CUDA GPU where there is one, else the CPU: never Apple's "mps" unasked.

    Training and evaluation use the same device. Raises PolicyError for one that is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise PolicyError(f"policy.device = {name!r} is no device: use auto, cpu, cuda or mps")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise PolicyError(f"policy.device = {name!r}, but this machine has no such device: use auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PolicyError(f"policy.device = {name!r}, but torch sees {torch.cuda.device_count()} GPUs: use auto or cpu")
    return device


def _load_model(source: Source, config: PolicyConfig) -> Any:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    try:
        with quiet_loading():
            model, info = AutoModelForImageTextToText.from_pretrained(
                source.path,
                dtype=getattr(torch, config.dtype),
                attn_implementation=config.attn_implementation,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                output_loading_info=True,
            )
    except ImportError as error:
        raise PolicyError(f"policy.attn_implementation = {config.attn_implementation!r} cannot be used: {error}") from None
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise PolicyError(_explain_missing(source, error)) from None
    # A tied output layer is in neither list.
    if missing := sorted([*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])]):
        named = f"{missing[0]} and {len(missing) - 1} others"
        raise PolicyError(f"{source.name} has no fitting weights for {named}: its files and its config differ")
    return model


def _load_processor(source: Source, family: Family, config: PolicyConfig) -> Any:
    import transformers

    if config.min_pixels is not None and config.max_pixels is not None and config.min_pixels > config.max_pixels:
        raise PolicyError(f"policy.min_pixels = {config.min_pixels} is more than policy.max_pixels = {config.max_pixels}: swap them")
    options = {key: value for key in ("min_pixels", "max_pixels") if (value := getattr(config, key)) is not None}
    processor = load_processor(source.path, getattr(transformers, family.processor_class), **options)
    read_clips(processor.image_processor, joins_frames=family.joins_frames)
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise PolicyError(f"the tokenizer of {source.name} names no eos_token or no pad_token: add them to tokenizer_config.json")
    if not processor.chat_template:
        raise PolicyError(f"{source.name} has no chat template: add chat_template.jinja")
    return processor


def _neutral_generation_config(model: Any, tokenizer: Any) -> Any:
    """Stop tokens and padding only, so that no sampling default of the checkpoint remains."""
    from transformers import GenerationConfig

    stated = model.generation_config.eos_token_id
    stops = [] if stated is None else [stated] if isinstance(stated, int) else list(stated)
    stops = [tokenizer.eos_token_id, *(stop for stop in stops if stop != tokenizer.eos_token_id)]
    return GenerationConfig(eos_token_id=stops, pad_token_id=tokenizer.pad_token_id)


def _explain_missing(source: Source, error: Exception) -> str:
    if source.is_local:
        return f"cannot load {source.path}: {first_line(error)}; save or download it again"
    return (
        f"no folder {source.path}, and the hub gives no such policy ({first_line(error)}): "
        f"check the spelling and the connection, download it first, or use {known_policies()}"
    )
