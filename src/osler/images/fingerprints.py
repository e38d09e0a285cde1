"""What an image is, as two numbers: the SHA-256 of its bytes, and a perceptual hash that survives re-encoding and resizing.

The first finds the same file under another name, the second the same picture in another file. Neither is guessed: an image that is not at
hand has no digest, and a picture without structure (one flat colour) has no perceptual hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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

HASH_BITS: Final = 64
MAX_DISTANCE: Final = 16
"""The largest distance that is searched for; two unrelated pictures differ in 32 bits on average."""

DEFAULT_DISTANCE: Final = 4
"""Bits between the hashes of one picture: half the size, JPEG at quality 30 or another gamma moves a picture by 0 to 4."""

_GRID: Final = 32  # pixels a side before the transform
_MIN_CONTRAST: Final = 1.0  # grey levels: the standard deviation below which a picture shows nothing
_BATCH: Final = 256  # images in flight
_MAX_COMPARISONS: Final = 1 << 22  # hashes compared at once: 32 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What tells one image from another."""

    digest: str | None  # SHA-256 in hexadecimal; None where no file is at hand
    perceptual_hash: int | None  # 0 .. 2**64 - 1; None where nothing could be decoded or seen


NOTHING: Final = Fingerprint(digest=None, perceptual_hash=None)


def digest_image(source: ImageSource) -> str | None:
    """The SHA-256 that a source gives of itself, else of its decoded pixels; None when there is no image."""
    try:
        if isinstance(source, HasDigest):
            return source.digest()
        picture = source.load()
        return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()
    except (DataError, OSError):
        return None


def hash_picture(picture: Image) -> int | None:
    """The signs of the 64 lowest frequencies of a grey 32 x 32 copy against their median (pHash, Zauner 2010, without the constant term).

    None for a picture without structure, whose signs would be noise.
    """
    import numpy as np
    from PIL.Image import Resampling
    from scipy.fft import dctn

    grey = picture.convert("L").resize((_GRID, _GRID), Resampling.LANCZOS)
    values = np.asarray(grey, dtype=np.float64)
    if values.std() < _MIN_CONTRAST:
        return None
    spectrum = dctn(values, norm="ortho")
    rows, columns = _low_frequencies()
    low = spectrum[rows, columns]
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def hash_image(source: ImageSource) -> int | None:
    """`hash_picture` of a source; None where it cannot be loaded."""
    try:
        return hash_picture(source.load())
    except DataError:
        return None


def take_fingerprint(source: ImageSource) -> Fingerprint:
    """Digest and perceptual hash of one image; the latter is not tried where there is no digest."""
    digest = digest_image(source)
    return NOTHING if digest is None else Fingerprint(digest=digest, perceptual_hash=hash_image(source))


def take_fingerprints(sources: Iterable[ImageSource], *, has_progress: bool = False) -> dict[ImageSource, Fingerprint]:
    """The fingerprint of every distinct image. Only a few pictures are in memory at a time."""
    return _map_images(take_fingerprint, sources, has_progress)


def digest_images(sources: Iterable[ImageSource], *, has_progress: bool = False) -> dict[ImageSource, str | None]:
    """The digest of every distinct image."""
    return _map_images(digest_image, sources, has_progress)


def hamming_distance(one: int, other: int) -> int:
    """How many of 64 bits differ."""
    return (one ^ other).bit_count()


def find_near_pairs(hashes: Iterable[int], max_distance: int) -> Iterator[NDArray[np.uint64]]:
    """Every pair of distinct hash values at most `max_distance` bits apart, once each, as blocks (K, 2).

    Pigeonhole: cut 64 bits into `max_distance + 1` bands, and a near pair agrees in one of them, so only hashes that share a band are
    compared. 82,000 hashes take seconds; a block holds at most a few million comparisons. Raises ConfigError for a distance out of range.
    """
    import numpy as np

    if not 0 <= max_distance <= MAX_DISTANCE:
        raise ConfigError(f"a perceptual distance of {max_distance} bits: use 0 to {MAX_DISTANCE}")
    values = np.array(sorted(set(hashes)), dtype=np.uint64)
    edges = np.linspace(0, HASH_BITS, max_distance + 2).astype(int)
    masks = np.array([((1 << int(high)) - (1 << int(low))) for low, high in pairwise(edges)], dtype=np.uint64)
    for band, mask in enumerate(masks):
        keys = values & mask
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]])) if len(order) else order
        for start, stop in pairwise([*starts, len(order)]):
            yield from _compare_bucket(values[order[start:stop]], masks[:band], max_distance)


def _compare_bucket(bucket: NDArray[np.uint64], earlier: NDArray[np.uint64], max_distance: int) -> Iterator[NDArray[np.uint64]]:
    """The near pairs of hashes that share a band; a pair that shares an earlier band too was found there."""
    import numpy as np

    step = max(1, _MAX_COMPARISONS // len(bucket))
    for begin in range(0, len(bucket) - 1, step):
        rows = bucket[begin : begin + step]
        differing = rows[:, None] ^ bucket[None, begin:]
        is_near = np.triu(np.bitwise_count(differing) <= max_distance, k=1)
        one, other = np.nonzero(is_near)
        found = differing[one, other]
        is_new = (found[:, None] & earlier[None, :]).all(axis=1)
        if is_new.any():
            yield np.stack([rows[one[is_new]], bucket[begin + other[is_new]]], axis=1)


def _map_images(measure: Callable[[ImageSource], T], sources: Iterable[ImageSource], has_progress: bool) -> dict[ImageSource, T]:
    """`measure` of every distinct image, on threads (decoding, scaling and hashing all release Python's lock)."""
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
    """Row and column of the 64 lowest frequencies after the constant one, diagonal by diagonal."""
    ranked = sorted((row + column, row, column) for row in range(_GRID) for column in range(_GRID) if row + column)[:HASH_BITS]
    return [row for _, row, _ in ranked], [column for _, _, column in ranked]
