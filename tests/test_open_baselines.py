"""Blind baselines of open questions."""

from __future__ import annotations

import pytest

from osler.audits.baselines import BASELINES
from osler.audits.open_baselines import AnswerPrior, open_credits
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
    # question, type, target, answer by type, answer by question
    ("Which organ?", ORGAN, "It is the liver", 0.0, 1.0),
    ("Which organ?", ORGAN, "Heart", 1.0, 0.0),
    ("Where?", ORGAN, "Right lung", 0.0, 0.0),
    ("Another?", ORGAN, "hearts", 1.0, 1.0),
    ("Which disease?", SIGN, "mass", 1.0, 1.0),
    ("Which disease?", None, "Heart", 1.0, 0.0),
]


@pytest.mark.parametrize(("text", "question_type", "target", "by_type", "by_question"), TEST)
def test_the_usual_answer_is_graded_like_a_policy(
    text: str, question_type: QuestionType | None, target: str, by_type: float, by_question: float
) -> None:
    found = open_credits(TRAIN, [question(9, text, target, question_type), TRAIN[-1]])
    assert found == {"Option prior": {"toy/9": by_type}, "Question prior": {"toy/9": by_question}}
    assert found.keys() <= {baseline.title for baseline in BASELINES.values()}


def test_without_open_questions_there_is_no_prior() -> None:
    assert AnswerPrior.fit(TRAIN[-1:], lambda sample: sample.question) is None
    assert open_credits([], [question(9, "Which organ?", "Liver")]) == {}
