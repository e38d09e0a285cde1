"""Files of every kind that a client may send, and a server's uploads, for a test."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from small_dicom import write_dicom
from small_studies import save_nifti, save_series, values

from osler.serving.received_files import ReceivedFile

SECRET = "SECRET"
"""Stands in the patient's name of every DICOM file of these tests."""


def encode(picture: PIL.Image.Image, form: str) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form)
    return stream.getvalue()


def png(size: tuple[int, int] = (6, 4), tone: int = 90) -> bytes:
    return encode(PIL.Image.new("RGB", size, (tone, tone, tone)), "PNG")


def transparent() -> bytes:
    """Half of it is grey, half of it white that nobody sees."""
    pixels = np.full((4, 6, 4), 255, np.uint8)
    pixels[:, :3] = (120, 120, 120, 255)
    pixels[:, 3:, 3] = 0
    return encode(PIL.Image.fromarray(pixels), "PNG")


def jpeg() -> bytes:
    return encode(PIL.Image.new("RGB", (8, 8), (200, 30, 30)), "JPEG")


def dicom(folder: Path, **elements: Any) -> bytes:
    return write_dicom(folder / "one.dcm", np.arange(20, dtype=np.uint16).reshape(4, 5), **elements).read_bytes()


def radiograph(folder: Path) -> bytes:
    return dicom(folder, Modality="CR", PatientOrientation=["L", "F"], ImageLaterality="R")


def series(folder: Path, name: str = "ct", **elements: Any) -> dict[str, bytes]:
    """Four slices of a CT, whose names are in the wrong order."""
    save_series(folder / name, values(), **{"RescaleType": "HU", **elements})
    found = sorted((folder / name).iterdir(), reverse=True)
    return {f"{name}/IM{number:04d}": path.read_bytes() for number, path in enumerate(found)}


def nifti(folder: Path, suffix: str = ".nii.gz") -> bytes:
    save_nifti(folder / f"volume{suffix}", values(), step=2.0)
    return (folder / f"volume{suffix}").read_bytes()


def received(files: Mapping[str, bytes]) -> list[ReceivedFile]:
    return [ReceivedFile(name=name, stream=io.BytesIO(content)) for name, content in files.items()]
