"""Phantom studies as DICOM and NIfTI files show the drawn pictures when they are read back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from osler.cli.main import main
from osler.config import load_config
from osler.data.phantom.studies import ASPECTS, PhantomStudy, StudyKind, build_studies
from osler.data.phantom.studies.files import FileFormat, write_studies
from osler.data.phantom.studies.sheet import contact_sheet
from osler.data.select import load_split
from osler.errors import DataError
from osler.images.files import ImageFile
from osler.images.series import read_dicom_series
from osler.images.volumes import read_volume
from osler.prompts import render
from osler.types import Sample

NAMES = {"xray_views": ("frontal", "lateral"), "follow_up": ("prior", "current")}


def questions(*kinds: StudyKind, num_slices: int = 8, size: int = 56) -> list[Sample]:
    """One question of each aspect of the kinds."""
    return [
        sample
        for kind in kinds
        for sample in build_studies(kind=kind, split="test", seed=0, num_questions=len(ASPECTS[kind]), num_slices=num_slices, size=size)
    ]


def study_of(sample: Sample) -> PhantomStudy:
    return sample.images[0].study  # type: ignore[attr-defined,no-any-return]


def folder_of(sample: Sample) -> str:
    study = study_of(sample)
    return f"{study.kind}/{study.aspect}/test/0-{study.index:06d}"


@pytest.mark.integration
@pytest.mark.parametrize("kind", StudyKind)
def test_dicom_files_show_the_drawn_pictures(kind: StudyKind, tmp_path: Path) -> None:
    samples = questions(kind)
    assert write_studies(tmp_path, samples=samples, file_format="dicom") == len(ASPECTS[kind])
    for sample in samples:
        found = read_dicom_series(tmp_path / folder_of(sample))
        assert (found.refused, found.num_others) == ((), 0)
        if kind in NAMES:
            paths = [f"{folder_of(sample)}/{name}.dcm" for name in NAMES[kind]]
            pictures = [ImageFile(root=tmp_path, path=path).load() for path in paths]
            assert len(found.series) == 2
        else:
            (series,) = found.series
            pictures = [source.load() for source in series.slices]
            assert series.plane == ("axial" if kind.is_volume else None)
            assert series.findings == () or not kind.is_volume
        for picture, drawn in zip(pictures, sample.images, strict=True):
            assert np.array_equal(np.asarray(picture), np.asarray(drawn.load()))


@pytest.mark.integration
@pytest.mark.parametrize("num_slices", [8, 64])
@pytest.mark.parametrize("kind", [kind for kind in StudyKind if kind.is_volume])
def test_nifti_files_show_the_drawn_pictures(kind: StudyKind, num_slices: int, tmp_path: Path) -> None:
    sample = questions(kind, num_slices=num_slices)[1]
    write_studies(tmp_path, samples=[sample], file_format="nifti")
    (row,) = [json.loads(line) for line in (tmp_path / "phantom_study.jsonl").read_text().splitlines()]
    (image,) = row["images"]
    (series,) = read_volume(tmp_path, image["path"], window=image["window"])  # cut across the slices without being told the plane
    assert (series.plane, series.findings, len(series.slices)) == ("axial", (), num_slices)
    for source, drawn in zip(series.slices, sample.images, strict=True):
        assert np.array_equal(np.asarray(source.load()), np.asarray(drawn.load()))
    volume = nibabel.load(tmp_path / image["path"])
    assert nibabel.aff2axcodes(volume.affine) == ("L", "P", "S")
    if kind is StudyKind.CT_VOLUME:
        values = np.asarray(volume.dataobj)
        assert np.median(values[0]) == pytest.approx(-1000, abs=20)  # air, in Hounsfield units
        assert values.max() > 600  # bone


def test_the_patient_of_a_slice_is_where_the_header_says(tmp_path: Path) -> None:
    """The side of the answer follows from the positions of the header alone."""
    (sample,) = [sample for sample in questions(StudyKind.CT_VOLUME) if sample.metadata["aspect"] == "side"]
    study = study_of(sample)
    write_studies(tmp_path, samples=[sample], file_format="dicom")
    (mark,) = study.truth.marks
    number = mark.pictures[0]
    dataset = pydicom.dcmread(tmp_path / folder_of(sample) / f"{number + 1:03d}.dcm")
    spot = mark.spots[number]
    assert spot is not None
    column = (spot.x + 1) / 2 * study.size
    left = dataset.ImagePositionPatient[0] + column * dataset.PixelSpacing[1] * dataset.ImageOrientationPatient[0]
    assert ("left" if left > 0 else "right") == sample.target_text
    assert dataset.Modality == "CT"
    assert dataset.pixel_array.min() < -900


def test_prior_and_current_are_one_patient_at_two_dates(tmp_path: Path) -> None:
    sample = questions(StudyKind.FOLLOW_UP)[0]
    write_studies(tmp_path, samples=[sample], file_format="dicom")
    prior, current = (pydicom.dcmread(tmp_path / folder_of(sample) / f"{name}.dcm") for name in NAMES["follow_up"])
    assert prior.PatientID == current.PatientID
    assert prior.StudyDate < current.StudyDate
    assert prior.StudyInstanceUID != current.StudyInstanceUID
    assert len({prior.SOPInstanceUID, current.SOPInstanceUID}) == 2


@pytest.mark.integration
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_studies(tmp_path / name, samples=questions(StudyKind.CT_VOLUME, StudyKind.ULTRASOUND_CINE)[:6], file_format="dicom")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 5 * 8 + 1 + 1
    assert all((tmp_path / "one" / path).read_bytes() == (tmp_path / "other" / path).read_bytes() for path in files)


FORMATS = [("dicom", [*StudyKind]), ("nifti", [kind for kind in StudyKind if kind.is_volume])]


@pytest.mark.integration
@pytest.mark.parametrize(("file_format", "kinds"), FORMATS, ids=["dicom", "nifti"])
def test_files_are_read_as_the_drawn_questions(file_format: FileFormat, kinds: list[StudyKind], tmp_path: Path) -> None:
    """Through the jsonl reader and [data.study], as a hospital's studies are read."""
    samples = questions(*kinds)
    write_studies(tmp_path, samples=samples, file_format=file_format)
    root = tmp_path / "phantom_study.jsonl"
    found = {sample.id: sample for sample in load_split(load_config(None, ["--data.reader=jsonl", f"--data.root={root}"]).data, "test")}
    assert set(found) == {sample.id for sample in samples}
    for sample in samples:
        other = found[sample.id]
        for name in ("question", "choices", "target", "modality", "question_type", "subject_id", "rationale", "facts"):
            assert getattr(other, name) == getattr(sample, name)
        for picture, drawn in zip(other.images, sample.images, strict=True):
            assert np.array_equal(np.asarray(picture.load()), np.asarray(drawn.load()))
        assert render(other, "think").messages == render(sample, "think").messages
    rows = [json.loads(line) for line in root.read_text().splitlines()]
    assert sum("terms" in row for row in rows) == len(kinds)  # those of one row hold for all


def test_a_run_that_ends_early_replaces_nothing(tmp_path: Path) -> None:
    """The volumes of another size are written before the views, which are refused."""
    write_studies(tmp_path, samples=questions(StudyKind.CT_VOLUME), file_format="nifti")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    larger = [*questions(StudyKind.CT_VOLUME, size=64), *questions(StudyKind.XRAY_VIEWS)]
    with pytest.raises(DataError, match="xray_views is no volume"):
        write_studies(tmp_path, samples=larger, file_format="nifti")
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}


ONE_SLICE = build_studies(kind=StudyKind.CT_VOLUME, split="test", seed=0, num_questions=1, single_slice=3)


@pytest.mark.parametrize(
    ("samples", "file_format", "message"),
    [
        (questions(StudyKind.XRAY_VIEWS), "nifti", "xray_views is no volume, which NIfTI needs: write it as dicom"),
        (ONE_SLICE, "dicom", "not a question about a whole"),
    ],
    ids=["no volume", "one slice"],
)
def test_what_cannot_be_written_is_named(samples: list[Sample], file_format: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        write_studies(tmp_path, samples=samples, file_format=file_format)  # type: ignore[arg-type]
    assert not (tmp_path / "phantom_study.jsonl").exists()


COMMANDS = [
    (["--studies", "dicom", "--kinds", "xray_views,ct_volume", "--train", "1", "--test", "2"], 6, ["ct_volume", "xray_views"]),
    (["--studies", "nifti", "--train", "1", "--test", "0", "--slices", "12", "--size", "112"], 2, ["ct_volume", "mri_volume"]),
]


@pytest.mark.integration
@pytest.mark.parametrize(("arguments", "num", "kinds"), COMMANDS, ids=["dicom", "nifti"])
def test_the_command_writes_studies(
    arguments: list[str], num: int, kinds: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "phantom", "--out", str(tmp_path), *arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["studies"], told["kinds"]) == (num, kinds)
    assert len((tmp_path / "phantom_study.jsonl").read_text().splitlines()) == num
    assert (tmp_path / "contact_sheet.png").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--kinds", "ct_volume"], "--studies"),
        (["--studies", "nifti", "--kinds", "follow_up"], "follow_up"),
        (["--studies", "dicom", "--slices", "2"], "slices"),
        (["--studies", "dicom", "--size", "20"], "size"),
        (["--studies", "dicom", "--lesion-size", "0"], "lesion_size"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "phantom", "--out", str(tmp_path / "out"), *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert word in line


def test_the_contact_sheet_has_a_row_for_each_question() -> None:
    sheet = np.asarray(contact_sheet(size=56))
    rows = sum(map(len, ASPECTS.values()))
    assert sheet.shape == (4 + rows * (17 + 56 + 4), 4 + 8 * 60)
    assert all(row.std() > 20 for row in np.array_split(sheet[4:], rows))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        pytest.param([], [], None, marks=pytest.mark.slow),
        pytest.param([], ["--size", "64"], None, marks=pytest.mark.slow),  # every file is replaced
        pytest.param([], ["--train", "3"], None, marks=pytest.mark.slow),
        pytest.param(["--train", "3"], [], "files .* such as", marks=pytest.mark.slow),
        ([], ["--seed", "1"], "files .* such as"),
        ([], ["--test", "0"], "such as"),
        (["--studies", "dicom", "--slices", "8"], ["--studies", "dicom", "--slices", "7"], "/008.dcm"),
        pytest.param(["--studies", "dicom", "--slices", "7"], ["--studies", "dicom", "--slices", "8"], None, marks=pytest.mark.slow),
        (["--studies", "dicom"], ["--studies", "nifti"], "/001.dcm"),
        (["--studies", "nifti", "--kinds", "ct_volume,mri_volume"], ["--studies", "nifti", "--kinds", "mri_volume"], "ct_volume/.*nii.gz"),
        pytest.param([], ["--studies", "nifti"], None, marks=pytest.mark.slow),  # side by side
    ],
)
def test_a_phantom_of_other_settings_is_not_mixed_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: list[str], second: list[str], left: str | None
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for number, arguments in enumerate((first, second)):
        given = {"--size": "56", "--train": "1", "--test": "1", "--kinds": "ct_volume" if "--studies" in arguments else None}
        given |= dict(zip(arguments[::2], arguments[1::2], strict=True))
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        words = [word for name, value in given.items() if value is not None for word in (name, value)]
        code = main(["data", "phantom", "--out", str(tmp_path), *words])
        assert code == (2 if number and left is not None else 0)
    if left is not None:
        told = capsys.readouterr().err.strip().splitlines()[-1]
        assert re.search("of a phantom with other settings, such as .*: choose an empty folder, or remove them", told)
        assert re.search(left, told)
        assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert (tmp_path / "notes.txt").read_text() == "mine"
