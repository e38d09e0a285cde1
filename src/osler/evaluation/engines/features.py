"""Images that several questions of one call share, seen by the vision tower once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from osler.policies.load import replace_image_features
from osler.types import ImageSource

if TYPE_CHECKING:
    from torch import Tensor

    from osler.policies.vision_features import ImageFeatures

MAX_BYTES: Final = 256 << 20
"""Features kept at most. Those of a picture of 384 x 384 pixels are 0.6 MB in a model of 2 billion parameters."""


class SeenImages:
    """What the tower of `model` made of the images of one call.

    It lasts for one call only, so that a killed evaluation, which goes on at a call's border, computes what one in a single go does.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._kept: dict[ImageSource, ImageFeatures] = {}
        self._num_bytes = 0

    @contextmanager
    def shown(self, sources: Sequence[ImageSource]) -> Iterator[None]:
        """While this is open, the model's images are `sources`, in this order; of equal ones the tower sees the first."""
        from osler.policies.vision_features import join_features

        plain = self._model.model.get_image_features

        def look(pixel_values: Tensor, image_grid_thw: Tensor | None = None, **options: Any) -> Any:
            if image_grid_thw is None or len(image_grid_thw) != len(sources):
                return plain(pixel_values, image_grid_thw, **options)
            return join_features(self._look(plain, sources, pixel_values, image_grid_thw, options))

        with replace_image_features(self._model, look):
            yield

    def _look(
        self, plain: Any, sources: Sequence[ImageSource], patches: Tensor, grids: Tensor, options: dict[str, Any]
    ) -> list[ImageFeatures]:
        """The features of each image in order."""
        import torch

        from osler.policies.vision_features import split_features

        pieces = torch.split(patches, grids.prod(-1).tolist())
        first = {source: place for place, source in reversed(list(enumerate(sources))) if source not in self._kept}
        made = dict(self._kept)
        if first:
            places = sorted(first.values())
            features = split_features(plain(torch.cat([pieces[place] for place in places]), grids[places], **options))
            made.update((sources[place], own) for place, own in zip(places, features, strict=True))
        for source in first:
            size = made[source].num_bytes
            if self._num_bytes + size <= MAX_BYTES:
                self._kept[source] = made[source]
                self._num_bytes += size
        return [made[source] for source in sources]
