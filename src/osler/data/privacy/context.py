"""The fields of a DICOM header that say something of the patient and name nobody, for the context of a question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from osler.context import Context
from osler.data.privacy.values import MAX_AGE, age_at, cap_age, clean_words, is_term, text_of
from osler.images.clip import Clip
from osler.images.dicom import DicomFrame
from osler.images.dicom_header import naming_damage
from osler.images.geometry import TurnedImage
from osler.images.montage import Montage, ReducedImage
from osler.images.reslice import CutSlice
from osler.types import ImageSource

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SEEN: Final = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
_KEYWORDS: Final = ("PatientAge", "PatientBirthDate", "PatientSex", "ImageLaterality", "Laterality", *_SEEN)
_INDICATIONS: Final = ("ReasonForTheRequestedProcedure", "ReasonForStudy", "AdmittingDiagnosesDescription", "ReasonForVisit")
_OLDEST: Final = f"{MAX_AGE + 1:03d}Y"


def context_of(dataset: Dataset, *, clean_descriptors: bool = False) -> Context:
    """Age, sex and side of a header, as far as it knows them: `Context(age="63 years", sex="female", laterality="left")`.

    An age of 90 years or more is "90 years or older" (45 CFR 164.514(b)(2)(i)(C)); without the element Patient's Age it is the time from
    the birth date to the study. With `clean_descriptors` also the indication: the reason for the study, with the words of a closed list
    only. Values that are no term of the standard are left out, as are empty and damaged elements.
    """
    with naming_damage("a damaged header"):
        seen = next((text for keyword in _SEEN if (text := text_of(dataset, keyword))), "")
        age = cap_age(text_of(dataset, "PatientAge")) or age_at(text_of(dataset, "PatientBirthDate"), seen)
        sex = text_of(dataset, "PatientSex").upper()
        side = (text_of(dataset, "ImageLaterality") or text_of(dataset, "Laterality")).upper()
        texts = (text_of(dataset, keyword) for keyword in _INDICATIONS) if clean_descriptors else ()
        return Context(
            age=f"{MAX_AGE + 1} years or older" if age == _OLDEST else age,
            sex=sex if is_term("PatientSex", sex) else None,
            laterality=side if is_term("Laterality", side) else None,
            indication=next((words for text in texts if (words := clean_words(text))), None),
        )


def header_contexts(picture: ImageSource) -> Iterator[Context]:
    """Age, sex and side from the header of each DICOM file that a picture shows. Raises DataError where a file cannot be read."""
    for frame in {frame.path: frame for frame in _frames_of(picture)}.values():
        yield context_of(frame.read_elements(_KEYWORDS))


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
