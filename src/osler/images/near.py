"""Perceptual hashes that differ in few bits, found exactly and without comparing all with all.

Cut into K pieces, two hashes that differ in at most D bits agree in at least K - D pieces (pigeonhole principle). So for every choice of
K - D pieces the hashes are sorted by these pieces, and only those with equal ones are compared. More pieces mean more sorting and longer
keys, so fewer comparisons: K grows with the number of hashes, and the time is nearly proportional to it.
Legend: N distinct hashes, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from math import comb
from typing import TYPE_CHECKING, Final

from osler.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]
    Positions = NDArray[np.int64]

HASH_BITS: Final = 64
MAX_DISTANCE: Final = 16
"""The largest distance that can be searched; two unrelated pictures differ in 32 bits on average."""

MAX_COMPARISONS: Final = 1 << 20
"""Pairs of hashes compared at once: about 50 MiB."""

_MAX_MASKS: Final = 1000
_MAX_EDGES: Final = 1 << 16  # between groups that are joined at once
_SAMPLE: Final = 1 << 15  # hashes
_TRIED: Final = 3  # masks of each way to cut
_SORTING: Final = 12.0  # the time to sort one hash, in comparisons of two


def check_distance(max_distance: int) -> None:
    """Raise ConfigError for a distance outside 0 to MAX_DISTANCE."""
    if not 0 <= max_distance <= MAX_DISTANCE:
        raise ConfigError(f"a perceptual distance of {max_distance} bits: use 0 to {MAX_DISTANCE}")


def choose_masks(values: Hashes, max_distance: int) -> Hashes:
    """Masks of which two hashes that differ in at most `max_distance` bits agree in at least one: those that cost least for these hashes.

    Pictures of one kind agree in many bits, so how often two hashes agree is counted in a sample. Raises ConfigError for a distance
    outside 0 to MAX_DISTANCE.
    """
    import numpy as np

    check_distance(max_distance)
    sample = values[:: max(1, len(values) // _SAMPLE)]
    scale = (len(values) / max(1, len(sample))) ** 2

    def cost(masks: Hashes) -> float:
        tried = masks[:: max(1, len(masks) // _TRIED)]
        sizes = np.concatenate([np.unique(sample & mask, return_counts=True)[1] for mask in tried]).astype(np.float64)
        return len(masks) * (_SORTING * len(values) + scale * float((sizes * (sizes - 1)).sum()) / 2 / len(tried))

    return min(
        (_cut(number, max_distance) for number in range(max_distance + 1, HASH_BITS + 1) if comb(number, max_distance) <= _MAX_MASKS),
        key=cost,
    )


def _cut(num_pieces: int, max_distance: int) -> Hashes:
    """A mask for every choice of `num_pieces - max_distance` of the pieces."""
    import numpy as np

    edges = np.linspace(0, HASH_BITS, num_pieces + 1).astype(int).tolist()
    pieces = [(1 << high) - (1 << low) for low, high in pairwise(edges)]
    return np.array([sum(chosen) for chosen in combinations(pieces, num_pieces - max_distance)], dtype=np.uint64)


def group_near(values: Hashes, max_distance: int) -> NDArray[np.int32]:
    """The group of each of the distinct `values`, (N,): near hashes are in one group, directly or through others.

    What is in one group already is not compared again, so that a crowd of near-duplicates costs little.
    """
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    groups = np.arange(len(values), dtype=np.int32)
    masks = choose_masks(values, max_distance)

    def merge(edges: list[NDArray[np.int32]]) -> NDArray[np.int32]:
        if not edges:
            return groups
        joined = np.concatenate(edges, axis=1)
        graph = coo_array((np.ones(joined.shape[1], dtype=np.int8), joined), shape=(len(values),) * 2)
        labels: NDArray[np.int32] = connected_components(graph, directed=False)[1]
        return labels[groups]

    for mask in masks:
        order, begins, ends = _sort_runs(values & mask)
        known, places = groups[order], np.arange(len(order))
        firsts = np.flatnonzero(begins == places)
        is_open = np.logical_or.reduceat(known != known[begins], firsts) if len(order) else known  # a run with several groups
        edges: list[NDArray[np.int32]] = []
        for ones, others in _spread(places + 1, np.where(np.repeat(is_open, (ends - begins)[firsts]), ends, places + 1)):
            ones, others = order[ones], order[others]
            is_new = groups[ones] != groups[others]
            ones, others = ones[is_new], others[is_new]
            is_near = np.bitwise_count(values[ones] ^ values[others]) <= max_distance
            edges.append(np.stack([groups[ones[is_near]], groups[others[is_near]]]))
            if sum(part.shape[1] for part in edges) > _MAX_EDGES:
                groups, edges = merge(edges), []
        groups = merge(edges)
    return groups


def gather_near(values: Hashes, marks: NDArray[np.uint64], max_distance: int) -> NDArray[np.uint64]:
    """The marks (N,), one bit each, of all hashes near each of the distinct `values`, its own included.

    A hash that has all the marks of those that it could be near to is not compared with them, so that a crowd costs little.
    """
    import numpy as np

    gathered = marks.copy()
    for mask in choose_masks(values, max_distance):
        order, begins, ends = _sort_runs(values & mask)
        firsts = np.flatnonzero(begins == np.arange(len(order)))
        offered = np.bitwise_or.reduceat(marks[order], firsts) if len(order) else marks
        lacks = (np.repeat(offered, (ends - begins)[firsts]) & ~gathered[order]) != 0
        for ones, others in _spread(begins, np.where(lacks, ends, begins)):
            is_near = np.bitwise_count(values[order[ones]] ^ values[order[others]]) <= max_distance
            ones, others = order[ones[is_near]], order[others[is_near]]
            np.bitwise_or.at(gathered, ones, marks[others])
    return gathered


def match_hashes(
    queries: Hashes, hashes: Hashes, max_distance: int, at_once: int = MAX_COMPARISONS
) -> Iterator[tuple[Positions, Positions]]:
    """The positions of every query and every hash that differ in at most `max_distance` bits, each pair once, in pairs of arrays (P,)."""
    import numpy as np

    masks = choose_masks(hashes, max_distance)
    for number, mask in enumerate(masks):
        order, asked = np.argsort(hashes & mask), np.argsort(queries & mask)
        keys, wanted = (hashes & mask)[order], (queries & mask)[asked]  # a search for sorted keys stays in the cache
        begins, ends = np.searchsorted(keys, wanted, side="left"), np.searchsorted(keys, wanted, side="right")
        for ones, others in _spread(begins, ends, at_once):
            yield from _keep_near(queries, hashes, asked[ones], order[others], masks[: number + 1], max_distance)


def _sort_runs(keys: Hashes) -> tuple[Positions, Positions, Positions]:
    """The order that sorts the keys, and for each place in it where its run of equal keys begins and ends."""
    import numpy as np

    order = np.argsort(keys)
    ordered = keys[order]
    begins = np.flatnonzero(np.diff(ordered, prepend=~ordered[:1]))
    sizes = np.diff(begins, append=len(order))
    return order, np.repeat(begins, sizes), np.repeat(begins + sizes, sizes)


def _spread(begins: Positions, ends: Positions, at_once: int = MAX_COMPARISONS) -> Iterator[tuple[Positions, Positions]]:
    """Each place with every place from its begin to before its end, at most `at_once` pairs at a time, or those of one place."""
    import numpy as np

    counts = ends - begins
    (places,) = np.nonzero(counts)
    totals = np.cumsum(counts[places])
    first = 0
    while first < len(places):
        done = int(totals[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(totals, done + at_once, side="right")))
        part = places[first:last]
        ones = np.repeat(part, counts[part])
        starts = totals[first:last] - counts[part] - done
        yield ones, np.arange(len(ones)) + np.repeat(begins[part] - starts, counts[part])
        first = last


def _keep_near(
    queries: Hashes, hashes: Hashes, ones: Positions, others: Positions, masks: Hashes, max_distance: int
) -> Iterator[tuple[Positions, Positions]]:
    """Those of the pairs that are near and agree in none of the masks before the last, by which they were found already."""
    import numpy as np

    differing = queries[ones] ^ hashes[others]
    (near,) = np.nonzero(np.bitwise_count(differing) <= max_distance)
    for mask in masks[:-1]:
        near = near[(differing[near] & mask) != 0]
    if len(near):
        yield ones[near], others[near]
