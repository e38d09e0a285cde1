"""The processor of a policy: tokenizer, image processor and chat template, with or without torchvision.

Transformers' Qwen-VL processors require a video processor, and that requires torchvision, which has no CPU build on every platform. Osler
reads still images only. So without torchvision, or for a folder that was saved without it, `load_processor` builds the same processor
class without its video part.
"""

from __future__ import annotations

import importlib.util
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from osler.errors import PolicyError


def image_only_processor(processor_class: type[Any], image_processor: Any, tokenizer: Any) -> Any:
    """A `processor_class` without a video processor, under the same class name, so that a folder saved from it is an ordinary one."""
    from transformers import ProcessorMixin

    class ImageOnly(processor_class):  # type: ignore[misc]
        # Transformers finds the sub-processors by the parameters of `__init__`.
        def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None) -> None:
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    ImageOnly.__name__ = ImageOnly.__qualname__ = processor_class.__name__
    return ImageOnly(image_processor, tokenizer, chat_template=tokenizer.chat_template)


def load_processor(path: str | Path, processor_class: type[Any], **options: Any) -> Any:
    """The processor of a local folder or hub id. `options` are settings of the image processor, e.g. `max_pixels`.

    Raises PolicyError when the folder has no usable processor files.
    """
    from transformers import AutoProcessor, AutoTokenizer

    # Not from `transformers`: without torchvision, Transformers 5.17 exports a placeholder there that only raises ImportError.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    if importlib.util.find_spec("torchvision") is not None:
        with suppress(OSError, ValueError, KeyError):  # a folder that was saved without torchvision has no video part
            return AutoProcessor.from_pretrained(path, trust_remote_code=False, **options)
    try:
        image_processor = AutoImageProcessor.from_pretrained(path, trust_remote_code=False, **options)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise PolicyError(f"no processor at {path}: {error}; the folder needs tokenizer.json and preprocessor_config.json") from error
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _published_chat_template(path)
    return image_only_processor(processor_class, image_processor, tokenizer)


def _published_chat_template(path: str | Path) -> str | None:
    """The template in `chat_template.json`, the file of the published Qwen2-VL; Transformers reads it only with the full processor."""
    from transformers.utils import cached_file

    file = cached_file(
        path, "chat_template.json", _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    template = json.loads(Path(file).read_text(encoding="utf-8")).get("chat_template") if file is not None else None
    return template if isinstance(template, str) else None
