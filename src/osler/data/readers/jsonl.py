"""Rows of any usual layout: JSON Lines, JSON, CSV, TSV, Parquet and saved datasets. The parts of a row are read by `layouts`::

    {"image": "a.png", "problem": "What is it?\\nA) CT\\nB) MRI", "solution": "<answer> B </answer>"}
    {"images": ["a.png"], "messages": [{"role": "user", "content": "What is it?"}], "choices": ["CT", "MRI"], "answer": "B"}

`osler data convert` writes the second form. The terms of a row hold for every row that is read with it. What was brought to one form is
counted; `docs/datasets.md` lists the layouts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from osler.data.readers.base import ReaderCard, ReadReport, Rows, check_choice, check_object
from osler.data.readers.layouts.conversation import take_apart
from osler.data.readers.layouts.draft import Draft, base_of, draft_row, finish, needs_base
from osler.data.readers.layouts.fields import Fields, find_fields
from osler.data.readers.layouts.pictures import Pictures
from osler.data.readers.layouts.tables import Table, find_tables, split_of
from osler.errors import DataError
from osler.taxonomy import SPLITS
from osler.types import Sample

CARD: Final = ReaderCard(
    title="Rows of a file or a folder",
    source="your own",
    licence="your own",
    counts="as many as it has",
    layout="a .jsonl, .json, .csv, .tsv or .parquet file, a folder of such files, or one that Dataset.save_to_disk wrote",
    options={
        "images": "the folder that image paths start from; the file's folder when left out",
        "ids": "field (when left out), or row: number the rows, whatever their ids",
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A row, or one question of a row's chat."""

    name: str  # "train.jsonl:7"
    id: str  # its own, or "train/7"
    dataset: str
    fields: Fields


def read(root: Path, *, split: str | None = None, images: str | Path | None = None, ids: str = "field") -> ReadReport:
    """All rows of a file, or of the tables of a folder; with `split` those of the tables named after it, and of tables named after none
    the rows that name it, or all rows where none names a split.

    An id that several of the tables that are read use gets the table's name before it. Raises DataError for files that cannot be read.
    """
    check_choice("split", split, SPLITS)
    check_choice("ids", ids, ("field", "row"))
    tables = find_tables(root)
    wanted = [table for table in tables if split in (None, table.split)] or [table for table in tables if table.split is None]
    if not wanted:
        others = ", ".join(sorted({str(table.split) for table in tables}))
        remedy = f"ask for it with --data.{'test' if split == 'test' else 'train'}.split={tables[0].split}, or rename a table"
        raise DataError(f"{root} holds no table of the split {split}, only {others}: {remedy}")
    rows = Rows(": give each row its own, or number the rows with --data.ids=row")
    parsed = {table.name: list(_parse(table, ids, rows)) for table in wanted}
    owners: dict[str, set[str]] = defaultdict(set)  # id -> names of its tables
    for name, members in parsed.items():
        for row in members:
            owners[row.id].add(name)
    for table in wanted:
        drafts = dict(_draft(parsed[table.name] if table.split else _of_split(parsed[table.name], split, rows), rows))
        base = base_of(draft for _, draft in drafts.values())
        if base is None and any(needs_base(draft) for _, draft in drafts.values()):
            base = _base_of_all(tables, parsed, ids)
        folder = root if root.is_dir() else root.parent
        pictures = Pictures(folder, rows.notes, table.prefix) if images is None else Pictures(Path(images), rows.notes)
        for name, (row, draft) in drafts.items():
            rows.add(name, _finish, row, draft, base, pictures, table, owners[row.id], rows.notes)
    named = {table.split for table in wanted if split is None}
    named |= {split_of(str(row.fields.first("split") or "")) for members in parsed.values() for row in members if split is None}
    report = rows.report(_share_terms, splits=[name for name in SPLITS if name in named])
    order = {table.name: place for place, table in enumerate(tables)}
    return replace(report, refused=tuple(sorted(report.refused, key=lambda refusal: _place_of(refusal.row, order))))


def _base_of_all(tables: Sequence[Table], parsed: Mapping[str, Sequence[_Row]], ids: str) -> int | DataError | None:
    """What all tables together prove, for one that proves nothing itself; those that are not read are parsed for it."""
    members = (parsed[table.name] if table.name in parsed else list(_parse(table, ids, Rows())) for table in tables)
    return base_of(draft for rows in members for _, (_, draft) in _draft(rows, Rows()))


def _parse(table: Table, ids: str, rows: Rows) -> Iterator[_Row]:
    """The rows of a table; those that cannot be parsed are refused."""
    for number, raw in table.rows():
        rows.notes.row = name = f"{table.name}:{number}"
        try:
            if isinstance(raw, DataError):
                raise raw
            parts = take_apart(check_object(raw), rows.notes)
            for place, part in enumerate(parts, start=1):
                end = f"/{place}" if len(parts) > 1 else ""
                fields = find_fields(part)
                dataset = str(fields.first("dataset") or table.stem)
                own = fields.first("id") if ids == "field" else None
                yield _Row(
                    name=f"{name}{end}",
                    id=f"{_id_text(own)}{end}" if own is not None else f"{dataset}/{number}{end}",
                    dataset=dataset,
                    fields=fields,
                )
        except DataError as error:
            rows.refuse(name, error)
    rows.notes.row = ""


def _place_of(row: str, order: dict[str, int]) -> tuple[int, ...]:
    """Where a row stands: "train.jsonl:7/2" -> (place of its table, 7, 2)."""
    table, _, number = row.rpartition(":")
    return order[table], *map(int, number.split("/"))


def _id_text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DataError(f"the id is {type(value).__name__}, not text")
    return str(value).strip()


def _of_split(rows: Sequence[_Row], split: str | None, collected: Rows) -> Sequence[_Row]:
    """The rows that name a split; all rows where none is asked for or named. A row that names none where others do is refused."""
    named = {row.name: split_of(str(row.fields.first("split") or "")) for row in rows}
    if not any(named.values()):
        if split is not None and rows:
            collected.notes["table that names no split: every split reads all of it"] += 1
        return rows
    for row in rows:
        if named[row.name] is None:
            said = row.fields.first("split")
            what = "it names no split" if said is None else f"it names the split {str(said)[:40]!r}"
            reason = f"{what}, and other rows train, validation or test: mend it"
            collected.refuse(row.name, DataError(reason))
    return [row for row in rows if named[row.name] is not None and split in (None, named[row.name])]


def _draft(rows: Sequence[_Row], collected: Rows) -> Iterator[tuple[str, tuple[_Row, Draft]]]:
    """The drafts of the rows by name; rows that give none are refused."""
    for row in rows:
        collected.notes.row = row.name
        try:
            yield row.name, (row, draft_row(row.fields, collected.notes))
        except DataError as error:
            collected.refuse(row.name, error)
    collected.notes.row = ""


def _finish(
    row: _Row, draft: Draft, base: int | DataError | None, pictures: Pictures, table: Table, owners: set[str], notes: Counter[str]
) -> Sample:
    name = row.id
    if len(owners) > 1:
        notes["id of several tables, with the table's name before it"] += 1
        name = f"{table.stem}/{row.id}"
    return finish(draft, base, pictures, notes, name=name, dataset=row.dataset)


def _share_terms(samples: Sequence[Sample], _: Counter[str]) -> Sequence[Sample]:
    """Every sample with the terms of all of them."""
    terms = tuple(dict.fromkeys(term for sample in samples for term in sample.terms))
    return [replace(sample, terms=terms) for sample in samples] if terms else samples
