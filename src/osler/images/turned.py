"""Turned and mirrored copies: images of which one is another one turned by a multiple of 90 degrees, mirrored, or both.

A perceptual hash alone is not enough, because the body is nearly symmetric: on SLAKE ten pairs of different slices are within four bits of
each other's mirror image. So the small grey copies have to agree as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from osler.images.fingerprints import DEFAULT_DISTANCE, GRID, NUM_TURNS, Fingerprint, turn
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
    greys = np.frombuffer(b"".join(fingerprint.grey for fingerprint in known), np.uint8).reshape(-1, GRID, GRID)
    found: set[tuple[int, int]] = set()
    for queries, others in match_hashes(turned.ravel(), hashes, min(max_distance, DEFAULT_DISTANCE)):
        ones, turns = np.divmod(queries, NUM_TURNS - 1)
        is_apart = np.bitwise_count(hashes[ones] ^ hashes[others]) > max_distance  # an image and itself are near
        ones, others, turns = ones[is_apart], others[is_apart], turns[is_apart] + 1
        for begin in range(0, len(ones), _PAIRS):
            part = slice(begin, begin + _PAIRS)
            is_copy = _correlate(greys, ones[part], others[part], turns[part]) >= MIN_CORRELATION
            pairs = np.sort(np.stack([ones[part][is_copy], others[part][is_copy]], axis=1), axis=1)
            found.update(map(tuple, pairs.tolist()))
    return [(images[one], images[other]) for one, other in sorted(found)]


def _correlate(
    greys: NDArray[np.uint8], ones: NDArray[np.int64], others: NDArray[np.int64], turns: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Pearson's correlation (K,) of the grey copies of `ones`, turned by `turns`, and of `others`."""
    import numpy as np

    turned = greys[ones].astype(np.float32)
    for number in range(1, NUM_TURNS):
        turned[turns == number] = turn(turned[turns == number], number)
    one, other = (part.reshape(len(part), -1) for part in (turned, greys[others].astype(np.float32)))
    one, other = (part - part.mean(axis=1, keepdims=True) for part in (one, other))
    norms = np.sqrt((one * one).sum(axis=1) * (other * other).sum(axis=1))
    correlations: NDArray[np.float32] = (one * other).sum(axis=1) / norms
    return correlations
