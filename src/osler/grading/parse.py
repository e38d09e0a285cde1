"""From a completion to the part of it that may contain the answer, in time linear in its length."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from osler.prompts import Format, find_strategy
from osler.text import drop_invisible


class Source(StrEnum):
    """The part of a completion that is read for the answer; the first half of a verdict's rule."""

    ANSWER_TAG = "answer_tag"  # the last complete <answer> outside <think>
    OPEN_ANSWER_TAG = "open_answer_tag"  # a last <answer> that is never closed
    STATEMENT = "statement"  # the text outside <think>, where there is no <answer>
    UNCLOSED_THINK = "unclosed_think"  # the completion was cut off while reasoning
    THINK_ONLY = "think_only"  # nothing outside <think>
    EMPTY = "empty"  # nothing at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """The parts of a completion."""

    source: Source
    content: str | None  # what may contain the answer: "B) MRI"; None for the last three sources
    reasoning: str | None  # the text inside <think>; blocks joined by a newline
    is_well_formed: bool  # whether the completion has the strict format of its strategy
    answers: tuple[str, ...] = ()  # the different complete <answer> blocks outside <think>, up to MAX_KEPT


MAX_KEPT: Final = 8
"""Different answers of a completion that are looked at."""

_TAG: Final = re.compile(r"<\s{0,4}(/?)\s{0,4}(think|answer)\s{0,4}>", re.IGNORECASE)
_SPECIAL_TOKEN: Final = re.compile(r"<\|[^<>|\s]{1,40}\|>|</?s>|<(?:bos|eos|pad|start_of_turn|end_of_turn)>")
_TAG_ORDER: Final = {
    Format.THINK_ANSWER: ["<think>", "</think>", "<answer>", "</answer>"],
    Format.ANSWER: ["<answer>", "</answer>"],
    Format.ANSWER_THINK: ["<answer>", "</answer>", "<think>", "</think>"],
}


def parse(text: str, *, strategy: str) -> Parsed:
    """Find the part of a completion that may contain the answer. Raises ConfigError for an unknown strategy.

    Where the answer is looked for, in this order:

    1. The last complete <answer> outside <think>.
    2. An <answer> that is opened and not closed (`grade` accepts less from it).
    3. The text outside <think>: after the last </think>, or before <think> where the strategy asks for the answer first.

    A </think> without a <think> closes reasoning that began in the prompt. Reasoning that is never closed was cut off: nothing in it or
    after it is an answer.
    """
    shape = find_strategy(strategy).format
    is_answer_first = shape is Format.ANSWER_THINK
    clean = _SPECIAL_TOKEN.sub("\n", drop_invisible(text))
    pieces, thoughts, is_cut_off = _split_thinking(clean, is_answer_first=is_answer_first)
    content, source, answers = _find_content(pieces, is_cut_off=is_cut_off, is_answer_first=is_answer_first)
    if content is None and not thoughts:
        source = Source.EMPTY
    return Parsed(
        source=source,
        content=content,
        reasoning="\n".join(thought.strip() for thought in thoughts) or None,
        answers=answers,
        is_well_formed=bool(content and content.strip()) and not is_cut_off if shape is Format.FREE else _is_well_formed(text, shape),
    )


def _find_content(pieces: list[str], *, is_cut_off: bool, is_answer_first: bool) -> tuple[str | None, Source, tuple[str, ...]]:
    """The content, its source, and the different answers, from the pieces outside <think>; no content where no piece has text."""
    answers, open_answer = _find_answers("\n".join(pieces))
    if answers:
        return answers[-1], Source.ANSWER_TAG, tuple(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))[:MAX_KEPT]
    if open_answer is not None and open_answer.strip():
        return open_answer, Source.OPEN_ANSWER_TAG, ()
    statements = [_TAG.sub("\n", piece) for piece in ([pieces[0], pieces[-1]] if is_answer_first else pieces[-1:])]
    if is_cut_off:  # the last piece is the text before the reasoning, an answer only where the answer comes first
        statements = statements[:1] if is_answer_first else []
    for statement in statements:
        if statement.strip():
            return statement, Source.STATEMENT, ()
    return None, Source.UNCLOSED_THINK if is_cut_off else Source.THINK_ONLY, ()


def _split_thinking(text: str, *, is_answer_first: bool) -> tuple[list[str], list[str], bool]:
    """(pieces outside <think>, at least one; texts inside it; whether the last <think> is never closed)."""
    pieces: list[str] = []
    thoughts: list[str] = []
    position, think_begin, answer_end, has_seen_think = 0, -1, 0, False
    for tag in _TAG.finditer(text):
        is_closing = bool(tag[1])
        if tag[2].lower() == "answer":
            answer_end = tag.end() if is_closing else answer_end
            continue
        if not is_closing:
            if think_begin < 0:
                pieces.append(text[position : tag.start()])
                think_begin = tag.end()
        elif think_begin >= 0:
            thoughts.append(text[think_begin : tag.start()])
            position, think_begin = tag.end(), -1
        elif has_seen_think:  # a </think> too many
            pieces.append(text[position : tag.start()])
            position = tag.end()
        else:  # the <think> of this </think> was in the prompt
            begin = answer_end if is_answer_first else 0
            pieces.append(text[:begin])
            thoughts.append(text[begin : tag.start()])
            position = tag.end()
        has_seen_think = True
    if think_begin >= 0:
        return pieces, [*thoughts, text[think_begin:]], True
    return [*pieces, text[position:]], thoughts, False


def _find_answers(text: str) -> tuple[list[str], str | None]:
    """(the contents of the complete <answer> blocks, the text after a last <answer> that is never closed or None)."""
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
