"""Chats taken apart into questions: `conversations` (LLaVA, ShareGPT), `messages` (OpenAI, Qwen, ms-swift), a `prompt` of messages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from osler.data.readers.layouts.fields import find_fields, is_absent, parse_literal
from osler.errors import DataError
from osler.types import PLACE

KEYS: Final = ("messages", "conversations", "conversation", "prompt")
"""Fields that may hold a chat."""

_ROLES: Final[Mapping[str, str]] = MappingProxyType(
    {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant"}
    | {"system": "system", "developer": "system"}
)
_THINK: Final = re.compile(r"<think>([^<]*)</think>")
_SOURCES: Final = ("image", "image_url", "url", "path", "data", "source")


@dataclass(slots=True)
class _Turn:
    role: str
    text: str
    images: list[Any] = field(default_factory=list)  # those that the turn itself gives


def take_apart(row: Mapping[str, Any], notes: Counter[str]) -> list[dict[str, Any]]:
    """The row as one row for each question of its chat, with `question`, `answer` and `images` as fields; the row itself without a chat.

    A chat whose row has an answer of its own asks its last question. Raises DataError for a chat that cannot be taken apart.
    """
    chats = {key: parse_literal(row[key]) for key in KEYS if not is_absent(row.get(key))}
    key = next((key for key, chat in chats.items() if isinstance(chat, list) and chat), None)
    if key is None:
        if broken := next((key for key in KEYS[:3] if key in chats), None):
            raise DataError(f"{broken!r} is no list of messages")
        return [dict(row)]
    turns = [_turn(message) for message in chats[key]]
    if any(turn.role == "system" for turn in turns):
        notes["system message of a chat left out"] += 1
    turns = [turn for turn in turns if turn.role != "system"]
    rest = {name: value for name, value in row.items() if name != key}
    pairs = _pairs(turns)
    if len(pairs) > 1 and pairs[-1][1] is not None and "answer" not in find_fields(rest).parts:
        if any(answer is None for _, answer in pairs):
            raise DataError(f"{key!r} has a question without an answer between others: give each question a row of its own")
        notes["chat with several questions, each read as one"] += 1
        return [_flat(pair, rest) for pair in pairs]
    if len(pairs) > 1:
        notes["earlier messages of a chat left out"] += 1
    return [_flat(pairs[-1], rest)]


def _pairs(turns: list[_Turn]) -> list[tuple[_Turn, _Turn | None]]:
    """Every user message with the assistant's message behind it."""
    pairs: list[tuple[_Turn, _Turn | None]] = []
    for turn in turns:
        if turn.role == "user":
            pairs.append((turn, None))
        elif not pairs or pairs[-1][1] is not None:
            raise DataError("no message of role 'user' before one of the assistant")
        else:
            pairs[-1] = (pairs[-1][0], turn)
    if not pairs:
        raise DataError("no message of role 'user'")
    return pairs


def _flat(pair: tuple[_Turn, _Turn | None], rest: Mapping[str, Any]) -> dict[str, Any]:
    user, assistant = pair
    row = {**rest, "problem": user.text}
    if user.images:
        if any(not is_absent(rest.get(name)) for name in ("images", "image")):
            raise DataError("images are given in a message and beside it: keep one of them")
        row["images"] = user.images
    if assistant is not None and (thought := _THINK.search(assistant.text)) and is_absent(rest.get("rationale")):
        row["rationale"] = thought[1]
    if assistant is not None:
        row["response"] = _THINK.sub("", assistant.text).strip()
    return row


def _turn(message: Any) -> _Turn:
    if not isinstance(message, dict):
        raise DataError("a message is not an object")
    message = _without_none(message)
    role = message.get("role", message.get("from"))
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise DataError(f"a message has the role {role!r}: use user, assistant or system")
    content = message.get("content", message.get("value"))
    if isinstance(content, str) or content is None:
        return _Turn(role=_ROLES[role.lower()], text=(content or "").strip())
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise DataError("a message's content is neither text nor a list of parts")
    texts, images = [], []
    for part in filter(None, map(_without_none, content)):
        kind = part.get("type", "image" if is_absent(part.get("text")) else "text")
        if "type" not in part and kind == "text" and ("image" in part or "image_url" in part):
            raise DataError("a part of a message holds a text and an image, and no type: make two parts of it")
        if kind in ("image", "image_url"):
            texts.append(PLACE)
            images += [part[key] for key in _SOURCES if not is_absent(part.get(key))][:1]
        elif kind != "text":
            raise DataError(f"a message holds a part of the type {kind!r}: Osler reads text and images")
        elif isinstance(part.get("text"), str):
            texts.append(part["text"])
    return _Turn(role=_ROLES[role.lower()], text="\n".join(texts).strip(), images=images)


def _without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that hold something: a library that stores parts as one type gives each part the fields of all, such as `image: None`."""
    return {name: value for name, value in fields.items() if value is not None}
