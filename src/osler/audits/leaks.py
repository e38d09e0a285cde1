"""What test shares with train: rows, images, near-duplicates, patients or cases; and labels that stand in a path.

A kind of leak is a function from a sample to the keys that it must not share. A test row leaks when one of its keys stands in train.
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
"""A sample's keys of one kind; none where nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """How many of `total` test rows share something with train."""

    shared: int
    total: int

    @property
    def value(self) -> float | None:
        """The share of rows; None without rows."""
        return self.shared / self.total if self.total else None


Matrix = dict[str, dict[str, Leak]]
"""Train -> test -> leak."""


def row_keys(sample: Sample) -> tuple[Hashable, ...]:
    """One key: images, question, options as a set, and the right option's text."""
    return ((tuple(image.uri for image in sample.images), sample.question, frozenset(sample.choices), sample.target_text),)


def image_keys(digests: Mapping[ImageSource, str | None]) -> Keys:
    """The images by the digest of their bytes where it is known, else by path."""
    if not digests:
        return lambda sample: [image.uri for image in sample.images]
    return lambda sample: [digests.get(image) or image.uri for image in sample.images]


def case_keys(sample: Sample) -> tuple[Hashable, ...]:
    """The patient or case, where the data or a file name tell it."""
    return () if (case := case_of(sample)) is None else (case,)


def remember(keys: Keys) -> Keys:
    """The same keys, worked out once for every sample however many sets it is compared in."""
    found: dict[int, tuple[Sample, tuple[Hashable, ...]]] = {}  # the sample keeps its id from being used again

    def recall(sample: Sample) -> tuple[Hashable, ...]:
        if (known := found.get(id(sample))) is None:
            known = found[id(sample)] = (sample, tuple(keys(sample)))
        return known[1]

    return recall


def leak_matrix(keys: Keys, train: Mapping[str, Sequence[Sample]], test: Mapping[str, Sequence[Sample]]) -> Matrix:
    """How many rows of every test set share a key with every train set; of no rows where a train set is empty, since nothing is known."""
    known = {name: {key for sample in samples for key in keys(sample)} for name, samples in train.items()}
    asked = {name: [tuple(keys(sample)) for sample in samples] for name, samples in test.items()}
    return {
        row: {
            column: Leak(shared=sum(not seen.isdisjoint(found) for found in rows), total=len(rows) if train[row] else 0)
            for column, rows in asked.items()
        }
        for row, seen in known.items()
    }


def near_keys(hashes: Mapping[ImageSource, int | None], max_distance: int) -> Keys:
    """Perceptual hashes at most `max_distance` bits apart as equal keys: every image under its own hash and that of each neighbour.

    A pair is found because both sides list their pair of hashes. Images without a hash have no key.
    """
    from osler.images.fingerprints import find_near_pairs

    pairs: defaultdict[int, list[Hashable]] = defaultdict(list)
    for block in find_near_pairs((value for value in hashes.values() if value is not None), max_distance):
        for one, other in block.tolist():
            pairs[one].append((one, other))
            pairs[other].append((one, other))

    def keys(sample: Sample) -> list[Hashable]:
        found: list[Hashable] = []
        for image in sample.images:
            if (value := hashes.get(image)) is not None:
                found += [value, *pairs.get(value, ())]
        return found

    return keys


def count_shared_images(keys: Keys, train: Iterable[Sample], test: Iterable[Sample]) -> Leak:
    """How many of the distinct test images stand in train."""
    asked = {key for sample in test for key in keys(sample)}
    return Leak(shared=len(asked & {key for sample in train for key in keys(sample)}), total=len(asked))


def cases_by_source(train: Iterable[Sample], test: Iterable[Sample]) -> dict[str, Leak]:
    """Source -> how many of its test rows with a known case share it with any train row, e.g. {"Mura": 243 of 309}."""
    known = {case_of(sample) for sample in train}
    shared: defaultdict[str, list[bool]] = defaultdict(list)
    for sample in test:
        if (case := case_of(sample)) is not None:
            shared[_source(sample)].append(case in known)
    return {source: Leak(shared=sum(flags), total=len(flags)) for source, flags in sorted(shared.items())}


def _source(sample: Sample) -> str:
    return (source_of(sample.images[0].uri) if sample.images else None) or sample.dataset


def paths_naming_target(samples: Iterable[Sample]) -> Leak:
    """How many rows have a path that holds more of the right option's words than of any other option's, e.g. "../CNV/CNV-17.jpeg".

    A policy does not see the path; whoever sorts, splits or filters by it does, and so does a prompt that shows it.
    """
    flags = [_names_target(sample) for sample in samples if sample.choices]
    return Leak(shared=sum(flags), total=len(flags))


def _names_target(sample: Sample) -> bool:
    path = frozenset[str]().union(*(_path_words(image.uri) for image in sample.images))
    shares = [_overlap(choice, path) for choice in sample.choices]
    right = shares.pop(LETTERS.index(sample.target))
    return right > max(shares, default=0.0)


@cache
def _path_words(uri: str) -> frozenset[str]:
    return _words(uri)


@cache
def _option_words(choice: str) -> frozenset[str]:
    return _words(choice)


def _overlap(choice: str, path: frozenset[str]) -> float:
    words = _option_words(choice)
    return len(words & path) / len(words) if words else 0.0


def _words(text: str) -> frozenset[str]:
    """Words of two or more letters, lower case; "left.lower_lobe" holds three."""
    return frozenset(re.findall(r"[^\W\d_]{2,}", text.lower()))
