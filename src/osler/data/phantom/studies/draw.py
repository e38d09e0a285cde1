"""Draw one picture of a study, in the units of its window: Hounsfield units, signal, tones."""

from __future__ import annotations

from typing import Final

import numpy as np

from osler.data.phantom.canvas import Difficulty, Field
from osler.data.phantom.lesions import Lesion
from osler.data.phantom.studies import bodies, planes
from osler.data.phantom.studies.truth import Aspect, Spot, StudyKind, Truth

# The range of grey that a lesion's surroundings are pulled to, and the step between its levels, in the units of the kind.
_GROUNDS: Final = {
    StudyKind.CT_VOLUME: (-30.0, 110.0, 132.0),
    StudyKind.MRI_VOLUME: (330.0, 670.0, 330.0),
    StudyKind.XRAY_VIEWS: (250.0, 560.0, 340.0),
    StudyKind.FOLLOW_UP: (250.0, 560.0, 340.0),
}
_NOISE: Final = {StudyKind.CT_VOLUME: 12.0, StudyKind.MRI_VOLUME: 30.0, StudyKind.XRAY_VIEWS: 25.0, StudyKind.FOLLOW_UP: 25.0}


def draw(truth: Truth, picture: int, anatomy: np.random.Generator, noise: np.random.Generator, size: int, difficulty: Difficulty) -> Field:
    """Picture number `picture` (from 0) of a study, (size, size).

    `anatomy` is the same generator for all pictures of a study, `noise` another one for each.
    """
    place = (picture + 0.5) / truth.num_pictures
    match truth.kind:
        case StudyKind.CT_VOLUME:
            field = bodies.draw_trunk(size, anatomy, place)
        case StudyKind.MRI_VOLUME:
            field = bodies.draw_head(size, anatomy, noise, place)
        case StudyKind.ULTRASOUND_CINE:
            spot = truth.marks[0].spots[picture]
            assert spot is not None
            is_chamber = truth.aspect is Aspect.CONTRACTION
            return planes.draw_echoes(size, anatomy, noise, spot, is_chamber=is_chamber, difficulty=difficulty)
        case StudyKind.XRAY_VIEWS if picture == 1:
            field = planes.draw_lateral_chest(size, anatomy)
        case _:
            field = planes.draw_frontal_chest(size, anatomy)
    for mark in truth.marks:
        if (spot := mark.spots[picture]) is not None:
            field = _add_lesion(field, mark.name, spot, truth.kind, noise, difficulty)
    field = field + np.float32(_NOISE[truth.kind] * difficulty.noise) * noise.standard_normal((size, size), dtype=np.float32)
    return field if truth.kind is StudyKind.CT_VOLUME else np.maximum(field, 0)  # only Hounsfield units are negative


def _add_lesion(field: Field, name: str, spot: Spot, kind: StudyKind, rng: np.random.Generator, difficulty: Difficulty) -> Field:
    """Paint a lesion as its sign says it: a ring, a bright or a dark area."""
    low, high, step = _GROUNDS[kind]
    lesion = Lesion(picture=field, cx=spot.x, cy=spot.y, radius=spot.radius, step=step * difficulty.contrast)
    lesion.level_ground(low=low, high=high)
    match name:
        case "abscess" | "tumour":
            lesion.ring(rng)
        case "cyst":
            lesion.disc(lesion.radius, -1)
        case "calcification":
            lesion.blob(lesion.radius, -1, rng, roughness=0.14)
        case _:
            lesion.blob(lesion.radius, 1, rng, roughness=0.1)
    return lesion.picture
