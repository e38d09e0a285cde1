"""Benchmarks that bring answers without options, PathVQA and MIMIC-CXR-VQA, in their published layouts."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_rows import ARGUMENTS, CHOOSE, PATH_ROWS, QUERY, VERIFY, Row, draw, reasons, write_path_vqa, write_text

from osler.data.inspect import check
from osler.data.readers import read_with_report
from osler.data.readers.recognise import recognise
from osler.errors import DataError
from osler.grading.comparison import compare
from osler.taxonomy import Modality, QuestionType

# PathVQA


def test_path_vqa_rows(tmp_path: Path) -> None:
    write_path_vqa(tmp_path, PATH_ROWS)
    write_path_vqa(tmp_path, PATH_ROWS[:1], "train")
    report = read_with_report("path_vqa", tmp_path, split="test")
    found = [(sample.id, set(sample.choices), sample.target_text) for sample in report.samples]
    assert found == [
        ("path_vqa/test/0", set(), "in the canals of hering"),
        ("path_vqa/test/1", {"Yes", "No"}, "Yes"),
        ("path_vqa/test/2", {"Yes", "No"}, "No"),
        ("path_vqa/test/3", set(), "yes and no"),
    ]
    assert reasons(report) == ["'answer' is empty"]
    assert {sample.modality for sample in report.samples} == {None}
    assert report.samples[0].images == report.samples[1].images  # equal bytes are one image
    picture = report.samples[0].images[0].load()
    assert (picture.mode, picture.size) == ("RGB", (9, 6))
    assert read_with_report("path_vqa", tmp_path).splits == ("train", "test")
    assert [sample.id for sample in read_with_report("path_vqa", tmp_path, split="train").samples] == ["path_vqa/train/0"]


def test_the_order_of_yes_and_no_says_nothing(tmp_path: Path) -> None:
    write_path_vqa(tmp_path, [(f"is it {number}?", ("yes", "no")[number % 2]) for number in range(200)])
    first, again, other = (read_with_report("path_vqa", tmp_path, split="test", seed=seed).samples for seed in (0, 0, 1))
    assert first == again != other
    letters = [sample.target for sample in first]
    assert 70 < letters.count("A") < 130
    assert 30 < letters[::2].count("A") < 70  # those that are answered yes


@pytest.mark.parametrize("place", ["test_qa.pkl", "qas/test/test_qa.pkl", "pvqa/qas/test/test_qa.pkl"])
def test_pickles_are_refused_unread(tmp_path: Path, place: str) -> None:
    pickle = write_text(tmp_path / place, "cos\nsystem\n")
    for root in (tmp_path, pickle):
        with pytest.raises(DataError, match=r"test_qa\.pkl may run code when it is read: fetch the Parquet files of the hub set"):
            read_with_report("path_vqa", root)
        assert recognise(root)[0] == "path_vqa"


# MIMIC-CXR-VQA

SEVERAL = "atelectasis, copd/emphysema, mass/nodule (not otherwise specified)"
BOTH = {"Left lung", "Right lung"}
DIAGNOSIS, ANATOMY, OTHER = (
    QuestionType.DISEASE_DIAGNOSIS,
    QuestionType.ANATOMY_IDENTIFICATION,
    QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
)

MIMIC_ROWS: dict[str, tuple[Row, tuple[set[str], str, QuestionType | None] | str]] = {
    "verify": (VERIFY, ({"Yes", "No"}, "No", DIAGNOSIS)),
    "verify, answer as a text": ({**VERIFY, "answer": "yes"}, ({"Yes", "No"}, "Yes", DIAGNOSIS)),
    "verify, no answer": ({**VERIFY, "answer": []}, "a verify question has the answer 'none': yes or no is expected"),
    "verify, a finding": ({**VERIFY, "answer": ["edema"]}, "a verify question has the answer 'edema': yes or no is expected"),
    "choose, one": (CHOOSE, (BOTH, "Right lung", ANATOMY)),
    "choose, both": ({**CHOOSE, "answer": ["left lung", "right lung"]}, (set(), "left lung, right lung", ANATOMY)),
    "choose, neither": ({**CHOOSE, "answer": []}, (set(), "none", ANATOMY)),
    "choose, another": ({**CHOOSE, "answer": ["spine"]}, "a choose question has the answer 'spine', which it does not name"),
    "choose between findings": (
        {**CHOOSE, "content_type": "attribute", "template_arguments": VERIFY["template_arguments"], "answer": ["lung cancer"]},
        ({"Pleural effusion", "Lung cancer"}, "Lung cancer", DIAGNOSIS),
    ),
    "choose, the sex": (
        {**CHOOSE, "content_type": "gender", "template_arguments": ARGUMENTS, "answer": ["f"]},
        ({"Male", "Female"}, "Female", OTHER),
    ),
    "choose, the view": (
        {**CHOOSE, "content_type": "plane", "template_arguments": ARGUMENTS, "answer": ["pa"]},
        ({"AP", "PA"}, "PA", ANATOMY),
    ),
    "query, several": (QUERY, (set(), SEVERAL, DIAGNOSIS)),
    "query, one twice": ({**QUERY, "answer": ["atelectasis", "atelectasis"]}, (set(), "atelectasis", DIAGNOSIS)),
    "query, none": ({**QUERY, "answer": []}, (set(), "none", DIAGNOSIS)),
    "query, the sex": ({**QUERY, "content_type": "gender", "answer": ["m"]}, (set(), "male", OTHER)),
    "query, another content": ({**QUERY, "content_type": "colour"}, (set(), SEVERAL, None)),
    "before the build": ({**QUERY, "answer": None}, "'answer' is missing: build the dataset with build_dataset.sh"),
    "an answer of numbers": ({**QUERY, "answer": [1]}, "'answer' is not a list of texts"),
    "another kind": ({**QUERY, "semantic_type": "count"}, "unknown semantic type 'count': verify, choose or query is expected"),
    "no image": ({**QUERY, "image_path": None}, "'image_path' is missing"),
}


@pytest.mark.parametrize(("row", "expected"), MIMIC_ROWS.values(), ids=MIMIC_ROWS)
def test_mimic_cxr_vqa_rows(tmp_path: Path, row: Row, expected: tuple[set[str], str, QuestionType | None] | str) -> None:
    write_text(tmp_path / "test.json", json.dumps([row]))
    report = read_with_report("mimic_cxr_vqa", tmp_path, split="test")
    if isinstance(expected, str):
        assert [reason.startswith(expected) for reason in reasons(report)] == [True], reasons(report)
        return
    (sample,) = report.samples
    assert (set(sample.choices), sample.target_text, sample.question_type) == expected
    assert (sample.id, sample.subject_id, sample.modality) == ("mimic_cxr_vqa/test/13280", "10000032", Modality.XRAY)
    assert sample.metadata["study_id"] == 50414267
    assert sample.images[0].uri == "p10/p10000032/s50414267/02aa804e-bde0afdd.jpg"


@pytest.mark.parametrize("path", ["p10/p1/s5/a.jpg", "files/p10/p1/s5/a.jpg"])
@pytest.mark.parametrize("place", ["p10/p1/s5/a.jpg", "files/p10/p1/s5/a.jpg"])
def test_mimic_cxr_images_lie_in_files_or_not(tmp_path: Path, path: str, place: str) -> None:
    draw(tmp_path / "jpg" / place, "L")
    write_text(tmp_path / "mimiccxrvqa/dataset/train.json", json.dumps([{**VERIFY, "image_path": path}]))
    report = check("mimic_cxr_vqa", tmp_path, images=tmp_path / "jpg")
    assert (report.num_samples, report.bad_images) == (1, ())


def test_mimic_cxr_vqa_files(tmp_path: Path) -> None:
    for name, row in (("train", VERIFY), ("valid", CHOOSE), ("test", QUERY)):
        write_text(tmp_path / f"{name}.json", json.dumps([row, {**row, "idx": 0}], indent=4))
    report = read_with_report("mimic_cxr_vqa", tmp_path)
    assert [sample.id.removeprefix("mimic_cxr_vqa/") for sample in report.samples] == [
        f"{split}/{number}" for split in ("train", "validation", "test") for number in (13280, 0)
    ]
    assert report.splits == ("train", "validation", "test")
    assert len(read_with_report("mimic_cxr_vqa", tmp_path, split="validation").samples) == 2


LABELS = ("atelectasis", "copd/emphysema", "left hilar structures", "lung opacity", "mass/nodule (not otherwise specified)", "picc")


@settings(max_examples=40, deadline=None)
@given(st.permutations(LABELS), st.integers(1, len(LABELS)))
def test_a_set_of_answers_is_right_in_any_order_and_only_whole(labels: list[str], number: int) -> None:
    """What the reader writes as a target is what the comparison of open answers reads as a set."""
    target = ", ".join(sorted(labels[:number]))
    assert compare(", ".join(labels[:number]), target).is_right
    assert compare(" and ".join(labels[:number]), target).is_right
    assert not compare("none", target).is_right
    for other in (labels[: number - 1], labels[: number + 1]):
        if len(other) != number and other:
            assert not compare(", ".join(other), target).is_right
