"""The tokens that the image processor of a policy makes of pictures, by their sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from osler.data.privacy.private import PrivateImage
from osler.errors import ConfigError
from osler.images.clip import Clip, count_image_units
from osler.images.montage import ReducedImage
from osler.images.sizes import size_of
from osler.types import ImageSource, Prompt

MAX_ASPECT: Final = 200
"""Longer side divided by the shorter one, above which the processors refuse an image."""


def count_image_tokens(source: ImageSource, processor: Any) -> int:
    """The tokens that the processor makes of an image, by its size. Raises DataError where the image cannot be read."""
    image_processor = processor.image_processor
    width, height = size_of(source.sources[0] if isinstance(source, Clip) else source)
    patches = int(image_processor.get_number_of_image_patches(height, width, {}))
    return count_image_units(source) * patches // int(image_processor.merge_size) ** 2


def max_image_tokens(processor: Any) -> int:
    """An upper bound of the tokens of one image, one for each merged patch.

    The processor rounds the sides of an image to whole patches: down above the largest size, but never below one patch, and up below the
    smallest size. A long strip, of which it admits up to MAX_ASPECT to 1, then takes more tokens than the largest size has.
    """
    image_processor = processor.image_processor
    patch = token_side_of(image_processor) ** 2
    most = int(image_processor.size["longest_edge"]) / patch
    return max(math.floor(max(most, math.sqrt(MAX_ASPECT * most))), _most_of_enlarged(image_processor))


def _most_of_enlarged(image_processor: Any) -> int:
    """An upper bound of the tokens of an image that the processor enlarges to its smallest size."""
    least = int(image_processor.size["shortest_edge"]) / token_side_of(image_processor) ** 2
    return math.floor((math.sqrt(MAX_ASPECT * least) + 1) * (math.sqrt(least / MAX_ASPECT) + 1))


def token_side_of(image_processor: Any) -> int:
    """The pixels of the side of an image token."""
    return int(image_processor.patch_size * image_processor.merge_size)


def check_study_tokens(prompts: Sequence[Prompt], processor: Any) -> None:
    """Raise ConfigError, with the remedy, where a picture of a study takes more tokens than `[data.study] max_tokens` leaves it.

    Looks at the sizes of pictures only where their share is so small, or their tokens of such a side, that this may be.
    """
    for prompt in prompts:
        check_study_images(prompt.sample.images, processor, name=prompt.sample.id)


def check_study_images(images: Sequence[ImageSource], processor: Any, *, name: str) -> None:
    """The same for the images of one prompt, which `name` names in the error."""
    side = token_side_of(processor.image_processor)
    for picture, reduced in _reduced_pictures(images):
        most = _most_of_enlarged(processor.image_processor) if reduced.token_side == side else max_image_tokens(processor)
        if reduced.max_tokens >= most or (number := count_image_tokens(picture, processor)) <= reduced.max_tokens:
            continue
        remedy = f"min_tokens = {number}, and max_tokens to no less" if reduced.token_side == side else f"token_side = {side}"
        raise ConfigError(
            f"{name} shows a picture of {number} image tokens, of which [data.study] max_tokens leaves it "
            f"{reduced.max_tokens}: set [data.study] {remedy}"
        )


def _reduced_pictures(sources: Sequence[ImageSource]) -> Iterator[tuple[ImageSource, ReducedImage]]:
    """The pictures that `[data.study]` reduces, as a prompt names them and as they are; of a clip, whose frames are alike, the first."""
    for source in sources:
        first = source.sources[0] if isinstance(source, Clip) else source
        own = first.source if isinstance(first, PrivateImage) else first
        if isinstance(own, ReducedImage):
            yield first, own
