"""`osler split`: read a dataset whole, look at its images, divide it without leaks, and write the manifest that a recipe names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from osler.config import DataConfig
from osler.data.readers import read
from osler.data.select import counts
from osler.data.splits.group import MEDVLM_R1, assign_groups, assign_protocol, check_fractions, group_samples, stratify
from osler.data.splits.manifest import Entry, Manifest, digest_sample, source_options, write_manifest
from osler.errors import DataError
from osler.images.fingerprints import DEFAULT_DISTANCE, Fingerprint, take_fingerprints
from osler.types import ImageSource, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Protocol = Literal["fractions", "medvlm_r1"]

MAX_CHAINED_SHARE: Final = 0.1
"""Of all questions in one group, when perceptual hashes made it: half of a test split of the usual size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOptions:
    """How to divide a dataset."""

    fractions: Mapping[str, float]  # {"train": 0.8, "test": 0.2}
    protocol: Protocol = "fractions"  # the other one decides the numbers itself
    max_distance: int = DEFAULT_DISTANCE
    has_images: bool = True  # false opens none: samples are grouped by file name, subject and case only
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitReport:
    """A manifest, and what a person wants to know of it."""

    manifest: Manifest
    num_images: int
    num_known_images: int  # those that were at hand
    largest_group: int  # samples
    largest_plain_group: int  # the same without perceptual hashes: what names, bytes, subjects and cases tie together

    def render(self) -> str:
        """The counts as a few lines of text."""
        manifest = self.manifest
        sizes = Counter(entry.split or "left over" for entry in manifest.samples)
        total = len(manifest.samples)
        lines = [
            f"{total:,} questions in {manifest.num_groups:,} groups (the largest has {self.largest_group:,}); "
            f"{self.num_known_images:,} of {self.num_images:,} images looked at"
        ]
        for split in (*manifest.splits, "left over"):
            if sizes[split]:
                cells = manifest.counts.get(split, {})
                inside = ", ".join(f"{modality} {sum(row.values()):,}" for modality, row in cells.items())
                lines.append(f"  {split:<10} {sizes[split]:>7,} {sizes[split] / total:6.1%}  {inside}".rstrip())
        if (warning := self.describe_chain()) is not None:
            lines.append(warning)
        return "\n".join(lines)

    def describe_chain(self) -> str | None:
        """A warning where near duplicates of near duplicates tie together what does not look alike; None where they do not."""
        considered = sum(entry.group is not None for entry in self.manifest.samples)
        if self.largest_group <= MAX_CHAINED_SHARE * considered or 2 * self.largest_plain_group > self.largest_group:
            return None
        return (
            f"warning: {self.largest_group / considered:.0%} of the questions hang together through near duplicates of near duplicates, "
            f"which need not look alike: give a --distance below {self.manifest.max_distance}"
        )


def split_dataset(data: DataConfig, options: SplitOptions, *, has_progress: bool = False) -> SplitReport:
    """Divide every question of `[data]`, whatever split it was published in.

    Raises ConfigError for fractions, a distance or a section that cannot be meant, and DataError where there is nothing to divide.
    """
    if options.protocol == "fractions":
        check_fractions(options.fractions)
    samples = read(data.reader, data.root, **{"seed": data.seed, **data.options})
    considered = [sample for sample in samples if _is_considered(sample, options.protocol)]
    if len(considered) < 2:
        raise DataError(f"{data.reader} has {len(considered)} questions to divide: check the data root and its options")
    sources = (source for sample in considered for source in sample.images)
    taken = take_fingerprints(sources, has_progress=has_progress) if options.has_images else {}
    groups = group_samples(considered, taken, max_distance=options.max_distance if options.has_images else None)
    plain = group_samples(considered, taken, max_distance=None)
    sides = _assign(considered, groups, options)
    return SplitReport(
        manifest=_describe(data, options, samples, considered, sides, groups.tolist(), taken),
        num_images=len({source for sample in considered for source in sample.images}),
        num_known_images=sum(found.digest is not None for found in taken.values()),
        largest_group=max(Counter(groups.tolist()).values()),
        largest_plain_group=max(Counter(plain.tolist()).values()),
    )


def write_split(report: SplitReport, out: Path, *, fresh: bool = False) -> None:
    """Write the manifest. Raises ConfigError where `out` holds something else, unless `fresh`."""
    write_manifest(report.manifest, out, replace=fresh)


def _is_considered(sample: Sample, protocol: Protocol) -> bool:
    """MedVLM-R1 asks multiple-choice questions of three modalities."""
    return protocol == "fractions" or (bool(sample.choices) and any(sample.modality == modality for _, modality, _ in MEDVLM_R1))


def _assign(samples: Sequence[Sample], groups: NDArray[np.int32], options: SplitOptions) -> Sequence[str | None]:
    if options.protocol == "medvlm_r1":
        return assign_protocol(samples, groups, MEDVLM_R1, seed=options.seed)
    return assign_groups(groups, [stratify(sample) for sample in samples], options.fractions, seed=options.seed)


def _describe(
    data: DataConfig,
    options: SplitOptions,
    samples: Sequence[Sample],
    considered: Sequence[Sample],
    sides: Sequence[str | None],
    groups: Sequence[int],
    taken: Mapping[ImageSource, Fingerprint],
) -> Manifest:
    """The manifest of every sample of the data, also of those that the protocol does not consider, so that none can slip in later."""
    images = {source.uri: taken[source].digest if source in taken else None for sample in samples for source in sample.images}
    place = {sample.id: (side, group) for sample, side, group in zip(considered, sides, groups, strict=True)}
    members: dict[str, list[Sample]] = {split: [] for split in _split_names(options)}
    entries = []
    for sample in samples:
        side, group = place.get(sample.id, (None, None))
        entries.append(Entry(id=sample.id, split=side, group=group, sha256=digest_sample(sample, images)))
        if side is not None:
            members[side].append(sample)
    return Manifest(
        reader=data.reader,
        options=source_options(data.options),
        data_seed=data.seed,
        protocol=options.protocol,
        seed=options.seed,
        max_distance=options.max_distance if options.has_images else None,
        fractions=dict(options.fractions) if options.protocol == "fractions" else {},
        num_groups=len(set(groups)),
        counts={split: counts(inside) for split, inside in members.items()},
        images=images,
        samples=tuple(entries),
    )


def _split_names(options: SplitOptions) -> tuple[str, ...]:
    if options.protocol == "medvlm_r1":
        return tuple(dict.fromkeys(split for split, _, _ in MEDVLM_R1))
    return tuple(options.fractions)
