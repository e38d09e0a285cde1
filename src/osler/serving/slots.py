"""The KV cache of a running batch: a slot for each completion, which holds its prompt and its tokens so far.

A prompt is computed into the slots of its completions (`PromptPass`). A completion leaves by the last one moving into its slot, so
that the slots in use are always the first A and a step reads them without gathering.

Legend: A completions, S slots, H query heads, K key-value heads, L tokens that a slot has room for, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import repeat_kv

from osler.training.shared_prefix.attention import attention_dtype
from osler.training.shared_prefix.decoding_cache import Buffers, stack_queries, unstack_queries

LENGTH_STEP: Final = 64
"""Slots grow by so many tokens at least."""
KEPT_BYTES: Final = 64 << 20
"""An empty cache of at most this size keeps its memory for the next request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The keys, and the values, of one token."""

    num_layers: int
    num_kv: int  # K
    width: int  # D
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, model: Any) -> Shape:
        """Those of a model, under autocast in its precision."""
        layers = model.model.language_model.layers
        return cls(
            num_layers=len(layers),
            num_kv=model.config.text_config.num_key_value_heads,
            width=layers[0].self_attn.head_dim,
            dtype=attention_dtype(model.device, model.dtype),
            device=model.device,
        )


class SlotCache:
    """Keys and values [S, K, L, D] of each layer. It grows as the completions need it and gives its memory back when it is empty.

    `max_tokens` limits S L, up to LENGTH_STEP S; the caller adds no completions that would need more.
    """

    def __init__(self, shape: Shape, max_rows: int, max_tokens: int) -> None:
        self.shape, self.max_rows, self.max_tokens = shape, max_rows, max_tokens
        self.lengths: list[int] = []  # tokens in each slot in use
        self.buffers: Buffers = []

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of keys and values."""
        return self.shape.dtype

    @property
    def num_bytes(self) -> int:
        """The memory in use."""
        return sum(side.nbytes for layer in self.buffers for side in layer)

    def add(self, sizes: Sequence[int]) -> None:
        """Append slots for these numbers of tokens, which `buffers` must be given."""
        self._reserve(len(self) + len(sizes), max([*self.lengths, *sizes]))
        self.lengths += sizes

    def cut(self, num_rows: int) -> None:
        """Take back the slots after the first `num_rows`."""
        del self.lengths[num_rows:]

    def begin(self) -> tuple[tuple[Tensor, slice, Tensor], Tensor]:
        """Where the keys of the next token go, and the mask [A, 1, 1, L] of its queries. The token counts from now on."""
        width = max(self.lengths) + 1
        self._reserve(len(self), width)
        device = self.shape.device
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

    def _reserve(self, num_rows: int, width: int) -> None:
        """Have room for so many slots of this width."""
        slots, length = (self.buffers[0][0].shape[0], self.buffers[0][0].shape[2]) if self.buffers else (0, 0)
        if num_rows <= slots and width <= length:
            return
        if num_rows > slots:
            slots = min(self.max_rows, max(num_rows, 2 * slots))
        if width > length:
            length = width + -width % LENGTH_STEP
        if slots * length > self.max_tokens:  # room that others needed before
            slots, length = num_rows, width + -width % LENGTH_STEP
        self.buffers = [
            (self._grown(slots, length, layer, 0), self._grown(slots, length, layer, 1)) for layer in range(self.shape.num_layers)
        ]

    def _grown(self, slots: int, length: int, layer: int, side: int) -> Tensor:
        """A larger buffer with the content of the present one. What a mask hides must be finite, hence zeros."""
        shape = self.shape
        grown = torch.zeros(slots, shape.num_kv, length, shape.width, dtype=shape.dtype, device=shape.device)
        if self.buffers:
            old = self.buffers[layer][side]
            kept = min(length, old.shape[2])
            grown[: len(self), :, :kept] = old[: len(self), :, :kept]
        return grown


class PromptPass:
    """Attention within prompts that are computed together, one behind the other in one row without padding; it fills their slots.

    Prompt b has `sizes[b]` tokens and `counts[b]` slots, in order, from the slot `start` on. Legend: B prompts, P tokens of the longest,
    T of all of them, N completions, M tokens in all slots.
    """

    def __init__(self, cache: SlotCache, start: int, sizes: Sequence[int], counts: Sequence[int]) -> None:
        self.cache = cache
        self.num_prompts, self.width = len(sizes), max(sizes)
        device = cache.shape.device
        sizes_B, counts_B = torch.tensor(sizes, device=device), torch.tensor(counts, device=device)
        ends_B = sizes_B.cumsum(dim=0)
        places_P = torch.arange(self.width, device=device)
        inside_BP = places_P < sizes_B[:, None]
        self.last_B = ends_B - 1
        self.is_padded = len(set(sizes)) > 1
        # A slot of the padded prompts for each token, and a token for each slot: any token where there is none.
        self.slot_T = inside_BP.flatten().nonzero()[:, 0]
        self.token_BP = torch.minimum(ends_B[:, None] - sizes_B[:, None] + places_P, ends_B[:, None] - 1).flatten()
        prompt_N = torch.arange(self.num_prompts, device=device).repeat_interleave(counts_B)
        row_M, self.place_M = inside_BP[prompt_N].nonzero(as_tuple=True)
        self.row_M = row_M + start
        self.token_M = None if max(counts) == 1 else self.token_BP.view_as(inside_BP)[prompt_N][row_M, self.place_M]

    @property
    def dtype(self) -> torch.dtype:
        """The precision of keys and values."""
        return self.cache.dtype

    def attend(self, layer: int, begun: Any, query_THD: Tensor, key_TKD: Tensor, value_TKD: Tensor, scaling: float) -> Tensor:  # noqa: ARG002
        """See `decoding_cache.StepCache`, for every token of the prompts."""
        value_TKD = value_TKD.to(self.dtype)
        places = self.row_M, slice(None), self.place_M
        for buffer, new in zip(self.cache.buffers[layer], (key_TKD, value_TKD), strict=True):
            buffer[places] = new if self.token_M is None else new[self.token_M]
        repeats = query_THD.shape[1] // key_TKD.shape[1]
        query, key, value = (self._spread(heads) for heads in (query_THD, key_TKD, value_TKD))
        # Prompts are padded on the right, so the causal mask alone hides the padding from their tokens.
        out_BHPD = scaled_dot_product_attention(query, repeat_kv(key, repeats), repeat_kv(value, repeats), is_causal=True, scale=scaling)
        out = out_BHPD.transpose(1, 2).flatten(2).flatten(0, 1)
        return out[self.slot_T] if self.is_padded else out

    def _spread(self, heads_THD: Tensor) -> Tensor:
        """[B, H, P, D]."""
        padded = heads_THD[self.token_BP] if self.is_padded else heads_THD
        return padded.view(self.num_prompts, self.width, *heads_THD.shape[1:]).transpose(1, 2)
