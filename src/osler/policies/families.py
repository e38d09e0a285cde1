"""The model families that Osler supports, by the `model_type` of a checkpoint's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


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
