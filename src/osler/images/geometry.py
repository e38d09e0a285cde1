"""Where slices lie in the patient, and how they are turned to be shown.

Positions and directions are in DICOM's patient coordinates, in millimetres: x grows to the left of the patient, y to the back, z to the
head ("LPS"). The convention for every slice, from whatever file:

    plane     left edge of the picture   upper edge   order of the slices
    axial     right of the patient       front        from the feet to the head
    coronal   right of the patient       head         from the front to the back
    sagittal  front                      head         from the right to the left

An oblique slice is turned by multiples of 90 degrees and mirrored, whatever is nearest to the plane that its normal is nearest to. Nothing
is resampled for it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from osler.images.files import HasHeader
from osler.images.fingerprints import digest_image
from osler.images.sizes import size_of
from osler.images.windows import Window
from osler.taxonomy import Plane
from osler.types import ImageSource

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

PLANES: Final[tuple[Plane, ...]] = ("sagittal", "coronal", "axial")  # by the axis that the normal is nearest to: x, y, z
# For each plane the directions to the right and down of the picture.
_RIGHT: Final = ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (1.0, 0.0, 0.0))
_DOWN: Final = ((0.0, 0.0, -1.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0))
EDGES: Final = {"axial": "RLAP", "coronal": "RLHF", "sagittal": "APHF"}
"""For each plane the letters at the left, right, upper and lower edge of a picture: right, left, anterior, posterior, head, foot."""

_MIN_LENGTH: Final = 1e-6  # of a direction


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """How a stored slice becomes the picture of the convention: rows and columns are exchanged first, then mirrored."""

    is_transposed: bool = False
    is_mirrored: bool = False  # left and right
    is_flipped: bool = False  # up and down

    def apply(self, picture: Image) -> Image:
        """The turned picture."""
        from PIL.Image import Transpose

        steps = ((self.is_transposed, Transpose.TRANSPOSE), (self.is_mirrored, Transpose.FLIP_LEFT_RIGHT),
                 (self.is_flipped, Transpose.FLIP_TOP_BOTTOM))  # fmt: skip
        for is_needed, step in steps:
            picture = picture.transpose(step) if is_needed else picture
        return picture


AS_STORED: Final = Turn()


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnedImage:
    """An image, turned; implements `ImageSource` and `HasDigest`."""

    source: ImageSource
    turn: Turn

    @property
    def uri(self) -> str:
        """That of the image with the turn: "ct/17.dcm?turn=mirrored,flipped"."""
        turn = self.turn
        told = ("transposed", turn.is_transposed), ("mirrored", turn.is_mirrored), ("flipped", turn.is_flipped)
        return f"{self.source.uri}{'&' if '?' in self.source.uri else '?'}turn={','.join(word for word, is_so in told if is_so)}"

    def load(self) -> Image:
        """The turned picture. Raises what the image raises."""
        return self.turn.apply(self.source.load())

    def check_header(self) -> None:
        """Raise DataError where the file of the image is missing, not an image, or too large."""
        if isinstance(self.source, HasHeader):
            self.source.check_header()

    def read_size(self) -> tuple[int, int]:
        """Width and height of the turned picture."""
        width, height = size_of(self.source)
        return (height, width) if self.turn.is_transposed else (width, height)

    def digest(self) -> str:
        """The SHA-256 of the digest of the image and the turn."""
        return hashlib.sha256(f"{digest_image(self.source)} {self.turn}".encode()).hexdigest()


def turned(source: ImageSource, turn: Turn) -> ImageSource:
    """The image itself where nothing is turned."""
    return source if turn == AS_STORED else TurnedImage(source=source, turn=turn)


def unturned(source: ImageSource) -> ImageSource:
    """The image behind a turned one, and any other image itself."""
    return source.source if isinstance(source, TurnedImage) else source


def with_window(source: ImageSource, window: str) -> ImageSource:
    """A slice of a DICOM file or a volume, turned or not, with a window; any other image as it is."""
    if isinstance(source, TurnedImage):
        return replace(source, source=with_window(source.source, window))
    return source.with_window(window) if isinstance(source, HasWindow) else source


@runtime_checkable
class HasWindow(Protocol):
    """A slice whose values are shown through a window."""

    def with_window(self, window: str) -> ImageSource:
        """The same slice with another window. Raises ConfigError for one that it cannot have."""


@runtime_checkable
class HasShownWindow(Protocol):
    """A slice that knows the window by which its values are shown."""

    def read_window(self) -> Window | None:
        """The window; None for three of them, for a lookup table and for colours. Raises what `load` raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Parallel slices in order, of one time point, echo and stack. A slice is decoded when it is loaded."""

    slices: tuple[ImageSource, ...]
    positions: tuple[float, ...] | None  # of the slices along the normal in millimetres, growing; None where the files do not say it
    spacing: tuple[float, float, float] | None  # in millimetres between slices, rows and columns as stored; None where unknown
    normal: tuple[float, float, float] | None  # of length 1, in the direction of the order
    modality: str | None  # as DICOM says it: "CT", "MR"
    findings: tuple[str, ...] = ()  # what is unusual, in words: a missing slice, a gantry tilt
    patient: int | None = None  # which of the patients whom the files of a folder name, from 0; None where they name none

    @property
    def plane(self) -> Plane | None:
        """The plane that the slices are nearest to: "axial", "coronal" or "sagittal"; None without a normal."""
        return None if self.normal is None else PLANES[max(range(3), key=lambda axis: abs(self.normal[axis]))]  # type: ignore[index]


def to_unit(vector: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The vector with the length 1; None for one without a direction."""
    import numpy as np

    length = float(np.linalg.norm(vector))
    return vector / length if np.isfinite(length) and length > _MIN_LENGTH else None


def orient(along_row: NDArray[np.float64], along_column: NDArray[np.float64]) -> tuple[NDArray[np.float64], Turn] | None:
    """The normal of a slice, in the direction of the convention, and its turn.

    `along_row` points to the next column of pixels, `along_column` to the next row. None where they span no plane.
    """
    import numpy as np

    row, column = to_unit(along_row), to_unit(along_column)
    normal = None if row is None or column is None else to_unit(np.cross(row, column))
    if row is None or column is None or normal is None:
        return None
    axis = int(np.abs(normal).argmax())
    normal = normal * np.sign(normal[axis])
    right, down = np.array(_RIGHT[axis]), np.array(_DOWN[axis])
    is_transposed = abs(row @ right) + abs(column @ down) < abs(column @ right) + abs(row @ down)
    if is_transposed:
        row, column = column, row
    return normal, Turn(is_transposed=bool(is_transposed), is_mirrored=bool(row @ right < 0), is_flipped=bool(column @ down < 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The distances between slices in order."""

    spacing: float | None  # in millimetres; None for a single slice
    findings: tuple[str, ...]


def measure_steps(positions: list[float]) -> Steps:
    """The usual distance of growing positions, and what differs from it: missing slices, uneven distances.

    The usual distance is the median, the lower one of two, so that a gap does not widen it.
    """
    if len(positions) < 2:
        return Steps(spacing=None, findings=())
    distances = [after - before for before, after in pairwise(positions)]
    usual = sorted(distances)[(len(distances) - 1) // 2]
    tolerance = max(0.02 * usual, 0.01)
    findings: list[str] = []
    uneven: list[float] = []
    for before, distance in zip(positions, distances, strict=False):
        if abs(distance - usual) <= tolerance:
            continue
        missing = round(distance / usual) - 1
        if missing >= 1 and abs(distance - usual * (missing + 1)) <= tolerance * (missing + 1):
            noun = "slice is" if missing == 1 else "slices are"
            findings.append(f"{missing} {noun} missing between {before:g} and {before + distance:g} mm: the others are {usual:g} mm apart")
        else:
            uneven.append(distance)
    if uneven:
        findings.append(f"the distances between slices are uneven: usually {usual:g} mm, but from {min(uneven):g} to {max(uneven):g} mm")
    return Steps(spacing=usual, findings=tuple(findings))
