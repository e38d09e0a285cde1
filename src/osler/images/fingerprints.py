"""Fingerprints of images: the SHA-256 of the bytes, and a perceptual hash that survives re-encoding and resizing.

The digest finds the same file under another name, the perceptual hash the same picture in another file. An image that cannot be opened has
no digest, and a picture without structure (one flat colour) has no perceptual hash. `near` compares hashes, `turned` finds turned
and mirrored copies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from osler.errors import ConfigError, DataError
from osler.images.fingerprint_cache import FileState, FingerprintCache, Kept
from osler.images.near import HASH_BITS
from osler.types import HasDigest, ImageSource

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from tqdm import tqdm

T = TypeVar("T")
Pixel = TypeVar("Pixel", bound="np.generic")

DEFAULT_DISTANCE: Final = 4
"""Near-duplicates differ in at most so many bits: half the size, JPEG at quality 30 or another gamma changes 0 to 4."""

GRID: Final = 32
"""Pixels per side of the grey copy that is hashed."""

NUM_TURNS: Final = 8
"""The symmetries of a square; 0 is the picture as it is."""

MAX_WORKERS: Final = 256
"""Threads that open images."""

_MIN_CONTRAST: Final = 1.0  # in grey levels: a lower standard deviation counts as one flat colour
_BATCH: Final = 256  # images submitted to the threads at a time
_CACHED_AT_ONCE: Final = 1024  # images whose fingerprints are kept in one write


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """The digest and the perceptual hash of one image."""

    digest: str | None  # SHA-256 in hexadecimal; None if the image cannot be opened
    perceptual_hash: int | None  # 64 bits; None if the image cannot be decoded or has no structure
    is_decoded: bool = True  # False for a file that has bytes and no picture, such as one that was cut off
    turned_hashes: tuple[int, ...] = ()  # the perceptual hashes of turns 1 to 7; () like None above
    grey: bytes = b""  # the grey copy that was hashed, GRID x GRID, one byte a pixel; empty like None above, and from a cache


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How many images are opened at a time, and where the fingerprints of image files are kept."""

    workers: int | None = None  # threads; None: as many as suit the machine
    cache: Path | None = None  # a folder

    def __post_init__(self) -> None:
        """Raise ConfigError for fewer than one worker, or for many."""
        if self.workers is not None and not 1 <= self.workers <= MAX_WORKERS:
            raise ConfigError(f"--workers {self.workers}: use 1 to {MAX_WORKERS}")


def take_fingerprints(
    sources: Iterable[ImageSource], *, has_progress: bool = False, opening: Opening | None = None
) -> dict[ImageSource, Fingerprint]:
    """The fingerprint of every distinct image, whatever the number of workers. One decoded picture per worker is in memory.

    Image files that the cache knows are not opened, and have no `grey`. Raises ConfigError for a cache that cannot be written.
    """
    opening = opening or Opening()
    if opening.cache is None:
        return map_images(_take_fingerprint, sources, has_progress=has_progress, workers=opening.workers)
    distinct = list(dict.fromkeys(sources))
    with FingerprintCache(opening.cache) as cache, _count_images(len(distinct), is_shown=has_progress) as bar:
        taken = {source: _from_kept(kept) for source, kept in cache.find(distinct)}
        bar.update(len(taken))
        unknown = [source for source in distinct if source not in taken]
        for begin in range(0, len(unknown), _CACHED_AT_ONCE):
            part = unknown[begin : begin + _CACHED_AT_ONCE]
            states = {source: state for source in part if (state := FileState.of(source)) is not None}
            measured = map_images(_take_fingerprint, part, workers=opening.workers, bar=bar)
            cache.keep({source: _to_kept(one) for source, one in measured.items() if one.digest is not None and one.is_decoded}, states)
            taken |= measured
    return {source: taken[source] for source in distinct}


def describe_undecoded(fingerprints: Mapping[ImageSource, Fingerprint]) -> str | None:
    """What it means for a comparison that some images cannot be decoded; None where all can."""
    if not (number := sum(not fingerprint.is_decoded for fingerprint in fingerprints.values())):
        return None
    return f"{number:,} of {len(fingerprints):,} images have bytes but no picture: copies of them are found by their bytes alone."


def take_greys(sources: Iterable[ImageSource]) -> dict[ImageSource, bytes]:
    """The small grey copies of images, without those that cannot be seen."""
    return {source: one.grey for source, one in map_images(_take_fingerprint, sources).items() if one.grey}


def _from_kept(kept: Kept) -> Fingerprint:
    first, *others = kept.hashes or (None,)
    return Fingerprint(digest=kept.digest, perceptual_hash=first, turned_hashes=tuple(others))


def _to_kept(taken: Fingerprint) -> Kept:
    assert taken.digest is not None
    hashes = () if taken.perceptual_hash is None else (taken.perceptual_hash, *taken.turned_hashes)
    return Kept(digest=taken.digest, hashes=hashes)


def _take_fingerprint(source: ImageSource) -> Fingerprint:
    digest = digest_image(source)
    try:
        grey = None if digest is None else _shrink(source.load())
    except DataError:
        return Fingerprint(digest=digest, perceptual_hash=None, is_decoded=False)
    if grey is None:
        return Fingerprint(digest=digest, perceptual_hash=None)
    first, *others = (_hash_grey(turn(grey, number)) for number in range(NUM_TURNS))
    return Fingerprint(digest=digest, perceptual_hash=first, turned_hashes=tuple(others), grey=grey.tobytes())


def _count_images(total: int, *, is_shown: bool) -> tqdm[NoReturn]:
    """A bar that counts images."""
    from tqdm import tqdm

    return tqdm(total=total, unit="image", desc="fingerprints", disable=not is_shown)


def map_images(
    measure: Callable[[ImageSource], T],
    sources: Iterable[ImageSource],
    *,
    has_progress: bool = False,
    workers: int | None = None,
    bar: tqdm[NoReturn] | None = None,
) -> dict[ImageSource, T]:
    """`measure` of every distinct image, on threads: decoding, scaling and hashing release Python's global interpreter lock.

    `bar` counts them in place of a bar of its own.
    """
    distinct = list(dict.fromkeys(sources))
    measured: dict[ImageSource, T] = {}
    with ThreadPoolExecutor(workers) as pool, ExitStack() as stack:
        shown = stack.enter_context(_count_images(len(distinct), is_shown=has_progress)) if bar is None else bar
        for begin in range(0, len(distinct), _BATCH):
            batch = distinct[begin : begin + _BATCH]
            measured.update(zip(batch, pool.map(measure, batch), strict=True))
            shown.update(len(batch))
    return measured


@cache
def _low_frequencies() -> tuple[list[int], list[int]]:
    """Rows and columns of the 64 lowest frequencies without the constant term, diagonal by diagonal."""
    ranked = sorted((row + column, row, column) for row in range(GRID) for column in range(GRID) if row + column)[:HASH_BITS]
    return [row for _, row, _ in ranked], [column for _, _, column in ranked]
