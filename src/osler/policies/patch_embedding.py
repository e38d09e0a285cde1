"""The patch embedding of a vision tower as a matrix product.

Qwen's towers embed patches by a convolution whose kernel is one whole patch: a matrix product with the flattened kernel. On a CPU PyTorch
computes it several times slower as a convolution, forward and backward.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import Conv3d
from torch.nn.functional import linear


class PatchProjection(Conv3d):
    """The same weights under the same names. The input is patches [N, channels, frames, height, width], each as large as the kernel."""

    def forward(self, patches: Tensor) -> Tensor:
        """Embeddings [N, E]."""
        return linear(patches.flatten(1), self.weight.flatten(1), self.bias)


def embed_by_product(model: Any) -> None:
    """Make the tower of `model`, a Transformers model, embed patches by a matrix product; a layer of another type stays as it is."""
    projection = getattr(model.model.visual.patch_embed, "proj", None)
    if type(projection) is Conv3d and projection.kernel_size == projection.stride:
        # The class and not the method of one object, because a copy of the module must use its own weights.
        projection.__class__ = PatchProjection
