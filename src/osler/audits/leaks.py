"""What test shares with train: rows, images, near-duplicates, turned copies, patients or cases; and image paths that name the right option.

A kind of leak gives every sample keys. A test row leaks when a train row has one of its keys, or one that counts as the same.
Shapes: N samples, K distinct keys.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from osler.audits.numbering import Keys, KeyTable, SampleTable, number_rows
from osler.data.splits.cases import case_of, source_of
from osler.images.near import gather_near
from osler.images.turned import TurnedPairs
from osler.types import LETTERS, ImageSource, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from osler.audits.numbering import Ints

    Marks = NDArray[np.uint64]
    Spread = Callable[[Sequence[Hashable], Marks], Marks]

_WORD: Final = re.compile(r"[^\W\d_]{2,}")

MAX_DOMAINS: Final = 64
"""Train domains that can be told apart: bits of a mark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """How many of `total` test rows share something with train."""

    shared: int
    total: int

    @property
    def value(self) -> float | None:
        """The share of rows; None without rows."""
        return self.shared / self.total if self.total else None


def image_keys(digests: Mapping[ImageSource, str | None]) -> Keys:
    """One key for each image: the digest of its bytes where it is known, else its path."""
    return lambda sample: [digests.get(image) or image.uri for image in sample.images]


def case_keys(sample: Sample) -> tuple[Hashable, ...]:
    """The patient or case, where the data or a file name state it."""
    return () if (case := case_of(sample)) is None else (case,)


def case_groups(table: SampleTable) -> Ints:
    """(N,) numbers, equal for samples whose `case_keys` are read from the same: dataset and patient, else images."""
    import numpy as np

    (datasets, _), (subjects, known) = table.number("dataset"), table.number("subject_id")
    has_none = np.array([subject is None for subject in known], dtype=bool)
    return number_rows(datasets, subjects, np.where(has_none[subjects], table.images, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakKeys:
    """One kind of leak among some samples."""

    table: KeyTable
    spread: Spread | None = None
    """From the marks (K,) of keys to those of all keys that count as the same, themselves included or not; None: only equal keys do."""

    def mark(self, train: Sequence[Ints]) -> Marks:
        """(K,) for each key a mark in which bit d says that one of the samples `train[d]` has it, or one that counts as the same."""
        import numpy as np

        assert len(train) <= MAX_DOMAINS
        marks = np.zeros(len(self.table.known), dtype=np.uint64)
        for bit, part in enumerate(train):
            marks[self.table.of_rows(part)] |= np.uint64(1 << bit)
        return self.spread(self.table.known, marks) if self.spread is not None and len(marks) else marks

    def find(self, marks: Marks, rows: Ints) -> Marks:
        """For each of the samples `rows` the marks of `mark` that its keys have."""
        import numpy as np

        found = np.zeros(len(rows), dtype=np.uint64)
        counts = self.table.starts[rows + 1] - self.table.starts[rows]
        (has_keys,) = np.nonzero(counts)
        if len(has_keys):
            begins = (np.cumsum(counts) - counts)[has_keys]
            found[has_keys] = np.bitwise_or.reduceat(marks[self.table.of_rows(rows)], begins)
        return found


def leak_matrix(kind: LeakKeys, train: Mapping[str, Ints], test: Mapping[str, Ints]) -> dict[str, dict[str, Leak]]:
    """Train -> test -> how many rows of the test set leak from the train set; 0 of 0 rows where the train set is empty.

    `train` and `test` give the numbers of their samples in the table of `kind`.
    """
    import numpy as np

    marks = kind.mark(list(train.values()))
    found = {name: kind.find(marks, rows) for name, rows in test.items()}
    return {
        train_name: {
            test_name: Leak(shared=int(np.count_nonzero(own & np.uint64(1 << bit))), total=len(own) if len(rows) else 0)
            for test_name, own in found.items()
        }
        for bit, (train_name, rows) in enumerate(train.items())
    }


def near_spread(max_distance: int) -> Spread:
    """Keys are perceptual hashes, and those at most `max_distance` bits apart count as the same."""

    def spread(known: Sequence[Hashable], marks: Marks) -> Marks:
        import numpy as np

        values = np.array(known, dtype=np.uint64)
        order = np.argsort(values)
        gathered = np.empty_like(marks)
        gathered[order] = gather_near(values[order], marks[order], max_distance)
        return gathered

    return spread


def hash_keys(hashes: Mapping[ImageSource, int | None]) -> Keys:
    """The perceptual hash of each image that has one."""
    return lambda sample: [value for image in sample.images if (value := hashes.get(image)) is not None]


def image_uris(sample: Sample) -> tuple[Hashable, ...]:
    """The names of the images."""
    return tuple(image.uri for image in sample.images)


def turned_spread(pairs: TurnedPairs) -> Spread:
    """Keys are the names of images, and one counts as the same as another of which it is a turned or mirrored copy, but not as itself."""

    def spread(known: Sequence[Hashable], marks: Marks) -> Marks:
        import numpy as np

        numbers = {name: number for number, name in enumerate(known)}
        joined = [(numbers[one.uri], numbers[other.uri]) for one, other in pairs if one.uri in numbers and other.uri in numbers]
        ones, others = np.array(joined, dtype=np.int64).reshape(-1, 2).T
        gathered = np.zeros_like(marks)
        np.bitwise_or.at(gathered, ones, marks[others])
        np.bitwise_or.at(gathered, others, marks[ones])
        return gathered

    return spread


def count_shared_images(table: KeyTable, train: Ints, test: Ints) -> Leak:
    """How many of the distinct images of the test samples are also images of the train samples; the keys of `table` are images."""
    import numpy as np

    images = np.unique(table.of_rows(test))
    is_train = np.zeros(len(table.known), dtype=bool)
    is_train[table.of_rows(train)] = True
    return Leak(shared=int(is_train[images].sum()), total=len(images))


def cases_by_source(samples: Sequence[Sample], cases: KeyTable, train: Ints, test: Ints) -> dict[str, Leak]:
    """Source -> how many of its test rows with a known case share the case with a train row, e.g. {"Mura": 243 of 309}.

    `cases` has the `case_keys` of the samples; `train` and `test` are places among them.
    """
    import numpy as np

    is_known = cases.starts[test + 1] > cases.starts[test]
    is_shared = np.isin(cases.of_rows(test), cases.of_rows(train))
    shared: defaultdict[str, list[bool]] = defaultdict(list)
    for row, flag in zip(test[is_known].tolist(), is_shared.tolist(), strict=True):
        sample = samples[row]
        source = source_of(sample.images[0].uri) if sample.images else None
        shared[source or sample.dataset].append(flag)
    return {source: Leak(shared=sum(flags), total=len(flags)) for source, flags in sorted(shared.items())}


def names_target(sample: Sample) -> bool:
    """Whether a path holds more of the right option's words than of any other option's, e.g. "../CNV/CNV-17.jpeg"; not without options.

    A policy does not see the path. It gives the answer away where a prompt shows it, or where rows are sorted, split or filtered by it.
    """
    if not sample.choices:
        return False
    path = frozenset[str]().union(*(_read_words(image.uri) for image in sample.images))
    shares = [_overlap(choice, path) for choice in sample.choices]
    right = shares.pop(LETTERS.index(sample.target))
    return right > max(shares, default=0.0)


def _overlap(choice: str, path: frozenset[str]) -> float:
    words = _words(choice)
    return len(words & path) / len(words) if words else 0.0


def _read_words(text: str) -> frozenset[str]:
    """Words of two or more letters, lower case; "left.lower_lobe" holds three."""
    return frozenset(_WORD.findall(text.lower()))


_words: Final = cache(_read_words)  # of options, of which there are fewer than of paths
