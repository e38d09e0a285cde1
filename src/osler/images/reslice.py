"""Slices in another plane than the one in which a series was taken: coronal and sagittal ones of an axial CT, with square pixels.

All slices are decoded for the first cut, as tones of 8 bits, and the last series is kept in memory.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from osler.errors import DataError
from osler.images.dicom import DicomFrame
from osler.images.dicom_values import functional_group
from osler.images.fingerprints import digest_image
from osler.images.geometry import PLANES, HasShownWindow, Series, unturned
from osler.images.limits import size_fault
from osler.images.montage import check_headers
from osler.images.windows import Window
from osler.types import ImageSource

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from pydicom.dataset import Dataset

MAX_BYTES: Final = 2 * 1024**3
"""The most memory that the tones of a series may take."""

# For each plane the axes of the patient (0 from right to left, 1 from front to back, 2 from feet to head) of slices, rows and columns, and
# whether rows run against their axis: pictures have the head at the top.
_LAYOUTS: Final = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}
_HEAD: Final = 2
_FAULTS: Final = ("missing", "uneven", "tilt", "shear")
_WINDOWS: Final = ("WindowCenter", "WindowWidth", "VOILUTFunction")
_GROUPS: Final = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")  # where files of many frames have their windows
MAX_LEAN: Final = 20.0
"""Degrees by which slices may lie obliquely and still be cut as if they lay straight."""
_DECODING: Final = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Slices of one plane, in order, all of one size."""

    slices: tuple[ImageSource, ...]
    plane: str
    spacing: tuple[float, float]  # between slices, and between pixels of the pictures, in millimetres
    state: int  # of the files: what is kept of them is read again when they change


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSlice:
    """One slice across a stack in another plane; implements `ImageSource` and `HasDigest`."""

    stack: Stack
    name: str  # of the study
    plane: str
    index: int  # along the normal of the plane

    @property
    def uri(self) -> str:
        """The study with the slice: "patient1/ct?plane=coronal&index=40"."""
        told = self.name if f"plane={self.plane}" in self.name else f"{self.name}{'&' if '?' in self.name else '?'}plane={self.plane}"
        return f"{told}&index={self.index}"

    def load(self) -> Image:
        """The slice in mode RGB, with square pixels. Raises what the slices of the stack raise."""
        import numpy as np
        import PIL.Image

        patient = _to_patient(_load_tones(self.stack), self.stack.plane)
        axis, rows, _ = _LAYOUTS[self.plane]
        if not 0 <= self.index < patient.shape[axis]:
            raise DataError(f"study {self.name!r} has no {self.plane} slice {self.index}")
        part = np.moveaxis(patient, axis, 0)[self.index].swapaxes(0, 1)  # in each plane the rows lie along the later of the other two axes
        picture = PIL.Image.fromarray(np.ascontiguousarray(part[::-1] if rows == _HEAD else part))
        size = _picture_size(self.stack, self.plane, (picture.width, picture.height))
        return picture if picture.size == size else picture.resize(size, PIL.Image.Resampling.BILINEAR)

    def read_window(self) -> Window | None:
        """The window of the slices that it is cut from."""
        first = unturned(self.stack.slices[0])
        return first.read_window() if isinstance(first, HasShownWindow) else None

    def check_header(self) -> None:
        """Raise DataError where the file of a slice is missing, not an image, or too large."""
        check_headers(self.stack.slices)

    def digest(self) -> str:
        """The SHA-256 of the digests of all slices, the plane and the index."""
        return hashlib.sha256(f"{_digest(self.stack)} {self.plane} {self.index}".encode()).hexdigest()


def cut(series: Series, plane: str, name: str, state: int) -> Series:
    """The slices of a series in another plane; `name` is that of the study, and `state` a number that changes with its files.

    Raises DataError where the slices have no even distances, lie obliquely, or are not all shown with one window.
    """
    if series.plane is None or series.spacing is None or series.positions is None or len(series.slices) < 2:
        raise DataError(f"study {name!r} has no evenly spaced slices in space, of which {plane} ones could be cut: leave the plane out")
    if fault := next((finding for finding in series.findings if any(word in finding for word in _FAULTS)), None):
        raise DataError(f"study {name!r} cannot be cut in another plane, because {fault}: leave the plane out")
    assert series.normal is not None
    lean = math.degrees(math.acos(min(1.0, max(map(abs, series.normal)))))
    if lean > MAX_LEAN:
        raise DataError(f"study {name!r} cannot be cut in another plane, because its slices lie {lean:.0f} degrees obliquely: leave it out")
    if not _have_one_window(series.slices):
        raise DataError(f'study {name!r} gives its slices no window or several, and a cut needs one: set it, such as window = "300/600"')
    between, *pixel = series.spacing
    stack = Stack(slices=series.slices, plane=series.plane, spacing=(between, min(pixel)), state=state)
    width, height = series.slices[0].load().size
    if 3 * width * height * len(series.slices) > MAX_BYTES:
        raise DataError(f"study {name!r} has too many pixels to be cut in another plane: leave the plane out")
    along = PLANES.index(plane)  # the axis of the patient that is the normal of the plane
    counts = dict(zip(_LAYOUTS[series.plane], (len(series.slices), height, width), strict=True))
    steps = dict(zip(_LAYOUTS[series.plane], (between, min(pixel), min(pixel)), strict=True))
    across = _LAYOUTS[plane]
    if fault := size_fault(*_picture_size(stack, plane, (counts[across[2]], counts[across[1]]))):
        raise DataError(f"study {name!r}, cut in another plane, {fault}")
    return Series(
        slices=tuple(CutSlice(stack=stack, name=name, plane=plane, index=index) for index in range(counts[along])),
        positions=tuple(index * steps[along] for index in range(counts[along])),
        spacing=(steps[along], min(steps.values()), min(steps.values())),
        normal=(float(along == 0), float(along == 1), float(along == 2)),
        modality=series.modality,
        findings=(*series.findings, f"cut from {series.plane} slices: positions are counted from the first cut"),
    )


def _have_one_window(slices: Sequence[ImageSource]) -> bool:
    """Whether all slices show their values with one window: one that was asked for, or the same one in all their files."""
    frames = [unturned(source) for source in slices]
    found = set()
    headers: dict[str, Dataset] = {}  # of each file once, which may hold hundreds of frames
    for frame in frames:
        if not isinstance(frame, DicomFrame):
            return True  # a volume has one range
        if frame.window is not None and not frame.window.startswith("file:"):
            continue
        if frame.path not in headers:
            headers[frame.path] = frame.read_elements((*_WINDOWS, *_GROUPS))
        header = headers[frame.path]
        own = functional_group(header, frame.frame, "FrameVOILUTSequence") or header
        found.add(tuple(str(own.get(name, "")) for name in _WINDOWS))
    return not found or (len(found) == 1 and not any(value == "" for value in found.pop()[:2]))


def _picture_size(stack: Stack, plane: str, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height with square pixels of a cut that has (width, height) values."""
    between, pixel = stack.spacing
    crossed = _LAYOUTS[stack.plane][0]  # the axis along which the values lie as far apart as the slices
    side = min(between, pixel)
    steps = [between if axis == crossed else pixel for axis in (_LAYOUTS[plane][2], _LAYOUTS[plane][1])]
    return max(1, round(size[0] * steps[0] / side)), max(1, round(size[1] * steps[1] / side))


def _to_patient(tones: NDArray[np.uint8], plane: str) -> NDArray[np.uint8]:
    """Tones (slice, row, column, colour) with the axes of the patient: from right to left, from front to back, from feet to head."""
    order = _LAYOUTS[plane]
    upright = tones[:, ::-1] if order[1] == _HEAD else tones
    return upright.transpose(*(order.index(axis) for axis in range(3)), 3)


def _load_tones(stack: Stack) -> NDArray[np.uint8]:
    """All slices, (slice, row, column, colour). Threads that ask at the same time share one decoding."""
    with _DECODING:
        return _decode_tones(stack)


@lru_cache(maxsize=1)
def _decode_tones(stack: Stack) -> NDArray[np.uint8]:
    import numpy as np

    first = stack.slices[0].load()
    tones = np.empty((len(stack.slices), first.height, first.width, 3), np.uint8)
    for place, source in enumerate(stack.slices):
        tones[place] = np.asarray(source.load())
    return tones


@lru_cache(maxsize=16)
def _digest(stack: Stack) -> str:
    return hashlib.sha256(repr([digest_image(source) for source in stack.slices]).encode()).hexdigest()
