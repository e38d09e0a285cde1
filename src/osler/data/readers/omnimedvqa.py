"""OmniMedVQA as published: QA_information/<access>/<source set>.json."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Final

from osler.data.facts.multiple_choice import add_facts
from osler.data.readers.base import ReaderCard, ReadReport, Rows, check_choice, check_object, check_test_only, get_text
from osler.data.readers.read_files import load_rows
from osler.data.readers.text import check_choices, letter_of, parse_label, repair_mojibake
from osler.errors import ConfigError, DataError
from osler.images.files import ImageFile
from osler.taxonomy import parse_modality, parse_question_type
from osler.types import Sample

ACCESS: Final = ("Open-access", "Restricted-access")
_OPTION_KEYS: Final = ("option_A", "option_B", "option_C", "option_D")

CARD: Final = ReaderCard(
    title="OmniMedVQA",
    source="Hu et al., CVPR 2024, arXiv 2402.09181",
    licence="its own terms and those of its source sets",
    counts="88,996 open-access questions from 42 source sets",
    layout="the folder that holds QA_information/Open-access/*.json and Images/, or one of those files beside Images/",
    options={
        "access": "Open-access (when left out) or Restricted-access",
        "name": "one source set, such as RadImageNet; all when left out",
        "images": "the folder that holds Images/; the root when left out",
    },
)


def read(
    root: Path,
    *,
    split: str | None = None,
    access: str = "Open-access",
    name: str | None = None,
    images: str | Path | None = None,
) -> ReadReport:
    """All rows of the selected files, which are one test split. Raises ConfigError and DataError."""
    check_test_only("omnimedvqa", split)
    check_choice("access", access, ACCESS)
    image_root = Path(images) if images is not None else (root.parent if root.is_file() else root)
    rows = Rows()
    for file in _list_files(root, access, name):
        for index, row in enumerate(load_rows(file)):
            row_id = f"omnimedvqa/{file.stem}/{index}"
            rows.add(row_id, _make_sample, row_id, row, image_root, rows.notes)
    return rows.report(add_facts)


def _list_files(root: Path, access: str, name: str | None) -> list[Path]:
    if root.is_file():
        return [root]
    folder = next((folder for folder in (root / "QA_information" / access, root / access) if folder.is_dir()), root)
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError(f"{root} does not hold QA_information/{access}/*.json: check the data root")
    if not (selected := [file for file in files if name in (None, file.stem)]):
        raise ConfigError(f"unknown source set {name!r}: there are {', '.join(file.stem for file in files)}")
    return selected


def _make_sample(row_id: str, row: Any, image_root: Path, notes: Counter[str]) -> Sample:
    row = check_object(row)
    present = [key for key in _OPTION_KEYS if row.get(key) not in (None, "")]
    if tuple(present) != _OPTION_KEYS[: len(present)]:
        raise DataError(f"options {', '.join(present)} leave a letter out")
    choices = check_choices([row[key] for key in present], notes)
    answer = repair_mojibake(get_text(row, "gt_answer", notes), notes)
    return Sample(
        id=f"omnimedvqa/{get_text(row, 'question_id')}" if "question_id" in row else row_id,
        dataset="omnimedvqa",
        images=(ImageFile(root=image_root, path=get_text(row, "image_path")),),
        question=repair_mojibake(get_text(row, "question", notes), notes),
        choices=choices,
        target=letter_of(answer, choices, notes, kind="text"),
        modality=parse_label(row.get("modality_type"), parse_modality, "modality", notes),
        question_type=parse_label(row.get("question_type"), parse_question_type, "question type", notes),
        metadata={"source_set": row.get("dataset"), "modality_type": row.get("modality_type")},
    )
