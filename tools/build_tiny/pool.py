"""Pictures drawn once, with their truth and their questions, for the stages of the recipe to draw batches from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from osler.data.phantom import ATLASES, Findings, PhantomImage, build_samples
from osler.taxonomy import QuestionType
from osler.types import LETTERS, Sample
from tools.build_tiny.fast import cut_patches

ATTRIBUTES: Final = ("technique", "anatomy", "disease", "grade", "other")
"""What a picture shows, in the order of QuestionType."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question and the picture that it is about."""

    sample: Sample
    picture: int  # index into the pool
    question_type: QuestionType


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Pictures of every modality, and questions about them by type."""

    patches: Tensor  # uint8 (I, N, 588)
    findings: tuple[Findings, ...]
    questions: dict[QuestionType, tuple[Question, ...]]
    by_picture: tuple[tuple[Question, ...], ...]


def build_pool(*, split: str, seed: int, subjects: int, advance: Callable[[], None] = lambda: None) -> Pool:
    """`subjects` subjects of each modality: two pictures and five questions each. `advance` is called once for each picture."""
    patches: list[NDArray[np.uint8]] = []
    findings: list[Findings] = []
    places: dict[str, int] = {}
    questions: dict[QuestionType, list[Question]] = {question_type: [] for question_type in QuestionType}
    for modality in ATLASES:
        for sample in build_samples(modality=modality, split=split, seed=seed, num_questions=subjects * len(QuestionType)):  # type: ignore[arg-type]
            image = sample.images[0]
            assert isinstance(image, PhantomImage)
            assert sample.question_type is not None
            if image.uri not in places:
                places[image.uri] = len(patches)
                patches.append(cut_patches(image.render()))
                findings.append(image.findings)
                advance()
            questions[sample.question_type].append(Question(sample=sample, picture=places[image.uri], question_type=sample.question_type))
    by_picture: list[list[Question]] = [[] for _ in patches]
    for question in (question for asked in questions.values() for question in asked):
        by_picture[question.picture].append(question)
    return Pool(
        patches=torch.from_numpy(np.stack(patches)),
        findings=tuple(findings),
        questions={question_type: tuple(asked) for question_type, asked in questions.items()},
        by_picture=tuple(map(tuple, by_picture)),
    )


def shuffle_choices(sample: Sample, rng: np.random.Generator) -> Sample:
    """The same question with its options in a new order."""
    choices = tuple(sample.choices[pick] for pick in rng.permutation(len(sample.choices)))
    return replace(sample, choices=choices, target=LETTERS[choices.index(sample.target_text)])


def list_attributes(findings: Findings) -> tuple[str, ...]:
    """The five attributes of a picture, "none" for what it lacks, e.g. ("T2-weighted", "axial brain", "tumour", "mild", "upper left")."""
    return tuple(getattr(findings, name) or "none" for name in ATTRIBUTES)
