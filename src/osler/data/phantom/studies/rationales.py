"""Reference findings of a question about a study: what decides it, at times how the lesion looks, then a conclusion that is the answer.

Every sentence states a fact of the study. The wording is drawn at random and does not depend on the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from osler.data.facts.findings import IMPRESSION
from osler.data.phantom.rationales import FIRST_FRAMES, FURTHER_FRAMES
from osler.data.phantom.studies.facts import ANSWER_SIGNS, sign_of_lesion, size_of, slices_phrase
from osler.data.phantom.studies.truth import Aspect, Truth

CONCLUSIONS: Final[Mapping[Aspect, str]] = MappingProxyType(
    {
        Aspect.SIDE: "Location:",
        Aspect.LEVEL: "Location:",
        Aspect.COUNT: "Number:",
        Aspect.EXTENT: "Extent:",
        Aspect.DIAGNOSIS: "Diagnosis:",
        Aspect.MOTION: "Motion:",
        Aspect.CONTRACTION: "Motion:",
        Aspect.SITE: "Location:",
        Aspect.CHANGE: "Change:",
        Aspect.NEW_SITE: "Location:",
    }
)
_IMPRESSION_SHARE: Final = 0.3
_FURTHER_SHARE: Final = 0.3


def write_rationale(truth: Truth, rng: np.random.Generator) -> str:
    """The findings and the conclusion, which ends with the answer without a full stop."""
    sentences = [*_deciding(truth, rng)]
    further = _further(truth)
    if rng.random() < _FURTHER_SHARE and further is not None:
        sentences.append(_frame(FURTHER_FRAMES, further, rng))
    conclusion = IMPRESSION if rng.random() < _IMPRESSION_SHARE else CONCLUSIONS[truth.aspect]
    return " ".join([*sentences, conclusion, truth.answer])


def _deciding(truth: Truth, rng: np.random.Generator) -> list[str]:
    match truth.aspect:
        case Aspect.SIDE | Aspect.LEVEL | Aspect.EXTENT:
            return [f"The lesion is on {slices_phrase(truth.marks[0].pictures)}."]
        case Aspect.COUNT:
            places = [slices_phrase(mark.pictures) for mark in truth.marks]
            return [f"Lesions: {', '.join(places)}."]
        case Aspect.DIAGNOSIS if truth.marks:
            (mark,) = truth.marks
            return [f"The lesion is on {slices_phrase(mark.pictures)}.", _frame(FURTHER_FRAMES, sign_of_lesion(truth.kind, mark.name), rng)]
        case Aspect.DIAGNOSIS:
            return [_frame(FIRST_FRAMES, sign_of_lesion(truth.kind, truth.answer), rng)]
        case Aspect.SITE:
            side, depth = truth.answer.split()
            return [f"The lesion is on the {side}.", f"It lies {ANSWER_SIGNS[depth]}."]
        case Aspect.NEW_SITE:
            (spot, _) = truth.marks[0].spots
            assert spot is not None
            return [f"The prior image shows a lesion in the {spot.height} {spot.side}."]
        case Aspect.CHANGE:
            sizes = [size_of(spot) for spot in truth.marks[0].spots if spot is not None]
            told = [f"The lesion was {sizes[0]} and is {sizes[1]}."] if len(sizes) == 2 else [f"The lesion is {sizes[0]}."]
            return [_frame(FIRST_FRAMES, ANSWER_SIGNS[truth.answer], rng), *told]
    return [_frame(FIRST_FRAMES, ANSWER_SIGNS[truth.answer], rng)]


def _further(truth: Truth) -> str | None:
    """How the lesion looks, where that is not said yet."""
    if truth.aspect in (Aspect.DIAGNOSIS, Aspect.MOTION, Aspect.CONTRACTION, Aspect.COUNT):
        return None
    return sign_of_lesion(truth.kind, truth.marks[-1].name)


def _frame(frames: tuple[str, ...], finding: str, rng: np.random.Generator) -> str:
    sentence = frames[rng.integers(len(frames))].format(finding)
    return sentence[:1].upper() + sentence[1:]
