"""What the values of slices say beside their pictures: values that are hidden, and the window "auto"."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
from small_dicom import write_dicom
from small_studies import AXIAL, read_row, recipe, save_nifti, save_picture, save_series

from osler.cli.main import main
from osler.config import StudyConfig
from osler.data.inspect import check_report
from osler.data.select import load_split, read_report
from osler.errors import ConfigError, DataError
from osler.images.slices import choose_pictures
from osler.images.study import Study, load
from osler.images.values import find_window
from osler.images.windows import Window, parse_windows
from osler.reports.contact_sheet import view_samples, view_study

Save = Callable[[Path, np.ndarray], str]


def nifti(root: Path, stored: np.ndarray) -> str:
    save_nifti(root / "v.nii.gz", stored)
    return "v.nii.gz"


def nrrd_file(root: Path, stored: np.ndarray) -> str:
    header = {"space": "left-posterior-superior", "space directions": np.eye(3), "space origin": [0, 0, 0]}
    nrrd.write(str(root / "v.nrrd"), stored, header)
    return "v.nrrd"


def dicom_series(root: Path, stored: np.ndarray) -> str:
    save_series(root / "s", stored, Modality="MR")
    return "s"


def dicom_with_colours(root: Path, stored: np.ndarray) -> str:
    """A series in grey, and in it one slice in colours."""
    colours = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "ImagePositionPatient": [0, 0, 99]}
    if stored.size:
        save_series(root / "s", stored, Modality="MR")
    (root / "s").mkdir(exist_ok=True)
    tones = np.zeros((10, 12, 3), np.uint8)
    write_dicom(root / "s" / "colours", tones, Modality="MR", SeriesInstanceUID="1.2.3", ImageOrientationPatient=AXIAL, **colours)
    return "s"


def dicom_frames(root: Path, stored: np.ndarray) -> str:
    write_dicom(root / "f.dcm", np.moveaxis(stored, 2, 0).swapaxes(1, 2), Modality="MR", ImageOrientationPatient=AXIAL)
    return "f.dcm"


def noise(shape: tuple[int, int, int] = (12, 10, 4)) -> np.ndarray:
    """Values from 0 to 1."""
    return np.random.default_rng(0).random(shape).astype(np.float32)


def broken(place: Any, value: float) -> np.ndarray:
    stored = noise()
    stored[place] = value
    return stored


FORMATS = [nifti, nrrd_file, dicom_series, dicom_frames]


@pytest.mark.parametrize("save", FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("window", [None, "0..1", "auto"])
def test_a_study_without_any_number_is_refused(tmp_path: Path, save: Save, value: float, window: str | None) -> None:
    study = Study(root=tmp_path, path=save(tmp_path, np.full((12, 10, 4), value, np.float32)), window=window)
    with pytest.raises(DataError, match=r"has no (voxel|pixel) that is a number.*: remove the row"):
        study.load()


@pytest.mark.parametrize("save", [nifti, nrrd_file, dicom_frames])
def test_one_slice_without_numbers_is_black(tmp_path: Path, save: Save) -> None:
    path = save(tmp_path, broken(np.s_[:, :, 1], np.nan))
    for window in (None, "0..1"):
        tones = [np.asarray(picture).max() for picture in load(tmp_path / path, window=window)]
        assert tones[1] == 0
        assert min(tones[0], tones[2], tones[3]) > 200


@pytest.mark.parametrize(
    ("save", "stored", "window", "finding"),
    [
        *((save, noise(), None, None) for save in FORMATS),
        *((save, broken((3, 3), np.nan), None, "0.8 % of its values are no numbers: they are black") for save in FORMATS),
        *((save, broken((3, 3, 1), 1e30), None, "99.8 % of its values are shown as one tone, though") for save in (nifti, nrrd_file)),
        *((save, broken((3, 3, 1), 1e30), None, "1 of 4 slices show nearly all values as one") for save in (dicom_series, dicom_frames)),
        *((save, broken((3, 3, 1), 1e30), "0..1", None) for save in FORMATS),
        *((save, broken((3, 3, 1), -1e30), "auto", None) for save in FORMATS),
        *((save, broken((3, 3), 1e30), None, "of its values are shown as one tone") for save in FORMATS),
        *((save, noise(), "400/400", "all of its values are shown as one tone, though they differ") for save in FORMATS),
        (dicom_with_colours, broken((3, 3), np.nan), None, "0.8 % of its values are no numbers: they are black"),
        (dicom_with_colours, np.zeros((12, 10, 0), np.uint16), None, None),
        (nifti, np.pad(noise((2, 2, 2)) + 1, 30), None, None),  # nearly all values are equal: a mask
        (dicom_series, np.zeros((12, 10, 4), np.uint16), None, None),
    ],
)  # fmt: skip
def test_what_pictures_hide_is_told(tmp_path: Path, save: Save, stored: np.ndarray, window: str | None, finding: str | None) -> None:
    sample = read_row(tmp_path, [save(tmp_path, stored)])
    data = recipe(tmp_path).data
    report = check_report("jsonl", read_report(data, data.options), look="decode", study=StudyConfig(window=window))
    assert report.bad_images == ()
    assert [hidden.row for hidden in report.hidden] == [sample.id] * (finding is not None)
    if finding is not None:
        assert finding in report.hidden[0].finding


def test_the_commands_tell_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`osler data check` and the page of `osler data view`, also where names are keyed."""
    finding = "of its values are shown as one tone, though they differ: give a window"
    read_row(tmp_path, [nifti(tmp_path, broken((3, 3), 1e30))])
    page = tmp_path.parent / f"{tmp_path.name}.html"
    for private in ("false", "true"):
        data = ["--data.reader=jsonl", f"--data.root={tmp_path}", f"--data.private={private}", f"--data.key_file={page}.key"]
        assert main(["data", "check", "--images", "decode", *data]) == 0
        assert finding in capsys.readouterr().out
        assert main(["data", "check", "--images", "decode", "--json", *data]) == 0
        assert finding in json.loads(capsys.readouterr().out.splitlines()[-1])["hidden"][0]["finding"]
        is_private = private == "true"
        samples = load_split(recipe(tmp_path, private=is_private, key_file=f"{page}.key").data, "train", shows_studies=False)
        assert finding in view_samples(samples, page).read_text()
    assert finding in view_study(Study(root=tmp_path, path="v.nii.gz"), page).read_text()


@pytest.mark.parametrize("save", FORMATS)
@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(noise((40, 30, 8)), id="noise"),
        pytest.param(noise((40, 30, 8)) * 1e-3 - 5, id="a narrow range"),
        pytest.param((noise((40, 30, 8)) * 4000 - 1000).astype(np.int16), id="whole numbers"),
        pytest.param(np.where(noise((40, 30, 8)) > 0.999, np.float32(1e30), noise((40, 30, 8))[::-1]), id="few huge values"),
        pytest.param(np.where(noise((40, 30, 8)) > 0.99, np.float32(np.nan), noise((40, 30, 8))[::-1]), id="some are no numbers"),
    ],
)
def test_auto_is_one_window_by_the_percentiles_of_all_values(tmp_path: Path, save: Save, stored: np.ndarray) -> None:
    study = Study(root=tmp_path, path=save(tmp_path, stored), window="auto")
    shown = choose_pictures(study, StudyConfig(slices=4, max_tokens=0))
    (text,) = {picture.uri.partition("window=")[2].partition("&")[0] for picture in shown.pictures}
    (window,) = parse_windows(text)
    assert isinstance(window, Window)
    low, high = np.percentile(stored[np.isfinite(stored)].astype(float), [0.5, 99.5])
    assert window.center - window.width / 2 == pytest.approx(low, abs=2e-3 * (high - low))
    assert window.center + window.width / 2 == pytest.approx(high, abs=2e-3 * (high - low))
    assert f"the window auto is {text}, the percentiles 0.5 and 99.5 of the values of 8 slices" in shown.notes


def test_auto_of_a_recipe_and_of_a_row(tmp_path: Path) -> None:
    path = nifti(tmp_path, noise())
    read_row(tmp_path, [path])
    data = recipe(tmp_path, study={"window": "auto", "slices": 2}).data
    (sample,) = load_split(data, "train")
    assert all("window=0.00" in source.uri and ".." in source.uri for source in sample.images)
    read_row(tmp_path, [{"path": path, "window": "auto"}])
    assert load_split(recipe(tmp_path, study={"slices": 2, "window": "40/400"}).data, "train")[0].images == sample.images


@pytest.mark.parametrize(
    ("stored", "note", "window"),
    [
        (np.full((12, 10, 4), 7, np.int16), "the window auto is left out: all values are equal", None),
        ((2 * noise().astype(np.float64) - 1) * 1.7e308, "the window auto is left out: the values are too large", None),
        (
            np.pad(np.ones((1, 1, 1), np.int16), 9),
            "0..1, the least and the largest value of 19 slices, whose",
            "0..1",
        ),
    ],
)
def test_auto_without_two_percentiles(tmp_path: Path, stored: np.ndarray, note: str, window: str | None) -> None:
    shown = choose_pictures(Study(root=tmp_path, path=nifti(tmp_path, stored), window="auto"), StudyConfig())
    assert note in shown.notes[-1]
    assert ("window" in shown.pictures[0].uri) == (window is not None)


def test_auto_leaves_padding_and_what_has_no_values_out(tmp_path: Path) -> None:
    stored = (np.arange(4000).reshape(20, 20, 10) % 1000).astype(np.int16)
    stored[:10] = -2000
    save_series(tmp_path / "s", stored, PixelPaddingValue=-2000, PixelRepresentation=1)
    study = Study(root=tmp_path, path="s")
    assert float(choose_pictures(study, StudyConfig(window="auto")).slices[0].uri.partition("window=")[2].partition("..")[0]) >= 0
    write_dicom(
        tmp_path / "us.dcm", np.zeros((4, 4, 3), np.uint8), SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0
    )
    save_picture(tmp_path / "p" / "1.png", 3)
    for path in ("us.dcm", "p"):
        shown = choose_pictures(Study(root=tmp_path, path=path), StudyConfig(window="auto"))
        assert shown.notes == ("the window auto does not fit and is left out",)
        with pytest.raises(DataError, match=r"colours, but a window is for greyscale|which have no values for a window"):
            choose_pictures(Study(root=tmp_path, path=path, window="auto"), StudyConfig())


def test_auto_of_a_cut_and_of_changed_files(tmp_path: Path) -> None:
    save_series(tmp_path / "s", (noise() * 1000).astype(np.int16), Modality="MR")
    cut = choose_pictures(Study(root=tmp_path, path="s", window="auto", plane="coronal"), StudyConfig())
    assert len(cut.indices) == 8
    slices = choose_pictures(Study(root=tmp_path, path="s"), StudyConfig()).slices
    assert find_window(slices, 1).window is not None
    save_series(tmp_path / "s", np.zeros((12, 10, 4), np.int16), Modality="MR")
    assert find_window(slices, 2).window is None


@pytest.mark.parametrize(("text", "message"), [("2..1", "must be larger"), ("1..1", "must be larger"), ("auto", "auto for a study")])
def test_a_range_that_is_none(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_windows(text)
