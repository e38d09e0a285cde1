"""The fields of a DICOM header that say something of the patient and name nobody, for the context of a question."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from osler.context import Context
from osler.data.privacy.values import MAX_AGE, age_at, cap_age, clean_words, is_organ, text_of
from osler.images.clip import Clip
from osler.images.dicom import DicomFrame
from osler.images.dicom_header import naming_damage
from osler.images.geometry import TurnedImage
from osler.images.montage import Montage, ReducedImage
from osler.images.reslice import CutSlice
from osler.types import ImageSource

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SEXES: Final = {"M": "male", "F": "female", "O": "other"}
_SEEN: Final = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
_SIDES: Final = {"L": "left", "R": "right", "B": "both"}
_KEYWORDS: Final = ("PatientAge", "PatientBirthDate", "PatientSex", "ImageLaterality", "Laterality", "BodyPartExamined", *_SEEN)
_UNITS: Final = {"Y": "year", "M": "month", "W": "week", "D": "day"}
_INDICATIONS: Final = ("ReasonForTheRequestedProcedure", "ReasonForStudy", "AdmittingDiagnosesDescription", "ReasonForVisit")


def context_fields(dataset: Dataset, *, clean_descriptors: bool = False) -> dict[str, str]:
    """The fields that a header knows, {"age": "63 years", "sex": "female", "laterality": "left", "body_part": "chest"}.

    An age of 90 years or more is "90+ years" (45 CFR 164.514(b)(2)(i)(C)); without the element Patient's Age it is the time from the birth
    date to the study. `laterality` is left, right or both. With `clean_descriptors` also "indication", the reason for the study with the
    words of a closed vocabulary only. Values that are no term of the standard are left out, as are empty and damaged elements.
    """
    with naming_damage("a damaged header"):
        seen = next((text for keyword in _SEEN if (text := text_of(dataset, keyword))), "")
        part = text_of(dataset, "BodyPartExamined").upper()
        texts = (text_of(dataset, keyword) for keyword in _INDICATIONS) if clean_descriptors else ()
        fields = {
            "age": _age(cap_age(text_of(dataset, "PatientAge")) or age_at(text_of(dataset, "PatientBirthDate"), seen)),
            "sex": _SEXES.get(text_of(dataset, "PatientSex").upper()),
            "indication": next((words for text in texts if (words := clean_words(text))), None),
            "laterality": _SIDES.get((text_of(dataset, "ImageLaterality") or text_of(dataset, "Laterality")).upper()),
            "body_part": part.replace("_", " ").lower() if is_organ(part) else None,
        }
    return {name: value for name, value in fields.items() if value}


def _age(text: str | None) -> str | None:
    """ "063Y" -> "63 years", "090Y" -> "90+ years", "011M" -> "11 months"."""
    match = re.fullmatch(r"(\d{3})([YMWD])", text or "")
    if match is None:
        return None
    number, unit = int(match[1]), _UNITS[match[2]]
    if unit == "year" and number > MAX_AGE:
        return f"{MAX_AGE + 1}+ years"
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def header_contexts(picture: ImageSource) -> Iterator[Context]:
    """Age, sex and side from the header of each DICOM file that a picture shows. Raises DataError where a file cannot be read."""
    for frame in {frame.path: frame for frame in _frames_of(picture)}.values():
        fields = context_fields(frame.read_elements(_KEYWORDS))
        yield Context(age=fields.get("age"), sex=fields.get("sex"), laterality=fields.get("laterality"))


def agreeing(contexts: Sequence[Context]) -> dict[str, str]:
    """The fields that all contexts say alike: {"sex": "male"} of a prior and a current image between which the patient has aged."""
    names = {name for context in contexts for name in context.values}
    return {name: contexts[0].values[name] for name in sorted(names) if len({context.values.get(name) for context in contexts}) == 1}


def _frames_of(picture: ImageSource) -> Iterator[DicomFrame]:
    """The DICOM frames that a picture is made of, in order."""
    match picture:
        case DicomFrame():
            yield picture
        case TurnedImage() | ReducedImage():
            yield from _frames_of(picture.source)
        case Montage() | Clip():
            for source in picture.sources:
                yield from _frames_of(source)
        case CutSlice():
            for source in picture.stack.slices:
                yield from _frames_of(source)
