"""The patient context of a row: a text, an object, or columns such as `age`, `sex` and `indication`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from osler.context import CODED, FIELDS, Context, parse_age, parse_laterality, parse_sex
from osler.data.readers.base import number_to_text
from osler.data.readers.layouts.fields import Fields, find_fields, is_absent, parse_literal
from osler.errors import DataError

_COLUMNS: Final = tuple(name for name in FIELDS if name != "text")
_PARTS: Final = frozenset({"context", *_COLUMNS})
_PARSERS: Final = {"age": parse_age, "sex": parse_sex, "laterality": parse_laterality}


def read_context(fields: Fields, notes: Counter[str], *, is_own: bool = False) -> Context | None:
    """The patient context of a row; None without one. With `is_own` a text is kept as it is, whatever it looks like.

    An object must hold nothing but known fields with valid values. A column may mean something else: one that does not hold what its name
    says is counted and left out. Raises DataError for a wrong object, and for two fields that disagree.
    """
    if _PARTS.isdisjoint(fields.parts):
        return None
    given = fields.first("context")
    value = given if is_own else parse_literal(given)
    known = _read_object(value) if isinstance(value, Mapping) else _read_text(value)
    for part in _COLUMNS:
        for name, column in fields.all(part):
            if (found := _read_column(part, name, column, notes)) is None:
                continue
            if known.setdefault(part, found) != found:
                raise DataError(f"{name!r} differs from another field that gives the {part.replace('_', ' ')}: keep one of them")
    context = Context(**known)
    return context if context.values else None


def _read_text(value: Any) -> dict[str, str]:
    text = number_to_text(value, "in 'context'", Counter())
    if text is None:
        return {}
    if not isinstance(text, str):
        raise DataError(f"'context' is {type(text).__name__}, neither text nor an object")
    return {"text": text.strip()}


def _read_object(value: Mapping[str, Any]) -> dict[str, str]:
    """The fields of an object under any of their names. Raises DataError for another field, and for a wrong value."""
    for name, member in value.items():
        if name != "text" and not is_absent(member) and not find_fields({name: member}).parts.keys() & set(_COLUMNS):
            raise DataError(f"'context' has the field {str(name)[:40]!r}: it takes {', '.join(FIELDS)}")
    found = find_fields({name: member for name, member in value.items() if name != "text"})
    if twice := next((part for part, given in found.parts.items() if len(given) > 1), None):
        raise DataError(f"'context' gives the {twice.replace('_', ' ')} under two names: keep one of them")
    given = {part: found.first(part) for part in found.parts}
    texts = {part: member if part == "age" else number_to_text(member, "", Counter()) for part, member in given.items()}
    return Context(**texts, **_read_text(value.get("text"))).values


def _read_column(part: str, name: str, value: Any, notes: Counter[str]) -> str | None:
    """What a column gives; None where it does not hold what its name says."""
    if part in CODED:
        try:
            return _PARSERS[part](value)
        except DataError:
            notes[f"{name!r} holds no {part}: left out"] += 1
            return None
    text = number_to_text(value, f"in {name!r}", notes)
    if not isinstance(text, str) or isinstance(parse_literal(text), (list, dict)):
        notes[f"field {name[:40]!r} not read"] += 1  # such as the earlier turns of a chat
        return None
    return text.strip()
