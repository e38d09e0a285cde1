"""Blind baselines of open questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from osler.audits.open_arrays import OpenArrays
from osler.audits.open_baselines import OPEN_BASELINES, OpenShares, OpenTable, open_answers, open_matrix
from osler.grading.comparison import compare
from osler.taxonomy import QuestionType
from osler.types import Sample

ORGAN, SIGN = QuestionType.ANATOMY_IDENTIFICATION, QuestionType.DISEASE_DIAGNOSIS


def question(number: int, text: str, target: str, question_type: QuestionType | None = ORGAN, choices: tuple[str, ...] = ()) -> Sample:
    return Sample(
        id=f"toy/{number}",
        dataset="toy",
        images=(),
        question=text,
        choices=choices,
        target=target,
        modality=None,
        question_type=question_type,
    )


TRAIN = [
    question(0, "Which organ?", "Liver"),
    question(1, "which organ", "the liver"),
    question(2, "Which organ?", "Heart"),
    question(3, "Where?", "Left lung"),
    question(4, "Which is larger?", "Heart"),
    question(5, "Which is larger?", "Heart"),
    question(6, "Which disease?", "Mass", SIGN),
    question(7, "Which organ?", "A", choices=("Brain", "Eye")),
]
TEST = [
    # question, type, target, answered right by type, by question, by the nearest question
    ("Which organ?", ORGAN, "It is the liver", False, True, True),
    ("Which organ?", ORGAN, "Heart", True, False, False),
    ("Where?", ORGAN, "Right lung", False, False, False),
    ("Another?", ORGAN, "hearts", True, True, True),
    ("Which disease?", SIGN, "mass", True, True, True),
    ("Which disease?", None, "Heart", True, False, False),
    ("Which disease is shown?", ORGAN, "Mass", False, False, True),
    ("Where is it?", ORGAN, "left lung", False, False, True),
    ("Which of both organs is larger?", ORGAN, "Heart", True, True, True),
]
NAMES = ("option_prior", "question_prior", "nearest_question")


@pytest.mark.parametrize(("text", "question_type", "target", "by_type", "by_question", "by_nearest"), TEST)
def test_blind_answers_are_graded_like_a_policy(
    text: str, question_type: QuestionType | None, target: str, by_type: bool, by_question: bool, by_nearest: bool
) -> None:
    found = open_answers(TRAIN, [question(9, text, target, question_type), TRAIN[-1]])
    assert tuple(found) == NAMES == tuple(OPEN_BASELINES)[:3]
    assert [answers.keys() for answers in found.values()] == [{"toy/9"}] * 3  # questions with choices are left out
    assert [compare(answers["toy/9"], target).is_right is True for answers in found.values()] == [by_type, by_question, by_nearest]


def test_the_nearest_question_is_the_same_question_where_train_has_it() -> None:
    found = open_answers(TRAIN, TRAIN)
    assert found["nearest_question"] == found["question_prior"]
    unknown = open_answers(TRAIN, [question(8, "肺在哪里?", "x"), question(9, "", "x")])["nearest_question"]
    assert list(unknown.values()) == ["Heart", "Heart"]  # no known word: the usual answer


@pytest.mark.parametrize(
    ("texts", "usual"), [(["Liver", "the liver", "Heart"], "Liver"), (["B", "A"], "A"), (["A, b", "b"], "A, b"), (["", "x", ""], "")]
)
def test_the_most_frequent_answer(texts: list[str], usual: str) -> None:
    arrays = OpenArrays.of([question(number, "?", text) for number, text in enumerate(texts)])
    found = arrays.most_frequent(np.arange(len(texts)), np.full(len(texts), 1))
    assert [found[0], arrays.target_texts[found[1]]] == [-1, usual]


def matrix_of(train: Mapping[str, list[Sample]], test: Mapping[str, list[Sample]]) -> dict[str, dict[str, dict[str, Any]]]:
    samples: list[Sample] = []
    places: list[dict[str, np.ndarray]] = []
    for part in (train, test):
        places.append({})
        for name, rows in part.items():
            kept = [row for row in rows if not row.choices]
            places[-1][name] = np.arange(len(samples), len(samples) + len(kept))
            samples += kept
    return open_matrix(OpenTable.of(samples, np.arange(len(samples))), *places, has_contexts=False)


def test_without_open_questions_there_is_no_answer() -> None:
    asked = question(9, "Which organ?", "Liver")
    assert open_answers([], [asked]) == open_answers(TRAIN[-1:], [asked]) == open_answers(TRAIN, TRAIN[-1:]) == {}
    matrix = matrix_of({"ct": TRAIN, "mri": TRAIN[-1:]}, {"ct": [asked, replace(asked, target="Heart"), TRAIN[-1]], "mri": TRAIN[-1:]})
    nothing = {"ct": None, "mri": None}
    half = OpenShares(right=0.5, undecided=0.0)
    assert matrix == {name: {"ct": {"ct": half, "mri": None}, "mri": nothing} for name in NAMES}


def test_undecided_blind_answers_are_no_right_answers() -> None:
    asked = {"all": [question(9, "Which disease?", "Large mass", SIGN), question(8, "Which disease?", "Mass", SIGN)]}
    assert matrix_of({"all": TRAIN}, asked)["question_prior"]["all"]["all"] == OpenShares(right=0.5, undecided=0.5)
