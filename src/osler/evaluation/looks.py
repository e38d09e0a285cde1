"""Images in place of the given ones: does the answer depend on what is seen?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from osler.data.phantom.images import PhantomImage
from osler.evaluation.ablations import SyntheticImage
from osler.images.clip import FRAMES, count_frames, part_frames
from osler.taxonomy import Modality
from osler.types import ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image

_SIZE: Final = 224
_GREY: Final = PhantomImage(modality=Modality.CT, split="test", seed=0, index=1, size=_SIZE)
_COLOURED: Final = PhantomImage(modality=Modality.FUNDUS, split="test", seed=0, index=1, size=_SIZE)
_SATURATION: Final = 24
"""The mean saturation, of 255, from which a picture counts as coloured."""


class Look(StrEnum):
    """An image that is shown in place of the given one, to see whether the answer depends on it."""

    BLANK = "blank"  # uniform grey
    SWAPPED = "swapped"  # a phantom of another modality
    MIRRORED = "mirrored"  # left and right changed


def alter(images: Sequence[ImageSource], look: Look) -> tuple[ImageSource, ...]:
    """The images of a prompt as `look` says, each of the size of its own."""
    kinds = {Look.BLANK: SyntheticImage, Look.SWAPPED: SwappedImage, Look.MIRRORED: MirroredImage}
    return tuple(kinds[look](source=image) for image in images)


@dataclass(frozen=True, slots=True, kw_only=True)
class SwappedImage:
    """A drawn picture of another modality: a fundus photograph for a grey picture, a CT section for a coloured one."""

    source: ImageSource

    @property
    def uri(self) -> str:
        """E.g. "swapped:sha256/3fa1"."""
        return f"swapped:{self.source.uri}"

    def load(self) -> Image:
        """The RGB image, of a clip in every frame. Raises DataError where `source` cannot be read."""
        import PIL.Image

        original = self.source.load()
        frames = count_frames(original)
        phantom = (_GREY if _is_coloured(original) else _COLOURED).load()
        frame = phantom.resize((original.width, original.height // frames), PIL.Image.Resampling.BICUBIC)
        return _stack([frame] * frames)


@dataclass(frozen=True, slots=True, kw_only=True)
class MirroredImage:
    """The picture with left and right changed."""

    source: ImageSource

    @property
    def uri(self) -> str:
        """E.g. "mirrored:sha256/3fa1"."""
        return f"mirrored:{self.source.uri}"

    def load(self) -> Image:
        """The RGB image. Raises DataError where `source` cannot be read."""
        import PIL.Image

        return _stack([frame.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT) for frame in part_frames(self.source.load())])


def _stack(frames: Sequence[Image]) -> Image:
    """One picture, or the frames of a clip below each other."""
    import PIL.Image

    if len(frames) == 1:
        return frames[0]
    width, height = frames[0].size
    strip = PIL.Image.new("RGB", (width, height * len(frames)))
    for place, frame in enumerate(frames):
        strip.paste(frame, (0, place * height))
    strip.info[FRAMES] = len(frames)
    return strip


def _is_coloured(picture: Image) -> bool:
    from PIL import ImageStat

    small = picture.resize((64, 64))
    return float(ImageStat.Stat(small.convert("HSV")).mean[1]) >= _SATURATION
