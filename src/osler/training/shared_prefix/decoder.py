"""One decoding step of a Qwen-VL text decoder for all completions of a batch: the model's weights, without the rest of its forward pass.

A step of one token for a few rows is so little arithmetic that what surrounds it decides its time: hooks, mask preparation, a growing
cache. Here the keys and values of a prompt are kept once per group and attended to in place, what completions have written goes into
buffers that are made once, and everything that does not change between steps is computed before the first one.

A step can also be `static`: nothing in it then depends on how many tokens were written, so that CUDA can record it once and play it again.

Legend: B groups, G generations of a group, A = B G completions that are computed, P prompt, T tokens that a completion may have,
K key-value heads, R query heads per key-value head, D head width, E hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn import Linear, SiLU
from torch.nn.functional import rms_norm, scaled_dot_product_attention
from transformers.activations import SiLUActivation

from osler.training.shared_prefix.attention import Prefixes

PACK_FROM: Final = 6
"""Tokens of a completion from which on a CPU earns back the copying of weights into the layout that is fastest for few rows."""


class _Block:
    """A layer of the text decoder without its hooks; what a step would look up in modules is looked up once."""

    def __init__(self, layer: Any) -> None:
        self.attention, self.mlp = layer.self_attn, layer.mlp
        self.enter_norm: Tensor | None = layer.input_layernorm.weight
        self.think_norm: Tensor | None = layer.post_attention_layernorm.weight
        # Qwen3-VL's heads have a norm of their own.
        norms = [getattr(self.attention, name, None) for name in ("q_norm", "k_norm")]
        self.head_norms = [norm.weight for norm in norms if norm is not None]
        self.scaling: float = self.attention.scaling

    def read(self, rows_AE: Tensor) -> Tensor:
        """Queries, keys and values, side by side."""
        return torch.cat([project(rows_AE) for project in (self.attention.q_proj, self.attention.k_proj, self.attention.v_proj)], dim=-1)

    def write(self, rows: Tensor, stream_AE: Tensor) -> Tensor:
        """The residual stream with what attention found."""
        found: Tensor = self.attention.o_proj(rows)
        return stream_AE + found

    def think(self, rows_AE: Tensor, stream_AE: Tensor) -> Tensor:
        """The residual stream with what the feed-forward network makes of it."""
        found: Tensor = self.mlp.down_proj(self.mlp.act_fn(self.mlp.gate_proj(rows_AE)) * self.mlp.up_proj(rows_AE))
        return stream_AE + found


class _PackedBlock(_Block):
    """The same in float32 on a CPU: oneDNN's kernels, on copies of the weights as they are now, in the layout it likes for few rows."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        attention, mlp = self.attention, self.mlp
        self.read_weights = _pack(attention.q_proj, attention.k_proj, attention.v_proj, norm=self.enter_norm)
        self.gate, self.up = (_pack(module, norm=self.think_norm) for module in (mlp.gate_proj, mlp.up_proj))
        self.write_weights, self.down = _pack(attention.o_proj), _pack(mlp.down_proj)
        self.enter_norm = self.think_norm = None

    def read(self, rows_AE: Tensor) -> Tensor:
        return _multiply(rows_AE, self.read_weights)

    def write(self, rows: Tensor, stream_AE: Tensor) -> Tensor:
        return _multiply_onto(rows, stream_AE, self.write_weights, "add")

    def think(self, rows_AE: Tensor, stream_AE: Tensor) -> Tensor:
        gated = _multiply_onto(rows_AE, _multiply(rows_AE, self.gate, "swish"), self.up, "mul")
        return _multiply_onto(gated, stream_AE, self.down, "add")


Packed = tuple[Tensor, Tensor | None]
"""Weights in oneDNN's layout, and a bias."""


def _pack(*modules: Linear, norm: Tensor | None = None) -> Packed:
    """The weights of some linear modules that have the same input, so that one product gives their outputs side by side.

    `norm` holds the factors of a normalisation that comes before, which need no product of their own then.
    """
    weight = torch.cat([module.weight for module in modules]) if len(modules) > 1 else modules[0].weight
    bias = torch.cat([module.bias for module in modules]) if modules[0].bias is not None else None
    return torch.ops.mkldnn._reorder_linear_weight(weight if norm is None else weight * norm), bias


def _multiply(rows: Tensor, weights: Packed, function: str = "none") -> Tensor:
    """The product, through an activation function."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(rows, *weights, function, [], "")
    return product


def _multiply_onto(rows: Tensor, other: Tensor, weights: Packed, operation: str) -> Tensor:
    """The product, added to other values or multiplied with them."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise.binary(rows, other, *weights, operation)
    return product


def _packs(model: Any) -> bool:
    """Whether packed weights compute what the model does: adapters have modules of their own."""
    layers = model.model.language_model.layers
    has_kernels = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_kernels or torch.is_autocast_enabled("cpu") or not isinstance(layers[0].mlp.act_fn, SiLU | SiLUActivation):
        return False
    attention, mlp = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
    modules = [getattr(layer.self_attn, name) for layer in layers for name in attention]
    modules += [getattr(layer.mlp, name) for layer in layers for name in mlp] + [model.lm_head]
    return all(type(module) is Linear and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32 for module in modules)


class Decoder:
    """Decodes the completions of some prefixes, `num_generations` each, group after group, a token a step.

    A group's keys lie in one buffer: those of its prompt, then those of every step, G behind each other. All queries of a group meet all
    keys of the buffer at once, and a mask leaves each row those of its own completion.
    """

    def __init__(self, model: Any, chunks: Sequence[Prefixes], num_generations: int, max_length: int, *, static: bool = False) -> None:
        text = model.model.language_model
        self.text, self.static = text, static
        self.epsilon: float = text.config.rms_norm_eps
        self.floor = torch.tensor(self.epsilon)
        self.num_generations, self.max_length = num_generations, max_length
        next_A = torch.cat([chunk.next_B for chunk in chunks]).repeat_interleave(num_generations)
        positions_AT = next_A[:, None] + torch.arange(max_length, device=next_A.device)
        cos_ATD, sin_ATD = text.rotary_emb(chunks[0].last_BE, positions_AT.expand(3, -1, -1))
        # Rotating halves with their sign in the sine saves a negation and a copy a step.
        half = sin_ATD.shape[-1] // 2
        self.cos_TA1D = cos_ATD.transpose(0, 1)[:, :, None].contiguous()
        self.sin_TA1D = torch.cat([-sin_ATD[..., :half], sin_ATD[..., half:]], dim=-1).transpose(0, 1)[:, :, None].contiguous()
        packs = max_length >= PACK_FROM and _packs(model)
        self.blocks = [_PackedBlock(layer) if packs else _Block(layer) for layer in text.layers]
        self.head: Callable[[Tensor], Tensor] = partial(_multiply, weights=_pack(model.lm_head)) if packs else model.lm_head
        self.width, self.keys_values, seen_BP = merge(chunks, num_generations * max_length)
        self.mask = self._mask(seen_BP)

    @property
    def num_groups(self) -> int:
        """Groups with completions that are still computed."""
        return len(self.keys_values[0][0])

    def _mask(self, seen_BP: Tensor) -> Tensor:
        """What is added where a group's queries, R for each row, meet its keys, [B or 1, 1, G R, P + T G]."""
        attention = self.text.layers[0].self_attn
        repeats = attention.num_key_value_groups
        same_GG = torch.eye(self.num_generations, dtype=torch.bool, device=seen_BP.device)
        own = same_GG.repeat_interleave(repeats, dim=0).repeat(1, self.max_length)
        seen = seen_BP[:1] if bool((seen_BP == seen_BP[:1]).all()) else seen_BP
        allowed = torch.cat([seen[:, None].expand(-1, len(own), -1), own.expand(len(seen), -1, -1)], dim=2)[:, None]
        dtype = self.keys_values[0][0].dtype
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, float("-inf"))

    def keep(self, groups: Tensor, rows_BG: Tensor, step: int) -> None:
        """Keep these groups and, of the completions of each, these: as many for each group. `step` tokens were written."""
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
                fresh = buffer.new_zeros(len(groups), buffer.shape[1], length, buffer.shape[3])
                fresh[:, :, : slots_BL.shape[1]] = buffer[groups].gather(2, index)
                kept.append(fresh)
            self.keys_values[layer] = kept[0], kept[1]
        rows = (groups[:, None] * old + rows_BG).flatten()
        self.cos_TA1D, self.sin_TA1D = self.cos_TA1D[:, rows], self.sin_TA1D[:, rows]
        seen_BP = self.mask[:, 0, 0, : self.width] == 0
        self.num_generations = new
        self.mask = self._mask(seen_BP[groups] if len(seen_BP) > 1 else seen_BP)

    def step(self, tokens_A: Tensor, place: Tensor | int) -> Tensor:
        """Logits [A, V] behind these tokens, which are number `place` of their completions, from 0; a static step takes a tensor."""
        times = self.num_generations
        rotation = self.cos_TA1D[place], self.sin_TA1D[place]
        slots: Tensor | slice
        if isinstance(place, Tensor):
            rotation = rotation[0][0], rotation[1][0]
            slots = place * times + self.width + torch.arange(times, device=place.device)
            # Steps to come must not be seen; everything else of the mask stays.
            later_L = torch.arange(self.mask.shape[-1], device=place.device) > slots[-1]
            mask = self.mask.masked_fill(later_L, float("-inf"))
        else:
            end = self.width + (place + 1) * times
            slots, mask = slice(end - times, end), self.mask[..., :end]
        hidden_AE = self.text.embed_tokens(tokens_A)
        for number, block in enumerate(self.blocks):
            found = self._attend(number, block, self._normalise(hidden_AE, block.enter_norm), rotation, slots, mask)
            hidden_AE = block.write(found, hidden_AE)
            hidden_AE = block.think(self._normalise(hidden_AE, block.think_norm), hidden_AE)
        return self.head(self._normalise(hidden_AE, self.text.norm.weight))

    def _normalise(self, rows: Tensor, weight: Tensor | None) -> Tensor:
        """RMS normalisation of the last dimension. PyTorch's takes one kernel on a GPU and nine on a CPU."""
        if rows.device.type != "cpu" or rows.dtype != torch.float32:
            return rms_norm(rows, rows.shape[-1:], weight, self.epsilon)
        norm = vector_norm(rows, dim=-1, keepdim=True)
        normed = rows * torch.addcmul(self.floor, norm, norm, value=1 / rows.shape[-1]).rsqrt_()
        return normed if weight is None else normed.mul_(weight)

    def _attend(
        self, layer: int, block: _Block, hidden_AE: Tensor, rotation: tuple[Tensor, Tensor], slots: Tensor | slice, mask: Tensor
    ) -> Tensor:
        """What one token of each completion finds in its prompt and in what its completion has written, itself included [A, H D]."""
        keys_BKLD, values_BKLD = self.keys_values[layer]
        num_groups, num_kv, _, width = keys_BKLD.shape
        times = self.num_generations
        heads_AHD = block.read(hidden_AE).view(len(hidden_AE), -1, width)
        value_AKD = heads_AHD[:, -num_kv:]
        turned_AHD = heads_AHD[:, :-num_kv]  # queries, then keys
        if block.head_norms:
            parts = (turned_AHD[:, :-num_kv], turned_AHD[:, -num_kv:])
            turned_AHD = torch.cat([self._normalise(part, norm) for part, norm in zip(parts, block.head_norms, strict=True)], dim=1)
        turned_AHD = rotate(turned_AHD, *rotation).to(keys_BKLD.dtype)
        key_BKGD = turned_AHD[:, -num_kv:].view(num_groups, times, num_kv, width).transpose(1, 2)
        value_BKGD = value_AKD.view(num_groups, times, num_kv, width).transpose(1, 2)
        if isinstance(slots, slice):
            keys_BKLD[:, :, slots], values_BKLD[:, :, slots] = key_BKGD, value_BKGD
            keys_BKLD, values_BKLD = keys_BKLD[:, :, : slots.stop], values_BKLD[:, :, : slots.stop]
        else:
            keys_BKLD.index_copy_(2, slots, key_BKGD)
            values_BKLD.index_copy_(2, slots, value_BKGD.to(values_BKLD.dtype))
        query_BKSD = turned_AHD[:, :-num_kv].reshape(num_groups, times, num_kv, -1, width).transpose(1, 2).flatten(2, 3)
        out_BKSD = scaled_dot_product_attention(query_BKSD, keys_BKLD, values_BKLD, attn_mask=mask, scale=block.scaling)
        out_AHD = out_BKSD.view(num_groups, num_kv, times, -1, width).transpose(1, 2)
        return out_AHD.reshape(len(hidden_AE), -1)


def rotate(heads_AHD: Tensor, cos_A1D: Tensor, signed_sin_A1D: Tensor) -> Tensor:
    """Rotary positions, with the sign of the swapped halves already in the sine."""
    return torch.addcmul(heads_AHD * cos_A1D, heads_AHD.roll(heads_AHD.shape[-1] // 2, dims=-1), signed_sin_A1D)


def merge(chunks: Sequence[Prefixes], room: int) -> tuple[int, list[tuple[Tensor, Tensor]], Tensor]:
    """The widest prompt, buffers with keys and values of all prefixes and room behind them, and what of each prompt is seen [B, P].

    Narrower prompts stand on the right of that width. Nothing keeps its graph.
    """
    widest = max(chunk.layers[0][0].shape[2] for chunk in chunks)
    num_groups = sum(map(len, chunks))
    first = chunks[0].layers[0][0]
    seen_BP = torch.zeros(num_groups, widest, dtype=torch.bool, device=first.device)
    shape = (num_groups, first.shape[1], widest + room, first.shape[3])
    buffers = [(first.new_zeros(shape), first.new_zeros(shape)) for _ in chunks[0].layers]
    start = 0
    for chunk in chunks:
        rows = slice(start, start + len(chunk))
        place = slice(widest - chunk.layers[0][0].shape[2], widest)
        seen_BP[rows, place] = True if chunk.mask_BP is None else chunk.mask_BP
        for buffer, layer in zip(buffers, chunk.layers, strict=True):
            for side in (0, 1):
                buffer[side][rows, :, place] = layer[side].detach()
        start = rows.stop
    return widest, buffers, seen_BP


def record(decoder: Decoder, num_rows: int) -> Callable[[Tensor, int], Tensor]:
    """A static step that CUDA plays from a recording, with the signature of `Decoder.step`. It has never run on a GPU.

    The recording holds as long as the decoder's buffers do, a rollout; optimizers change weights in place, but prompts change width.
    """
    device = decoder.mask.device
    tokens_A = torch.zeros(num_rows, dtype=torch.long, device=device)
    place = torch.zeros(1, dtype=torch.long, device=device)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # kernels and workspaces must exist before a recording
        decoder.step(tokens_A, place)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Other threads, such as one that pins batches, go on calling CUDA meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        logits_AV = decoder.step(tokens_A, place)

    def play(tokens: Tensor, step: int) -> Tensor:
        tokens_A.copy_(tokens)
        place.fill_(step)
        graph.replay()
        return logits_AV

    return play
