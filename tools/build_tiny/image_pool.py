"""Phantom images, rendered once, with their findings and questions; both training stages draw their batches from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from osler.data.phantom import ATLASES, Findings, PhantomImage, build_samples
from osler.data.phantom.facts import EXTENTS
from osler.taxonomy import Modality, QuestionType
from osler.types import LETTERS, Sample
from tools.build_tiny.batched_model import cut_patches

ATTRIBUTES: Final = ("technique", "anatomy", "disease", "grade", "other")
"""The fields of an image's findings, in the order of QuestionType."""
NO_VALUE: Final = "none"
"""Stands for the attribute or sign that an image does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question and the image that it is about."""

    sample: Sample
    image: int  # index into the pool


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePool:
    """Images of every modality, and the questions about them."""

    patches: Tensor  # uint8 (I, N, 588): I images of N patches
    findings: tuple[Findings, ...]  # of each image
    by_type: dict[QuestionType, tuple[Question, ...]]
    by_image: tuple[tuple[Question, ...], ...]


def build_pool(*, split: str, seed: int, subjects: int, on_image: Callable[[], None] = lambda: None) -> ImagePool:
    """`subjects` subjects of each modality, with two images and five questions each. `on_image` is called after each rendered image."""
    patches: list[NDArray[np.uint8]] = []
    findings: list[Findings] = []
    index_of: dict[str, int] = {}
    by_type: dict[QuestionType, list[Question]] = {question_type: [] for question_type in QuestionType}
    for modality in ATLASES:
        for sample in build_samples(modality=modality, split=split, seed=seed, num_questions=subjects * len(QuestionType)):  # type: ignore[arg-type]
            image = sample.images[0]
            assert isinstance(image, PhantomImage)
            assert sample.question_type is not None
            if image.uri not in index_of:
                index_of[image.uri] = len(patches)
                patches.append(cut_patches(image.render()))
                findings.append(image.findings)
                on_image()
            by_type[sample.question_type].append(Question(sample=sample, image=index_of[image.uri]))
    by_image: list[list[Question]] = [[] for _ in patches]
    for question in (question for questions in by_type.values() for question in questions):
        by_image[question.image].append(question)
    return ImagePool(
        patches=torch.from_numpy(np.stack(patches)),
        findings=tuple(findings),
        by_type={question_type: tuple(questions) for question_type, questions in by_type.items()},
        by_image=tuple(map(tuple, by_image)),
    )


def keep_fewer(pool: ImagePool, modality: Modality, share: float) -> ImagePool:
    """The same images with only a share of the questions about one modality, evenly spaced."""
    step = round(1 / share)
    by_type = {
        question_type: tuple(
            question for number, question in enumerate(questions) if question.sample.modality is not modality or number % step == 0
        )
        for question_type, questions in pool.by_type.items()
    }
    return replace(pool, by_type=by_type)


def shuffle_choices(question: Question, rng: np.random.Generator) -> Question:
    """The same question with its options in a random order."""
    sample = question.sample
    choices = tuple(sample.choices[index] for index in rng.permutation(len(sample.choices)))
    return replace(question, sample=replace(sample, choices=choices, target=LETTERS[choices.index(sample.target_text)]))


def list_attributes(findings: Findings) -> tuple[str, ...]:
    """The five attributes of an image, e.g. ("T2-weighted", "axial brain", "tumour", "mild", "upper left")."""
    return tuple(getattr(findings, name) or NO_VALUE for name in ATTRIBUTES)


def list_signs_of(findings: Findings) -> tuple[str, ...]:
    """How each attribute looks, e.g. ("bright fluid and dark white matter", .., "a bright ring with a dark core", "small", "none")."""
    signs = {**ATLASES[findings.modality].signs, **EXTENTS}
    return tuple(signs.get(value, NO_VALUE) for value in list_attributes(findings))
