"""Regions of an ultrasound picture: a B-mode sector, an M-mode strip, a Doppler spectrum, each with its own scale (PS3.3, C.8.5.5)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from osler.images.dicom_header import DicomError, Header, integer, numbers

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_CENTIMETRES: Final = 3  # a value of Physical Units X Direction (0018,6024)
_EDGES: Final = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")


class RegionFormat(IntEnum):
    """What a region shows: the enumerated values of Region Spatial Format (0018,6012)."""

    NONE = 0
    TISSUE_OR_FLOW = 1  # two-dimensional
    M_MODE = 2
    SPECTRAL = 3
    WAVE_FORM = 4
    GRAPHICS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A rectangle of the picture and what its pixels measure."""

    box: tuple[int, int, int, int] | None  # left, top, right, bottom in stored pixels, the last two outside; None where it is not given
    format: RegionFormat | None
    pixel_height: float | None  # centimetres; None where the direction downwards is none of space
    pixel_width: float | None


def read_regions(dataset: Dataset) -> tuple[Region, ...]:
    """The regions of a file, in its order; () for one without. Raises DicomError where they are damaged."""
    return tuple(_read_region(item) for item in dataset.get("SequenceOfUltrasoundRegions") or ())


def _read_region(item: Dataset) -> Region:
    kind = integer(item, "RegionSpatialFormat", -1)
    edges = [integer(item, keyword) for keyword in _EDGES] if all(keyword in item for keyword in _EDGES) else None
    return Region(
        box=(edges[0], edges[1], edges[2] + 1, edges[3] + 1) if edges else None,
        format=RegionFormat(kind) if kind in iter(RegionFormat) else None,
        pixel_height=_length(item, "Y"),
        pixel_width=_length(item, "X"),
    )


def _length(item: Dataset, axis: str) -> float | None:
    delta = numbers(item, f"PhysicalDelta{axis}")
    is_length = integer(item, f"PhysicalUnits{axis}Direction", 0) == _CENTIMETRES
    return abs(delta[0]) if is_length and delta and delta[0] else None


def union(header: Header) -> tuple[int, int, int, int]:
    """The smallest rectangle with all regions of the file, within the picture: left, top, right, bottom. Raises DicomError without any."""
    boxes = [region.box for region in read_regions(header.dataset) if region.box]
    if not boxes:
        raise DicomError("has no ultrasound regions: leave the crop out")
    left, top = (max(min(box[place] for box in boxes), 0) for place in (0, 1))
    right, bottom = (min(max(box[place] for box in boxes), size) for place, size in ((2, header.columns), (3, header.rows)))
    if left >= right or top >= bottom:
        raise DicomError("has ultrasound regions that lie outside its picture: leave the crop out")
    return left, top, right, bottom
