"""The tool that compares Osler's pictures with dcmtk's asks dcmtk for the window that Osler takes, and explains what differs."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit
from small_dicom import item, sequence, write_dicom

from tools.check_dicom import Comparison, compare, explain, report
from tools.check_dicom import _window as window_option

GREY = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsStored": 12}


@pytest.mark.parametrize(
    ("elements", "option"),
    [
        (GREY, ["+Wm"]),
        (GREY | {"BitsStored": 8}, []),
        (GREY | {"BitsStored": 8, "RescaleIntercept": -5}, ["+Wm"]),
        (GREY | {"WindowWidth": 400}, ["+Wi", "1"]),
        (GREY | {"WindowWidth": [0, 80]}, ["+Wi", "2"]),
        (GREY | {"WindowWidth": 400, "VOILUTSequence": sequence(item(LUTExplanation="x"))}, ["+Wl", "1"]),
        (GREY | {"PhotometricInterpretation": "PALETTE COLOR"}, []),
        (GREY | {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, []),
    ],
)
def test_dcmtk_is_asked_for_the_window_of_osler(elements: dict, option: list[str]) -> None:
    assert window_option(item(**elements)) == option


@pytest.mark.parametrize(
    ("elements", "syntax", "apart", "reason"),
    [
        ({"PixelPaddingValue": 0}, ExplicitVRLittleEndian, 255, "padding"),
        ({"BitsStored": 1}, ExplicitVRLittleEndian, 127, "one bit"),
        ({"BitsAllocated": 32}, ExplicitVRBigEndian, 200, "opposite order"),
        ({}, JPEGBaseline8Bit, 3, "lossy compression"),
        ({"PhotometricInterpretation": "YBR_FULL"}, ExplicitVRLittleEndian, 2, "YBR colours"),
        ({}, JPEGBaseline8Bit, 9, "unexplained: 50.0% of the pixels"),
        ({}, ExplicitVRLittleEndian, 2, "unexplained: 50.0% of the pixels"),
    ],
)
def test_a_difference_has_a_reason_or_is_unexplained(elements: dict, syntax: str, apart: int, reason: str) -> None:
    dataset = item(**elements)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    assert reason in explain(dataset, np.array([[apart, 0]]))


def test_the_report_counts_every_file_and_lists_those_that_differ() -> None:
    rows = [
        Comparison(file=name, syntax="RLE", osler=osler, other=other, difference=difference, reason="")
        for name, osler, other, difference in (
            ("a", "read", "dcmtk", 0), ("b", "read", "dcmtk", 1), ("c", "read", "dcmtk", 9), ("d", "read", "no", None),
            ("e", "is damaged", "dcmtk", None), ("f", "is damaged", "no", None),
        )
    ]  # fmt: skip
    lines = list(report(rows, lists_all=False))
    assert "| all | 1 | 1 | 1 | 1 | 1 | 1 |" in lines
    assert [line[2] for line in lines if line.startswith(("| a |", "| b |", "| c |", "| d |", "| e |", "| f |"))] == ["c", "d", "e"]
    assert sum(line.startswith("| f |") for line in report(rows, lists_all=True)) == 1


@pytest.mark.skipif(not shutil.which("dcmj2pnm"), reason="dcmtk is not installed")
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_ramp_through_a_window_is_that_of_dcmtk(tmp_path: Path, photometric: str) -> None:
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    elements = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400, "PatientID": "1"}
    write_dicom(tmp_path / "a", stored, BitsStored=12, PhotometricInterpretation=photometric, **elements)
    (tmp_path / "out").mkdir()
    found = compare(tmp_path, "a", tmp_path / "out")
    assert (found.osler, found.other, found.reason) == ("read", "dcmtk", "")
    assert found.difference is not None
    assert found.difference <= 1
