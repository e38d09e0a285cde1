"""What test shares with train: rows, images, near-duplicates, turned copies, patients or cases; and image paths that name the right option.

A kind of leak is a function from a sample to its keys. A test row leaks when a train row has one of its keys.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from osler.data.splits.cases import case_of, source_of
from osler.types import LETTERS, ImageSource, Sample

Keys = Callable[[Sample], Iterable[Hashable]]
"""The keys of one kind that a sample has, () if none can be read from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """How many of `total` test rows share something with train."""

    shared: int
    total: int

    @property
    def value(self) -> float | None:
        """The share of rows; None without rows."""
        return self.shared / self.total if self.total else None


def row_keys(sample: Sample) -> tuple[Hashable, ...]:
    """One key: images, question, options as a set, and the text of the right option."""
    return ((tuple(image.uri for image in sample.images), sample.question, frozenset(sample.choices), sample.target_text),)


def image_keys(digests: Mapping[ImageSource, str | None]) -> Keys:
    """One key for each image: the digest of its bytes where it is known, else its path."""
    return lambda sample: [digests.get(image) or image.uri for image in sample.images]


def case_keys(sample: Sample) -> tuple[Hashable, ...]:
    """The patient or case, where the data or a file name state it."""
    return () if (case := case_of(sample)) is None else (case,)


def cache_keys(keys: Keys) -> Keys:
    """The same function, which computes the keys of a sample only once."""
    cached: dict[int, tuple[Sample, tuple[Hashable, ...]]] = {}  # holding the sample prevents that its id is used again

    def look_up(sample: Sample) -> tuple[Hashable, ...]:
        if id(sample) not in cached:
            cached[id(sample)] = (sample, tuple(keys(sample)))
        return cached[id(sample)][1]

    return look_up


def leak_matrix(
    keys: Keys, train: Mapping[str, Sequence[Sample]], test: Mapping[str, Sequence[Sample]], *, train_keys_of: Keys | None = None
) -> dict[str, dict[str, Leak]]:
    """Train -> test -> how many rows of the test set share a key with the train set; 0 of 0 rows where the train set is empty.

    `train_keys_of` gives the keys of train rows where they are others than those of test rows.
    """
    train_keys = {name: {key for sample in samples for key in (train_keys_of or keys)(sample)} for name, samples in train.items()}
    test_keys = {name: [tuple(keys(sample)) for sample in samples] for name, samples in test.items()}
    return {
        train_name: {
            test_name: Leak(shared=sum(not keys_of_set.isdisjoint(row) for row in rows), total=len(rows) if train[train_name] else 0)
            for test_name, rows in test_keys.items()
        }
        for train_name, keys_of_set in train_keys.items()
    }


def near_keys(hashes: Mapping[ImageSource, int | None], max_distance: int) -> Keys:
    """Keys that are equal for perceptual hashes at most `max_distance` bits apart: an image's own hash, and every pair that it is part of.

    An image without a hash has no key.
    """
    from osler.images.fingerprints import find_near_pairs

    pairs: defaultdict[int, list[Hashable]] = defaultdict(list)
    for block in find_near_pairs((value for value in hashes.values() if value is not None), max_distance):
        for one, other in block.tolist():
            pairs[one].append((one, other))
            pairs[other].append((one, other))

    def keys(sample: Sample) -> list[Hashable]:
        values = [value for image in sample.images if (value := hashes.get(image)) is not None]
        return [key for value in values for key in (value, *pairs.get(value, ()))]

    return keys


def image_uris(sample: Sample) -> tuple[Hashable, ...]:
    """The names of the images."""
    return tuple(image.uri for image in sample.images)


def turned_keys(pairs: Iterable[tuple[ImageSource, ImageSource]]) -> Keys:
    """Keys of a test row: the images of which one of its own is a turned or mirrored copy; for train rows that are `image_uris`."""
    copies: defaultdict[str, list[Hashable]] = defaultdict(list)
    for one, other in pairs:
        copies[one.uri].append(other.uri)
        copies[other.uri].append(one.uri)
    return lambda sample: [copy for image in sample.images for copy in copies.get(image.uri, ())]


def count_shared_images(keys: Keys, train: Iterable[Sample], test: Iterable[Sample]) -> Leak:
    """How many of the distinct test images are also train images."""
    images = {key for sample in test for key in keys(sample)}
    return Leak(shared=len(images & {key for sample in train for key in keys(sample)}), total=len(images))


def cases_by_source(train: Iterable[Sample], test: Iterable[Sample]) -> dict[str, Leak]:
    """Source -> how many of its test rows with a known case share the case with a train row, e.g. {"Mura": 243 of 309}."""
    train_cases = {case_of(sample) for sample in train}
    shared: defaultdict[str, list[bool]] = defaultdict(list)
    for sample in test:
        if (case := case_of(sample)) is not None:
            source = source_of(sample.images[0].uri) if sample.images else None
            shared[source or sample.dataset].append(case in train_cases)
    return {source: Leak(shared=sum(flags), total=len(flags)) for source, flags in sorted(shared.items())}


def paths_naming_target(samples: Iterable[Sample]) -> Leak:
    """How many rows have a path that holds more of the right option's words than of any other option's, e.g. "../CNV/CNV-17.jpeg".

    A policy does not see the path. It gives the answer away where a prompt shows it, or where rows are sorted, split or filtered by it.
    """
    flags = [_names_target(sample) for sample in samples if sample.choices]
    return Leak(shared=sum(flags), total=len(flags))


def _names_target(sample: Sample) -> bool:
    path = frozenset[str]().union(*(_words(image.uri) for image in sample.images))
    shares = [_overlap(choice, path) for choice in sample.choices]
    right = shares.pop(LETTERS.index(sample.target))
    return right > max(shares, default=0.0)


def _overlap(choice: str, path: frozenset[str]) -> float:
    words = _words(choice)
    return len(words & path) / len(words) if words else 0.0


@cache
def _words(text: str) -> frozenset[str]:
    """Words of two or more letters, lower case; "left.lower_lobe" holds three."""
    return frozenset(re.findall(r"[^\W\d_]{2,}", text.lower()))
