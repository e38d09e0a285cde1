"""The model families that Osler supports, by the `model_type` of a checkpoint's config.json."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from osler.errors import ConfigError
from osler.registry import Registry

ModuleNames = tuple[tuple[str, str], ...]
"""One naming of a model's modules: (the name there, the present name) of each part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What differs between architectures."""

    model_type: str  # of the checkpoint's config.json, "qwen2_vl"
    processor_class: str  # name of a class in transformers
    vision: str = "model.visual"  # dotted path of the vision tower inside the model
    language: str = "model.language_model"  # of the text decoder
    former_names: tuple[ModuleNames, ...] = ()  # other names of its modules, under which an adapter may be saved
    joins_frames: bool = False  # whether an image of several temporal patches has the features and positions of a video; see `clips`
    shares_prefix: bool = False  # whether its attention and positions were tested with packed rows; else TRL's path is used


def _as_family(name: str, part: Any) -> Family:
    if not isinstance(part, Family):
        raise ConfigError(f"the family {name!r} is a {type(part).__name__}: register an osler.Family")
    return replace(part, model_type=name)


_LANGUAGE, _VISION = "model.language_model", "model.visual"
_BEFORE_4_52: Final = (("model", _LANGUAGE), ("visual", _VISION))  # Transformers' conversion mapping of Qwen2VLForConditionalGeneration
_WITHOUT_HEAD: Final = (("language_model", _LANGUAGE), ("visual", _VISION))  # the model that AutoModel gives
_VLLM: Final = (("language_model.model", _LANGUAGE), ("language_model.lm_head", "lm_head"), ("visual", _VISION))
_BUILT_IN: Final = (
    Family(
        model_type="qwen2_vl",
        processor_class="Qwen2VLProcessor",
        former_names=(_BEFORE_4_52, _VLLM, _WITHOUT_HEAD),
        joins_frames=True,
        shares_prefix=True,
    ),
    Family(
        model_type="qwen2_5_vl",
        processor_class="Qwen2_5_VLProcessor",
        former_names=(_BEFORE_4_52, _VLLM, _WITHOUT_HEAD),
        shares_prefix=True,
    ),
    Family(model_type="qwen3_vl", processor_class="Qwen3VLProcessor", former_names=(_VLLM, _WITHOUT_HEAD), shares_prefix=True),
)
FAMILIES: Final[Registry[Family]] = Registry("family", {family.model_type: family for family in _BUILT_IN}, adapt=_as_family)
"""Every family, by model type; `register_family` and the entry points `osler.families` add to it."""

register_family = FAMILIES.register
