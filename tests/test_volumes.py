"""A NIfTI or NRRD file becomes the slices that its affine says, and the same ones as the DICOM files it was made from."""

import gzip
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from osler.errors import ConfigError, DataError
from osler.images.series import read_dicom_series
from osler.images.volumes import VolumeSlice, read_volume

DATA = os.environ.get("OSLER_TEST_DATA")
NRRD_HEADER = {"space": "left-posterior-superior", "space directions": np.diag([1.0, 1, 2]), "space origin": [0, 0, 0]}


def ramp(shape: tuple[int, ...] = (4, 5, 3), dtype: str = "int16") -> np.ndarray:
    """The value of a voxel tells its place: 100 z + 10 y + x."""
    places = np.indices(shape)
    return (places[0] + 10 * places[1] + 100 * places[2] + (1000 * places[3] if len(shape) == 4 else 0)).astype(dtype)


def save_nifti(
    path: Path, values: np.ndarray, affine: np.ndarray, change: Callable[[nibabel.Nifti1Header], None] = lambda header: None
) -> None:
    image = nibabel.Nifti1Image(values, affine)
    content = bytearray(image.to_bytes())
    header = nibabel.Nifti1Header(bytes(content[:348]), check=False)
    change(header)
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else content)


def show(root: Path, path: str, index: int = 0, window: str = "200.5/401", **options: object) -> np.ndarray:
    """The values of a slice through a window of known tones: 0 for 0, 255 for 400."""
    series = read_volume(root, path, window=window, **options)  # type: ignore[arg-type]
    return np.asarray(series[0].slices[index].load())[..., 0] * (400 / 255)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "raw.nrrd", "gzip.nrrd"])
def test_a_slice_is_that_of_the_affine(tmp_path: Path, name: str) -> None:
    values = ramp()
    if "nii" in name:
        save_nifti(tmp_path / name, values, np.diag([-1, -1, 2, 1]))  # RAS: the first axis runs to the left, the second to the back
    else:
        nrrd.write(str(tmp_path / name), values, NRRD_HEADER | {"encoding": name.partition(".")[0]})
    (series,) = read_volume(tmp_path, name, window="200.5/401")
    assert (series.positions, series.spacing, series.plane, series.findings) == ((0, 2, 4), (2, 1, 1), "axial", ())
    np.testing.assert_allclose(show(tmp_path, name, 1), values[:, :, 1].T, atol=0.8)  # rows to the back, columns to the left
    np.testing.assert_allclose(show(tmp_path, name, 3, plane="sagittal"), np.repeat(values[0, :, ::-1].T, 2, axis=0), atol=60)
    assert show(tmp_path, name, plane="coronal").shape == (6, 4)
    source = series.slices[2]
    assert pickle.loads(pickle.dumps(source)) == source
    assert source.load().size == source.read_size() == (4, 5)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("signs", "name"), [((-1, -1, 1), "lps"), ((1, 1, 1), "ras"), ((1, -1, -1), "rpi"), ((-1, 1, -1), "lai")]
)  # fmt: skip
def test_every_direction_of_the_axes_gives_one_picture(tmp_path: Path, signs: tuple[int, ...], name: str) -> None:
    values = ramp()
    flipped = values[tuple(slice(None, None, 1 if sign == usual else -1) for sign, usual in zip(signs, (-1, -1, 1), strict=True))]
    save_nifti(tmp_path / f"{name}.nii", flipped, np.diag([*signs, 1.0]) * np.array([1, 1, 2, 1]))
    for permutation in ((0, 1, 2), (2, 0, 1), (1, 0, 2)):
        affine = (np.diag([*signs, 1.0]) * np.array([1, 1, 2, 1]))[:, [*permutation, 3]]
        save_nifti(tmp_path / "turned.nii", flipped.transpose(permutation), affine)
        for index in range(3):
            np.testing.assert_allclose(show(tmp_path, "turned.nii", index), values[:, :, index].T, atol=0.8)


def set_codes(sform: int, qform: int) -> Callable[[nibabel.Nifti1Header], None]:
    def change(header: nibabel.Nifti1Header) -> None:
        header.set_qform(np.array([[1, 0, 0, 120], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]]), qform)
        header.set_sform(np.diag([1, 1, 2, 1.0]), sform)

    return change


def set_fields(**fields: float) -> Callable[[nibabel.Nifti1Header], None]:
    def change(header: nibabel.Nifti1Header) -> None:
        for name, value in fields.items():
            header[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "step", "tone", "finding"),
    [
        (set_codes(1, 1), 2, 10, "its sform and its qform are up to 120.0 apart: the sform is used"),
        (set_codes(1, 0), 2, 10, None),
        (set_codes(0, 1), 2, 10, None),
        (set_codes(0, 0), 2, 10, "its header gives no orientation"),
        (set_fields(xyzt_units=1), 2000, 10, "its unit is meter"),
        (set_fields(xyzt_units=3), 0.002, 10, "its unit is micron"),
        (set_fields(scl_slope=2, scl_inter=5), 2, 25, None),
        (set_fields(scl_slope=0, scl_inter=5), 2, 10, "its slope is 0 or no number"),
        (set_fields(scl_slope=np.nan, scl_inter=5), 2, 10, "its slope is 0 or no number"),
    ],
)
def test_what_a_nifti_header_may_say(
    tmp_path: Path, change: Callable[[nibabel.Nifti1Header], None], step: float, tone: float, finding: str | None
) -> None:
    save_nifti(tmp_path / "a.nii", np.full((4, 5, 3), 10, np.int16), np.diag([1, 1, 2, 1]), change)
    (series,) = read_volume(tmp_path, "a.nii")
    assert series.spacing is not None
    assert series.spacing[0] == pytest.approx(step)
    assert (finding in " ".join(series.findings)) if finding else series.findings == ()
    np.testing.assert_allclose(show(tmp_path, "a.nii"), tone, atol=0.8)


def test_time_points_are_series_and_no_number_is_black(tmp_path: Path) -> None:
    values = ramp((4, 5, 3, 2), "float32")
    values[0, 0, 0, 0] = np.nan
    save_nifti(tmp_path / "a.nii", values, np.diag([-1, -1, 2, 1]))
    nrrd.write(
        str(tmp_path / "first.nrrd"),
        np.moveaxis(values, 3, 0).copy(),
        {
            "space": "left-posterior-superior",
            "space directions": np.array([[np.nan] * 3, [1, 0, 0], [0, 1, 0], [0, 0, 2]]),
            "space origin": [0, 0, 0],
            "kinds": ["list", "domain", "domain", "domain"],
        },
    )
    for name in ("a.nii", "first.nrrd"):
        first, second = read_volume(tmp_path, name)
        assert first.findings == ("one of 2 volumes of its file",)
        assert np.asarray(first.slices[0].load())[0, 0, 0] == 0
        shown = np.asarray(second.slices[2].load())[..., 0]  # from 1 to 1243, over the whole file
        np.testing.assert_allclose(shown, (values[:, :, 2, 1].T - 1) / 1242 * 255, atol=0.51)


def test_a_shear_is_named(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1, 2, 1])
    affine[1, 2] = 1
    save_nifti(tmp_path / "a.nii", ramp(), affine, lambda header: header.set_sform(affine, 1))
    (series,) = read_volume(tmp_path, "a.nii")
    assert series.findings[-1] == "a shear of 26.6 degrees: the slices are shifted against each other"


@pytest.mark.parametrize(
    ("units", "step", "finding"),
    [
        (["mm", "mm", "mm"], 2, None),
        (["cm", "cm", "cm"], 20, "its unit is cm"),
        (["inch", "inch", "inch"], 2, "its units are not known"),
        (["mm", "mm", "cm"], 2, "its units are not known"),
    ],
)
def test_what_an_nrrd_header_may_say(tmp_path: Path, units: list[str], step: float, finding: str | None) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), ramp(), NRRD_HEADER | {"space units": units})
    (series,) = read_volume(tmp_path, "a.nrrd")
    assert series.spacing is not None
    assert series.spacing[0] == pytest.approx(step)
    assert (finding in " ".join(series.findings)) if finding else series.findings == ()


@pytest.mark.parametrize(
    ("names", "signs"),
    [
        (("left-posterior-superior", "LPS"), (1, 1, 1)),
        (("right-anterior-superior", "RAS"), (-1, -1, 1)),
        (("left-anterior-superior", "LAS"), (1, -1, 1)),
    ],
)
def test_an_nrrd_file_lies_in_the_space_that_it_names(tmp_path: Path, names: tuple[str, ...], signs: tuple[int, int, int]) -> None:
    """The same array, in three spaces: the picture is mirrored as the signs of the space say."""
    values = ramp()
    mirrored = values[:: signs[0], :: signs[1], :: signs[2]]
    for name in names:
        nrrd.write(str(tmp_path / "a.nrrd"), values, NRRD_HEADER | {"space": name})
        np.testing.assert_allclose(show(tmp_path, "a.nrrd", 1), mirrored[:, :, 1].T, atol=0.8)


NRRD = b"NRRD0004\ntype: int\ndimension: 3\nsizes: 9 9 9\n"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"PK\3\4" + b"\0" * 600), "is no NIfTI file"),
        (lambda path: path.write_bytes(gzip.compress(b"text" * 1000)), "is no NIfTI file"),
        (lambda path: path.write_bytes(b"\x1f\x8b" + b"\0" * 600), "damaged header"),
        (lambda path: path.write_bytes(b"NRRD0004\ntype: int\nencoding: raw\n\n"), "damaged header"),
        (lambda path: path.write_bytes(b"NRRD0004\ntype: int\ndimension: 3\nsizes: 2 2 2\nencoding: bzip2\n\n"), "an encoding"),
        (
            lambda path: path.write_bytes(
                b"NRRD0004\ntype: int\ndimension: 3\nsizes: 2 2 2\nencoding: raw\nendian: little\ndata file: x\n\n"
            ),
            "in another file",
        ),
        (
            lambda path: path.write_bytes(b"NRRD0004\ntype: int\ndimension: 3\nsizes: 9 9 9\nencoding: raw\nendian: little\n\n12"),
            "is cut short",
        ),
        (lambda path: save_nifti(path, ramp(), np.eye(4), lambda header: header.set_data_shape((4, 5, 300))), "is cut short"),
        (lambda path: save_nifti(path, ramp(), np.eye(4), lambda header: header.set_data_shape((32000, 32000, 9))), "unpacks to more"),
        (lambda path: path.write_bytes(NRRD.replace(b"9 9 9", b"1 1 900000000") + b"encoding: raw\nendian: little\n\n"), "unpacks to more"),
        (lambda path: path.write_bytes(NRRD.replace(b"9 9 9", b"1 1 9000000") + b"encoding: raw\nendian: little\n\n"), "9,000,000 slices"),
        (lambda path: save_nifti(path, ramp(), np.eye(4), set_fields(vox_offset=-352)), "voxels that begin within its header"),
        (lambda path: save_nifti(path, ramp(), np.eye(4), lambda header: header.set_sform(np.zeros((4, 4)), 1)), "spans no space"),
        (lambda path: save_nifti(path, ramp(dtype="complex64"), np.eye(4)), "voxels that are no numbers"),
        (lambda path: path.write_bytes(gzip.compress(nibabel.Nifti1Image(ramp(), np.eye(4)).to_bytes()[:400])), "is cut short"),
    ],
)
def test_a_file_that_is_no_volume_is_one_line(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "a.nii")
    with pytest.raises(DataError, match=message) as caught:
        read_volume(tmp_path, "a.nii")[0].slices[0].load()
    assert str(caught.value).startswith("volume 'a.nii' ")
    assert str(caught.value).isprintable()


def test_a_slice_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii", ramp(), np.eye(4))
    with pytest.raises(DataError, match="has no slice 9 of axis 2"):
        VolumeSlice(root=tmp_path, path="a.nii", axis=2, index=9).load()
    with pytest.raises(ConfigError, match="no windows of its own"):
        read_volume(tmp_path, "a.nii", window="file:1")
    with pytest.raises(DataError, match="relative"):
        read_volume(tmp_path, "../a.nii")


CT_SERIES = Path(DATA or "") / "volumes" / "ct_body_dicom_series"


@pytest.fixture(scope="module")
def values_of_pydicom() -> tuple[NDArray[np.int16], NDArray[np.float64], float]:
    """The voxels of the series as pydicom reads them, the position of the first, and the step within a slice."""
    datasets = sorted((pydicom.dcmread(path) for path in CT_SERIES.iterdir()), key=lambda dataset: float(dataset.ImagePositionPatient[2]))
    values = np.stack([dataset.pixel_array.astype(np.int16) - 1024 for dataset in datasets], axis=2).transpose(1, 0, 2)
    return values, np.array(datasets[0].ImagePositionPatient, float), float(datasets[0].PixelSpacing[0])


@pytest.fixture(scope="module")
def originals() -> dict[str, tuple[Any, list[NDArray[Any]]]]:
    """The series as Osler reads it in each window, with every sixth picture."""
    read = {window: read_dicom_series(CT_SERIES, window=window).series[0] for window in ("mediastinum", "lung+mediastinum+bone")}
    return {window: (series, [np.asarray(one.load(), int) for one in series.slices[::6]]) for window, series in read.items()}


@pytest.mark.integration
@pytest.mark.skipif(not DATA, reason="OSLER_TEST_DATA is not set")
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd"])
def test_a_dicom_series_and_its_copies_give_the_same_slices(tmp_path: Path, name: str, values_of_pydicom: Any, originals: Any) -> None:
    """The copies are written from pydicom's own values and positions, not from what Osler read."""
    values, origin, step = values_of_pydicom
    affine = np.diag([step, step, 2.0, 1])
    affine[:3, 3] = origin
    if name.endswith("nrrd"):
        header = {"space": "left-posterior-superior", "space directions": affine[:3, :3].T, "space origin": origin, "encoding": "raw"}
        nrrd.write(str(tmp_path / name), values, header)
    else:
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-1, -1, 1, 1]) @ affine), tmp_path / name)
    for window, (original, pictures) in originals.items():
        (copy,) = read_volume(tmp_path, name, window=window)
        np.testing.assert_allclose(copy.positions, original.positions)
        np.testing.assert_allclose(copy.spacing, original.spacing)
        assert (copy.normal, copy.plane) == (original.normal, original.plane)
        assert len(original.slices) == len(copy.slices)
        for picture, other in zip(pictures, copy.slices[::6], strict=True):
            assert np.abs(picture - np.asarray(other.load(), int)).max() <= 1
