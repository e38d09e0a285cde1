"""PathVQA as the hub publishes it: Parquet files with the columns image (encoded), question and answer.

The authors' own release holds pickles, which are refused: they may run code when they are read. A question whose answer is yes or no
becomes a choice of the two; all others stay open-ended. The images are micrographs and photographs of organs, and nothing tells which, so
the modality is unknown.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any, Final

from osler.data.readers.base import ReaderCard, ReadReport, Rows, check_choice, check_object, get_text
from osler.data.readers.layouts.pictures import Pictures
from osler.data.readers.layouts.tables import find_tables
from osler.data.readers.make_choices import close_yes_no
from osler.data.readers.text import repair_mojibake
from osler.errors import DataError
from osler.taxonomy import SPLITS
from osler.types import Sample

_PICKLES: Final = ("*_qa.pkl", "*/*_qa.pkl", "qas/*/*_qa.pkl", "*/qas/*/*_qa.pkl")

CARD: Final = ReaderCard(
    title="PathVQA",
    source="He et al., arXiv 2003.10286; hub set flaviagiammarino/path-vqa",
    licence="MIT, as the hub's card says; the images belong to the publishers of two textbooks and to the PEIR library",
    counts="32,632 questions: 19,654 train, 6,259 validation, 6,719 test",
    layout="the folder that holds data/train-*.parquet, data/validation-*.parquet and data/test-*.parquet",
    options={},
)


def read(root: Path, *, split: str | None = None, seed: int = 0) -> ReadReport:
    """The questions of a split; the order of yes and no depends on the seed and the row's id. Raises ConfigError and DataError."""
    check_choice("split", split, SPLITS)
    if pickle := find_pickle(root):
        raise DataError(f"{pickle} may run code when it is read: fetch the Parquet files of the hub set flaviagiammarino/path-vqa")
    tables = find_tables(root)
    if unnamed := next((table.name for table in tables if table.split is None and root.is_dir()), None):
        raise DataError(f"{root} holds {unnamed}, whose name tells no split: name it after train, validation or test")
    if not (wanted := [table for table in tables if split in (None, table.split) or root.is_file()]):
        raise DataError(f"{root} holds no table of the split {split}: check the data root")
    rows = Rows()
    pictures = Pictures(root if root.is_dir() else root.parent, rows.notes)
    numbers: Counter[str] = Counter()
    for table in wanted:
        part = table.split or table.stem
        for _, row in table.rows():
            row_id = f"path_vqa/{part}/{numbers[part]}"
            numbers[part] += 1
            rows.add(row_id, _make_sample, row_id, row, pictures, seed, rows.notes)
    return rows.report(splits=[name for name in SPLITS if name in numbers] if split is None else ())


def find_pickle(root: Path) -> Path | None:
    """A pickle of the authors' release at or below a root; None without one."""
    if root.is_file():
        return root if root.suffix in (".pkl", ".pickle") else None
    return next((path for pattern in _PICKLES for path in sorted(root.glob(pattern))), None)


def _make_sample(row_id: str, row: Any, pictures: Pictures, seed: int, notes: Counter[str]) -> Sample:
    if isinstance(row, DataError):
        raise row
    row = check_object(row)
    answer = repair_mojibake(get_text(row, "answer", notes), notes)
    closed = close_yes_no(answer, random.Random(f"{seed}/{row_id}"), notes)
    return Sample(
        id=row_id,
        dataset="path_vqa",
        images=pictures.read_all([("image", row["image"])] if row.get("image") is not None else []),
        question=repair_mojibake(get_text(row, "question", notes), notes),
        choices=closed.choices,
        target=closed.target,
        modality=None,
        question_type=None,
        metadata={"answer": answer},
    )
