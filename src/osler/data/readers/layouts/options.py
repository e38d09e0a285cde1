"""The options of a row: a list, an object by letter or number, columns, a text that holds a list, or a part of the question's text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from osler.data.readers.layouts.fields import MAX_TEXT, is_absent, parse_literal
from osler.data.readers.text import Problem, bracket_depths, check_choices
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
_ORDERS: Final = (tuple(LETTERS), tuple(map(str, range(1, 27))))
ANY_MARK: Final = re.compile(r"(?<![^\W_])[A-Za-z][).:、\]）．：］】]")
"""What every mark of an option holds, whatever stands around it."""
_NUMBER_LINE: Final = re.compile(r"^[ \t]*(\d{1,2})[).:、][ \t]*(?=\S)", re.MULTILINE)
_HEADING: Final = re.compile(
    r"(?:(?<=\n)|(?<=[.?!。？！：] )|(?<=[.?!。？！：]))(?:answer\s+)?(?:options?|choices?|选项|選項)(?:\s+are)?\s*[:：]?$", re.IGNORECASE
)
_LONGEST_HEADING: Final = 40

_INSTRUCTION_LINE: Final = re.compile(
    r"(?:please|answer|choose|select|give|respond|reply|provide|output|think|first|return|write|pick|your task|only|just|请|請|回答)",
    re.IGNORECASE,
)
_ABOUT_ANSWERS: Final = re.compile(r"letter|option|choice|answer|字母|选项|答案|<think>", re.IGNORECASE)
# On the line of the last option only whole phrases count, because "Give surgery as second choice" may be a part of it.
_INSTRUCTION: Final = re.compile(
    r"(?:(?<=[.!?。！？])\s*|\s+)(?:Please\s+\w|(?:Answer|Choose|Select|Respond|Reply|Provide|Give)\s+(?:with|by|the|your|from|one|only|just)\b"
    r"|First,? think\b|Think (?:about|through|step)\b|Output the\b|Your task\b|请|請|回答)"
)
_SEPARATOR: Final = re.compile(r"[,;，；]\s*(?:or|and)?$", re.IGNORECASE)
_LOOSE_END: Final = re.compile(r"\s(?:and|or)$", re.IGNORECASE)
_TWO_SENTENCES: Final = re.compile(r"[.?!]\s+[A-Z]|[。？！]\S")
_CLEAR: Final = ("()", ")", "[]")
"""Signs around a letter that stand for nothing else; behind the others a sentence must have ended, as in "Which? A. CT B. MRI"."""
_ENDS_A_QUESTION: Final = ("?", "？", ":", "：", ".", "。", "!", "\n")
_NAMES_LETTERS: Final = re.compile(r"\b[A-H]\b")


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
    if isinstance(value, dict) and isinstance(value.get("text"), list) and isinstance(value.get("label"), list):
        value = [{"key": key, "value": text} for key, text in zip(value["label"], value["text"], strict=False)]
    if isinstance(value, dict):
        keys, value = _sorted_options(list(value.items()))
        notes["options by letter or number"] += 1
    elif isinstance(value, str) and len(value) > MAX_TEXT:
        raise DataError(f"the options have more than {MAX_TEXT:,} characters: shorten them")
    elif isinstance(value, str):
        parts = _take_apart(f"?\n{value}", notes)
        if parts is None:
            raise DataError("the options are a text without 'A) .., B) ..': give them as a list")
        notes["options in one text"] += 1
        value = list(parts.choices)
    elif isinstance(value, (list, tuple)) and value and all(isinstance(one, dict) for one in value):
        keys, value = _sorted_options(list(map(_key_and_value, value)))
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


def _sorted_options(options: Sequence[tuple[Any, Any]]) -> tuple[tuple[str, ...], list[Any]]:
    """Keys and options in the order of the keys, which must be A, B, C, .. or the numbers from 0 or 1, but for empty ones at the end."""
    pairs = [(str(key).strip().upper()[:20], value) for key, value in options if not is_absent(value)]
    named = dict(pairs)
    if len(named) < len(pairs):
        raise DataError("two options have one name: name each once")
    for order in (LETTERS, [str(number) for number in range(26)], [str(number) for number in range(1, 27)]):
        if set(named) == set(order[: len(named)]) and named:
            return tuple(order[: len(named)]), [named[key] for key in order[: len(named)]]
    raise DataError(f"the options are named {', '.join(sorted(named)[:8])}, not A, B, C, ..: give them as a list")


@dataclass(frozen=True, slots=True)
class _Own:
    """A letter or a number that an option brings, and where its text begins behind it."""

    name: str
    end: int


@lru_cache(maxsize=1 << 15)
def _own_marks(choice: str) -> tuple[_Own | None, _Own | None]:
    """The letter and the number of an option's own."""
    plain = choice.translate(_FULL_WIDTH)
    letter, number = _OWN_MARK.match(plain), _OWN_NUMBER.match(plain)
    return (_Own(_letter(letter), letter.end()) if letter else None, _Own(number[1], number.end()) if number else None)


def _without_marks(choices: tuple[str, ...], notes: Counter[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The options without letters or numbers of their own, and these: ("1. CT", "2. MRI") -> (("CT", "MRI"), ("1", "2")).

    Raises DataError for letters in another order, and where only some options bring theirs.
    """
    for kind, order in enumerate(_ORDERS):
        marks = [_own_marks(choice)[kind] for choice in choices]
        if not any(marks):
            continue
        names = tuple(mark.name if mark else "" for mark in marks)
        if names == order[: len(choices)]:
            notes["options with letters or numbers of their own"] += 1
            return tuple(choice[mark.end :] for choice, mark in zip(choices, marks, strict=True) if mark), names
        if sorted(names) == sorted(order[: len(choices)]) or (all(names) and names[0] == order[0] and len(set(names)) == len(names)):
            raise DataError(f"the options bring the letters {', '.join(names)}: sort them, or leave the letters out")
        if names[:2] == order[:2]:
            raise DataError("some options bring letters and others do not: give all of them, or none")
    return choices, ()


def _letter(mark: re.Match[str], first: int = 1) -> str:
    return str(next(group for group in mark.groups()[first - 1 : first + 2] if group is not None)).upper()


def find_options(text: str, notes: Counter[str]) -> Problem | None:
    """Question and options of a text that holds both, in lines or in a row; None for a text without options.

    An instruction behind the options is left out. Raises DataError for options that could be taken apart in two ways.
    """
    parts = _take_apart(text, notes)
    if parts is None:
        return None
    question = parts.question.rstrip()
    if heading := _HEADING.search(question, max(0, len(question) - _LONGEST_HEADING)):
        question = question[: heading.start()]
    if not question.strip():
        raise DataError("no question before the options")
    notes["options in the question's text"] += 1
    return Problem(question=question.strip(), choices=parts.choices)


def find_numbered(text: str) -> tuple[str, Options] | None:
    """Question and options of a text that ends with lines "1) CT", "2) MRI"; only an answer tells whether these are options."""
    marks = list(_NUMBER_LINE.finditer(text)) if "\n" in text else []
    if len(marks) < 2 or [mark[1] for mark in marks] != [str(number) for number in range(1, len(marks) + 1)]:
        return None
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    choices = tuple(text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True))
    question = text[: marks[0].start()].strip()
    if not question or any("\n" in choice for choice in choices):
        return None
    return question, Options(choices=choices, keys=tuple(mark[1] for mark in marks))


def without_options(text: str, choices: Sequence[str]) -> str | None:
    """The question of a text that repeats these options; None for a text without options, or with items that the options name.

    Raises DataError for other options, or these in another order.
    """
    if not ANY_MARK.search(text):
        return None
    try:
        parts = find_options(text, Counter())
    except DataError:
        return None
    if parts is None or any(_NAMES_LETTERS.search(choice) for choice in choices):
        return None
    if [fold_words(choice) for choice in parts.choices] != [fold_words(choice) for choice in choices]:
        raise DataError("the options in the question's text are not those of the row's own field: keep one of the two")
    return parts.question


def _take_apart(text: str, notes: Counter[str]) -> Problem | None:
    """The text before the options, and these, without an instruction behind the last."""
    if not ANY_MARK.search(text):
        return None
    parts, is_row = _in_lines(text), False
    if parts is None:
        parts, is_row = _in_a_row(text), True
    if parts is None:
        return None
    *others, last = parts.choices
    if (kept := _without_instruction(last)) != last:
        notes["instruction behind the options left out"] += 1
    choices = tuple(option.strip() for option in (*others, kept))
    if any("\n" in option for option in choices):
        raise DataError("an option goes over several lines, or text follows the options: give them as 'choices'")
    if is_row and any(_TWO_SENTENCES.search(option) for option in choices):
        raise DataError("a sentence ends within an option of the text: give the options as 'choices'")
    return Problem(question=parts.question, choices=choices)


def _without_instruction(option: str) -> str:
    """The last option of a text without what tells how to answer."""
    first, *lines = option.split("\n")
    for number, line in enumerate(lines):
        if _INSTRUCTION_LINE.match(line.strip()) and _ABOUT_ANSWERS.search(line):
            lines = lines[:number]
            break
    match = _INSTRUCTION.search(first)
    if match and _ABOUT_ANSWERS.search(first, match.start()):
        first, lines = first[: match.start()], []
        first = first.rstrip()
        first = first[:-1] if first[-1:] in (".", "。") else first
    return "\n".join([first, *lines]).strip()


def _in_lines(text: str) -> Problem | None:
    marks = list(_LINE_MARK.finditer(text.translate(_FULL_WIDTH)))
    if len(marks) < 2:
        return None
    letters = "".join(_letter(mark, 2) for mark in marks)
    if letters != LETTERS[: len(letters)]:
        raise DataError(f"option letters {', '.join(letters[:26])} are not A, B, C in order")
    choices = []
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        option = text[mark.end() : following.start() if following else len(text)].strip()
        choices.append(option.removesuffix(mark[1]).strip() if mark[1] else option)
    return Problem(question=text[: marks[0].start()], choices=tuple(choices))


def _in_a_row(text: str) -> Problem | None:
    """Options behind each other in one line, each mark in the style of the first: "A. x, B. y" or "(A) x (B) y".

    The question may hold marks too, so the last run of marks that reaches the end counts. An "A)" that closes a bracket is text, and so are
    marks in a sentence: "the (A) CT and (B) MRI".
    """
    plain = text.translate(_FULL_WIDTH)
    depths = bracket_depths(plain)
    marks = [mark for mark in _ROW_MARK.finditer(plain) if not depths[mark.start()]]
    for start in reversed(range(len(marks))):
        if _letter(marks[start]) != "A":
            continue
        if _style(marks[start])[0] not in _CLEAR and not text[: marks[start].start()].rstrip(" \t").endswith(_ENDS_A_QUESTION):
            continue
        run = list(_run(marks[start:]))
        if len(run) > 1:
            ends = [mark.start() for mark in run[1:]] + [len(text)]
            choices = tuple(_trim(text[mark.end() : end]) for mark, end in zip(run, ends, strict=True))
            if any(_LOOSE_END.search(choice) or not fold_words(choice) for choice in choices):
                return None
            return Problem(question=text[: run[0].start()], choices=choices)
    return None


def _trim(option: str) -> str:
    option = option.strip()
    separator = _SEPARATOR.search(option, max(0, len(option) - 8))
    return option[: separator.start()].rstrip() if separator else option


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
