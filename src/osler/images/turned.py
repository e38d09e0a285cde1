"""Turned and mirrored copies: images of which one is another one turned by a multiple of 90 degrees, mirrored, or both.

A perceptual hash alone is not enough, because the body is nearly symmetric: on SLAKE ten pairs of different slices are within four bits of
each other's mirror image. So the small grey copies have to agree as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from osler.images.fingerprints import DEFAULT_DISTANCE, GRID, NUM_TURNS, Fingerprint, take_greys, turn
from osler.images.near import check_distance, match_hashes
from osler.types import ImageSource

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_CORRELATION: Final = 0.98
"""Between the grey copies. A turned copy at half the size, as JPEG at quality 30 or with another gamma has at least 0.99, and different
images of SLAKE at most 0.96."""

_PAIRS: Final = 4096  # of grey copies that are compared at a time

TurnedPairs = list[tuple[ImageSource, ImageSource]]


def find_turned_pairs(fingerprints: Mapping[ImageSource, Fingerprint], max_distance: int) -> TurnedPairs:
    """Every pair of images of which one is a turned or mirrored copy of the other, each pair once, in the order of `fingerprints`.

    The hash of one and the hash of the other, turned, differ in at most `max_distance` bits (more than `DEFAULT_DISTANCE` count as that
    many), and their grey copies correlate by at least `MIN_CORRELATION`. Pairs whose hashes are at most `max_distance` bits apart as they
    are, near-duplicates, are left out. Cropped copies are not looked for. 80,000 images take seconds. Raises ConfigError for a distance
    outside 0 to MAX_DISTANCE.
    """
    import numpy as np

    check_distance(max_distance)
    images = [source for source, fingerprint in fingerprints.items() if fingerprint.turned_hashes]
    if not images:
        return []
    known = [fingerprints[source] for source in images]
    hashes = np.array([fingerprint.perceptual_hash for fingerprint in known], dtype=np.uint64)
    turned = np.array([fingerprint.turned_hashes for fingerprint in known], dtype=np.uint64)  # (images, NUM_TURNS - 1)
    greys = _Greys(images, [fingerprint.grey for fingerprint in known])
    found: set[tuple[int, int]] = set()
    for queries, others in match_hashes(turned.ravel(), hashes, min(max_distance, DEFAULT_DISTANCE)):
        ones, turns = np.divmod(queries, NUM_TURNS - 1)
        is_apart = np.bitwise_count(hashes[ones] ^ hashes[others]) > max_distance  # an image and itself are near
        ones, others, turns = ones[is_apart], others[is_apart], turns[is_apart] + 1
        for begin in range(0, len(ones), _PAIRS):
            part = slice(begin, begin + _PAIRS)
            is_copy = _correlate(greys.take(ones[part]), greys.take(others[part]), turns[part]) >= MIN_CORRELATION
            pairs = np.sort(np.stack([ones[part][is_copy], others[part][is_copy]], axis=1), axis=1)
            found.update(map(tuple, pairs.tolist()))
    return [(images[one], images[other]) for one, other in sorted(found)]


class _Greys:
    """The small grey copies of images; those that a cache left out are taken where they are needed."""

    def __init__(self, images: Sequence[ImageSource], greys: list[bytes]) -> None:
        self._images = images
        self._greys = greys

    def take(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """(K, GRID, GRID) the copies at these places; black where an image cannot be seen any more."""
        import numpy as np

        missing = [place for place in np.unique(places).tolist() if not self._greys[place]]
        if missing:
            taken = take_greys(self._images[place] for place in missing)
            for place in missing:
                self._greys[place] = taken.get(self._images[place], bytes(GRID * GRID))
        joined = b"".join(self._greys[place] for place in places.tolist())
        return np.frombuffer(joined, np.uint8).reshape(-1, GRID, GRID).astype(np.float32)


def _correlate(turned: NDArray[np.float32], others: NDArray[np.float32], turns: NDArray[np.int64]) -> NDArray[np.float32]:
    """Pearson's correlation (K,) of grey copies (K, GRID, GRID), the first ones turned by `turns`; 0 for a flat one."""
    import numpy as np

    for number in range(1, NUM_TURNS):
        turned[turns == number] = turn(turned[turns == number], number)
    one, other = (part.reshape(len(part), -1) for part in (turned, others))
    one, other = (part - part.mean(axis=1, keepdims=True) for part in (one, other))
    norms = np.sqrt((one * one).sum(axis=1) * (other * other).sum(axis=1))
    correlations: NDArray[np.float32] = (one * other).sum(axis=1) / np.where(norms > 0, norms, 1)
    return correlations
