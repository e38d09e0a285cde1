"""Eight modalities and five question types (Med-R1, section 3), and the one table of raw labels that mean them."""

from __future__ import annotations

import re
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal, get_args

from osler.errors import DataError


class Modality(StrEnum):
    """How an image was acquired."""

    CT = "ct"
    MRI = "mri"
    XRAY = "xray"
    ULTRASOUND = "ultrasound"
    DERMOSCOPY = "dermoscopy"
    FUNDUS = "fundus"
    OCT = "oct"
    MICROSCOPY = "microscopy"

    @property
    def title(self) -> str:  # type: ignore[override]
        """The name a person reads, e.g. "X-ray"."""
        return _MODALITY_TITLES[self]


class QuestionType(StrEnum):
    """What a question asks for."""

    MODALITY_RECOGNITION = "modality_recognition"
    ANATOMY_IDENTIFICATION = "anatomy_identification"
    DISEASE_DIAGNOSIS = "disease_diagnosis"
    LESION_GRADING = "lesion_grading"
    OTHER_BIOLOGICAL_ATTRIBUTES = "other_biological_attributes"

    @property
    def title(self) -> str:  # type: ignore[override]
        """The name a person reads, e.g. "Disease diagnosis"."""
        return self.value.replace("_", " ").capitalize()


_MODALITY_TITLES: Final = MappingProxyType(
    {
        Modality.CT: "CT",
        Modality.MRI: "MRI",
        Modality.XRAY: "X-ray",
        Modality.ULTRASOUND: "Ultrasound",
        Modality.DERMOSCOPY: "Dermoscopy",
        Modality.FUNDUS: "Fundus",
        Modality.OCT: "OCT",
        Modality.MICROSCOPY: "Microscopy",
    }
)

Axis = Literal["modality", "question_type"]
AXES: Final[tuple[Axis, ...]] = get_args(Axis)
"""What questions are divided by: a field of a Sample and of a Record."""

# Keys are raw labels after `_fold`: lower case, letters and digits only.
_MODALITY_ALIASES: Final = MappingProxyType(
    {
        "ct": Modality.CT,
        "ctcomputedtomography": Modality.CT,
        "computedtomography": Modality.CT,
        "mr": Modality.MRI,
        "mri": Modality.MRI,
        "mrmagneticresonanceimaging": Modality.MRI,
        "magneticresonanceimaging": Modality.MRI,
        "xray": Modality.XRAY,
        "cr": Modality.XRAY,
        "dx": Modality.XRAY,
        "radiograph": Modality.XRAY,
        "us": Modality.ULTRASOUND,
        "ultrasound": Modality.ULTRASOUND,
        "dermoscopy": Modality.DERMOSCOPY,
        "der": Modality.DERMOSCOPY,
        "fundus": Modality.FUNDUS,
        "fundusphotography": Modality.FUNDUS,
        "fp": Modality.FUNDUS,
        "oct": Modality.OCT,
        "octopticalcoherencetomography": Modality.OCT,
        "opticalcoherencetomography": Modality.OCT,
        "microscopy": Modality.MICROSCOPY,
        "microscopyimages": Modality.MICROSCOPY,
        "mic": Modality.MICROSCOPY,
    }
)

_QUESTION_TYPE_ALIASES: Final = MappingProxyType(
    {
        "modalityrecognition": QuestionType.MODALITY_RECOGNITION,
        "anatomyidentification": QuestionType.ANATOMY_IDENTIFICATION,
        "diseasediagnosis": QuestionType.DISEASE_DIAGNOSIS,
        "lesiongrading": QuestionType.LESION_GRADING,
        "otherbiologicalattributes": QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
    }
)


def _fold(raw: str) -> str:
    return re.sub(r"[^a-z0-9]", "", raw.lower())


def parse_modality(raw: str) -> Modality:
    """The modality a raw label names, e.g. "MR (Mag-netic Resonance Imaging)" -> MRI. Raises DataError for an unknown label."""
    if (modality := _MODALITY_ALIASES.get(_fold(raw))) is None:
        raise DataError(f"unknown modality {raw!r}: use one of {', '.join(Modality)}")
    return modality


def parse_question_type(raw: str) -> QuestionType:
    """The question type a raw label names, e.g. "Lesion Grading". Raises DataError for an unknown label."""
    if (question_type := _QUESTION_TYPE_ALIASES.get(_fold(raw))) is None:
        raise DataError(f"unknown question type {raw!r}: use one of {', '.join(QuestionType)}")
    return question_type
