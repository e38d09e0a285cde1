"""Eight modalities and five question types (Med-R1, section 3), and the raw labels that datasets use for them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal, get_args

from osler.errors import DataError
from osler.text import fold_label


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
        """The name for display, e.g. "X-ray"."""
        return _TITLES.get(self, self.value.capitalize())


class QuestionType(StrEnum):
    """What a question asks for."""

    MODALITY_RECOGNITION = "modality_recognition"
    ANATOMY_IDENTIFICATION = "anatomy_identification"
    DISEASE_DIAGNOSIS = "disease_diagnosis"
    LESION_GRADING = "lesion_grading"
    OTHER_BIOLOGICAL_ATTRIBUTES = "other_biological_attributes"

    @property
    def title(self) -> str:  # type: ignore[override]
        """The name for display, e.g. "Disease diagnosis"."""
        return self.value.replace("_", " ").capitalize()


Axis = Literal["modality", "question_type"]
AXES: Final[tuple[Axis, ...]] = get_args(Axis)
"""The fields of a Sample and of a Record by which questions are divided into domains."""

Split = Literal["train", "validation", "test"]
Plane = Literal["axial", "coronal", "sagittal"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)
"""The splits of a dataset. The random streams of phantom images depend on this order."""

_TITLES: Final = {Modality.CT: "CT", Modality.MRI: "MRI", Modality.XRAY: "X-ray", Modality.OCT: "OCT"}

# Compared by `fold_label`, so "MR (Mag-netic Resonance Imaging)" is covered too.
_MODALITY_LABELS: Final = {
    Modality.CT: ("CT", "CT scan", "computed tomography", "CT (computed tomography)"),
    Modality.MRI: ("MR", "MRI", "MRI scan", "magnetic resonance imaging", "MR (magnetic resonance imaging)"),
    Modality.XRAY: ("X-ray", "CR", "DX", "radiograph", "radiography", "chest X-ray"),
    Modality.ULTRASOUND: ("ultrasound", "US"),
    Modality.DERMOSCOPY: ("dermoscopy", "Der"),
    Modality.FUNDUS: ("fundus", "fundus photography", "FP"),
    Modality.OCT: ("OCT", "optical coherence tomography", "OCT (optical coherence tomography)"),
    Modality.MICROSCOPY: ("microscopy", "microscopy images", "Mic", "histopathology", "pathology"),
}
_MODALITIES: Final = {fold_label(label): kind for kind, labels in _MODALITY_LABELS.items() for label in labels}
_QUESTION_TYPES: Final = {fold_label(kind): kind for kind in QuestionType}


def parse_modality(raw: str) -> Modality:
    """The modality of a raw label, e.g. "MR (Mag-netic Resonance Imaging)" -> MRI. Raises DataError for an unknown label."""
    if (modality := _MODALITIES.get(fold_label(raw))) is None:
        raise DataError(f"unknown modality {raw!r}: use one of {', '.join(Modality)}")
    return modality


def parse_question_type(raw: str) -> QuestionType:
    """The question type of a raw label, e.g. "Lesion Grading". Raises DataError for an unknown label."""
    if (question_type := _QUESTION_TYPES.get(fold_label(raw))) is None:
        raise DataError(f"unknown question type {raw!r}: use one of {', '.join(QuestionType)}")
    return question_type
