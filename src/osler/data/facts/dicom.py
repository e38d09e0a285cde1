"""The facts of a DICOM file, from its header: modality, body part, side and plane. No element that names a patient is read.

What a header says of the patient, as the context of a question, is in `osler.data.privacy.context`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

from osler.data.facts.names import anatomy_facts, organ_of
from osler.facts import Fact, Facts, Kind
from osler.images.geometry import PLANES
from osler.taxonomy import Modality, Plane

MAX_TILT: Final = 20.0
"""How many degrees an image may be tilted out of its plane; the plane of a more oblique image is unknown."""

# Defined terms of Modality (0008,0060), DICOM PS3.3, C.7.3.1.1.1.
_MODALITIES: Final = {
    "CT": Modality.CT, "MR": Modality.MRI, "CR": Modality.XRAY, "DX": Modality.XRAY, "RG": Modality.XRAY, "MG": Modality.XRAY,
    "US": Modality.ULTRASOUND, "DMS": Modality.DERMOSCOPY, "OPT": Modality.OCT, "SM": Modality.MICROSCOPY, "GM": Modality.MICROSCOPY,
}  # fmt: skip
# Defined terms of Body Part Examined (0018,0015), PS3.16, annex L, that are not one organ or region of the general vocabulary.
_BODY_PARTS: Final = {
    "ABDOMENPELVIS": ("abdomen", "pelvis"), "CHESTABDOMEN": ("chest", "abdomen"), "CHESTABDPELVIS": ("chest", "abdomen", "pelvis"),
    "HEADNECK": ("head", "neck"), "NECKCHEST": ("neck", "chest"), "CSPINE": ("spine",), "TSPINE": ("spine",), "LSPINE": ("spine",),
    "SSPINE": ("spine",), "BRAIN": ("brain", "head"), "THORAX": ("chest",), "JAW": ("mandible",),
}  # fmt: skip
_SIDES: Final = {"L": ("left",), "R": ("right",), "B": ("left", "right", "bilateral")}


class Header(Protocol):
    """A DICOM data set, or any mapping from keyword to value."""

    def get(self, key: str, default: Any = None, /) -> Any:
        """The value of an element by its keyword, e.g. "Modality"."""


def dicom_facts(header: Header) -> Facts:
    """The facts of one image by its header, e.g. a `pydicom.Dataset`; no facts for elements that are missing, empty or unknown.

    A body part is about the whole image, so a region that is named excludes those far from it, unless several regions are named.
    """
    modality = _MODALITIES.get(_text(header, "Modality"))
    plane = plane_of(header.get("ImageOrientationPatient"))
    parts = _body_parts(_text(header, "BodyPartExamined"))
    facts = [Fact(kind=Kind.MODALITY, value=modality.value)] if modality else []
    facts += [Fact(kind=Kind.PLANE, value=plane)] if plane else []
    if len(parts) == 1 or parts == ("brain", "head"):
        facts += dict.fromkeys(fact for part in parts for fact in anatomy_facts(part))
    else:
        facts += [Fact(kind=Kind.ANATOMY, value=part) for part in parts]
    facts += _side_facts(_text(header, "ImageLaterality") or _text(header, "Laterality"), parts[0] if len(parts) == 1 else None)
    closed = [kind for kind in (Kind.MODALITY, Kind.PLANE) if any(fact.kind is kind for fact in facts)]
    return Facts(facts=tuple(facts), closed=tuple(closed))


def plane_of(orientation: Sequence[Any] | None) -> Plane | None:
    """The plane of an image by Image Orientation (Patient): the six cosines of its rows and columns.

    None where the image is tilted by more than MAX_TILT degrees out of each plane, or where the value is not six numbers.
    """
    try:
        row, column = [[float(value) for value in (orientation or ())[start : start + 3]] for start in (0, 3)]
    except (TypeError, ValueError):
        return None
    if len(row) != 3 or len(column) != 3:
        return None
    normal = [row[i - 2] * column[i - 1] - row[i - 1] * column[i - 2] for i in range(3)]
    length = math.hypot(*normal)
    if not math.isfinite(length) or length == 0:
        return None
    shares = [abs(value) / length for value in normal]
    best = max(range(3), key=shares.__getitem__)
    return PLANES[best] if shares[best] >= math.cos(math.radians(MAX_TILT)) else None


def _text(header: Header, keyword: str) -> str:
    value = header.get(keyword)
    return str(value).strip().upper() if value is not None else ""


def _body_parts(text: str) -> tuple[str, ...]:
    if text in _BODY_PARTS:
        return _BODY_PARTS[text]
    part = organ_of(text.replace("_", " "))
    return (part,) if part else ()


def _side_facts(code: str, part: str | None) -> Iterator[Fact]:
    """The side of the body part, e.g. of the knee; one of a pair excludes the other."""
    sides = _SIDES.get(code, ())
    for side in sides:
        yield Fact(kind=Kind.SIDE, value=side, about=part)
    if len(sides) == 1:
        yield Fact(kind=Kind.SIDE, value="right" if sides == ("left",) else "left", about=part, holds=False)
