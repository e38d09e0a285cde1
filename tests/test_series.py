"""A folder of DICOM files becomes series of slices in their order in the patient; what is unusual is named."""

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from small_dicom import item, sequence, write_dicom

from osler.errors import DataError
from osler.images.files import verify
from osler.images.geometry import Turn, measure_steps, orient
from osler.images.series import SeriesFolder, read_dicom_series

DATA = os.environ.get("OSLER_TEST_DATA")
AXIAL, CORONAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]


def write(folder: Path, name: str, position: list[float], **elements: object) -> None:
    """A slice of 2 x 3 pixels, bright in its first one."""
    stored = np.zeros((2, 3), np.uint16)
    stored[0, 0] = 100
    defaults = {"ImageOrientationPatient": AXIAL, "PixelSpacing": [1, 1], "SeriesInstanceUID": "1.2.3", "InstanceNumber": 1}
    write_dicom(folder / name, stored, **defaults | {"ImagePositionPatient": position} | elements)


UNNAMED = {"PatientID": "", "PatientName": ""}
NAMELESS = {"SeriesInstanceUID": None, "SOPInstanceUID": "", **UNNAMED}


def names(folder: SeriesFolder) -> list[list[str]]:
    return [[source.uri for source in series.slices] for series in folder.series]


def test_slices_are_sorted_by_position_not_by_name_or_number(tmp_path: Path) -> None:
    for place, (name, number) in enumerate([("c", 2), ("a", 3), ("d", 1), ("b", 4)]):
        write(tmp_path, name, [0, 0, 2.5 * place], InstanceNumber=number)
    (tmp_path / "notes.txt").write_text("no image")
    write_dicom(tmp_path / "report", Modality="SR")
    folder = read_dicom_series(tmp_path)
    (series,) = folder.series
    assert names(folder) == [["c", "a", "d", "b"]]
    assert series.positions == (0, 2.5, 5, 7.5)
    assert (series.spacing, series.normal, series.plane, series.modality, series.findings) == ((2.5, 1, 1), (0, 0, 1), "axial", "CT", ())
    assert folder.num_others == 1
    assert folder.refused == ("image 'report' is a DICOM file without pixels: remove the row",)


@pytest.mark.parametrize(
    ("places", "findings"),
    [
        ([0, 1, 2, 3], ()),
        ([0, 1, 2.001, 3], ()),
        ([0, 1, 3, 4], ("1 slice is missing between 1 and 3 mm: the others are 1 mm apart",)),
        ([0, 1, 4], ("2 slices are missing between 1 and 4 mm: the others are 1 mm apart",)),
        ([0, 1, 2.3, 3.3], ("the distances between slices are uneven: usually 1 mm, but from 1.3 to 1.3 mm",)),
        ([5], ()),
    ],
)
def test_gaps_and_uneven_distances_are_named(places: list[float], findings: tuple[str, ...]) -> None:
    assert measure_steps(places).findings == findings


@pytest.mark.parametrize(
    ("slices", "expected", "finding"),
    [
        pytest.param(
            [(name, [0, 0, place], {"SOPInstanceUID": "1.9"}) for name, place in (("a", 0), ("b", 1), ("copy", 1))],  # one UID for all
            [["a", "b"]],
            "1 file holds a slice that another file holds",
            id="the same object twice",
        ),
        pytest.param(
            [("a", [0, 0, 0], {}), ("b", [0, 0, 1], {}), ("c", [0, 0, 1], {"InstanceNumber": 9})],
            [["a", "b"]],
            "1 slice lies where another one lies",
            id="two slices at one position",
        ),
        pytest.param(
            [("a", [0, 0, 0], {}), ("b", [0, 1, 3], {}), ("c", [0, 2, 6], {})],
            [["a", "b", "c"]],
            "a gantry tilt of 18.4 degrees",
            id="tilt",
        ),
        pytest.param(
            [("a", [0, 0, 0], {}), ("b", [0, 0, 1], {}), ("scout", [0, 0, 0], {"ImageOrientationPatient": CORONAL})],
            [["a", "b"], ["scout"]],
            "slices of 2 orientations or sizes",
            id="a localizer among them",
        ),
        pytest.param(
            [("a", [0, 0, 0], {}), ("b", [0, 0, 1], {"PixelSpacing": [2, 2]})], [["a", "b"]], "2 pixel spacings", id="mixed spacings"
        ),
        pytest.param(
            [(f"{echo}{place}", [0, 0, place], {"EchoNumbers": echo}) for place in (0, 1) for echo in (1, 2)],
            [["10", "11"], ["20", "21"]],
            "one of 2 stacks, time points or echoes",
            id="echoes",
        ),
        pytest.param(
            [(f"{time}{place}", [0, 0, place], {"TemporalPositionIdentifier": time}) for time in (2, 1) for place in (1, 0)],
            [["10", "11"], ["20", "21"]],
            "one of 2 stacks, time points or echoes",
            id="time points",
        ),
        pytest.param(
            [(f"{value}{place}", [0, 0, place], {"DiffusionBValue": float(value)}) for value in (0, 1000) for place in (0, 1)],
            [["00", "01"], ["10000", "10001"]],
            "one of 2 volumes of its series at the same positions",
            id="diffusion weightings",
        ),
        pytest.param(
            [(f"{time}{place}", [0, 0, place], {"AcquisitionTime": f"10000{9 - time}"}) for time in (1, 2) for place in (0, 1)],
            [["20", "21"], ["10", "11"]],
            "told apart by their time alone",
            id="time points without a number",
        ),
        pytest.param(
            [("b", [0, 0, 1], {"SeriesInstanceUID": ""}), ("a", [0, 0, 0], {"SeriesInstanceUID": "", "SOPInstanceUID": ""})],
            [["a", "b"]],
            "the files name no series",
            id="identifiers that an anonymizer emptied",
        ),
        pytest.param(
            [(name, [0, 0, place], {"PatientID": name[0]}) for place in (0, 1) for name in (f"a{place}", f"b{place}")],
            [["a0", "a1"], ["b0", "b1"]],
            "its series UID stands in files that name 2 different patients",
            id="one series UID for two patients",
        ),
        pytest.param(
            [(f"{name}{place}", [0, 0, place], {"PatientID": "ANON", "PatientName": name}) for place in (0, 1) for name in "ab"],
            [["a0", "a1"], ["b0", "b1"]],
            "its series UID stands in files that name 2 different patients",
            id="one series UID for two patients with one placeholder",
        ),
        pytest.param(
            [(f"{number}{place}", [0, 0, place], {"PatientID": number}) for place in (0, 1) for number in "01"],
            [["00", "01"], ["10", "11"]],
            "its series UID stands in files that name 2 different patients",
            id="a placeholder that may be a number",
        ),
        pytest.param(
            [(f"a{place}", [0, 0, place], UNNAMED if place % 2 else {}) for place in range(4)],
            [["a0", "a1", "a2", "a3"]],
            "some of its files name no patient: by their series UID they are taken for those of the patient whom the others name",
            id="every second file names no patient",
        ),
        pytest.param(
            [(f"{name}{place}", [0, 0, place], UNNAMED | {"PatientID": name.strip("-")}) for place in (0, 1) for name in "-ab"],
            [["-0", "-1"], ["a0", "a1"], ["b0", "b1"]],
            "its series UID stands in files that name 2 different patients",
            id="two patients and files that name none",
        ),
        *(
            pytest.param(
                [
                    (f"{kind}{place}", [0, 0, place], NAMELESS | elements)
                    for place in (0, 1)
                    for kind, elements in zip("ab", two, strict=True)
                ],
                [["a0", "a1"], ["b0", "b1"]],
                "the files name no series",
                id=f"no identifiers, but {next(iter(two[0]))}",
            )
            for two in (
                ({"PatientID": "1"}, {"PatientID": "2"}),
                ({"PatientName": "A"}, {"PatientName": "B"}),
                ({"PatientBirthDate": "19500101"}, {"PatientBirthDate": "19500102"}),
                ({"StudyDate": "20240101"}, {"StudyDate": "20240102"}),
                ({"StudyInstanceUID": "1.2"}, {"StudyInstanceUID": "1.3"}),
                ({"FrameOfReferenceUID": "1.2"}, {"FrameOfReferenceUID": "1.3"}),
                ({"Modality": "CT"}, {"Modality": "MR"}),
                ({"PixelSpacing": [1, 1]}, {"PixelSpacing": [2, 2]}),
            )
        ),
        pytest.param(
            [
                (f"{time}{place}", [0, 0, place], NAMELESS | {"PatientID": "1", "AcquisitionTime": f"10000{time}"})
                for time in "12"
                for place in (0, 1)
            ],
            [["10", "11"], ["20", "21"]],
            "told apart by their time alone",
            id="no series, but one patient",
        ),
        pytest.param(
            [(f"{number}{place}", [0, 0, place], {"InstanceNumber": number}) for number in (1, 2) for place in (0, 1)],
            [["10", "11"], ["20", "21"]],
            "told apart by their Instance Number alone",
            id="no times",
        ),
        pytest.param(
            [("b", None, {"InstanceNumber": 1}), ("a", None, {"InstanceNumber": 2})],
            [["b", "a"]],
            "the files give no positions",
            id="nowhere",
        ),
        pytest.param([("a", [0, 0, 0], {}), ("b", [0, 0, 1], {"SeriesInstanceUID": "1.2.4"})], [["a"], ["b"]], "", id="two series"),
    ],
)
def test_what_is_unusual_is_put_apart_and_named(tmp_path: Path, slices: list, expected: list[list[str]], finding: str) -> None:
    for name, position, elements in slices:
        write(tmp_path, name, position, **elements)
    folder = read_dicom_series(tmp_path)
    assert sorted(names(folder)) == sorted(expected)
    assert all(any(finding in told for told in series.findings) for series in folder.series) or not finding


def test_three_slices_of_different_slopes_are_a_series_with_their_own_values(tmp_path: Path) -> None:
    """A reader that takes the type of the values from the first file gives 50 for 50.75 and 51.25; another one refuses three slices."""
    for name, place, slope, number in (("a", 0, 1, 50), ("b", 1, 0.25, 203), ("c", 2, 0.25, 205)):
        write(tmp_path, name, [0, 0, place], PixelData=np.full(6, number, np.uint16).tobytes(), RescaleSlope=slope, RescaleIntercept=0)
    (series,) = read_dicom_series(tmp_path, window="50.5/5").series
    tones = [int(np.asarray(source.load())[0, 0, 0]) for source in series.slices]
    assert tones == [round(((value - 50) / 4 + 0.5) * 255) for value in (50, 50.75, 51.25)]


@pytest.mark.parametrize(
    ("offsets", "orientation", "positions"),
    [
        ([0, 2.5, 5], AXIAL, (10, 12.5, 15)),  # from the first frame
        ([10, 12.5, 15], AXIAL, (10, 12.5, 15)),  # positions from the feet to the head
        ([15, 12.5, 10], AXIAL, (10, 12.5, 15)),
        ([0, 2.5, 5], [1, 0, 0, 0, -1, 0], (5, 7.5, 10)),  # along the normal, which points to the feet here
        ([3, 5.5, 8], AXIAL, None),  # neither
        (None, AXIAL, None),  # frames of which only one position is known
    ],
)
def test_frames_of_a_dose_lie_where_it_says(tmp_path: Path, offsets: list | None, orientation: list, positions: tuple | None) -> None:
    place = [0, 0, offsets[0] if offsets and offsets[0] >= 10 else 10]
    write_dicom(
        tmp_path / "a", np.zeros((3, 2, 2), np.uint16), SeriesInstanceUID="1.2", Modality="RTDOSE", ImageOrientationPatient=orientation,
        ImagePositionPatient=place, PixelSpacing=[1, 1], GridFrameOffsetVector=offsets,
    )  # fmt: skip
    (series,) = read_dicom_series(tmp_path).series
    assert series.positions == positions
    assert len(series.slices) == 3


@pytest.mark.parametrize(
    ("row", "column", "plane", "bright"),  # where the first stored pixel is shown
    [
        ([1, 0, 0], [0, 1, 0], 2, (0, 0)),  # axial, as usual
        ([-1, 0, 0], [0, -1, 0], 2, (-1, -1)),  # prone, or NIfTI
        ([1, 0, 0], [0, -1, 0], 2, (-1, 0)),
        ([0, 1, 0], [1, 0, 0], 2, (0, 0)),  # transposed: rows run to the back
        ([1, 0, 0], [0, 0, -1], 1, (0, 0)),  # coronal
        ([1, 0, 0], [0, 0, 1], 1, (-1, 0)),
        ([0, 1, 0], [0, 0, -1], 0, (0, 0)),  # sagittal
        ([0, 0, -1], [0, -1, 0], 0, (0, -1)),
        ([0.8, 0.6, 0], [-0.6, 0.8, 0], 2, (0, 0)),  # oblique
    ],
)
def test_every_slice_is_shown_in_one_orientation(row: list, column: list, plane: int, bright: tuple[int, int]) -> None:
    from PIL import Image

    normal, turn = orient(np.array(row, float), np.array(column, float))
    assert normal[plane] == pytest.approx(1)
    stored = np.zeros((2, 3), np.uint8)
    stored[0, 0] = 255
    assert np.asarray(turn.apply(Image.fromarray(stored)))[bright] == 255


def test_a_slice_that_spans_no_plane_has_no_orientation() -> None:
    assert orient(np.zeros(3), np.ones(3)) is None
    assert orient(np.ones(3), np.ones(3)) is None
    assert Turn() == Turn(is_transposed=False)


def test_a_turned_slice_is_turned_when_it_is_loaded(tmp_path: Path) -> None:
    write(tmp_path, "prone", [0, 0, 0], ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])
    write(tmp_path, "supine", [0, 0, 0], SeriesInstanceUID="1.5")
    prone, supine = (series.slices[0] for series in read_dicom_series(tmp_path, ["prone", "supine"]).series)
    assert prone.uri == "prone?turn=mirrored,flipped"
    assert np.asarray(prone.load())[-1, -1, 0] == np.asarray(supine.load())[0, 0, 0] == 255
    assert len({prone.digest(), supine.digest()}) == 2  # type: ignore[attr-defined]
    (tmp_path / "prone").write_bytes(b"")
    assert "image 'prone' is no DICOM file" in str(verify(prone))
    assert verify(supine) is None


def test_frames_of_an_enhanced_file_are_slices(tmp_path: Path) -> None:
    places, stored = [4.0, 0.0, 2.0], np.arange(3, dtype=np.uint16)[:, None, None] * np.ones((1, 2, 2), np.uint16)
    frames = [
        item(
            PlanePositionSequence=sequence(item(ImagePositionPatient=[0, 0, place])),
            FrameContentSequence=sequence(item(StackID="1", InStackPositionNumber=index + 1)),
        )
        for index, place in enumerate(places)
    ]
    shared = item(
        PlaneOrientationSequence=sequence(item(ImageOrientationPatient=AXIAL)),
        PixelMeasuresSequence=sequence(item(PixelSpacing=[0.5, 0.5])),
    )
    write_dicom(
        tmp_path / "a",
        stored,
        SeriesInstanceUID="1.2",
        SharedFunctionalGroupsSequence=sequence(shared),
        PerFrameFunctionalGroupsSequence=sequence(*frames),
    )
    (series,) = read_dicom_series(tmp_path, window="1/3").series
    assert [source.uri for source in series.slices] == ["a?frame=1&window=1/3", "a?frame=2&window=1/3", "a?window=1/3"]
    assert (series.positions, series.spacing) == ((0, 2, 4), (2, 0.5, 0.5))


def test_damaged_elements_do_not_stop_a_folder(tmp_path: Path) -> None:
    for name, place in (("a", 0), ("b", 0), ("c", 1)):
        write(tmp_path, name, [0, 0, place])
        dataset = pydicom.dcmread(tmp_path / name)
        for keyword in ("InstanceNumber", "EchoTime", "TriggerTime", "AcquisitionTime"):
            dataset.add_new(keyword, "LO", "SECRET")
        dataset.save_as(tmp_path / name)
    write(tmp_path, "d", [0, 0, 2], ImagePositionPatient=None)
    dataset = pydicom.dcmread(tmp_path / "d")
    dataset.add_new("ImagePositionPatient", "LO", "SECRET")
    dataset.save_as(tmp_path / "d")
    folder = read_dicom_series(tmp_path)
    assert names(folder) == [["a", "c"]]
    assert folder.refused == ("image 'd' has a ImagePositionPatient that is no finite number: convert it to PNG",)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_a_slice_is_placed_in_every_encoding(tmp_path: Path, syntax: str) -> None:
    """More than the first bytes that are read: of a deflated file they cannot be inflated alone."""
    stored = np.random.default_rng(0).integers(0, 1 << 16, (300, 300), np.uint16)
    elements = {"ImageOrientationPatient": AXIAL, "PixelSpacing": [1, 1], "SeriesInstanceUID": "1.2"}
    if syntax == ExplicitVRBigEndian:
        stored = stored.byteswap()
    for place in (0, 2):
        write_dicom(tmp_path / str(place), stored, syntax=syntax, ImagePositionPatient=[0, 0, place], **elements)
    folder = read_dicom_series(tmp_path)
    assert [series.positions for series in folder.series] == [(0, 2)], folder.refused
    assert folder.series[0].slices[0].load().size == (300, 300)


@pytest.mark.parametrize("length", [None, 0, 20, 1 << 20])
def test_a_file_without_the_right_length_of_its_meta_information_is_placed(tmp_path: Path, length: int | None) -> None:
    write(tmp_path, "a", [0, 0, 7])
    content = (tmp_path / "a").read_bytes()
    begin = content[:132] if length is None else content[:140] + length.to_bytes(4, "little")
    (tmp_path / "a").write_bytes(begin + content[144:])
    assert [series.positions for series in read_dicom_series(tmp_path).series] == [(7,)]


def test_a_folder_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder"):
        read_dicom_series(tmp_path / "absent")
    with pytest.raises(DataError, match="does not exist"):
        read_dicom_series(tmp_path, ["absent"])


# ---- a real series, and the same one as NIfTI and NRRD


@pytest.mark.integration
@pytest.mark.skipif(not DATA, reason="OSLER_TEST_DATA is not set")
def test_a_shuffled_renamed_duplicated_and_gapped_series_keeps_its_order(tmp_path: Path) -> None:
    source = Path(DATA or "") / "volumes" / "ct_body_dicom_series"
    (whole,) = read_dicom_series(source).series
    files = sorted(source.iterdir())
    random.Random(0).shuffle(files)
    for number, file in enumerate(files):
        shutil.copyfile(file, tmp_path / f"{number:02}")
    (shuffled,) = read_dicom_series(tmp_path).series
    assert shuffled.positions == whole.positions == tuple(-804.5 + 2 * place for place in range(20))
    assert [one.load().tobytes() for one in shuffled.slices] == [one.load().tobytes() for one in whole.slices]
    shutil.copyfile(files[0], tmp_path / "copy")
    Path(tmp_path / shuffled.slices[7].uri).unlink()
    (gapped,) = read_dicom_series(tmp_path).series
    assert any("1 slice is missing between -792.5 and -788.5 mm: the others are 2 mm apart" in told for told in gapped.findings)
    is_copied = shuffled.slices[7].uri != "00"
    assert any("1 file holds a slice that another file holds" in told for told in gapped.findings) == is_copied


@pytest.mark.parametrize(
    ("num_frames", "num_stored", "is_refused"),
    [(3, 3, False), (90_000, 3, True), (40, 3, True), (1, 1, False)],
)
def test_frames_that_the_file_cannot_hold_are_refused_at_once(tmp_path: Path, num_frames: int, num_stored: int, is_refused: bool) -> None:
    write_dicom(tmp_path / "a.dcm", np.zeros((num_stored, 64, 64), np.uint8), NumberOfFrames=num_frames)
    folder = read_dicom_series(tmp_path)
    assert [len(series.slices) for series in folder.series] == ([] if is_refused else [num_frames])
    words = f"image 'a.dcm' has {num_frames:,} frames by its header, more than the file can hold: fetch it again"
    assert folder.refused == ((words,) if is_refused else ())
