"""Which reader reads a file or a folder, told from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from osler.data.readers.layouts.tables import find_tables
from osler.data.readers.read_files import load_rows
from osler.errors import DataError

_SLAKE: Final = ("train.json", "validate.json", "test.json")
_VQA_RAD: Final = "VQA_RAD Dataset Public.json"
_HUATUO: Final = {"image", "question", "options", "answer", "dataset", "subset"}


def recognise(root: Path) -> tuple[str, str]:
    """The name of the reader, and why: ("slake", "it holds train.json and imgs/"). Raises DataError for what no reader reads."""
    if not root.exists():
        raise DataError(f"{root} does not exist: check the data root")
    if root.is_dir():
        if (root / "imgs").is_dir() and (held := [name for name in _SLAKE if (root / name).is_file()]):
            return "slake", f"it holds {', '.join(held)} and imgs/"
        if (root / _VQA_RAD).is_file():
            return "vqa_rad", f"it holds '{_VQA_RAD}'"
        for folder in (root, root / "Splits"):
            if any(next(folder.glob(f"{axis}/*/*_t*.json"), None) for axis in ("modality", "question_type")):
                return "med_r1", f"{folder.name}/ holds modality/ or question_type/"
        if (root / "QA_information").is_dir():
            return "omnimedvqa", "it holds QA_information/"
    elif root.name == _VQA_RAD:
        return "vqa_rad", f"it is '{_VQA_RAD}'"
    if (file := _huatuo_file(root)) is not None:
        return "huatuo", f"the rows of {file.name} have the fields dataset and subset"
    tables = find_tables(root)
    return "jsonl", f"it holds {', '.join(table.name for table in tables[:3])}{', ..' if len(tables) > 3 else ''}"


def _huatuo_file(root: Path) -> Path | None:
    files = [root] if root.is_file() else list(root.glob("*.json"))
    if len(files) != 1 or files[0].suffix != ".json":
        return None
    try:
        rows = load_rows(files[0])
    except DataError:
        return None
    return files[0] if rows and isinstance(rows[0], dict) and rows[0].keys() >= _HUATUO else None
