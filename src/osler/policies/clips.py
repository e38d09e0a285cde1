"""Clips in front of an image processor of the Qwen2-VL family: pairs of frames become the temporal patches of one image.

The vision tower has a kernel of two frames (Qwen2-VL, arXiv 2409.12191, section 2.1); an image is a pair of equal frames. So the patches of
a pair of frames are those of the two images, the first half of each patch from the first and the second half from the second. Qwen2-VL's
model gives such an image of several temporal patches the same features and the same positions as the video of the same frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osler.errors import ConfigError
from osler.images.clip import count_frames, part_frames


def read_clips(image_processor: Any, *, joins_frames: bool) -> None:
    """Let an image processor take clips, in place; where the family does not join frames it raises ConfigError for one."""
    base: Any = type(image_processor)
    image_processor.__class__ = _with_clips(base, joins_frames)


@cache
def _with_clips(base: Any, joins_frames: bool) -> Any:
    class WithClips(base):  # type: ignore[misc]
        def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> Any:
            from transformers.image_utils import make_flat_list_of_images

            pictures = make_flat_list_of_images(images)
            counts = [count_frames(picture) if hasattr(picture, "info") else 1 for picture in pictures]
            if max(counts, default=1) == 1:
                return super().preprocess(images, *args, **kwargs)
            if not joins_frames:
                raise ConfigError('[data.study] layout = "video" is for policies of the type qwen2_vl: use "images" or "montage"')
            kind = kwargs.pop("return_tensors", None)
            frames = [frame for picture in pictures for frame in _even(part_frames(picture))]
            found = super().preprocess(frames, *args, return_tensors="np", **kwargs)
            counts = [count + count % 2 if count > 1 else 1 for count in counts]
            found["pixel_values"], found["image_grid_thw"] = _join(found["pixel_values"], found["image_grid_thw"], counts)
            return found.convert_to_tensors(kind)

        def __reduce__(self) -> Any:
            return _rebuild, (base, joins_frames, self.__dict__)

    WithClips.__name__ = WithClips.__qualname__ = base.__name__  # a folder that is saved names the class
    WithClips.__module__ = base.__module__
    return WithClips


def _rebuild(base: Any, joins_frames: bool, values: dict[str, Any]) -> Any:
    """An image processor that was pickled."""
    image_processor = base.__new__(base)
    image_processor.__dict__.update(values)
    read_clips(image_processor, joins_frames=joins_frames)
    return image_processor


def _even(frames: list[Any]) -> list[Any]:
    """The frames, the last one twice where their number is odd and above 1."""
    return [*frames, frames[-1]] if len(frames) > 1 and len(frames) % 2 else frames


def _join(patches: NDArray[Any], grids: NDArray[Any], counts: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Patches [p, values] and grids [images, 3] with the frames of each clip joined in pairs; `counts` are the frames of each picture."""
    pieces, joined_grids, frame, start = [], [], 0, 0
    for count in counts:
        _, rows, columns = grids[frame]
        size = int(rows * columns)
        own = patches[start : start + count * size]
        if count > 1:
            pairs = own.reshape(count // 2, 2, size, 3, 2, -1)  # pair, frame of the pair, patch, colour, half, pixels
            own = np.stack([pairs[:, 0, :, :, 0], pairs[:, 1, :, :, 1]], axis=3).reshape(count // 2 * size, -1)
        pieces.append(own)
        joined_grids.append((max(1, count // 2), rows, columns))
        frame, start = frame + count, start + count * size
    return np.concatenate(pieces), np.array(joined_grids, dtype=grids.dtype)
