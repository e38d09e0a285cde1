"""Rows of a table into samples, one at a time, so that what a row says is dropped as soon as its sample is made.

A row waits as a draft where its answer is a number: what that means is known only when all rows are read; `settle`
decides what depends on all rows of a table. A plain row is kept as a `PlainRow`, which takes less memory and time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osler.data.readers.base import Notes, check_object
from osler.data.readers.layouts.conversation import take_apart
from osler.data.readers.layouts.draft import Draft, draft_row, finish, needs_base
from osler.data.readers.layouts.fields import Fields, find_fields
from osler.data.readers.layouts.pictures import Pictures
from osler.data.readers.layouts.plain import PlainRows
from osler.data.readers.layouts.tables import Row, Table, split_of
from osler.errors import DataError
from osler.types import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How the rows of a table are read."""

    name: str  # of the table, "train.jsonl"
    stem: str  # "train"
    split: str | None  # that is wanted, of a table whose rows may name one; None for all rows
    may_name_splits: bool  # whether rows of other splits may be among them
    has_own_ids: bool
    root: Path  # of the images
    prefix: str  # of their paths

    @property
    def is_ascii(self) -> bool:
        """Whether all texts of plain rows are ASCII: what the rows give is, and what the names of file and folder give may not be."""
        return f"{self.stem}{self.prefix}".isascii()


@dataclass(slots=True, kw_only=True)
class ReadRow:
    """A row, or one question of a row's chat."""

    name: str  # "train.jsonl:7"
    id: str  # its own, or "train/7"
    made: Sample | Draft | str  # a text is the reason of its refusal
    dataset: str = ""
    nameless: str | None = None  # why it is refused where other rows name a split


PlainRow = tuple[int, Sample]
"""The number in its table of a row of which nothing was to be taken apart, and its sample; it names no split."""


@dataclass(slots=True, kw_only=True)
class Part:
    """Some rows of a table, read."""

    rows: list[ReadRow | PlainRow] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)  # of all rows, also of those of other splits
    named: set[str] = field(default_factory=set)  # the splits that rows name
    notes: Notes = field(default_factory=Notes)
    nameless_notes: Notes = field(default_factory=Notes)  # of rows that name no split

    def extend(self, other: Part) -> None:
        """Add the rows that follow these in the table."""
        self.rows += other.rows
        self.ids |= other.ids
        self.named |= other.named
        self.notes.absorb(other.notes)
        self.nameless_notes.absorb(other.nameless_notes)


def read_rows(rows: Iterable[Row], how: How) -> Part:
    """Read rows of a table."""
    part = Part()
    plain = PlainRows(stem=how.stem, root=how.root, prefix=how.prefix, has_own_ids=how.has_own_ids)
    pictures = {id(notes): Pictures(how.root, notes, how.prefix) for notes in (part.notes, part.nameless_notes)}
    read_plain, add_id, add_row = plain.read, part.ids.add, part.rows.append
    for number, raw in rows:
        if (sample := read_plain(raw, number)) is not None:
            add_id(sample.id)
            add_row((number, sample))
            continue
        part.notes.row = name = f"{how.name}:{number}"
        try:
            if isinstance(raw, DataError):
                raise raw
            questions = take_apart(check_object(raw), part.notes)
            for place, question in enumerate(questions, start=1):
                end = f"/{place}" if len(questions) > 1 else ""
                fields = find_fields(question)
                dataset = sys.intern(str(fields.first("dataset") or how.stem))
                own = fields.first("id") if how.has_own_ids else None
                row_id = f"{_id_text(own)}{end}" if own is not None else f"{dataset}/{number}{end}"
                part.ids.add(row_id)
                if (row := _read_row(f"{name}{end}", row_id, dataset, fields, part, how, pictures)) is not None:
                    part.rows.append(row)
        except DataError as error:
            part.rows.append(ReadRow(name=name, id="", made=str(error)))
    part.notes.row = part.nameless_notes.row = ""
    return part


def _read_row(name: str, row_id: str, dataset: str, fields: Fields, part: Part, how: How, pictures: dict[int, Pictures]) -> ReadRow | None:
    """One question; None for one of another split."""
    notes, nameless = part.notes, None
    if how.may_name_splits:
        said = fields.first("split")
        split = split_of(str(said or ""))
        if split is None:
            nameless = _nameless(said)
            notes = part.nameless_notes
        else:
            part.named.add(split)
            if how.split not in (None, split):
                return None
    notes.row = name
    row = ReadRow(name=name, id=row_id, made="", dataset=dataset, nameless=nameless)
    try:
        draft = draft_row(fields, notes)
        waits = needs_base(draft)
        row.made = draft if waits else finish(draft, None, pictures[id(notes)], notes, name=row_id, dataset=dataset)
    except DataError as error:
        row.made = str(error)
    return row


def _nameless(said: Any) -> str:
    """Why a row that names this split, or none, is refused where other rows name one."""
    what = "it names no split" if said is None else f"it names the split {str(said)[:40]!r}"
    return f"{what}, and other rows train, validation or test: mend it"


def settle(part: Part, how: How) -> Part:
    """The same rows, now that all of a table are read: one that names no split is refused where another one names it."""
    if part.named:
        rows = [unpack(row, how) if isinstance(row, tuple) else row for row in part.rows]
        for row in rows:
            row.made = row.nameless or row.made
        part.rows = list(rows)
        return part
    part.notes.absorb(part.nameless_notes)
    if how.split is not None and part.ids:
        part.notes["table that names no split: every split reads all of it"] += 1
    return part


def unpack(row: PlainRow, how: How) -> ReadRow:
    """A plain row as any other is kept."""
    nameless = _nameless(None) if how.may_name_splits else None
    number, sample = row
    return ReadRow(name=f"{how.name}:{number}", id=sample.id, made=sample, dataset=sample.dataset, nameless=nameless)


def drafts_of(part: Part) -> Iterator[Draft]:
    """The rows that wait for what a number as an answer means."""
    return (row.made for row in part.rows if isinstance(row, ReadRow) and isinstance(row.made, Draft))


def how_to_read(table: Table, split: str | None, images: Path | None, folder: Path, *, has_own_ids: bool) -> How:
    """How a table is read; `images` is the folder of its pictures, where it is another one than the table's."""
    return How(
        name=table.name,
        stem=table.stem,
        split=None if table.split else split,
        may_name_splits=not table.split,
        has_own_ids=has_own_ids,
        root=folder if images is None else images,
        prefix=table.prefix if images is None else "",
    )


def _id_text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DataError(f"the id is {type(value).__name__}, not text")
    return str(value).strip()
