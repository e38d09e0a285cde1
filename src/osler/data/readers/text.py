"""Parse the question, option, answer and label texts of datasets: mojibake, numbers, inline options, answer tags.

Text is kept as written; only certain encoding errors are repaired, and every repair is counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, cast

from osler.data.readers.base import Label, number_to_text
from osler.errors import DataError
from osler.text import fold_words, ignore_case_and_end
from osler.types import LETTERS

_TELLTALE: Final = re.compile("[ÃÂâ\u0080-\u009f\ufffd]")  # UTF-8 that was decoded as Latin-1 or Windows-1252 contains these
_LOST: Final = re.compile("[\u0080-\u009f\ufffd]")  # control and replacement characters, which no text contains

_LETTER: Final = re.compile(r"\(?([A-Za-z])\)?[.:]?")
_LINE_OPTION: Final = re.compile(r"^[ \t]*(?:\(([A-Z])\)|([A-Z])[).:])[ \t]*(?=\S)", re.MULTILINE)
_INLINE_START: Final = re.compile(r"(?:(?<=\s)|^)A\)")
_INLINE_NEXT: Final = re.compile(r",\s*([B-Z])\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question and its options."""

    question: str
    choices: tuple[str, ...]


def repair_mojibake(text: str, notes: Counter[str]) -> str:
    """Undo decoding UTF-8 as Latin-1 or Windows-1252: "40Â°" -> "40°".

    The text stays unchanged if it cannot be decoded again or still looks wrong afterwards. `notes` counts both cases.
    """
    if text.isascii() or not _TELLTALE.search(text):
        return text
    for codec in ("latin-1", "cp1252"):
        try:
            repaired = text.encode(codec).decode("utf-8")
        except UnicodeError:
            continue
        if not _TELLTALE.search(repaired):
            notes["mojibake repaired"] += 1
            return repaired
    if _LOST.search(text):
        notes["mojibake left as it is"] += 1
    return text


def check_choices(raw: Any, notes: Counter[str]) -> tuple[str, ...]:
    """The options of a row as stripped texts. Numbers become text, and equal options are kept; `notes` counts both.

    Raises DataError unless `raw` is a list of 2 to 26 options that are not empty.
    """
    if not isinstance(raw, (list, tuple)):
        raise DataError("the options are not a list")
    if not 2 <= len(raw) <= len(LETTERS):
        raise DataError(f"{len(raw)} options: a question has 2 to {len(LETTERS)}")
    choices = tuple(_option_text(letter, value, notes) for letter, value in zip(LETTERS, raw, strict=False))
    if len({option_words(choice) for choice in choices}) < len(choices):
        notes["two options are equal but for case or punctuation"] += 1
    if any("_" in choice for choice in choices):
        notes["label with an underscore among the options, such as 'x_ray'"] += 1
    return choices


@lru_cache(maxsize=1 << 15)
def option_words(choice: str) -> str:
    """What options are compared by: `fold_words`, or for an option of signs only these."""
    return fold_words(choice) or choice


_fold_option: Final = lru_cache(maxsize=1 << 15)(ignore_case_and_end)  # a dataset repeats its options


def _option_text(letter: str, value: Any, notes: Counter[str]) -> str:
    value = number_to_text(value, "among the options", notes) if not isinstance(value, str) else value
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"option {letter} is {'empty' if isinstance(value, str) else 'not text'}")
    return repair_mojibake(value.strip(), notes)


def split_problem(problem: str) -> Problem:
    """Split a text into its question and its options, one per line ("\\nA) x\\nB) y"; also "(A)", "A." and "A:") or inline ("A)x, B)y").

    Raises DataError if there is no question, if there are no options, or if they can be split in two ways.
    """
    parts = _split_lines(problem) or _split_inline(problem)
    if parts is None:
        raise DataError("no options 'A) .., B) ..' in the problem text")
    if not parts.question:
        raise DataError("no question before the options")
    return parts


def _split_lines(problem: str) -> Problem | None:
    marks = list(_LINE_OPTION.finditer(problem))
    if len(marks) < 2:
        return None
    letters = "".join(mark[1] or mark[2] for mark in marks)
    if letters != LETTERS[: len(letters)]:
        raise DataError(f"option letters {', '.join(letters)} are not A, B, C in order")
    ends = [mark.start() for mark in marks[1:]] + [len(problem)]
    choices = tuple(problem[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True))
    if any("\n" in choice for choice in choices):
        raise DataError("an option goes over several lines, or text follows the options: give them as 'choices'")
    return Problem(question=problem[: marks[0].start()].strip(), choices=choices)


def _split_inline(problem: str) -> Problem | None:
    """Inline options. They start at the last "A)" before a ", B)", because the question may contain "A)" too.

    An "A)" that closes a bracket, as in "hepatitis (type A)", is part of the text.
    """
    for start in reversed(list(_INLINE_START.finditer(problem))):
        if not _is_bracket_open(problem[: start.start()]) and len(choices := _walk_letters(problem[start.end() :])) > 1:
            return Problem(question=problem[: start.start()].strip(), choices=choices)
    return None


def _is_bracket_open(text: str) -> bool:
    """Whether `text` ends inside round brackets."""
    return "(" in text and bracket_depths(text)[-1] > 0


def bracket_depths(text: str) -> list[int]:
    """How many round brackets are open before each character and at the end; a closing bracket without an opening one is ignored."""
    depths, depth = [0], 0
    for character in text:
        if character == "(":
            depth += 1
        elif character == ")":
            depth = max(0, depth - 1)
        depths.append(depth)
    return depths


def _walk_letters(text: str) -> tuple[str, ...]:
    """The options of "x, B)y, C)z". ", B)" inside open brackets is not a separator: "vitamins (B, C)" is one option.

    Raises DataError for a separator with a letter that is not the next one.
    """
    choices: list[str] = []
    begin = 0
    for mark in _INLINE_NEXT.finditer(text):
        option = text[begin : mark.start()]
        if _is_bracket_open(option):
            continue
        if mark[1] != LETTERS[len(choices) + 1]:
            raise DataError(f"option {mark[1]} where {LETTERS[len(choices) + 1]} was expected")
        choices.append(option.strip())
        begin = mark.end()
    return (*choices, text[begin:].strip())


def unwrap_answer(text: str) -> str:
    """The content of the last <answer> tag, or the whole text without one: "<answer> C </answer>" -> "C"."""
    lower = text.lower()
    end = lower.rfind("</answer>")
    begin = lower.rfind("<answer>", 0, max(end, 0))
    return (text if begin < 0 else text[begin + len("<answer>") : end]).strip()


def letter_of(answer: str, choices: Sequence[str], notes: Counter[str], *, kind: Literal["letter", "text", "either"]) -> str:
    """The letter of the right answer. `kind` says whether the dataset gives a letter, the text of an option, or either.

    A text may differ from its option in case, spacing and final punctuation; `notes` counts that. Raises DataError if the answer matches no
    option or several, or if it is the letter of one option and the text of another.
    """
    by_letter = _letter_index(answer, choices) if kind != "text" else None
    by_text = text_index(answer, choices, notes) if kind != "letter" else None
    matches = {index for index in (by_letter, by_text) if index is not None}
    if not matches:
        raise DataError(f"the right answer {answer[:80]!r} is none of the {len(choices)} options")
    if len(matches) > 1:
        raise DataError(f"the right answer {answer!r} is the letter of one option and the text of another")
    return only_letter(matches.pop(), choices)


def agreed_letter(letter: str | None, text: str | None, choices: Sequence[str], notes: Counter[str]) -> str:
    """The letter of an answer that a row gives by a letter, by the text of an option, or by both.

    Raises DataError where neither is there or the two disagree, and the errors of `letter_of`.
    """
    if letter is None and text is None:
        raise DataError("the right answer is missing")
    by_letter = letter_of(letter, choices, notes, kind="letter") if letter is not None else None
    by_text = letter_of(text, choices, notes, kind="text") if text is not None else by_letter
    if by_letter not in (None, by_text):
        raise DataError(f"the right answer is option {by_letter} by its letter and option {by_text} by its text: mend one of them")
    assert by_text is not None
    return by_text


def only_letter(index: int, choices: Sequence[str]) -> str:
    """The letter of the option at this place. Raises DataError where another option has the same text."""
    text = _fold_option(choices[index])
    if [_fold_option(choice) for choice in choices].count(text) > 1:
        raise DataError(f"the right answer {choices[index][:80]!r} is given by several options")
    return LETTERS[index]


def _letter_index(answer: str, choices: Sequence[str]) -> int | None:
    match = _LETTER.fullmatch(answer)
    index = LETTERS.index(match[1].upper()) if match else len(choices)
    return index if index < len(choices) else None


def text_index(answer: str, choices: Sequence[str], notes: Counter[str]) -> int | None:
    """The place of the first option with this text but for case, spacing and final punctuation, which `notes` counts; None without one."""
    if answer in choices:
        return choices.index(answer)
    folded = [_fold_option(choice) for choice in choices]
    if _fold_option(answer) not in folded:
        return None
    notes["right answer equals its option but for case, spacing or a full stop"] += 1
    return folded.index(_fold_option(answer))


@lru_cache(maxsize=1 << 12)
def _parse_or_none(raw: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(raw)
    except DataError:
        return None


def parse_label(raw: Any, parse: Callable[[str], Label], kind: str, notes: Counter[str]) -> Label | None:
    """`parse(raw)`; None for no text or a label outside the taxonomy, e.g. "Endoscopy". Counts these, and labels in another spelling."""
    if not isinstance(raw, str):
        notes[f"no {kind} given"] += 1
        return None
    if (value := _parse_or_none(raw, parse)) is None:
        notes[f"{kind} outside the taxonomy: {raw[:60]!r}"] += 1
        return None
    if raw != str(value):
        notes[f"{kind} written {raw[:60]!r}, read as {str(value)!r}"] += 1
    return cast("Label", value)
