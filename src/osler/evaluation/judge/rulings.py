"""The file of a judge's rulings, one JSON object a line, written one by one so that nothing is asked twice.

It lies in a folder `judge` beside the records: records/grpo.jsonl -> records/judge/grpo.jsonl. One file may hold the rulings of several
judges.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from osler.errors import DataError
from osler.evaluation.judge.prompt import Case, Ruling, make_case
from osler.evaluation.records import append_lines, question_of
from osler.files import read_json_lines
from osler.prompts import without_context
from osler.types import Record

REMEDY: Final = "delete the line, and judge again"


@dataclass(frozen=True, slots=True, kw_only=True)
class RulingRow:
    """One line of the file: a ruling with everything that it depends on."""

    key: str  # of `Case.key`
    ruling: Ruling
    model: str
    prompt: str  # SHA-256 of the prompt
    sample_id: str  # of the first record with these texts
    question: str
    target: str
    answer: str
    reply: str  # the judge's own words, cut off at MAX_REPLY


MAX_REPLY: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Judge:
    """A model with a prompt: rulings of different judges are never mixed."""

    model: str
    prompt: str


def rulings_file(records: Path) -> Path:
    """The file of the rulings on a records file."""
    return records.parent / "judge" / records.name


def case_of(record: Record) -> Case | None:
    """The case of an open question's record, without the patient context; None without an answer and for questions with choices."""
    if record.choices or record.answer is None:
        return None
    return make_case(without_context(question_of(record)), record.target, record.answer)


def read_rulings(path: Path) -> dict[Judge, dict[str, RulingRow]]:
    """Judge -> key of a case -> line; {} without a file. Raises DataError, with the number of the line, for a line that is no ruling."""
    found: dict[Judge, dict[str, RulingRow]] = {}
    for number, row in enumerate(_read_rows(path), start=1):
        case = Case(question=row.question, target=row.target, answer=row.answer)
        if case.key(row.model, row.prompt) != row.key:
            raise DataError(f"{path}, entry {number}: the key does not belong to the texts: {REMEDY}")
        found.setdefault(Judge(model=row.model, prompt=row.prompt), {})[row.key] = row
    return found


def _read_rows(path: Path) -> Iterable[RulingRow]:
    for number, row in enumerate(read_json_lines(path), start=1):
        try:
            yield _ADAPTER.validate_python(row, extra="forbid")
        except ValidationError as error:
            fault = error.errors()[0]
            name = ".".join(map(str, fault["loc"]))
            raise DataError(f"{path}, entry {number}, is no ruling ({name}: {fault['msg']}): {REMEDY}") from None


def append_ruling(path: Path, row: RulingRow) -> None:
    """Append one line; the file and its folder are made when absent."""
    append_lines(path, [json.dumps(asdict(row))])


_ADAPTER: Final = TypeAdapter(RulingRow)
