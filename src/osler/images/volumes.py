"""Volumes in NIfTI and NRRD files, as series of slices. nibabel and pynrrd read the headers; a slice is read when it is loaded.

Slices are cut across the axis of the file with the largest spacing, of equal ones across the one that is nearest to the line from the feet
to the head, or in the plane that is asked for. Nothing is resampled but pixels that are not square. A volume that is not compressed is read
slice by slice; of compressed ones the last is kept in memory, because its slices cannot be found without unpacking it.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

from osler.errors import ConfigError, DataError
from osler.images.files import ImageFile
from osler.images.geometry import PLANES, Series, Turn, orient, turned
from osler.images.limits import MAX_SLICES, size_fault
from osler.images.volume_headers import VolumeError, VolumeHeader, read_volume_header
from osler.images.windows import FileWindow, Preset, Window, WindowChoice, apply_range, apply_window, parse_windows, to_range
from osler.taxonomy import Plane

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

MAX_VOLUME_BYTES: Final = 2 * 1024**3
"""The largest volume, unpacked."""

MAX_LEAN: Final = 0.5
"""Degrees between an axis and the normal of its slices from which on a shear is named."""

_CHUNK: Final = 1 << 22
_UNPACKING: Final = threading.Lock()
_SQUARE: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSlice:
    """One slice of a volume in a file below the folder `root`; implements `ImageSource` and `HasDigest`.

    Every failure of `load` is a DataError of one line that names the path, or MissingExtra without the extra "medical".
    """

    root: Path
    path: str  # relative: "ct/body.nii.gz"
    axis: int  # of the file's three axes of space, across which the slice lies
    index: int  # along that axis
    time: int = 0  # the volume of a file that holds several
    window: str | None = None  # "40/400", "lung", "lung+mediastinum+bone"; None from the minimum to the maximum of the whole file
    _windows: tuple[WindowChoice, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        choices = parse_windows(self.window)
        if any(isinstance(choice, FileWindow) for choice in choices):
            raise ConfigError(f"window {self.window!r}: a NIfTI or NRRD file has no windows of its own")
        object.__setattr__(self, "_windows", choices)

    @property
    def uri(self) -> str:
        """The relative path with the slice: "ct/body.nii.gz?axis=2&index=40"."""
        time = f"&time={self.time}" * (self.time > 0)
        window = f"&window={self.window}" if self.window is not None else ""
        return f"{ImageFile(root=self.root, path=self.path).uri}?axis={self.axis}&index={self.index}{time}{window}"

    def load(self) -> Image:
        """The slice in mode RGB, with square pixels; values that are no numbers are black."""
        import numpy as np
        import PIL.Image

        with _reading(self.root, self.path) as (stream, header):
            if not (0 <= self.axis < 3 and self.index < header.shape[self.axis] and self.time < header.num_times):
                raise VolumeError(f"has no slice {self.index} of axis {self.axis} at time {self.time}")
            width, height = _square_size(header, self.axis)
            file = _File.of(stream, header)
            # With the first of the two remaining axes to the right: (rows, columns) is (second, first).
            stored = np.asarray(file.open()[..., self.time].take(self.index, axis=self.axis)).T
            values = stored.astype(np.float64) * header.slope + header.intercept
            if self._windows and not np.isfinite(values).any():
                _find_range(file)  # refuses a file without any number
            if self._windows:
                windows = [choice.window if isinstance(choice, Preset) else choice for choice in self._windows]
                channels = [apply_window(values, window) for window in windows if isinstance(window, Window)]
            else:
                channels = [apply_range(values, *_find_range(file))]
        grey = [PIL.Image.fromarray(np.rint(np.nan_to_num(channel, nan=0.0)).astype(np.uint8)) for channel in channels]
        picture = PIL.Image.merge("RGB", grey if len(grey) > 1 else grey * 3)
        return picture if picture.size == (width, height) else picture.resize((width, height), PIL.Image.Resampling.BILINEAR)

    def read_values(self) -> NDArray[np.float64]:
        """The values of the slice in one row, after slope and intercept, also those that are no numbers. Raises what `load` raises."""
        import numpy as np

        with _reading(self.root, self.path) as (stream, header):
            stored = np.asarray(_File.of(stream, header).open()[..., self.time].take(self.index, axis=self.axis))
            return stored.astype(np.float64).ravel() * header.slope + header.intercept

    def read_window(self) -> Window | None:
        """The window that shows the values; None for three of them. Without one the range of the whole file. Raises what `load` raises."""
        if self._windows:
            choice = self._windows[0] if len(self._windows) == 1 else None
            return choice.window if isinstance(choice, Preset) else choice if isinstance(choice, Window) else None
        with _reading(self.root, self.path) as (stream, header):
            return to_range(*_find_range(_File.of(stream, header)))

    def with_window(self, window: str) -> VolumeSlice:
        """The same slice with another window. Raises ConfigError for one that it cannot have."""
        return replace(self, window=window)

    def check_header(self) -> None:
        """Raise DataError where the file is missing, no volume, or too large. Reads no voxel."""
        self.read_size()

    def read_size(self) -> tuple[int, int]:
        """Width and height of the picture, from the header alone."""
        with _reading(self.root, self.path) as (_, header):
            return _square_size(header, self.axis)

    def digest(self) -> str:
        """The SHA-256 of the file and of what is shown of it."""
        file = ImageFile(root=self.root, path=self.path)
        with file.open() as stream:
            content = _digest(file, _identify(stream))
        return hashlib.sha256(f"{content} {self.axis} {self.index} {self.time} {self._windows}".encode()).hexdigest()


def read_volume(root: Path, path: str, *, plane: Plane | None = None, window: str | None = None) -> tuple[Series, ...]:
    """The volume of a NIfTI or NRRD file below `root` as a series of slices; several where it holds several time points.

    Raises DataError for a file that is no volume, ConfigError for an unknown window, MissingExtra without the extra "medical".
    """
    import numpy as np

    with _reading(root, path) as (_, header):
        axis = slice_axis(header, plane)
        cut = place_slices(header, axis)
    findings = list(header.findings)
    if cut.lean > MAX_LEAN:
        findings.append(f"a shear of {cut.lean:.1f} degrees: the slices are shifted against each other")
    if header.num_times > 1:
        findings.append(f"one of {header.num_times} volumes of its file")
    first, second = (float(np.linalg.norm(header.affine[:3, other])) for other in range(3) if other != axis)
    return tuple(
        Series(
            slices=tuple(
                turned(VolumeSlice(root=root, path=path, axis=axis, index=index, time=time, window=window), cut.turn) for index in cut.order
            ),
            positions=cut.positions,
            spacing=(cut.spacing, second, first),
            normal=cut.normal,
            modality=None,
            findings=tuple(findings),
        )
        for time in range(header.num_times)
    )


def slice_axis(header: VolumeHeader, plane: Plane | None = None) -> int:
    """The axis of the file across which the slices lie."""
    import numpy as np

    axes = header.affine[:3, :3]
    if plane is not None:
        return int(np.abs(axes[PLANES.index(plane)] / np.linalg.norm(axes, axis=0)).argmax())
    lengths = np.linalg.norm(axes, axis=0)
    along = np.abs(axes[2]) / lengths  # how near each axis is to the line from the feet to the head
    return max((axis for axis in range(3) if lengths[axis] >= lengths.max() * (1 - _SQUARE)), key=lambda axis: float(along[axis]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where the slices across one axis of a volume lie."""

    normal: tuple[float, float, float]  # of length 1, in the direction of the convention
    turn: Turn
    order: range  # the indices along the axis, in the order of their positions
    positions: tuple[float, ...]  # in that order, in millimetres along the normal, growing
    spacing: float  # millimetres from slice to slice
    lean: float  # degrees between the axis and the normal: 0 without a shear


def place_slices(header: VolumeHeader, axis: int) -> Cut:
    """The slices across an axis of the file. Raises VolumeError for an affine that spans no space."""
    import numpy as np

    first, second = (header.affine[:3, other] for other in range(3) if other != axis)
    if (oriented := orient(first, second)) is None:
        raise VolumeError("has an affine that spans no space: write it again with the right orientation")
    normal, turn = oriented
    step = float(header.affine[:3, axis] @ normal)
    origin = float(header.affine[:3, 3] @ normal)
    order = range(header.shape[axis]) if step > 0 else range(header.shape[axis] - 1, -1, -1)
    return Cut(
        normal=(float(normal[0]), float(normal[1]), float(normal[2])),
        turn=turn,
        order=order,
        positions=tuple(origin + step * index for index in order),
        spacing=abs(step),
        lean=float(np.degrees(np.arccos(min(1.0, abs(step) / float(np.linalg.norm(header.affine[:3, axis])))))),
    )


@contextmanager
def open_volume(root: Path, path: str) -> Iterator[tuple[VolumeHeader, NDArray[Any]]]:
    """The header and the stored values, (first axis, second, third, time), of a NIfTI or NRRD file: without slope and intercept.

    Raises DataError, also for a VolumeError that is raised while it is open, with the path.
    """
    with _reading(root, path) as (stream, header):
        yield header, _File.of(stream, header).open()


@contextmanager
def _reading(root: Path, path: str) -> Iterator[tuple[IO[bytes], VolumeHeader]]:
    """The open file and its header; errors name the path."""
    try:
        with ImageFile(root=root, path=path).open() as stream:
            header = read_volume_header(stream)
            if _size(header) > MAX_VOLUME_BYTES:
                raise VolumeError(f"unpacks to more than {MAX_VOLUME_BYTES:,} bytes: store a part of it")
            if max(header.shape) * header.num_times > MAX_SLICES:
                raise VolumeError(f"has {max(header.shape) * header.num_times:,} slices, more than {MAX_SLICES:,}: store a part of it")
            yield stream, header
    except VolumeError as error:
        raise DataError(f"volume {path!r} {error}") from None


def _square_size(header: VolumeHeader, axis: int) -> tuple[int, int]:
    """Width and height of a slice with square pixels, before it is turned."""
    import numpy as np

    first, second = (other for other in range(3) if other != axis)
    steps = np.linalg.norm(header.affine[:3, :3], axis=0)
    side = min(steps[first], steps[second])
    width, height = (
        count if step <= side * (1 + _SQUARE) else round(count * float(step / side))
        for count, step in ((header.shape[first], steps[first]), (header.shape[second], steps[second]))
    )
    if fault := size_fault(width, height):
        raise VolumeError(fault)
    return width, height


def _identify(stream: IO[bytes]) -> tuple[int, int, int, int]:
    """What changes with the file behind a stream: device, inode, time of the last change and size."""
    status = os.fstat(stream.fileno())
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=64)
def _digest(file: ImageFile, _identity: tuple[int, int, int, int]) -> str:
    """The SHA-256 of a file that has not changed; the slices of a prompt are often of one volume."""
    return file.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """An open volume; equal to another one of the same file as long as that does not change."""

    identity: tuple[int, int, int, int]
    stream: IO[bytes] = field(compare=False)
    header: VolumeHeader = field(compare=False)

    @classmethod
    def of(cls, stream: IO[bytes], header: VolumeHeader) -> _File:
        return cls(identity=_identify(stream), stream=stream, header=header)

    def open(self) -> NDArray[Any]:
        """The stored values, (first axis, second, third, time): mapped from the file, or from memory where it is compressed."""
        import numpy as np

        header = self.header
        if header.is_compressed:
            with _UNPACKING:  # threads that ask at the same time share one
                unpacked = _unpack(self)
            stored = np.ndarray(header.stored_shape, header.dtype, unpacked, order="F")
            return stored.transpose(header.axes)
        self.stream.seek(0, os.SEEK_END)
        if self.stream.tell() < header.offset + _size(header):
            raise VolumeError("is cut short: fetch it again")
        mapped = np.memmap(cast(Any, self.stream), header.dtype, "r", header.offset, header.stored_shape, order="F")
        return mapped.transpose(header.axes)


def _size(header: VolumeHeader) -> int:
    """Bytes of the voxels."""
    return prod(header.stored_shape) * header.dtype.itemsize


@lru_cache(maxsize=1)
def _unpack(file: _File) -> bytes:
    """The voxels of a file whose end, or the whole of which, is a gzip stream."""
    header, stream = file.header, file.stream
    skipped = header.offset if header.is_packed_whole else 0
    size = skipped + _size(header)
    stream.seek(0 if header.is_packed_whole else header.offset)
    unpacked = bytearray()
    inflate, waiting = zlib.decompressobj(16 + zlib.MAX_WBITS), b""
    try:
        while len(unpacked) < size and (waiting := waiting or stream.read(_CHUNK)):
            unpacked += inflate.decompress(waiting, min(_CHUNK, size - len(unpacked)))
            waiting = inflate.unconsumed_tail
            if inflate.eof:  # a gzip file may have several members
                waiting, inflate = inflate.unused_data, zlib.decompressobj(16 + zlib.MAX_WBITS)
    except zlib.error:
        raise VolumeError("is damaged: fetch it again") from None
    if len(unpacked) < size:
        raise VolumeError("is cut short: fetch it again")
    del unpacked[:skipped]
    return bytes(unpacked)


@lru_cache(maxsize=64)
def _find_range(file: _File) -> tuple[float, float]:
    """The least and the largest value of the whole file, of those that are numbers. Raises VolumeError where none is."""
    import numpy as np

    header, volume = file.header, file.open()
    low, high = np.inf, -np.inf
    for time in range(header.num_times):
        for index in range(header.shape[2]):
            part = np.asarray(volume[:, :, index, time])
            part = part[np.isfinite(part)]
            if part.size:
                low, high = min(low, float(part.min())), max(high, float(part.max()))
    first, second = sorted((low * header.slope + header.intercept, high * header.slope + header.intercept))
    if not np.isfinite((first, second)).all():
        raise VolumeError("has no voxel that is a number, or so large ones that its slope makes them infinite: remove the row")
    return first, second
