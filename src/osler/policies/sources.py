"""Where the files of a policy are: a packaged name, a local folder (full weights, LoRA adapter, run) or a hub id."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from osler.errors import PolicyError
from osler.files import is_there

PACKAGED_POLICIES: Final = Path(__file__).parent
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a policy's files are."""

    path: str  # a folder or a hub id, as transformers takes it
    name: str  # "osler-tiny", "grpo-think", "Qwen/Qwen2-VL-2B-Instruct"
    is_local: bool
    adapter: Path | None = None  # a LoRA adapter that goes on top


def find_policy(path: str | Path) -> Source:
    """Resolve `[policy] path`: a packaged name first, then a folder, then a hub id. Raises PolicyError when it is none of them."""
    text = str(path)
    if "/" not in text and is_there(PACKAGED_POLICIES / text / "config.json"):
        return Source(path=str(PACKAGED_POLICIES / text), name=text, is_local=True)
    folder = Path(text).expanduser()
    if is_there(folder):
        if folder.is_dir():
            return _find_in_folder(folder)
        raise PolicyError(f"{text} is a file: name the folder that holds config.json and model.safetensors")
    if not _HUB_ID.fullmatch(text):
        raise PolicyError(f"no policy at {text}: use {known_policies()}, a folder, or a hub id such as Qwen/Qwen2-VL-2B-Instruct")
    return Source(path=text, name=text, is_local=False)


def fingerprint(path: str | Path) -> str:
    """A hash that identifies the weights of a policy: the SHA-256 of its local files, or of its hub id."""
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
    """Resolve a folder: a full checkpoint, a LoRA adapter, or a run, which stands for the policy in it."""
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
    """Whether a folder holds a model or an adapter. The config.json of a run is a recipe and has no `model_type`."""
    if (folder / "adapter_config.json").is_file():
        return True
    return "model_type" in _read_json(folder / "config.json") if (folder / "config.json").is_file() else False


def _find_base(adapter: Path) -> Source:
    values = _read_json(adapter / "adapter_config.json")
    if values.get("peft_type") != "LORA":
        raise PolicyError(f"{adapter} is an adapter of type {values.get('peft_type')!r}: Osler loads LoRA")
    if not (adapter / "adapter_model.safetensors").is_file():
        raise PolicyError(f"{adapter} holds no adapter_model.safetensors: save the adapter with safe_serialization=True")
    named = values.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise PolicyError(f"{adapter}/adapter_config.json names no base_model_name_or_path: add the policy that the adapter was trained on")
    base = find_policy(named)
    if base.adapter is not None:
        raise PolicyError(f"the base of {adapter}, {named}, is an adapter itself: merge that one and save it as a full policy first")
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


def known_policies() -> str:
    """The packaged policies as words of an error message, e.g. "osler-tiny"."""
    known = sorted(file.parent.name for file in PACKAGED_POLICIES.glob("*/config.json"))
    return " or ".join(known) or "a packaged policy"
