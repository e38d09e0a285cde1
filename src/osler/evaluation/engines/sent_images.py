"""Images as an endpoint gets them: PNG in data URLs, so that it sees the same pixels as a policy in this process."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from osler.errors import DataError, EngineError
from osler.images.clip import count_frames
from osler.types import ImageSource, Prompt

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_SENT_BYTES: Final = 48 << 20
"""Of all images of a request, as they are sent. Servers take about so much."""

CACHED: Final = 64
"""Encoded images in memory, because neighbouring questions are often about the same image."""


class SentImages:
    """Puts images into messages. A side of more than `max_side` pixels is reduced to that, and the other side with it."""

    def __init__(self, *, max_side: int = 2048) -> None:
        self.max_side = max_side
        self._encode: Any = lru_cache(maxsize=CACHED)(lambda source: encode_picture(source.load(), max_side))

    def fill_in(self, prompt: Prompt) -> list[dict[str, Any]]:
        """The messages of a prompt with its images in their places, as the chat completions API has them.

        Raises DataError for an image that cannot be read, and EngineError for a clip and for images that are too large.
        """
        urls = iter([self._url(prompt, source) for source in prompt.sample.images])
        messages = []
        num_bytes = 0
        for message in prompt.messages:
            parts: list[dict[str, Any]] = []
            for part in message["content"]:
                if part["type"] == "image":
                    url = next(urls)
                    num_bytes += len(url)
                    parts.append({"type": "image_url", "image_url": {"url": url}})
                else:
                    parts.append({"type": "text", "text": part["text"]})
            # A text alone is sent as one, for servers of models without images.
            has_text_only = all(part["type"] == "text" for part in parts)
            messages.append({**message, "content": "".join(part["text"] for part in parts) if has_text_only else parts})
        if num_bytes > MAX_SENT_BYTES:
            raise EngineError(
                f"{prompt.sample.id} has images of {num_bytes:,} bytes, and {MAX_SENT_BYTES:,} can be sent: lower [eval] max_image_side, "
                "or show fewer data.study.slices"
            )
        return messages

    def _url(self, prompt: Prompt, source: ImageSource) -> str:
        try:
            url: str = self._encode(source)
        except DataError as error:
            raise DataError(f"{prompt.sample.id}: {error}") from None
        except ClipError:
            raise EngineError(
                f'{prompt.sample.id} shows a clip, which the chat completions API does not have: set [data.study] layout = "images"'
            ) from None
        return url


class ClipError(Exception):
    """A picture is a clip of several frames."""


def encode_picture(picture: Image, max_side: int) -> str:
    """The data URL of a picture in mode RGB, reduced to at most `max_side` pixels. Raises ClipError for a clip."""
    import PIL.Image

    if count_frames(picture) > 1:
        raise ClipError
    if max(picture.size) > max_side:
        scale = max_side / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), PIL.Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
