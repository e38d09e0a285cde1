"""Identifiers that are planted into files, and a search for them in everything that a program wrote."""

from __future__ import annotations

import base64
import gzip
import re
import zlib
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from pydicom import Dataset
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

MARK = "Zqxvkj"
"""Every planted text begins with it, in one of its cases, and no word of Osler does."""

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
TEXTS = {"AE": 16, "LO": 64, "LT": 99, "PN": 64, "SH": 16, "ST": 99, "UC": 99, "UR": 99, "UT": 99}
DATES = {"DA", "DT"}
_SKIPPED = {"PixelData", "FloatPixelData", "DoubleFloatPixelData", "SOPClassUID", "SpecificCharacterSet", "PhotometricInterpretation"}
_SKIPPED |= {
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "VOILUTFunction",
}


def hash_of(tag: int) -> int:
    """A spread of the tags."""
    return zlib.crc32(tag.to_bytes(4, "little"))


_ALL = {
    tag: (vr, keyword)
    for tag, (vr, _, _, _, keyword) in sorted(DicomDictionary.items())
    if keyword and keyword not in _SKIPPED and 8 <= tag >> 16 < 0xFFFC
}
_ALWAYS = ("PatientName", "PatientID", "StudyDate", "SOPInstanceUID")
_SOME = {tag: row for tag, row in _ALL.items() if not hash_of(tag) % 120 or row[1] in _ALWAYS}


class Planter:
    """Gives each element an identifier of its own."""

    def __init__(self) -> None:
        self.marks: list[str] = []  # every planted text
        self.days: list[str] = []  # every planted date, YYYYMMDD
        self.uids: list[str] = []

    def value(self, vr: str) -> Any:
        """A value of a VR that names somebody; None for numbers."""
        if vr in TEXTS:
            return self.text()
        if vr == "CS":
            return self.text().upper()
        if vr == "UI":
            self.uids.append(f"1.2.3.987654321.{len(self.uids) + 1}.7")
            return self.uids[-1]
        if vr in DATES:
            self.days.append((date(1931, 3, 7) + timedelta(days=len(self.days))).strftime("%Y%m%d"))
            return self.days[-1] + ("101112.000000" if vr == "DT" else "")
        if vr in ("OB", "OW", "UN"):
            return (self.text() * 2).encode()
        return None

    def text(self) -> str:
        """A new mark, "Zqxvkj00017k"."""
        self.marks.append(f"{MARK}{len(self.marks):05d}k")
        return self.marks[-1]

    def fill(self, dataset: Dataset, *, depth: int = 0) -> None:
        """Plant into every public element of pydicom's dictionary, and into some of each VR at two levels below."""
        for tag, (vr, keyword) in (_SOME if depth else _ALL).items():
            if keyword in dataset:
                continue
            if vr == "SQ":
                item = Dataset()
                item.add_new(0x00100010, "PN", self.text())
                if (depth == 0 and not hash_of(tag) % 300) or (depth == 1 and not hash_of(tag) % 7):
                    self.fill(item, depth=depth + 1)
                self.plant_private(item)
                dataset.add_new(tag, "SQ", [item])
            elif (value := self.value(vr)) is not None:
                dataset.add_new(tag, vr, value)

    def plant_private(self, dataset: Dataset) -> None:
        """A private block with a text, bytes and a sequence."""
        block = dataset.private_block(0x0011, self.text(), create=True)
        block.add_new(1, "LO", self.text())
        block.add_new(2, "UN", self.text().encode())


def plant_dicom(path: Path, planter: Planter, stored: Any = None, *, every: bool = True, **elements: Any) -> Dataset:
    """Write a CT slice with an identifier in every element that holds texts, dates, UIDs or bytes, at several depths; or in some."""
    dataset = Dataset()
    stored = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) % 4096 if stored is None else stored
    dataset.SOPClassUID = CT_STORAGE
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelSpacing, dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [1, 1], [0, 0, 0], [1, 0, 0, 0, 1, 0]
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PatientWeight, dataset.PatientSize, dataset.PatientAge = "71.5", "1.83", "093Y"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    planter.fill(dataset, depth=0 if every else 1)
    planter.plant_private(dataset)
    for group in (0x6000, 0x6002):
        dataset.add_new((group, 0x3000), "OW", (planter.text() + "-").encode())
        dataset.add_new((group, 0x4000), "LT", planter.text())
    tail = (planter.text() + "-").encode()
    dataset.add_new(0x7FE00010, "OW", stored.astype("<u2").tobytes() + tail)
    dataset.add_new(0xFFFCFFFC, "OB", (planter.text() + "-").encode())
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CT_STORAGE
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.SourceApplicationEntityTitle = planter.text()
    dataset.file_meta.PrivateInformationCreatorUID = planter.value("UI")
    dataset.file_meta.PrivateInformation = (planter.text() + "-").encode()
    dataset.preamble = (planter.text() * 20)[:128].encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return dataset


def leaks(content: bytes, *texts: str) -> list[str]:
    """The texts that the bytes hold, in a usual encoding or in base64 or deflated streams within them."""
    found = []
    for layer in _layers(content):
        lower = layer.lower()
        found += [text for text in texts if any(form.lower() in lower for form in _forms(text))]
    return sorted(set(found))


def _forms(text: str) -> Iterator[bytes]:
    for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
        yield text.encode(encoding)
    yield text.encode().hex().encode()
    yield quote(text, safe="").encode()


def _layers(content: bytes, depth: int = 0) -> Iterator[bytes]:
    """The bytes, and what is packed into them."""
    yield content
    if depth > 2:
        return
    decoded = []
    for match in re.finditer(rb"[A-Za-z0-9+/]{24,}={0,2}", content):
        for shift in range(4):
            part = match[0][shift:]
            decoded.append(base64.b64decode(part[: len(part) // 4 * 4]))
    yield b"\n".join(decoded)
    if content[:2] == b"\x1f\x8b":
        yield from _layers(gzip.decompress(content), depth + 1)
    if content[:4] == b"PAR1":
        import io

        import pyarrow.parquet

        yield repr(pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()).encode()


def leaks_below(folder: Path, *texts: str) -> dict[str, list[str]]:
    """Every file below a folder whose name or content holds one of the texts."""
    told = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        content = name.encode() + b"\n" + (path.read_bytes() if path.is_file() else b"")
        if found := leaks(content, *texts):
            told[name] = found
    return told
