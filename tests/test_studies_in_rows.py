"""Rows about studies: their pictures at their places, with captions, labels and what headers say of the patient."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_studies import ROW, read_row, recipe, save_nifti, save_picture, save_series, values

import osler
from osler.config import StudyConfig
from osler.data.inspect import check_report, convert
from osler.data.readers import read_with_report
from osler.data.select import load_split
from osler.data.studies import show_study
from osler.errors import DataError
from osler.images.dicom import DicomFrame
from osler.images.study import Study
from osler.prompts import render
from osler.types import PLACE


@pytest.mark.parametrize(
    ("images", "question", "shown"),
    [
        (["v.nii", "a.png"], "Is the lesion larger?", "Is the lesion larger?"),
        (["v.nii", "a.png"], "Before <image> and now <image>.", f"Before {PLACE * 3} and now {PLACE}."),
        (["a.png", "v.nii"], "Before <image 2> and now <image 1>.", f"Before {PLACE * 3} and now {PLACE}."),
        (
            [{"path": "v.nii", "caption": "Prior, 2021:"}, {"path": "a.png", "caption": "Current"}],
            "Larger?",
            f"Prior, 2021: {PLACE * 3}\nCurrent: {PLACE}\nLarger?",
        ),
        ([{"path": "v.nii", "caption": "Prior"}, "a.png"], "Now <image>, then <image>", f"Now Prior: {PLACE * 3}, then {PLACE}"),
        ([{"path": "v.nii", "window": "lung", "plane": "sagittal"}], "<image>\nLarger?", "Larger?"),
    ],
)
def test_a_row_takes_studies_at_their_places(tmp_path: Path, images: Any, question: str, shown: str) -> None:
    save_nifti(tmp_path / "v.nii", values())
    save_picture(tmp_path / "a.png", 7)
    sample = read_row(tmp_path, images, question=question)
    assert len(sample.images) == len(images)
    config = recipe(tmp_path, study={"slices": 3})
    (split,) = load_split(config.data, "train")
    assert split.question == shown
    assert len(split.images) == 3 + (len(images) - 1)
    prompt = render(split, "no_think")
    assert sum(part["type"] == "image" for part in prompt.messages[0]["content"]) == len(split.images)
    (again,) = load_split(config.data, "train", shows_studies=False)
    assert again.images == sample.images
    convert([sample], tmp_path / "out.jsonl")
    (back,) = osler.read("jsonl", tmp_path / "out.jsonl", images=tmp_path)
    assert dataclasses.replace(back, id="") == dataclasses.replace(sample, id="")


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ([{"path": "v.nii", "window": "lungs"}], "window 'lungs' is unknown"),
        ([{"path": "v.nii", "plane": "up"}], "unknown plane 'up'"),
        ([{"path": "v.nii", "series": "first"}], "'series' of an image is str, not a whole number"),
        ([{"path": "v.nii", "position": True}], "'position' of an image is bool, not a number"),
        ([{"path": "v.nii", "window": 40}], "'window' of an image is int, not text"),
        ([{"path": "v.nii", "label": "../label.nii"}], "must be relative"),
        ([{"path": "v.nii", "caption": 7}], "the caption of an image is no text"),
        ([{"path": "v.nii", "caption": "<image>"}], "a caption holds a place of an image"),
        ([{"path": "v.nii", "windw": "lung"}], "unknown 'windw' of an image: did you mean 'window'?"),
        ([{"path": "v.nii", "Window": "lung"}], "unknown 'Window' of an image: did you mean 'window'?"),
        ([{"path": "v.nii", "slices": 3}], "'slices' of an image is no setting of a row: set it in [data.study]"),
        ([{"bytes": "iVBORw0KGgo=", "plane": "axial"}], "'plane' of an image is for a study"),
        (
            [{"path": "data:image/png;base64,iVBORw0KGgo=", "plane": "axial"}],
            "'plane' of an image is for a study, which is named by its path",
        ),
        (["../v.nii"], "must be relative"),
    ],
)
def test_rows_that_are_refused(tmp_path: Path, images: Any, reason: str) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({**ROW, "images": images}) + "\n")
    report = read_with_report("jsonl", tmp_path / "rows.jsonl", images=tmp_path)
    assert [refusal.reason for refusal in report.refused if reason in refusal.reason], report.refused


def test_a_study_that_cannot_be_read_names_its_question(tmp_path: Path) -> None:
    read_row(tmp_path, ["gone.nii"], id="case 7")
    config = recipe(tmp_path)
    with pytest.raises(DataError, match=r"case 7: study 'gone\.nii' does not exist"):
        load_split(config.data, "train")


@pytest.mark.parametrize("layout", ["images", "montage", "video"])
@pytest.mark.parametrize("plane", [None, "coronal"])
def test_a_header_gives_what_the_row_does_not_say(tmp_path: Path, layout: str, plane: str | None) -> None:
    save_series(tmp_path / "s", values(), PatientAge="093Y", PatientSex="F", PatientName="SECRET", ImageLaterality="L")
    save_nifti(tmp_path / "v.nii", values())
    read_row(tmp_path, ["v.nii", "s"], context={"sex": "male", "indication": "cough"})
    plain, filled = (
        load_split(recipe(tmp_path, study={"layout": layout, "plane": plane, "context": context, "window": "lung"}).data, "train")
        for context in ("rows", "header")
    )
    assert plain[0].context is not None
    assert plain[0].context.values == {"sex": "male", "indication": "cough"}
    assert filled[0].context is not None
    assert filled[0].context.values == {"age": "90 years or older", "sex": "male", "indication": "cough", "laterality": "left"}
    read_row(tmp_path, ["v.nii"])
    assert load_split(recipe(tmp_path, study={"context": "header"}).data, "train")[0].context is None


def test_a_header_is_used_where_all_files_agree(tmp_path: Path) -> None:
    for name, age, side in (("prior", "060Y", "L"), ("current", "063Y", "R")):
        save_series(tmp_path / name, values(), PatientAge=age, PatientSex="M", ImageLaterality=side)
    read_row(tmp_path, ["prior", "current"])
    (sample,) = load_split(recipe(tmp_path, study={"context": "header"}).data, "train")
    assert sample.context is not None
    assert sample.context.values == {"sex": "male"}


def test_places_that_do_not_agree_are_an_error_of_the_question(tmp_path: Path) -> None:
    save_nifti(tmp_path / "v.nii", values())
    sample = dataclasses.replace(read_row(tmp_path, ["v.nii"]), question=f"Before {PLACE} and now {PLACE}?")
    with pytest.raises(DataError, match="has 1 image and 2 places <image>: make them agree"):
        show_study(sample, StudyConfig())


@pytest.mark.parametrize(
    ("label", "value", "message"),
    [("gone.nii", None, "does not exist"), ("label.nii", "Liver", "no names of labels"), ("label.nii", 9, "no slice with its label")],
)
def test_a_check_finds_labels_that_do_not_fit(tmp_path: Path, label: str, value: Any, message: str) -> None:
    save_nifti(tmp_path / "v.nii", values())
    save_nifti(tmp_path / "label.nii", np.ones((6, 5, 4), np.int16))
    with pytest.raises(DataError, match=message):
        Study(root=tmp_path, path="v.nii", label=label, label_value=value).check_header()


def test_a_check_finds_what_cannot_be_shown(tmp_path: Path) -> None:
    save_series(tmp_path / "s", values())
    read_row(tmp_path, ["s"])
    report = read_with_report("jsonl", tmp_path / "rows.jsonl", images=tmp_path)
    assert check_report("jsonl", report, study=StudyConfig()).is_clean
    for config, reason in ((StudyConfig(plane="coronal"), "no window or several"), (StudyConfig(window="lungs"), "is unknown")):
        (bad,) = check_report("jsonl", report, study=config).bad_images
        assert reason in bad.reason


def test_damaged_elements_of_a_header_are_left_out(tmp_path: Path) -> None:
    save_series(tmp_path, values(), WindowCenter="40", WindowWidth="400")
    path = tmp_path / "1.2.3-00.dcm"
    content = path.read_bytes()
    assert content.count(b"\x28\x00\x50\x10DS") == 1
    path.write_bytes(content.replace(b"\x28\x00\x50\x10DS", b"\x28\x00\x50\x10D\0"))  # no value representation
    frame = DicomFrame(root=tmp_path, path=path.name)
    assert [element.keyword for element in frame.read_elements(("WindowCenter", "WindowWidth"))] == ["WindowWidth"]
