"""Benchmarks that bring their options, PMC-VQA, MedXpertQA MM and M3D-VQA, in their published layouts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from published_rows import CHOICES, FIRST, M3D, MEDX, OPTIONS, SECOND, Row, facts_of, reasons, repeated, write_csv, write_pmc, write_text

from osler.data.readers import read_with_report
from osler.errors import ConfigError
from osler.taxonomy import Modality, QuestionType

# PMC-VQA

MISSPELT = {("Anwser" if name == "Answer" else name): value for name, value in FIRST.items()}
PMC = ("What is the uptake pattern?", ("Diffuse uptake", "Focal uptake", "No uptake", "Cannot tell"), "B", "PMC1064097")

SAME_PMC: dict[str, tuple[str, Row]] = {
    "version 1": ("train.csv", FIRST),
    "version 1, misspelt": ("train.csv", MISSPELT),
    "version 1, the answer with its letter": ("train.csv", {**FIRST, "Answer": " B:Focal uptake"}),
    "version 1, the answer a letter too": ("train.csv", {**FIRST, "Answer": "B"}),
    "version 1, another case": ("train.csv", {**FIRST, "Answer": "focal uptake."}),
    "version 2": ("train_2.csv", SECOND),
    "version 2, options without letters": ("train_2.csv", {**SECOND, **{name: text.strip()[2:] for name, text in OPTIONS.items()}}),
    "version 2, a space behind the letters": (
        "train_2.csv",
        {**SECOND, **{name: text.replace(":", ": ") for name, text in OPTIONS.items()}},
    ),
    "version 2, the option as the answer": ("train_2.csv", {**SECOND, "Answer": " B:Focal uptake "}),
}


@pytest.mark.parametrize(("file", "row"), SAME_PMC.values(), ids=SAME_PMC)
def test_pmc_vqa_reads_both_versions_alike(tmp_path: Path, file: str, row: Row) -> None:
    report = read_with_report("pmc_vqa", write_csv(tmp_path / file, [row]).parent, split="train")
    assert reasons(report) == []
    (sample,) = report.samples
    assert facts_of(sample) == (*PMC, ["PMC1064097_F1.jpg"])
    assert (sample.id, sample.modality, sample.context) == (f"pmc_vqa/{Path(file).stem}/1", None, None)


OTHER_PMC: dict[str, tuple[Row, str | tuple[Any, ...]]] = {
    "an option of no words": ({"Choice D": " D:"}, (("Diffuse uptake", "Focal uptake", "No uptake"), "B")),
    "options that are letters": (
        {"Answer": "B", **{f"Choice {letter}": f"{letter}:{letter}" for letter in "ABCD"}},
        (("A", "B", "C", "D"), "B"),
    ),
    "a text of another option": ({"Answer": "No uptake"}, "the right answer is option B by its letter and option C by its text"),
    "a text of no option": ({"Answer": "Ring"}, "the right answer 'Ring' is none of the 4 options"),
    "a letter of no option": ({"Answer_label": "E"}, "the right answer 'E' is none of the 4 options"),
    "no label": ({"Answer_label": ""}, "'Answer_label' is empty"),
    "no answer": ({"Answer": " "}, "'Answer' is empty"),
    "no question": ({"Question": ""}, "'Question' is empty"),
    "an option between others missing": ({"Choice B": " B:"}, "the options are named A, C, D"),
    "letters in another order": ({"Choice A": "B:x", "Choice B": "A:y"}, "the options bring the letters B, A, C, D"),
    "a name of no file": ({"Figure_path": "a" * 300}, (("Diffuse uptake", "Focal uptake", "No uptake", "Cannot tell"), "B")),
    "an unsafe path": ({"Figure_path": "../a.jpg"}, "image path '../a.jpg' must be relative"),
    "the right option twice": ({"Choice C": "C:Focal uptake"}, "the right answer 'Focal uptake' is given by several options"),
}


@pytest.mark.parametrize(("changes", "expected"), OTHER_PMC.values(), ids=OTHER_PMC)
def test_pmc_vqa_rows(tmp_path: Path, changes: Row, expected: str | tuple[Any, ...]) -> None:
    report = read_with_report("pmc_vqa", write_csv(tmp_path / "test.csv", [{**FIRST, **changes}]))
    if isinstance(expected, str):
        assert [reason.startswith(expected) for reason in reasons(report)] == [True], reasons(report)
    else:
        assert [(sample.choices, sample.target) for sample in report.samples] == [expected]


@pytest.mark.parametrize(
    ("options", "ids", "folder"),
    [
        ({"split": "test"}, ["test_2/1", "test_2/2"], "figures"),
        ({"split": "test", "version": 2}, ["test_2/1", "test_2/2"], "figures"),
        ({"split": "test", "version": 1}, ["test/1", "test/2"], "images"),
        ({"split": "test", "version": 1, "clean": True}, ["test_clean/1"], "images"),
        ({"split": "test", "version": "2"}, ["test_2/1", "test_2/2"], "figures"),
        ({"split": "test", "clean": True}, ["test_clean/1"], "images"),
        ({"split": "train"}, ["train_2/1", "train_2/2"], "figures"),
        ({"version": 1, "clean": True}, ["train/1", "train/2", "test_clean/1"], "images"),
        ({"split": "test", "images": "elsewhere"}, ["test_2/1", "test_2/2"], "elsewhere"),
    ],
)
def test_pmc_vqa_files(tmp_path: Path, options: Mapping[str, Any], ids: list[str], folder: str) -> None:
    report = read_with_report("pmc_vqa", write_pmc(tmp_path), **options)
    assert [sample.id.removeprefix("pmc_vqa/") for sample in report.samples] == ids
    assert {image.root for sample in report.samples for image in sample.images} == {  # type: ignore[attr-defined]
        Path(folder) if "images" in options else tmp_path / folder
    }
    assert report.splits == (() if "split" in options else ("train", "test"))


# MedXpertQA MM

LETTERED = {"A": "C", "B": "D", "C": "A", "D": "B", "E": "None of the above"}

MEDX_ROWS: dict[str, tuple[Row, tuple[Any, ...] | str]] = {
    "as published": ({}, ("What is the most probable diagnosis?", tuple(CHOICES.values()), "C", None, ["MM-26-a.jpeg"])),
    "options as a list of objects": (
        {"options": [{"letter": letter, "content": text} for letter, text in CHOICES.items()]},
        ("What is the most probable diagnosis?", tuple(CHOICES.values()), "C", None, ["MM-26-a.jpeg"]),
    ),
    "options as a list": (
        {"options": list(CHOICES.values())},
        ("What is the most probable diagnosis?", tuple(CHOICES.values()), "C", None, ["MM-26-a.jpeg"]),
    ),
    "options that are letters": (
        {"question": repeated("Which artery in Figure A?", LETTERED), "options": LETTERED},
        ("Which artery in Figure A?", tuple(LETTERED.values()), "C", None, ["MM-26-a.jpeg"]),
    ),
    "several images": (
        {"images": ["MM-26-a.jpeg", "MM-26-b.png"]},
        ("What is the most probable diagnosis?", tuple(CHOICES.values()), "C", None, ["MM-26-a.jpeg", "MM-26-b.png"]),
    ),
    "mojibake": (
        {"question": repeated("Which angle of 40Â°?", {**CHOICES, "A": "20Â° or more"}), "options": {**CHOICES, "A": "20Â° or more"}},
        ("Which angle of 40°?", ("20° or more", *list(CHOICES.values())[1:]), "C", None, ["MM-26-a.jpeg"]),
    ),
    "options only beside the question": ({"question": "Which?"}, ("Which?", tuple(CHOICES.values()), "C", None, ["MM-26-a.jpeg"])),
    "a table in the question": (
        {"question": repeated("Sodium (A) 140\n(B) low\nWhich?", CHOICES)},
        ("Sodium (A) 140\n(B) low\nWhich?", tuple(CHOICES.values()), "C", None, ["MM-26-a.jpeg"]),
    ),
    "other options in the question": (
        {"question": repeated("Which?", LETTERED)},
        "the options in the question's text are not those of the row's own field",
    ),
    "nothing but options": ({"question": repeated("", CHOICES)}, "no question before the options"),
    "a label of no option": ({"label": "F"}, "the right answer 'F' is none of the 5 options"),
    "a label that is a text": ({"label": "Vasculitis"}, "the right answer 'Vasculitis' is none of the 5 options"),
    "no label": ({"label": None}, "'label' is missing"),
    "no images, as in the text part": ({"images": None}, "'images' is not a path or a list of paths"),
    "an unsafe image": ({"images": ["../a.png"]}, "image path '../a.png' must be relative"),
}


@pytest.mark.parametrize(("changes", "expected"), MEDX_ROWS.values(), ids=MEDX_ROWS)
def test_medxpertqa_rows(tmp_path: Path, changes: Row, expected: tuple[Any, ...] | str) -> None:
    write_text(tmp_path / "MM/test.jsonl", json.dumps({**MEDX, **changes}) + "\n")
    report = read_with_report("medxpertqa_mm", tmp_path)
    if isinstance(expected, str):
        assert [reason.startswith(expected) for reason in reasons(report)] == [True], reasons(report)
        return
    assert [facts_of(sample) for sample in report.samples] == [expected], reasons(report)
    (sample,) = report.samples
    assert (sample.id, sample.question_type, sample.modality) == ("medxpertqa_mm/MM-26", None, None)
    assert sample.metadata == {"medical_task": "Diagnosis", "body_system": "Lymphatic", "question_type": "Reasoning"}
    assert sample.images[0].root == tmp_path / "images"  # type: ignore[attr-defined]


def test_medxpertqa_files(tmp_path: Path) -> None:
    write_text(tmp_path / "MM/test.jsonl", json.dumps(MEDX) + "\n{\n\n")
    write_text(tmp_path / "MM/dev.jsonl", json.dumps({**MEDX, "id": "MM-2000"}))
    report = read_with_report("medxpertqa_mm", tmp_path)
    assert ([sample.id for sample in report.samples], report.splits) == (
        ["medxpertqa_mm/MM-2000", "medxpertqa_mm/MM-26"],
        ("validation", "test"),
    )
    assert [refusal.row for refusal in report.refused] == ["medxpertqa_mm/test.jsonl/2"]
    for root in (tmp_path, tmp_path / "MM", tmp_path / "MM/test.jsonl"):
        assert [sample.id for sample in read_with_report("medxpertqa_mm", root, split="test").samples] == ["medxpertqa_mm/MM-26"]
    assert [sample.id for sample in read_with_report("medxpertqa_mm", tmp_path / "MM/dev.jsonl").samples] == ["medxpertqa_mm/MM-2000"]
    with pytest.raises(ConfigError, match=r"dev\.jsonl is not the file of the test split"):
        read_with_report("medxpertqa_mm", tmp_path / "MM/dev.jsonl", split="test")
    with pytest.raises(ConfigError, match=r"only version 1 has test_clean\.csv"):
        read_with_report("pmc_vqa", write_pmc(tmp_path), split="test", version="2", clean=True)


# M3D-VQA

DIAGNOSIS, ANATOMY = QuestionType.DISEASE_DIAGNOSIS, QuestionType.ANATOMY_IDENTIFICATION
OPTIONS_OF_M3D = ("Cyst", "Mass", "Abscess", "Haematoma")
YES_NO = {name: "" if name.startswith("Choice") else value for name, value in M3D.items()}

M3D_ROWS: dict[str, tuple[Row, tuple[tuple[str, ...] | set[str], str, QuestionType | None] | str]] = {
    "as published": (M3D, (OPTIONS_OF_M3D, "Mass", DIAGNOSIS)),
    "plane": ({**M3D, "Question Type": "1"}, (OPTIONS_OF_M3D, "Mass", ANATOMY)),
    "phase": ({**M3D, "Question Type": 2}, (OPTIONS_OF_M3D, "Mass", QuestionType.MODALITY_RECOGNITION)),
    "another type": ({**M3D, "Question Type": "6"}, (OPTIONS_OF_M3D, "Mass", None)),
    "a full stop": ({**M3D, "Answer": "mass."}, (OPTIONS_OF_M3D, "Mass", DIAGNOSIS)),
    "the last option missing": ({**M3D, "Choice D": "NA"}, (OPTIONS_OF_M3D[:3], "Mass", DIAGNOSIS)),
    "no letter": ({**M3D, "Answer Choice": ""}, (OPTIONS_OF_M3D, "Mass", DIAGNOSIS)),
    "yes or no": ({**YES_NO, "Answer": "Yes", "Answer Choice": ""}, ({"Yes", "No"}, "Yes", DIAGNOSIS)),
    "no options": ({**YES_NO, "Answer": "A large mass"}, (set(), "A large mass", DIAGNOSIS)),
    "columns in another spelling": (
        {name.replace(" ", "_").lower(): value for name, value in M3D.items()},
        (OPTIONS_OF_M3D, "Mass", DIAGNOSIS),
    ),
    "an option between others missing": ({**M3D, "Choice C": "NA"}, "the options are named A, B, D"),
    "the right option missing": ({**M3D, "Choice D": "NA", "Answer Choice": "D"}, "the right answer 'D' is none of the 3 options"),
    "letter and text differ": ({**M3D, "Answer Choice": "A"}, "the right answer is option A by its letter and option B by its text"),
    "no path": ({**M3D, "Image Path": ""}, "'Image Path' is empty"),
}


@pytest.mark.parametrize(("row", "expected"), M3D_ROWS.values(), ids=M3D_ROWS)
def test_m3d_vqa_rows(tmp_path: Path, row: Row, expected: tuple[tuple[str, ...] | set[str], str, QuestionType | None] | str) -> None:
    write_csv(tmp_path / "M3D-VQA/M3D_VQA_test.csv", [row])
    report = read_with_report("m3d_vqa", tmp_path)
    if isinstance(expected, str):
        assert [reason.startswith(expected) for reason in reasons(report)] == [True], reasons(report)
        return
    (sample,) = report.samples
    assert (type(expected[0])(sample.choices), sample.target_text, sample.question_type) == expected
    assert (sample.id, sample.subject_id, sample.modality) == ("m3d_vqa/M3D_VQA_test/1", "ct_quizze/000008", Modality.CT)
    assert M3D["Text"] not in str(sample)


ARRAY = "M3D_Cap_npy/ct_case/12/Axial_Poschl.npy"
M3D_VOLUMES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "slices": (ARRAY, ("M3D_Cap/ct_case/12/Axial_Poschl/0.png",), "M3D_Cap/ct_case/12/Axial_Poschl"),
    "slices and the array": (ARRAY, ("M3D_Cap/ct_case/12/Axial_Poschl/0.png", ARRAY), "M3D_Cap/ct_case/12/Axial_Poschl"),
    "slices in a folder with an accent": (ARRAY, ("M3D_Cap/ct_case/12/Axial_Pöschl/0.png", ARRAY), "M3D_Cap/ct_case/12/Axial_Pöschl"),
    "a NIfTI file": (ARRAY, ("M3D_Cap_npy/ct_case/12/Axial_Poschl.nii.gz", ARRAY), "M3D_Cap_npy/ct_case/12/Axial_Poschl.nii.gz"),
    "an NRRD file": (ARRAY, ("M3D_Cap_npy/ct_case/12/Axial_Poschl.nrrd",), "M3D_Cap_npy/ct_case/12/Axial_Poschl.nrrd"),
    "nothing": (ARRAY, (), "M3D_Cap/ct_case/12/Axial_Poschl"),
    "only the array": (ARRAY, (ARRAY,), "'M3D_Cap_npy/ct_case/12/Axial_Poschl.npy' is an array without its slices"),
    "a path of a NIfTI file": ("ct/12/a.nii.gz", (), "ct/12/a.nii.gz"),
    "a path of a folder": ("ct/12/a", (), "ct/12/a"),
    "an array elsewhere": ("ct/12/a.npy", ("ct/12/a.nii",), "ct/12/a.nii"),
    "a name of no file": (f"{'a' * 300}.npy", (), "a" * 300),
    "an unsafe path": ("../a.nii.gz", (), "image path '../a.nii.gz' must be relative"),
}


@pytest.mark.parametrize(("path", "files", "expected"), M3D_VOLUMES.values(), ids=M3D_VOLUMES)
def test_m3d_volumes_are_what_the_arrays_were_made_of(tmp_path: Path, path: str, files: tuple[str, ...], expected: str) -> None:
    for file in files:
        write_text(tmp_path / file, "any")
    report = read_with_report("m3d_vqa", write_csv(tmp_path / "rows.csv", [{**M3D, "Image Path": path}]))
    if report.samples:
        assert [image.uri for image in report.samples[0].images] == [expected]
    else:
        assert reasons(report)[0].startswith(expected), reasons(report)


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({}, ["train/1", "val/1", "test/1"]),
        ({"split": "validation"}, ["val/1"]),
        ({"split": "test", "name": "test5k"}, ["test5k/1"]),
        ({"name": "test5k"}, ["test5k/1"]),
        ({"split": "train", "name": "yes_no"}, ["yn_train/1"]),
    ],
)
def test_m3d_vqa_files(tmp_path: Path, options: Mapping[str, Any], ids: list[str]) -> None:
    for name in ("train", "val", "test", "test5k", "yn_train"):
        write_csv(tmp_path / f"M3D_VQA_{name}.csv", [YES_NO if name == "yn_train" else M3D])
    report = read_with_report("m3d_vqa", tmp_path, **options)
    assert [sample.id.removeprefix("m3d_vqa/M3D_VQA_") for sample in report.samples] == ids
