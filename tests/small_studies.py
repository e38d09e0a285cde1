"""Studies of a few voxels as files, and rows about them, written for a test."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL.Image
from small_dicom import write_dicom

import osler
from osler.config import Config, build_config

AXIAL = [1, 0, 0, 0, 1, 0]


def values(shape: tuple[int, int, int] = (6, 5, 4)) -> np.ndarray:
    """The value of a voxel, by x from right to left, y from front to back and z from feet to head, tells its place: 100 z + 10 y + x."""
    x, y, z = np.indices(shape)
    return (x + 10 * y + 100 * z).astype(np.int16)


def save_nifti(path: Path, stored: np.ndarray, step: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(stored, np.diag([-1, -1, step, 1.0])), path)


def save_series(folder: Path, stored: np.ndarray, uid: str = "1.2.3", *, step: float = 1.0, **elements: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for z in range(stored.shape[2]):
        geometry = {"ImageOrientationPatient": AXIAL, "PixelSpacing": [1, 1], "ImagePositionPatient": [0, 0, step * z]}
        defaults = {**geometry, "SeriesInstanceUID": uid, "RescaleSlope": 1, "RescaleIntercept": 0}
        write_dicom(folder / f"{uid}-{z:02d}.dcm", stored[:, :, z].T, **{**defaults, **elements})


def save_picture(path: Path, tone: int, size: tuple[int, int] = (3, 2)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, (tone,) * 3).save(path)


ROW = {"question": "Is the lesion larger?", "choices": ["yes", "no"], "answer": "A"}


def read_row(root: Path, images: Any, **fields: Any) -> osler.Sample:
    (root / "rows.jsonl").write_text(json.dumps({**ROW, "images": images, **fields}) + "\n")
    (sample,) = osler.read("jsonl", root / "rows.jsonl", images=root)
    return sample


def recipe(root: Path, **data: Any) -> Config:
    return build_config({"data": {"reader": "jsonl", "root": str(root / "rows.jsonl"), "images": str(root), **data}})
