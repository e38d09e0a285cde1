"""Rows of which nothing is to be taken apart, read in a fraction of the time: most rows of a large file.

`PlainRows` gives the sample that the other modules of this package give, or None where a row holds anything that could be read in
another way: a mark of an option, a place of an image, a number, a letter beyond ASCII. The others then read it, and
`tests/test_plain_rows.py` compares.

What a field gives is decided once for all rows with the same names and types, and what a text gives once while the text is remembered:
a dataset repeats its options, questions, labels and images. Equal texts and images of a file are then one object.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, make_dataclass
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, TypeVar

from osler.data.readers.layouts.conversation import KEYS
from osler.data.readers.layouts.fields import MAX_TEXT, find_fields
from osler.data.readers.layouts.options import ANY_MARK
from osler.data.readers.text import option_words, parse_label
from osler.images.files import ImageFile
from osler.taxonomy import parse_modality, parse_question_type
from osler.types import LETTERS, ImageSource, Sample

_TYPES: Final = {
    **dict.fromkeys(("id", "dataset"), (str, type(None))),
    "images": (str, list),
    "question": (str,),
    "choices": (list, type(None)),
    "answer": (str,),
    **dict.fromkeys(("modality", "question_type", "subject_id", "layout"), (str, type(None))),
}
"""The parts of a sample that a plain row may give, and what it gives them as; None is an absent one."""
_ANSWERS: Final = ("target", "answer")
_MAX_ANSWER: Final = 80
MAX_KEPT: Final = 1 << 16
"""Texts of one kind that are remembered."""

_QUESTION: Final = re.compile(r"[A-Za-z](?:[ -;=-~]*[!-;=-~])?")  # printable ASCII without "<"
_WORDS: Final = re.compile(r"(?:[A-Za-z0-9]{2,}|[0-9])(?: [A-Za-z0-9]+)*")
_OPTION: Final = re.compile(r"[A-Za-z]{2}[A-Za-z0-9 ,.;:'/()%+-]*[A-Za-z0-9)%+]")
_ANSWER_WORD: Final = re.compile(r"(?:the|correct|right|final|answer|option|choice)", re.IGNORECASE)
_PATH: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_/-]*\.(?:png|jpe?g)", re.IGNORECASE)
_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_ ./:-]*[A-Za-z0-9_])?")
_LETTERS: Final = tuple(frozenset(LETTERS[:size]) for size in range(len(LETTERS) + 1))
"""The letters that an answer may be, by the number of options."""

Value = TypeVar("Value")


_FIELDS: Final = tuple(field.name for field in fields(Sample))
_NOTHING_ELSE: Final = (None, None, None, ())
"""The context, rationale, facts and terms of a plain row; its metadata are empty."""
PLAIN_FIELDS: Final = _FIELDS[: -len(_NOTHING_ELSE) - 1]
_ThawedSample: Final[Any] = make_dataclass("_ThawedSample", _FIELDS, slots=True)


def make_plain(*values: Any) -> Sample:
    """The sample of a plain row with these values of `PLAIN_FIELDS`, as a sample holds them; nothing is checked.

    A frozen dataclass sets its fields through `object.__setattr__`, which takes six times as long for all 14.
    """
    sample = _ThawedSample(*values, *_NOTHING_ELSE, {})
    sample.__class__ = Sample  # both have the same slots
    made: Sample = sample
    return made


class _NotPlainError(Exception):
    """A text that could be read in another way."""


class _Known(dict[str | None, Value]):
    """What a function gives for texts, computed once for each text that is remembered."""

    def __init__(self, function: Callable[[str], Value], max_kept: int, known: dict[str | None, Value] | None = None) -> None:
        super().__init__(known or {})
        self._function = function
        self._max_kept = max_kept
        self._always = known or {}

    def __missing__(self, text: str) -> Value:
        value = self._function(text)
        if len(self) >= self._max_kept:
            self.clear()
            self.update(self._always)
        self[text] = value
        return value


@lru_cache(maxsize=1 << 10)  # every row of a file has the same names, and few combinations of types
def _arrange(names: tuple[str, ...], types: tuple[type, ...]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]] | None:
    """A function from the values of a row with these names, and None behind them, to those of the parts in the order of `_TYPES`.

    `types` are those of the values and the None.

    None where a field gives another part than the plain ones, or as another type, and where two fields give one part.
    """
    if not all(isinstance(name, str) for name in names) or any(name in KEYS for name in names):
        return None
    fields = find_fields(dict.fromkeys(names, "x"))
    found = {part: name for part, given in fields.parts.items() for name, _ in given}
    if set(found.values()) != set(names) or not _TYPES.keys() >= found.keys():
        return None
    if "answer" in found and found["answer"] not in _ANSWERS:
        return None
    places = {part: names.index(found[part]) if part in found else len(names) for part in _TYPES}
    if any(types[place] not in _TYPES[part] for part, place in places.items()):
        return None
    return itemgetter(*places.values())


class PlainRows:
    """Reads the plain rows of one table."""

    def __init__(self, *, stem: str, root: Path, prefix: str, has_own_ids: bool, max_kept: int = MAX_KEPT) -> None:
        """`max_kept` is the number of texts of one kind that are remembered; the other arguments are those of `reading.How`."""
        self._stem = stem
        self._has_own_ids = has_own_ids
        self._shape: tuple[tuple[str, ...], tuple[type, ...]] = (), ()
        self._take: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None = None  # of the last shape
        absent: dict[str | None, Any] = {None: None, "": None}
        self._questions = _Known(_check_question, max_kept)
        self._images = _Known(lambda path: _read_image(path, root, prefix), max_kept)
        self._options = _Known(_fold_option, max_kept)
        self._texts: dict[str, str] = {}
        self._max_kept = max_kept
        self._answers = _Known(_check_answer, max_kept)
        self._names = _Known[str | None](_check_name, max_kept, absent)
        self._modalities = _Known[Any](lambda label: _parse_label(label, "modality", parse_modality), max_kept, absent)
        self._types = _Known[Any](lambda label: _parse_label(label, "question type", parse_question_type), max_kept, absent)

    def read(self, row: Any, number: int) -> Sample | None:
        """The sample of a plain row; None for another one."""
        if type(row) is not dict:
            return None
        values = (*row.values(), None)
        if (shape := (tuple(row), tuple(map(type, values)))) != self._shape:  # most rows have the shape of the row before
            self._shape, self._take = shape, _arrange(*shape)
        if self._take is None:
            return None
        own_id, dataset, paths, question, options, answer, modality, kind, subject, layout = self._take(values)
        try:
            name = own_id if own_id and own_id.isascii() and own_id.isalnum() else self._check_id(own_id)
            dataset = self._names[dataset] or self._stem
            if layout:
                _check_name(layout)
            choices = self._read_choices(options) if options else ()
            if not choices:
                answer = self._answers[answer]
            elif answer not in _LETTERS[len(choices)]:
                return None
            return make_plain(
                name if name is not None and self._has_own_ids else f"{dataset}/{number}",
                dataset,
                self._images[paths] if type(paths) is str else self._read_images(paths),
                self._questions[question],
                choices,
                answer,
                self._modalities[modality],
                self._types[kind],
                self._names[subject],
            )
        except _NotPlainError:
            return None

    def _check_id(self, text: str | None) -> str | None:
        """Ids are not remembered: no two rows have the same."""
        return _check_name(text) if text else None

    def _read_images(self, paths: list[Any]) -> tuple[ImageSource, ...]:
        """The images of a list of paths."""
        if len(paths) == 1 and type(paths[0]) is str:
            return self._images[paths[0]]
        if set(map(type, paths)) != {str}:
            raise _NotPlainError
        return tuple(self._images[path][0] for path in paths)

    def _read_choices(self, options: list[Any]) -> tuple[str, ...]:
        """The options of a list of different texts."""
        if not 2 <= len(options) <= len(LETTERS) or set(map(type, options)) != {str}:
            raise _NotPlainError
        if len(set(map(self._options.__getitem__, options))) < len(options):
            raise _NotPlainError
        if len(self._texts) >= self._max_kept:
            self._texts.clear()
        return tuple(map(self._texts.setdefault, options, options))


def _check_question(text: str) -> str:
    if len(text) > MAX_TEXT or not _QUESTION.fullmatch(text) or ANY_MARK.search(text):
        raise _NotPlainError
    return text


def _check_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise _NotPlainError
    return text


def _check_answer(text: str) -> str:
    """The answer to an open question: a text of words."""
    if not 1 < len(text) <= _MAX_ANSWER or not _WORDS.fullmatch(text) or _ANSWER_WORD.match(text):
        raise _NotPlainError
    return text


def _fold_option(text: str) -> str:
    """What options are compared by."""
    if _WORDS.fullmatch(text):
        return text.lower()
    if not _OPTION.fullmatch(text):
        raise _NotPlainError
    return option_words(text)


def _read_image(path: str, root: Path, prefix: str) -> tuple[ImageSource, ...]:
    if not _PATH.fullmatch(path):
        raise _NotPlainError
    return (ImageFile(root=root, path=prefix + path),)


def _parse_label(text: str, kind: str, parse: Callable[[str], Any]) -> Any:
    """The member of the taxonomy that a label names as it is written there."""
    notes: Counter[str] = Counter()
    found = parse_label(text, parse, kind, notes)
    if notes:
        raise _NotPlainError
    return found
