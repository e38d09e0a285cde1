"""The KV cache of a running batch: a slot for each completion, which holds its prompt and its tokens so far.

A completion joins by a copy of its prompt's keys and values and leaves by the last one moving into its slot, so that the slots in use are
always the first A and a step reads them without gathering.

Legend: A completions, S slots, K key-value heads, P tokens of a prompt, L tokens that a slot has room for, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from osler.training.shared_prefix.attention import PromptCache, attention_dtype
from osler.training.shared_prefix.decoding_cache import Buffers, stack_queries, unstack_queries

LENGTH_STEP: Final = 64
"""Slots grow by so many tokens at least."""
KEPT_BYTES: Final = 64 << 20
"""An empty cache of at most this size keeps its memory for the next request."""


class SlotCache:
    """Keys and values [S, K, L, D] of each layer. It grows as the completions need it and gives its memory back when it is empty.

    `max_tokens` limits S L, up to LENGTH_STEP S; the caller adds no completions that would need more.
    """

    def __init__(self, max_rows: int, max_tokens: int) -> None:
        self.max_rows, self.max_tokens = max_rows, max_tokens
        self.lengths: list[int] = []  # tokens in each slot in use
        self.buffers: Buffers = []

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of keys and values."""
        return self.buffers[0][0].dtype

    @property
    def num_bytes(self) -> int:
        """The memory in use."""
        return sum(side.nbytes for layer in self.buffers for side in layer)

    def add(self, cache: PromptCache, counts: Sequence[int]) -> None:
        """Append slots: for each prompt of `cache`, padded on the left, as many as its completions."""
        width = cache.layers[0][0].shape[2]
        sizes = [width] * len(cache) if cache.mask_BP is None else cache.mask_BP.sum(dim=1).tolist()
        self._reserve(len(self) + sum(counts), max(self.lengths + sizes), cache.layers)
        lengths = list(self.lengths)
        for prompt, (size, count) in enumerate(zip(sizes, counts, strict=True)):
            rows = slice(len(lengths), len(lengths) + count)
            for buffers, layer in zip(self.buffers, cache.layers, strict=True):
                for buffer, new in zip(buffers, layer, strict=True):
                    buffer[rows, :, :size] = new[prompt, :, width - size :]
            lengths += [size] * count
        self.lengths = lengths

    def begin(self) -> tuple[tuple[Tensor, slice, Tensor], Tensor]:
        """Where the keys of the next token go, and the mask [A, 1, 1, L] of its queries. The token counts from now on."""
        width = max(self.lengths) + 1
        self._reserve(len(self), width, self.buffers)
        device = self.buffers[0][0].device
        lengths_A = torch.tensor(self.lengths, device=device)
        later_AL = torch.arange(width, device=device) > lengths_A[:, None]
        mask_AL = torch.zeros(later_AL.shape, dtype=self.dtype, device=device).masked_fill_(later_AL, float("-inf"))
        places = torch.arange(len(self), device=device), slice(None), lengths_A
        self.lengths = [length + 1 for length in self.lengths]
        return places, mask_AL[:, None, None]

    def attend(self, layer: int, begun: Any, query_AHD: Tensor, key_AKD: Tensor, value_AKD: Tensor, scaling: float) -> Tensor:
        """See `decoding_cache.StepCache`."""
        places, mask = begun
        keys, values = self.buffers[layer]
        keys[places], values[places] = key_AKD, value_AKD.to(self.dtype)
        num_rows, num_kv = key_AKD.shape[:2]
        seen = slice(num_rows), slice(None), slice(mask.shape[-1])
        query_AKRD = stack_queries(query_AHD, num_rows, num_kv)
        out_AKRD = scaled_dot_product_attention(query_AKRD, keys[seen], values[seen], attn_mask=mask, scale=scaling)
        return unstack_queries(out_AKRD, 1)

    def remove(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        """Free slots. Returns the moves (from, to) by which the others close the gaps, in order; the last slots are then unused."""
        gone = set(rows)
        moves = []
        last = len(self) - 1
        for hole in sorted(gone):
            while last in gone:
                last -= 1
            if last < hole:
                break
            moves.append((last, hole))
            last -= 1
        for source, hole in moves:
            size = self.lengths[hole] = self.lengths[source]
            for buffer in (side for layer in self.buffers for side in layer):
                buffer[hole, :, :size] = buffer[source, :, :size]
        del self.lengths[len(self) - len(gone) :]
        if not self.lengths and self.num_bytes > KEPT_BYTES:
            self.buffers = []
        return moves

    def clear(self) -> None:
        """Free all slots and their memory."""
        self.lengths, self.buffers = [], []

    def _reserve(self, num_rows: int, width: int, like: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Have room for so many slots of this width, for tensors `like` these."""
        first = self.buffers[0][0] if self.buffers else None
        slots, length = (0, 0) if first is None else (first.shape[0], first.shape[2])
        if num_rows <= slots and width <= length:
            return
        if num_rows > slots:
            slots = min(self.max_rows, max(num_rows, 2 * slots))
        if width > length:
            length = width + -width % LENGTH_STEP
        if slots * length > self.max_tokens:  # room that others needed before
            slots, length = num_rows, width + -width % LENGTH_STEP
        buffers = []
        for number, (new, _) in enumerate(like):
            shape = (slots, new.shape[1], length, new.shape[3])
            # What a mask hides must be finite.
            sides = tuple(torch.zeros(shape, dtype=attention_dtype(new.device, new.dtype), device=new.device) for _ in range(2))
            if first is not None:
                for side, old in zip(sides, self.buffers[number], strict=True):
                    kept = min(length, old.shape[2])
                    side[: len(self), :, :kept] = old[: len(self), :, :kept]
            buffers.append((sides[0], sides[1]))
        self.buffers = buffers
