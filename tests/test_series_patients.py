"""Files that name no patient become a series only where they look like those of one."""

import re
import shutil
from pathlib import Path

import pytest
from test_series import NAMELESS, names, write

from osler.images.series import read_dicom_series


@pytest.mark.parametrize(
    ("places", "given", "refusal"),
    [
        pytest.param([0, 0, 1, 1], {}, "lie at the same positions, maybe of several", id="every position twice"),
        pytest.param([0, 1, 1], {}, "lie at the same positions, maybe of several", id="one position twice"),
        pytest.param([0, 5, 10, 15, 100, 105, 110, 115], {}, "lie in 2 blocks far apart, maybe of several", id="two blocks"),
        pytest.param([0, 5, 10, 100, 105, 300], {}, "lie in 3 blocks far apart, maybe of several", id="three blocks, one of one slice"),
        *(
            pytest.param(places, {"PatientID": name, "PatientName": other}, refusal, id=f"{refusal}: {name} {other}")
            for places, refusal in (([0, 0, 1, 1], "at the same positions"), ([0, 1, 90, 91], "in 2 blocks far apart"))
            for name, other in (
                ("ANON", ""), ("anonymous", "Anonymous^Patient"), ("", "Unknown"), ("0", "NO^NAME"), ("000000", "none"), ("N/A", "n.a."),
                ("De-Identified", "REMOVED"), ("XXXX", "X^X"), ("?", "-"),
            )
        ),
        pytest.param([0, 1, 2], {}, None, id="every position once"),
        pytest.param([0, 1, 2, 7, 8], {}, None, id="a few slices are missing"),
        pytest.param([0, 90], {}, None, id="two slices"),
        pytest.param([0, 1, 90, 91], {"PatientID": "ANON1"}, None, id="blocks of one patient"),
        pytest.param([0, 1, 90, 91], {"PatientID": "ANON", "PatientName": "Noble^Ann"}, None, id="blocks of one name"),
        pytest.param([0, 1, 90, 91], {"StudyInstanceUID": "1.2"}, None, id="blocks of one study"),
        pytest.param([0, 1, 90, 91], {"SeriesInstanceUID": "1.2"}, None, id="blocks of one series"),
    ],
)  # fmt: skip
def test_files_that_may_be_of_several_patients_are_refused(tmp_path: Path, places: list, given: dict, refusal: str | None) -> None:
    """Nothing says whose files these are: two patients may lie at the same positions, and no order of them is known to be right."""
    for number, place in enumerate(places):
        write(tmp_path, str(number), [0, 0, place], **NAMELESS | given, InstanceNumber=number, AcquisitionTime=f"1000{number:02d}")
    folder = read_dicom_series(tmp_path)
    if refusal is None:
        assert names(folder) == [[str(number) for number in range(len(places))]]
        assert folder.refused == ()
    else:
        (refused,) = folder.refused
        assert refusal in refused
        assert re.search("make one folder for each (patient|block)$", refused)
        assert folder.series == ()
    if refusal is None and not given:
        assert folder.series[0].findings[0] == (
            "the files name no series and no patient: those of one folder with one modality, rows, columns, spacing are taken for one"
        )


def test_a_copy_of_a_file_without_identifiers_is_left_out(tmp_path: Path) -> None:
    for name, place in (("a", 0), ("b", 1)):
        write(tmp_path, name, [0, 0, place], **NAMELESS)
    shutil.copyfile(tmp_path / "b", tmp_path / "copy")
    folder = read_dicom_series(tmp_path)
    assert names(folder) == [["a", "b"]]
    assert "1 file holds a slice that another file holds: it is left out" in folder.series[0].findings
