"""Loading a policy: a packaged name, a local folder (full weights, LoRA adapter, run) or a hub id. FAMILIES says which models Osler knows.

Weights are read from safetensors only and no code comes with a checkpoint. A checkpoint's own sampling defaults are dropped at the door:
Qwen2-VL's generation_config.json says top_k 1, temperature 0.01, which would make all rollouts of a group equal.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from osler.config import LoraSection, PolicyConfig
from osler.errors import PolicyError
from osler.policies.processor import load_processor

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

PACKAGED_POLICIES: Final = Path(__file__).parent
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What differs between the architectures, by `config.model_type`."""

    model_type: str  # "qwen2_vl"
    processor_class: str  # a name in transformers
    vision: str = "model.visual"  # dotted paths inside the model
    language: str = "model.language_model"


FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        family.model_type: family
        for family in (
            Family(model_type="qwen2_vl", processor_class="Qwen2VLProcessor"),
            Family(model_type="qwen2_5_vl", processor_class="Qwen2_5_VLProcessor"),
            Family(model_type="qwen3_vl", processor_class="Qwen3VLProcessor"),
        )
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A model that answers, with the processor that prepares its input."""

    model: Any  # a transformers model in evaluation mode, on `device`
    processor: Any
    name: str  # "osler-tiny"; what records and reports say
    family: Family
    device: torch.device

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer; it pads on the left."""
        return self.processor.tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a policy's files are."""

    path: str  # a folder or a hub id, as transformers takes it
    name: str  # "osler-tiny", "grpo-think", "Qwen/Qwen2-VL-2B-Instruct"
    is_local: bool
    adapter: Path | None = None  # a LoRA adapter that goes on top


def load_policy(policy: PolicyConfig | str | Path, *, merge_adapter: bool = True) -> Policy:
    """Load a policy by its `[policy]` section, or by packaged name, folder or hub id with all else at its default.

    A LoRA adapter is loaded on the base that it names and, with `merge_adapter`, becomes part of the weights. `config.lora` is not applied
    here: it says what training adds (`lora_config`).

    Raises PolicyError in one line for a path that is nothing, an unknown architecture, pickled or incomplete weights, and a device,
    data type or attention that this machine has not.
    """
    config = policy if isinstance(policy, PolicyConfig) else PolicyConfig(path=str(policy))
    source = find_policy(config.path)
    family = find_family(source)
    device = find_device(config.device)
    model = _load_model(source, config)
    # A base that a later adapter can name: never the place where this machine keeps the package.
    model.name_or_path = model.config._name_or_path = config.path if source.adapter is None else source.path
    if source.adapter is not None:
        model = _load_adapter(model, source.adapter, merge=merge_adapter)
    processor = _load_processor(source, family, config)
    model.generation_config = _neutral_generation_config(model, processor.tokenizer)
    if config.freeze_vision:
        model.get_submodule(family.vision).requires_grad_(False)
    return Policy(model=model.to(device).eval(), processor=processor, name=source.name, family=family, device=device)


def find_policy(path: str | Path) -> Source:
    """What a `policy.path` means: a packaged name first, then a folder, then a hub id. Raises PolicyError when it is none of them."""
    text = str(path)
    if "/" not in text and (PACKAGED_POLICIES / text / "config.json").is_file():
        return Source(path=str(PACKAGED_POLICIES / text), name=text, is_local=True)
    folder = Path(text).expanduser()
    if folder.is_dir():
        return _find_in_folder(folder)
    if folder.exists():
        raise PolicyError(f"{text} is a file: name the folder that holds config.json and model.safetensors")
    if not _HUB_ID.fullmatch(text):
        raise PolicyError(f"no policy at {text}: use {_known_policies()}, a folder, or a hub id such as Qwen/Qwen2-VL-2B-Instruct")
    return Source(path=text, name=text, is_local=False)


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
    """The device of that name, e.g. "cpu" or "cuda:1"; "auto" is a GPU where there is one. Raises PolicyError."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise PolicyError(f"policy.device = {name!r} is no device: use auto, cpu or cuda") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PolicyError(f"policy.device = {name!r}, but torch sees {torch.cuda.device_count()} GPUs: use auto or cpu")
    return device


def lora_config(section: LoraSection, family: Family) -> LoraConfig:
    """`[policy.lora]` for peft, e.g. as TRL's `peft_config`. The vision tower stays frozen unless a target module names it."""
    from peft import LoraConfig

    targets = section.target_modules if isinstance(section.target_modules, str) else list(section.target_modules)
    tower = family.vision.rpartition(".")[2]
    wishes_vision = any(tower in target for target in ([targets] if isinstance(targets, str) else targets))
    return LoraConfig(
        r=section.r,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        target_modules=targets,
        exclude_modules=None if wishes_vision else rf"(.*\.)?{re.escape(family.vision)}\..*",
        task_type="CAUSAL_LM",
    )


def apply_lora(policy: Policy, section: LoraSection) -> Any:
    """The policy's model with a fresh adapter, which alone can be trained; a fresh adapter changes no output."""
    from peft import get_peft_model

    with quiet_libraries():
        return get_peft_model(policy.model, lora_config(section, policy.family))


def fingerprint(path: str | Path) -> str:
    """What identifies the weights of a policy: the SHA-256 of its local files, or the hub id. Two trainings never share one."""
    source = find_policy(path)
    digest = hashlib.sha256(source.path.encode() if not source.is_local else b"")
    folders = [Path(source.path)] if source.is_local else []
    for folder in [*folders, *([source.adapter] if source.adapter is not None else [])]:
        for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("*.jinja")]):
            digest.update(f"\0{file.name}\0".encode())
            with file.open("rb") as stream:
                hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


def _find_in_folder(folder: Path) -> Source:
    """A full checkpoint, a LoRA adapter, or a run, whose policy is meant."""
    if not _is_checkpoint(folder) and _is_checkpoint(folder / "policy"):
        folder = folder / "policy"
    resolved = folder.resolve()
    name = resolved.parent.name if resolved.name == "policy" else resolved.name
    if (folder / "adapter_config.json").is_file():
        base = _find_base(folder)
        return Source(path=base.path, name=name, is_local=base.is_local, adapter=folder)
    if not (folder / "config.json").is_file():
        raise PolicyError(f"{folder} holds no config.json: name a folder that a training run or save_pretrained wrote")
    _require_safetensors(folder)
    return Source(path=str(folder), name=name, is_local=True)


def _is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a model or an adapter; a run has a config.json too, but that is a recipe."""
    if (folder / "adapter_config.json").is_file():
        return True
    return "model_type" in _read_json(folder / "config.json") if (folder / "config.json").is_file() else False


def _find_base(adapter: Path) -> Source:
    values = _read_json(adapter / "adapter_config.json")
    if values.get("peft_type") != "LORA":
        raise PolicyError(f"{adapter} is an adapter of the type {values.get('peft_type')!r}: Osler loads LoRA")
    if not (adapter / "adapter_model.safetensors").is_file():
        raise PolicyError(f"{adapter} holds no adapter_model.safetensors: save the adapter with safe_serialization=True")
    named = values.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise PolicyError(f"{adapter}/adapter_config.json names no base_model_name_or_path: add the policy that the adapter was trained on")
    base = find_policy(named)
    if base.adapter is not None:
        raise PolicyError(f"{adapter} lies on {named}, which is an adapter itself: merge that one and save it as a full policy first")
    return base


def _require_safetensors(folder: Path) -> None:
    """Raise PolicyError unless every weight file is a safetensors file that lies in the folder."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(_read_json(index).get("weight_map", {}).values())
        for shard in sorted(shards):
            if PurePosixPath(shard).name != shard or not shard.endswith(".safetensors"):
                raise PolicyError(f"{index} names {shard!r}: a shard is a .safetensors file in the same folder")
            if not (folder / shard).is_file():
                raise PolicyError(f"{folder} lacks {shard}, which its index names: download the folder again")
        if shards:
            return
    if (folder / "model.safetensors").is_file():
        return
    if pickled := sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern)):
        raise PolicyError(f"{folder} holds pickled weights ({pickled[0]}), which can run code: convert them to safetensors")
    raise PolicyError(f"{folder} holds no model.safetensors: the download or the training did not finish")


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise PolicyError(f"{path} is not a JSON object")
    return values


def _load_model(source: Source, config: PolicyConfig) -> Any:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    try:
        with quiet_libraries():
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
    # A tied output layer is no loss; transformers lists it neither way.
    if missing := sorted([*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])]):
        raise PolicyError(
            f"{source.name} has no fitting weights for {missing[0]} and {len(missing) - 1} others: its files and its config differ"
        )
    return model


def _load_adapter(model: Any, adapter: Path, *, merge: bool) -> Any:
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        with quiet_libraries():
            wrapped = PeftModel.from_pretrained(model, str(adapter), is_trainable=False)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise PolicyError(f"the adapter in {adapter} does not fit its base: {_first_line(error)}") from None
    return wrapped.merge_and_unload() if merge else wrapped


def _load_processor(source: Source, family: Family, config: PolicyConfig) -> Any:
    import transformers

    if config.min_pixels is not None and config.max_pixels is not None and config.min_pixels > config.max_pixels:
        raise PolicyError(f"policy.min_pixels = {config.min_pixels} is more than policy.max_pixels = {config.max_pixels}: swap them")
    options = {key: value for key in ("min_pixels", "max_pixels") if (value := getattr(config, key)) is not None}
    processor = load_processor(source.path, getattr(transformers, family.processor_class), **options)
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise PolicyError(f"the tokenizer of {source.name} names no eos_token or no pad_token: add them to tokenizer_config.json")
    if not processor.chat_template:
        raise PolicyError(f"{source.name} has no chat template: add chat_template.jinja")
    return processor


def _neutral_generation_config(model: Any, tokenizer: Any) -> Any:
    """Where to stop and how to pad, and nothing about sampling."""
    from transformers import GenerationConfig

    stated = model.generation_config.eos_token_id
    stops = [] if stated is None else [stated] if isinstance(stated, int) else list(stated)
    stops = [tokenizer.eos_token_id, *(stop for stop in stops if stop != tokenizer.eos_token_id)]
    return GenerationConfig(eos_token_id=stops, pad_token_id=tokenizer.pad_token_id)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Without transformers' progress bars and advice, and without peft's use of what transformers deprecates; real faults are raised."""
    from transformers.utils import logging

    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()


def _explain_missing(source: Source, error: Exception) -> str:
    if source.is_local:
        return f"cannot load {source.path}: {_first_line(error)}; save or download it again"
    return (
        f"no folder {source.path}, and the hub gives no such policy ({_first_line(error)}): "
        f"check the spelling and the connection, download it first, or use {_known_policies()}"
    )


def _known_policies() -> str:
    known = sorted(file.parent.name for file in PACKAGED_POLICIES.glob("*/config.json"))
    return " or ".join(known) or "a packaged policy"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextmanager
def replace_image_features(model: Any, give: Callable[..., Any]) -> Iterator[None]:
    """While this is open, `model` takes what `give(pixel_values, image_grid_thw, ...)` returns for what its vision tower makes of images.

    Unlike the features that a model can be handed, this works with every version of Transformers that Osler admits.
    """
    inner = model.model
    # Transformers looks at the parameters of the method that it calls.
    inner.get_image_features = wraps(inner.get_image_features)(give)
    try:
        yield
    finally:
        del inner.get_image_features
