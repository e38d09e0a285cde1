"""The split files published with Med-R1: the open-access rows of OmniMedVQA by modality, and the same rows by question type.

The name of a file is the label of its rows on one axis. The label on the other axis comes from the row with the same image and problem in
the files of that axis, and is None without such a row. The two axes split the same rows differently: never train on one and test on the
other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from osler.data.facts.multiple_choice import add_facts
from osler.data.readers.base import TRAIN_TEST, ReaderCard, ReadReport, Rows, check_choice, check_object, get_text
from osler.data.readers.read_files import load_rows
from osler.data.readers.text import check_choices, letter_of, repair_mojibake, split_problem, unwrap_answer
from osler.errors import ConfigError, DataError
from osler.images.files import ImageFile
from osler.taxonomy import AXES, Modality, QuestionType, parse_modality, parse_question_type
from osler.types import Sample

UNKNOWN: Final = "unknown"
"""The name of the file that contains the one row without a modality."""

_PARSERS: Final[Mapping[str, Callable[[str], Modality | QuestionType]]] = {"modality": parse_modality, "question_type": parse_question_type}
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
    """One annotation file and the label in its name."""

    path: Path
    axis: str
    split: str
    name: str  # "ct", "lesion_grading", or "unknown"


def read(
    root: Path,
    *,
    split: str | None = None,
    axis: str = "modality",
    name: str | None = None,
    images: str | Path | None = None,
) -> ReadReport:
    """All rows of the selected files. Raises ConfigError for an unknown option and DataError for missing files."""
    check_choice("axis", axis, AXES)
    check_choice("split", split, TRAIN_TEST)
    folder = root / "Splits" if (root / "Splits").is_dir() else root
    files = _select(_list_files(folder, axis, (split,) if split else TRAIN_TEST), axis, name)
    image_root = Path(images) if images is not None else root
    other_axis = _list_files(folder, AXES[axis == AXES[0]], TRAIN_TEST)
    labels = {(row["image"], row["problem"]): file for file in other_axis for row in load_rows(file.path) if _has_key(row)}
    rows = Rows()
    for file in files:
        if file.name != UNKNOWN and file.path.stem.removesuffix(f"_{file.split}") != file.name:
            rows.notes["file name that is a raw label, such as 'MR (Mag-netic Resonance Imaging)'"] += 1
        for index, row in enumerate(load_rows(file.path)):
            row_id = f"med_r1/{file.name}/{file.split}/{index}"
            other = labels.get((row["image"], row["problem"])) if _has_key(row) else None
            rows.add(row_id, _make_sample, row_id, row, file, other, image_root, rows.notes)
    return rows.report(add_facts, splits=TRAIN_TEST if split is None else ())


def _has_key(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("image"), str) and isinstance(row.get("problem"), str)


def _parse_name(label: str, axis: str) -> str:
    return UNKNOWN if label.lower() == UNKNOWN else _PARSERS[axis](label).value


def _list_files(folder: Path, axis: str, splits: Sequence[str]) -> list[SplitFile]:
    """The files of one axis, by split and name. Raises DataError for a file name that is not a label."""
    files = []
    for split in splits:
        for path in sorted((folder / axis / split).glob(f"*_{split}.json")):
            try:
                name = _parse_name(path.stem.removesuffix(f"_{split}"), axis)
            except DataError as error:
                raise DataError(f"{path}: {error}") from error
            files.append(SplitFile(path=path, axis=axis, split=split, name=name))
    return files


def _select(files: list[SplitFile], axis: str, name: str | None) -> list[SplitFile]:
    if not files:
        raise DataError(f"no files named like ct_test.json for axis {axis!r}: check the data root")
    if name is None:
        return files
    try:
        label = _parse_name(name, axis)
    except DataError as error:
        raise ConfigError(f"option name: {error}") from error
    if not (selected := [file for file in files if file.name == label]):
        present = ", ".join(sorted({f"{file.name} ({file.split})" for file in files}))
        raise DataError(f"no file of axis {axis!r} for {label!r}: there are {present}")
    return selected


def _make_sample(row_id: str, row: Any, file: SplitFile, other: SplitFile | None, image_root: Path, notes: Counter[str]) -> Sample:
    row = check_object(row)
    problem = split_problem(get_text(row, "problem"))
    choices = check_choices(problem.choices, notes)
    if any(_LONE_LETTER.search(choice) for choice in choices):
        notes["option text that holds what looks like a letter, such as '(H&E)'"] += 1
    if other is not None:
        notes["other axis's label known from the same row there"] += 1
    labels = {part.axis: part.name for part in (file, other) if part is not None and part.name != UNKNOWN}
    return Sample(
        id=row_id,
        dataset="med_r1",
        images=(ImageFile(root=image_root, path=get_text(row, "image")),),
        question=repair_mojibake(problem.question, notes),
        choices=choices,
        target=letter_of(unwrap_answer(get_text(row, "solution")), choices, notes, kind="letter"),
        modality=Modality(labels["modality"]) if "modality" in labels else None,
        question_type=QuestionType(labels["question_type"]) if "question_type" in labels else None,
        metadata={"axis": file.axis, "split": file.split},
    )
