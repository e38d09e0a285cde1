"""The patches of still images, in fewer steps than Transformers takes, with equal results.

Its image processors of the Qwen-VL family convert a picture four times between Pillow and numpy, and multiply and subtract pixel by pixel
what depends on 256 values of three colours only. Its vision towers multiply patches by a convolution that sees each patch once, for which
PyTorch has slow kernels; it is a linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from PIL.Image import Image

_SETTINGS = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchReader:
    """Makes the patches that an image processor makes of one still image."""

    resample: int
    fewest_pixels: int
    most_pixels: int
    patch_size: int
    merge_size: int
    temporal_size: int
    values: NDArray[np.float32]  # [3 * 256]: the input of the model for each value of each colour

    @classmethod
    def of(cls, image_processor: Any) -> PatchReader | None:
        """That of an image processor, or None for one whose steps are not known to be these."""
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil as Known

        kind = type(image_processor)
        is_known = isinstance(image_processor, Known) and all(
            getattr(kind, name) is getattr(Known, name) for name in ("_preprocess", "resize", "rescale", "normalize", "patchify")
        )
        if not is_known or not all(getattr(image_processor, name) for name in _SETTINGS):
            return None
        mean, std = (np.array(part, dtype=np.float32)[:, None] for part in (image_processor.image_mean, image_processor.image_std))
        if mean.shape != (3, 1) or std.shape != (3, 1):
            return None
        scaled = (np.arange(256, dtype=np.float64) * image_processor.rescale_factor).astype(np.float32)
        return cls(
            resample=int(image_processor.resample),
            fewest_pixels=image_processor.size["shortest_edge"],
            most_pixels=image_processor.size["longest_edge"],
            patch_size=image_processor.patch_size,
            merge_size=image_processor.merge_size,
            temporal_size=image_processor.temporal_patch_size,
            values=((scaled - mean) / std).astype(np.float32).ravel(),
        )

    def read(self, picture: Image) -> tuple[Tensor, tuple[int, int, int]]:
        """The patches [p, values of a patch] of a picture, and its grid (time, rows, columns).

        Raises ValueError for sides that differ too much.
        """
        from PIL.Image import Resampling
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        side, merge = self.patch_size, self.merge_size
        height, width = smart_resize(picture.height, picture.width, side * merge, self.fewest_pixels, self.most_pixels)
        resized = np.asarray(picture.convert("RGB").resize((width, height), Resampling(self.resample)))
        rows, columns = height // side, width // side
        # Row of merged patches, column, row within, column within, colour, row of pixels, column of pixels.
        parts = resized.reshape(rows // merge, merge, side, columns // merge, merge, side, 3).transpose(0, 3, 1, 4, 6, 2, 5)
        shift = (256 * np.arange(3, dtype=np.intp))[:, None, None]
        pixels = self.values[parts + shift].reshape(rows * columns, 3, 1, side * side)
        patches = np.broadcast_to(pixels, (rows * columns, 3, self.temporal_size, side * side)).reshape(rows * columns, -1)
        return torch.from_numpy(np.ascontiguousarray(patches)), (1, rows, columns)


class _LinearPatches(nn.Module):
    """A convolution whose windows are single patches, as a linear layer with the same weights."""

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, patches: Tensor) -> Tensor:
        """[p, E] of patches [p, 3, time, rows, columns]."""
        return nn.functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)


def embed_linearly(model: Any) -> None:
    """Let the vision tower of `model` embed patches by a linear layer; one that embeds them otherwise stays as it is."""
    embedding: Any = getattr(model.model.visual, "patch_embed", None)
    convolution = getattr(embedding, "proj", None)
    if type(convolution) is nn.Conv3d and convolution.kernel_size == convolution.stride and convolution.groups == 1:
        embedding.proj = _LinearPatches(convolution)
