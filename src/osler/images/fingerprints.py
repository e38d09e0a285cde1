"""Fingerprints of images: the SHA-256 of the bytes, and a perceptual hash that survives re-encoding and resizing.

The digest finds the same file under another name, the perceptual hash the same picture in another file. An image that cannot be opened has
no digest, and a picture without structure (one flat colour) has no perceptual hash. `near` compares hashes, `turned` finds turned
and mirrored copies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, TypeVar

from osler.errors import DataError
from osler.images.near import HASH_BITS
from osler.types import HasDigest, ImageSource

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

T = TypeVar("T")
Pixel = TypeVar("Pixel", bound="np.generic")

DEFAULT_DISTANCE: Final = 4
"""Near-duplicates differ in at most so many bits: half the size, JPEG at quality 30 or another gamma changes 0 to 4."""

GRID: Final = 32
"""Pixels per side of the grey copy that is hashed."""

NUM_TURNS: Final = 8
"""The symmetries of a square; 0 is the picture as it is."""

_MIN_CONTRAST: Final = 1.0  # in grey levels: a lower standard deviation counts as one flat colour
_BATCH: Final = 256  # images submitted to the threads at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """The digest and the perceptual hash of one image."""

    digest: str | None  # SHA-256 in hexadecimal; None if the image cannot be opened
    perceptual_hash: int | None  # 64 bits; None if the image cannot be decoded or has no structure
    turned_hashes: tuple[int, ...] = ()  # the perceptual hashes of turns 1 to 7; () like None above
    grey: bytes = b""  # the grey copy that was hashed, GRID x GRID, one byte a pixel; empty like None above


def digest_image(source: ImageSource) -> str | None:
    """The SHA-256 from `source.digest()` where the source has that method, else of its decoded pixels; None if it cannot be opened."""
    try:
        if isinstance(source, HasDigest):
            return source.digest()
        picture = source.load()
        return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()
    except (DataError, OSError):
        return None


def hash_picture(picture: Image) -> int | None:
    """pHash (Zauner 2010) as an integer of 64 bits: is each of the 64 lowest frequencies of a grey 32 x 32 copy above their median?

    The constant term is left out. None for a picture without structure, because its bits would be noise.
    """
    return None if (grey := _shrink(picture)) is None else _hash_grey(grey)


def turn(grey: NDArray[Pixel], number: int) -> NDArray[Pixel]:
    """The last two axes of `grey`, a square, turned or mirrored: one of the `NUM_TURNS` symmetries."""
    across = grey.swapaxes(-1, -2) if number & 4 else grey
    return across[..., :: -1 if number & 2 else 1, :: -1 if number & 1 else 1]


def _shrink(picture: Image) -> NDArray[np.uint8] | None:
    """A grey copy of GRID x GRID pixels; None without structure."""
    import numpy as np
    from PIL.Image import Resampling

    grey = np.asarray(picture.convert("L").resize((GRID, GRID), Resampling.LANCZOS))
    return grey if grey.std() >= _MIN_CONTRAST else None


def _hash_grey(grey: NDArray[np.uint8]) -> int:
    import numpy as np
    from scipy.fft import dctn

    spectrum = dctn(grey.astype(np.float64), norm="ortho")
    rows, columns = _low_frequencies()
    low = spectrum[rows, columns]
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def take_fingerprints(sources: Iterable[ImageSource], *, has_progress: bool = False) -> dict[ImageSource, Fingerprint]:
    """The fingerprint of every distinct image. One decoded picture per thread is in memory."""
    return map_images(_take_fingerprint, sources, has_progress=has_progress)


def _take_fingerprint(source: ImageSource) -> Fingerprint:
    digest, grey = digest_image(source), None
    if digest is not None:
        with suppress(DataError):
            grey = _shrink(source.load())
    if grey is None:
        return Fingerprint(digest=digest, perceptual_hash=None)
    first, *others = (_hash_grey(turn(grey, number)) for number in range(NUM_TURNS))
    return Fingerprint(digest=digest, perceptual_hash=first, turned_hashes=tuple(others), grey=grey.tobytes())


def map_images(measure: Callable[[ImageSource], T], sources: Iterable[ImageSource], *, has_progress: bool = False) -> dict[ImageSource, T]:
    """`measure` of every distinct image, on threads: decoding, scaling and hashing release Python's global interpreter lock."""
    from tqdm import tqdm

    distinct = list(dict.fromkeys(sources))
    measured: dict[ImageSource, T] = {}
    with ThreadPoolExecutor() as pool, tqdm(total=len(distinct), unit="image", desc="fingerprints", disable=not has_progress) as bar:
        for begin in range(0, len(distinct), _BATCH):
            batch = distinct[begin : begin + _BATCH]
            measured.update(zip(batch, pool.map(measure, batch), strict=True))
            bar.update(len(batch))
    return measured


@cache
def _low_frequencies() -> tuple[list[int], list[int]]:
    """Rows and columns of the 64 lowest frequencies without the constant term, diagonal by diagonal."""
    ranked = sorted((row + column, row, column) for row in range(GRID) for column in range(GRID) if row + column)[:HASH_BITS]
    return [row for _, row, _ in ranked], [column for _, _, column in ranked]
