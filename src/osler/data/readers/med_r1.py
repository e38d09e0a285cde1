"""The split files published with Med-R1: OmniMedVQA's open-access rows by modality, and again by question type.

A file names the one label of its axis; the other label of a row is known where the same image and problem stand in a file of the other
axis, and is None elsewhere. The two axes split the same rows differently, so never train on one and test on the other.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from osler.data.readers.base import Reader, ReaderCard, ReadReport, Rows, check_choice, get_text
from osler.data.readers.read_files import load_rows
from osler.data.readers.text import check_choices, letter_of, repair_mojibake, split_problem, unwrap_answer
from osler.errors import ConfigError, DataError
from osler.images.files import ImageFile
from osler.taxonomy import Modality, QuestionType, parse_modality, parse_question_type
from osler.types import Sample

AXES: Final = ("modality", "question_type")
SPLITS: Final = ("train", "test")
UNKNOWN: Final = "unknown"
"""The name of the file whose one row has no modality."""

_LONE_LETTER: Final = re.compile(r"\b[A-Z]\)")

CARD: Final = ReaderCard(
    title="Med-R1 splits of OmniMedVQA",
    source="Lai et al., arXiv 2503.13939, github Yuxiang-Lai117/Med-R1, folder Splits",
    licence="OmniMedVQA's own terms and those of its 42 source sets",
    counts="88,996 questions on each axis (modality 71,334 train and 17,662 test; question type 71,077 and 17,919), 82,059 images",
    layout="the folder that holds modality/ and question_type/ (or Splits/), with train/ and test/ in each, and the images under Images/",
    options={
        "axis": "modality (when left out) or question_type",
        "name": "one domain of the axis, such as ct or lesion_grading; every file of the axis when left out",
        "images": "the folder that holds Images/; the root when left out",
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFile:
    """One annotation file and what its name says."""

    path: Path
    axis: str
    split: str
    name: str  # "ct", "lesion_grading", or "unknown"
    modality: Modality | None = None
    question_type: QuestionType | None = None


def read_med_r1(
    root: Path,
    *,
    split: str | None = None,
    seed: int = 0,
    axis: str = "modality",
    name: str | None = None,
    images: str | Path | None = None,
) -> ReadReport:
    """Every row of the chosen files. `seed` draws nothing here."""
    del seed
    check_choice("axis", axis, AXES)
    check_choice("split", split, SPLITS)
    folder = root / "Splits" if (root / "Splits").is_dir() else root
    found = [file for part in SPLITS if split in (None, part) for file in _list_files(folder, axis, part)]
    files = _select(found, axis, name)
    image_root = Path(images) if images is not None else root
    other_axis = [file for part in SPLITS for file in _list_files(folder, AXES[axis == AXES[0]], part)]
    labels = {(row["image"], row["problem"]): file for file in other_axis for row in load_rows(file.path) if _has_key(row)}
    rows = Rows()
    for file in files:
        if file.name != UNKNOWN and file.path.stem.removesuffix(f"_{file.split}") != file.name:
            rows.notes["file name that is a raw label, such as 'MR (Mag-netic Resonance Imaging)'"] += 1
        for index, row in enumerate(load_rows(file.path)):
            row_id = f"med_r1/{file.name}/{file.split}/{index}"
            other = labels.get((row["image"], row["problem"])) if _has_key(row) else None
            rows.add(row_id, lambda: _make_sample(row_id, row, file, other, image_root, rows.notes))  # noqa: B023 - called at once
    return rows.report()


def _has_key(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("image"), str) and isinstance(row.get("problem"), str)


def _list_files(folder: Path, axis: str, split: str) -> list[SplitFile]:
    """The files of one axis and split, sorted by name. Raises DataError for a file whose name is no label."""
    parse = parse_modality if axis == "modality" else parse_question_type
    files = []
    for path in sorted((folder / axis / split).glob(f"*_{split}.json")):
        label = path.stem.removesuffix(f"_{split}")
        if label.lower() == UNKNOWN:
            files.append(SplitFile(path=path, axis=axis, split=split, name=UNKNOWN))
            continue
        try:
            value = parse(label)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        modality, question_type = (value, None) if isinstance(value, Modality) else (None, value)
        files.append(SplitFile(path=path, axis=axis, split=split, name=value.value, modality=modality, question_type=question_type))
    return files


def _select(files: list[SplitFile], axis: str, name: str | None) -> list[SplitFile]:
    if not files:
        raise DataError(f"no files named like ct_test.json for axis {axis!r}: check the data root")
    if name is None:
        return files
    parse = parse_modality if axis == "modality" else parse_question_type
    try:
        wanted = UNKNOWN if name.lower() == UNKNOWN else parse(name).value
    except DataError as error:
        raise ConfigError(f"option name: {error}") from error
    if not (chosen := [file for file in files if file.name == wanted]):
        present = ", ".join(sorted({f"{file.name} ({file.split})" for file in files}))
        raise DataError(f"no file of axis {axis!r} for {wanted!r}: there are {present}")
    return chosen


def _make_sample(row_id: str, row: Any, file: SplitFile, other: SplitFile | None, image_root: Path, notes: Counter[str]) -> Sample:
    if not isinstance(row, dict):
        raise DataError("the row is not an object")
    problem = split_problem(get_text(row, "problem"))
    choices = check_choices(problem.choices, notes)
    if any(_LONE_LETTER.search(choice) for choice in choices):
        notes["option text that holds what looks like a letter, such as '(H&E)'"] += 1
    if other is not None:
        notes["other axis's label known from the same row there"] += 1
    return Sample(
        id=row_id,
        dataset="med_r1",
        images=(ImageFile(root=image_root, path=get_text(row, "image")),),
        question=repair_mojibake(problem.question, notes),
        choices=choices,
        target=letter_of(unwrap_answer(get_text(row, "solution")), choices, notes, kind="letter"),
        modality=file.modality or (other.modality if other else None),
        question_type=file.question_type or (other.question_type if other else None),
        metadata={"axis": file.axis, "split": file.split},
    )


READER: Final = Reader(name="med_r1", card=CARD, read=read_med_r1)
