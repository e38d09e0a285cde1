"""The files beside the weights in a form that Transformers 4.57 and 5.23 both read, with equal logits.

A folder that Transformers 5.23 saves does not run under 4.57:

- `rope_parameters` is unknown there. Without `rope_scaling` the forward pass fails, and without `rope_theta` the default of the family is
  used, which may be another number. 5.23 replaces `rope_parameters` by a `rope_scaling` beside it, so it needs `rope_theta` too.
- `tie_word_embeddings` is written for the whole model, where 4.57 reads it of the text model. Without it there the output layer, which the
  files do not hold because it is the embedding, gets random weights: other logits, and no error.
- `extra_special_tokens` is a list, where 4.57 expects a mapping; both read a list of `additional_special_tokens`.
- The tokenizer's class `TokenizersBackend` does not exist there; it was `PreTrainedTokenizerFast`, which both know.
- The settings of the images are in `processor_config.json`, where 4.57 does not look; both read `preprocessor_config.json`, the file of the
  published Qwen-VL.

The functions take and return the content of these files. `tools/check_published.py` measures the logits in both versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_OWN_TOKENIZER_KEYS: Final = ("backend", "extra_special_tokens", "is_local", "local_files_only")
"""Keys that only 5.x writes. `additional_special_tokens` replaces one of them, and both versions do without the others."""

_CLASSES: Final = {"TokenizersBackend": "PreTrainedTokenizerFast"}
"""Present names of tokenizer classes -> names that both versions know."""

_SIZES: Final = {"shortest_edge": "min_pixels", "longest_edge": "max_pixels"}
"""Keys of `size` in 5.x -> the keys of the published Qwen-VL. They are numbers of pixels, in spite of the names."""


def readable_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with the rotary settings of the text under both names, and the tie of embedding and output layer in both places."""
    values = dict(config)
    if not isinstance(values.get("text_config"), Mapping):
        return _with_both_ropes(values)
    values["text_config"] = _with_both_ropes(values["text_config"])
    if "tie_word_embeddings" in values:
        values["text_config"]["tie_word_embeddings"] = values["tie_word_embeddings"]
    return values


def _with_both_ropes(text: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a text model; unchanged where they hold no `rope_parameters`, as in files of 4.x."""
    rope = text.get("rope_parameters")
    if not isinstance(rope, Mapping):
        return dict(text)
    # "type" is the key of the first releases. With "mrope" as its value 4.57 admits it for two of the families only, and needs it for none.
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "type")}
    return {**text, "rope_scaling": scaling, "rope_theta": rope["rope_theta"]}


def readable_tokenizer(config: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json without the keys of 5.x that 4.57 cannot read."""
    values = {key: value for key, value in config.items() if key not in _OWN_TOKENIZER_KEYS}
    extra = config.get("extra_special_tokens")
    if isinstance(extra, list):
        values["additional_special_tokens"] = extra
    elif extra:  # a mapping of names to tokens is the form of 4.x
        values["extra_special_tokens"] = extra
    if (name := values.get("tokenizer_class")) in _CLASSES:
        values["tokenizer_class"] = _CLASSES[name]
    return values


def readable_images(image_processor: Mapping[str, Any], processor_class: str) -> dict[str, Any]:
    """preprocessor_config.json of an image processor's settings: the keys of the published Qwen-VL."""
    values = {key: value for key, value in image_processor.items() if value is not None and not key.startswith("_")}
    # The class with and without torchvision, which both versions choose themselves.
    values["image_processor_type"] = str(values["image_processor_type"]).removesuffix("Pil").removesuffix("Fast")
    size = values.pop("size", None)
    if isinstance(size, Mapping):
        values |= {_SIZES[key]: value for key, value in size.items() if key in _SIZES and value is not None}
    return {**values, "processor_class": processor_class}
