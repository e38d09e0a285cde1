"""The right answer of a row: a letter, an option's text, both, or the place of an option, however it is wrapped.

Places count from 0 in some files and from 1 in others, so they are read only where the rows of the file prove one of the two.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from osler.data.readers.base import number_to_text
from osler.data.readers.layouts.fields import MAX_TEXT, is_absent, parse_literal
from osler.data.readers.layouts.options import Options
from osler.data.readers.text import only_letter, repair_mojibake, text_index, unwrap_answer
from osler.errors import DataError
from osler.text import fold_answer, fold_label, fold_words
from osler.types import LETTERS

_BOXED: Final = re.compile(r"\$?\\boxed\{(?:\\text\{)?([^{}]*)\}?\}\$?")
_PREFIX: Final = re.compile(
    r"(?:the\s+)?(?:(?:correct|right|final)\s+)?(?:answer|option|choice)\s*(?:is\b)?\s*[:：]?\s*(?=\S)", re.IGNORECASE
)
_CHINESE_PREFIX: Final = re.compile(r"(?:正确)?(?:答案|选项|選項)(?:是|为|為)?\s*[:：]?\s*(?=\S)")
_TAG: Final = re.compile(r"<answer>([^<]*)</answer>", re.IGNORECASE)
_LETTER: Final = re.compile(r"[(\[]?([A-Za-z])[)\]]?[.:、]?")
_LETTER_AND_TEXT: Final = re.compile(r"(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])[).:、])\s*(\S.*)", re.DOTALL)
_NUMBER_AND_TEXT: Final = re.compile(r"(\d{1,2})[).:、]\s*(\S.*)", re.DOTALL)
_PLACE: Final = re.compile(r"\d{1,2}(?:\.0)?")
_PLACE_NAMES: Final = frozenset({"answeridx", "answerindex", "cop"})
"""Fields in which a number is a place even where an option's text is that number."""
_MAX_REPLY: Final = 80
_MAX_KEPT: Final = 80
_QUOTES: Final = (('"', '"'), ("'", "'"), ("`", "`"), ("“", "”"), ("**", "**"))
_YES_NO: Final = (("yes",), ("no",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a row says about its right option."""

    option: int | None  # its place from 0, as a letter, a text or a key names it
    places: tuple[int, ...] = ()  # numbers that may be places, counted from 0 or from 1
    number: int | None = None  # that text or key, where it is a number and so may be a place as well


def read_answer(given: Iterable[tuple[str, Any]], options: Options, notes: Counter[str]) -> Answer:
    """The right option of a question from the fields (name, value) that give it. Raises DataError where one is unreadable or two differ."""
    named: dict[int, str] = {}  # option -> the field that names it
    places: list[int] = []
    number: int | None = None
    fields = list(given)
    for name, value in fields:
        try:
            found = _match(value, options, notes, is_letter=name == "target", is_place=fold_label(name) in _PLACE_NAMES)
        except DataError:
            if name != "response" or len(fields) == 1:  # of a chat whose row has an answer too, the reply may be any text
                raise
            continue
        if isinstance(found, _Place):
            places.append(found.number)
            continue
        named[found] = name
        if _PLACE.fullmatch(text := str(parse_literal(value)).strip()):
            number = int(float(text))
    if len(named) > 1:
        (one, first), (other, second) = list(named.items())[:2]
        raise DataError(f"{first!r} names option {LETTERS[one]} and {second!r} option {LETTERS[other]}: mend one of them")
    if len(set(places)) > 1:
        raise DataError(f"the right answers {places[0]} and {places[1]} differ: mend one of them")
    return Answer(option=next(iter(named), None), places=tuple(places), number=number)


def prove_base(answers: Iterable[tuple[Answer, int]]) -> int | None:
    """Whether the places in a file, (answer, number of options) for each row, count from 0 or from 1; None where no row proves it.

    Raises DataError where rows prove both.
    """
    bases = set()
    for answer, num_choices in answers:
        for place in answer.places:
            if place in (0, num_choices):
                bases.add(0 if place == 0 else 1)
            elif answer.option is not None and place - answer.option in (0, 1):
                bases.add(place - answer.option)
    if len(bases) > 1:
        raise DataError("the file counts options from 0 in some rows and from 1 in others: give letters")
    return next(iter(bases), None)


def settle(answer: Answer, choices: Sequence[str], base: int | DataError | None, notes: Counter[str]) -> str:
    """The letter of the right answer; `base` as `prove_base` gives or raises it.

    Raises DataError for a place that no row of the file explains, and for an option that is there twice.
    """
    option = answer.option if not answer.places else _by_place(answer, len(choices), base, notes)
    place = answer.number - base if isinstance(base, int) and answer.number is not None else option
    if place != option and place in range(len(choices)):
        raise DataError(f"the right answer {answer.number} is one option by its text and, counted from {base}, another: give letters")
    assert option is not None
    return only_letter(option, choices)


def _by_place(answer: Answer, num_choices: int, base: int | DataError | None, notes: Counter[str]) -> int:
    place = answer.places[0]
    if isinstance(base, DataError):
        raise base
    if base is None:
        raise DataError(f"the right answer {place} may count options from 0 or from 1, and no row of the file proves which: give letters")
    option = place - base
    if not 0 <= option < num_choices:
        raise DataError(f"the right answer {place} is none of the {num_choices} options, counted from {base}")
    if answer.option not in (None, option):
        raise DataError(f"the right answer is option {LETTERS[answer.option or 0]} and, by its number, {LETTERS[option]}: mend one of them")
    notes[f"right answer by its number, counted from {base}"] += 1
    return option


def read_open_answer(given: Sequence[tuple[str, Any]], notes: Counter[str]) -> str:
    """The reference text of a question without options. Raises DataError for a lone letter, whose options are not there."""
    text = _unwrap(given[0][1], notes)
    if not text:
        raise DataError("the answer is empty")
    for name, value in given[1:]:
        other = _unwrap(value, Counter())
        if fold_answer(other) != fold_answer(text) and not (name == "response" and _names(other, text)):
            raise DataError(f"{given[0][0]!r} says {text[:40]!r} and {name!r} {other[:40]!r}: mend one of them")
    if given[0][0] != "target" and re.fullmatch(r"[(\[]?[A-Za-z][)\]]?\.?", text):  # Osler itself writes targets
        raise DataError(f"the right answer is the letter {text!r}, and the row has no options: list them under 'choices'")
    return text


def _names(reply: str, answer: str) -> bool:
    """Whether a reply of a chat, any text, holds the answer, or is too long to be one itself."""
    return fold_words(answer) in fold_words(reply) or len(reply) > _MAX_REPLY


@dataclass(frozen=True, slots=True)
class _Place:
    number: int


def _match(value: Any, options: Options, notes: Counter[str], *, is_letter: bool, is_place: bool) -> int | _Place:
    choices = options.choices
    text = _unwrap(value, notes)
    if is_place and _PLACE.fullmatch(text):
        return _Place(int(float(text)))
    letter = _LETTER.fullmatch(text)
    by_letter = LETTERS.index(letter[1].upper()) if letter else len(choices)
    found = {by_letter} if by_letter < len(choices) else set()
    if not (found and is_letter) and (by_text := text_index(text, choices, notes)) is not None:
        found.add(by_text)
    if len(found) > 1:
        raise DataError(f"the right answer {text!r} is the letter of one option and the text of another")
    if found:
        return found.pop()
    if text in options.keys:
        return options.keys.index(text)
    if _PLACE.fullmatch(text) and float(text) <= len(choices):
        return _Place(int(float(text)))
    if (numbered := _NUMBER_AND_TEXT.fullmatch(text)) and numbered[1] in options.keys:
        return _letter_and_text(LETTERS[options.keys.index(numbered[1])], numbered[2], choices, notes)
    if both := _LETTER_AND_TEXT.fullmatch(text):
        return _letter_and_text((both[1] or both[2] or both[3]).upper(), both[4], choices, notes)
    same = [index for index, choice in enumerate(choices) if fold_answer(choice) == fold_answer(text)]
    if len(same) == 1 and fold_answer(text) in _YES_NO:
        notes["right answer true or false, read as yes or no"] += 1
        return same[0]
    raise DataError(f"the right answer {text[:80]!r} is none of the {len(choices)} options")


def _letter_and_text(letter: str, text: str, choices: Sequence[str], notes: Counter[str]) -> int:
    option = LETTERS.index(letter)
    if option >= len(choices) or option != text_index(text.strip(), choices, Counter()):
        raise DataError(f"the right answer '{letter}. {text[:80]}' is none of the {len(choices)} options")
    notes["right answer with letter and text"] += 1
    return option


def _unwrap(value: Any, notes: Counter[str]) -> str:
    """The text of an answer without list, tag, box, quotes, "Option" and full-width letters. Raises DataError for several answers."""
    if not isinstance(value, str) or len(value) > _MAX_KEPT:
        return _unwrap_any(value, notes)
    text, told = _unwrap_kept(value)
    for note in told:
        notes[note] += 1
    return text


@lru_cache(maxsize=1 << 13)  # a dataset repeats its answers
def _unwrap_kept(value: str) -> tuple[str, tuple[str, ...]]:
    """The text, and what `_unwrap_any` notes of it."""
    notes: Counter[str] = Counter()
    return _unwrap_any(value, notes), tuple(notes.elements())


def _unwrap_any(value: Any, notes: Counter[str]) -> str:
    value = parse_literal(value)
    if isinstance(value, (list, tuple)):
        members = [member for member in value if not is_absent(member)]
        if len(members) != 1:
            raise DataError(f"{len(members)} right answers: a question has one")
        notes["right answer in a list"] += 1
        value = members[0]
    if isinstance(value, bool):
        return "Yes" if value else "No"
    value = number_to_text(value, "in the answer", notes)
    if not isinstance(value, str):
        raise DataError(f"the answer is {type(value).__name__}, not text")
    if len(value) > MAX_TEXT:
        raise DataError(f"the answer has more than {MAX_TEXT:,} characters: shorten it")
    if len({tag.strip() for tag in _TAG.findall(value)}) > 1:
        raise DataError("the answer holds several <answer> tags that differ: keep one")
    text = bare = unwrap_answer(repair_mojibake(value.strip(), notes))
    if boxed := _BOXED.fullmatch(text):
        text = boxed[1].strip()
    for opening, closing in _QUOTES:
        inner = text[len(opening) : -len(closing)]
        if inner and text.startswith(opening) and text.endswith(closing) and closing not in inner:
            text = inner.strip()
    prefix = _PREFIX.match(text) or _CHINESE_PREFIX.match(text)
    rest = unicodedata.normalize("NFKC", text[prefix.end() if prefix else 0 :])
    if _LETTER.fullmatch(rest) or (prefix and _LETTER_AND_TEXT.fullmatch(rest)):  # a prefix is left out before a letter only
        text = rest
    if text != bare:
        notes["right answer in a box, in quotes, or behind 'Option' or 'Answer'"] += 1
    return text
