"""What a frozen vision tower made of images: computed once for all passes of a step and, on request, once for a whole training.

The tower of a family gives for each image the features that take the place of its tokens and, in Qwen3-VL, more that are added in later
layers. While its weights do not change they follow from the image alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL.Image import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from osler.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFeatures:
    """What the tower made of one image."""

    pooled_TE: Tensor  # one row for each token that stands for the image
    deepstack_TE: tuple[Tensor, ...] = ()  # one for each layer that Qwen3-VL adds to

    @property
    def num_bytes(self) -> int:
        """How much memory they take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.pooled_TE, *self.deepstack_TE))


def is_frozen(model: Any) -> bool:
    """Whether no weight of the vision tower is trained."""
    return not any(weight.requires_grad for weight in model.model.visual.parameters())


def has_same_tower(model: Any, other: Any) -> bool:
    """Whether two models see images alike: every weight of their towers is equal."""
    pairs = zip(model.model.visual.parameters(), other.model.visual.parameters(), strict=True)
    return all(ours.dtype == theirs.dtype and torch.equal(ours, theirs) for ours, theirs in pairs)


def fingerprint_tower(model: Any) -> str:
    """A hash of the tower's weights and settings."""
    digest = hashlib.sha256(model.config.vision_config.to_json_string().encode())
    for name, weight in model.model.visual.named_parameters():
        digest.update(f"{name} {weight.dtype} ".encode())
        digest.update(to_bytes(weight))
    return digest.hexdigest()


def fingerprint_processor(processor: Any) -> str:
    """What the patches of an image follow from besides its pixels: settings and class of the image processor, and the release it is of."""
    import transformers

    image_processor = processor.image_processor
    return f"{transformers.__version__} {type(image_processor).__name__} {image_processor.to_json_string()}"


def split_features(output: Any) -> list[ImageFeatures]:
    """The features of each image, from what the model's `get_image_features` gives."""
    sizes = [len(pooled_TE) for pooled_TE in output.pooler_output]
    layers = [
        torch.split(layer, sizes) if isinstance(layer, Tensor) else layer for layer in getattr(output, "deepstack_features", None) or ()
    ]
    return [
        ImageFeatures(pooled_TE=pooled_TE, deepstack_TE=tuple(layer[number] for layer in layers))
        for number, pooled_TE in enumerate(output.pooler_output)
    ]


def join_features(images: Sequence[ImageFeatures]) -> Any:
    """Features of images in order, as the model's `get_image_features` gives them."""
    output = SimpleNamespace(pooler_output=tuple(image.pooled_TE for image in images))
    if layers := [tuple(own) for own in zip(*(image.deepstack_TE for image in images), strict=True)]:
        output.deepstack_features = layers if _takes_pieces() else [torch.cat(own) for own in layers]
    return output


@cache
def _takes_pieces() -> bool:
    """Whether Transformers puts the features for later layers together itself, as it does from 5.18 on."""
    from transformers import Qwen3VLModel

    return "mm_encoder_outputs" in inspect.signature(Qwen3VLModel.forward).parameters


class FeatureStore:
    """A folder of features, one safetensors file for each image, the longest unused ones removed beyond `max_bytes`.

    Several trainings may use one folder at once: a file appears whole or not at all, and one that has vanished is made again.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".writable").touch()
        except OSError as error:
            raise ConfigError(f"[trainer] vision_cache = {str(folder)!r}: {error.strerror}; name a folder that can be written") from None
        self.num_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))

    def read(self, key: str, device: torch.device) -> ImageFeatures | None:
        """The features kept under `key`, or None; a file that cannot be read counts as absent."""
        path = self.folder / f"{key}.safetensors"
        try:
            tensors = load_file(path, device=str(device))
            path.touch()
        except (OSError, SafetensorError):
            return None
        if "pooled" not in tensors:
            return None
        return ImageFeatures(pooled_TE=tensors.pop("pooled"), deepstack_TE=tuple(tensors[name] for name in sorted(tensors)))

    def write(self, key: str, features: ImageFeatures) -> None:
        """Keep features, and forget others where the folder grows too large."""
        tensors = {"pooled": features.pooled_TE, **{f"layer_{layer:03d}": tensor for layer, tensor in enumerate(features.deepstack_TE)}}
        path = self.folder / f"{key}.safetensors"
        draft = path.with_suffix(f".{id(self):x}.draft")
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, draft)
        size = draft.stat().st_size
        if size > self.max_bytes:
            draft.unlink()
            return
        draft.replace(path)
        self.num_bytes += size
        if self.num_bytes > self.max_bytes:
            self._forget()

    def _forget(self) -> None:
        """Remove the longest unused files until the folder fits; what others have removed meanwhile counts too."""
        found = []
        for file in self.folder.glob("*.safetensors"):
            with contextlib.suppress(OSError):
                status = file.stat()
                found.append((status.st_mtime_ns, status.st_size, file))
        self.num_bytes = sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if self.num_bytes <= self.max_bytes:
                return
            file.unlink(missing_ok=True)
            self.num_bytes -= size


class FrozenVision:
    """The features of images under a tower that is not trained, kept in `store` under the pixels that they come from.

    `seen_by` says what else they follow from besides the tower, e.g. `fingerprint_processor` and the precision of the computation.
    """

    def __init__(self, model: Any, store: FeatureStore | None = None, seen_by: str = "") -> None:
        self.model, self.store = model, store
        self.eye = f"{fingerprint_tower(model)} {seen_by}" if store is not None else ""

    @torch.no_grad()
    def encode(self, images: Sequence[tuple[Tensor, Tensor]], pictures: Sequence[Image]) -> list[ImageFeatures]:
        """The features of images, each given as patches [p, values] and grid [3], and as it was before the processor.

        The tower sees what the store does not hold, at once.
        """
        keys = [self._key(picture) if self.store is not None else "" for picture in pictures]
        found: dict[int, ImageFeatures] = {}
        for place, (key, (patches, _)) in enumerate(zip(keys, images, strict=True)):
            features = self.store.read(key, patches.device) if self.store is not None else None
            if features is not None:
                found[place] = features
        missing = [place for place in range(len(images)) if place not in found]
        if missing:
            shown, grids = zip(*(images[place] for place in missing), strict=True)
            output = self.model.model.get_image_features(torch.cat(shown), torch.stack(grids), return_dict=True)
            for place, own in zip(missing, split_features(output), strict=True):
                found[place] = own
                if self.store is not None:
                    self.store.write(keys[place], own)
        return [found[place] for place in range(len(images))]

    def _key(self, picture: Image) -> str:
        """What features follow from: the pixels, the processor and the tower."""
        pixels = picture.convert("RGB")
        digest = hashlib.sha256(f"{self.eye} {pixels.size} ".encode())
        digest.update(pixels.tobytes())
        return digest.hexdigest()


def to_bytes(tensor: Tensor) -> bytes:
    """A tensor's values as they lie in memory, whatever their type."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
