"""Leak-free splits: samples that share an image, a copy of it, a subject or a case are in one group, and a group is in one split.

`assign_groups` takes the groups from the largest to the smallest and puts each in the split that most lacks its modalities, question types
and answers. `assign_protocol` draws the numbers of questions that a published protocol prescribes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from osler.data.splits.cases import read_case
from osler.errors import ConfigError, DataError
from osler.images.fingerprints import Fingerprint
from osler.images.near import group_near
from osler.images.turned import TurnedPairs
from osler.metrics.clusters import connect
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
"""The protocol of MedVLM-R1: multiple-choice questions per split and modality."""


def group_samples(
    samples: Sequence[Sample],
    fingerprints: Mapping[ImageSource, Fingerprint],
    *,
    max_distance: int | None,
    turned: TurnedPairs | None = None,
) -> NDArray[np.int32]:
    """The group of each sample, (N,), numbered from 0 in order of first appearance.

    Two samples are in one group if they share an image (by path, by bytes, or by perceptual hashes that differ in at most `max_distance`
    bits), an image and a copy of it that is turned or mirrored (the pairs `turned`), a subject of their dataset, or a case that their file
    names state (`splits.cases`), directly or through other samples. With `max_distance` None, perceptual hashes are not compared.
    """
    import numpy as np

    near = {} if max_distance is None else _near_groups(fingerprints, samples, max_distance)
    keys = [list(_shared_keys(sample, fingerprints, near)) for sample in samples]
    present = {source for sample in samples for source in sample.images}
    turns = ((("image", one), ("image", other)) for one, other in turned or () if one in present and other in present)
    return np.asarray(connect(keys, turns), dtype=np.int32)


def _near_groups(fingerprints: Mapping[ImageSource, Fingerprint], samples: Iterable[Sample], max_distance: int) -> dict[int, int]:
    """Perceptual hash -> the number of its group of near-duplicates, of the images of these samples only."""
    import numpy as np

    taken = (fingerprints.get(source) for sample in samples for source in sample.images)
    hashes = {one.perceptual_hash for one in taken if one is not None and one.perceptual_hash is not None}
    values = np.array(sorted(hashes), dtype=np.uint64)
    return dict(zip(values.tolist(), group_near(values, max_distance).tolist(), strict=True))


def assign_groups(
    groups: NDArray[np.int32], strata: Sequence[Sequence[Hashable]], fractions: Mapping[str, float], *, seed: int = 0
) -> list[str]:
    """The split of each sample, (N,). `strata` lists the strata of each sample, e.g. its modality; `fractions` maps splits to their shares.

    Each group goes to the split that gives the smallest sum, over splits and strata, of (count - expected)^2 / expected. Groups of one size
    are taken in random order. Raises ConfigError for invalid fractions.
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
    split_of_group = np.zeros(len(sizes), dtype=np.int64)
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        span = slice(counts.indptr[group], counts.indptr[group + 1])
        strata_here, number = counts.indices[span], counts.data[span]
        best = int(np.argmin(((number + 2 * assigned[:, strata_here]) * number / expected[:, strata_here]).sum(axis=1)))
        split_of_group[group] = best
        assigned[best, strata_here] += number
    names = list(fractions)
    return [names[split_of_group[group]] for group in groups]


def stratify(sample: Sample) -> tuple[Hashable, ...]:
    """The strata of a sample: all samples, its modality, its modality and question type, and these two with its answer."""
    cell = (sample.modality, sample.question_type)
    return ((), sample.modality or "none", cell, (*cell, fold_option(sample.target_text)))


def assign_protocol(
    samples: Sequence[Sample], groups: NDArray[np.int32], quotas: Sequence[tuple[str, Modality, int]], *, seed: int = 0
) -> list[str | None]:
    """The split of each sample, (N,), or None for an unused one; `quotas` gives the number of questions per split and modality.

    Raises DataError if too few questions of a modality are left, because groups are needed whole for another split.
    """
    pools = _pool_groups(samples, groups, quotas, seed)
    splits: list[str | None] = [None] * len(samples)
    for split, modality, number in quotas:
        pool = [position for position, sample in enumerate(samples) if sample.modality == modality and pools[position] == split]
        if len(pool) < number:
            total = sum(sample.modality == modality for sample in samples)
            raise DataError(
                f"the protocol takes {number} {modality} questions for {split}, and only {len(pool)} of {total} are in "
                "groups of their own: add data, or split by fractions"
            )
        for position in _draw_evenly(samples, pool, number, seed):
            splits[position] = split
    return splits


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Raise ConfigError unless there are at least two splits with shares above 0 that add up to 1."""
    if len(fractions) < 2 or not all(share > 0 for share in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
        given = ", ".join(f"{name} = {share:g}" for name, share in fractions.items())
        raise ConfigError(f"splits of {given}: give two or more shares above 0 that add up to 1")


def _shared_keys(sample: Sample, fingerprints: Mapping[ImageSource, Fingerprint], near: Mapping[int, int]) -> Iterator[tuple[Any, ...]]:
    """What connects a sample to others: samples with a common key are in one group. `near` gives the groups of perceptual hashes."""
    for source in sample.images:
        yield "image", source
        fingerprint = fingerprints.get(source)
        if fingerprint is not None and fingerprint.digest is not None:
            yield "digest", fingerprint.digest
        if fingerprint is not None and fingerprint.perceptual_hash is not None and fingerprint.perceptual_hash in near:
            yield "near", near[fingerprint.perceptual_hash]
        if (case := read_case(source.uri)) is not None:
            yield "case", case
    if sample.subject_id is not None:
        yield "subject", sample.dataset, sample.subject_id


def _flatten(strata: Sequence[Sequence[Hashable]], min_expected: float) -> tuple[list[int], list[int]]:
    """The sample and the stratum of each membership, both (K,).

    Strata with fewer than one expected sample in the smallest split are left out; they would only favour the largest split.
    """
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
    """The split that each sample can be drawn for, (N,). Modalities of several splits are divided first, in proportion to the quotas."""
    import numpy as np

    quotas_of: dict[Modality | None, dict[str, float]] = {}
    for split, modality, number in quotas:
        quotas_of.setdefault(modality, {})[split] = number
    split_of: dict[int, str] = {}  # by group
    for shared, splits in quotas_of.items():
        inside = [p for p, sample in enumerate(samples) if sample.modality == shared and int(groups[p]) not in split_of]
        if len(splits) == 1 or not inside:
            continue
        shares = {split: number / sum(splits.values()) for split, number in splits.items()}
        _, compact = np.unique(groups[inside], return_inverse=True)
        assigned = assign_groups(compact.astype(np.int32), [stratify(samples[position]) for position in inside], shares, seed=seed)
        split_of.update(zip(groups[inside].tolist(), assigned, strict=True))
    for sample, group in zip(samples, groups.tolist(), strict=True):
        for split in quotas_of.get(sample.modality, {}):
            split_of.setdefault(group, split)
    return [split_of.get(group) for group in groups.tolist()]


def _draw_evenly(samples: Sequence[Sample], pool: Sequence[int], number: int, seed: int) -> list[int]:
    """`number` positions at equal distances in the pool, sorted by question type, answer and a seeded hash of the id."""

    def rank(position: int) -> tuple[str, str, bytes]:
        sample = samples[position]
        return (sample.question_type or "", fold_option(sample.target_text), hashlib.sha256(f"{seed}/{sample.id}".encode()).digest())

    ranked = sorted(pool, key=rank)
    return [ranked[(2 * draw + 1) * len(ranked) // (2 * number)] for draw in range(number)]
