"""The attention of packed rows, in the registry of Transformers: branches attend to their prefix and to themselves.

A layout travels to it as a keyword of the model's forward pass: `Layout` where the prefixes stand in the same row, `PromptRow` where they
are read alone and `BranchRow` where they were read before. Legend: see `prefix`.
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

ATTENTION: Final = "osler_shared_prefix"
"""The attention's name in the registry of Transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefixes:
    """What the model made of the prompts of some groups, all tokens of them: with its graph, where gradients were on."""

    layers: tuple[tuple[Tensor, Tensor], ...]  # keys and values, [B, K, P, D]
    mask_BP: Tensor | None  # None where nothing is padded
    last_BE: Tensor  # the last hidden state of each prompt, E wide
    next_B: Tensor  # the position of the first token after each prompt

    def __len__(self) -> int:
        return len(self.next_B)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where prefixes and branches lie in a packed row; what the attention gets instead of a mask."""

    prefix_BP: Tensor  # place of every prefix token in the row; slots beyond a prefix's end name any token
    branch_NC: Tensor  # the same of every branch token
    slot_L: Tensor  # of every token of the row, its slot in [prefix_BP, branch_NC], flattened
    mask: Tensor  # [N or 1, 1, R C, P + C] bool: what a branch token attends to, in its prefix and in its branch
    num_scored: int  # branch tokens, which end the row


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRow:
    """The layout of prompts that are read alone: of their last hidden states only the last of each is wanted."""

    num_scored: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Branches:
    """Where the branches of some groups lie in a packed row that holds branches only, and what was read before them."""

    prefixes: Prefixes
    place_NC: Tensor | None  # place of every branch token among those of these groups; None where they fill the grid
    slot_S: Tensor  # of every branch token of these groups, its slot in [N, C], flattened
    num_rows: int  # N, G rows for each prefix
    mask: Tensor  # [N or 1, 1, R C, P + C] bool: what a branch token attends to


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchRow:
    """The layout of a packed row that holds branches only, behind prefixes that were read before."""

    parts: tuple[Branches, ...]  # in the order of the row
    first_FE: Tensor  # the hidden states that predict the first token of each completion


def install(model: Any) -> None:
    """Let the text decoder of a model take packed rows. What it does with any other input stays the same; the vision tower is not touched.

    The attention stays in place for good, because gradient checkpointing calls it again in the backward pass.
    """
    if model.config.text_config._attn_implementation == ATTENTION:
        return
    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.config.text_config._attn_implementation = ATTENTION
    model.model.language_model.config._attn_implementation = ATTENTION
    model.model.register_forward_hook(_keep_scored, with_kwargs=True)
    _Tail().watch(model.model.language_model.layers[-1])


class _Tail:
    """What is read behind the last layer: the end of a row.

    The tokens before it give their keys and values in that layer, and nobody reads what its feed-forward network makes of them. It sees
    the end only, and the rest of its output is zero.
    """

    def __init__(self) -> None:
        self.num_unread = 0

    def watch(self, layer: Any) -> None:
        """Hook into a layer and its network; gradient checkpointing calls these hooks again."""
        layer.self_attn.register_forward_pre_hook(self._measure, with_kwargs=True)
        layer.mlp.register_forward_pre_hook(self._drop)
        layer.mlp.register_forward_hook(self._pad)

    def _measure(self, _attention: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        layout, row = kwargs.get("layout"), kwargs["hidden_states"]
        self.num_unread = row.shape[1] - layout.num_scored if isinstance(layout, (Layout, PromptRow)) else 0

    def _drop(self, _mlp: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][:, self.num_unread :],)

    def _pad(self, _mlp: Any, _args: Any, output: Tensor) -> Tensor:
        return pad(output, (0, 0, self.num_unread, 0)) if self.num_unread else output


def count_repeats(base: Any) -> int:
    """R: how many heads of queries share one of keys."""
    repeats: int = base.model.language_model.layers[0].self_attn.num_key_value_groups
    return repeats


def lay_out(lengths_B: Tensor, inside_NC: Tensor, repeats: int) -> Layout:
    """The layout of prefixes of these lengths and of branches that fill the true slots of `inside_NC`, row by row."""
    device, num_branches = inside_NC.device, len(inside_NC)
    width, num_prefix = int(lengths_B.max()), int(lengths_B.sum())
    inside_BP = torch.arange(width, device=device) < lengths_B[:, None]
    inside = torch.cat([inside_BP.flatten(), inside_NC.flatten()])
    slot_L = inside.nonzero()[:, 0]
    place = torch.zeros(len(inside), dtype=torch.long, device=device)
    place[slot_L] = torch.arange(len(slot_L), device=device)
    prefix_BP, branch_NC = place[: inside_BP.numel()].view_as(inside_BP), place[inside_BP.numel() :].view_as(inside_NC)
    # Prefixes of one length need one mask for all branches.
    seen_NP = inside_BP[:1] if bool(inside_BP.all()) else inside_BP.repeat_interleave(num_branches // len(inside_BP), dim=0)
    mask = behind(seen_NP, inside_NC.shape[1], repeats)
    return Layout(prefix_BP=prefix_BP, branch_NC=branch_NC, slot_L=slot_L, mask=mask, num_scored=len(slot_L) - num_prefix)


def lay_out_branches(prefixes: Prefixes, inside_NC: Tensor, repeats: int) -> Branches:
    """The layout of branches that fill the true slots of `inside_NC`, G rows behind each prefix."""
    num_rows, num_steps = inside_NC.shape
    device = inside_NC.device
    slot_S = inside_NC.flatten().nonzero()[:, 0]
    place_NC = None
    if len(slot_S) < inside_NC.numel():
        place = torch.zeros(inside_NC.numel(), dtype=torch.long, device=device)
        place[slot_S] = torch.arange(len(slot_S), device=device)
        place_NC = place.view_as(inside_NC)
    width = prefixes.layers[0][0].shape[2]
    seen_NP = torch.ones(1, width, dtype=torch.bool, device=device)
    if prefixes.mask_BP is not None:
        seen_NP = prefixes.mask_BP.repeat_interleave(num_rows // len(prefixes), dim=0)
    return Branches(prefixes=prefixes, place_NC=place_NC, slot_S=slot_S, num_rows=num_rows, mask=behind(seen_NP, num_steps, repeats))


def behind(seen_NP: Tensor, num_steps: int, repeats: int) -> Tensor:
    """What the tokens of branches attend to, [N, 1, R C, P + C]: what their row sees of the prefix, and themselves up to each."""
    causal_CC = torch.ones(num_steps, num_steps, dtype=torch.bool, device=seen_NP.device).tril()
    mask_NCL = torch.cat([seen_NP[:, None].expand(-1, num_steps, -1), causal_CC.expand(len(seen_NP), -1, -1)], dim=2)
    return mask_NCL.repeat(1, repeats, 1)[:, None]


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Layout | BranchRow | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The text decoder's attention: over a packed row with `layout`, that of PyTorch without.

    `query` is [1, H, L, D], `key` and `value` are [1, K, L, D]; returns [1, L, H, D].
    """
    if layout is None or isinstance(layout, PromptRow):
        plain: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return plain
    rows = tuple(tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [L, H or K, D] each
    if isinstance(layout, BranchRow):
        return _attend_to_read(module.layer_idx, layout, rows, scaling), None
    repeats = query.shape[1] // key.shape[1]
    query_BPHD, key_BPKD, value_BPKD = (take(row, layout.prefix_BP) for row in rows)
    # Prefixes are padded on the right here, so causality alone keeps their tokens from padding.
    prefix_out = scaled_dot_product_attention(
        query_BPHD.transpose(1, 2),
        repeat_kv(key_BPKD.transpose(1, 2), repeats),
        repeat_kv(value_BPKD.transpose(1, 2), repeats),
        is_causal=True,
        scale=scaling,
    ).transpose(1, 2)
    branches = tuple(take(row, layout.branch_NC) for row in rows)
    branch_out = attend_behind((key_BPKD.transpose(1, 2), value_BPKD.transpose(1, 2)), branches, layout.mask, scaling)
    slots = torch.cat([prefix_out.flatten(0, 1), branch_out.flatten(0, 1)])
    return slots.index_select(0, layout.slot_L)[None], None


def take(rows: Tensor, places: Tensor) -> Tensor:
    """`rows[places]`, whose gradient PyTorch adds up faster for one dimension of places."""
    return rows.index_select(0, places.flatten()).view(*places.shape, *rows.shape[1:])


def attend_behind(prefix: tuple[Tensor, Tensor], branches: tuple[Tensor, ...], mask: Tensor, scaling: float | None) -> Tensor:
    """Attention [N, C, H, D] of branches to their prefix and themselves.

    `prefix` holds keys and values [B, K, P, D], `branches` queries [N, C, H, D], keys and values [N, C, K, D]. The H / K heads that share a
    key stand behind each other in the query, so that no key is copied for them.
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


def _attend_to_read(layer: int, row: BranchRow, rows: tuple[Tensor, ...], scaling: float | None) -> Tensor:
    """Attention [1, S, H, D] of a row of branches to what was read before them and to themselves."""
    outs, start = [], 0
    for part in row.parts:
        end = start + len(part.slot_S)
        own = tuple(tensor[start:end] for tensor in rows)
        start = end
        if not len(part.slot_S):  # completions of one token at most
            continue
        if part.place_NC is None:
            grid = tuple(tensor.reshape(part.num_rows, -1, *tensor.shape[1:]) for tensor in own)
        else:
            grid = tuple(take(tensor, part.place_NC) for tensor in own)
        out = attend_behind(part.prefixes.layers[layer], grid, part.mask, scaling).flatten(0, 1)
        outs.append(out if part.place_NC is None else out.index_select(0, part.slot_S))
    return torch.cat(outs)[None]


def _keep_scored(_module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """Leave in the last hidden states of a packed row those that predict a completion's token: only they go through the head."""
    layout = kwargs.get("layout")
    if isinstance(layout, Layout):
        output.last_hidden_state = output.last_hidden_state[:, -layout.num_scored :]
    elif isinstance(layout, BranchRow):
        output.last_hidden_state = torch.cat([layout.first_FE[None], output.last_hidden_state], dim=1)
    return output
