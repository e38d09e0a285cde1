"""MedXpertQA MM as published: MM/dev.jsonl and MM/test.jsonl beside images/.

Every question repeats its options ("Answer Choices: (A) ..") and most of its images stand alone, some in groups of up to six. Neither the
medical task nor the body system is a question type of Osler: "Diagnosis" also asks for the next examination. They are kept as metadata.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from osler.data.readers.base import ReaderCard, ReadReport, Rows, check_choice, check_object, get_text, image_files
from osler.data.readers.layouts.options import read_options
from osler.data.readers.read_files import load_lines
from osler.data.readers.text import letter_of, repair_mojibake
from osler.errors import ConfigError, DataError
from osler.types import LETTERS, Sample

_FILES: Final = {"validation": "dev.jsonl", "test": "test.jsonl"}
_REPEATED: Final = "Answer Choices:"
_LABELS: Final = ("medical_task", "body_system", "question_type")

CARD: Final = ReaderCard(
    title="MedXpertQA MM",
    source="Zuo et al., ICML 2025, arXiv 2501.18362; hub set TsinghuaC3I/MedXpertQA",
    licence="MIT",
    counts="2,000 test questions with 2,852 images, and 5 development questions",
    layout="the folder that holds MM/test.jsonl, MM/dev.jsonl and images/, or one of those files",
    options={"images": "the folder of the image files; images/ beside MM/ when left out"},
)


def read(root: Path, *, split: str | None = None, images: str | Path | None = None) -> ReadReport:
    """The test questions, or the five of dev.jsonl as the validation split. Raises ConfigError and DataError."""
    if split == "train":
        raise ConfigError('medxpertqa_mm is one benchmark without a train split: set split = "test" in [data.train] too, with a limit')
    check_choice("split", split, _FILES)
    if root.is_file() and split is not None and root.name != _FILES[split]:
        raise ConfigError(f"{root.name} is not the file of the {split} split, {_FILES[split]}: name the folder, or leave the split out")
    folder = root.parent if root.is_file() else (root / "MM" if (root / "MM").is_dir() else root)
    present = [name for name, file in _FILES.items() if (folder / file).is_file()]
    wanted = [name for name in present if root.is_dir() or _FILES[name] == root.name] if split is None else [split]
    if not wanted:
        raise DataError(f"{root} holds none of MM/dev.jsonl and MM/test.jsonl: check the data root")
    image_root = Path(images) if images is not None else _find_images(folder)
    rows = Rows()
    for name in wanted:
        for number, row in load_lines(folder / _FILES[name]):
            rows.add(f"medxpertqa_mm/{_FILES[name]}/{number}", _make_sample, row, image_root, rows.notes)
    return rows.report(splits=wanted if split is None else ())


def _find_images(folder: Path) -> Path:
    """The folder images/ beside the folder of the questions, or in it."""
    return folder / "images" if (folder / "images").is_dir() else folder.parent / "images"


def _make_sample(row: Any, image_root: Path, notes: Counter[str]) -> Sample:
    if isinstance(row, DataError):
        raise row
    row = check_object(row)
    choices = read_options(row.get("options"), notes).choices
    return Sample(
        id=f"medxpertqa_mm/{get_text(row, 'id')}",
        dataset="medxpertqa_mm",
        images=image_files(row.get("images"), image_root, "'images'"),
        question=_without_choices(get_text(row, "question", notes), choices, notes),
        choices=choices,
        target=letter_of(get_text(row, "label", notes), choices, notes, kind="letter"),
        modality=None,
        question_type=None,
        metadata={name: row[name] for name in _LABELS if isinstance(row.get(name), str)},
    )


def _without_choices(question: str, choices: Sequence[str], notes: Counter[str]) -> str:
    """The question without the options that it repeats. They are compared as a whole, because options can be letters: "(A) C (B) D".

    Raises DataError where it repeats other options, and where nothing but options is left.
    """
    stem, mark, repeated = question.rpartition(_REPEATED)
    if not mark:
        notes["question that does not repeat its options"] += 1
        return repair_mojibake(question, notes)
    expected = " ".join(f"({letter}) {text}" for letter, text in zip(LETTERS, choices, strict=False)).split()
    if expected not in (repeated.split(), repair_mojibake(repeated, Counter()).split()):
        raise DataError("the options in the question's text are not those of the row's own field: keep one of the two")
    if not stem.strip():
        raise DataError("no question before the options")
    return repair_mojibake(stem.strip(), notes)
