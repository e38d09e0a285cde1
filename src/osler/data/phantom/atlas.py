"""What a phantom image shows, and what one modality can show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from osler.data.phantom.canvas import Difficulty, Field
from osler.taxonomy import Modality

GRADES: Final = ("minimal", "mild", "moderate", "severe")
LOCATIONS: Final = ("upper left", "upper right", "lower left", "lower right")
NORMAL: Final = "normal"
"""The disease of an image without a lesion; such an image has no grade, and no location."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The truth of one image. Every field that is not None can be read from its pixels alone."""

    modality: Modality
    technique: str  # "T2-weighted"
    anatomy: str  # "axial brain"
    disease: str  # "tumour", or NORMAL
    grade: str | None  # "mild"; None for a normal image
    other: str | None  # "upper left", "brown", "crowded"; None where the image has no such attribute


@dataclass(frozen=True, slots=True, kw_only=True)
class Atlas:
    """What one modality can show, and how to draw it. Every pool has at least four entries.

    `draw(findings, rng, size, difficulty)` returns a float32 picture (size, size, 3) in 0..1; it takes every random number from `rng`.
    """

    modality: Modality
    techniques: tuple[str, ...]
    anatomies: tuple[str, ...]
    diseases: tuple[str, ...]
    other_kind: Literal["location", "colour", "side", "density"]
    others: tuple[str, ...]
    signs: Mapping[str, str]  # every technique, anatomy and disease -> how it looks: {"cyst": "a round dark area with a thin wall"}
    draw: Callable[[Findings, np.random.Generator, int, Difficulty], Field]
    diseases_without_other: frozenset[str] = frozenset({NORMAL})  # e.g. glaucoma has no location


RADII: Final = {"minimal": 0.075, "mild": 0.125, "moderate": 0.19, "severe": 0.27}
"""Lesion radius of each grade in canvas units (1 = half the image), before `Difficulty.lesion_size`: 1.4 times the one below or more."""


def lesion_radius(findings: Findings, rng: np.random.Generator, difficulty: Difficulty) -> float:
    """The radius of the lesion that `findings` call for, with 6 % of jitter, so that grades never overlap; 0 for a normal image."""
    if findings.grade is None:
        return 0.0
    return float(RADII[findings.grade] * difficulty.lesion_size * rng.uniform(0.94, 1.06))


def lesion_centre(
    location: str | None, rng: np.random.Generator, *, dx: float = 0.36, dy: float = 0.36, jitter: float = 0.06
) -> tuple[float, float]:
    """A point in the named quadrant (as the picture lies, not the patient), or anywhere in a random quadrant for None."""
    name = location or LOCATIONS[rng.integers(len(LOCATIONS))]
    x = dx if name.endswith("right") else -dx
    y = dy if name.startswith("lower") else -dy
    return float(x + rng.uniform(-jitter, jitter)), float(y + rng.uniform(-jitter, jitter))
