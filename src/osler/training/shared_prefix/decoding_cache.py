"""The KV cache of a rollout, in two layouts with the same result.

- `JoinedCache`, for a CPU: the keys of a group are in one buffer, those of its prompt, then G keys for each step. All queries of a group
  are multiplied with all keys of the buffer, and a mask hides the keys of the other completions. On a CPU the few products too many cost
  less than a second call.
- `SplitCache`, for a GPU: each completion has a buffer of its own beside the prompt's. The joined layout would give a GPU one small problem
  for each group and key-value head; here the queries of a group meet the prompt in one product, those of a completion meet its own keys in
  another, and the two softmaxes are joined by their log-sum-exp.

Legend: see `decoder`; S = G R queries of a group.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from osler.training.shared_prefix.attention import PromptCache, attention_dtype

Buffers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer."""

WIDTH_MULTIPLE: Final = 64
"""Static caches have prompts of such widths, so that prompts of similar length fit the same buffers."""


class StepCache(Protocol):
    """What one decoding step needs of a KV cache."""

    @property
    def dtype(self) -> torch.dtype:
        """The precision of keys and values."""

    def attend(self, layer: int, begun: Any, query_AHD: Tensor, key_AKD: Tensor, value_AKD: Tensor, scaling: float) -> Tensor:
        """Attention [A, H D] of one token of each completion over all that comes before it; stores its key and value.

        `begun` is what all layers of the step share.
        """


class DecodingCache(ABC):
    """What a decoder needs of a layout. `buffers` hold at least the keys and values of the prompts, a row for each group.

    A static cache never drops a completion and can be filled with other prompts (`refill`) without a change of its memory.
    """

    def __init__(self, num_generations: int, buffers: Buffers) -> None:
        self.num_generations, self.buffers = num_generations, buffers

    @property
    def num_groups(self) -> int:
        """The number of groups that have unfinished completions."""
        return len(self.buffers[0][0])

    @property
    def dtype(self) -> torch.dtype:
        """The precision of keys and values."""
        return self.buffers[0][0].dtype

    @abstractmethod
    def begin(self, place: Tensor | int) -> Any:
        """What all layers of a step share; `place` is the index of its token in each completion, a tensor if steps have one shape."""

    @abstractmethod
    def attend(self, layer: int, begun: Any, query_AHD: Tensor, key_AKD: Tensor, value_AKD: Tensor, scaling: float) -> Tensor:
        """Attention [A, H D] of one token of each completion over its prompt and its completion so far; stores its key and value."""

    @abstractmethod
    def keep(self, groups: Tensor, rows_BG: Tensor, step: int) -> None:
        """Keep the given `groups` and of each the completions `rows_BG`; drop all others. `step` tokens have been written."""

    @abstractmethod
    def refill(self, caches: Sequence[PromptCache]) -> None:
        """Write other prompts, equally many and of the same padded width, into the memory of a static cache; completions start again."""

    @property
    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """All memory of the cache."""


class JoinedCache(DecodingCache):
    """One buffer [B, K, P + T G, D] for each layer, side (keys, values) and group."""

    def __init__(self, caches: Sequence[PromptCache], num_generations: int, max_length: int, repeats: int, *, static: bool = False) -> None:
        self.max_length, self.repeats, self.static = max_length, repeats, static
        self.width, buffers, visible_BP = merge_caches(caches, num_generations * max_length, static=static)
        super().__init__(num_generations, buffers)
        self.mask = self._mask(visible_BP)

    def _mask(self, visible_BP: Tensor) -> Tensor:
        """The additive mask [B or 1, 1, G R, P + T G] of a group's queries, R for each completion, over the keys of its buffer.

        Prompts without padding share one row, except in a static cache, which may be refilled with padded prompts.
        """
        same_GG = torch.eye(self.num_generations, dtype=torch.bool, device=visible_BP.device)
        own = same_GG.repeat_interleave(self.repeats, dim=0).repeat(1, self.max_length)
        is_shared = not self.static and bool((visible_BP == visible_BP[:1]).all())
        visible = visible_BP[:1] if is_shared else visible_BP
        allowed = torch.cat([visible[:, None].expand(-1, len(own), -1), own.expand(len(visible), -1, -1)], dim=2)[:, None]
        return torch.zeros(allowed.shape, dtype=self.dtype, device=allowed.device).masked_fill(~allowed, float("-inf"))

    def begin(self, place: Tensor | int) -> tuple[Tensor | slice, Tensor]:
        """The slots of the step's keys in a buffer, and the mask of its queries."""
        times = self.num_generations
        if not isinstance(place, Tensor):
            end = self.width + (place + 1) * times
            return slice(end - times, end), self.mask[..., :end]
        slots = place * times + self.width + torch.arange(times, device=place.device)
        later_L = torch.arange(self.mask.shape[-1], device=place.device) > slots[-1]  # the slots of later steps
        return slots, self.mask.masked_fill(later_L, float("-inf"))

    def attend(
        self, layer: int, begun: tuple[Tensor | slice, Tensor], query_AHD: Tensor, key_AKD: Tensor, value_AKD: Tensor, scaling: float
    ) -> Tensor:
        """See `DecodingCache`."""
        slots, mask = begun
        keys_BKLD, values_BKLD = self.buffers[layer]
        num_groups, num_kv, _, width = keys_BKLD.shape
        times = self.num_generations
        key_BKGD = key_AKD.view(num_groups, times, num_kv, width).transpose(1, 2)
        value_BKGD = value_AKD.view(num_groups, times, num_kv, width).transpose(1, 2)
        if isinstance(slots, slice):
            keys_BKLD[:, :, slots], values_BKLD[:, :, slots] = key_BKGD, value_BKGD
            keys_BKLD, values_BKLD = keys_BKLD[:, :, : slots.stop], values_BKLD[:, :, : slots.stop]
        else:
            keys_BKLD.index_copy_(2, slots, key_BKGD)
            values_BKLD.index_copy_(2, slots, value_BKGD.to(values_BKLD.dtype))
        query_BKSD = stack_queries(query_AHD, num_groups, num_kv)
        out_BKSD = scaled_dot_product_attention(query_BKSD, keys_BKLD, values_BKLD, attn_mask=mask, scale=scaling)
        return unstack_queries(out_BKSD, times)

    def keep(self, groups: Tensor, rows_BG: Tensor, step: int) -> None:
        """See `DecodingCache`."""
        old, new = self.num_generations, rows_BG.shape[1]
        tokens = torch.arange(self.max_length, device=rows_BG.device)
        prompt = torch.arange(self.width, device=rows_BG.device)
        slots_BL = torch.cat(
            [prompt.expand(len(groups), -1), (self.width + tokens[:step, None] * old + rows_BG[:, None]).flatten(1)], dim=1
        )
        length = self.width + self.max_length * new
        for layer, sides in enumerate(self.buffers):
            kept = []
            for buffer in sides:
                index = slots_BL[:, None, :, None].expand(-1, buffer.shape[1], -1, buffer.shape[3])
                smaller = buffer.new_zeros(len(groups), buffer.shape[1], length, buffer.shape[3])
                smaller[:, :, : slots_BL.shape[1]] = buffer[groups].gather(2, index)
                kept.append(smaller)
            self.buffers[layer] = kept[0], kept[1]
        visible_BP = self.mask[:, 0, 0, : self.width] == 0
        self.num_generations = new
        self.mask = self._mask(visible_BP[groups] if len(visible_BP) > 1 else visible_BP)

    def refill(self, caches: Sequence[PromptCache]) -> None:
        """See `DecodingCache`."""
        self.mask.copy_(self._mask(fill_prompts(self.buffers, caches, self.width)))

    @property
    def tensors(self) -> list[Tensor]:
        """See `DecodingCache`."""
        return [self.mask, *chain.from_iterable(self.buffers)]


class SplitCache(DecodingCache):
    """For each layer and side the prompts' buffer [B, K, P, D] and the completions' own [A, K, T, D]."""

    def __init__(self, caches: Sequence[PromptCache], num_generations: int, max_length: int, *, static: bool = False) -> None:
        _, prompts, visible_BP = merge_caches(caches, 0, static=static)
        super().__init__(num_generations, prompts)
        self.hidden_BP = None if not static and bool(visible_BP.all()) else ~visible_BP
        num_groups, num_kv, _, width = self.buffers[0][0].shape
        shape = (num_groups * num_generations, num_kv, max_length, width)
        self.own: Buffers = [(keys.new_zeros(shape), values.new_zeros(shape)) for keys, values in self.buffers]

    def begin(self, place: Tensor | int) -> tuple[Tensor | int, Tensor | None]:
        """The slot of the step's keys, and which slots [T] are of later steps, if all steps have one shape."""
        if not isinstance(place, Tensor):
            return place, None
        return place, torch.arange(self.own[0][0].shape[2], device=place.device) > place

    def attend(
        self,
        layer: int,
        begun: tuple[Tensor | int, Tensor | None],
        query_AHD: Tensor,
        key_AKD: Tensor,
        value_AKD: Tensor,
        scaling: float,
    ) -> Tensor:
        """See `DecodingCache`."""
        place, later_T = begun
        keys_AKTD, values_AKTD = self.own[layer]
        for buffer, new in ((keys_AKTD, key_AKD), (values_AKTD, value_AKD)):
            if isinstance(place, Tensor):
                buffer.index_copy_(2, place, new.to(buffer.dtype)[:, :, None])
            else:
                buffer[:, :, place] = new
        if not isinstance(place, Tensor):
            keys_AKTD, values_AKTD = keys_AKTD[:, :, : place + 1], values_AKTD[:, :, : place + 1]
        num_rows, num_kv = key_AKD.shape[:2]
        prompt_keys_BKPD, prompt_values_BKPD = self.buffers[layer]
        query_BKSD = stack_queries(query_AHD, self.num_groups, num_kv)
        hidden = None if self.hidden_BP is None else self.hidden_BP[:, None, None]
        prompt_BKSD, prompt_BKS1 = _attend_with_sum(query_BKSD, prompt_keys_BKPD, prompt_values_BKPD, hidden, scaling)
        query_AKRD = query_AHD.view(num_rows, num_kv, -1, query_AHD.shape[-1])
        own_AKRD, own_AKR1 = _attend_with_sum(query_AKRD, keys_AKTD, values_AKTD, later_T, scaling)
        shape = (self.num_groups, num_kv, self.num_generations, -1)
        prompt_AKRD, prompt_AKR1 = (part.view(*shape, part.shape[-1]).transpose(1, 2).flatten(0, 1) for part in (prompt_BKSD, prompt_BKS1))
        share_AKR1 = torch.sigmoid(prompt_AKR1 - own_AKR1)  # of the prompt in the softmax over both
        return torch.lerp(own_AKRD, prompt_AKRD, share_AKR1).to(query_AHD.dtype).flatten(1)

    def keep(self, groups: Tensor, rows_BG: Tensor, step: int) -> None:  # noqa: ARG002
        """See `DecodingCache`."""
        rows = (groups[:, None] * self.num_generations + rows_BG).flatten()
        self.buffers = [(keys[groups], values[groups]) for keys, values in self.buffers]
        self.own = [(keys[rows], values[rows]) for keys, values in self.own]
        self.hidden_BP = None if self.hidden_BP is None else self.hidden_BP[groups]
        self.num_generations = rows_BG.shape[1]

    def refill(self, caches: Sequence[PromptCache]) -> None:
        """See `DecodingCache`."""
        assert self.hidden_BP is not None
        self.hidden_BP.copy_(~fill_prompts(self.buffers, caches, self.hidden_BP.shape[1]))
        for buffer in chain.from_iterable(self.own):
            buffer.zero_()  # what a mask hides must be finite

    @property
    def tensors(self) -> list[Tensor]:
        """See `DecodingCache`."""
        return [*([] if self.hidden_BP is None else [self.hidden_BP]), *chain.from_iterable(self.buffers), *chain.from_iterable(self.own)]


def _attend_with_sum(query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None, scaling: float) -> tuple[Tensor, Tensor]:
    """Attention of queries [.., S, D] over keys [.., L, D] in float32, and the log-sum-exp [.., S, 1] of their scores."""
    scores = query.float() @ keys.float().transpose(-1, -2) * scaling
    if hidden is not None:
        scores = scores.masked_fill(hidden, float("-inf"))
    total = scores.logsumexp(dim=-1, keepdim=True)
    return (scores - total).exp() @ values.float(), total


def stack_queries(query_AHD: Tensor, num_groups: int, num_kv: int) -> Tensor:
    """Queries [B, K, S, D]: those of a group's completions that meet the same keys, completion after completion."""
    num_rows, _, width = query_AHD.shape
    return query_AHD.reshape(num_groups, num_rows // num_groups, num_kv, -1, width).transpose(1, 2).flatten(2, 3)


def unstack_queries(out_BKSD: Tensor, num_generations: int) -> Tensor:
    """The inverse of `stack_queries`, with the heads of a completion in one dimension: [A, H D]."""
    num_groups, num_kv, _, width = out_BKSD.shape
    out_BGKRD = out_BKSD.view(num_groups, num_kv, num_generations, -1, width).transpose(1, 2)
    return out_BGKRD.reshape(num_groups * num_generations, -1)


def merged_width(caches: Sequence[PromptCache], *, static: bool) -> int:
    """P: the width of the widest prompt, for a static cache rounded up to a multiple of WIDTH_MULTIPLE."""
    widest = max(cache.layers[0][0].shape[2] for cache in caches)
    return widest + -widest % WIDTH_MULTIPLE if static else widest


def merge_caches(caches: Sequence[PromptCache], room: int, *, static: bool = False) -> tuple[int, Buffers, Tensor]:
    """The prompt width P, buffers of keys and values [B, K, P + room, D] for each layer, and the mask [B, P] of prompt tokens.

    The buffers have no autograd graph. Under autocast they have its precision, in which attention computes: it would cast a buffer of
    another precision in every step.
    """
    width = merged_width(caches, static=static)
    first = caches[0].layers[0][0]
    shape = (sum(map(len, caches)), first.shape[1], width + room, first.shape[3])
    dtype = attention_dtype(first.device, first.dtype)
    buffers = [(first.new_empty(shape, dtype=dtype), first.new_empty(shape, dtype=dtype)) for _ in caches[0].layers]
    return width, buffers, fill_prompts(buffers, caches, width)


def fill_prompts(buffers: Buffers, caches: Sequence[PromptCache], width: int) -> Tensor:
    """Write keys and values of prompts into the first `width` slots of `buffers`, and 0 into all others.

    Narrower prompts are padded on the left. Returns the mask [B, P] of prompt tokens.
    """
    for tensor in chain.from_iterable(buffers):
        tensor.zero_()
    visible_BP = torch.zeros(len(buffers[0][0]), width, dtype=torch.bool, device=buffers[0][0].device)
    start = 0
    for cache in caches:
        rows = slice(start, start + len(cache))
        place = slice(width - cache.layers[0][0].shape[2], width)
        visible_BP[rows, place] = True if cache.mask_BP is None else cache.mask_BP
        for buffer, layer in zip(buffers, cache.layers, strict=True):
            for side in (0, 1):
                buffer[side][rows, :, place] = layer[side].detach()
        start = rows.stop
    return visible_BP
