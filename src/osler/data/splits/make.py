"""`osler split`: read a whole dataset, fingerprint its images, and divide it into splits without leaks, described by a manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from osler.config import DataConfig
from osler.data.select import counts, read_all
from osler.data.splits.group import MEDVLM_R1, assign_groups, assign_protocol, check_fractions, group_samples, stratify
from osler.data.splits.manifest import Entry, Manifest, digest_sample, source_options
from osler.errors import DataError
from osler.images.fingerprints import DEFAULT_DISTANCE, Opening, describe_undecoded, take_fingerprints
from osler.images.turned import find_turned_pairs
from osler.types import Sample

Protocol = Literal["fractions", "medvlm_r1"]

MAX_CHAINED_SHARE: Final = 0.1
"""Warn if a group that perceptual hashes connect has more than this share of the questions: half of a usual test split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOptions:
    """The settings of a split."""

    fractions: Mapping[str, float]  # {"train": 0.8, "test": 0.2}
    protocol: Protocol = "fractions"  # "medvlm_r1" ignores `fractions`
    max_distance: int = DEFAULT_DISTANCE  # bits by which perceptual hashes of near duplicates may differ
    has_images: bool = True  # False opens no image: samples are grouped by path, subject and case only
    opening: Opening | None = None  # of the image files; None: that of `Opening()`
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitReport:
    """A manifest and figures about it."""

    manifest: Manifest
    num_images: int
    num_known_images: int  # that could be read
    largest_group: int  # in samples
    largest_plain_group: int  # the same if perceptual hashes are not compared
    num_turned_images: int | None = None  # that are turned or mirrored copies of others; None if no image was opened
    undecoded: str | None = None  # what it means that some images cannot be decoded; None where all can

    def describe_chain(self) -> str | None:
        """A warning if chains of near duplicates probably connect images that do not look alike; None otherwise."""
        considered = sum(entry.group is not None for entry in self.manifest.samples)
        if self.largest_group <= MAX_CHAINED_SHARE * considered or 2 * self.largest_plain_group > self.largest_group:
            return None
        return (
            f"warning: {self.largest_group / considered:.0%} of the questions hang together through near duplicates of near duplicates, "
            f"which need not look alike: give a --distance below {self.manifest.max_distance}"
        )


def split_dataset(data: DataConfig, options: SplitOptions, *, has_progress: bool = False) -> SplitReport:
    """Divide all questions of `[data]` again, ignoring the splits in which they were published.

    Raises ConfigError for invalid fractions, distance or data settings, and DataError if there are fewer than two questions.
    """
    if options.protocol == "fractions":
        check_fractions(options.fractions)
    samples = read_all(data, {"seed": data.seed, **data.options})
    considered = [sample for sample in samples if _is_considered(sample, options.protocol)]
    if len(considered) < 2:
        raise DataError(f"{data.reader} has {len(considered)} questions to divide: check the data root and its options")
    sources = dict.fromkeys(source for sample in considered for source in sample.images)
    fingerprints = take_fingerprints(sources, has_progress=has_progress, opening=options.opening) if options.has_images else {}
    max_distance = options.max_distance if options.has_images else None
    turned = [] if max_distance is None else find_turned_pairs(fingerprints, max_distance)
    groups = group_samples(considered, fingerprints, max_distance=max_distance, turned=turned)
    plain = group_samples(considered, fingerprints, max_distance=None)
    splits: Sequence[str | None]
    if options.protocol == "medvlm_r1":
        splits = assign_protocol(considered, groups, MEDVLM_R1, seed=options.seed)
    else:
        splits = assign_groups(groups, [stratify(sample) for sample in considered], options.fractions, seed=options.seed)
    split_of = {sample.id: split for sample, split in zip(considered, splits, strict=True)}
    group_of = {sample.id: group for sample, group in zip(considered, groups.tolist(), strict=True)}
    names = options.fractions if options.protocol == "fractions" else dict.fromkeys(split for split, _, _ in MEDVLM_R1)
    # The manifest also lists the samples that the protocol cannot use, so that new samples can be detected later.
    images = {source.uri: fingerprints[source].digest if source in fingerprints else None for sample in samples for source in sample.images}
    manifest = Manifest(
        reader=data.reader,
        options=source_options(data.options),
        data_seed=data.seed,
        protocol=options.protocol,
        seed=options.seed,
        max_distance=max_distance,
        fractions=dict(options.fractions) if options.protocol == "fractions" else {},
        num_groups=len(set(group_of.values())),
        counts={name: counts(sample for sample in samples if split_of.get(sample.id) == name) for name in names},
        images=images,
        samples=tuple(
            Entry(id=sample.id, split=split_of.get(sample.id), group=group_of.get(sample.id), sha256=digest_sample(sample, images))
            for sample in samples
        ),
    )
    return SplitReport(
        manifest=manifest,
        num_images=len(sources),
        num_known_images=sum(fingerprint.digest is not None for fingerprint in fingerprints.values()),
        largest_group=max(Counter(groups.tolist()).values()),
        largest_plain_group=max(Counter(plain.tolist()).values()),
        num_turned_images=None if max_distance is None else len({source for pair in turned for source in pair}),
        undecoded=describe_undecoded(fingerprints),
    )


def _is_considered(sample: Sample, protocol: Protocol) -> bool:
    """Whether the protocol can use a sample; MedVLM-R1 uses multiple-choice questions of three modalities."""
    return protocol == "fractions" or (bool(sample.choices) and any(sample.modality == modality for _, modality, _ in MEDVLM_R1))
