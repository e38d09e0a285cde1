"""Fingerprints of images: the SHA-256 of the bytes, and a perceptual hash that survives re-encoding and resizing.

The digest finds the same file under another name, the perceptual hash the same picture in another file. An image that cannot be opened has
no digest, and a picture without structure (one flat colour) has no perceptual hash. `turned` finds turned and mirrored copies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeVar

from osler.errors import ConfigError, DataError
from osler.types import HasDigest, ImageSource

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

T = TypeVar("T")
Pixel = TypeVar("Pixel", bound="np.generic")

HASH_BITS: Final = 64
MAX_DISTANCE: Final = 16
"""The largest distance that can be searched; two unrelated pictures differ in 32 bits on average."""

DEFAULT_DISTANCE: Final = 4
"""Near-duplicates differ in at most so many bits: half the size, JPEG at quality 30 or another gamma changes 0 to 4."""

GRID: Final = 32
"""Pixels per side of the grey copy that is hashed."""

NUM_TURNS: Final = 8
"""The symmetries of a square; 0 is the picture as it is."""

_MIN_CONTRAST: Final = 1.0  # in grey levels: a lower standard deviation counts as one flat colour
_BATCH: Final = 256  # images submitted to the threads at a time
MAX_COMPARISONS: Final = 1 << 22
"""Pairs of hashes compared at once: 32 MiB."""


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


def check_distance(max_distance: int) -> None:
    """Raise ConfigError for a distance outside 0 to MAX_DISTANCE."""
    if not 0 <= max_distance <= MAX_DISTANCE:
        raise ConfigError(f"a perceptual distance of {max_distance} bits: use 0 to {MAX_DISTANCE}")


def cut_bands(max_distance: int) -> NDArray[np.uint64]:
    """Masks that cut a hash into `max_distance + 1` bands: two hashes that differ in at most so many bits agree in one of them."""
    import numpy as np

    edges = np.linspace(0, HASH_BITS, max_distance + 2).astype(int)
    return np.array([((1 << int(high)) - (1 << int(low))) for low, high in pairwise(edges)], dtype=np.uint64)


def find_near_pairs(hashes: Iterable[int], max_distance: int) -> Iterator[NDArray[np.uint64]]:
    """Every pair of distinct hashes that differ in at most `max_distance` bits, each pair once, in arrays of shape (K, 2).

    Only hashes that share one of the bands of `cut_bands` are compared (pigeonhole principle); 82,000 hashes take seconds. Raises
    ConfigError for a distance outside 0 to MAX_DISTANCE.
    """
    import numpy as np

    check_distance(max_distance)
    values = np.array(sorted(set(hashes)), dtype=np.uint64)
    masks = cut_bands(max_distance)
    for band, mask in enumerate(masks):
        keys = values & mask
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]])) if len(order) else order
        for start, stop in pairwise([*starts, len(order)]):
            yield from _compare_bucket(values[order[start:stop]], masks[:band], max_distance)


def _compare_bucket(bucket: NDArray[np.uint64], earlier: NDArray[np.uint64], max_distance: int) -> Iterator[NDArray[np.uint64]]:
    """The near pairs among hashes that share a band, without those that share an earlier band as well: these were found before."""
    import numpy as np

    step = max(1, MAX_COMPARISONS // len(bucket))
    for begin in range(0, len(bucket) - 1, step):
        rows = bucket[begin : begin + step]
        differing = rows[:, None] ^ bucket[None, begin:]
        is_near = np.triu(np.bitwise_count(differing) <= max_distance, k=1)
        one, other = np.nonzero(is_near)
        is_new = (differing[one, other][:, None] & earlier[None, :]).all(axis=1)
        if is_new.any():
            yield np.stack([rows[one[is_new]], bucket[begin + other[is_new]]], axis=1)


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
