"""DICOM files of a few pixels, written for a test."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


def write_dicom(
    path: Path, stored: Any = None, *, pixels: bytes | None = None, syntax: str = ExplicitVRLittleEndian, **elements: Any
) -> Path:
    """A file of the stored values, (rows, columns), (rows, columns, 3) or (frames, rows, columns); `elements` are added or replaced.

    An element of the value None is left out.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CT_STORAGE
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    dataset.PatientName, dataset.PatientID = "SECRET^NAME", "SECRET-1"
    values: dict[str, Any] = {"Modality": "CT"}
    if stored is not None:
        stored = np.asarray(stored)
        is_colour = elements.get("SamplesPerPixel", 1) == 3 and stored.ndim > 2
        rows, columns = stored.shape[-3:-1] if is_colour else stored.shape[-2:]
        bits = stored.dtype.itemsize * 8
        values |= {
            "Rows": rows,
            "Columns": columns,
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": bits,
        }
        if stored.dtype.kind == "f":
            values["FloatPixelData" if bits == 32 else "DoubleFloatPixelData"] = stored.tobytes()
        else:
            values |= {"BitsStored": bits, "PixelRepresentation": int(stored.dtype.kind == "i")}
            values["HighBit"] = elements.get("BitsStored", bits) - 1
            content = stored.tobytes()
            values["PixelData"] = pixels or content + b"\0" * (len(content) % 2)
        if stored.ndim == 3 + is_colour:
            values["NumberOfFrames"] = len(stored)
    for keyword, value in (values | elements).items():
        if value is not None:
            setattr(dataset, keyword, value)
    is_known = dataset.file_meta.TransferSyntaxUID.is_transfer_syntax
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OB" if is_known and dataset.file_meta.TransferSyntaxUID.is_encapsulated else "OW"
    dataset.save_as(path, enforce_file_format=True, **({} if is_known else {"implicit_vr": False, "little_endian": True}))
    return path


def item(**elements: Any) -> Dataset:
    """An item of a sequence."""
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def sequence(*items: Dataset) -> Sequence:
    """A sequence of these items."""
    return Sequence(items)
