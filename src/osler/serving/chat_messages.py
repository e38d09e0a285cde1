"""From the messages of a chat to a prompt: the policy's own chat template renders them, as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from osler.prompts import has_chat_token
from osler.serving.chat_types import ChatMessage, ImagePart
from osler.serving.errors import ApiError
from osler.serving.pictures import read_images
from osler.serving.settings import ServerSettings
from osler.types import PLACE, ImageSource

_ROLES: Final = {"developer": "system"}  # the newer name of the same thing; no chat template knows it


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrompt:
    """The input of a chat template."""

    messages: tuple[dict[str, Any], ...]
    images: tuple[ImageSource, ...]  # in the order of the image parts

    @property
    def text(self) -> list[dict[str, str]]:
        """The turns with PLACE for each image."""
        return [{"role": message["role"], "content": _text_of(message["content"])} for message in self.messages]


def to_prompt(messages: Sequence[ChatMessage], settings: ServerSettings) -> ChatPrompt:
    """The prompt of a chat, with its images checked. Blocks: call it in a thread.

    Raises ApiError (400) for an empty chat, too much text, a chat token ("<|im_end|>") in a text, and an image that is refused.
    """
    turns: list[dict[str, Any]] = []
    urls: list[tuple[str, str]] = []
    length = 0
    for number, message in enumerate(messages):
        parts: list[Mapping[str, str]] = []
        for place, part in enumerate([message.content] if isinstance(message.content, str) else message.content or ()):
            if isinstance(part, ImagePart):
                if message.role != "user":
                    raise _fault(number, "holds an image: only messages of the user do")
                urls.append((part.image_url.url, f"messages.{number}.content.{place}.image_url.url"))
                parts.append({"type": "image"})
            else:
                parts.append({"type": "text", "text": part if isinstance(part, str) else part.text})
        text = "".join(part.get("text", "") for part in parts)
        length += len(text)
        if length > settings.max_text:
            raise _fault(number, f"makes the chat longer than {settings.max_text:,} characters: send less")
        if has_chat_token(text):
            raise _fault(number, "contains a chat token (<|..|>): remove it, because the policy reads it as a control token")
        turns.append({"role": _ROLES.get(message.role, message.role), "content": parts if message.role == "user" else text})
    if not urls and not any(_text_of(turn["content"]).strip() for turn in turns):
        raise ApiError(400, "the messages are empty: ask something", param="messages")
    return ChatPrompt(messages=tuple(turns), images=read_images(urls, settings))


def _text_of(content: str | Sequence[Mapping[str, str]]) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", PLACE) for part in content)


def _fault(number: int, what: str) -> ApiError:
    param = f"messages.{number}.content"
    return ApiError(400, f"{param} {what}", param=param)
