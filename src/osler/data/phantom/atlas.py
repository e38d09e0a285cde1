"""What a phantom image shows, and what one modality can show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from osler.data.phantom.canvas import Difficulty, Field
from osler.taxonomy import Modality

GRADES: Final = ("minimal", "mild", "moderate", "severe")
LOCATIONS: Final = ("upper left", "upper right", "lower left", "lower right")
NORMAL: Final = "normal"
"""The disease of an image without a lesion; such an image has no grade and no location."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The ground truth of one image. Every field that is not None can be read from the pixels alone."""

    modality: Modality
    technique: str  # "T2-weighted"
    anatomy: str  # "axial brain"
    disease: str  # "tumour", or NORMAL
    grade: str | None  # "mild"; None for a normal image
    other: str | None  # "upper left", "brown", "crowded"; None where the image has no such attribute


@dataclass(frozen=True, slots=True, kw_only=True)
class Atlas:
    """What one modality can show, and how to draw it. Every pool of values has at least four entries.

    A sign is how a value looks: {"cyst": "a round dark area without a wall"}.
    `draw(findings, rng, size, difficulty)` returns a float32 picture (size, size, 3) in about 0..1 and draws all random numbers from `rng`.
    """

    modality: Modality
    technique_signs: Mapping[str, str]
    anatomy_signs: Mapping[str, str]
    disease_signs: Mapping[str, str]
    draw: Callable[[Findings, np.random.Generator, int, Difficulty], Field]
    other_kind: Literal["location", "colour", "side", "density"] = "location"
    others: tuple[str, ...] = LOCATIONS
    other_signs: Mapping[str, str] = field(default_factory=dict)  # of `others`, where they have one
    diseases_without_other: frozenset[str] = frozenset({NORMAL})  # e.g. glaucoma has no location

    def make_findings(self, *, technique: str, anatomy: str, disease: str, grade: str, other: str) -> Findings:
        """The findings with these values; `grade` is dropped for a normal image, `other` for a disease without it."""
        return Findings(
            modality=self.modality,
            technique=technique,
            anatomy=anatomy,
            disease=disease,
            grade=None if disease == NORMAL else grade,
            other=None if disease in self.diseases_without_other else other,
        )

    @property
    def techniques(self) -> tuple[str, ...]:
        """The names of the techniques."""
        return tuple(self.technique_signs)

    @property
    def anatomies(self) -> tuple[str, ...]:
        """The names of the anatomies."""
        return tuple(self.anatomy_signs)

    @property
    def diseases(self) -> tuple[str, ...]:
        """The names of the diseases, with NORMAL where the modality can show none."""
        return tuple(self.disease_signs)

    @property
    def signs(self) -> dict[str, str]:
        """The sign of every technique, anatomy and disease, and of the other attribute where it has one."""
        return {**self.technique_signs, **self.anatomy_signs, **self.disease_signs, **self.other_signs}
