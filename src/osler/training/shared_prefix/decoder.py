"""One decoding step of a Qwen-VL text decoder for all completions of a batch: the model's weights without the rest of its forward pass.

A step computes one token for a few rows. That is so little arithmetic that the code around it decides its time: hooks, mask preparation, a
growing KV cache. Here the KV cache of a prompt is stored once per group, completions write into buffers that are allocated once, and
everything that is constant over the steps is computed before the first one.

A `static` step has no shape or value that depends on the number of tokens so far, so CUDA can record it as a graph (`cuda_graph`).

Legend: B groups, G generations of a group, A = B G completions that are computed, P prompt, T maximal number of tokens of a completion,
K key-value heads, R query heads per key-value head, D head width, E hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from osler.training.shared_prefix import cpu_kernels
from osler.training.shared_prefix.attention import PromptCache

PACK_FROM: Final = 6
"""Weights are packed (`cpu_kernels`) for completions of at least this many tokens; below, packing takes longer than it saves."""


class _Block:
    """A layer of the text decoder without hooks and module look-ups."""

    def __init__(self, layer: Any) -> None:
        self.attention, self.network = layer.self_attn, layer.mlp
        self.attention_norm: Tensor | None = layer.input_layernorm.weight
        self.mlp_norm: Tensor | None = layer.post_attention_layernorm.weight
        # Qwen3-VL normalises the queries and keys of each head.
        norms = [getattr(self.attention, name, None) for name in ("q_norm", "k_norm")]
        self.head_norms = [norm.weight for norm in norms if norm is not None]
        self.scaling: float = self.attention.scaling

    def qkv(self, rows_AE: Tensor) -> Tensor:
        """Queries, keys and values, concatenated in the last dimension."""
        return torch.cat([project(rows_AE) for project in (self.attention.q_proj, self.attention.k_proj, self.attention.v_proj)], dim=-1)

    def out_proj(self, rows: Tensor, residual_AE: Tensor) -> Tensor:
        """The output projection of the attention, added to the residual stream."""
        projected: Tensor = self.attention.o_proj(rows)
        return residual_AE + projected

    def mlp(self, rows_AE: Tensor, residual_AE: Tensor) -> Tensor:
        """The feed-forward network, added to the residual stream."""
        network = self.network
        projected: Tensor = network.down_proj(network.act_fn(network.gate_proj(rows_AE)) * network.up_proj(rows_AE))
        return residual_AE + projected


class _PackedBlock(_Block):
    """The same with packed copies of the current weights; the weights of the norms are multiplied into them."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        attention, network = self.attention, self.network
        self.qkv_weights = cpu_kernels.pack(attention.q_proj, attention.k_proj, attention.v_proj, norm=self.attention_norm)
        self.gate, self.up = (cpu_kernels.pack(module, norm=self.mlp_norm) for module in (network.gate_proj, network.up_proj))
        self.out_weights, self.down = cpu_kernels.pack(attention.o_proj), cpu_kernels.pack(network.down_proj)
        self.attention_norm = self.mlp_norm = None

    def qkv(self, rows_AE: Tensor) -> Tensor:
        return cpu_kernels.linear(rows_AE, self.qkv_weights)

    def out_proj(self, rows: Tensor, residual_AE: Tensor) -> Tensor:
        return cpu_kernels.linear_onto(rows, residual_AE, self.out_weights, "add")

    def mlp(self, rows_AE: Tensor, residual_AE: Tensor) -> Tensor:
        gated = cpu_kernels.linear_onto(rows_AE, cpu_kernels.linear(rows_AE, self.gate, "swish"), self.up, "mul")
        return cpu_kernels.linear_onto(gated, residual_AE, self.down, "add")


class Decoder:
    """Decodes `num_generations` completions of each cached prompt, group after group, one token of each completion in a step.

    The keys of a group are in one buffer: those of its prompt, then G keys for each step. All queries of a group are multiplied with all
    keys of the buffer, and a mask hides the keys of the other completions.
    """

    def __init__(self, model: Any, caches: Sequence[PromptCache], num_generations: int, max_length: int, *, static: bool = False) -> None:
        text = model.model.language_model
        self.text, self.static = text, static
        self.epsilon: float = text.config.rms_norm_eps
        self.floor = torch.tensor(self.epsilon)
        self.num_generations, self.max_length = num_generations, max_length
        next_A = torch.cat([cache.next_B for cache in caches]).repeat_interleave(num_generations)
        positions_AT = next_A[:, None] + torch.arange(max_length, device=next_A.device)
        cos_ATD, sin_ATD = text.rotary_emb(caches[0].last_BE, positions_AT.expand(3, -1, -1))
        # With the sign of the rotated half in the sine, a step needs no negation and no copy.
        half = sin_ATD.shape[-1] // 2
        self.cos_TA1D = cos_ATD.transpose(0, 1)[:, :, None].contiguous()
        self.sin_TA1D = torch.cat([-sin_ATD[..., :half], sin_ATD[..., half:]], dim=-1).transpose(0, 1)[:, :, None].contiguous()
        packs = max_length >= PACK_FROM and cpu_kernels.fits(model)
        self.blocks = [_PackedBlock(layer) if packs else _Block(layer) for layer in text.layers]
        self.head: Callable[[Tensor], Tensor] = model.lm_head
        if packs:
            self.head = partial(cpu_kernels.linear, weights=cpu_kernels.pack(model.lm_head))
        self.width, self.keys_values, visible_BP = merge_caches(caches, num_generations * max_length)
        self.mask = self._mask(visible_BP)

    @property
    def num_groups(self) -> int:
        """The number of groups that have unfinished completions."""
        return len(self.keys_values[0][0])

    def _mask(self, visible_BP: Tensor) -> Tensor:
        """The additive mask [B or 1, 1, G R, P + T G] of a group's queries, R for each completion, over the keys of its buffer."""
        attention = self.text.layers[0].self_attn
        repeats = attention.num_key_value_groups
        same_GG = torch.eye(self.num_generations, dtype=torch.bool, device=visible_BP.device)
        own = same_GG.repeat_interleave(repeats, dim=0).repeat(1, self.max_length)
        visible = visible_BP[:1] if bool((visible_BP == visible_BP[:1]).all()) else visible_BP
        allowed = torch.cat([visible[:, None].expand(-1, len(own), -1), own.expand(len(visible), -1, -1)], dim=2)[:, None]
        dtype = self.keys_values[0][0].dtype
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, float("-inf"))

    def keep(self, groups: Tensor, rows_BG: Tensor, step: int) -> None:
        """Keep the given `groups` and of each the completions `rows_BG`; drop all others. `step` tokens have been written."""
        old, new = self.num_generations, rows_BG.shape[1]
        tokens = torch.arange(self.max_length, device=rows_BG.device)
        prompt = torch.arange(self.width, device=rows_BG.device)
        slots_BL = torch.cat(
            [prompt.expand(len(groups), -1), (self.width + tokens[:step, None] * old + rows_BG[:, None]).flatten(1)], dim=1
        )
        length = self.width + self.max_length * new
        for layer, buffers in enumerate(self.keys_values):
            kept = []
            for buffer in buffers:
                index = slots_BL[:, None, :, None].expand(-1, buffer.shape[1], -1, buffer.shape[3])
                smaller = buffer.new_zeros(len(groups), buffer.shape[1], length, buffer.shape[3])
                smaller[:, :, : slots_BL.shape[1]] = buffer[groups].gather(2, index)
                kept.append(smaller)
            self.keys_values[layer] = kept[0], kept[1]
        rows = (groups[:, None] * old + rows_BG).flatten()
        self.cos_TA1D, self.sin_TA1D = self.cos_TA1D[:, rows], self.sin_TA1D[:, rows]
        visible_BP = self.mask[:, 0, 0, : self.width] == 0
        self.num_generations = new
        self.mask = self._mask(visible_BP[groups] if len(visible_BP) > 1 else visible_BP)

    def step(self, tokens_A: Tensor, place: Tensor | int) -> Tensor:
        """Logits [A, V] of the next token after `tokens_A`, which have the index `place` in their completions; a tensor if static."""
        times = self.num_generations
        rotation = self.cos_TA1D[place], self.sin_TA1D[place]
        slots: Tensor | slice
        if isinstance(place, Tensor):
            rotation = rotation[0][0], rotation[1][0]
            slots = place * times + self.width + torch.arange(times, device=place.device)
            # Hide the slots of later steps.
            later_L = torch.arange(self.mask.shape[-1], device=place.device) > slots[-1]
            mask = self.mask.masked_fill(later_L, float("-inf"))
        else:
            end = self.width + (place + 1) * times
            slots, mask = slice(end - times, end), self.mask[..., :end]
        hidden_AE = self.text.embed_tokens(tokens_A)
        for number, block in enumerate(self.blocks):
            attended = self._attend(number, block, self._normalise(hidden_AE, block.attention_norm), rotation, slots, mask)
            hidden_AE = block.out_proj(attended, hidden_AE)
            hidden_AE = block.mlp(self._normalise(hidden_AE, block.mlp_norm), hidden_AE)
        return self.head(self._normalise(hidden_AE, self.text.norm.weight))

    def _normalise(self, rows: Tensor, weight: Tensor | None) -> Tensor:
        """RMS norm over the last dimension. PyTorch's own is one kernel on a GPU but nine on a CPU."""
        if rows.device.type != "cpu" or rows.dtype != torch.float32:
            return rms_norm(rows, rows.shape[-1:], weight, self.epsilon)
        norm = vector_norm(rows, dim=-1, keepdim=True)
        normed = rows * torch.addcmul(self.floor, norm, norm, value=1 / rows.shape[-1]).rsqrt_()
        return normed if weight is None else normed.mul_(weight)

    def _attend(
        self, layer: int, block: _Block, hidden_AE: Tensor, rotation: tuple[Tensor, Tensor], slots: Tensor | slice, mask: Tensor
    ) -> Tensor:
        """Attention [A, H D] of one token of each completion over its prompt and its completion so far; stores its keys and values."""
        keys_BKLD, values_BKLD = self.keys_values[layer]
        num_groups, num_kv, _, width = keys_BKLD.shape
        times = self.num_generations
        heads_AHD = block.qkv(hidden_AE).view(len(hidden_AE), -1, width)
        value_AKD = heads_AHD[:, -num_kv:]
        rotated_AHD = heads_AHD[:, :-num_kv]  # queries, then keys; rotated below
        if block.head_norms:
            parts = (rotated_AHD[:, :-num_kv], rotated_AHD[:, -num_kv:])
            rotated_AHD = torch.cat([self._normalise(part, norm) for part, norm in zip(parts, block.head_norms, strict=True)], dim=1)
        rotated_AHD = rotate(rotated_AHD, *rotation).to(keys_BKLD.dtype)
        key_BKGD = rotated_AHD[:, -num_kv:].view(num_groups, times, num_kv, width).transpose(1, 2)
        value_BKGD = value_AKD.view(num_groups, times, num_kv, width).transpose(1, 2)
        if isinstance(slots, slice):
            keys_BKLD[:, :, slots], values_BKLD[:, :, slots] = key_BKGD, value_BKGD
            keys_BKLD, values_BKLD = keys_BKLD[:, :, : slots.stop], values_BKLD[:, :, : slots.stop]
        else:
            keys_BKLD.index_copy_(2, slots, key_BKGD)
            values_BKLD.index_copy_(2, slots, value_BKGD.to(values_BKLD.dtype))
        query_BKSD = rotated_AHD[:, :-num_kv].reshape(num_groups, times, num_kv, -1, width).transpose(1, 2).flatten(2, 3)
        out_BKSD = scaled_dot_product_attention(query_BKSD, keys_BKLD, values_BKLD, attn_mask=mask, scale=block.scaling)
        out_AHD = out_BKSD.view(num_groups, num_kv, times, -1, width).transpose(1, 2)
        return out_AHD.reshape(len(hidden_AE), -1)


def rotate(heads_AHD: Tensor, cos_A1D: Tensor, signed_sin_A1D: Tensor) -> Tensor:
    """Rotary position embedding; the sine already has the sign of the rotated half."""
    return torch.addcmul(heads_AHD * cos_A1D, heads_AHD.roll(heads_AHD.shape[-1] // 2, dims=-1), signed_sin_A1D)


def merge_caches(caches: Sequence[PromptCache], room: int) -> tuple[int, list[tuple[Tensor, Tensor]], Tensor]:
    """The largest prompt width P, buffers of keys and values [B, K, P + room, D] for each layer, and the mask [B, P] of prompt tokens.

    Narrower prompts are padded on the left. The buffers have no autograd graph. Under autocast they have its precision, in which attention
    computes: it would cast a buffer of another precision in every step.
    """
    widest = max(cache.layers[0][0].shape[2] for cache in caches)
    num_groups = sum(map(len, caches))
    first = caches[0].layers[0][0]
    visible_BP = torch.zeros(num_groups, widest, dtype=torch.bool, device=first.device)
    shape = (num_groups, first.shape[1], widest + room, first.shape[3])
    kind = first.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else first.dtype
    buffers = [(first.new_zeros(shape, dtype=dtype), first.new_zeros(shape, dtype=dtype)) for _ in caches[0].layers]
    start = 0
    for cache in caches:
        rows = slice(start, start + len(cache))
        place = slice(widest - cache.layers[0][0].shape[2], widest)
        visible_BP[rows, place] = True if cache.mask_BP is None else cache.mask_BP
        for buffer, layer in zip(buffers, cache.layers, strict=True):
            for side in (0, 1):
                buffer[side][rows, :, place] = layer[side].detach()
        start = rows.stop
    return widest, buffers, visible_BP
