"""De-identify a DICOM data set by the basic profile of PS3.15, Annex E, with named options.

The table of the standard says what is done to the attributes that it names, at any depth. It lets every other standard attribute stay.
Here these pass too, but only with values that can name nobody: numbers, terms and codes that the standard defines, known UIDs. Other texts
are emptied, other UIDs are replaced, other bytes and everything that pydicom's dictionary does not know are left out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from osler import __version__
from osler.data.privacy.keys import Key
from osler.data.privacy.pixels import PIXELS, Box, blacken, decode_pixels
from osler.data.privacy.profile import EDITION, Action, Option, Rule, load_profile
from osler.data.privacy.values import UNITS, age_at, cap_age, clean_words, is_term, known_codes, move_date, text_of, texts_of
from osler.images.dicom_header import DicomError, damage_errors, naming_damage

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

Dates = Literal["removed", "modified", "full"]
DATES: Final[tuple[Dates, ...]] = ("removed", "modified", "full")

_TEXTS: Final = frozenset({"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_NUMBERS: Final = frozenset({"AT", "DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"})
_TIMES: Final = frozenset({"DA", "DT", "TM"})
_DUMMIES: Final = {"DA": "19000101", "DT": "19000101000000", "TM": "000000", "AS": "000Y"} | dict.fromkeys(_TEXTS - {"UR"}, "REMOVED")
_TABLES: Final = ("RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
                  "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
                  "SegmentedBluePaletteColorLookupTableData", "LUTData")  # fmt: skip
_TERMS_OF_TEXT: Final = ("RescaleType", "ModalityLUTType")
# Codes of context group 7050, PS3.16.
_BASIC: Final = ("113100", "Basic Application Confidentiality Profile")
_PIXELS_CLEANED: Final = ("113101", "Clean Pixel Data Option")
_DESCRIPTORS_CLEANED: Final = ("113105", "Clean Descriptors Option")
_CHARACTERISTICS: Final = ("113108", "Retain Patient Characteristics Option")
_DATES_KEPT: Final = {
    "full": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "modified": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeidentifyOptions:
    """What stays beside the basic profile."""

    key: Key
    dates: Dates = "removed"  # modified: all dates of a patient are moved back by the same number of days; birth dates never stay
    clean_descriptors: bool = False  # descriptions stay, with the words of a closed vocabulary
    patient_characteristics: bool = False  # age (90 and more as 090Y), sex, size and weight stay
    boxes: tuple[Box, ...] = ()  # to be blackened
    outside_regions: bool = False  # blacken what lies outside of the ultrasound regions


def deidentify(dataset: Dataset, options: DeidentifyOptions) -> Dataset:
    """A new data set with file meta information, in Explicit VR Little Endian; the given one is changed only by decoding its pixels.

    Raises DicomError for a data set without pixels, of a private kind, in big endian, or with pixels that cannot be decoded or blackened,
    and MissingExtra without the extra "medical".
    """
    with naming_damage("a damaged header"):
        _check(dataset)
        decode_pixels(dataset)
        cleaned = _Cleaner(dataset, options).clean(dataset)
        _complete(cleaned, dataset, options)
    if options.boxes or options.outside_regions:
        blacken(cleaned, options.boxes, outside_regions=options.outside_regions)
    return cleaned


def pseudonym(dataset: Dataset, key: Key) -> str:
    """The new Patient ID: equal for equal old ones; without one, by name and birth date; else for each study or frame of reference."""
    return "P" + key.name("patient", patient_of(dataset))


def patient_of(dataset: Dataset) -> str:
    """What tells a patient from others, in the old words."""
    if identifier := text_of(dataset, "PatientID"):
        return f"{text_of(dataset, 'IssuerOfPatientID')}\0{identifier}"
    if name := text_of(dataset, "PatientName"):
        return f"name\0{name.casefold()}\0{text_of(dataset, 'PatientBirthDate')}"
    study = text_of(dataset, "StudyInstanceUID") or text_of(dataset, "FrameOfReferenceUID") or _uid(dataset, "SOPInstanceUID")
    return f"study\0{study}"


def _check(dataset: Dataset) -> None:
    from pydicom._uid_dict import UID_dictionary

    if not any(name in dataset for name in PIXELS):
        raise DicomError("is a DICOM file without pixels, which is a document: leave it out")
    if _uid(dataset, "SOPClassUID") not in UID_dictionary:
        raise DicomError("is of a private kind, which the standard's profile does not cover: leave it out")
    syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    if syntax is None or str(syntax) not in UID_dictionary:
        raise DicomError("names no transfer syntax of the standard: convert it")
    if not syntax.is_little_endian:
        raise DicomError("is stored in big endian, which the standard has retired: convert it")


def _uid(dataset: Dataset, keyword: str) -> str:
    """A UID of the object, from the file meta information where an anonymizer emptied it in the data set."""
    return text_of(dataset, keyword) or text_of(getattr(dataset, "file_meta", None) or {}, f"MediaStorage{keyword}")


def _content(dataset: Dataset) -> str:
    """What tells an object without a UID from others: its pixels and their place."""
    keyword = next(name for name in PIXELS if name in dataset)
    place = [text_of(dataset, name) for name in ("SeriesInstanceUID", "InstanceNumber", "ImagePositionPatient")]
    return "\0".join([hashlib.sha256(dataset[keyword].value).hexdigest(), *place])


class _Cleaner:
    """Copies a data set element by element."""

    def __init__(self, dataset: Dataset, options: DeidentifyOptions) -> None:
        self._options = options
        self._pseudonym = pseudonym(dataset, options.key)
        self._days = options.key.shift(patient_of(dataset)) if options.dates == "modified" else 0
        self._damage: tuple[type[Exception], ...] = (*damage_errors(), DicomError)

    def clean(self, dataset: Dataset) -> Dataset:
        """The data set, or an item of a sequence, without what names somebody."""
        from pydicom.datadict import dictionary_VR
        from pydicom.dataset import Dataset as New

        cleaned = New()
        for tag in sorted(dataset.keys()):
            if tag.group < 8 or tag.group % 2 or not tag.element or tag.group == 0xFFFC:
                continue  # command, file set, private, group length, padding
            try:
                element, known = dataset[tag], dictionary_VR(tag)
                if element.VR in known.split(" or ") and (kept := self._clean_element(element, dataset)) is not None:
                    cleaned.add_new(tag, element.VR, kept)
            except self._damage:
                continue
        return cleaned

    def _clean_element(self, element: DataElement, dataset: Dataset) -> Any:
        """The new value of an element; None to leave it out."""
        rule = load_profile().find(int(element.tag))
        if element.keyword == "PatientID":
            return self._pseudonym
        if element.VR in _TIMES and self._options.dates != "removed" and (rule is None or Option.DATES in rule.options):
            moved = [move_date(element.VR, text, self._days) for text in texts_of(element.value)]
            return [text or "" for text in moved] if any(moved) else ""
        if rule is not None:
            return self._clean_named(element, rule)
        return self._clean_other(element, dataset)

    def _clean_named(self, element: DataElement, rule: Rule) -> Any:
        """An element that the standard's table names."""
        if Option.DESCRIPTORS in rule.options and self._options.clean_descriptors:
            if element.VR == "SQ":
                return self._clean_items(element)
            if element.VR in _TEXTS and element.VR != "PN":
                return [clean_words(text) for text in texts_of(element.value)]
        if Option.CHARACTERISTICS in rule.options and self._options.patient_characteristics:
            return self._clean_characteristic(element)
        if rule.action is Action.UID:
            return self._clean_items(element) if element.VR == "SQ" else self._replace_uids(element)
        if rule.action is Action.REMOVE:
            return None
        if element.VR == "SQ":
            return []
        if element.VR in _NUMBERS:
            return None
        if rule.action is Action.DUMMY:
            return self._replace_uids(element) if element.VR == "UI" else _DUMMIES.get(element.VR)
        return "" if element.VR in _TEXTS | _TIMES | {"CS", "AS", "UI"} else None

    def _clean_characteristic(self, element: DataElement) -> Any:
        if element.VR == "AS":
            return cap_age(str(element.value))
        return self._clean_terms(element) if element.VR == "CS" else element.value

    def _clean_other(self, element: DataElement, dataset: Dataset) -> Any:
        """An element that the standard lets stay: by its type."""
        if element.VR == "SQ":
            return self._clean_items(element)
        if element.VR == "UI":
            return self._replace_uids(element)
        if element.VR == "CS":
            return self._clean_terms(element)
        if element.VR in _NUMBERS:
            return element.value
        if element.VR in _TEXTS:
            value = str(element.value)
            return value if element.keyword in _TERMS_OF_TEXT and value in UNITS else ""
        if element.VR in _TIMES:
            return ""
        if element.keyword in PIXELS or (element.keyword in _TABLES and _is_table(element, dataset)):
            return element.value
        return None

    def _clean_terms(self, element: DataElement) -> list[str]:
        return [text if is_term(element.keyword, text) else "" for text in texts_of(element.value)]

    def _replace_uids(self, element: DataElement) -> list[str]:
        from pydicom._uid_dict import UID_dictionary

        return [uid if not uid or uid in UID_dictionary else self._options.key.uid(uid) for uid in texts_of(element.value)]

    def _clean_items(self, element: DataElement) -> list[Dataset]:
        items = (_clean_code(item) if "CodingSchemeDesignator" in item else self.clean(item) for item in element.value)
        return [item for item in items if item is not None]


def _clean_code(item: Dataset) -> Dataset | None:
    """An item that holds a code, with the meaning that the standard gives it; None for a code that is not one of the standard's."""
    from pydicom.dataset import Dataset as New
    from pydicom.sr._snomed_dict import mapping

    scheme, value = text_of(item, "CodingSchemeDesignator"), text_of(item, "CodeValue")
    if scheme in ("SRT", "SNM3", "99SDM"):
        scheme, value = "SCT", mapping["SRT"].get(value, "")
    if (meaning := known_codes().get((scheme, value))) is None:
        return None
    code = New()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning[:64]
    return code


def _is_table(element: DataElement, dataset: Dataset) -> bool:
    """Whether a lookup table is used, and as long as its descriptor says; a segmented one has no length of its own."""
    if "Palette" in element.keyword and text_of(dataset, "PhotometricInterpretation") != "PALETTE COLOR":
        return False
    if element.keyword.startswith("Segmented"):
        return True
    descriptor = dataset.get(element.keyword.removesuffix("Data") + "Descriptor")
    num = (int(descriptor[0]) % 65536 or 65536) if descriptor else 0
    return len(element.value) in (num, num + num % 2, 2 * num)


def _complete(cleaned: Dataset, dataset: Dataset, options: DeidentifyOptions) -> None:
    """Add what the standard asks a de-identified object to say of itself (PS3.15, E.1.1), and the file meta information."""
    from pydicom.dataset import Dataset as New
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    codes = [_BASIC]
    codes += [_PIXELS_CLEANED] * bool(options.boxes or options.outside_regions)
    codes += [_DESCRIPTORS_CLEANED] * options.clean_descriptors
    codes += [_DATES_KEPT[options.dates]] if options.dates != "removed" else []
    codes += [_CHARACTERISTICS] * options.patient_characteristics
    cleaned.SpecificCharacterSet = "ISO_IR 192"
    cleaned.PatientID = pseudonym(dataset, options.key)
    cleaned.PatientName = ""
    if options.patient_characteristics and not cleaned.get("PatientAge"):
        seen = text_of(dataset, "StudyDate") or text_of(dataset, "SeriesDate") or text_of(dataset, "AcquisitionDate")
        if (age := age_at(text_of(dataset, "PatientBirthDate"), seen)) is not None:
            cleaned.PatientAge = age
    cleaned.PatientIdentityRemoved = "YES"
    cleaned.DeidentificationMethod = f"Osler {__version__}: DICOM PS3.15 {EDITION}"
    cleaned.DeidentificationMethodCodeSequence = []
    for value, meaning in codes:
        code = New()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
        cleaned.DeidentificationMethodCodeSequence.append(code)
    cleaned.LongitudinalTemporalInformationModified = {"full": "UNMODIFIED"}.get(options.dates, options.dates.upper())
    cleaned.SOPClassUID = _uid(dataset, "SOPClassUID")
    cleaned.SOPInstanceUID = options.key.uid(_uid(dataset, "SOPInstanceUID") or _content(dataset))
    meta = cleaned.file_meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = cleaned.SOPClassUID, cleaned.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    cleaned.preamble = b"\0" * 128
