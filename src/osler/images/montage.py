"""Pictures made of pictures: several in a grid, and one reduced to a number of image tokens."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from osler.images.files import HasHeader
from osler.images.fingerprints import digest_image
from osler.images.sizes import size_of
from osler.types import ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_CELL: Final = 1024
"""The longest side of a picture within a montage, in pixels; larger ones are reduced."""

GAP: Final = 2
"""Black pixels between the pictures of a montage."""

_STEP: Final = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """The cells of a montage."""

    columns: int
    rows: int
    width: int  # of a cell, in pixels
    height: int

    @classmethod
    def of(cls, sizes: Sequence[tuple[int, int]]) -> _Grid:
        """The grid for pictures of these sizes."""
        width, height = (max(size[side] for size in sizes) for side in (0, 1))
        columns = count_columns(len(sizes), width, height)
        return cls(columns=columns, rows=math.ceil(len(sizes) / columns), width=width, height=height)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the montage in pixels."""
        return self.columns * (self.width + GAP) - GAP, self.rows * (self.height + GAP) - GAP


@dataclass(frozen=True, slots=True, kw_only=True)
class Montage:
    """Pictures in a grid, row by row, on black; each cell has the size of the largest picture. Implements `ImageSource` and `HasDigest`."""

    sources: tuple[ImageSource, ...]

    @property
    def uri(self) -> str:
        """The URIs of the pictures in their order: "montage:ct/1.dcm|ct/2.dcm"."""
        return "montage:" + "|".join(source.uri for source in self.sources)

    def load(self) -> Image:
        """The grid in mode RGB. Raises what the pictures raise."""
        import PIL.Image

        pictures = [_reduce(source.load(), (MAX_CELL, MAX_CELL)) for source in self.sources]
        grid = _Grid.of([picture.size for picture in pictures])
        shown = PIL.Image.new("RGB", grid.size)
        for place, picture in enumerate(pictures):
            row, column = divmod(place, grid.columns)
            left, top = column * (grid.width + GAP), row * (grid.height + GAP)
            shown.paste(picture, (left + (grid.width - picture.width) // 2, top + (grid.height - picture.height) // 2))
        return shown

    def read_size(self) -> tuple[int, int]:
        """Width and height of the grid."""
        return _Grid.of([reduced_size(size_of(source), (MAX_CELL, MAX_CELL)) for source in self.sources]).size

    def check_header(self) -> None:
        """Raise DataError where the file of a picture is missing, not an image, or too large."""
        check_headers(self.sources)

    def digest(self) -> str:
        """The SHA-256 of the digests of the pictures in their order."""
        return hashlib.sha256(f"montage {[digest_image(source) for source in self.sources]}".encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReducedImage:
    """A picture that is reduced, where needed, to take at most so many image tokens. Implements `ImageSource` and `HasDigest`."""

    source: ImageSource
    max_tokens: int
    token_side: int  # pixels of the side of a token

    @property
    def uri(self) -> str:
        """That of the picture with the limit: "ct/17.dcm?tokens=96"."""
        return f"{self.source.uri}{'&' if '?' in self.source.uri else '?'}tokens={self.max_tokens}"

    def load(self) -> Image:
        """The picture in mode RGB; its sides keep their ratio."""
        picture = self.source.load()
        return _reduce(picture, fit(picture.size, self.max_tokens, self.token_side))

    def read_size(self) -> tuple[int, int]:
        """Width and height of the reduced picture."""
        size = size_of(self.source)
        return reduced_size(size, fit(size, self.max_tokens, self.token_side))

    def check_header(self) -> None:
        """Raise DataError where the file of the picture is missing, not an image, or too large."""
        check_headers([self.source])

    def digest(self) -> str:
        """The SHA-256 of the digest of the picture and the limit."""
        return hashlib.sha256(f"{digest_image(self.source)} {self.max_tokens} {self.token_side}".encode()).hexdigest()


def count_columns(number: int, width: int, height: int) -> int:
    """The pictures in a row of a grid, so that its longer side is as short as it can be."""
    return min(range(1, number + 1), key=lambda columns: max(columns * width, math.ceil(number / columns) * height))


def check_headers(sources: Sequence[ImageSource]) -> None:
    """Raise DataError for the first picture whose file is missing, not an image, or too large."""
    for source in sources:
        if isinstance(source, HasHeader):
            source.check_header()


def count_tokens(size: tuple[int, int], side: int) -> int:
    """The image tokens of a picture of (width, height) pixels: the processors of the Qwen2-VL family round each side to whole tokens."""
    return math.prod(max(1, round(length / side)) for length in size)


def fit(size: tuple[int, int], max_tokens: int, side: int) -> tuple[int, int]:
    """The largest size of the same ratio that takes at most `max_tokens`; at least one pixel a side."""
    scale, fitted = 1.0, size
    while count_tokens(fitted, side) > max_tokens:
        scale = min(scale * _STEP, math.sqrt(max_tokens * side * side / math.prod(size)))
        fitted = (max(1, int(size[0] * scale)), max(1, int(size[1] * scale)))
        if max(fitted) < side:
            break
    return fitted


def _reduce(picture: Image, size: tuple[int, int]) -> Image:
    """The picture within `size`, its ratio kept; itself where it is no larger."""
    from PIL.Image import Resampling

    wanted = reduced_size(picture.size, size)
    return picture if picture.size == wanted else picture.resize(wanted, Resampling.LANCZOS)


def reduced_size(own: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the same ratio within `size`; its own where that is no larger."""
    scale = min(1.0, size[0] / own[0], size[1] / own[1])
    return own if scale == 1 else (max(1, int(own[0] * scale)), max(1, int(own[1] * scale)))
