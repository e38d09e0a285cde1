"""Records files: one JSON object per line, appended during an evaluation and readable after the process was killed.

A killed process leaves at most one half-written last line. `read_records` skips it and `append_records` removes it, so a resumed evaluation
repeats only the questions that `resume_records` does not return.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from osler.errors import DataError
from osler.files import split_lines
from osler.prompts import PLACEHOLDER, STRATEGIES
from osler.types import FinishReason, Outcome, Record, answer_text

_ALLOWED: Final[dict[str, list[str]]] = {"outcome": sorted(Outcome), "finish_reason": sorted(FinishReason)}


def record_to_json(record: Record) -> str:
    """The record as one line of JSON without the newline. It is ASCII, so no character of a completion can end the line."""
    return json.dumps(asdict(record), separators=(",", ":"))


def record_from_json(line: str | bytes) -> Record:
    """The record of one line. Raises DataError when it is not JSON, or when a field is missing, unknown or has the wrong type."""
    try:
        record = _parse(line)
    except ValidationError as error:
        raise DataError(_describe(error)) from None
    except ValueError as error:
        raise DataError(f"not JSON: {error}") from None
    for name, allowed in _ALLOWED.items():
        if (value := getattr(record, name)) not in allowed:
            raise DataError(f"the field {name!r} must be one of {', '.join(allowed)}, not {value!r}")
    return record


def question_of(record: Record) -> str:
    """The question of a record: its prompt up to the first choice, or without the words of the strategy around an open question.

    The whole prompt where the choices do not follow the question, or the strategy is not known here.
    """
    for separator in (" ", "") if record.choices else ():
        question, first_choice, _ = record.prompt.partition(f"A){separator}{record.choices[0]}")
        if first_choice:
            return question.strip()
    strategy = STRATEGIES.get(record.strategy)
    if not record.choices and strategy is not None and strategy.open_template is not None:
        before, _, behind = strategy.open_template.partition(PLACEHOLDER)
        if record.prompt.startswith(before) and record.prompt.endswith(behind):
            return record.prompt.removeprefix(before).removesuffix(behind).strip()
    return record.prompt.strip()


def answer_text_of(record: Record) -> str | None:
    """The text of the choice that the answer names, or the open answer; None without an answer that can be read."""
    return answer_text(record.answer, record.choices)


def append_records(path: Path, records: Iterable[Record]) -> None:
    """Append records to a file in one write; the file and its folder are made when absent."""
    append_lines(path, map(record_to_json, records))


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Append lines to a JSON Lines file in one write, behind its last whole line; the file and its folder are made when absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _end_last_line(path)
    with path.open("ab") as file:
        file.write("".join(f"{line}\n" for line in lines).encode())


def read_records(path: Path) -> tuple[Record, ...]:
    """The records of a file, in its order; the file is not changed.

    A half-written last line is skipped. Raises DataError, with the number of the line, for any other line that is not a record.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read the records: {error.strerror}") from None
    records = []
    for number, line in enumerate(split_lines(content), start=1):
        if not line.strip():
            continue
        try:
            records.append(record_from_json(line))
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
    return tuple(records)


def resume_records(path: Path) -> tuple[Record, ...]:
    """The records of an interrupted evaluation, () when there is no file; a half-written last line is removed from the file."""
    if not path.exists():
        return ()
    _end_last_line(path)
    return read_records(path)


def _end_last_line(path: Path) -> None:
    """Remove a half-written last line, or add the newline that a complete last line lacks."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read(1) in {b"", b"\n"}:
            return
        file.seek(0)
        complete = sum(len(line) + 1 for line in split_lines(file.read()))
        if complete > size:
            file.write(b"\n")
        else:
            file.truncate(complete)


@cache
def _adapter() -> TypeAdapter[Record]:
    return TypeAdapter(Record)


def _parse(line: str | bytes) -> Record:
    """Raises ValidationError for a wrong field, and ValueError for a line that is not JSON."""
    try:
        return _adapter().validate_json(line, strict=True, extra="forbid")
    except ValidationError as error:
        if error.errors()[0]["type"] != "json_invalid":
            raise
        # pydantic's JSON parser is several times as fast as json.loads but refuses half of a surrogate pair, which a completion may hold.
        return _adapter().validate_python(json.loads(line), extra="forbid")


def _describe(error: ValidationError) -> str:
    """The first fault of a line."""
    fault = error.errors()[0]
    if not fault["loc"]:
        return "not a JSON object"
    name = fault["loc"][0]
    if name in ("statements", "facts"):
        return f"the field {'.'.join(map(str, fault['loc']))!r} is not as this version of Osler writes it"
    if fault["type"] == "unexpected_keyword_argument":
        return f"unknown field {name!r}: the file was written by another version of Osler"
    if fault["type"] == "missing":
        return f"the field {name!r} is missing: the file was written by another version of Osler"
    if fault["type"] == "tuple_type" or len(fault["loc"]) > 1:
        return f"the field {name!r} must be a list of {'numbers' if name == 'option_probabilities' else 'texts'}"
    return f"the field {name!r} cannot be {fault['input']!r}"
