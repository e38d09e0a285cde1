"""Near hashes, their groups and what they gather, against comparing all with all."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from osler.errors import ConfigError
from osler.images.near import MAX_DISTANCE, choose_masks, gather_near, group_near, match_hashes

Hashes = NDArray[np.uint64]


def near(values: Hashes, max_distance: int) -> NDArray[np.bool_]:
    """(N, N) by comparing all with all."""
    return np.bitwise_count(values[:, None] ^ values[None, :]) <= max_distance


def groups_of(values: Hashes, max_distance: int) -> list[int]:
    """The group of each value: the smallest place of one that can be reached."""
    is_near = near(values, max_distance)
    labels = np.arange(len(values))
    while True:
        spread = np.where(is_near, labels[None, :], len(values)).min(axis=1, initial=len(values))
        if (spread == labels).all():
            return labels.tolist()
        labels = spread


def numbered(groups: NDArray[np.int32]) -> list[int]:
    """Groups named by the first place that each holds."""
    first: dict[int, int] = {}
    return [first.setdefault(group, place) for place, group in enumerate(groups.tolist())]


def draw(seed: int, *, num: int = 40, num_changed: int = 60, most: int = 20) -> Hashes:
    """Random hashes, copies with some bits changed, and hashes that agree in most bits, as pictures of one kind do."""
    rng = random.Random(seed)
    hashes = [rng.getrandbits(64) for _ in range(num)]
    for _ in range(num_changed):
        changed = rng.choice(hashes)
        for bit in rng.sample(range(64), rng.randrange(most)):
            changed ^= 1 << bit
        hashes.append(changed)
    hashes += [0x0F0F0F0F0F0F0F0F ^ (1 << rng.randrange(64)) ^ (1 << rng.randrange(64)) for _ in range(num)]
    return np.unique(np.array(hashes, dtype=np.uint64))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, MAX_DISTANCE))
def test_near_hashes_are_those_of_a_full_comparison(seed: int, max_distance: int) -> None:
    values = draw(seed)
    ones, others = (np.concatenate(parts) for parts in zip(*match_hashes(values, values, max_distance, 37), strict=True))
    pairs = list(zip(ones.tolist(), others.tolist(), strict=True))
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == set(zip(*(place.tolist() for place in np.nonzero(near(values, max_distance))), strict=True))
    assert numbered(group_near(values, max_distance)) == groups_of(values, max_distance)
    marks = np.uint64(1) << np.array([random.Random(int(value)).randrange(64) for value in values], dtype=np.uint64)
    wanted = [np.bitwise_or.reduce(marks[row]) for row in near(values, max_distance)]
    assert gather_near(values, marks, max_distance).tolist() == wanted


FEW = [[], [5], [0, 2**64 - 1], [0, 1, 3, 7]]


@pytest.mark.parametrize("hashes", FEW)
@pytest.mark.parametrize("max_distance", [0, 1, 4])
def test_few_hashes(hashes: list[int], max_distance: int) -> None:
    values = np.array(hashes, dtype=np.uint64)
    assert numbered(group_near(values, max_distance)) == groups_of(values, max_distance)
    assert gather_near(values, values, 0).tolist() == hashes
    assert sum(len(ones) for ones, _ in match_hashes(values, values, max_distance)) == near(values, max_distance).sum()


@pytest.mark.parametrize("distance", [-1, MAX_DISTANCE + 1])
def test_distance_out_of_range(distance: int) -> None:
    with pytest.raises(ConfigError, match="use 0 to 16"):
        group_near(np.array([1, 2], dtype=np.uint64), distance)


@pytest.mark.integration
def test_twenty_thousand_hashes_have_the_groups_of_a_full_comparison() -> None:
    values = np.unique(np.concatenate([draw(0, num=6_000, num_changed=12_000, most=6), np.arange(3_000, dtype=np.uint64)]))
    assert len(values) > 20_000
    edges = []
    for begin in range(0, len(values), 500):
        ones, others = np.nonzero(np.bitwise_count(values[begin : begin + 500, None] ^ values[None, begin:]) <= 4)  # each pair once
        edges.append(begin + np.stack([ones, others]))
    joined = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(joined.shape[1], dtype=np.int8), joined), shape=(len(values),) * 2)
    assert numbered(group_near(values, 4)) == numbered(connected_components(graph, directed=False)[1])


def test_hashes_that_agree_in_many_bits_are_compared_by_more() -> None:
    values = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64)
    alike = values & np.uint64(0x00FF00FF00FF00FF)  # 32 bits are the same in all
    bits = [int(np.bitwise_count(choose_masks(np.unique(part), 4)).min()) for part in (values, alike)]
    assert bits[0] < bits[1]
