"""M3D-VQA as published: a CSV file for each split, with four options a row and one CT volume, and files of the same columns.

`Image Path` names an array that the authors' script makes of the slices of M3D-Cap, 32 slices of 256 by 256 pixels of whatever shape.
The reader takes what the array was made of: the folder of slices in M3D_Cap/, or a NIfTI or NRRD file of the same name. The report (`Text`)
answers the questions, so it is no part of a sample.
"""

from __future__ import annotations

import random
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from osler.data.readers.base import ReaderCard, ReadReport, Rows, check_choice, get_text, published_columns
from osler.data.readers.layouts.options import read_options
from osler.data.readers.layouts.tables import check_split_of, read_delimited
from osler.data.readers.make_choices import close_yes_no
from osler.data.readers.text import agreed_letter, repair_mojibake
from osler.errors import ConfigError, DataError
from osler.files import is_there
from osler.images.study import Study
from osler.taxonomy import SPLITS, Modality, QuestionType
from osler.types import LETTERS, Sample

_FILES: Final = {
    None: {"train": "M3D_VQA_train.csv", "validation": "M3D_VQA_val.csv", "test": "M3D_VQA_test.csv"},
    "test5k": {"test": "M3D_VQA_test5k.csv"},
    "yes_no": {"train": "M3D_VQA_yn_train.csv", "validation": "M3D_VQA_yn_val.csv", "test": "M3D_VQA_yn_test.csv"},
}
_FOLDERS: Final = (".", "M3D-VQA", "M3D_VQA")
_ARRAY: Final = ".npy"
_VOLUMES: Final = (".nii.gz", ".nii", ".nrrd")
_ARRAYS, _SLICES = "M3D_Cap_npy/", "M3D_Cap/"  # the folder that the authors' script writes, and the one that it reads
_LETTERS: Final = LETTERS[:4]
_COLUMNS: Final = ("Image Path", "Question Type", "Question", "Answer", "Answer Choice", *(f"Choice {letter}" for letter in _LETTERS))
_MISSING: Final = "NA"  # what the authors' script writes for an option that it did not find
_TYPES: Final = {
    "1": ("plane", QuestionType.ANATOMY_IDENTIFICATION),
    "2": ("phase", QuestionType.MODALITY_RECOGNITION),
    "3": ("organ", QuestionType.ANATOMY_IDENTIFICATION),
    "4": ("abnormality", QuestionType.DISEASE_DIAGNOSIS),
    "5": ("location", QuestionType.ANATOMY_IDENTIFICATION),
}

CARD: Final = ReaderCard(
    title="M3D-VQA",
    source="Bai et al., arXiv 2404.00578; hub sets GoodBaiBai88/M3D-VQA and, for the volumes, M3D-Cap",
    licence="Apache-2.0, as its card says; the volumes are from Radiopaedia, under its terms",
    counts="509,755 questions on 96,170 CT volumes",
    layout="the folder that holds M3D-VQA/M3D_VQA_train.csv, .. and M3D_Cap/ct_case/, M3D_Cap/ct_quizze/; or one CSV file of these columns",
    options={
        "name": "test5k (the test questions that the authors ask their models) or yes_no; all multiple-choice questions when left out",
        "images": "the folder that image paths start from; the root, or the folder of the file, when left out",
    },
)


def read(root: Path, *, split: str | None = None, seed: int = 0, name: str | None = None, images: str | Path | None = None) -> ReadReport:
    """The questions of one split, or of the file that is the root. Raises ConfigError and DataError."""
    check_choice("split", split, SPLITS)
    check_choice("name", name, [key for key in _FILES if key])
    files = _find_files(root, split, name)
    image_root = Path(images) if images is not None else (root.parent if root.is_file() else root)
    volumes = _Volumes(image_root)
    rows = Rows()
    for file in files:
        for number, row in read_delimited(file):
            row_id = f"m3d_vqa/{file.stem}/{number}"
            rows.add(row_id, _make_sample, row_id, row, volumes, seed, rows.notes)
    return rows.report(splits=[part for part in files.values() if part] if split is None else ())


def _find_files(root: Path, split: str | None, name: str | None) -> dict[Path, str | None]:
    """The files of the wanted splits, whatever the case of their names; the root itself where it is a file."""
    if root.is_file():
        check_split_of(root, split)
        return {root: None}
    if split is not None and split not in _FILES[name]:
        raise ConfigError(f"M3D-VQA has no {name} questions of the split {split}: use {', '.join(_FILES[name])}")
    found = {path.name.lower(): path for folder in _FOLDERS for path in sorted((root / folder).glob("*.csv"))}
    wanted = {file: part for part, file in _FILES[name].items() if split in (None, part)}
    files: dict[Path, str | None] = {found[file.lower()]: part for file, part in wanted.items() if file.lower() in found}
    if not files:
        raise DataError(f"{root} holds none of {', '.join(wanted)}: check the data root")
    return files


class _Volumes:
    """The volumes of the rows of one root; each is looked for once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, Study] = {}

    def find(self, path: str) -> Study:
        """The volume of a path. Raises DataError for an array without what it was made of."""
        if path not in self._known:
            Study(root=self._root, path=path)  # refuses a path that leaves the root, before it is looked for
            self._known[path] = Study(root=self._root, path=self._volume_path(path))
        return self._known[path]

    def _volume_path(self, path: str) -> str:
        if not path.lower().endswith(_ARRAY):
            return path
        stem = path[: -len(_ARRAY)]
        slices = _SLICES + stem.removeprefix(_ARRAYS) if stem.startswith(_ARRAYS) else stem
        for place in (*(stem + ending for ending in _VOLUMES), slices):
            if is_there(self._root / place):
                return place
        if (accented := _find_accented(self._root / slices)) is not None:
            return str(PurePosixPath(slices).with_name(accented))
        if is_there(self._root / path):
            raise DataError(f"{path[-80:]!r} is an array without its slices: put {slices[-80:]!r} of M3D-Cap, or a NIfTI file, beside it")
        return slices


def _find_accented(folder: Path) -> str | None:
    """The name of a folder that differs from this one by accents only, which the authors' script leaves out; None without one."""
    try:
        names = sorted(path.name for path in folder.parent.iterdir() if path.is_dir())
    except OSError:
        return None
    return next((name for name in names if _unaccented(name) == folder.name), None)


def _unaccented(name: str) -> str:
    return "".join(character for character in unicodedata.normalize("NFD", name) if unicodedata.category(character) != "Mn")


def _make_sample(row_id: str, row: Any, volumes: _Volumes, seed: int, notes: Counter[str]) -> Sample:
    if isinstance(row, DataError):
        raise row
    row = published_columns(row, _COLUMNS)
    path = get_text(row, "Image Path")
    topic, question_type = _TYPES.get(str(row.get("Question Type")).strip(), (None, None))
    if topic is None:
        notes["question type outside 1 to 5"] += 1
    answer = repair_mojibake(get_text(row, "Answer", notes), notes)
    options = _options(row, notes)
    if options:
        letter = get_text(row, "Answer Choice", notes) if str(row.get("Answer Choice") or "").strip() else None
        choices, target = options, agreed_letter(letter, answer, options, notes)
    else:
        closed = close_yes_no(answer, random.Random(f"{seed}/{row_id}"), notes)
        choices, target = closed.choices, closed.target
    return Sample(
        id=row_id,
        dataset="m3d_vqa",
        images=(volumes.find(path),),
        question=repair_mojibake(get_text(row, "Question", notes), notes),
        choices=choices,
        target=target,
        modality=Modality.CT,
        question_type=question_type,
        subject_id="/".join(PurePosixPath(path).parts[-3:-1]) or None,  # the case: "ct_quizze/000008"
        metadata={"topic": topic} if topic else {},
    )


def _options(row: Mapping[str, Any], notes: Counter[str]) -> tuple[str, ...]:
    """The options of a row; () for a row without any. Raises DataError for one that is missing between others."""
    given = {letter: str(row.get(f"Choice {letter}") or "").strip() for letter in _LETTERS}
    held = {letter: text for letter, text in given.items() if text not in ("", _MISSING)}
    if not held:
        return ()
    if len(held) < len(given):
        notes["option that is missing (NA) left out"] += 1
    return read_options(held, notes).choices
