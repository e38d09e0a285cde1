"""Did it look? The same questions with their images blanked, drowned in noise, swapped for another's, or left out.

A policy that looks loses accuracy under each of them; one that answers from the options or from habit does not. The picture of an
ablation is made when it is loaded, from the source that it stands for, and with that one's size, so that a prompt keeps its length.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar

from osler.audits import fold_option
from osler.types import ImageSource, Sample

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

GREY: Final = 128
"""The value of a blank image: neither the black that medical images have around the body, nor the white of paper."""

MAX_TRIES: Final = 64
"""Donors drawn at random before all are looked through."""


class Ablation(StrEnum):
    """What is taken from a question."""

    BLANK = "blank"  # one grey
    NOISE = "noise"  # random pixels
    SWAP_WITHIN = "swap_within"  # the image of another sample of the same (or no stated) modality, with another answer where there is one
    SWAP_ACROSS = "swap_across"  # the image of a sample of another modality
    QUESTION_ONLY = "question_only"  # no image in the prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class BlankImage:
    """One grey, in the size of `source`."""

    source: ImageSource

    @property
    def uri(self) -> str:
        """E.g. "blank:imgs/xmlab1/source.jpg"."""
        return f"blank:{self.source.uri}"

    def load(self) -> Image:
        """The picture. Raises DataError where `source` cannot be read."""
        import PIL.Image

        return PIL.Image.new("RGB", self.source.load().size, (GREY,) * 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseImage:
    """Independent, uniformly random pixels in the size of `source`; the same ones for the same seed and source."""

    source: ImageSource
    seed: int

    @property
    def uri(self) -> str:
        """E.g. "noise:0:imgs/xmlab1/source.jpg"."""
        return f"noise:{self.seed}:{self.source.uri}"

    def load(self) -> Image:
        """The picture. Raises DataError where `source` cannot be read."""
        import numpy as np
        import PIL.Image

        width, height = self.source.load().size
        rng = np.random.default_rng(list(self.uri.encode()))
        return PIL.Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablated:
    """Questions under an ablation, in their order, each with its own id and answer. What cannot be ablated is left out and counted."""

    samples: tuple[Sample, ...]  # metadata["ablation"] names the ablation
    left_out: Mapping[str, int]  # {"no image": 3}
    same_answer: int = 0  # swaps for an image whose question has the same answer, or that may have: no other was there


def ablate(samples: Sequence[Sample], ablation: Ablation, *, seed: int = 0) -> Ablated:
    """The samples under one ablation; what is drawn for a sample follows from the seed, its id and the samples."""
    pictured = [mark(sample, ablation.value) for sample in samples if sample.images]
    left_out = {"no image": len(samples) - len(pictured)} if len(pictured) < len(samples) else {}
    if ablation in _PICTURES:
        make = _PICTURES[ablation]
        changed = [replace(sample, images=tuple(make(image, seed) for image in sample.images)) for sample in pictured]
        return Ablated(samples=tuple(changed), left_out=left_out)
    if ablation is Ablation.QUESTION_ONLY:
        return Ablated(samples=tuple(replace(sample, images=()) for sample in pictured), left_out=left_out)
    return _swap(pictured, ablation, seed, left_out)


_PICTURES: Final[Mapping[Ablation, Callable[[ImageSource, int], ImageSource]]] = MappingProxyType(
    {
        Ablation.BLANK: lambda image, _: BlankImage(source=image),
        Ablation.NOISE: lambda image, seed: NoiseImage(source=image, seed=seed),
    }
)


def mark(sample: Sample, ablation: str) -> Sample:
    """The sample as one under an ablation; its record will know the images that its question is about, whatever is shown in their place."""
    own = tuple(image.uri for image in sample.images)
    return replace(sample, metadata={**sample.metadata, "ablation": ablation, "own_image_uris": own})


def _swap(samples: Sequence[Sample], ablation: Ablation, seed: int, left_out: Mapping[str, int]) -> Ablated:
    """Every sample with the images of a donor, from the best kind of donor that there is."""
    tiers = [(tier, _group(samples, tier)) for tier in _TIERS[ablation]]
    swapped, num_same, num_alone = [], 0, 0
    for sample in samples:
        rng = random.Random(f"{seed}/{ablation}/{sample.id}")
        donor = next((found for tier, groups in tiers if (found := _draw(sample, groups.get(tier.key(sample)), tier, rng))), None)
        if donor is None:
            num_alone += 1
            continue
        num_same += ablation is Ablation.SWAP_WITHIN and not _differs(sample, donor)
        swapped.append(replace(sample, images=donor.images))
    alone = {"no image to swap with": num_alone} if num_alone else {}
    return Ablated(samples=tuple(swapped), left_out={**left_out, **alone}, same_answer=num_same)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tier:
    """One kind of donor: samples of the same key, or of any other key, that fit."""

    key: Callable[[Sample], Hashable]
    fits: Callable[[Sample, Sample], bool]
    is_across: bool = False
    needs_another_answer: bool = False


@dataclass(slots=True, kw_only=True)
class _Donors:
    """The samples that one key may take from, and their answers."""

    samples: list[Sample] = field(default_factory=list)
    answers: set[str] = field(default_factory=set)


def _group(samples: Sequence[Sample], tier: _Tier) -> dict[Hashable, _Donors]:
    groups: defaultdict[Hashable, _Donors] = defaultdict(_Donors)
    for sample in samples:
        groups[tier.key(sample)].samples.append(sample)
        groups[tier.key(sample)].answers.add(fold_option(sample.target_text))
    if not tier.is_across:
        return groups
    # What states no modality may be of any, so it neither gives across modalities nor takes.
    known = [key for key in groups if key is not None]
    return {key: _Donors(samples=[one for other in known if other != key for one in groups[other].samples]) for key in known}


def _draw(sample: Sample, donors: _Donors | None, tier: _Tier, rng: random.Random) -> Sample | None:
    if donors is None or (tier.needs_another_answer and len(donors.answers) < 2):
        return None
    return draw_fitting(donors.samples, lambda donor: tier.fits(sample, donor), rng)


def draw_fitting(items: Sequence[T], fits: Callable[[T], bool], rng: random.Random) -> T | None:
    """One of the items that fit, each as likely, or None. Few are looked at where most of them fit."""
    if not items:
        return None
    for _ in range(MAX_TRIES):
        item = items[rng.randrange(len(items))]
        if fits(item):
            return item
    fitting = [item for item in items if fits(item)]
    return rng.choice(fitting) if fitting else None


def _is_other(sample: Sample, donor: Sample) -> bool:
    """Whether the donor has as many images, all of them others, of another subject where subjects are known."""
    same_subject = sample.subject_id is not None and sample.subject_id == donor.subject_id
    return not same_subject and len(sample.images) == len(donor.images) and _is_other_image(sample, donor)


def _is_other_image(sample: Sample, donor: Sample) -> bool:
    return not {image.uri for image in sample.images} & {image.uri for image in donor.images}


def _differs(sample: Sample, donor: Sample) -> bool:
    """Whether the donor answers a question of the same type, and differently: only then is its image known to show something else."""
    return sample.question_type == donor.question_type and fold_option(sample.target_text) != fold_option(donor.target_text)


def _differs_and_is_other(sample: Sample, donor: Sample) -> bool:
    return _differs(sample, donor) and _is_other(sample, donor)


def _modality(sample: Sample) -> Hashable:
    return sample.modality


# From the best kind of donor to one that will do.
_TIERS: Final[Mapping[Ablation, tuple[_Tier, ...]]] = MappingProxyType(
    {
        Ablation.SWAP_WITHIN: (
            _Tier(
                key=lambda sample: (sample.modality, sample.question_type, sample.question),
                fits=_differs_and_is_other,
                needs_another_answer=True,
            ),
            _Tier(key=lambda sample: (sample.modality, sample.question_type), fits=_differs_and_is_other, needs_another_answer=True),
            _Tier(key=_modality, fits=_is_other),
            _Tier(key=_modality, fits=_is_other_image),
        ),
        Ablation.SWAP_ACROSS: (
            _Tier(key=_modality, fits=_is_other, is_across=True),
            _Tier(key=_modality, fits=_is_other_image, is_across=True),
        ),
    }
)
