"""What the fields of a row are called. Absent, null, NaN and empty are the same: the row does not have the field."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from osler.errors import DataError
from osler.text import fold_label

MAX_TEXT: Final = 20_000
"""Characters of the longest text that is taken apart: a question, a list of options, an answer. So many cost little to read."""

NAMES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "id": ("id", "question_id", "qid", "index", "uid"),
        "dataset": ("dataset",),
        "split": ("split",),
        "images": (
            *("images", "image", "image_path", "image_paths", "img_path", "img", "image_file", "file_name", "figure_path"),
            *("image_name", "img_name"),
        ),
        "question": ("question", "problem", "query", "prompt", "question_text"),
        "choices": ("choices", "options", "candidates", "answer_choices", "answer_options"),
        "answer": (
            *("target", "answer", "solution", "answer_letter", "answer_label", "answer_idx", "answer_index", "correct_answer"),
            *("correct_option", "correct_choice", "correct", "cop", "gt_answer", "ground_truth", "gt", "gold", "label"),
            *("answers", "response"),
        ),
        "modality": ("modality", "modality_type", "image_type"),
        "question_type": ("question_type", "content_type"),
        "subject_id": ("subject_id", "patient_id", "patient"),
        "context": ("context", "patient_context", "hint"),
        "age": ("age", "patient_age"),
        "sex": ("sex", "patient_sex", "gender", "patient_gender"),
        "indication": ("indication", "clinical_indication", "reason_for_exam", "reason_for_examination"),
        "history": ("history", "clinical_history", "patient_history", "medical_history"),
        "prior_findings": ("prior_findings", "previous_findings", "comparison"),
        "laterality": ("laterality", "image_laterality"),
        "rationale": ("rationale", "reasoning"),
        "facts": ("facts",),
        "terms": ("terms",),
        "metadata": ("metadata",),
        "layout": ("layout",),
    }
)
"""Part of a sample -> the names that it has in files, the first that a row holds first. Case and signs do not matter: "Image Path"."""

_PART_OF: Final = {fold_label(name): part for part, names in NAMES.items() for name in names}
_RANK: Final = {fold_label(name): rank for names in NAMES.values() for rank, name in enumerate(names)}
_OPTION_COLUMN: Final = re.compile(r"(?:option|choice|opt|op)?[\s_-]*([A-Z])", re.IGNORECASE)
_LONG_NUMBER: Final = re.compile(r"[0-9a-fA-F]{60}")
_NO_COMMA: Final = re.compile(r"""['"]\s+['"]""")
_IMAGE_COLUMN: Final = re.compile(r"image[\s_-]*(\d{1,2})", re.IGNORECASE)


def is_absent(value: Any) -> bool:
    """Whether a value says nothing: None, NaN, an empty or blank text, an empty list or object, also as text."""
    if isinstance(value, str):
        return not value or ((value[0] in "[{" or value[0].isspace()) and value.strip() in ("", "[]", "{}"))
    return value is None or value in ([], {}, ()) or (isinstance(value, float) and value != value)


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a row that hold something, by the part of a sample that they give."""

    parts: Mapping[str, tuple[tuple[str, Any], ...]]  # {"answer": (("solution", "B"),)}: name and value, in the order of NAMES
    unread: tuple[str, ...]  # names of fields that are not read

    def first(self, part: str) -> Any:
        """The value of the first field of a part; None without one."""
        return self.parts[part][0][1] if part in self.parts else None

    def all(self, part: str) -> Iterator[tuple[str, Any]]:
        """Name and value of every field of a part."""
        yield from self.parts.get(part, ())


@dataclass(frozen=True, slots=True)
class _Column:
    """What a name says."""

    key: str
    part: str | None = None
    letter: str | None = None  # of an option
    number: int | None = None  # of an image


@lru_cache(maxsize=1 << 12)  # every row of a file has the same names
def _column(name: str) -> _Column:
    if (part := _PART_OF.get(key := fold_label(name))) is not None:
        return _Column(key, part=part)
    if match := _OPTION_COLUMN.fullmatch(name.strip()):
        return _Column(key, letter=match[1].upper())
    if match := _IMAGE_COLUMN.fullmatch(name.strip()):
        return _Column(key, number=int(match[1]))
    return _Column(key)


def find_fields(row: Mapping[str, Any]) -> Fields:
    """The fields of a row. Options in columns A, B, C, .. and images in columns image_1, image_2, .. become one list each.

    Raises DataError for two columns of one name, such as "Answer" and "answer", that hold different values.
    """
    found: dict[str, dict[str, Any]] = {}
    unread = []
    letters: dict[str, Any] = {}
    numbers: dict[int, Any] = {}
    for name, value in row.items():
        if not isinstance(name, str) or is_absent(value):
            continue
        column = _column(name)
        if column.part is not None:
            own = found.setdefault(column.part, {})
            if column.key in own and own[column.key][1] != value:
                raise DataError(f"{own[column.key][0]!r} and {name!r} differ: keep one of them")
            own[column.key] = (name, value)
        elif column.letter is not None:
            letters[column.letter] = value
        elif column.number is not None:
            numbers[column.number] = value
        else:
            unread.append(name)
    parts = {
        part: tuple(own.values()) if len(own) == 1 else tuple(own[key] for key in sorted(own, key=_RANK.__getitem__))
        for part, own in found.items()
    }
    if "A" in letters and len(letters) > 1:
        parts["choices"] = (*parts.get("choices", ()), ("A, B, ..", letters))
    if numbers:
        parts["images"] = (*parts.get("images", ()), ("image_1, ..", [numbers[number] for number in sorted(numbers)]))
    return Fields(parts=parts, unread=tuple(unread))


def parse_literal(value: Any) -> Any:
    """The list or object that a text holds, in JSON or as Python prints it ("['CT', 'MRI']"); any other value unchanged."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{") or len(value) > MAX_TEXT or _LONG_NUMBER.search(value):
        return value
    text = value.strip()
    for parse in (json.loads, _evaluate):
        try:
            parsed = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(parsed, (list, dict)):
            return parsed
    return value


def _evaluate(text: str) -> Any:
    if _NO_COMMA.search(text):  # as numpy prints arrays; Python would make one text of 'CT' 'MRI'
        raise ValueError
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a backslash in a text
        return ast.literal_eval(text)
