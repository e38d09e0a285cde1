"""What people answered in a reader study: one line per event, in a folder of the run. `osler serve --study` writes it, reports read it.

::

    reader_study/plan.json          who sees what in which order
    reader_study/tokens.json        the secret part of each reader's address
    reader_study/reader_1.jsonl     what reader 1 was shown and answered, in the order of the events
    records/reader_1.jsonl          the same answers as records, one for each question; made anew from the events

The events are the source: records never lack an answer that is in them. A repeated question is in the events only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from osler.errors import DataError
from osler.evaluation.ablations import Ablation
from osler.evaluation.records import append_lines
from osler.files import read_json_lines

FOLDER: Final = "reader_study"
"""The folder of a study within a run."""

MAX_READERS: Final = 26


class Part(StrEnum):
    """The parts of a study, in their order for every reader."""

    WITHOUT_IMAGE = "without_image"  # some questions, before the reader sees their images
    UNAIDED = "unaided"  # every question with its images, some a second time
    WITH_MODEL = "with_model"  # every question with its images and what a policy answered


SUFFIXES: Final[Mapping[Part, str]] = MappingProxyType(
    {Part.WITHOUT_IMAGE: f".{Ablation.QUESTION_ONLY}", Part.UNAIDED: "", Part.WITH_MODEL: f".{Part.WITH_MODEL}"}
)
"""What the names of records files end with: records/reader_1.question_only.jsonl is read like any ablation."""

MAJORITY: Final = "readers_majority"
"""The label of the majority of all readers."""


def reader_label(number: int | None, part: Part) -> str:
    """The label of a reader's records, and of the majority's without a number: "reader_1", "readers_majority.with_model"."""
    return (MAJORITY if number is None else f"reader_{number}") + SUFFIXES[part]


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing:
    """A reader opened a case. A case that was shown more than once was opened again, after a pause or another visit."""

    event: Literal["shown"] = "shown"
    position: int  # in the reader's order, from 0
    at: str  # "2026-01-31T09:15:02.113+00:00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A reader answered a case."""

    event: Literal["answered"] = "answered"
    position: int
    at: str
    part: Part
    sample_id: str
    is_repeat: bool  # the second time of a question in the same part
    answer: str  # a letter, or the text of an open answer
    comment: str
    seconds: float  # that the case was visible in the reader's browser
    wall_seconds: float | None  # since it was shown last, by the server's clock; None where that is not known
    views: int  # how often it was shown


@cache
def _adapter() -> TypeAdapter[Showing | Reading]:
    return TypeAdapter(Annotated[Showing | Reading, Field(discriminator="event")])


def events_file(run: Path, number: int) -> Path:
    """The events of a reader."""
    return run / FOLDER / f"reader_{number}.jsonl"


def append_event(path: Path, event: Showing | Reading) -> None:
    """Append an event, and return when it is on the disk. Raises OSError."""
    append_lines(path, [json.dumps(asdict(event))])
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def read_events(path: Path) -> tuple[Showing | Reading, ...]:
    """The events of a file, () without one; a half-written last line is skipped. Raises DataError, one line, for any other fault."""
    events = []
    for number, row in enumerate(read_json_lines(path), start=1):
        try:
            events.append(_adapter().validate_python(row))
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"][1:])
            raise DataError(f"{path}, event {number}: {where}: {fault['msg']}; restore the file") from None
    return tuple(events)


def read_readings(run: Path) -> Mapping[int, tuple[Reading, ...]]:
    """Number of a reader -> all answers in their order; {} without a study. Raises DataError for a damaged file."""
    found = {}
    for number in range(1, MAX_READERS + 1):
        readings = answers_of(read_events(events_file(run, number)))
        if readings:
            found[number] = readings
    return found


def answers_of(events: Iterable[Showing | Reading]) -> tuple[Reading, ...]:
    """The answers among events."""
    return tuple(event for event in events if isinstance(event, Reading))


def answered_twice(readings: Sequence[Reading]) -> list[tuple[Reading, Reading]]:
    """The first and the second answer of one reader to each question that was repeated."""
    first = {(reading.part, reading.sample_id): reading for reading in readings if not reading.is_repeat}
    return [(first[key], reading) for reading in readings if reading.is_repeat and (key := (reading.part, reading.sample_id)) in first]
