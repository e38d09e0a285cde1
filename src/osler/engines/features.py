"""Images that several questions of one call share, seen by the vision tower once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from osler.types import ImageSource

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES: Final = 256 << 20
"""Features kept at most. Those of a picture of 384 x 384 pixels are 0.6 MB in a model of 2 billion parameters."""


class SeenImages:
    """What the tower of `model` made of the images of one call.

    It lasts for one call only, so that a killed evaluation, which goes on at a call's border, computes what one in a single go does.
    """

    def __init__(self, model: Any) -> None:
        self._inner = model.model
        self._kept: dict[ImageSource, Tensor] = {}
        self._num_bytes = 0

    @contextmanager
    def shown(self, sources: Sequence[ImageSource]) -> Iterator[None]:
        """While this is open, the model's images are `sources`, in this order; of equal ones the tower sees the first."""
        plain = getattr(self._inner, "get_image_features", None)
        if plain is None or getattr(self._inner.config, "model_type", "").startswith("qwen3"):  # Qwen3-VL adds features in later layers too
            yield
            return

        @wraps(plain)
        def get_image_features(pixel_values: Tensor, image_grid_thw: Tensor | None = None, **options: Any) -> Any:
            if image_grid_thw is None or len(image_grid_thw) != len(sources):
                return plain(pixel_values, image_grid_thw, **options)
            return SimpleNamespace(pooler_output=self._look(plain, sources, pixel_values, image_grid_thw, options))

        self._inner.get_image_features = get_image_features
        try:
            yield
        finally:
            del self._inner.get_image_features

    def _look(
        self, plain: Any, sources: Sequence[ImageSource], patches: Tensor, grids: Tensor, options: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        """The features of each image in order."""
        import torch

        pieces = torch.split(patches, grids.prod(-1).tolist())
        first = {source: place for place, source in reversed(list(enumerate(sources))) if source not in self._kept}
        made = dict(self._kept)
        if first:
            places = sorted(first.values())
            features = plain(torch.cat([pieces[place] for place in places]), grids[places], **options).pooler_output
            made.update((sources[place], own) for place, own in zip(places, features, strict=True))
        for source in first:
            size = made[source].numel() * made[source].element_size()
            if self._num_bytes + size <= MAX_BYTES:
                self._kept[source] = made[source]
                self._num_bytes += size
        return tuple(made[source] for source in sources)
