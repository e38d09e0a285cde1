"""A label volume or a segmentation says on which slices its labels lie, in the positions of the series it belongs to."""

import os
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pydicom
import pytest
from small_dicom import write_dicom

from osler.errors import ConfigError, DataError
from osler.images.labels import Label, read_label
from osler.images.series import read_dicom_series
from osler.images.volumes import read_volume

DATA = os.environ.get("OSLER_TEST_DATA")
AXIAL = [1, 0, 0, 0, 1, 0]
LPS = np.diag([-1.0, -1, 2, 1])  # NIfTI's axes of a volume whose indices grow to the left, to the back and to the head


def labelled() -> np.ndarray:
    """4 x 5 x 6 voxels: 1 on two slices, 2 on three, one of them shared."""
    values = np.zeros((4, 5, 6), np.int16)
    values[1:3, 1, 1:3] = 1
    values[0, 4, 2:5] = 2
    return values


def save(path: Path, values: np.ndarray, affine: np.ndarray = LPS, **fields: float) -> Path:
    if path.suffix == ".nrrd":
        lps = np.diag([-1.0, -1, 1, 1]) @ affine
        header = {"space": "left-posterior-superior", "space directions": lps[:3, :3].T, "space origin": lps[:3, 3]}
        nrrd.write(str(path), values, header)
        return path
    image = nibabel.Nifti1Image(values, affine)
    for name, value in fields.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def found(label: Label, value: int | str | None = None, **options: Any) -> list[tuple[int, float, int]]:
    return [(place.index, place.position, place.num_voxels) for place in label.slices_with(value, **options)]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd"])
def test_the_slices_of_a_value_are_found_along_every_axis(tmp_path: Path, name: str) -> None:
    save(tmp_path / name, labelled())
    label = read_label(tmp_path, name)
    assert label.values == (1, 2)
    assert found(label, 1) == [(1, 2.0, 2), (2, 4.0, 2)]
    assert found(label, 2) == [(2, 4.0, 1), (3, 6.0, 1), (4, 8.0, 1)]
    assert found(label) == [(1, 2.0, 2), (2, 4.0, 3), (3, 6.0, 1), (4, 8.0, 1)]
    assert found(label, 9) == []
    assert found(label, 2, plane="sagittal") == [(0, 0.0, 3)]
    assert found(label, 1, plane="coronal") == [(1, 1.0, 4)]
    for plane in ("axial", "coronal", "sagittal"):
        (series,) = read_volume(tmp_path, name, plane=plane)
        assert label.slices_of(series, 1) == tuple(place.index for place in label.slices_with(1, plane=plane))


def test_an_axis_that_runs_the_other_way_gives_the_same_positions(tmp_path: Path) -> None:
    flipped = LPS.copy()
    flipped[2] = [0, 0, -2, 10]
    save(tmp_path / "a.nii", labelled()[:, :, ::-1].copy(), flipped)
    assert found(read_label(tmp_path, "a.nii"), 1) == [(1, 2.0, 2), (2, 4.0, 2)]


def test_values_are_rounded(tmp_path: Path) -> None:
    """A label image of floats in an integer header: nibabel chooses a slope, and 1 comes back as 1.0000153."""
    image = nibabel.Nifti1Image(labelled().astype(np.float32) * 3, LPS)
    image.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "a.nii")
    read = nibabel.load(tmp_path / "a.nii").get_fdata()
    assert not (read == 3).any()
    assert np.isclose(read, 3, atol=1e-3).any()
    label = read_label(tmp_path, "a.nii")
    assert label.values == (3, 6)
    assert found(label, 3) == [(1, 2.0, 2), (2, 4.0, 2)]


def test_slices_of_other_spacings_meet(tmp_path: Path) -> None:
    """A label of 2 mm and a series of 5 mm, and the other way round, in one frame of reference."""
    save(tmp_path / "label.nii", labelled())
    save(tmp_path / "thick.nii", np.zeros((4, 5, 3), np.int16), np.diag([-1.0, -1, 5, 1]))
    label = read_label(tmp_path, "label.nii")  # 1 from 2 to 4 mm
    (thick,) = read_volume(tmp_path, "thick.nii", plane="axial")  # at 0, 5 and 10 mm
    assert label.slices_of(thick, 1) == (0, 1)
    save(tmp_path / "thin.nii", np.zeros((4, 5, 12), np.int16), np.diag([-1.0, -1, 1, 1]))
    (thin,) = read_volume(tmp_path, "thin.nii", plane="axial")
    assert label.slices_of(thin, 1) == (1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((2, 2, 2), 0.4, np.float32), "no whole numbers"),
        (np.arange(32 * 16 * 16).reshape(32, 16, 16).astype(np.int16), "more than 4,096 different values"),
        (np.full((2, 2, 2), 1e30), "no whole numbers of 32 bits"),
        (np.zeros((2, 2, 2, 3), np.int16), "holds 3 volumes"),
    ],
)
def test_a_volume_that_holds_no_labels_is_one_line(tmp_path: Path, values: np.ndarray, message: str) -> None:
    save(tmp_path / "a.nii", values)
    with pytest.raises(DataError, match=message) as caught:
        read_label(tmp_path, "a.nii")
    assert str(caught.value).startswith("volume 'a.nii' ")


def test_what_a_label_cannot_say_is_one_line(tmp_path: Path) -> None:
    save(tmp_path / "a.nii", labelled())
    label = read_label(tmp_path, "a.nii")
    with pytest.raises(ConfigError, match="no names of labels: give a number"):
        label.slices_with("Kidney")
    turned = LPS.copy()
    turned[:3, :3] = turned[:3, :3] @ np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
    save(tmp_path / "oblique.nii", labelled(), turned)
    (oblique,) = read_volume(tmp_path, "oblique.nii")
    with pytest.raises(DataError, match="not parallel"):
        label.slices_of(oblique)
    write_dicom(tmp_path / "photo", np.zeros((2, 2), np.uint8), SeriesInstanceUID="1.2")
    with pytest.raises(DataError, match="gives no positions"):
        label.slices_of(read_dicom_series(tmp_path, ["photo"]).series[0])
    with pytest.raises(DataError, match="label 'photo' is a DICOM file but no segmentation"):
        read_label(tmp_path, "photo")
    with pytest.raises(DataError, match="does not exist"):
        read_label(tmp_path, "absent")


@pytest.mark.skipif(not DATA, reason="OSLER_TEST_DATA is not set")
@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("ct_body_nifti/example_ct_sm.nii.gz", "ct_body_nifti/example_seg.nii.gz"),
        ("mr_brain_nrrd/brain1_image.nrrd", "mr_brain_nrrd/brain1_label.nrrd"),
    ],
)
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_label_of_a_real_image_lies_on_the_slices_that_its_voxels_say(image: str, labels: str, plane: str) -> None:
    root = Path(DATA or "") / "volumes"
    label = read_label(root, labels)
    (series,) = read_volume(root, image, plane=plane)
    value = label.values[-1]
    voxels = np.asanyarray(nibabel.load(root / labels).dataobj) if ".nii" in labels else nrrd.read(str(root / labels))[0]
    source = series.slices[0]
    axis, first = getattr(source, "source", source).axis, getattr(source, "source", source).index
    totals = (np.rint(voxels) == value).sum(axis=tuple(other for other in range(3) if other != axis))
    expected = np.flatnonzero(totals[::-1] if first else totals).tolist()
    assert list(label.slices_of(series, value)) == expected
    assert [place.index for place in label.slices_with(value, plane=plane)] == expected


# ---- DICOM segmentations, written by highdicom


def write_series(folder: Path, num_slices: int = 5, rows: int = 5, columns: int = 7) -> list[pydicom.Dataset]:
    """A CT of rows x columns, so that a frame of one bit ends within a byte; in the order of the file names, against the positions."""
    identifiers = {
        "StudyInstanceUID": "1.2.1", "SeriesInstanceUID": "1.2.2", "FrameOfReferenceUID": "1.2.3", "StudyID": "1", "SeriesNumber": 1,
        "StudyDate": "20200101", "StudyTime": "000000", "AccessionNumber": "", "PatientBirthDate": "", "PatientSex": "",
        "ReferringPhysicianName": "", "SliceThickness": 2, "PixelSpacing": [1, 1], "ImageOrientationPatient": AXIAL,
    }  # fmt: skip
    paths = [
        write_dicom(
            folder / f"ct{num_slices - number}",
            np.zeros((rows, columns), np.uint16),
            InstanceNumber=number + 1,
            ImagePositionPatient=[0, 0, 2.0 * number],
            **identifiers,
        )
        for number in range(num_slices)
    ]
    return [pydicom.dcmread(path) for path in paths]


def masks(num_slices: int = 5, rows: int = 5, columns: int = 7) -> np.ndarray:
    """(slices, rows, columns, segments): the first on slices 1 and 2, in the last pixel; the second on slices 2 to 4."""
    values = np.zeros((num_slices, rows, columns, 2), np.uint8)
    values[1:3, -1, -1, 0] = 1
    values[2:5, 0, 0:2, 1] = 1
    return values


def write_segmentation(path: Path, sources: list[pydicom.Dataset], pixels: np.ndarray, kind: str, names: tuple[str, ...]) -> None:
    highdicom = pytest.importorskip("highdicom")
    code = highdicom.sr.CodedConcept
    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=code("91723000", "SCT", "Anatomical Structure"),
            segmented_property_type=code("64033007", "SCT", "Kidney") if "idney" in name else code("10200004", "SCT", "Liver"),
            algorithm_type="MANUAL",
        )
        for number, name in enumerate(names, 1)
    ]
    segmentation = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid="1.2.4",
        series_number=2,
        sop_instance_uid="1.2.5",
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
    )
    segmentation.save_as(path)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_a_segmentation_names_the_slices_of_each_segment(tmp_path: Path, kind: str) -> None:
    sources = write_series(tmp_path)
    pixels = masks()
    pixels = pixels * 0.25 if kind == "FRACTIONAL" else pixels
    if kind == "LABELMAP":
        pixels = pixels[..., 0] + 2 * pixels[..., 1]
    write_segmentation(tmp_path / "seg", sources, pixels, kind, ("Left kidney", "Right kidney"))
    label = read_label(tmp_path, "seg")
    assert label.values == (1, 2)
    assert [(place.position, place.num_voxels) for place in label.slices_with(1)] == [(2, 1), (4, 1)]  # also the last pixel of a frame
    assert [(place.position, place.num_voxels) for place in label.slices_with("right KIDNEY")] == [(4, 2), (6, 2), (8, 2)]
    assert [(place.position, place.num_voxels) for place in label.slices_with("Kidney")] == [(2, 1), (4, 3), (6, 2), (8, 2)]
    (series,) = read_dicom_series(tmp_path, [f"ct{number}" for number in range(1, 6)]).series
    assert series.positions == (0, 2, 4, 6, 8)
    assert label.slices_of(series, 1) == (1, 2)
    assert label.slices_of(series, "Kidney") == (1, 2, 3, 4)
    with pytest.raises(ConfigError, match=r"label 'Spleen': none of the 2 segments has this label or type"):
        label.slices_with("Spleen")
    with pytest.raises(DataError, match="no coronal slices"):
        label.slices_with(plane="coronal")


def test_a_label_map_of_one_organ_has_one_segment(tmp_path: Path) -> None:
    """highdicom 0.28.2 counts no segments here; the organ is read all the same."""
    write_segmentation(tmp_path / "seg", write_series(tmp_path), masks()[..., 0], "LABELMAP", ("Liver",))
    label = read_label(tmp_path, "seg")
    assert (label.values, label.names) == ((1,), {1: ("Liver", "Liver")})
    assert [place.position for place in label.slices_with("liver")] == [2, 4]


def test_a_damaged_segmentation_is_one_line(tmp_path: Path) -> None:
    write_segmentation(tmp_path / "seg", write_series(tmp_path), masks(), "BINARY", ("Left kidney", "Liver"))
    for keyword, message in (("SegmentSequence", "damaged segmentation"), ("PerFrameFunctionalGroupsSequence", "gives no positions")):
        dataset = pydicom.dcmread(tmp_path / "seg")
        delattr(dataset, keyword)
        dataset.save_as(tmp_path / "damaged")
        with pytest.raises(DataError, match=message) as caught:
            read_label(tmp_path, "damaged")
        assert str(caught.value).startswith("label 'damaged' ")
        assert str(caught.value).isprintable()
    whole = (tmp_path / "seg").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) - 12])
    with pytest.raises(DataError, match="label 'cut' has a damaged segmentation"):
        read_label(tmp_path, "cut")
