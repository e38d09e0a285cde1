"""The groups of a rollout: the processor's output for each distinct prompt, and the KV caches that the rollout keeps for the update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from trl.trainer.utils import pad, split_tensor_dict

from osler.policies.vision_features import FrozenVision, ImageFeatures, join_features
from osler.training.rollout_state import RolloutSizes, require_room
from osler.training.shared_prefix.attention import PromptCache
from osler.training.shared_prefix.packed_row import PromptBatch
from osler.training.tensor_file import TensorFile

Scores = tuple[Tensor, Tensor | None]
"""Log-probabilities and, if computed, entropies, [N, C] each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The processor's output for one prompt."""

    ids_P: Tensor
    types_P: Tensor | None = None
    images: tuple[tuple[Tensor, Tensor], ...] = ()  # patches [p, values] and grid [3] of each
    pictures: tuple[Image, ...] = ()  # the same images before the processor
    features: tuple[ImageFeatures, ...] | None = None  # of the images, precomputed by a frozen vision tower


@dataclass(slots=True, kw_only=True)
class Groups:
    """The distinct prompts of a rollout, `num_generations` completions each."""

    members: list[Group]
    num_generations: int
    pad_id: int
    # Prefills with their autograd graph, and the groups that each holds: an update with unchanged weights continues from them.
    graph: list[tuple[PromptCache, tuple[int, ...]]] = field(default_factory=list)

    def encode_images(self, vision: FrozenVision, size: int = 0) -> None:
        """Compute the features of all images with a frozen tower, `size` groups at a time; 0: all at once."""
        for chunk in self.chunks(size or len(self.members)):
            members = [self.members[group] for group in chunk]
            images = [image for group in members for image in group.images]
            features = iter(vision.encode(images, [picture for group in members for picture in group.pictures]))
            for place, group in zip(chunk, members, strict=True):
                self.members[place] = replace(group, features=tuple(next(features) for _ in group.images))

    def prompts(self, groups: Sequence[int], *, with_features: bool = True) -> PromptBatch:
        """The prompts of these groups, padded on the left, with precomputed image features if there are any and `with_features`."""
        members = [self.members[group] for group in groups]
        images = [image for group in members for image in group.images]
        types = [group.types_P for group in members if group.types_P is not None]
        prompts = PromptBatch(
            ids_BP=pad([group.ids_P for group in members], padding_value=self.pad_id, padding_side="left"),
            mask_BP=pad([torch.ones_like(group.ids_P) for group in members], padding_value=0, padding_side="left"),
            types_BP=pad(types, padding_value=0, padding_side="left") if types else None,
        )
        if not images:
            return prompts
        features = [features for group in members for features in group.features or ()]
        return replace(
            prompts,
            pixel_values=torch.cat([patches for patches, _ in images]),
            image_grid_thw=torch.stack([grid for _, grid in images]),
            features=join_features(features) if features and with_features else None,
        )

    def replace(self, others: Groups, places: Mapping[int, int]) -> None:
        """Replace groups by those of another rollout with one prefill for each prompt: `{index here: index in others}`."""
        self.graph = [(cache, own) for cache, own in self.graph if not set(own) & places.keys()]
        cached = {group: cache for cache, own in others.graph for group in own}
        for place, group in places.items():
            self.members[place] = others.members[group]
            if group in cached:
                self.graph.append((cached[group], (place,)))

    def chunks(self, size: int) -> list[tuple[int, ...]]:
        """All groups in order, `size` at a time."""
        return [tuple(range(start, min(start + size, len(self.members)))) for start in range(0, len(self.members), size)]

    def repeat(self) -> dict[str, Tensor]:
        """The processor's output for `num_generations` copies of every prompt, with the images of each prompt only once.

        TRL passes the images on to methods that the trainer overrides, so copies of them are not needed.
        """
        prompts, times = self.prompts(range(len(self.members)), with_features=False), self.num_generations
        rows = {"input_ids": prompts.ids_BP, "attention_mask": prompts.mask_BP, "mm_token_type_ids": prompts.types_BP}
        return {
            **{name: tensor.repeat_interleave(times, dim=0) for name, tensor in rows.items() if tensor is not None},
            **prompts.image_inputs,
        }

    def images_of(self, groups: Sequence[int]) -> dict[str, Any]:
        """`pixel_values` and `image_grid_thw` of these groups' prompts; empty without images."""
        images = [image for group in groups for image in self.members[group].images]
        if not images:
            return {}
        patches, grids = zip(*images, strict=True)
        return {"pixel_values": torch.cat(patches), "image_grid_thw": torch.stack(grids)}

    def full_images_of(self, groups: Sequence[int]) -> dict[str, Any]:
        """The same with TRL's `num_images`, the number of images of each group."""
        images = self.images_of(groups)
        return {**images, "num_images": [len(self.members[group].images) for group in groups]} if images else {}


def is_grouped(prompts: Sequence[Any], num_generations: int) -> bool:
    """Whether every prompt, images included, comes `num_generations` times in a row."""
    return len(prompts) % num_generations == 0 and all(prompt == prompts[row - row % num_generations] for row, prompt in enumerate(prompts))


def collect(
    ids: Sequence[Sequence[int]],
    images: Sequence[Any] | None,
    fields: Mapping[str, Any],
    num_generations: int,
    pad_id: int,
    device: torch.device,
) -> Groups:
    """Groups from the processor's output, token `ids` without padding and `fields` with patches, and the `images` before the processor."""
    types = fields.get("mm_token_type_ids")
    split: list[tuple[Tensor, Tensor]] = []
    if images is not None and "pixel_values" in fields:
        grids = torch.as_tensor(np.asarray(fields["image_grid_thw"])).to(device)
        patches = torch.as_tensor(np.asarray(fields["pixel_values"])).to(device)
        split = list(zip(torch.split(patches, grids.prod(dim=1).tolist()), grids, strict=True))
    members, start = [], 0
    for number, row in enumerate(ids):
        pictures = tuple(images[number] or ()) if images is not None and split else ()
        end = start + len(pictures)
        types_P = None if types is None else torch.tensor(types[number], device=device)
        ids_P = torch.tensor(row, device=device)
        members.append(Group(ids_P=ids_P, types_P=types_P, images=tuple(split[start:end]), pictures=pictures))
        start = end
    return Groups(members=members, num_generations=num_generations, pad_id=pad_id)


def gather_groups(batches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows in as many micro-batches of the same size, reordered so that the rows of a group are consecutive.

    Groups keep the order in which TRL's shuffle first meets them.
    """
    rows = {name: value for name, value in batches[0].items() if value is not None and value.ndim}
    merged = {name: torch.cat([batch[name] for batch in batches]) for name in rows}
    members: dict[int, list[int]] = {}
    for row, group in enumerate(merged["group_id"].tolist()):
        members.setdefault(group, []).append(row)
    order = torch.tensor([row for own in members.values() for row in own])
    ordered = {name: value[order.to(value.device)] for name, value in merged.items()}
    split: list[dict[str, Any]] = split_tensor_dict({**batches[0], **ordered}, len(batches))
    return split


def group_tensors(groups: Groups, name: str = "group") -> dict[str, Tensor]:
    """The groups as tensors with names such as "group/0/ids", for a file; without `graph`, and without the images before the processor."""
    assert not groups.graph, "an update from the rollout's prefill is still to come"
    tensors: dict[str, Tensor] = {}
    for number, group in enumerate(groups.members):
        tensors[f"{name}/{number}/ids"] = group.ids_P
        if group.types_P is not None:
            tensors[f"{name}/{number}/types"] = group.types_P
        for place, (patches, grid) in enumerate(group.images):
            tensors |= {f"{name}/{number}/image/{place}/patches": patches, f"{name}/{number}/image/{place}/grid": grid}
        for place, features in enumerate(group.features or ()):
            layers = (features.pooled_TE, *features.deepstack_TE)
            tensors |= {f"{name}/{number}/image/{place}/features/{layer}": tensor for layer, tensor in enumerate(layers)}
    return tensors


def read_groups(
    file: TensorFile, sizes: RolloutSizes, num_generations: int, pad_id: int, device: torch.device, name: str = "group"
) -> Groups:
    """The groups that `group_tensors` wrote. Raises DataError for a file that holds none of these sizes."""
    layers = 0  # of the features of each image
    while file.has(f"{name}/0/image/0/features/{layers}"):
        layers += 1
    members = [_read_group(file, f"{name}/{number}", layers, sizes, device) for number in range(sizes.num_groups)]
    return Groups(members=members, num_generations=num_generations, pad_id=pad_id)


def _read_group(file: TensorFile, prefix: str, layers: int, sizes: RolloutSizes, device: torch.device) -> Group:
    if len(shape := file.shape(f"{prefix}/ids")) != 1 or not 0 < shape[0] <= sizes.max_prompt:
        file.refuse(f"holds {prefix}/ids of the shape {list(shape)}, and a prompt has 1 to {sizes.max_prompt} tokens")
    ids_P = file.take(f"{prefix}/ids", shape, is_float=False, below=sizes.vocabulary)
    types_P = file.take(f"{prefix}/types", shape, is_float=False).to(device) if file.has(f"{prefix}/types") else None
    grids: list[Tensor] = []
    while file.has(own := f"{prefix}/image/{len(grids)}/grid"):
        grids.append(file.take(own, (3,), is_float=False, below=sizes.max_patches))
    require_room(file, f"{prefix}/ids", ids_P, grids, sizes)
    images, features = [], []
    for place, grid in enumerate(grids):
        patches, own = int(grid.prod()), f"{prefix}/image/{place}"
        images.append((file.take(f"{own}/patches", (patches, sizes.patch_values), is_float=True).to(device), grid.to(device)))
        shape = (patches // sizes.patches_per_token, sizes.hidden)
        computed = [file.take(f"{own}/features/{layer}", shape, is_float=True).to(device) for layer in range(layers)]
        if computed:
            features.append(ImageFeatures(pooled_TE=computed[0], deepstack_TE=tuple(computed[1:])))
    return Group(ids_P=ids_P.to(device), types_P=types_P, images=tuple(images), features=tuple(features) or None)


def join(parts: Sequence[Scores]) -> Scores:
    """Concatenate the scores of parts."""
    entropies = [entropy for _, entropy in parts if entropy is not None]
    return torch.cat([logps for logps, _ in parts]), torch.cat(entropies) if entropies else None
