"""Reference findings of a phantom question: one to three short sentences of what the image shows, then a conclusion that is the answer.

Every sentence states a fact of the image. The first finding decides the question; further findings describe the same image. The wording is
drawn at random, and neither it nor the number of findings depends on the answer.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from osler.data.facts.findings import IMPRESSION
from osler.data.phantom.atlas import LOCATIONS, Atlas, Findings
from osler.data.phantom.facts import EXTENTS
from osler.taxonomy import QuestionType

FIRST_FRAMES: Final = ("The image shows {}.", "I see {}.", "{}.")
FURTHER_FRAMES: Final = ("The image also shows {}.", "I also see {}.", "{}.")
EXTENT_FRAME: Final = "The affected area is {}."
PLACE_FRAME: Final = "The lesion lies in the {} half, on the {}."
CONCLUSIONS: Final[Mapping[str, str]] = MappingProxyType(  # by question type, or by `Atlas.other_kind` for the other attribute
    {
        QuestionType.MODALITY_RECOGNITION: "Technique:",
        QuestionType.ANATOMY_IDENTIFICATION: "Anatomy:",
        QuestionType.DISEASE_DIAGNOSIS: "Diagnosis:",
        QuestionType.LESION_GRADING: "Grade:",
        "location": "Location:",
        "colour": "Colour:",
        "side": "Location:",
        "density": "Cell density:",
    }
)

_IMPRESSION_SHARE: Final = 0.3
_MORE_FINDINGS: Final = (0.65, 0.65 + 0.28)  # below the first share one finding, below the second two, else three


def write_rationale(atlas: Atlas, findings: Findings, question_type: QuestionType, answer: str, rng: np.random.Generator) -> str:
    """The findings and the conclusion, which ends with the answer without a full stop."""
    deciding, *others = _sentences(atlas, findings, question_type, answer)
    num = min(1 + bisect_right(_MORE_FINDINGS, rng.random()), 1 + len(others))  # as numpy's `choice` with these shares
    chosen = [deciding, *(others[pick] for pick in rng.permutation(len(others))[: num - 1])]
    sentences = []
    for position, sentence in enumerate(chosen):
        frames = FURTHER_FRAMES if position else FIRST_FRAMES
        frame = frames[rng.integers(len(frames))]
        if sentence.endswith("."):
            sentences.append(sentence)
        else:
            sentences.append(_capitalise(frame.format(sentence)))
    key = atlas.other_kind if question_type == QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES else question_type
    conclusion = IMPRESSION if rng.random() < _IMPRESSION_SHARE else CONCLUSIONS[key]
    return " ".join([*sentences, conclusion, answer])


def _sentences(atlas: Atlas, findings: Findings, question_type: QuestionType, answer: str) -> list[str]:
    """What the image shows, the deciding finding first: whole sentences, and signs that a frame makes a sentence."""
    place = [PLACE_FRAME.format(*findings.other.split())] if findings.other in LOCATIONS else []
    technique, anatomy = atlas.signs[findings.technique], atlas.signs[findings.anatomy]
    disease = atlas.signs[findings.disease]
    match question_type:
        case QuestionType.MODALITY_RECOGNITION:
            return [technique, anatomy]
        case QuestionType.ANATOMY_IDENTIFICATION:
            return [anatomy, technique]
        case QuestionType.DISEASE_DIAGNOSIS:
            return [disease, *place, anatomy, technique]
        case QuestionType.LESION_GRADING:
            return [EXTENT_FRAME.format(EXTENTS[answer]), disease, *place]
    if atlas.other_kind == "location":
        return [*place, disease, anatomy]
    if atlas.other_kind == "colour":
        return [disease, anatomy]
    return [atlas.signs[answer], disease, anatomy]


def _capitalise(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
