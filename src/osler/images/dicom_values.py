"""What the header of a DICOM file says about the values of one frame: modality transformation, windows, padding, shape of the pixels.

In a multi-frame file of an "Enhanced" class these stand in the functional groups of the frame (DICOM PS3.3, C.7.6.16), its own or those
shared by all; in any other file they stand in the data set itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from osler.images.dicom_header import DicomError, Header, numbers
from osler.images.ultrasound import read_regions
from osler.images.windows import LookupTable, VoiFunction, Window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

_TABLE_BITS: Final = range(8, 17)
_MAX_SIGNED: Final = (1 << 15) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """The stored values that fill a picture up to a rectangle: `low` to `high`, both included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameValues:
    """How the stored values of one grey frame become tones."""

    slope: float
    intercept: float
    modality_table: LookupTable | None  # in place of slope and intercept
    is_hounsfield: bool
    windows: tuple[Window, ...]  # in the order of the file, valid or not
    voi_table: LookupTable | None  # the first one
    padding: Padding | None

    def transform(self, stored: NDArray[np.float64]) -> NDArray[np.float64]:
        """Stored values in the units of the modality, in the same shape."""
        return self.modality_table.apply(stored) if self.modality_table else stored * self.slope + self.intercept


def read_frame_values(header: Header, frame: int) -> FrameValues:
    """The modality transformation, the windows and the padding of one grey frame. Raises DicomError where they are damaged."""
    dataset = header.dataset
    transformed = _group_with(dataset, frame, "PixelValueTransformationSequence", "RescaleSlope", "RescaleIntercept")
    voi = _group_with(dataset, frame, "FrameVOILUTSequence", "WindowCenter", "VOILUTSequence")
    slope, intercept = (numbers(transformed, keyword) for keyword in ("RescaleSlope", "RescaleIntercept"))
    if slope == (0.0,):
        raise DicomError("has a rescale slope of 0, so that all its values are equal: convert it to PNG")
    has_rescale = bool(slope and intercept)
    unit = str(transformed.get("RescaleType", "") or "HU").strip().upper()  # in HU where a CT does not say it: PS3.3, C.8.2.1.1.3
    modality_table = _table(dataset, "ModalityLUTSequence", header, is_signed=header.is_signed)
    line = (slope[0] if slope else 1.0, intercept[0] if intercept else 0.0)
    return FrameValues(
        slope=line[0],
        intercept=line[1],
        modality_table=modality_table,
        is_hounsfield=dataset.get("Modality") == "CT" and has_rescale and unit in ("HU", "HU_MOD"),
        windows=_windows(voi),
        voi_table=_table(voi, "VOILUTSequence", header, is_signed=modality_table is None and _may_be_signed(header, *line)),
        padding=_padding(header),
    )


def functional_group(dataset: Dataset, frame: int, keyword: str) -> Dataset | None:
    """The one item of a functional group, such as "PlanePositionSequence": the frame's own, else the shared one, else None."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    own = [per_frame[frame]] if frame < len(per_frame) else []
    for groups in (*own, *(dataset.get("SharedFunctionalGroupsSequence") or ())[:1]):
        if macro := groups.get(keyword):
            item: Dataset = macro[0]
            return item
    return None


def _group_with(dataset: Dataset, frame: int, group: str, *keywords: str) -> Dataset:
    """The functional group of the frame if it has one of these elements, else the data set itself."""
    item = functional_group(dataset, frame, group)
    return item if item is not None and any(keyword in item for keyword in keywords) else dataset


def _windows(dataset: Dataset) -> tuple[Window, ...]:
    centers, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    told: Any = dataset.get("WindowCenterWidthExplanation") or ()
    explanations = [told] if isinstance(told, str) else list(told)
    name = str(dataset.get("VOILUTFunction", "") or "LINEAR").strip().upper()
    if name not in VoiFunction.__members__:
        raise DicomError("has an unknown VOI LUT function: convert it to PNG")
    pairs = enumerate(zip(centers, widths, strict=False))
    return tuple(
        Window(center=center, width=width, function=VoiFunction[name], explanation=str(explanations[i]) if i < len(explanations) else "")
        for i, (center, width) in pairs
    )


def _may_be_signed(header: Header, slope: float, intercept: float) -> bool:
    """Whether a stored value can become a negative one: the values of a VOI lookup table are signed then (PS3.3, C.11.2.1.1)."""
    top = 1 << header.bits_stored - header.is_signed
    ends = (-top if header.is_signed else 0, top - 1)
    return min(slope * end + intercept for end in ends) < 0


def _table(dataset: Dataset, keyword: str, header: Header, *, is_signed: bool) -> LookupTable | None:
    """The first lookup table of a sequence; None without one. `is_signed` are the values that it maps."""
    import numpy as np

    items = dataset.get(keyword)
    if not items:
        return None
    descriptor = numbers(items[0], "LUTDescriptor")
    data: Any = items[0].get("LUTData")
    if len(descriptor) != 3 or data is None:
        raise DicomError(f"has a {keyword} without a descriptor or data: convert it to PNG")
    length, bits = int(descriptor[0]) or 1 << 16, int(descriptor[2])
    if isinstance(data, bytes):
        entries = read_entries(data, length, is_little_endian=bool(header.dataset.original_encoding[1]))
    else:
        entries = np.atleast_1d(np.asarray(data, np.float64))
    if not 1 <= length <= len(entries) or bits not in _TABLE_BITS:
        raise DicomError(f"has a {keyword} that does not fit its descriptor: convert it to PNG")
    first = descriptor[1]
    if is_signed and first > _MAX_SIGNED:  # pydicom goes by the stored values, which may be unsigned all the same
        first -= 1 << 16
    elif not is_signed and first < 0 and header.dataset.original_encoding[0]:  # implicit VR: the file does not say the type
        first += 1 << 16
    return LookupTable(entries=entries[:length].astype(np.float64), first=first, max_output=float((1 << bits) - 1))


def read_entries(data: bytes, length: int, *, is_little_endian: bool) -> Any:
    """The entries of a lookup table: of 8 bits where the data have so many bytes (or one more, to make them even), else of 16 bits."""
    import numpy as np

    if length <= len(data) <= length + 1:
        return np.frombuffer(data, np.uint8)
    return np.frombuffer(data[: len(data) // 2 * 2], "<u2" if is_little_endian else ">u2")


def _padding(header: Header) -> Padding | None:
    kind = "" if not header.is_float else "Float" if header.bits_allocated == 32 else "DoubleFloat"
    value = numbers(header.dataset, f"{kind}PixelPaddingValue")
    limit = numbers(header.dataset, f"{kind}PixelPaddingRangeLimit")
    if not value:
        return None
    low, high = sorted(_signed(number, header) for number in (value[0], (limit or value)[0]))
    return Padding(low=low, high=high)


def _signed(number: float, header: Header) -> float:
    """The number whose bits these are: files give 63536 for -2000 where a writer took the wrong one of the two types that it may have."""
    is_wrong = header.is_signed and number >= 1 << header.bits_allocated - 1
    return number - (1 << header.bits_allocated) if is_wrong else number


def pixel_shape(header: Header, frame: int) -> tuple[float, float]:
    """Height and width of a pixel, in any unit: (1.0, 1.0) for square pixels and where nothing is known."""
    dataset = header.dataset
    measures = functional_group(dataset, frame, "PixelMeasuresSequence")
    for source, keyword in ((measures, "PixelSpacing"), (dataset, "PixelSpacing"), (dataset, "ImagerPixelSpacing"),
                            (dataset, "NominalScannedPixelSpacing"), (dataset, "PixelAspectRatio")):  # fmt: skip
        shape = numbers(source, keyword) if source is not None else ()
        if len(shape) == 2 and min(shape) > 0:
            return shape[0], shape[1]
    deltas = {(region.pixel_height, region.pixel_width) for region in read_regions(dataset) if region.pixel_height and region.pixel_width}
    return next(iter(deltas)) if len(deltas) == 1 else (1.0, 1.0)  # regions of different scales cannot all be made square
