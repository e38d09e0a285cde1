"""Blank images: what a policy sees that shall not see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from osler.images.clip import FRAMES, count_frames

if TYPE_CHECKING:
    from PIL.Image import Image

GREY: Final = 128
"""The pixel value of a blank image. It is neither black, the background of most medical images, nor white."""


def blank_like(image: Image) -> Image:
    """A uniformly grey RGB image of the size of `image`, and of as many frames where it is a clip."""
    import PIL.Image

    blank = PIL.Image.new("RGB", image.size, (GREY,) * 3)
    if (frames := count_frames(image)) > 1:
        blank.info[FRAMES] = frames
    return blank
