"""The groups of a rollout: every prompt as the processor made it, once, and what the rollout leaves for the update."""

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
from osler.training.shared_prefix.attention import Prefixes
from osler.training.shared_prefix.packed_row import Prompts

Scores = tuple[Tensor, Tensor | None]
"""Log-probabilities and, where they are known, entropies, [N, C] each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One prompt as the processor made it."""

    ids_P: Tensor
    types_P: Tensor | None = None
    images: tuple[tuple[Tensor, Tensor], ...] = ()  # patches [p, values] and grid [3] of each
    pictures: tuple[Image, ...] = ()  # the same as they came
    features: tuple[ImageFeatures, ...] | None = None  # of the images, under a frozen vision tower


@dataclass(slots=True, kw_only=True)
class Groups:
    """The distinct prompts of a rollout, `num_generations` completions each."""

    members: list[Group]
    num_generations: int
    pad_id: int
    # Prompts that the rollout read with their graph, and which groups they are: an update with unchanged weights goes on from there.
    graph: list[tuple[Prefixes, tuple[int, ...]]] = field(default_factory=list)

    def see(self, vision: FrozenVision, size: int = 0) -> None:
        """Let a frozen tower see all images, those of `size` groups at a time, or at once."""
        for chunk in self.chunks(size or len(self.members)):
            members = [self.members[group] for group in chunk]
            images = [image for group in members for image in group.images]
            found = iter(vision.encode(images, [picture for group in members for picture in group.pictures]))
            for place, group in zip(chunk, members, strict=True):
                self.members[place] = replace(group, features=tuple(next(found) for _ in group.images))

    def prompts(self, groups: Sequence[int], *, with_features: bool = True) -> Prompts:
        """The prompts of these groups, padded on the left; their images as features where there are any and they may be used."""
        members = [self.members[group] for group in groups]
        images = [image for group in members for image in group.images]
        types = [group.types_P for group in members if group.types_P is not None]
        prompts = Prompts(
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

    def replace(self, others: Groups | None, places: Mapping[int, int]) -> None:
        """Put groups of another rollout, whose prompts were read one by one, into places of these: `{place: group of the other}`."""
        assert others is not None
        self.graph = [(prefixes, own) for prefixes, own in self.graph if not set(own) & places.keys()]
        read = {group: prefixes for prefixes, own in others.graph for group in own}
        for place, group in places.items():
            self.members[place] = others.members[group]
            if group in read:
                self.graph.append((read[group], (place,)))

    def chunks(self, size: int) -> list[tuple[int, ...]]:
        """All groups in order, `size` at a time."""
        return [tuple(range(start, min(start + size, len(self.members)))) for start in range(0, len(self.members), size)]

    def repeat(self) -> dict[str, Tensor]:
        """The processor's output for `num_generations` copies of every prompt, but with the images of each prompt only once.

        TRL only hands images on, to methods that are replaced here; copies of large ones would cost more than the text.
        """
        prompts, times = self.prompts(range(len(self.members)), with_features=False), self.num_generations
        rows = {"input_ids": prompts.ids_BP, "attention_mask": prompts.mask_BP, "mm_token_type_ids": prompts.types_BP}
        return {
            **{name: tensor.repeat_interleave(times, dim=0) for name, tensor in rows.items() if tensor is not None},
            **prompts.image_inputs,
        }

    def images_of(self, groups: Sequence[int]) -> dict[str, Any]:
        """The images of these groups' prompts, as the model takes them; nothing where they have none."""
        images = [image for group in groups for image in self.members[group].images]
        if not images:
            return {}
        patches, grids = zip(*images, strict=True)
        return {"pixel_values": torch.cat(patches), "image_grid_thw": torch.stack(grids)}

    def full_images_of(self, groups: Sequence[int]) -> dict[str, Any]:
        """The same with the number of images of each group, as TRL takes them."""
        images = self.images_of(groups)
        return {**images, "num_images": [len(self.members[group].images) for group in groups]} if images else {}


class GroupProcessor:
    """A processor that gives TRL's second call for the same prompts the result of the first."""

    def __init__(self, processor: Any, trainer: Any) -> None:
        self._processor = processor
        self._trainer = trainer
        self._rendered: tuple[Any, str] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The processor's, or what it gave for the prompts of this rollout."""
        groups = self._trainer.groups
        return self._processor(*args, **kwargs) if groups is None else groups.repeat()

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """The processor's, which renders a prompt that comes G times in a row once."""
        if kwargs.get("tokenize", True) or self._trainer.groups is None:
            return self._processor.apply_chat_template(conversation, *args, **kwargs)
        if self._rendered is None or self._rendered[0] != conversation:
            self._rendered = conversation, self._processor.apply_chat_template(conversation, *args, **kwargs)
        return self._rendered[1]


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
    """Groups from prompts as the processor gives them without padding, and the images of each as they came."""
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
        own = Group(ids_P=torch.tensor(row, device=device), types_P=types_P, images=tuple(split[start:end]), pictures=pictures)
        members.append(own)
        start = end
    return Groups(members=members, num_generations=num_generations, pad_id=pad_id)


def gather_groups(batches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows in as many micro-batches of the same size, groups together, in the order in which they first appear."""
    rows = {name: value for name, value in batches[0].items() if value is not None and value.ndim}
    merged = {name: torch.cat([batch[name] for batch in batches]) for name in rows}
    members: dict[int, list[int]] = {}
    for row, group in enumerate(merged["group_id"].tolist()):
        members.setdefault(group, []).append(row)
    order = torch.tensor([row for own in members.values() for row in own])
    ordered = {name: value[order.to(value.device)] for name, value in merged.items()}
    split: list[dict[str, Any]] = split_tensor_dict({**batches[0], **ordered}, len(batches))
    return split


def join(parts: Sequence[Scores]) -> Scores:
    """Log-probabilities and entropies of all parts."""
    entropies = [entropy for _, entropy in parts if entropy is not None]
    return torch.cat([logps for logps, _ in parts]), torch.cat(entropies) if entropies else None
