"""Rows of any usual layout: JSON Lines, JSON, CSV, TSV, Parquet and saved datasets. The parts of a row are read by `layouts`::

    {"image": "a.png", "problem": "What is it?\\nA) CT\\nB) MRI", "solution": "<answer> B </answer>"}
    {"images": ["a.png"], "messages": [{"role": "user", "content": "What is it?"}], "choices": ["CT", "MRI"], "answer": "B"}

`osler data convert` writes the second form. The terms of a row hold for every row that is read with it. What was brought to one form is
counted; `docs/datasets.md` lists the layouts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from osler.data.readers.base import Notes, ReaderCard, ReadReport, Rows, check_choice
from osler.data.readers.layouts.draft import Draft, base_of, finish
from osler.data.readers.layouts.parallel import read_table
from osler.data.readers.layouts.pictures import Pictures
from osler.data.readers.layouts.reading import How, ReadRow, drafts_of, how_to_read, settle, unpack
from osler.data.readers.layouts.tables import Table, find_tables
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
    folder, pictures = root if root.is_dir() else root.parent, None if images is None else Path(images)
    hows = [how_to_read(table, split, pictures, folder, has_own_ids=ids == "field") for table in wanted]
    parts = [settle(read_table(table, how), how) for table, how in zip(wanted, hows, strict=True)]
    owners = Counter(row_id for part in parts for row_id in part.ids) if len(parts) > 1 else Counter[str]()
    for part, how in zip(parts, hows, strict=True):
        rows.notes.absorb(part.notes)
        base = base_of(drafts_of(part))
        if base is None and any(drafts_of(part)):
            base = _base_of_all(tables, folder, has_own_ids=ids == "field")
        finisher = _Finisher(how=how, base=base, pictures=Pictures(how.root, rows.notes, how.prefix), notes=rows.notes)
        is_simple = how.is_ascii and not owners  # no other table has its ids
        for row in part.rows:
            if isinstance(row, tuple):
                if (is_simple or (how.is_ascii and owners[row[1].id] < 2)) and rows.put(row[1]):
                    continue
                row = unpack(row, how)
            rows.add(row.name, finisher.finish, row, is_shared=owners[row.id] > 1)
        part.rows.clear()
    named = {table.split for table in wanted if split is None}
    named |= {name for part in parts for name in part.named if split is None}
    report = rows.report(_share_terms, splits=[name for name in SPLITS if name in named])
    order = {table.name: place for place, table in enumerate(tables)}
    return replace(report, refused=tuple(sorted(report.refused, key=lambda refusal: _place_of(refusal.row, order))))


def _base_of_all(tables: Sequence[Table], folder: Path, *, has_own_ids: bool) -> int | DataError | None:
    """What all tables together prove, for one that proves nothing itself; all are read again for it."""
    hows = (how_to_read(table, None, None, folder, has_own_ids=has_own_ids) for table in tables)
    return base_of(draft for table, how in zip(tables, hows, strict=True) for draft in drafts_of(read_table(table, how)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finisher:
    """Makes the samples of a table's rows, now that all rows are read."""

    how: How
    base: int | DataError | None
    pictures: Pictures
    notes: Notes

    def finish(self, row: ReadRow, *, is_shared: bool) -> Sample:
        """The sample of a row, whose id other tables may share. Raises DataError for a row that is refused."""
        if isinstance(row.made, str):
            raise DataError(row.made)
        name = f"{self.how.stem}/{row.id}" if is_shared else row.id
        if is_shared:
            self.notes["id of several tables, with the table's name before it"] += 1
        if isinstance(row.made, Draft):
            return finish(row.made, self.base, self.pictures, self.notes, name=name, dataset=row.dataset)
        return replace(row.made, id=name) if is_shared else row.made


def _place_of(row: str, order: dict[str, int]) -> tuple[int, ...]:
    """Where a row stands: "train.jsonl:7/2" -> (place of its table, 7, 2)."""
    table, _, number = row.rpartition(":")
    return order[table], *map(int, number.split("/"))


def _share_terms(samples: Sequence[Sample], _: Counter[str]) -> Sequence[Sample]:
    """Every sample with the terms of all of them."""
    terms = tuple(dict.fromkeys(term for sample in samples for term in sample.terms))
    return [replace(sample, terms=terms) for sample in samples] if terms else samples
