"""The real annotation files parse whole, and their answers are graded right; skipped where OSLER_TEST_DATA does not name their folder."""

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import test_check_grader
import test_check_open_answers

from osler.data.readers import ReadReport, read_with_report
from osler.taxonomy import Modality
from tools.check_grader import read_choice_sets
from tools.check_open_answers import pairs_read_as_equal, read_references

DATA = os.environ.get("OSLER_TEST_DATA")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not DATA, reason="OSLER_TEST_DATA does not name the folder of real annotation files"),
]

Read = Callable[..., ReadReport]


@pytest.fixture(scope="module")
def read() -> Read:
    """The reader of real files, which reads each of them once."""
    return cache(read_with_report)


TEST_COUNTS = {
    "ct": 3241,
    "mri": 6370,
    "xray": 1615,
    "ultrasound": 2074,
    "dermoscopy": 1306,
    "fundus": 1098,
    "oct": 848,
    "microscopy": 1110,
}
TRAIN_COUNTS = {
    "ct": 12567,
    "xray": 6301,
    "ultrasound": 8917,
    "dermoscopy": 5373,
    "fundus": 4300,
    "oct": 3798,
    "microscopy": 4570,
    "unknown": 1,
}
TYPE_TEST_COUNTS = {"anatomy_identification": 3329, "disease_diagnosis": 11058, "lesion_grading": 436, "modality_recognition": 2392,
                    "other_biological_attributes": 704}  # fmt: skip
TYPE_TRAIN_COUNTS = {
    "anatomy_identification": 13119,
    "lesion_grading": 1662,
    "modality_recognition": 9173,
    "other_biological_attributes": 2794,
}


@pytest.mark.parametrize(
    ("axis", "train", "test"),
    [("modality", TRAIN_COUNTS, TEST_COUNTS), ("question_type", TYPE_TRAIN_COUNTS, TYPE_TEST_COUNTS)],
)
def test_every_med_r1_file_parses_whole(read, axis, train, test):
    start = time.process_time()  # not that of other processes of a busy machine
    report = read("med_r1", Path(DATA) / "omnimedvqa_splits", axis=axis)
    assert time.process_time() - start < 30
    expected = {(name, split): count for split, counts in (("train", train), ("test", test)) for name, count in counts.items()}
    assert Counter(tuple(sample.id.split("/")[1:3]) for sample in report.samples) == expected
    assert report.refused == ()
    assert report.notes["option text that holds what looks like a letter, such as '(H&E)'"] == 194  # 388 on both axes
    assert report.notes["other axis's label known from the same row there"] == 37_268
    assert report.notes["two options are equal but for case or punctuation"] == 44
    tricky = [sample for sample in report.samples if any("(H&E)" in choice for choice in sample.choices)]
    assert len(tricky) == 194
    assert all(len(sample.choices) == 4 for sample in tricky)


def test_the_medvlm_r1_file_parses_whole(read):
    report = read("huatuo", Path(DATA) / "medvlm_r1")
    assert [sample.modality for sample in report.samples] == [Modality.MRI] * 300 + [Modality.CT] * 300 + [Modality.XRAY] * 300
    assert report.refused == ()
    assert report.notes["label with an underscore among the options, such as 'x_ray'"] == 45


def test_slake_parses_whole(read):
    report = read("slake", Path(DATA) / "slake", language="all")
    assert (len(report.samples), [refusal.row for refusal in report.refused]) == (11_899, ["slake/train.json/1622"])  # it has no answer
    assert Counter(sample.metadata["split"] for sample in report.samples) == {"train": 9042, "validation": 1969, "test": 888}
    assert Counter(sample.modality for sample in report.samples) == {Modality.CT: 5689, Modality.XRAY: 3493, Modality.MRI: 2717}
    assert len({sample.subject_id for sample in report.samples}) == 546
    assert all(sample.question_type for sample in report.samples)
    closed = [sample for sample in report.samples if sample.metadata["answer_type"] == "CLOSED"]
    assert sum(not sample.choices for sample in closed) < 20
    assert not [
        sample for sample in report.samples if sample.choices and len({choice.lower() for choice in sample.choices}) < len(sample.choices)
    ]


def test_vqa_rad_parses_whole(read):
    report = read("vqa_rad", Path(DATA) / "vqa_rad")
    assert (len(report.samples), report.refused) == (1579, ())
    assert Counter(sample.metadata["split"] for sample in report.samples) == {"train": 1272, "test": 307}
    assert report.notes["number instead of text in 'answer'"] == 3
    assert Counter(sample.modality for sample in report.samples) == {None: 1084, Modality.MRI: 194, Modality.XRAY: 167, Modality.CT: 134}
    assert "image whose modality answers disagree" not in report.notes
    assert all(sample.images[0].load().mode == "RGB" for sample in report.samples[:20])


SYNONYM_PAIRS = 168
"""Pairs of different spellings of one answer in SLAKE and VQA-RAD, read one by one. Read the list again before this number is raised."""


def test_no_phrasing_is_misread_over_real_choice_sets(read: Read) -> None:
    sets = sorted(read_choice_sets(Path(str(DATA)), read))
    assert len(sets) > 50_000
    test_check_grader.check(random.Random(0).sample(sets, 500))


def test_every_phrasing_of_real_references_is_right(read: Read) -> None:
    references = read_references(Path(str(DATA)), read)
    assert len(references) > 900
    test_check_open_answers.check(references)
    assert len(pairs_read_as_equal(references)) <= SYNONYM_PAIRS
