"""Which reader reads a file or a folder, told from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from osler.data.readers import mimic_cxr_vqa, path_vqa
from osler.data.readers.layouts.tables import find_tables
from osler.data.readers.read_files import load_rows
from osler.errors import DataError

_SLAKE: Final = ("train.json", "validate.json", "test.json")
_VQA_RAD: Final = "VQA_RAD Dataset Public.json"
_PMC_VQA: Final = ("train_2.csv", "test_2.csv", "train.csv", "test.csv", "test_clean.csv")
_HEAD: Final = 4096  # bytes of a file that tell what its rows hold
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
        if found := _recognise_folder(root):
            return found
    elif root.name == _VQA_RAD:
        return "vqa_rad", f"it is '{_VQA_RAD}'"
    elif root.name.lower().startswith("m3d_vqa_") and root.suffix == ".csv":
        return "m3d_vqa", f"it is {root.name}"
    elif root.name in _PMC_VQA and _is_of_pmc_vqa(root):
        return "pmc_vqa", f"{root.name} has the columns Figure_path and Choice A"
    elif root.name.endswith("_qa.pkl"):
        return "path_vqa", f"it is {root.name}"
    if (file := _huatuo_file(root)) is not None:
        return "huatuo", f"the rows of {file.name} have the fields dataset and subset"
    tables = find_tables(root)
    return "jsonl", f"it holds {', '.join(table.name for table in tables[:3])}{', ..' if len(tables) > 3 else ''}"


def _recognise_folder(root: Path) -> tuple[str, str] | None:
    """The reader of a folder that holds the files of one dataset, and why; None for none of them."""
    if (root / "MM" / "test.jsonl").is_file():
        return "medxpertqa_mm", "it holds MM/test.jsonl"
    if names := [file for file in _PMC_VQA if _is_of_pmc_vqa(root / file)]:
        return "pmc_vqa", f"{', '.join(names)} have the columns Figure_path and Choice A"
    files = (path.name for pattern in ("*.csv", "M3D*VQA/*.csv") for path in sorted(root.glob(pattern)))
    if file := next((name for name in files if name.lower().startswith("m3d_vqa_")), None):
        return "m3d_vqa", f"it holds {file}"
    if pickle := path_vqa.find_pickle(root):
        return "path_vqa", f"it holds {pickle.name}"
    if any((root / "data").glob("*.parquet")) and b"pretty_name: PathVQA" in _head(root / "README.md"):
        return "path_vqa", "its README.md says PathVQA"
    if (folder := mimic_cxr_vqa.find_folder(root)) is not None:
        present = [file for file in mimic_cxr_vqa.FILES.values() if b'"template_program"' in _head(folder / file)]
        if present:
            return "mimic_cxr_vqa", f"the rows of {', '.join(present)} have a template_program"
    return None


def _is_of_pmc_vqa(file: Path) -> bool:
    return b"Figure_path" in (names := _head(file).partition(b"\n")[0]) and b"Choice A" in names


def _head(file: Path) -> bytes:
    """The first bytes of a file; nothing where it cannot be read."""
    try:
        with file.open("rb") as stream:
            return stream.read(_HEAD)
    except OSError:
        return b""


def _huatuo_file(root: Path) -> Path | None:
    files = [root] if root.is_file() else list(root.glob("*.json"))
    if len(files) != 1 or files[0].suffix != ".json":
        return None
    try:
        rows = load_rows(files[0])
    except DataError:
        return None
    return files[0] if rows and isinstance(rows[0], dict) and rows[0].keys() >= _HUATUO else None
