"""Image features of a frozen vision tower: computed once for all forward passes of a step and, on request, once for a whole training.

A vision tower gives one feature vector for each image token and, in Qwen3-VL, further ones that are added in later layers ("deepstack").
While the tower's weights do not change, the features depend on the image only.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL.Image import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from osler.errors import ConfigError
from osler.files import write_whole
from osler.images.clip import count_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFeatures:
    """The features of one image."""

    pooled_TE: Tensor  # [image tokens, E]
    deepstack_TE: tuple[Tensor, ...] = ()  # one [image tokens, E] for each deepstack layer of Qwen3-VL

    @property
    def num_bytes(self) -> int:
        """Their size in memory."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.pooled_TE, *self.deepstack_TE))


def is_frozen(model: Any) -> bool:
    """Whether no weight of the vision tower is trainable."""
    return not any(weight.requires_grad for weight in model.model.visual.parameters())


def has_same_tower(model: Any, other: Any) -> bool:
    """Whether all weights of two vision towers are equal."""
    pairs = zip(model.model.visual.parameters(), other.model.visual.parameters(), strict=True)
    return all(ours.dtype == theirs.dtype and torch.equal(ours, theirs) for ours, theirs in pairs)


def fingerprint_tower(model: Any) -> str:
    """The SHA-256 of the tower's weights and config, in hexadecimal."""
    digest = hashlib.sha256(model.config.vision_config.to_json_string().encode())
    for name, weight in model.model.visual.named_parameters():
        digest.update(f"{name} {weight.dtype} ".encode())
        digest.update(to_bytes(weight))
    return digest.hexdigest()


def fingerprint_processor(processor: Any) -> str:
    """A text that identifies the image processor: the version of Transformers, the class, its settings."""
    import transformers

    image_processor = processor.image_processor
    return f"{transformers.__version__} {type(image_processor).__name__} {image_processor.to_json_string()}"


def split_features(output: Any) -> list[ImageFeatures]:
    """The features of each image, from the output of the model's `get_image_features`."""
    sizes = [len(pooled_TE) for pooled_TE in output.pooler_output]
    layers = [
        torch.split(layer, sizes) if isinstance(layer, Tensor) else layer for layer in getattr(output, "deepstack_features", None) or ()
    ]
    return [
        ImageFeatures(pooled_TE=pooled_TE, deepstack_TE=tuple(layer[number] for layer in layers))
        for number, pooled_TE in enumerate(output.pooler_output)
    ]


def join_features(images: Sequence[ImageFeatures]) -> Any:
    """Features of images in order, in the form of the output of `get_image_features`."""
    output = SimpleNamespace(pooler_output=tuple(image.pooled_TE for image in images))
    if layers := [tuple(own) for own in zip(*(image.deepstack_TE for image in images), strict=True)]:
        output.deepstack_features = layers if _takes_pieces() else [torch.cat(own) for own in layers]
    return output


@cache
def _takes_pieces() -> bool:
    """Whether Transformers concatenates deepstack features itself, as it does from version 5.18."""
    from transformers import Qwen3VLModel

    return "mm_encoder_outputs" in inspect.signature(Qwen3VLModel.forward).parameters


class FeatureStore:
    """A folder of features, one safetensors file for each image; the least recently used are removed beyond `max_bytes`.

    Several trainings may use one folder at once: files appear whole or not at all, and a missing file is computed again.
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
        """The features stored under `key`, or None if the file is absent or unreadable."""
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
        """Store features, and remove others when the folder grows too large."""
        tensors = {"pooled": features.pooled_TE, **{f"layer_{layer:03d}": tensor for layer, tensor in enumerate(features.deepstack_TE)}}
        path = self.folder / f"{key}.safetensors"
        content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        if len(content) > self.max_bytes:
            return
        write_whole(path, content)
        self.num_bytes += len(content)
        if self.num_bytes > self.max_bytes:
            self._evict()

    def _evict(self) -> None:
        """Remove the least recently used files until the folder fits; other processes may remove files at the same time."""
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
    """Computes image features with a frozen tower and keeps them in `store`, keyed by pixels, tower and `settings`.

    `settings` identifies everything else that the features depend on, e.g. `fingerprint_processor` and the precision.
    """

    def __init__(self, model: Any, store: FeatureStore | None = None, settings: str = "") -> None:
        self.model, self.store = model, store
        self.fingerprint = f"{fingerprint_tower(model)} {settings}" if store is not None else ""

    @torch.no_grad()
    def encode(self, images: Sequence[tuple[Tensor, Tensor]], pictures: Sequence[Image]) -> list[ImageFeatures]:
        """The features of `images`, each as patches [p, values] and grid [3]; `pictures` are the same images before the processor.

        Images that are not in the store go through the tower in one batch.
        """
        keys = [hash_picture(picture, self.fingerprint) if self.store is not None else "" for picture in pictures]
        encoded: dict[int, ImageFeatures] = {}
        for place, (key, (patches, _)) in enumerate(zip(keys, images, strict=True)):
            features = self.store.read(key, patches.device) if self.store is not None else None
            if features is not None:
                encoded[place] = features
        missing = [place for place in range(len(images)) if place not in encoded]
        if missing:
            patches_of, grids = zip(*(images[place] for place in missing), strict=True)
            output = self.model.model.get_image_features(torch.cat(patches_of), torch.stack(grids), return_dict=True)
            for place, own in zip(missing, split_features(output), strict=True):
                encoded[place] = own
                if self.store is not None:
                    self.store.write(keys[place], own)
        return [encoded[place] for place in range(len(images))]


def hash_picture(picture: Image, settings: str = "") -> str:
    """The SHA-256 of a picture's pixels and of `settings`, in hexadecimal."""
    pixels = picture.convert("RGB")
    digest = hashlib.sha256(f"{settings} {pixels.size} {count_frames(picture)} ".encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()


def to_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor of any dtype."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


@contextlib.contextmanager
def replace_image_features(model: Any, give: Callable[..., Any]) -> Iterator[None]:
    """Inside the context, `model` uses what `give(pixel_values, image_grid_thw, ...)` returns instead of calling its vision tower.

    Works with every supported version of Transformers; passing precomputed features to the model does not.
    """
    inner = model.model
    # `wraps`, because Transformers inspects the parameters of the method.
    inner.get_image_features = wraps(inner.get_image_features)(give)
    try:
        yield
    finally:
        del inner.get_image_features
