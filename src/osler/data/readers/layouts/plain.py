"""Rows of which nothing is to be taken apart, read in a third of the time: most rows of a large file.

`read_plain` gives the sample that the other modules of this package give, or None where a row holds anything that could be read in
another way: a mark of an option, a place of an image, a number, a letter beyond ASCII. The others then read it, and
`tests/test_plain_rows.py` compares.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from osler.data.readers.layouts.conversation import KEYS
from osler.data.readers.layouts.fields import MAX_TEXT, find_fields
from osler.data.readers.layouts.options import ANY_MARK
from osler.data.readers.text import option_words, parse_label
from osler.images.files import ImageFile
from osler.taxonomy import parse_modality, parse_question_type
from osler.types import LETTERS, ImageSource, Sample

_PARTS: Final = frozenset({"id", "dataset", "images", "question", "choices", "answer", "modality", "question_type", "subject_id", "layout"})
_ANSWERS: Final = ("target", "answer")
_MAX_ANSWER: Final = 80
_UNREAD: Final = object()

_QUESTION: Final = re.compile(r"[A-Za-z](?:[ -;=-~]*[!-;=-~])?")  # printable ASCII without "<"
_WORDS: Final = re.compile(r"(?:[A-Za-z0-9]{2,}|[0-9])(?: [A-Za-z0-9]+)*")
_OPTION: Final = re.compile(r"[A-Za-z]{2}[A-Za-z0-9 ,.;:'/()%+-]*[A-Za-z0-9)%+]")
_ANSWER_WORD: Final = re.compile(r"(?:the|correct|right|final|answer|option|choice)", re.IGNORECASE)
_PATH: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_/-]*\.(?:png|jpe?g)", re.IGNORECASE)
_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_ ./:-]*[A-Za-z0-9_])?")


@lru_cache(maxsize=1 << 10)  # every row of a file has the same names
def _parts_of(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """The part of a sample that each field gives; None where one gives another part than the plain ones, or two give one."""
    if not all(isinstance(name, str) for name in names) or any(name in KEYS for name in names):
        return None
    fields = find_fields(dict.fromkeys(names, "x"))
    found = {name: part for part, given in fields.parts.items() for name, _ in given}
    if fields.unread or len(found) < len(names) or len(fields.parts) < len(names) or not _PARTS.issuperset(fields.parts):
        return None
    if any(part == "answer" and name not in _ANSWERS for name, part in found.items()):
        return None
    return tuple(found[name] for name in names)


def read_plain(row: Any, number: int, stem: str, root: Path, prefix: str, *, has_own_ids: bool) -> Sample | None:
    """The sample of a plain row; None for another one. The arguments are those of `reading.How`."""
    if type(row) is not dict or (parts := _parts_of(tuple(row))) is None:
        return None
    given = {part: value for part, value in zip(parts, row.values(), strict=True) if value not in (None, "", [])}
    question, answer = given.get("question"), given.get("answer")
    if type(question) is not str or len(question) > MAX_TEXT or not _QUESTION.fullmatch(question) or ANY_MARK.search(question):
        return None
    if (images := _read_images(given.get("images"), root, prefix)) is None:
        return None
    if (choices := _read_choices(given.get("choices"))) is None or type(answer) is not str or not _is_answer(answer, choices):
        return None
    names = {part: given[part] for part in ("id", "dataset", "subject_id", "layout") if part in given}
    if any(type(name) is not str or not _NAME.fullmatch(name) for name in names.values()):
        return None
    modality = _read_label(given.get("modality"), "modality", parse_modality)
    question_type = _read_label(given.get("question_type"), "question type", parse_question_type)
    if modality is _UNREAD or question_type is _UNREAD:
        return None
    dataset = sys.intern(names.get("dataset") or stem)
    return Sample(
        id=names["id"] if has_own_ids and "id" in names else f"{dataset}/{number}",
        dataset=dataset,
        images=images,
        question=question,
        choices=choices,
        target=answer,
        modality=modality,
        question_type=question_type,
        subject_id=names.get("subject_id"),
    )


def _read_images(value: Any, root: Path, prefix: str) -> tuple[ImageSource, ...] | None:
    """The images of one path or a list of paths."""
    paths = [value] if type(value) is str else value
    if type(paths) is not list or not paths:
        return None
    images = []
    for path in paths:
        if type(path) is not str or not _PATH.fullmatch(path):
            return None
        images.append(ImageFile(root=root, path=prefix + path))
    return tuple(images)


def _read_choices(value: Any) -> tuple[str, ...] | None:
    """The options of a list of different texts; () for an open question."""
    if value is None:
        return ()
    if type(value) is not list or not 2 <= len(value) <= len(LETTERS):
        return None
    folded = set()
    for option in value:
        if type(option) is not str:
            return None
        if _WORDS.fullmatch(option):
            folded.add(option.lower())
        elif _OPTION.fullmatch(option):
            folded.add(option_words(option))
        else:
            return None
    return tuple(value) if len(folded) == len(value) else None


def _is_answer(answer: str, choices: tuple[str, ...]) -> bool:
    """Whether an answer is the letter of an option, or without options a text of words."""
    if choices:
        return len(answer) == 1 and answer in LETTERS[: len(choices)]
    return len(answer) <= _MAX_ANSWER and bool(_WORDS.fullmatch(answer)) and len(answer) > 1 and not _ANSWER_WORD.match(answer)


@lru_cache(maxsize=1 << 12)
def _parse_label(value: str, kind: str, parse: Callable[[str], Any]) -> Any:
    notes: Counter[str] = Counter()
    found = parse_label(value, parse, kind, notes)
    return _UNREAD if notes else found


def _read_label(value: Any, kind: str, parse: Callable[[str], Any]) -> Any:
    """The member of the taxonomy that a label names as it is written there; None without a label."""
    if value is None:
        return None
    return _parse_label(value, kind, parse) if type(value) is str else _UNREAD
