"""From a completion to the one piece of it that may hold the answer. Linear in the length of the text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from osler.prompts import Format, find_strategy


class Source(StrEnum):
    """Where the answer was looked for; the first half of a verdict's rule."""

    ANSWER_TAG = "answer_tag"  # the last complete <answer> outside <think>
    OPEN_ANSWER_TAG = "open_answer_tag"  # a last <answer> that was never closed
    STATEMENT = "statement"  # the text outside <think>, where there is no <answer>
    UNCLOSED_THINK = "unclosed_think"  # the completion was cut off while reasoning
    THINK_ONLY = "think_only"  # nothing outside <think>
    EMPTY = "empty"  # nothing at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A completion taken apart."""

    source: Source
    content: str | None  # what may hold the answer: "B) MRI"; None for the last three sources
    candidates: tuple[str, ...]  # every complete <answer> outside <think>, in order
    reasoning: str | None  # the text inside <think>; blocks joined by a newline
    is_well_formed: bool  # the strategy's strict format


_TAG: Final = re.compile(r"<\s{0,4}(/?)\s{0,4}(think|answer)\s{0,4}>", re.IGNORECASE)
_SPECIAL_TOKEN: Final = re.compile(r"<\|[^<>|\s]{1,40}\|>|</?s>|<(?:bos|eos|pad|start_of_turn|end_of_turn)>")

_INVISIBLE: Final = (
    *(0x00AD, 0x034F, 0x061C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFEFF, 0xFFA0, 0xE0001),
    *range(0x180B, 0x180F),
    *range(0x200B, 0x2010),
    *range(0x202A, 0x202F),
    *range(0x2060, 0x2070),
    *range(0xFE00, 0xFE10),
    *range(0xFFF9, 0xFFFC),
    *range(0xE0020, 0xE0080),
)
# Full-width brackets are mapped here rather than by NFKC, which is not linear on long runs of combining marks.
VISIBLE: Final = MappingProxyType({**dict.fromkeys(_INVISIBLE), ord("＜"): "<", ord("＞"): ">", ord("／"): "/"})
"""A table for `str.translate` that drops characters without width."""

_TAG_ORDER: Final = MappingProxyType(
    {
        Format.THINK_ANSWER: ["<think>", "</think>", "<answer>", "</answer>"],
        Format.ANSWER: ["<answer>", "</answer>"],
        Format.ANSWER_THINK: ["<answer>", "</answer>", "<think>", "</think>"],
    }
)


def parse(text: str, *, strategy: str | None = None) -> Parsed:
    """Find the piece of a completion that may hold the answer.

    The last complete <answer> outside <think> wins. Where there is none, an <answer> that was opened and not closed is kept apart (see
    `grade`), and else the statement outside <think> counts: what follows the last </think>, or for an answer-first strategy what comes
    before <think>. A </think> without a <think> closes reasoning that began with the completion, as it does when the prompt itself
    ends in <think>. Reasoning that was never closed was cut off: nothing in it or after it is an answer.

    Without a strategy any non-empty answer or statement is well-formed. Raises ConfigError for an unknown strategy.
    """
    shape = find_strategy(strategy).format if strategy is not None else Format.FREE
    clean = _SPECIAL_TOKEN.sub("\n", text if text.isascii() else text.translate(VISIBLE))
    pieces, thoughts, is_cut_off = _split_thinking(clean, is_answer_first=shape is Format.ANSWER_THINK)
    candidates, open_answer = _find_answers("\n".join(pieces))
    content, source = _choose(candidates, open_answer, pieces, is_cut_off=is_cut_off, is_answer_first=shape is Format.ANSWER_THINK)
    if content is None and not thoughts:
        source = Source.EMPTY
    return Parsed(
        source=source,
        content=content,
        candidates=tuple(candidates),
        reasoning="\n".join(thought.strip() for thought in thoughts) or None,
        is_well_formed=bool(content and content.strip()) and not is_cut_off if shape is Format.FREE else _is_well_formed(text, shape),
    )


def _choose(
    candidates: list[str], open_answer: str | None, pieces: list[str], *, is_cut_off: bool, is_answer_first: bool
) -> tuple[str | None, Source]:
    """The content and its source; the content is None where there is nothing to read."""
    if candidates:
        return candidates[-1], Source.ANSWER_TAG
    if open_answer is not None and open_answer.strip():
        return open_answer, Source.OPEN_ANSWER_TAG
    statements = [_TAG.sub("\n", piece) for piece in ([pieces[0], pieces[-1]] if is_answer_first else pieces[-1:])]
    if is_cut_off:  # then the last piece is the text before the reasoning: an answer only where the answer comes first
        statements = statements[:1] if is_answer_first else []
    for statement in statements:
        if statement.strip():
            return statement, Source.STATEMENT
    return None, Source.UNCLOSED_THINK if is_cut_off else Source.THINK_ONLY


def _split_thinking(text: str, *, is_answer_first: bool) -> tuple[list[str], list[str], bool]:
    """(pieces outside <think>, at least one; texts inside it; whether the last <think> is never closed)."""
    pieces: list[str] = []
    thoughts: list[str] = []
    position, opened, answer_end, has_seen_think = 0, -1, 0, False
    for tag in _TAG.finditer(text):
        if tag[2].lower() == "answer":
            answer_end = tag.end() if tag[1] else answer_end
            continue
        if not tag[1]:
            if opened < 0:
                pieces.append(text[position : tag.start()])
                opened = tag.end()
        elif opened >= 0:
            thoughts.append(text[opened : tag.start()])
            position, opened = tag.end(), -1
        else:
            begin = position if has_seen_think else (answer_end if is_answer_first else 0)
            pieces.append(text[position : tag.start()] if has_seen_think else text[:begin])
            if not has_seen_think:
                thoughts.append(text[begin : tag.start()])
            position = tag.end()
        has_seen_think = True
    if opened >= 0:
        return pieces, [*thoughts, text[opened:]], True
    return [*pieces, text[position:]], thoughts, False


def _find_answers(text: str) -> tuple[list[str], str | None]:
    """(contents of complete <answer> blocks, the text behind a last <answer> that is never closed)."""
    answers: list[str] = []
    begin: int | None = None
    for tag in _TAG.finditer(text):
        if tag[2].lower() == "think":
            continue
        if not tag[1]:
            begin = tag.end()
        elif begin is not None:
            answers.append(text[begin : tag.start()])
            begin = None
    return answers, None if begin is None else text[begin:]


def _is_well_formed(text: str, shape: Format) -> bool:
    """Whether the tags come exactly once each, in order and lower case, with text in every block and only whitespace around them."""
    tags = list(_TAG.finditer(text))
    if [tag[0] for tag in tags] != _TAG_ORDER[shape]:
        return False
    edges = [0, *(edge for tag in tags for edge in tag.span()), len(text)]
    parts = [bool(text[begin:end].strip()) for begin, end in zip(edges[::2], edges[1::2], strict=True)]
    return not any(parts[::2]) and all(parts[1::2])
