"""A question that a person or a program asks now: no dataset, no known answer. `osler ask` and the server make their prompts here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from osler.config import StudyConfig
from osler.context import Context
from osler.data.studies import show_study
from osler.errors import DataError
from osler.prompts import render
from osler.types import LETTERS, ImageSource, Prompt, Sample

DATASET: Final = "asked"
"""The dataset of such questions in records."""


class QuestionError(DataError):
    """What is wrong with a question; `part` is the part: "choices"."""

    def __init__(self, part: str, message: str) -> None:
        super().__init__(message)
        self.part = part


MAX_TEXT: Final = 20_000
"""Characters of a question with its choices."""


MAX_VOTES: Final = 128
"""Completions of one question, which are drawn side by side."""


def reword(message: str) -> str:
    """An error of the readers for somebody who has no dataset: without the name of the question, and with a remedy that fits."""
    message = message.removeprefix(f"{DATASET}/1: ").replace(f"{DATASET}/1", "the question")
    return message.replace("or remove the row", "or choose another file").replace("remove the row", "choose another file")


def make_prompt(
    images: Sequence[ImageSource],
    question: str,
    choices: Sequence[str] = (),
    *,
    strategy: str = "think",
    context: Context | None = None,
    study: StudyConfig | None = None,
    question_id: str = "1",
) -> Prompt:
    """The prompt of a question about pictures or studies, of which `study` chooses the slices. Without choices it is open.

    The sample has no modality and no known target: "A", or "" for an open question, so its outcome means nothing; read the answer.

    Raises DataError for a blank or too long question, a blank choice, two equal choices, one choice alone and more than 26, for an image
    that cannot be read, and ConfigError for an unknown strategy.
    """
    texts = [text.strip() for text in choices]
    if not question.strip():
        raise QuestionError("question", "the question is empty: ask something")
    if len(question) + sum(map(len, texts)) > MAX_TEXT:
        raise QuestionError("question", f"the question and its choices have more than {MAX_TEXT:,} characters: shorten them")
    if any(len(text.splitlines()) > 1 for text in texts):
        raise QuestionError("choices", "a choice has several lines, which could look like other choices: write it in one")
    if not all(texts):
        raise QuestionError("choices", "a choice is empty: give it a text or leave it out")
    if len({text.casefold() for text in texts}) < len(texts):
        raise QuestionError("choices", "two choices are equal: leave one out")
    if len(texts) == 1 or len(texts) > len(LETTERS):
        raise QuestionError("choices", f"a question has 2 to {len(LETTERS)} choices, or none to be open; this one has {len(texts)}")
    sample = Sample(
        id=f"{DATASET}/{question_id}",
        dataset=DATASET,
        images=tuple(images),
        question=question.strip(),
        choices=tuple(texts),
        target="A" if texts else "",
        modality=None,
        question_type=None,
        context=context,
    )
    return render(show_study(sample, study or StudyConfig()), strategy)
