"""The options of a row: a list, an object by letter or number, columns, a text that holds a list, or a part of the question's text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from osler.data.readers.layouts.fields import is_absent, parse_literal
from osler.data.readers.text import Problem, check_choices
from osler.errors import DataError
from osler.text import fold_words
from osler.types import LETTERS

_FULL_WIDTH: Final = str.maketrans("（）【】．：［］", "()[].:[]")  # one character for one, so that positions stay

# "A)", "(A)", "[A]", "A.", "A:", "A、", at the beginning of a line behind a bullet or stars: "- **A.** CT".
_MARK: Final = r"(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])([).:、]))"
_LINE_MARK: Final = re.compile(rf"^[ \t]*(?:[-*•][ \t]+)?(\*\*|__)?{_MARK}(?:\*\*|__)?[.:]?[ \t]*(?=\S)", re.MULTILINE)
_ROW_MARK: Final = re.compile(rf"(?:(?<=[\s,;，；。?？!:：])|^){_MARK}\s*(?=\S)")
_OWN_MARK: Final = re.compile(rf"{_MARK}\s*(?=\S)")
_OWN_NUMBER: Final = re.compile(r"(\d{1,2})(?:[.:]\s+|[)、]\s*)(?=\S)")
_HEADING: Final = re.compile(r"\s*(?:answer\s+)?(?:options?|choices?|选项|選項)\s*(?:are\s*)?[:：]?\s*$", re.IGNORECASE)
_INSTRUCTION: Final = re.compile(
    r"(?:(?<=[.!?。！？])[ \t]*|\s*\n\s*|\s+(?=your task\b))(?=.*(?:letter|option|choice|answer|字母|选项|答案))"
    r"(?:please|answer|choose|select|give|respond|reply|provide|output|think|return|write|pick|your task|only|just|请|請|回答).*\Z",
    re.IGNORECASE | re.DOTALL,
)
_SEPARATOR: Final = re.compile(r"\s*[,;，；]\s*(?:or|and)?\s*$", re.IGNORECASE)
_CLEAR: Final = ("()", ")", "[]")
"""Signs around a letter that stand for nothing else; behind the others a sentence must have ended, as in "Which? A. CT B. MRI"."""
_ENDS_A_QUESTION: Final = ("?", "？", ":", "：", ".", "。", "!", "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a row, and the names by which its answer may call them."""

    choices: tuple[str, ...]
    keys: tuple[str, ...] = ()  # of an object: ("1", "2")


def read_options(raw: Any, notes: Counter[str]) -> Options:
    """The options that a field holds. Raises DataError for anything but 2 to 26 texts in one certain order."""
    value = parse_literal(raw)
    if value is not raw:
        notes["options in a text that holds a list"] += 1
    keys: tuple[str, ...] = ()
    if isinstance(value, dict):
        keys, value = _sorted_object(value)
        notes["options by letter or number"] += 1
    elif isinstance(value, str):
        parts = _in_lines(f"?\n{value}") or _in_a_row(f"?\n{value}")
        if parts is None:
            raise DataError("the options are a text without 'A) .., B) ..': give them as a list")
        notes["options in one text"] += 1
        value = list(parts.choices)
    elif isinstance(value, (list, tuple)) and value and all(isinstance(one, dict) for one in value):
        keys, value = _sorted_object(dict(map(_key_and_value, value)))
        notes["options by letter or number"] += 1
    if not isinstance(value, (list, tuple)):
        raise DataError("the options are not a list")
    kept = list(value)
    while kept and is_absent(kept[-1]):
        kept.pop()
    if len(kept) < len(value):
        notes["empty options at the end left out"] += 1
    choices, own_keys = _without_marks(check_choices(kept, notes), notes)
    return Options(choices=choices, keys=keys or own_keys)


def _key_and_value(option: dict[str, Any]) -> tuple[Any, Any]:
    """Key and text of {"key": "A", "value": "CT"}."""
    key = next((option[name] for name in ("key", "label", "letter", "id") if name in option), None)
    value = next((option[name] for name in ("value", "text", "content") if name in option), None)
    if key is None or value is None:
        raise DataError("an option is an object without a key and a value")
    return key, value


def _sorted_object(options: dict[Any, Any]) -> tuple[tuple[str, ...], list[Any]]:
    """Keys and options in the order of the keys, which must be A, B, C, .. or the numbers from 0 or 1, but for empty ones at the end."""
    named = {str(key).strip().upper(): value for key, value in options.items() if not is_absent(value)}
    for order in (LETTERS, [str(number) for number in range(26)], [str(number) for number in range(1, 27)]):
        if set(named) == set(order[: len(named)]) and named:
            return tuple(order[: len(named)]), [named[key] for key in order[: len(named)]]
    raise DataError(f"the options are named {', '.join(sorted(named)[:8])}, not A, B, C, ..")


def _without_marks(choices: tuple[str, ...], notes: Counter[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The options without letters or numbers of their own, and these numbers: ("1. CT", "2. MRI") -> (("CT", "MRI"), ("1", "2")).

    Raises DataError for letters in another order.
    """
    for pattern, order in ((_OWN_MARK, tuple(LETTERS)), (_OWN_NUMBER, tuple(map(str, range(1, 27))))):
        marks = [mark for mark in (pattern.match(choice.translate(_FULL_WIDTH)) for choice in choices) if mark is not None]
        if len(marks) < len(choices):
            continue
        names = tuple(_letter(mark) if pattern is _OWN_MARK else mark[1] for mark in marks)
        if names == order[: len(choices)]:
            notes["options with letters or numbers of their own"] += 1
            return tuple(choice[mark.end() :] for choice, mark in zip(choices, marks, strict=True)), names
        if sorted(names) == sorted(order[: len(choices)]):
            raise DataError(f"the options bring the letters {', '.join(names)}: sort them, or leave the letters out")
    return choices, ()


def _letter(mark: re.Match[str], first: int = 1) -> str:
    return str(next(group for group in mark.groups()[first - 1 : first + 2] if group is not None)).upper()


def find_options(text: str, notes: Counter[str]) -> Problem | None:
    """Question and options of a text that holds both, in lines or in a row; None for a text without options.

    An instruction behind the options is left out. Raises DataError for options that could be taken apart in two ways.
    """
    parts = _in_lines(text) or _in_a_row(text)
    if parts is None:
        return None
    *others, last = parts.choices
    if instruction := _INSTRUCTION.search(last):
        notes["instruction behind the options left out"] += 1
        last = last[: instruction.start()].rstrip()
        last = last[:-1] if last[-1:] in (".", "。") else last
    choices = tuple(option.strip() for option in (*others, last))
    if any("\n" in option for option in choices):
        raise DataError("an option goes over several lines, or text follows the options: give them as 'choices'")
    question = _HEADING.sub("", parts.question).strip()
    if not question:
        raise DataError("no question before the options")
    notes["options in the question's text"] += 1
    return Problem(question=question, choices=choices)


def without_options(text: str, choices: Sequence[str]) -> str | None:
    """The question of a text that repeats these options; None for a text that does not."""
    try:
        parts = find_options(text, Counter())
    except DataError:
        return None
    if parts is None or [fold_words(choice) for choice in parts.choices] != [fold_words(choice) for choice in choices]:
        return None
    return parts.question


def _in_lines(text: str) -> Problem | None:
    marks = list(_LINE_MARK.finditer(text.translate(_FULL_WIDTH)))
    if len(marks) < 2:
        return None
    letters = "".join(_letter(mark, 2) for mark in marks)
    if letters != LETTERS[: len(letters)]:
        raise DataError(f"option letters {', '.join(letters)} are not A, B, C in order")
    choices = []
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        option = text[mark.end() : following.start() if following else len(text)].strip()
        choices.append(option.removesuffix(mark[1]).strip() if mark[1] else option)
    return Problem(question=text[: marks[0].start()], choices=tuple(choices))


def _in_a_row(text: str) -> Problem | None:
    """Options behind each other in one line, each mark in the style of the first: "A. x, B. y" or "(A) x (B) y".

    The question may hold marks too, so the last run of marks that reaches the end counts. An "A)" that closes a bracket is text.
    """
    marks = [mark for mark in _ROW_MARK.finditer(text.translate(_FULL_WIDTH)) if not _is_in_brackets(text, mark)]
    for start in reversed(range(len(marks))):
        before = text[: marks[start].start()].rstrip(" \t")
        if _letter(marks[start]) != "A" or not (_style(marks[start])[0] in _CLEAR or before.endswith(_ENDS_A_QUESTION)):
            continue
        run = list(_run(marks[start:]))
        if len(run) > 1:
            ends = [mark.start() for mark in run[1:]] + [len(text)]
            choices = tuple(_SEPARATOR.sub("", text[mark.end() : end]).strip() for mark, end in zip(run, ends, strict=True))
            return Problem(question=text[: run[0].start()], choices=choices) if all(choices) else None
    return None


def _run(marks: Sequence[re.Match[str]]) -> Iterator[re.Match[str]]:
    """The marks A, B, C, .. in the style of the first mark, from the first on. Raises DataError for one that is not the next letter."""
    style = _style(marks[0])
    for number, mark in enumerate(mark for mark in marks if _style(mark) == style):
        if number == len(LETTERS) or _letter(mark) != LETTERS[number]:
            raise DataError(f"option {_letter(mark)} where {LETTERS[min(number, 25)]} was expected")
        yield mark


def _style(mark: re.Match[str]) -> tuple[str, bool]:
    """The signs around the letter, and whether it is a capital: "(A)" -> ("()", True)."""
    text = mark[0].strip()
    letter = next(character for character in text if character.isalpha())
    return text.replace(letter, "", 1)[:2], letter.isupper()


def _is_in_brackets(text: str, mark: re.Match[str]) -> bool:
    before = text[: mark.start()].translate(_FULL_WIDTH)
    return before.count("(") > before.count(")")
