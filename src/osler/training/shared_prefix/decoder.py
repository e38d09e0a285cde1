"""One decoding step of a Qwen-VL text decoder for all completions of a batch: the model's weights without the rest of its forward pass.

A step computes one token for a few rows. That is so little arithmetic that the code around it decides its time: hooks, mask preparation, a
growing KV cache. Here the KV cache of a prompt is stored once per group, completions write into buffers that are allocated once
(`decoding_cache`), and everything that is constant over the steps is computed before the first one.

A `static` step has no shape or value that depends on the number of tokens so far, so CUDA can record it as a graph (`cuda_graph`). A static
decoder reads the model's own weights, never packed copies, and takes other prompts without a change of its memory (`static_decoders`).

Legend: B groups, G generations of a group, A = B G completions that are computed, P prompt, T maximal number of tokens of a completion,
K key-value heads, R query heads per key-value head, D head width, E hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import rms_norm

from osler.training.shared_prefix import cpu_kernels
from osler.training.shared_prefix.attention import PromptCache, query_heads_per_key
from osler.training.shared_prefix.decoding_cache import DecodingCache, JoinedCache, SplitCache, StepCache

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What a pass over whole prompts needs beside that over one token of each completion."""

    last_B: Tensor  # the row of each prompt's last token: no other is needed after the last layer
    image_M: Tensor  # the rows of image tokens
    deepstack_ME: tuple[Tensor, ...] = ()  # added to them after the first layers (Qwen3-VL); fewer than there are layers


class StepModel:
    """The text decoder and the head of a model, as decoding steps use them. The weights are read once.

    `packs` makes packed copies of the weights, which `cpu_kernels.fits` allows.
    """

    def __init__(self, model: Any, *, packs: bool) -> None:
        self.text = model.model.language_model
        self.blocks = [_PackedBlock(layer) if packs else _Block(layer) for layer in self.text.layers]
        self.head: Callable[[Tensor], Tensor] = model.lm_head
        if packs:
            self.head = partial(cpu_kernels.linear, weights=cpu_kernels.pack(model.lm_head))
        self.num_kv: int = self.text.config.num_key_value_heads
        self.epsilon: float = self.text.config.rms_norm_eps
        self.floor = torch.tensor(self.epsilon)

    def rotations(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine [A, T, D] in the precision and on the device of `like`.

        `positions` are M-RoPE positions [3, A, T], or [A, T] of text, where the three are the same.
        """
        cos_ATD, sin_ATD = self.text.rotary_emb(like, positions.expand(3, -1, -1))
        # With the sign of the rotated half in the sine, a step needs no negation and no copy.
        half = sin_ATD.shape[-1] // 2
        return cos_ATD, torch.cat([-sin_ATD[..., :half], sin_ATD[..., half:]], dim=-1)

    def embed(self, tokens_A: Tensor) -> Tensor:
        """The embeddings [A, E] of tokens."""
        embedded: Tensor = self.text.embed_tokens(tokens_A)
        return embedded

    def step(self, tokens_A: Tensor, rotation: tuple[Tensor, Tensor], cache: StepCache, begun: Any) -> Tensor:
        """Logits [A, V] of the next token after `tokens_A`; `rotation` has a cosine and signed sine [A, 1, D] of their positions."""
        return self.logits(self.run(self.embed(tokens_A), rotation, cache, begun))

    def run(self, hidden_AE: Tensor, rotation: tuple[Tensor, Tensor], cache: StepCache, begun: Any, extras: Extras | None = None) -> Tensor:
        """The hidden states [A, E] after all layers, before the last norm; of the rows `extras.last_B` alone if there are extras."""
        for number, block in enumerate(self.blocks):
            heads = self._project(block, self._normalise(hidden_AE, block.attention_norm), rotation, cache.dtype)
            attended = cache.attend(number, begun, *heads, block.scaling)
            if extras is not None and number == len(self.blocks) - 1:
                attended, hidden_AE = attended[extras.last_B], hidden_AE[extras.last_B]
            hidden_AE = block.out_proj(attended, hidden_AE)
            hidden_AE = block.mlp(self._normalise(hidden_AE, block.mlp_norm), hidden_AE)
            if extras is not None and number < len(extras.deepstack_ME):
                hidden_AE = hidden_AE.index_add(0, extras.image_M, extras.deepstack_ME[number].to(hidden_AE.dtype))
        return hidden_AE

    def logits(self, hidden_AE: Tensor) -> Tensor:
        """The logits [A, V] of the next token."""
        return self.head(self._normalise(hidden_AE, self.text.norm.weight))

    def _normalise(self, rows: Tensor, weight: Tensor | None) -> Tensor:
        """RMS norm over the last dimension. PyTorch's own is one kernel on a GPU but nine on a CPU."""
        if rows.device.type != "cpu" or rows.dtype != torch.float32:
            return rms_norm(rows, rows.shape[-1:], weight, self.epsilon)
        norm = vector_norm(rows, dim=-1, keepdim=True)
        normed = rows * torch.addcmul(self.floor, norm, norm, value=1 / rows.shape[-1]).rsqrt_()
        return normed if weight is None else normed.mul_(weight)

    def _project(
        self, block: _Block, hidden_AE: Tensor, rotation: tuple[Tensor, Tensor], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [A, H, D] and keys [A, K, D], rotated and in the precision of the cache, and values [A, K, D]."""
        num_kv = self.num_kv
        heads_AHD = block.qkv(hidden_AE).view(len(hidden_AE), -1, rotation[0].shape[-1])
        value_AKD = heads_AHD[:, -num_kv:]
        rotated_AHD = heads_AHD[:, :-num_kv]  # queries, then keys; rotated below
        if block.head_norms:
            parts = (rotated_AHD[:, :-num_kv], rotated_AHD[:, -num_kv:])
            rotated_AHD = torch.cat([self._normalise(part, norm) for part, norm in zip(parts, block.head_norms, strict=True)], dim=1)
        rotated_AHD = rotate(rotated_AHD, *rotation).to(dtype)
        return rotated_AHD[:, :-num_kv], rotated_AHD[:, -num_kv:], value_AKD


class Decoder:
    """Decodes `num_generations` completions of each cached prompt, group after group, one token of each completion in a step.

    `splits_cache` chooses the layout of the KV cache (see `decoding_cache`); None: the one for the device. A static decoder pads prompts to
    a multiple of WIDTH_MULTIPLE.
    """

    def __init__(
        self,
        model: Any,
        caches: Sequence[PromptCache],
        num_generations: int,
        max_length: int,
        *,
        static: bool = False,
        splits_cache: bool | None = None,
    ) -> None:
        self.device = caches[0].next_B.device
        self.model = StepModel(model, packs=not static and max_length >= PACK_FROM and cpu_kernels.fits(model))
        self.cos_TA1D, self.sin_TA1D = self._rotations(caches, num_generations, max_length)
        self.cache: DecodingCache
        if self.device.type == "cuda" if splits_cache is None else splits_cache:
            self.cache = SplitCache(caches, num_generations, max_length, static=static)
        else:
            self.cache = JoinedCache(caches, num_generations, max_length, query_heads_per_key(model), static=static)

    def _rotations(self, caches: Sequence[PromptCache], num_generations: int, max_length: int) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine [T, A, 1, D] of the positions of all tokens of the completions."""
        next_A = torch.cat([cache.next_B for cache in caches]).repeat_interleave(num_generations)
        positions_AT = next_A[:, None] + torch.arange(max_length, device=self.device)
        cos_ATD, sin_ATD = self.model.rotations(positions_AT, caches[0].last_BE)
        return cos_ATD.transpose(0, 1)[:, :, None].contiguous(), sin_ATD.transpose(0, 1)[:, :, None].contiguous()

    def refill(self, model: Any, caches: Sequence[PromptCache]) -> None:
        """Take the weights of `model` and write other prompts, as many and of the same padded width, into a static decoder's memory."""
        self.model = StepModel(model, packs=False)
        tables = self._rotations(caches, self.cache.num_generations, len(self.cos_TA1D))
        for own, new in zip((self.cos_TA1D, self.sin_TA1D), tables, strict=True):
            own.copy_(new)
        self.cache.refill(caches)

    @property
    def tensors(self) -> list[Tensor]:
        """All memory of the decoder beside the model's weights."""
        return [self.cos_TA1D, self.sin_TA1D, *self.cache.tensors]

    def keep(self, groups: Tensor, rows_BG: Tensor, step: int) -> None:
        """Keep the given `groups` and of each the completions `rows_BG`; drop all others. `step` tokens have been written."""
        rows = (groups[:, None] * self.cache.num_generations + rows_BG).flatten()
        self.cos_TA1D, self.sin_TA1D = self.cos_TA1D[:, rows], self.sin_TA1D[:, rows]
        self.cache.keep(groups, rows_BG, step)

    def step(self, tokens_A: Tensor, place: Tensor | int) -> Tensor:
        """Logits [A, V] of the next token after `tokens_A`, which have the index `place` in their completions; a tensor if static."""
        rotation = self.cos_TA1D[place], self.sin_TA1D[place]
        if isinstance(place, Tensor):
            rotation = rotation[0][0], rotation[1][0]
        return self.model.step(tokens_A, rotation, self.cache, self.cache.begin(place))


def rotate(heads_AHD: Tensor, cos_A1D: Tensor, signed_sin_A1D: Tensor) -> Tensor:
    """Rotary position embedding; the sine already has the sign of the rotated half."""
    return torch.addcmul(heads_AHD * cos_A1D, heads_AHD.roll(heads_AHD.shape[-1] // 2, dims=-1), signed_sin_A1D)
