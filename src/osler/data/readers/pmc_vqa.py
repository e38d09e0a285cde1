"""PMC-VQA as published: version 1 (train.csv, test.csv, test_clean.csv) and version 2, without compound figures (train_2.csv, test_2.csv).

The two versions differ: in version 1 `Answer` (once misspelt `Anwser`) is the text of an option and `Answer_label` its letter; in version 2
`Answer` is the letter. Options bring their letter: " B:Focal uptake pattern ". The caption of a figure answers many of its questions, so it
is no part of a sample.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from osler.data.readers.base import TRAIN_TEST, ReaderCard, ReadReport, Rows, check_choice, get_text, published_columns
from osler.data.readers.layouts.options import read_options
from osler.data.readers.layouts.tables import check_split_of, read_delimited
from osler.data.readers.text import agreed_letter, repair_mojibake
from osler.errors import ConfigError, DataError
from osler.files import is_there
from osler.images.files import ImageFile
from osler.types import LETTERS, Sample

_FILES: Final = {1: {"train": "train.csv", "test": "test.csv"}, 2: {"train": "train_2.csv", "test": "test_2.csv"}}
_CLEAN: Final = "test_clean.csv"
_IMAGE_FOLDERS: Final = {1: ("images", "figures"), 2: ("figures", "images_2", "images")}
_LETTERS: Final = LETTERS[:4]
_COLUMNS: Final = ("Figure_path", "Question", "Answer", "Anwser", "Answer_label", *(f"Choice {letter}" for letter in _LETTERS))
_OWN_LETTER: Final = re.compile(r"\s*([A-D])\s*:\s*(.*)", re.DOTALL)
_ARTICLE: Final = re.compile(r"PMC\d+(?=_)")

CARD: Final = ReaderCard(
    title="PMC-VQA",
    source="Zhang et al., arXiv 2305.10415; hub set RadGenome/PMC-VQA",
    licence="CC BY-SA, as its card says; the figures are from articles under CC0 or CC BY",
    counts="version 1: 227,000 questions on 149,000 images",
    layout="the folder that holds train_2.csv, test_2.csv and figures/, or train.csv, test.csv and images/; or one of those files",
    options={
        "version": "1, or 2 without compound figures; when left out 2 where its files are there, else 1",
        "clean": "true: the test split of version 1 is test_clean.csv; false when left out",
        "images": "the folder of the figures; figures/, images_2/ or images/ beside the file when left out",
    },
)


def read(
    root: Path, *, split: str | None = None, version: int | None = None, clean: bool = False, images: str | Path | None = None
) -> ReadReport:
    """The questions of a split of one version, or of the file that is the root. Raises ConfigError and DataError."""
    check_choice("split", split, TRAIN_TEST)
    check_choice("version", str(version) if version is not None else None, ("1", "2"))
    if not isinstance(clean, bool):
        raise ConfigError(f"clean is {clean!r}: use true or false")
    files = _find_files(root, split, None if version is None else int(version), clean)
    rows = Rows()
    for file in files:
        image_root = Path(images) if images is not None else None
        for number, row in read_delimited(file):
            image_root = _find_images(file, row) if image_root is None else image_root
            row_id = f"pmc_vqa/{file.stem}/{number}"
            rows.add(row_id, _make_sample, row_id, row, image_root, rows.notes)
    return rows.report(splits=[name for name in files.values() if name] if split is None else ())


def _find_files(root: Path, split: str | None, version: int | None, clean: bool) -> dict[Path, str | None]:
    """The files of one version, with the split of each; the root itself where it is a file."""
    if root.is_file():
        check_split_of(root, split)
        return {root: None}
    if clean and version == 2:
        raise ConfigError("only version 1 has test_clean.csv: set version = 1, or leave clean out")
    if version is None:
        version = 2 if not clean and any((root / file).is_file() for file in _FILES[2].values()) else 1
    names = {**_FILES[version], **({"test": _CLEAN} if clean else {})}
    files: dict[Path, str | None] = {
        root / file: name for name, file in names.items() if split == name or (split is None and (root / file).is_file())
    }
    if not files:
        raise DataError(f"{root} holds none of {', '.join(names.values())}: check the data root and the version")
    return files


def _find_images(file: Path, row: Any) -> Path:
    """The folder beside the file that holds the figure of its first row; the first of the names where none does."""
    folders = [file.parent / name for name in _IMAGE_FOLDERS[2 if file.stem.endswith("_2") else 1]]
    figure = published_columns(row, _COLUMNS).get("Figure_path") if isinstance(row, dict) else None
    return next((folder for folder in folders if figure and is_there(folder / figure)), folders[0])


def _make_sample(row_id: str, row: Any, image_root: Path, notes: Counter[str]) -> Sample:
    if isinstance(row, DataError):
        raise row
    row = published_columns(row, _COLUMNS)
    choices = read_options({letter: _option(row, letter) for letter in _LETTERS}, notes).choices
    figure = get_text(row, "Figure_path")
    article = _ARTICLE.match(figure)
    return Sample(
        id=row_id,
        dataset="pmc_vqa",
        images=(ImageFile(root=image_root, path=figure),),
        question=repair_mojibake(get_text(row, "Question", notes), notes),
        choices=choices,
        target=agreed_letter(*_answer(row, notes), choices, notes),
        modality=None,
        question_type=None,
        subject_id=article[0] if article else None,
    )


def _option(row: Mapping[str, Any], letter: str) -> str:
    """An option with its letter; "" for a letter without an option, such as " D:"."""
    text = str(row.get(f"Choice {letter}") or "")
    return "" if "".join(text.split()) == f"{letter}:" else text


def _answer(row: Mapping[str, Any], notes: Counter[str]) -> tuple[str | None, str | None]:
    """The letter and the text of the right answer, as far as the version gives them."""
    text = repair_mojibake(get_text(row, "Anwser" if "Anwser" in row else "Answer", notes), notes)
    own = _OWN_LETTER.fullmatch(text)
    if "Answer_label" not in row:
        return (own[1], own[2].strip()) if own else (text, None)
    label = get_text(row, "Answer_label", notes)
    return label, own[2].strip() if own else text if text != label else None
