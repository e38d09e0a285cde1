"""Which slices a label lies on: label volumes in NIfTI and NRRD files, and DICOM segmentations (SEG).

    label = read_label(root, "seg.nii.gz")
    label.slices_with(5)              # the slices of the label volume with the value 5, in the order of their positions
    label.slices_of(series, "Liver")  # the numbers of the slices of a series with the segments of that name

Label values are rounded: files hold 1.0000153 for 1 where a writer gave floats to an integer header. In a segmentation every pixel above 0
belongs to the segment, as a bit, a fraction or the number of a label map. highdicom reads segmentations; no value of a patient is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from osler.errors import ConfigError, DataError, MissingExtra
from osler.images.dicom_header import DicomError, has_dicom_mark, naming_damage, numbers, read_header
from osler.images.dicom_values import functional_group
from osler.images.files import ImageFile
from osler.images.geometry import PLANES, Series, measure_steps, orient
from osler.images.volume_headers import VolumeError, VolumeHeader
from osler.images.volumes import open_volume, place_slices, slice_axis
from osler.taxonomy import Plane

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_LABELS: Final = 4096
"""The most different values of a label volume."""

_SEGMENTATIONS: Final = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # Segmentation and Label Map Segmentation Storage
_ROUNDING: Final = 0.1  # of a value from a whole number; a map of probabilities is farther away
_LARGEST: Final = 1 << 31  # value of a label
_PARALLEL: Final = 0.999  # cosine of the angle between two normals from which on they are parallel: 2.6 degrees
_SAME_PLACE: Final = 0.01  # millimetres


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSlice:
    """A slice of a label volume on which a label lies."""

    index: int  # in the order of the positions
    position: float  # in millimetres along the normal
    num_voxels: int  # of the label on it


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelStack:
    """The slices across one axis of a label volume."""

    normal: tuple[float, float, float]
    positions: tuple[float, ...]  # in millimetres along the normal, growing
    spacing: float | None  # in millimetres from slice to slice; None where the file does not say it
    counts: Mapping[int, tuple[int, ...]]  # value -> voxels on each slice


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """The labels of a file: values above or below 0, and where they lie."""

    stacks: tuple[LabelStack, ...]  # one for each axis of a volume, one of a segmentation; the first one is that of `read_volume`
    names: Mapping[int, tuple[str, ...]]  # value -> label and type of a segment; empty for NIfTI and NRRD
    findings: tuple[str, ...] = ()

    @property
    def values(self) -> tuple[int, ...]:
        """The values that the file holds, growing, without 0."""
        return tuple(sorted(self.stacks[0].counts))

    def slices_with(self, value: int | str | None = None, *, plane: Plane | None = None) -> tuple[LabelSlice, ...]:
        """The slices with this value, with the segments of this name (in any case), or with any value; () where there are none.

        Raises DataError for a name or a plane that the file does not have.
        """
        stack = self.stacks[0] if plane is None else self._across(plane)
        totals = self._count(stack, value)
        return tuple(
            LabelSlice(index=index, position=stack.positions[index], num_voxels=total) for index, total in enumerate(totals) if total
        )

    def slices_of(self, series: Series, value: int | str | None = None) -> tuple[int, ...]:
        """The numbers of the slices of a series on which the value, the segments of this name, or any label lies.

        A slice of the series and one of the label meet where they are at most half the thicker spacing apart. Only the positions along the
        normal are compared: that both have one frame of reference is for the caller to know. Raises DataError where the series has no
        positions, or its slices are parallel to none of the label's.
        """
        if series.positions is None or series.normal is None:
            raise DataError("the series gives no positions, so that no slice can be found by its label: give the slices")
        stack, sign = self._parallel(series.normal)
        marked = [place * sign for place, total in zip(stack.positions, self._count(stack, value), strict=True) if total]
        steps = (measure_steps(list(series.positions)).spacing, stack.spacing)
        reach = max((step for step in steps if step), default=1.0) / 2 + _SAME_PLACE
        return tuple(number for number, position in enumerate(series.positions) if any(abs(position - place) <= reach for place in marked))

    def _across(self, plane: Plane) -> LabelStack:
        for stack in self.stacks:
            if PLANES[max(range(3), key=lambda axis: abs(stack.normal[axis]))] == plane:
                return stack
        raise DataError(f"the label has no {plane} slices: leave the plane out")

    def _parallel(self, normal: tuple[float, float, float]) -> tuple[LabelStack, int]:
        """The stack that is parallel to slices of this normal, and -1 where its positions grow the other way."""
        for stack in self.stacks:
            cosine = sum(one * other for one, other in zip(stack.normal, normal, strict=True))
            if abs(cosine) >= _PARALLEL:
                return stack, 1 if cosine > 0 else -1
        raise DataError("the slices of the label are not parallel to those of the series: resample the label to the series")

    def _count(self, stack: LabelStack, value: int | str | None) -> list[int]:
        """Voxels on each slice."""
        counted = [stack.counts[member] for member in self._find(value) if member in stack.counts]
        return [sum(column) for column in zip(*counted, strict=True)] if counted else [0] * len(stack.positions)

    def _find(self, value: int | str | None) -> tuple[int, ...]:
        if value is None:
            return self.values
        if isinstance(value, int):
            return (value,)
        if not self.names:
            raise ConfigError(f"label {value!r}: the file has no names of labels: give a number")
        wanted = value.strip().casefold()
        found = tuple(number for number, names in self.names.items() if wanted in (name.strip().casefold() for name in names))
        if not found:
            raise ConfigError(f"label {value!r}: none of the {len(self.names)} segments has this label or type: give a number")
        return found


def read_label(root: Path, path: str) -> Label:
    """The labels of a NIfTI or NRRD file or of a DICOM segmentation below `root`.

    Raises DataError, one line that names the path, for a file that is none, and MissingExtra without the extra "medical".
    """
    with ImageFile(root=root, path=path).open() as stream:
        if has_dicom_mark(stream):
            with _naming(path):
                return _read_segmentation(stream)
    with open_volume(root, path) as (header, stored):
        return _read_volume(header, stored)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except DicomError as error:
        raise DataError(f"label {path!r} {error}") from None


def _read_volume(header: VolumeHeader, stored: NDArray[Any]) -> Label:
    if header.num_times > 1:
        raise VolumeError(f"holds {header.num_times} volumes: store the one with the labels")
    counts = _count_values(header, stored)
    first = slice_axis(header)
    stacks = []
    for axis in sorted(range(3), key=lambda axis: axis != first):
        cut = place_slices(header, axis)
        step = cut.order.step
        stacks.append(
            LabelStack(
                normal=cut.normal,
                positions=cut.positions,
                spacing=cut.spacing,
                counts={value: tuple(rows[axis][::step].tolist()) for value, rows in counts.items()},
            )
        )
    return Label(stacks=tuple(stacks), names={}, findings=header.findings)


def _count_values(header: VolumeHeader, stored: NDArray[Any]) -> dict[int, list[NDArray[Any]]]:
    """Value -> its voxels on each slice across the first, the second and the third axis."""
    import numpy as np

    counts: dict[int, list[NDArray[Any]]] = {}
    for index in range(header.shape[2]):
        values = np.nan_to_num(stored[:, :, index, 0] * header.slope + header.intercept, posinf=0, neginf=0)
        whole = np.rint(values)
        if np.abs(values - whole).max() > _ROUNDING or np.abs(whole).max() > _LARGEST:
            raise VolumeError("has values that are no whole numbers of 32 bits, so it is no label volume: store labels")
        places = np.nonzero(whole)
        found, which = np.unique(whole[places].astype(np.int64), return_inverse=True)
        if len(new := set(found.tolist()) - counts.keys()) + len(counts) > MAX_LABELS:
            raise VolumeError(f"has more than {MAX_LABELS:,} different values, so it is no label volume: store labels")
        counts |= {value: [np.zeros(size, np.int64) for size in header.shape] for value in new}
        for axis in (0, 1):
            size = header.shape[axis]
            rows = np.bincount(which * size + places[axis], minlength=len(found) * size).reshape(len(found), size)
            for value, row in zip(found.tolist(), rows, strict=True):
                counts[value][axis] += row
        for value, total in zip(found.tolist(), np.bincount(which, minlength=len(found)), strict=True):
            counts[value][2][index] = total
    return counts


def _read_segmentation(stream: IO[bytes]) -> Label:
    header = read_header(stream)
    with naming_damage("a damaged segmentation"):
        if header.dataset.get("SOPClassUID") not in _SEGMENTATIONS:
            raise DicomError("is a DICOM file but no segmentation: give a SEG, NIfTI or NRRD file")
        try:
            from highdicom.seg import segread
        except ImportError:
            raise MissingExtra("highdicom", "medical") from None
        stream.seek(0)
        seg: Any = segread(stream)  # as a whole: frame by frame, highdicom 0.28.2 cannot find those that end within a byte
        names = {int(item.SegmentNumber): _names(item) for item in seg.SegmentSequence}
        names.pop(_background(seg), None)
        frames = [_count_frame(seg, frame) for frame in range(header.num_frames)]
        spacing = _spacing(seg)
    normal = frames[0].normal
    if any(sum(one * other for one, other in zip(normal, frame.normal, strict=True)) < _PARALLEL for frame in frames):
        raise DicomError("holds slices of several orientations: store one segmentation for each")
    return Label(stacks=(_stack(frames, spacing),), names=names)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """One frame of a segmentation: of one slice and one segment, or of one slice of a label map."""

    normal: tuple[float, float, float]
    position: float
    counts: Mapping[int, int]  # number of the segment -> pixels


def _count_frame(seg: Any, frame: int) -> _Frame:
    import numpy as np

    plane, direction = (functional_group(seg, frame, f"Plane{name}Sequence") for name in ("Position", "Orientation"))
    place = numbers(plane, "ImagePositionPatient") if plane is not None else ()
    cosines = numbers(direction, "ImageOrientationPatient") if direction is not None else ()
    oriented = orient(np.array(cosines[:3]), np.array(cosines[3:])) if len(cosines) == 6 else None
    if len(place) != 3 or oriented is None:
        raise DicomError("gives no positions in the patient: give a NIfTI or NRRD file")
    pixels = seg.get_stored_frame(frame, as_index=True)
    if seg.SegmentationType == "LABELMAP":
        found, totals = np.unique(pixels, return_counts=True)
        counts = {value: total for value, total in zip(found.tolist(), totals.tolist(), strict=True) if value != _background(seg)}
    else:
        group = functional_group(seg, frame, "SegmentIdentificationSequence")
        if group is None:
            raise DicomError("does not say which segment a frame is of: fetch it again")
        counts = {int(group.ReferencedSegmentNumber): int(np.count_nonzero(pixels))}
    normal = oriented[0]
    return _Frame(normal=(float(normal[0]), float(normal[1]), float(normal[2])), position=float(np.array(place) @ normal), counts=counts)


def _background(seg: Any) -> int:
    """The number that is no segment: of a label map that of its padding, else 0."""
    return int(seg.get("PixelPaddingValue", 0)) if seg.SegmentationType == "LABELMAP" else 0


def _names(item: Any) -> tuple[str, ...]:
    """The label of a segment, and what it is by its code: "Kidney", "Left kidney"."""
    kinds = item.get("SegmentedPropertyTypeCodeSequence") or ()
    told = (item.get("SegmentLabel"), *(kind.get("CodeMeaning") for kind in kinds[:1]))
    return tuple(str(name) for name in told if name)


def _spacing(seg: Any) -> float | None:
    """From slice to slice: not from the positions, because slices without a label are often left out."""
    measures = functional_group(seg, 0, "PixelMeasuresSequence")
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        found = numbers(measures, keyword) if measures is not None else ()
        if found and found[0] > 0:
            return found[0]
    return None


def _stack(frames: Iterable[_Frame], spacing: float | None) -> LabelStack:
    """The frames in the order of their positions; those at one position are one slice."""
    positions: list[float] = []
    slices: list[dict[int, int]] = []
    normal = (0.0, 0.0, 0.0)
    for frame in sorted(frames, key=lambda frame: frame.position):
        normal = frame.normal
        if not positions or frame.position - positions[-1] > _SAME_PLACE:
            positions.append(frame.position)
            slices.append({})
        for value, total in frame.counts.items():
            slices[-1][value] = slices[-1].get(value, 0) + total
    values = {value for counts in slices for value, total in counts.items() if total}
    counts = {value: tuple(counts.get(value, 0) for counts in slices) for value in sorted(values)}
    return LabelStack(normal=normal, positions=tuple(positions), spacing=spacing, counts=counts)
