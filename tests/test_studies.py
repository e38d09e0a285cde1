"""A folder, a volume or a file of several frames as one question's input: its series, the slices that are shown, and their places."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from small_dicom import item, sequence, write_dicom
from small_studies import save_nifti, save_picture, save_series, values

import osler
from osler.config import StudyConfig
from osler.errors import ConfigError, DataError
from osler.images.fingerprints import digest_image
from osler.images.geometry import HasShownWindow, unturned
from osler.images.montage import Montage, ReducedImage, count_columns, count_tokens, fit
from osler.images.slices import choose_pictures, measure_entropy
from osler.images.study import Study, load, pick_series, read_series, spread


def shown(study: Study, index: int) -> np.ndarray:
    """The values of a slice of its picked series, seen through a window from 0 to 400."""
    return np.asarray(pick_series(study).series.slices[index].load())[..., 0] * (400 / 255)


@pytest.mark.parametrize("kind", ["dicom", "nifti"])
@pytest.mark.parametrize(
    ("plane", "number", "picture"),
    [
        ("axial", 4, lambda stored: stored[:, :, 1].T),
        ("coronal", 5, lambda stored: stored[:, 1, ::-1].T),  # head at the top, right of the patient to the left
        ("sagittal", 6, lambda stored: stored[1, :, ::-1].T),  # head at the top, front to the left
    ],
)
def test_every_plane_of_every_format_is_the_same_picture(tmp_path: Path, kind: str, plane: Any, number: int, picture: Any) -> None:
    if kind == "dicom":
        save_series(tmp_path / "s", values())
    else:
        save_nifti(tmp_path / "s.nii.gz", values())
    study = Study(root=tmp_path, path="s" if kind == "dicom" else "s.nii.gz", plane=plane, window="200.5/401")
    series = pick_series(study).series
    assert (series.plane, len(series.slices)) == (plane, number)
    np.testing.assert_allclose(shown(study, 1), picture(values()), atol=0.8)
    source = series.slices[1]
    assert pickle.loads(pickle.dumps(source)) == source
    assert digest_image(source) != digest_image(series.slices[0])


def test_a_cut_has_square_pixels_and_keeps_the_order(tmp_path: Path) -> None:
    save_series(tmp_path / "s", values(), step=3.0)
    series = pick_series(Study(root=tmp_path, path="s", plane="coronal", window="200.5/401")).series
    assert [source.load().size for source in series.slices] == [(6, 12)] * 5
    assert series.positions == (0, 1, 2, 3, 4)
    assert series.spacing == (1, 1, 1)
    assert "plane=coronal&index=0" in series.slices[0].uri


@pytest.mark.parametrize(
    ("make", "path", "number", "note"),
    [
        pytest.param(lambda root: save_picture(root / "a.png", 9), "a.png", 1, (), id="a picture"),
        pytest.param(lambda root: write_dicom(root / "a", np.zeros((2, 3), np.uint16)), "a", 1, (), id="a DICOM file without a suffix"),
        pytest.param(lambda root: write_dicom(root / "a.dcm", np.zeros((5, 2, 3), np.uint16)), "a.dcm", 5, None, id="a cine"),
        pytest.param(lambda root: save_nifti(root / "v/only.nii", values()), "v", 4, (), id="a folder with one volume"),
        pytest.param(lambda root: [save_picture(root / "p" / f"{n}.png", n) for n in (1, 2, 10)], "p", 3, (), id="a folder of pictures"),
        pytest.param(
            lambda root: (save_series(root / "s", values()), save_series(root / "s", values((6, 5, 7)), "1.2.4")),
            "s",
            7,
            ("2 series: number 2 is shown, the longest whose slices have positions",),
            id="two series",
        ),
        pytest.param(
            lambda root: [
                write_dicom((root / "x").with_name(f"x{n}.dcm"), np.zeros((2, 3), np.uint16), SeriesInstanceUID=f"1.{n}") for n in "12"
            ],
            ".",
            2,
            (),
            id="the views of an X-ray study",
        ),
    ],
)
def test_what_a_study_may_be(tmp_path: Path, make: Any, path: str, number: int, note: tuple[str, ...] | None) -> None:
    make(tmp_path)
    study = Study(root=tmp_path, path=path)
    picked = pick_series(study)
    assert len(picked.series.slices) == number
    assert note is None or picked.notes == note
    assert study.load().mode == "RGB"
    study.check_header()
    assert len(study.digest()) == 64


def test_pictures_of_a_folder_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        save_picture(tmp_path / "p" / f"frame {number}.png", number)
    assert [picture.getpixel((0, 0)) for picture in load(tmp_path / "p")] == [(1, 1, 1), (2, 2, 2), (10, 10, 10)]


def test_load_gives_every_slice(tmp_path: Path) -> None:
    save_nifti(tmp_path / "v.nii.gz", values())
    assert [picture.size for picture in osler.images.load(tmp_path / "v.nii.gz", window="200/400")] == [(6, 5)] * 4
    assert [picture.size for picture in load(str(tmp_path / "v.nii.gz"), plane="sagittal")] == [(5, 4)] * 6


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"path": "../x"}, "must be relative"),
        ({"path": "none"}, "study 'none' does not exist under .*: check the image root"),
        ({"path": "empty"}, "study 'empty' is an empty folder"),
        (
            {"path": "others"},
            "or volume, but 4 other files, such as 'others/a.dcm', 'others/b.pdf', 'others/c.pdf'",
        ),
        ({"path": "two"}, "holds 2 volumes: name the file of one of them, such as 'two/a.nii'"),
        ({"path": "text.txt"}, "is not an image that Osler reads"),
        ({"path": "report.dcm"}, "is a DICOM file without pixels"),
        ({"path": "s", "series": 2}, "has no series 2: it has 1, counted from 1"),
        ({"path": "p", "window": "lung"}, "of pictures, which have no values for a window"),
        ({"path": "p", "plane": "coronal"}, "no evenly spaced slices in space, of which coronal ones could be cut"),
        ({"path": "gap", "plane": "coronal"}, "cannot be cut in another plane, because 1 slice is missing"),
        ({"path": "away"}, "is a link that leaves the image root"),
        ({"path": "s", "window": "lungs"}, "window 'lungs' is unknown"),
        ({"path": "s", "plane": "oblique"}, "unknown plane 'oblique'"),
        ({"path": "s", "series": 0}, "series 0"),
        ({"path": "s", "label": "../label.nii"}, "must be relative"),
    ],
)
def test_what_is_refused(tmp_path: Path, study: dict[str, Any], message: str) -> None:
    root = tmp_path / "root"
    (root / "empty").mkdir(parents=True)
    (root / "text.txt").write_text("no image at all, not even a small one, but longer than a header")
    (root / "others").mkdir()
    for name in ("a.dcm", "b.pdf", "c.pdf", "d.txt"):
        (root / "others" / name).write_text("none")
    for name in ("a", "b"):
        save_nifti(root / "two" / f"{name}.nii", values())
    write_dicom(root / "report.dcm", Modality="SR")
    save_series(root / "s", values())
    save_series(root / "gap", values())
    (root / "gap" / "1.2.3-01.dcm").unlink()
    save_picture(root / "p" / "1.png", 1)
    save_picture(root / "p" / "2.png", 1)
    (tmp_path / "outside").mkdir()
    (root / "away").symlink_to(tmp_path / "outside")
    with pytest.raises((DataError, ConfigError), match=message):
        Study(root=root, **study).check_header()


@pytest.mark.parametrize(
    ("number", "count", "expected"), [(4, 8, (0, 1, 2, 3)), (20, 4, (2, 7, 12, 17)), (5, 1, (2,)), (9, 3, (1, 4, 7)), (0, 3, ())]
)
def test_spread(number: int, count: int, expected: tuple[int, ...]) -> None:
    assert spread(number, count) == expected


@pytest.mark.parametrize(
    ("study", "config", "indices"),
    [
        ({}, {"slices": 2}, (3, 9)),
        ({}, {"slices": 100}, tuple(range(12))),
        ({"position": 7.2}, {"slices": 3, "choice": "around"}, (6, 7, 8)),
        ({"position": -0.6}, {"slices": 2, "choice": "around"}, (0, 1)),
        ({}, {"slices": 8, "max_tokens": 8}, (3, 9)),  # as many as have four tokens each
        ({}, {"slices": 8, "max_tokens": 3}, (6,)),
        ({"position": 7.2}, {"slices": 2}, (3, 9)),
        ({}, {"slices": 3, "choice": "information"}, (2, 5, 11)),  # where the noise is
    ],
)
def test_which_slices_are_shown(tmp_path: Path, study: dict[str, Any], config: dict[str, Any], indices: tuple[int, ...]) -> None:
    stored = np.zeros((8, 8, 12), np.int16)
    noise = np.random.default_rng(0).integers(0, 400, (8, 8))
    for index in (2, 5, 11):
        stored[:, :, index] = noise
    save_nifti(tmp_path / "v.nii", stored)
    chosen = choose_pictures(Study(root=tmp_path, path="v.nii", **study), StudyConfig(**config))
    assert chosen.indices == indices
    assert [f"index={index}&" in picture.uri for picture, index in zip(chosen.pictures, indices, strict=True)] == [True] * len(indices)


@pytest.mark.parametrize(
    ("value", "count", "indices"),
    [
        (None, 2, (3, 5)),
        (None, 4, (2, 3, 4, 5)),
        (7, 1, (5,)),
        (7, 3, (4, 5, 6)),
        (2, 3, (2, 3, 4)),
        ("kidney", 1, "no names"),
        (9, 1, "no slice"),
    ],
)
def test_slices_around_a_label(tmp_path: Path, value: int | str | None, count: int, indices: tuple[int, ...] | str) -> None:
    label = np.zeros((6, 5, 9), np.int16)
    label[1, 1, 2:5] = 2
    label[3, 3, 5] = 7
    save_nifti(tmp_path / "v.nii", values((6, 5, 9)))
    save_nifti(tmp_path / "label.nii.gz", label)
    study = Study(root=tmp_path, path="v.nii", label="label.nii.gz", label_value=value)
    config = StudyConfig(choice="around", slices=count)
    if isinstance(indices, str):
        with pytest.raises((DataError, ConfigError), match=indices):
            choose_pictures(study, config)
    else:
        assert choose_pictures(study, config).indices == indices


def test_a_label_finds_the_slices_of_another_format(tmp_path: Path) -> None:
    save_series(tmp_path / "s", values((6, 5, 9)), step=2.0)
    label = np.zeros((6, 5, 9), np.uint8)
    label[1, 1, 4:6] = 1
    save_nifti(tmp_path / "label.nii", label, 2.0)
    study = Study(root=tmp_path, path="s", label="label.nii", window="lung")
    assert choose_pictures(study, StudyConfig(choice="around", slices=2)).indices == (4, 5)
    with pytest.raises(DataError, match="cut in another plane than its slices"):
        choose_pictures(study, StudyConfig(choice="around", slices=2, plane="coronal"))


def test_around_needs_a_position(tmp_path: Path) -> None:
    save_nifti(tmp_path / "v.nii", values())
    write_dicom(tmp_path / "cine.dcm", np.zeros((5, 2, 3), np.uint16))
    with pytest.raises(DataError, match='gives no position and no label for choice = "around"'):
        choose_pictures(Study(root=tmp_path, path="v.nii"), StudyConfig(choice="around", slices=2))
    with pytest.raises(DataError, match='has no positions for choice = "around"'):
        choose_pictures(Study(root=tmp_path, path="cine.dcm", position=1.0), StudyConfig(choice="around", slices=2))


@pytest.mark.parametrize(
    ("modality", "window", "is_applied"), [("CT", "lung", True), ("MR", "lung", False), ("MR", "40/400", True), ("CT", None, False)]
)
def test_a_preset_of_the_recipe_is_for_ct(tmp_path: Path, modality: str, window: str | None, is_applied: bool) -> None:
    save_series(tmp_path / "s", values(), Modality=modality)
    chosen = choose_pictures(Study(root=tmp_path, path="s"), StudyConfig(window=window))
    assert all(("window=" in picture.uri) is is_applied for picture in chosen.pictures)


def test_a_picture_needs_no_window(tmp_path: Path) -> None:
    save_picture(tmp_path / "p" / "1.png", 7)
    (picture,) = choose_pictures(Study(root=tmp_path, path="p"), StudyConfig(window="lung")).pictures
    assert picture.uri == "p/1.png"


@pytest.mark.parametrize("size", [(512, 512), (512, 41), (41, 512), (1, 5000), (100, 100), (3000, 2000)])
@pytest.mark.parametrize("max_tokens", [1, 7, 96, 500])
@pytest.mark.parametrize("side", [28, 32])
def test_a_picture_keeps_its_budget_and_its_shape(size: tuple[int, int], max_tokens: int, side: int) -> None:
    width, height = fit(size, max_tokens, side)
    assert count_tokens((width, height), side) <= max_tokens or max(width, height) < side
    assert width <= size[0]
    assert height <= size[1]
    if min(width, height) > 20:
        assert width / height == pytest.approx(size[0] / size[1], rel=0.06)
    if count_tokens(size, side) <= max_tokens:
        assert (width, height) == size


def test_a_montage_holds_every_picture(tmp_path: Path) -> None:
    save_nifti(tmp_path / "v.nii", values((30, 20, 4)))
    study = Study(root=tmp_path, path="v.nii", window="1000/2000")
    (montage,) = choose_pictures(study, StudyConfig(layout="montage")).pictures
    assert montage.load().size == (62, 42)
    slices = pick_series(study).series.slices
    grid = Montage(sources=slices).load()
    for place, corner in enumerate([(0, 0), (32, 0), (0, 22), (32, 22)]):
        assert grid.crop((*corner, corner[0] + 30, corner[1] + 20)).tobytes() == slices[place].load().tobytes()
    assert [count_columns(8, 512, 41), count_columns(9, 10, 10), count_columns(2, 10, 30)] == [1, 3, 2]
    (small,) = choose_pictures(study, StudyConfig(layout="montage", max_tokens=2)).pictures
    assert isinstance(small, ReducedImage)
    assert count_tokens(small.load().size, 28) <= 2


def test_entropy() -> None:
    assert measure_entropy(PIL.Image.new("RGB", (4, 4), (9, 9, 9))) == 0
    assert measure_entropy(PIL.Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")) == pytest.approx(8)


def test_the_number_of_a_series_is_that_of_read_series(tmp_path: Path) -> None:
    save_series(tmp_path / "s", values())
    save_series(tmp_path / "s", values((6, 5, 7)), "1.2.4")
    assert [len(series.slices) for series in read_series(Study(root=tmp_path, path="s"))] == [4, 7]
    assert len(pick_series(Study(root=tmp_path, path="s", series=1)).series.slices) == 4


def test_slices_of_a_label_in_two_places_are_all_shown(tmp_path: Path) -> None:
    label = np.zeros((6, 5, 60), np.int16)
    label[1, 1, [5, 50]] = 1
    save_nifti(tmp_path / "v.nii", values((6, 5, 60)))
    save_nifti(tmp_path / "label.nii", label)
    study = Study(root=tmp_path, path="v.nii", label="label.nii")
    indices = choose_pictures(study, StudyConfig(choice="around", slices=6)).indices
    assert indices == (4, 5, 6, 49, 50, 51)


@pytest.mark.parametrize(
    ("position", "plane", "message"),
    [(-50.0, None, "has slices from 0.0 to 3.0 mm, but the position -50"), (1.0, "coronal", "cut in another plane than its slices")],
)
def test_a_position_must_lie_in_the_series(tmp_path: Path, position: float, plane: Any, message: str) -> None:
    save_series(tmp_path / "s", values())
    study = Study(root=tmp_path, path="s", position=position, plane=plane, window="lung")
    with pytest.raises(DataError, match=message):
        choose_pictures(study, StudyConfig(choice="around", slices=1))


def test_views_of_two_patients_are_no_study(tmp_path: Path) -> None:
    for patient in "12":
        write_dicom(tmp_path / f"{patient}.dcm", np.zeros((2, 3), np.uint16), SeriesInstanceUID=f"1.{patient}", PatientID=patient)
    with pytest.raises(DataError, match="holds pictures of 2 patients: name the file of one, or its series"):
        pick_series(Study(root=tmp_path, path="."))
    assert len(pick_series(Study(root=tmp_path, path=".", series=2)).series.slices) == 1
    save_series(tmp_path / "s", values())
    save_series(tmp_path / "s", values((6, 5, 7)), "1.2.4", PatientID="2")
    (note,) = pick_series(Study(root=tmp_path, path="s")).notes
    assert note == "2 series: number 2 is shown, the longest whose slices have positions; they are of 2 patients"


def test_files_that_are_refused_are_named(tmp_path: Path) -> None:
    for number in range(2):
        write_dicom(tmp_path / f"view{number}.dcm", np.zeros((2, 3), np.uint16), SeriesInstanceUID=f"1.{number}")
    write_dicom(tmp_path / "view2.dcm", np.zeros((2, 3), np.uint16), SeriesInstanceUID="1.3", NumberOfFrames=200_000)
    write_dicom(tmp_path / "report.dcm", Modality="SR")
    picked = pick_series(Study(root=tmp_path, path="."))
    assert len(picked.series.slices) == 2
    (note,) = picked.notes
    assert note.startswith("image 'view2.dcm'")
    assert note.endswith(": left out")


@pytest.mark.parametrize(
    ("shared", "own", "message"),
    [
        ("40", (), None),
        (None, ("40", "40", "40", "40"), None),
        ("40", ("40", "40", "40", "90"), "no window or several"),
        (None, (), "no window or several"),
    ],
)
def test_frames_of_one_file_are_cut_with_the_window_of_their_groups(
    tmp_path: Path, shared: str | None, own: tuple[str, ...], message: str | None
) -> None:
    def window(center: str | None) -> dict[str, Any]:
        return {} if center is None else {"FrameVOILUTSequence": sequence(item(WindowCenter=center, WindowWidth="400"))}

    stored = values((6, 5, 4)).astype(np.int16)
    centers = own or (None,) * 4
    frames = [
        item(PlanePositionSequence=sequence(item(ImagePositionPatient=[0.0, 0.0, float(z)])), **window(center))
        for z, center in enumerate(centers)
    ]
    same = item(
        PlaneOrientationSequence=sequence(item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])),
        PixelMeasuresSequence=sequence(item(PixelSpacing=[1, 1])),
        **window(shared),
    )
    write_dicom(
        tmp_path / "e.dcm", stored.T, SharedFunctionalGroupsSequence=sequence(same), PerFrameFunctionalGroupsSequence=sequence(*frames)
    )
    study = Study(root=tmp_path, path="e.dcm", plane="coronal")
    if message is None:
        assert len(pick_series(study).series.slices) == 5
    else:
        with pytest.raises(DataError, match=message):
            pick_series(study)


@pytest.mark.parametrize(
    ("elements", "window", "message"),
    [
        ({}, None, "gives its slices no window or several"),
        ({"WindowCenter": 40, "WindowWidth": 400}, None, None),
        ({}, "lung", None),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0.766, 0.643]}, "lung", "lie 40 degrees obliquely"),
    ],
)
def test_what_a_cut_needs(tmp_path: Path, elements: dict[str, Any], window: str | None, message: str | None) -> None:
    stored = values((6, 5, 4))
    save_series(tmp_path / "s", stored, **elements)
    if "ImageOrientationPatient" in elements:  # along the normal, so that nothing tilts
        for z in range(4):
            normal = np.cross([1, 0, 0], elements["ImageOrientationPatient"][3:])
            write_dicom(
                tmp_path / "s" / f"1.2.3-{z:02d}.dcm", stored[:, :, z].T, **elements, PixelSpacing=[1, 1], SeriesInstanceUID="1.2.3",
                ImagePositionPatient=list(map(float, normal * z)), RescaleSlope=1, RescaleIntercept=0,
            )  # fmt: skip
    study = Study(root=tmp_path, path="s", plane="coronal", window=window)
    if message is None:
        assert pick_series(study).is_cut
    else:
        with pytest.raises(DataError, match=message):
            pick_series(study)


def test_a_changed_study_is_read_again(tmp_path: Path) -> None:
    save_nifti(tmp_path / "v.nii", values((6, 5, 12)))
    study = Study(root=tmp_path, path="v.nii")
    assert choose_pictures(study, StudyConfig(slices=1)).indices == (6,)
    save_nifti(tmp_path / "v.nii", values((6, 5, 4)))
    assert choose_pictures(study, StudyConfig(slices=1)).indices == (2,)
    save_series(tmp_path / "s", values())
    cut = Study(root=tmp_path, path="s", plane="sagittal", window="200.5/401")
    before = shown(cut, 1)
    save_series(tmp_path / "s", values() + 100)
    np.testing.assert_allclose(shown(cut, 1), np.minimum(before + 100, 400), atol=1.6)


def test_a_link_may_lead_elsewhere_where_the_user_names_it(tmp_path: Path) -> None:
    save_nifti(tmp_path / "store" / "x.nii", values())
    (tmp_path / "store" / "x.nii").rename(tmp_path / "store" / "0a1b2c")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "v.nii").symlink_to(tmp_path / "store" / "0a1b2c")
    assert len(load(tmp_path / "mine" / "v.nii")) == 4


def test_the_order_of_pictures_is_in_the_digest(tmp_path: Path) -> None:
    for folder, names in (("a", (1, 10, 2)), ("b", (1, 2, 3))):
        for tone, name in enumerate(names):
            save_picture(tmp_path / folder / f"{name}.png", tone)
    assert Study(root=tmp_path, path="a").digest() != Study(root=tmp_path, path="b").digest()


def test_other_files_and_a_window_that_does_not_fit_are_told(tmp_path: Path) -> None:
    save_series(tmp_path / "s", values(), Modality="MR")
    (tmp_path / "s" / "notes.txt").write_text("none")
    picked = pick_series(Study(root=tmp_path, path="s"), "lung")
    assert picked.notes == ("1 other file: left out", "the window lung does not fit and is left out")


@pytest.mark.parametrize(("asked", "given"), [((3, 1), (1, 3)), ((0,), (0,)), ((2, 2), (2,)), ((4,), None), ((-1,), None), ((), None)])
def test_slices_are_shown_one_by_one_where_they_are_asked_for(
    tmp_path: Path, asked: tuple[int, ...], given: tuple[int, ...] | None
) -> None:
    save_series(tmp_path / "s", values())
    study = Study(root=tmp_path, path="s")
    if given is None:
        with pytest.raises(DataError, match="has 4 slices, numbered 1 to 4"):
            choose_pictures(study, StudyConfig(), asked)
    else:
        assert choose_pictures(study, StudyConfig(), asked).indices == given


def test_more_slices_than_fit_are_refused(tmp_path: Path) -> None:
    save_series(tmp_path / "s", values())
    with pytest.raises(DataError, match="ask for at most 3"):
        choose_pictures(Study(root=tmp_path, path="s"), StudyConfig(max_tokens=12), (0, 1, 2, 3))


@pytest.mark.parametrize(
    ("window", "header", "shown"),
    [
        (None, {"WindowCenter": "40", "WindowWidth": "400"}, (40, 400)),
        (None, {}, (322.5, 45)),  # the range of the values of the slice
        ("lung", {"RescaleType": "HU"}, (-600, 1500)),
        ("10..30", {}, (20, 20)),
        ("file:2", {"WindowCenter": ["40", "50"], "WindowWidth": ["400", "350"]}, (50, 350)),
        ("lung+bone+brain", {}, None),
    ],
)
@pytest.mark.parametrize("plane", [None, "coronal"])
def test_a_slice_tells_its_window(tmp_path: Path, window: str | None, header: Any, shown: tuple[float, float] | None, plane: Any) -> None:
    save_series(tmp_path / "s", values(), **header)
    if plane and window is None and not header:
        pytest.skip("a cut needs one window")
    source = unturned(pick_series(Study(root=tmp_path, path="s", window=window, plane=plane)).series.slices[-1 if plane is None else 0])
    assert isinstance(source, HasShownWindow)
    found = source.read_window()
    assert (found and (found.center, found.width)) == shown


def test_a_volume_tells_its_range(tmp_path: Path) -> None:
    save_nifti(tmp_path / "s.nii.gz", values())
    source = unturned(pick_series(Study(root=tmp_path, path="s.nii.gz")).series.slices[0])
    assert isinstance(source, HasShownWindow)
    found = source.read_window()
    assert found is not None
    assert (found.center, found.width) == (172.5, 345)


PAGES = "the file with several pages or frames: only the first is shown"


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["a.tif"], PAGES),
        (["a.gif"], PAGES),
        (["a.webp"], PAGES),
        (["a.png"], PAGES),
        (["one.tif"], None),
        (["one.png"], None),
        (["a.gif", "a.tif", "one.png"], "2 of 3 files with several pages or frames: only the first is shown"),
        (["one.tif", "one.png"], None),
    ],
)
def test_pages_that_are_not_shown_are_told(tmp_path: Path, names: list[str], note: str | None) -> None:
    pages = [PIL.Image.new("L", (40, 30), tone) for tone in (0, 90, 200)]
    (tmp_path / "p").mkdir()
    for name in names:
        pages[1].save(tmp_path / "p" / name, save_all=True, append_images=pages[:1] if name.startswith("a") else [])
    study = Study(root=tmp_path, path=f"p/{names[0]}" if len(names) == 1 else "p")
    assert choose_pictures(study, StudyConfig()).notes == (() if note is None else (note,))
