"""Attention over packed rows: each completion attends to its own prompt and to itself.

`install` registers it with Transformers as one more attention implementation. A layout object travels to it as a keyword argument of the
model's forward pass: `PackedLayout` for prompts and completions in one row, `PromptLayout` for prompts alone (prefill), `BranchLayout` for
completions alone after prompts whose keys and values are cached. Without a layout it is PyTorch's attention.

Legend: see `packed_row`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from osler.policies.patch_embedding import embed_by_product

ATTENTION: Final = "osler_shared_prefix"
"""The name of this attention in the registry of Transformers."""


MASK_ALIGNMENT: Final = 16
"""Rows of a mask begin at multiples of so many elements, which PyTorch's attention on a GPU needs to use a mask without a copy."""

MASK_SHARE: Final = 0.25
"""The share of a GPU's free memory that a mask may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCache:
    """The prefill of B prompts: KV cache and last hidden states. The tensors keep their autograd graph if gradients were enabled."""

    layers: tuple[tuple[Tensor, Tensor], ...]  # keys and values of each layer, [B, K, P, D]
    mask_BP: Tensor | None  # true for a token; None when no prompt is padded
    last_BE: Tensor  # hidden state of the last token of each prompt, E wide
    next_B: Tensor  # M-RoPE position of the first token after each prompt

    def __len__(self) -> int:
        return len(self.next_B)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedLayout:
    """Where prefixes and branches are in a packed row of L tokens."""

    prefix_BP: Tensor  # index in the row of each prefix token; slots after the end of a prefix hold any valid index
    branch_NC: Tensor  # index in the row of each branch token
    slot_L: Tensor  # for each token of the row, its slot in the flattened [prefix_BP, branch_NC]
    mask: Tensor  # [N or 1, 1, R C, P + C], see `branch_mask`
    num_scored: int  # number of branch tokens; they are the last tokens of the row
    again_X: Tensor | None = None  # scored tokens whose hidden state is used once more, for other tokens in their place


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLayout:
    """Prompts alone: only the last hidden state of each is used."""

    num_scored: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchChunk:
    """The branches after the prompts of one PromptCache."""

    cache: PromptCache
    place_NC: Tensor | None  # index of each branch token among the tokens of this chunk; None when no branch is padded
    slot_S: Tensor  # for each branch token of this chunk, its slot in the flattened [N, C]
    num_rows: int  # N: G rows for each prompt
    mask: Tensor  # [N or 1, 1, R C, P + C], see `branch_mask`


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchLayout:
    """A packed row that holds branches only; their prompts are cached."""

    chunks: tuple[BranchChunk, ...]  # in the order of the row
    first_FE: Tensor  # hidden states that predict the first token of each completion that has one
    again_X: Tensor | None = None  # as in PackedLayout


def install(model: Any) -> None:
    """Make the text decoder of `model` accept packed rows. Inputs without a layout give the same output as before.

    The attention stays installed: gradient checkpointing calls it again in the backward pass. Of the vision tower only the patch embedding
    changes, to the same product in a faster form.
    """
    if model.config.text_config._attn_implementation == ATTENTION:
        return
    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.config.text_config._attn_implementation = ATTENTION
    model.model.language_model.config._attn_implementation = ATTENTION
    model.model.register_forward_hook(_keep_scored, with_kwargs=True)
    _ShortLastLayer().register(model.model.language_model.layers[-1])
    embed_by_product(model)


class _ShortLastLayer:
    """Hooks that run the last layer's MLP on the scored tokens at the end of a row only.

    After the last layer nothing attends to the other tokens, so only their keys and values in it are needed; their output is set to 0.
    """

    def __init__(self) -> None:
        self.num_skipped = 0

    def register(self, layer: Any) -> None:
        """Add the hooks to a decoder layer; gradient checkpointing calls them again."""
        layer.self_attn.register_forward_pre_hook(self._count, with_kwargs=True)
        layer.mlp.register_forward_pre_hook(self._cut)
        layer.mlp.register_forward_hook(self._pad)

    def _count(self, _attention: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        layout, row = kwargs.get("layout"), kwargs["hidden_states"]
        self.num_skipped = row.shape[1] - layout.num_scored if isinstance(layout, (PackedLayout, PromptLayout)) else 0

    def _cut(self, _mlp: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][:, self.num_skipped :],)

    def _pad(self, _mlp: Any, _args: Any, output: Tensor) -> Tensor:
        return pad(output, (0, 0, self.num_skipped, 0)) if self.num_skipped else output


def _keep_scored(_module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """Forward hook: keep only the hidden states that predict a token of a completion, so that the head computes no other logits."""
    layout = kwargs.get("layout")
    if isinstance(layout, PackedLayout):
        output.last_hidden_state = output.last_hidden_state[:, -layout.num_scored :]
    elif isinstance(layout, BranchLayout):
        output.last_hidden_state = torch.cat([layout.first_FE[None], output.last_hidden_state], dim=1)
    again_X = getattr(layout, "again_X", None)
    if again_X is not None:
        hidden_1SE = output.last_hidden_state
        output.last_hidden_state = torch.cat([hidden_1SE, hidden_1SE.index_select(1, again_X)], dim=1)
    return output


def query_heads_per_key(base: Any) -> int:
    """R: the number of query heads that share one key-value head."""
    repeats: int = base.model.language_model.layers[0].self_attn.num_key_value_groups
    return repeats


def attention_dtype(device: torch.device, plain: torch.dtype) -> torch.dtype:
    """The precision in which attention computes: autocast's, or `plain`."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else plain


def pack_layout(lengths_B: Tensor, inside_NC: Tensor, repeats: int, dtype: torch.dtype) -> PackedLayout:
    """The layout of a row of prefixes with these lengths, then of branches whose tokens are the true slots of `inside_NC`."""
    device, num_branches = inside_NC.device, len(inside_NC)
    width, num_prefix = int(lengths_B.max()), int(lengths_B.sum())
    inside_BP = torch.arange(width, device=device) < lengths_B[:, None]
    inside = torch.cat([inside_BP.flatten(), inside_NC.flatten()])
    slot_L = inside.nonzero()[:, 0]
    place = torch.zeros(len(inside), dtype=torch.long, device=device)
    place[slot_L] = torch.arange(len(slot_L), device=device)
    prefix_BP, branch_NC = place[: inside_BP.numel()].view_as(inside_BP), place[inside_BP.numel() :].view_as(inside_NC)
    # Prefixes of equal length need one mask for all branches.
    visible_NP = inside_BP[:1] if bool(inside_BP.all()) else inside_BP.repeat_interleave(num_branches // len(inside_BP), dim=0)
    mask = branch_mask(visible_NP, inside_NC.shape[1], repeats, attention_dtype(device, dtype))
    return PackedLayout(prefix_BP=prefix_BP, branch_NC=branch_NC, slot_L=slot_L, mask=mask, num_scored=len(slot_L) - num_prefix)


def chunk_layout(cache: PromptCache, inside_NC: Tensor, repeats: int) -> BranchChunk:
    """The layout of branches whose tokens are the true slots of `inside_NC`: G rows after each prompt of `cache`."""
    num_rows, num_steps = inside_NC.shape
    device = inside_NC.device
    slot_S = inside_NC.flatten().nonzero()[:, 0]
    place_NC = None
    if len(slot_S) < inside_NC.numel():
        place = torch.zeros(inside_NC.numel(), dtype=torch.long, device=device)
        place[slot_S] = torch.arange(len(slot_S), device=device)
        place_NC = place.view_as(inside_NC)
    width = cache.layers[0][0].shape[2]
    visible_NP = torch.ones(1, width, dtype=torch.bool, device=device)
    if cache.mask_BP is not None:
        visible_NP = cache.mask_BP.repeat_interleave(num_rows // len(cache), dim=0)
    mask = branch_mask(visible_NP, num_steps, repeats, attention_dtype(device, cache.last_BE.dtype))
    return BranchChunk(cache=cache, place_NC=place_NC, slot_S=slot_S, num_rows=num_rows, mask=mask)


def branch_mask(visible_NP: Tensor, num_steps: int, repeats: int, dtype: torch.dtype) -> Tensor:
    """[N, 1, R C, P + C]: 0 where a branch token attends, to the visible tokens of its prefix and, causally, to its branch; else -inf.

    One tensor in the precision of attention serves all layers. Of a boolean mask, attention makes such a tensor in every layer, and keeps
    each for the backward pass.
    """
    causal_CC = torch.ones(num_steps, num_steps, dtype=torch.bool, device=visible_NP.device).tril()
    mask_NCL = torch.cat([visible_NP[:, None].expand(-1, num_steps, -1), causal_CC.expand(len(visible_NP), -1, -1)], dim=2)
    length = mask_NCL.shape[2]
    aligned = length + -length % MASK_ALIGNMENT
    bias_NCL = torch.zeros(len(visible_NP), num_steps, aligned, dtype=dtype, device=visible_NP.device)
    bias_NCL[..., :length].masked_fill_(~mask_NCL, float("-inf"))
    return bias_NCL.repeat(1, repeats, 1)[:, None, :, :length]


def groups_within(memory: int, *, num_generations: int, repeats: int, prompt: int, completion: int, itemsize: int) -> int:
    """The number of groups, at least 1, whose mask takes at most MASK_SHARE of `memory` bytes; lengths in tokens, `itemsize` in bytes."""
    row = prompt + completion
    per_group = num_generations * repeats * completion * (row + -row % MASK_ALIGNMENT) * itemsize
    return max(1, int(memory * MASK_SHARE) // per_group)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: PackedLayout | PromptLayout | BranchLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The text decoder's attention, with the signature that Transformers calls.

    `query` is [1, H, L, D], `key` and `value` are [1, K, L, D]; returns [1, L, H, D] and None in place of attention weights.
    """
    if layout is None or isinstance(layout, PromptLayout):
        plain: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return plain
    rows = tuple(tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [L, H or K, D] each
    if isinstance(layout, BranchLayout):
        return _attend_to_cache(module.layer_idx, layout, rows, scaling), None
    repeats = query.shape[1] // key.shape[1]
    query_BPHD, key_BPKD, value_BPKD = (gather_rows(row, layout.prefix_BP) for row in rows)
    # Prefixes are padded on the right here, so the causal mask alone hides the padding from their tokens.
    prefix_out = scaled_dot_product_attention(
        query_BPHD.transpose(1, 2),
        repeat_kv(key_BPKD.transpose(1, 2), repeats),
        repeat_kv(value_BPKD.transpose(1, 2), repeats),
        is_causal=True,
        scale=scaling,
    ).transpose(1, 2)
    branches = tuple(gather_rows(row, layout.branch_NC) for row in rows)
    branch_out = attend_branches((key_BPKD.transpose(1, 2), value_BPKD.transpose(1, 2)), branches, layout.mask, scaling)
    slots = torch.cat([prefix_out.flatten(0, 1), branch_out.flatten(0, 1)])
    return slots.index_select(0, layout.slot_L)[None], None


def gather_rows(rows: Tensor, places: Tensor) -> Tensor:
    """`rows[places]`. `index_select` on flattened indices has a faster backward pass."""
    return rows.index_select(0, places.flatten()).view(*places.shape, *rows.shape[1:])


def attend_branches(prefix: tuple[Tensor, Tensor], branches: tuple[Tensor, ...], mask: Tensor, scaling: float | None) -> Tensor:
    """Attention [N, C, H, D] of branches over their prefix and themselves.

    `prefix` holds keys and values [B, K, P, D]; `branches` holds queries [N, C, H, D], keys and values [N, C, K, D]. The R = H / K query
    heads of one key-value head are stacked along the sequence, so that keys and values are not repeated in memory.
    """
    query_NCHD, key_NCKD, value_NCKD = branches
    num_rows, num_steps, num_heads, width = query_NCHD.shape
    num_kv = key_NCKD.shape[2]
    repeats = num_heads // num_kv
    times = num_rows // len(prefix[0])

    def extend(prefix_BKPD: Tensor, branch_NCKD: Tensor) -> Tensor:
        spread = prefix_BKPD[:, None].expand(-1, times, -1, -1, -1).flatten(0, 1)
        return torch.cat([spread, branch_NCKD.transpose(1, 2)], dim=2)

    out = scaled_dot_product_attention(
        query_NCHD.view(num_rows, num_steps, num_kv, repeats, width).permute(0, 2, 3, 1, 4).flatten(2, 3),
        extend(prefix[0], key_NCKD),
        extend(prefix[1], value_NCKD),
        attn_mask=mask,
        scale=scaling,
    )
    return out.view(num_rows, num_kv, repeats, num_steps, width).permute(0, 3, 1, 2, 4).flatten(2, 3)


def _attend_to_cache(layer: int, layout: BranchLayout, rows: tuple[Tensor, ...], scaling: float | None) -> Tensor:
    """Attention [1, S, H, D] of a row of branches over the cached keys and values of their prompts and themselves."""
    outs, start = [], 0
    for chunk in layout.chunks:
        end = start + len(chunk.slot_S)
        own = tuple(tensor[start:end] for tensor in rows)
        start = end
        if not len(chunk.slot_S):  # completions of one token at most
            continue
        if chunk.place_NC is None:
            grid = tuple(tensor.reshape(chunk.num_rows, -1, *tensor.shape[1:]) for tensor in own)
        else:
            grid = tuple(gather_rows(tensor, chunk.place_NC) for tensor in own)
        out = attend_branches(chunk.cache.layers[layer], grid, chunk.mask, scaling).flatten(0, 1)
        outs.append(out if chunk.place_NC is None else out.index_select(0, chunk.slot_S))
    return torch.cat(outs)[None]
