"""From a request to the input of a policy: images decoded and cut into patches, text tokenised, positions of all tokens.

Legend: P tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import torch
from PIL.Image import Image
from torch import Tensor

from osler.errors import DataError, EngineError
from osler.images.clip import count_frames, count_pairs
from osler.images.limits import size_fault
from osler.policies.image_tokens import check_study_images
from osler.policies.load import Policy
from osler.policies.patches import PatchReader
from osler.policies.vision_features import ImageFeatures, hash_picture
from osler.serving.generation import GenerationRequest
from osler.serving.image_cache import ImageCache

KEPT_POSITIONS: Final = 256
"""Prompts whose positions are kept, for others with images of the same size at the same places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImage:
    """An image of a prompt: its features where they are known, else its patches."""

    key: str  # hash of its content
    grid: tuple[int, int, int]  # patches: time, rows, columns
    patches: Tensor | None  # [patches, values of a patch]
    features: ImageFeatures | None

    @property
    def num_bytes(self) -> int:
        """The memory of the patches."""
        return 0 if self.patches is None else self.patches.nbytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedPrompt:
    """The input of the policy for one prompt."""

    ids_P: Tensor
    positions_3P: Tensor  # M-RoPE
    images: tuple[PreparedImage, ...]
    num_image_tokens: int

    def __len__(self) -> int:
        return len(self.ids_P)

    @property
    def num_bytes(self) -> int:
        """The memory of the images' patches."""
        return sum(image.num_bytes for image in self.images)


class Preparer:
    """Prepares requests for a policy, in any thread. `max_context` in tokens."""

    def __init__(self, policy: Policy, images: ImageCache, max_context: int) -> None:
        self.policy, self.images, self.max_context = policy, images, max_context
        self.merged: int = policy.processor.image_processor.merge_size**2  # patches of an image token
        self.patch_reader = PatchReader.of(policy.processor.image_processor)
        self.image_id: int = policy.model.config.image_token_id
        self._positions = lru_cache(maxsize=KEPT_POSITIONS)(self._find_positions)
        self.refused_ids = {policy.model.config.video_token_id}

    def prepare(self, request: GenerationRequest) -> PreparedPrompt:
        """The prompt of a request. Raises EngineError where it is too long or its messages name other images, DataError for a bad image."""
        processor = self.policy.processor
        check_study_images(request.images, processor, name="the request")
        text = processor.apply_chat_template(list(request.messages), add_generation_prompt=True, tokenize=False) + request.prefix
        ids: list[int] = processor.tokenizer(text)["input_ids"]
        if self.refused_ids & set(ids) or ids.count(self.image_id) != len(request.images):
            raise EngineError(
                f"the messages have {ids.count(self.image_id)} places for {len(request.images)} images: name each image once and leave "
                "out control tokens"
            )
        self._check_length(length := len(ids), request)
        read: list[PreparedImage] = []
        for source in request.images:  # one after the other: a decoded picture may take 192 MB
            picture = source.load()
            # By its size first: the patches of a large image take much more memory than the image.
            length += self._count_tokens(picture) - 1
            self._check_length(length, request)
            read.append(self._read(picture))
        images = tuple(read)
        counts = [times * rows * columns // self.merged for times, rows, columns in (image.grid for image in images)]
        ids_P = torch.tensor(self._spread(ids, counts))
        return PreparedPrompt(ids_P=ids_P, positions_3P=self._place(ids_P, images), images=images, num_image_tokens=sum(counts))

    def clip(self, request: GenerationRequest, prompt: PreparedPrompt) -> GenerationRequest:
        """The request with as many tokens as the context has room for after its prompt, where it asks for more and allows that."""
        room = self.max_context - len(prompt)
        return replace(request, max_tokens=room) if request.may_clip and request.max_tokens > room else request

    def _check_length(self, length: int, request: GenerationRequest) -> None:
        needed = 1 if request.may_clip else request.max_tokens
        if length + needed > self.max_context:
            raise EngineError(
                f"the prompt takes {length} tokens or more and the completion may take {needed}, together more than the "
                f"{self.max_context} of this server: shorten the question, show fewer or smaller images, or ask for fewer tokens"
            )

    def _count_tokens(self, picture: Image) -> int:
        frames = count_frames(picture)
        if (fault := size_fault(picture.width, picture.height // frames)) is not None:
            raise DataError(f"an image {fault}")
        patches = int(self.policy.processor.image_processor.get_number_of_image_patches(picture.height // frames, picture.width, {}))
        return count_pairs(frames) * patches // self.merged

    def _read(self, picture: Image) -> PreparedImage:
        key = hash_picture(picture)
        if (known := self.images.find(key)) is not None:
            return PreparedImage(key=key, grid=known.grid, patches=None, features=known.features)
        if self.patch_reader is not None and count_frames(picture) == 1:
            patches, grid = self.patch_reader.read(picture)
            return PreparedImage(key=key, grid=grid, patches=patches, features=None)
        found = self.policy.processor.image_processor([picture], return_tensors="pt")
        times, rows, columns = found["image_grid_thw"][0].tolist()
        return PreparedImage(key=key, grid=(times, rows, columns), patches=found["pixel_values"], features=None)

    def _spread(self, ids: Sequence[int], counts: Sequence[int]) -> list[int]:
        """Each image token as often as its image has tokens: what the processor does in the text."""
        left = iter(counts)
        whole: list[int] = []
        for token in ids:
            whole += [token] * next(left) if token == self.image_id else [token]
        return whole

    def _place(self, ids_P: Tensor, images: Sequence[PreparedImage]) -> Tensor:
        """The M-RoPE positions [3, P]. They depend on where the images stand and on their grids alone."""
        if not images:
            return torch.arange(len(ids_P)).expand(3, -1)
        is_image_P = ids_P == self.image_id
        positions_3P: Tensor = self._positions(is_image_P.numpy().tobytes(), tuple(image.grid for image in images))
        return positions_3P

    def _find_positions(self, is_image: bytes, grids: tuple[tuple[int, int, int], ...]) -> Tensor:
        types_1P = torch.frombuffer(bytearray(is_image), dtype=torch.bool).int()[None]  # as the processor's mm_token_type_ids
        model: Any = self.policy.model.model
        positions_31P: Tensor = model.get_rope_index(types_1P.long(), mm_token_type_ids=types_1P, image_grid_thw=torch.tensor(grids))[0]
        return positions_31P[:, 0]
