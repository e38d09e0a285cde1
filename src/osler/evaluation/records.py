"""Records on disk: one JSON object per line, appended as an evaluation goes, readable after the process was killed.

A line counts once its text is whole. A killed writer leaves at most one half-written last line: `read_records` passes over it and the
next `append_records` cuts it off, so an evaluation that resumes asks only the questions that `resume_records` did not return.
"""

from __future__ import annotations

import json
import os
import typing
from collections.abc import Iterable
from dataclasses import MISSING, asdict, fields
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final

from osler.errors import DataError
from osler.types import FinishReason, Outcome, Record

_CLOSED_FIELDS: Final = {"outcome": frozenset(Outcome), "finish_reason": frozenset(FinishReason)}


def record_to_json(record: Record) -> str:
    """The record as one line of ASCII JSON without the newline, so that no character of a completion can break the line."""
    return json.dumps(asdict(record), separators=(",", ":"))


def record_from_json(line: str | bytes) -> Record:
    """The record that a line holds. Raises DataError when it is not JSON, or a field is missing, unknown or of another type."""
    try:
        values = json.loads(line)
    except ValueError as error:
        raise DataError(f"not JSON: {error}") from None
    if not isinstance(values, dict):
        raise DataError("not a JSON object")
    hints, required = _record_fields()
    if unknown := sorted(values.keys() - hints.keys()):
        raise DataError(f"unknown field {unknown[0]!r}: the file was written by another version of Osler")
    if missing := sorted(required - values.keys()):
        raise DataError(f"the field {missing[0]!r} is missing: the file was written by another version of Osler")
    return Record(**{name: _checked(name, hints[name], value) for name, value in values.items()})


def append_records(path: Path, records: Iterable[Record], *, sync: bool = False) -> None:
    """Add records to the end of a file, made with its folder when absent, in one write.

    With `sync` they are on the disk when the call returns (they survive a power cut), without it in the hands of the
    operating system (they survive the process).
    """
    payload = "".join(record_to_json(record) + "\n" for record in records).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    _mend_last_line(path)
    with path.open("ab", buffering=0) as file:
        written = 0
        while written < len(payload):  # a raw write may be short, e.g. on a network file system
            written += file.write(payload[written:])
        if sync:
            os.fsync(file.fileno())


def read_records(path: Path) -> tuple[Record, ...]:
    """The records of a file, in its order; the file is not changed.

    A half-written last line is passed over. Raises DataError, with the number of the line, for any other line that is not a record.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read the records: {error.strerror}") from None
    *lines, tail = content.split(b"\n")
    if tail and _is_whole(tail):
        lines.append(tail)
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(record_from_json(line))
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
    return tuple(records)


def resume_records(path: Path) -> tuple[Record, ...]:
    """The records that an interrupted evaluation left, none when there is no file; a half-written last line is cut off the file."""
    if not path.exists():
        return ()
    _mend_last_line(path)
    return read_records(path)


def _mend_last_line(path: Path) -> None:
    """End the file on a newline: cut off a half-written last line, or close a whole one that lacks only its newline."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        content = file.read()
        start = content.rfind(b"\n") + 1
        if _is_whole(content[start:]):
            file.seek(size)
            file.write(b"\n")
        else:
            file.truncate(start)


def _is_whole(line: bytes) -> bool:
    # No proper prefix of a JSON object is itself JSON, so a line that parses was written to its end.
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=1)
def _record_fields() -> tuple[dict[str, Any], frozenset[str]]:
    """The type of every field of a Record, and the names of those without a default."""
    required = frozenset(field.name for field in fields(Record) if field.default is MISSING and field.default_factory is MISSING)
    return typing.get_type_hints(Record), required


def _checked(name: str, hint: Any, value: Any) -> Any:
    """`value` as the field's type; JSON has lists where a Record has tuples."""
    kinds = typing.get_args(hint) if isinstance(hint, UnionType) else (hint,)
    items = next((typing.get_args(kind)[0] for kind in kinds if typing.get_origin(kind) is tuple), None)
    if items is not None and not (value is None and NoneType in kinds):
        if not isinstance(value, list) or not all(type(item) is items for item in value):
            raise DataError(f"the field {name!r} must be a list of {'texts' if items is str else 'numbers'}")
        return tuple(value)
    if type(value) not in kinds:
        raise DataError(f"the field {name!r} cannot be {value!r}")
    if name in _CLOSED_FIELDS and value not in _CLOSED_FIELDS[name]:
        raise DataError(f"the field {name!r} must be one of {', '.join(sorted(_CLOSED_FIELDS[name]))}, not {value!r}")
    return value
