"""Splits that do not leak: samples that share an image, a near duplicate, a subject or a case stay on one side.

Grouping is a union over everything that two samples may share; assignment is greedy over the groups, the largest first, each to the side
that lacks its modality, question type and answer most. Both are seeded and touch no file.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from osler.data.splits.cases import read_case
from osler.errors import ConfigError, DataError
from osler.images.fingerprints import Fingerprint, find_near_pairs
from osler.taxonomy import Modality
from osler.text import fold_option
from osler.types import ImageSource, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MEDVLM_R1: Final = (
    ("train", Modality.MRI, 600),
    ("test", Modality.MRI, 300),
    ("test", Modality.CT, 300),
    ("test", Modality.XRAY, 300),
)
"""MedVLM-R1's protocol: multiple-choice questions per split and modality."""


def group_samples(
    samples: Sequence[Sample],
    fingerprints: Mapping[ImageSource, Fingerprint],
    *,
    max_distance: int | None,
) -> NDArray[np.int32]:
    """The group of every sample, (N,), numbered from 0 in order of appearance.

    Two samples are of one group when they share an image by name, by bytes or by a perceptual hash at most `max_distance` bits away, a
    subject of their dataset, or a case that their file names give away (`audit.cases`), directly or through others. With None, or
    without fingerprints, nothing is read from pictures.
    """
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes: dict[Hashable, int] = {}
    rows: list[int] = []
    columns: list[int] = []
    for position, sample in enumerate(samples):
        for key in _shared_keys(sample, fingerprints, max_distance):
            rows.append(position)
            columns.append(len(samples) + nodes.setdefault(key, len(nodes)))
    if max_distance is not None:
        hashes = [key[1] for key in nodes if isinstance(key, tuple) and key[0] == "hash"]
        for block in find_near_pairs(hashes, max_distance):
            for one, other in block.tolist():
                rows.append(len(samples) + nodes["hash", one])
                columns.append(len(samples) + nodes["hash", other])
    size = len(samples) + len(nodes)
    links = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(size, size))
    _, labels = connected_components(links, directed=False)
    _, first, inverse = np.unique(labels[: len(samples)], return_index=True, return_inverse=True)
    groups: NDArray[np.int32] = np.argsort(np.argsort(first)).astype(np.int32)[inverse]
    return groups


def assign_groups(
    groups: NDArray[np.int32], strata: Sequence[Sequence[Hashable]], fractions: Mapping[str, float], *, seed: int = 0
) -> list[str]:
    """The split of every sample, (N,), whole groups at a time. `strata` names what each sample counts towards, e.g. its modality.

    Each group goes where it leaves the smallest sum, over splits and strata, of (count - expected)^2 / expected. Raises ConfigError for
    fractions that are no shares of one.
    """
    import numpy as np
    from scipy.sparse import coo_array

    check_fractions(fractions)
    shares = np.array(list(fractions.values()))
    rows, columns = _flatten(strata, min_expected=float(shares.min()))
    counts = coo_array((np.ones(len(rows)), (groups[rows], columns))).tocsr()
    counts.sum_duplicates()
    expected = shares[:, None] * np.asarray(counts.sum(axis=0))[None, :]
    assigned = np.zeros_like(expected)
    sizes = np.bincount(groups)
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    side = np.zeros(len(sizes), dtype=np.int64)
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        span = slice(counts.indptr[group], counts.indptr[group + 1])
        where, number = counts.indices[span], counts.data[span]
        side[group] = choice = int(np.argmin(((number + 2 * assigned[:, where]) * number / expected[:, where]).sum(axis=1)))
        assigned[choice, where] += number
    names = list(fractions)
    return [names[side[group]] for group in groups]


def stratify(sample: Sample) -> tuple[Hashable, ...]:
    """What a sample counts towards: everything, its modality, its modality and question type, and these with its answer."""
    cell = (sample.modality, sample.question_type)
    return ((), sample.modality or "none", cell, (*cell, fold_option(sample.target_text)))


def assign_protocol(
    samples: Sequence[Sample], groups: NDArray[np.int32], quotas: Sequence[tuple[str, Modality, int]], *, seed: int = 0
) -> list[str | None]:
    """The split of every sample, (N,), or None for one that is left over: exactly so many questions of each split and modality.

    Raises DataError when a modality has too few questions in separate groups.
    """
    pools = _pool_groups(samples, groups, quotas, seed)
    sides: list[str | None] = [None] * len(samples)
    for split, modality, number in quotas:
        pool = [position for position, sample in enumerate(samples) if sample.modality == modality and pools[position] == split]
        if len(pool) < number:
            total = sum(sample.modality == modality for sample in samples)
            raise DataError(
                f"the protocol takes {number} {modality} questions for {split}, and only {len(pool)} of {total} are in "
                "groups of their own: add data, or split by fractions"
            )
        for position in _draw_evenly(samples, pool, number, seed):
            sides[position] = split
    return sides


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Raise ConfigError unless there are two splits or more, each a share above 0, that add up to 1."""
    if len(fractions) < 2 or not all(share > 0 for share in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
        said = ", ".join(f"{name} = {share:g}" for name, share in fractions.items())
        raise ConfigError(f"splits of {said}: give two or more shares above 0 that add up to 1")


def _shared_keys(sample: Sample, fingerprints: Mapping[ImageSource, Fingerprint], max_distance: int | None) -> Iterator[tuple[Any, ...]]:
    """Everything that another sample may have too."""
    for source in sample.images:
        yield "image", source
        found = fingerprints.get(source)
        if found is not None and found.digest is not None:
            yield "digest", found.digest
        if found is not None and found.perceptual_hash is not None and max_distance is not None:
            yield "hash", found.perceptual_hash
        if (case := read_case(source.uri)) is not None:
            yield "case", case
    if sample.subject_id is not None:
        yield "subject", sample.dataset, sample.subject_id


def _flatten(strata: Sequence[Sequence[Hashable]], min_expected: float) -> tuple[list[int], list[int]]:
    """Sample and stratum of every membership; a stratum too rare for one sample in the smallest split would only pull it to the largest."""
    sizes = Counter((level, stratum) for names in strata for level, stratum in enumerate(names))
    numbers: dict[Hashable, int] = {}
    rows: list[int] = []
    columns: list[int] = []
    for position, names in enumerate(strata):
        for level, stratum in enumerate(names):
            if level == 0 or sizes[level, stratum] * min_expected >= 1:
                rows.append(position)
                columns.append(numbers.setdefault((level, stratum), len(numbers)))
    return rows, columns


def _pool_groups(
    samples: Sequence[Sample], groups: NDArray[np.int32], quotas: Sequence[tuple[str, Modality, int]], seed: int
) -> list[str | None]:
    """The split that each sample may serve; a group serves one. Modalities that several splits ask for are divided first, by quota."""
    import numpy as np

    asked: dict[Modality | None, dict[str, float]] = {}
    for split, modality, number in quotas:
        asked.setdefault(modality, {})[split] = number
    side_of: dict[int, str] = {}
    for contested, splits in asked.items():
        inside = [p for p, sample in enumerate(samples) if sample.modality == contested and int(groups[p]) not in side_of]
        if len(splits) == 1 or not inside:
            continue
        shares = {split: number / sum(splits.values()) for split, number in splits.items()}
        _, compact = np.unique(groups[inside], return_inverse=True)
        sides = assign_groups(compact.astype(np.int32), [stratify(samples[position]) for position in inside], shares, seed=seed)
        side_of.update(zip(groups[inside].tolist(), sides, strict=True))
    for sample, group in zip(samples, groups.tolist(), strict=True):
        for split in asked.get(sample.modality, {}):
            side_of.setdefault(group, split)
    return [side_of.get(group) for group in groups.tolist()]


def _draw_evenly(samples: Sequence[Sample], pool: Sequence[int], number: int, seed: int) -> list[int]:
    """`number` positions of a pool, spread over its question types and answers: every k-th of the sorted pool, ties drawn by the seed."""

    def rank(position: int) -> tuple[str, str, bytes]:
        sample = samples[position]
        return (sample.question_type or "", fold_option(sample.target_text), hashlib.sha256(f"{seed}/{sample.id}".encode()).digest())

    ranked = sorted(pool, key=rank)
    return [ranked[(2 * draw + 1) * len(ranked) // (2 * number)] for draw in range(number)]
