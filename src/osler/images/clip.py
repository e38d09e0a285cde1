"""Slices or frames as one clip, which a policy of the Qwen2-VL family sees as a video: two frames share their tokens.

A clip passes through trainers and engines as one tall picture, its frames below each other, and says in `info` how many they are.
`policies.clips` parts them again before the image processor.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from osler.errors import DataError
from osler.images.fingerprints import digest_image
from osler.images.montage import check_headers
from osler.types import ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image

FRAMES: Final = "osler_frames"
"""The key of a picture's `info` that holds the number of its frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Frames in order, all of one size; implements `ImageSource` and `HasDigest`."""

    sources: tuple[ImageSource, ...]

    @property
    def uri(self) -> str:
        """The URIs of the frames in their order: "clip:ct/1.dcm|ct/2.dcm"."""
        return "clip:" + "|".join(source.uri for source in self.sources)

    def load(self) -> Image:
        """The frames below each other in mode RGB, with their number in `info`. Raises DataError where their sizes differ."""
        import PIL.Image

        pictures = [source.load() for source in self.sources]
        width, height = pictures[0].size
        if any(picture.size != (width, height) for picture in pictures):
            raise DataError(f'{self.sources[0].uri} and the frames after it differ in size, as a clip cannot: use layout = "images"')
        strip = PIL.Image.new("RGB", (width, height * len(pictures)))
        for place, picture in enumerate(pictures):
            strip.paste(picture, (0, place * height))
        strip.info[FRAMES] = len(pictures)
        return strip

    def check_header(self) -> None:
        """Raise DataError where the file of a frame is missing, not an image, or too large."""
        check_headers(self.sources)

    def digest(self) -> str:
        """The SHA-256 of the digests of the frames in their order."""
        return hashlib.sha256(f"clip {[digest_image(source) for source in self.sources]}".encode()).hexdigest()


def count_frames(picture: Image) -> int:
    """The frames of a picture: 1 unless it is a clip."""
    return int(picture.info.get(FRAMES, 1))


def part_frames(picture: Image) -> list[Image]:
    """The frames of a clip, and a picture that is none itself."""
    number = count_frames(picture)
    if number == 1:
        return [picture]
    height = picture.height // number
    frames = [picture.crop((0, place * height, picture.width, (place + 1) * height)) for place in range(number)]
    for frame in frames:
        frame.info.pop(FRAMES, None)
    return frames


def count_image_units(source: ImageSource) -> int:
    """How many pictures' tokens an image takes at most: one for each pair of frames of a clip, else 1."""
    return count_pairs(len(source.sources)) if isinstance(source, Clip) else 1


def count_pairs(num_frames: int) -> int:
    """The pairs of frames that the image processor makes; the last frame stands twice where their number is odd."""
    return -(-num_frames // 2)
