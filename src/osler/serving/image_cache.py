"""Image features by content, so that an image about which many questions are asked is encoded once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from osler.policies.vision_features import ImageFeatures

MAX_IMAGES: Final = 512
"""More small images than are asked about at a time. Without it, a small policy's memory would grow with each of tens of thousands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownImage:
    """An encoded image."""

    grid: tuple[int, int, int]  # patches: time, rows, columns
    features: ImageFeatures


class ImageCache:
    """The latest `max_images` images, with up to `max_bytes` of features, by a hash of their content. Any thread may use it."""

    def __init__(self, max_bytes: int, max_images: int = MAX_IMAGES) -> None:
        self.max_bytes, self.max_images, self.num_bytes = max_bytes, max_images, 0
        self._images: OrderedDict[str, KnownImage] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._images)

    def find(self, key: str) -> KnownImage | None:
        """The image of that hash, or None."""
        with self._lock:
            if (found := self._images.get(key)) is not None:
                self._images.move_to_end(key)
            return found

    def keep(self, key: str, image: KnownImage) -> None:
        """Keep an image, and drop those that were not used for longest where there is no room."""
        size = image.features.num_bytes
        with self._lock:
            if size > self.max_bytes or key in self._images:
                return
            self._images[key] = image
            self.num_bytes += size
            while self.num_bytes > self.max_bytes or len(self) > self.max_images:
                _, oldest = self._images.popitem(last=False)
                self.num_bytes -= oldest.features.num_bytes


def own_memory(features: ImageFeatures) -> ImageFeatures:
    """A copy that does not keep the features of other images of its batch in memory."""
    return replace(features, pooled_TE=features.pooled_TE.clone(), deepstack_TE=_copies(features.deepstack_TE))


def _copies(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(torch.clone(tensor) for tensor in tensors)
