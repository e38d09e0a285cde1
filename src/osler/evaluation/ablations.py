"""Image ablations: the same questions with their images replaced by grey, by noise or by another sample's image, or without an image.

A policy that uses the image loses accuracy under each of them; one that answers from the options or from prior knowledge does not. A
replaced image has the size of the original, so the prompt keeps its length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from osler.data.donors import CONTRADICTING, DonorRule, find_donors, has_other_answer, has_other_images, is_other_case
from osler.images.blank import blank_like
from osler.images.clip import FRAMES, count_frames
from osler.types import PLACE, ImageSource, Sample

if TYPE_CHECKING:
    from PIL.Image import Image


class Ablation(StrEnum):
    """What happens to the images of a question."""

    BLANK = "blank"  # uniform grey
    NOISE = "noise"  # random pixels
    SWAP_WITHIN = "swap_within"  # images of another sample of the same modality, if possible with another answer
    SWAP_ACROSS = "swap_across"  # images of a sample of another modality
    QUESTION_ONLY = "question_only"  # no image in the prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticImage:
    """An image of the size of `source`: uniform grey without a seed, else uniformly random pixels, equal for equal seed and source."""

    source: ImageSource
    seed: int | None = None

    @property
    def uri(self) -> str:
        """E.g. "blank:imgs/xmlab1/source.jpg", "noise:0:imgs/xmlab1/source.jpg"."""
        return f"blank:{self.source.uri}" if self.seed is None else f"noise:{self.seed}:{self.source.uri}"

    def load(self) -> Image:
        """The RGB image. Raises DataError where `source` cannot be read."""
        import numpy as np
        import PIL.Image

        original = self.source.load()
        if self.seed is None:
            picture = blank_like(original)
        else:
            rng = np.random.default_rng(list(self.uri.encode()))
            picture = PIL.Image.fromarray(rng.integers(0, 256, (original.height, original.width, 3), dtype=np.uint8))
        picture.info.update({FRAMES: frames} if (frames := count_frames(original)) > 1 else {})
        return picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablated:
    """Questions under an ablation, in order, with their own ids and answers. Questions that cannot be ablated are left out and counted."""

    samples: tuple[Sample, ...]  # metadata["ablation"] names the ablation
    left_out: Mapping[str, int]  # {"no image": 3}
    num_same_target: int = 0  # samples for which no donor has another answer to the same type of question


def ablate(samples: Sequence[Sample], ablation: Ablation, *, seed: int = 0) -> Ablated:
    """The samples under one ablation. Random draws for a sample depend on the seed, its id and the list of samples."""
    with_images = [mark(sample, ablation.value) for sample in samples if sample.images]
    left_out = {"no image": len(samples) - len(with_images)} if len(with_images) < len(samples) else {}
    if ablation in _DONOR_RULES:
        return _swap(with_images, ablation, seed, left_out)
    if ablation is Ablation.QUESTION_ONLY:
        return Ablated(samples=tuple(_with_images(sample, ()) for sample in with_images), left_out=left_out)
    synthesize = partial(SyntheticImage, seed=seed if ablation is Ablation.NOISE else None)
    samples = [replace(sample, images=tuple(synthesize(source=image) for image in sample.images)) for sample in with_images]
    return Ablated(samples=tuple(samples), left_out=left_out)


def _with_images(sample: Sample, images: tuple[ImageSource, ...]) -> Sample:
    """The sample with other images; without places in its text where these are more or fewer."""
    if len(images) == len(sample.images):
        return replace(sample, images=images)
    question = without_places(sample.question)
    context = sample.context and sample.context.change_texts(without_places)
    return replace(sample, images=images, question=question or sample.question, context=context)


def without_places(text: str) -> str:
    """The text without the places of images."""
    return text.replace(f" {PLACE}", "").replace(PLACE, "")


def mark(sample: Sample, ablation: str) -> Sample:
    """The sample with the name of its ablation and the URIs of its own images as metadata, which its record keeps."""
    uris = tuple(image.uri for image in sample.images)
    return replace(sample, metadata={**sample.metadata, "ablation": ablation, "own_image_uris": uris})


def _swap(samples: Sequence[Sample], ablation: Ablation, seed: int, left_out: Mapping[str, int]) -> Ablated:
    """Every sample with the images of a donor, by the first rule that finds one."""
    swapped, num_same = [], 0
    for sample, donor in zip(samples, find_donors(samples, _DONOR_RULES[ablation], ablation, seed), strict=True):
        if donor is not None:
            num_same += ablation is Ablation.SWAP_WITHIN and not has_other_answer(sample, donor)
            swapped.append(_with_images(sample, donor.images))
    if len(swapped) < len(samples):
        left_out = {**left_out, "no image to swap with": len(samples) - len(swapped)}
    return Ablated(samples=tuple(swapped), left_out=left_out, num_same_target=num_same)


# From the best kind of donor to the last resort.
_DONOR_RULES: Final[Mapping[Ablation, tuple[DonorRule, ...]]] = MappingProxyType(
    {
        Ablation.SWAP_WITHIN: (
            *CONTRADICTING,
            DonorRule(key=attrgetter("modality"), fits=is_other_case),
            DonorRule(key=attrgetter("modality"), fits=has_other_images),
        ),
        Ablation.SWAP_ACROSS: (
            DonorRule(key=attrgetter("modality"), fits=is_other_case, is_across=True),
            DonorRule(key=attrgetter("modality"), fits=has_other_images, is_across=True),
        ),
    }
)
