"""A cache of vision features, so that an image that several prompts of one call share is encoded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor

from osler.policies.vision_features import ImageFeatures, join_features, replace_image_features, split_features
from osler.types import ImageSource

MAX_BYTES: Final = 256 << 20
"""Limit of the cache. An image of 384 x 384 pixels takes 0.6 MB in a model of 2 billion parameters."""


class FeatureCache:
    """The vision features of `model` for the images of one call of `generate`.

    It is discarded after the call: a resumed evaluation starts at a call, so it computes exactly what an uninterrupted one does.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._features: dict[ImageSource, ImageFeatures] = {}
        self._num_bytes = 0

    @contextmanager
    def use_for(self, sources: Sequence[ImageSource]) -> Iterator[None]:
        """While this is open, the images of the model's input are `sources`, in order, and each is encoded once."""
        encode = self._model.model.get_image_features

        def encode_once(pixel_values: Tensor, image_grid_thw: Tensor | None = None, **options: Any) -> Any:
            if image_grid_thw is None or len(image_grid_thw) != len(sources):
                return encode(pixel_values, image_grid_thw, **options)
            return join_features(self._look_up(encode, sources, pixel_values, image_grid_thw, options))

        with replace_image_features(self._model, encode_once):
            yield

    def _look_up(
        self, encode: Any, sources: Sequence[ImageSource], patches: Tensor, grids: Tensor, options: dict[str, Any]
    ) -> list[ImageFeatures]:
        """The features of each image in order; those that are not in the cache are computed."""
        pieces = torch.split(patches, grids.prod(-1).tolist())
        missing = {source: index for index, source in reversed(list(enumerate(sources))) if source not in self._features}
        features = dict(self._features)
        if missing:
            indices = sorted(missing.values())
            computed = split_features(encode(torch.cat([pieces[index] for index in indices]), grids[indices], **options))
            features.update((sources[index], one) for index, one in zip(indices, computed, strict=True))
        for source in missing:
            size = features[source].num_bytes
            if self._num_bytes + size <= MAX_BYTES:
                self._features[source] = features[source]
                self._num_bytes += size
        return [features[source] for source in sources]
