"""The model families that Osler supports, by the `model_type` of a checkpoint's config.json."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from osler.errors import ConfigError
from osler.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What differs between architectures."""

    model_type: str  # of the checkpoint's config.json, "qwen2_vl"
    processor_class: str  # name of a class in transformers
    vision: str = "model.visual"  # dotted path of the vision tower inside the model
    language: str = "model.language_model"  # of the text decoder
    shares_prefix: bool = False  # whether its attention and positions were tested with packed rows; else TRL's path is used


def _as_family(name: str, part: Any) -> Family:
    if not isinstance(part, Family):
        raise ConfigError(f"the family {name!r} is a {type(part).__name__}: register an osler.Family")
    return replace(part, model_type=name)


_BUILT_IN: Final = (
    Family(model_type="qwen2_vl", processor_class="Qwen2VLProcessor", shares_prefix=True),
    Family(model_type="qwen2_5_vl", processor_class="Qwen2_5_VLProcessor", shares_prefix=True),
    Family(model_type="qwen3_vl", processor_class="Qwen3VLProcessor", shares_prefix=True),
)
FAMILIES: Final[Registry[Family]] = Registry("family", {family.model_type: family for family in _BUILT_IN}, adapt=_as_family)
"""Every family, by model type; `register_family` and the entry points `osler.families` add to it."""

register_family = FAMILIES.register
