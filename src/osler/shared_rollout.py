"""Rollouts of groups: every distinct prompt is read once, and all completions of the batch are written together.

The keys and values of a prompt are kept once per group. Each decoding step attends to them for all completions of the group at once, and
to what each completion has written so far. Completions that have ended leave the computation. Tokens are drawn as Transformers' `generate`
draws them, from the same stream of random numbers, so that both write the same completions.

Legend: B groups, G generations of a group, N = B G completions, A = completions still computed, P prompt, T written so far, V vocabulary,
K key-value heads, R query heads per key-value head, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from osler.shared_prefix import Prompts, find_positions, next_positions

REPACK_BELOW: Final = 0.75
"""Ended completions are dropped once this share of the computed ones is enough; copying at every end would cost more than it saves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How completions are written. The defaults draw from the whole distribution."""

    max_new_tokens: int
    stop_ids: tuple[int, ...]
    pad_id: int
    suppressed_ids: tuple[int, ...] = ()  # never written, e.g. the token that stands for an image
    do_sample: bool = True
    temperature: float = 1.0
    top_k: int = 0  # 0 keeps all
    top_p: float = 1.0
    min_p: float | None = None

    def processors(self, device: torch.device) -> LogitsProcessorList:
        """Transformers' own processors, in the order in which `generate` applies them."""
        chosen: list[Any] = []
        if self.suppressed_ids:
            chosen.append(SuppressTokensLogitsProcessor(list(self.suppressed_ids), device=device))
        if self.do_sample:
            if self.temperature != 1.0:
                chosen.append(TemperatureLogitsWarper(self.temperature))
            if self.top_k:
                chosen.append(TopKLogitsWarper(self.top_k))
            if self.top_p < 1.0:
                chosen.append(TopPLogitsWarper(self.top_p))
            if self.min_p is not None:
                chosen.append(MinPLogitsWarper(self.min_p))
        return LogitsProcessorList(chosen)


@dataclass(slots=True, kw_only=True)
class GroupCache:
    """Keys and values while decoding: of each prompt once, and of the completions in buffers that are written in place.

    Stands where Transformers expects a cache; the attention reads it through `attend`.
    """

    prefixes: list[tuple[Tensor, Tensor]]  # keys and values of each layer, [B, K, P, D]
    hidden_BP: Tensor | None  # padding of the prompts, if any
    max_length: int
    length: int = 0  # tokens written before this step
    branches: list[Tensor] = field(default_factory=list)  # keys and values of each layer, [2, A, K, max_length, D]

    def spread(self, num_rows: int) -> None:
        """Make the buffers of `num_rows` completions."""
        for key_BKPD, _ in self.prefixes:
            _, num_heads, _, width = key_BKPD.shape
            self.branches.append(key_BKPD.new_empty(2, num_rows, num_heads, self.max_length, width))

    def keep(self, groups: Tensor, rows: Tensor) -> None:
        """Keep these groups and, among the completions, these rows: as many for each group."""
        self.prefixes = [(key[groups], value[groups]) for key, value in self.prefixes]
        self.branches = [buffer[:, rows] for buffer in self.branches]
        if self.hidden_BP is not None:
            self.hidden_BP = self.hidden_BP[groups]

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the keys and values of this step's token, [A, K, 1, D]."""
        self.branches[layer][0, :, :, self.length] = key[:, :, 0]
        self.branches[layer][1, :, :, self.length] = value[:, :, 0]
        return key, value

    def get_seq_length(self, *_: Any) -> int:
        """Tokens of a padded prompt and of a completion so far."""
        return int(self.prefixes[0][0].shape[2]) + self.length

    def attend(self, layer: int, query: Tensor, scaling: float | None) -> Tensor:
        """Attention [A, 1, H, D] of one token of each completion, `query` [A, H, 1, D]."""
        key_BKPD, value_BKPD = self.prefixes[layer]
        num_groups, num_kv, prompt_width, width = key_BKPD.shape
        num_rows, num_heads = query.shape[:2]
        query_BGKRD = query.view(num_groups, num_rows // num_groups, num_kv, num_heads // num_kv, width)
        written = self.branches[layer][:, :, :, : self.length + 1]
        key_BGKTD, value_BGKTD = written.view(2, *query_BGKRD.shape[:3], self.length + 1, width)
        seen = torch.einsum("bgkrd,bkpd->bgkrp", query_BGKRD, key_BKPD)
        if self.hidden_BP is not None:
            seen = seen.masked_fill(self.hidden_BP[:, None, None, None], float("-inf"))
        own = torch.einsum("bgkrd,bgktd->bgkrt", query_BGKRD, key_BGKTD)
        scale = width**-0.5 if scaling is None else scaling
        weights = torch.cat([seen, own], dim=-1).mul(scale).softmax(dim=-1, dtype=torch.float32).to(query.dtype)
        out = torch.einsum("bgkrp,bkpd->bgkrd", weights[..., :prompt_width], value_BKPD)
        out = out + torch.einsum("bgkrt,bgktd->bgkrd", weights[..., prompt_width:], value_BGKTD)
        return out.reshape(num_rows, 1, num_heads, width)


@torch.no_grad()
def roll_out(model: Any, prompts: Prompts, num_generations: int, decoding: Decoding) -> list[list[int]]:
    """Token ids of `num_generations` completions of every prompt, group after group, each up to its first stop token, which is kept.

    `shared_prefix.install` was called on `model`, a Transformers model that does not compute gradient checkpoints.
    """
    cache, hidden_BD, next_B = _prefill(model, prompts, decoding.max_new_tokens)
    device, num_groups = hidden_BD.device, len(hidden_BD)
    num_rows = num_groups * num_generations
    cache.spread(num_rows)
    processors, stop_ids = decoding.processors(device), torch.tensor(decoding.stop_ids, device=device)
    written_NT = torch.full((num_rows, decoding.max_new_tokens), decoding.pad_id, device=device)
    alive_N = torch.ones(num_rows, dtype=torch.bool, device=device)
    rows_A = torch.arange(num_rows, device=device)  # of each computed completion, its row in the batch
    next_N = next_B.repeat_interleave(num_generations)
    logits_AV = model.lm_head(hidden_BD).float().repeat_interleave(num_generations, dim=0)
    chances_NV = torch.ones_like(logits_AV)
    decoder, ignored = model.model.language_model, torch.zeros(1, 1, 1, 2, device=device)
    for step in range(decoding.max_new_tokens):
        scores_AV = processors(written_NT[rows_A, :step], logits_AV)
        if decoding.do_sample:
            # Ended completions are drawn too: `generate` draws for every row, and random numbers are taken row by row.
            chances_NV[rows_A] = scores_AV.softmax(dim=-1)
            tokens_N = torch.multinomial(chances_NV, num_samples=1)[:, 0]
        else:
            tokens_N = torch.full_like(alive_N, decoding.pad_id, dtype=torch.long)
            tokens_N[rows_A] = scores_AV.argmax(dim=-1)
        written_NT[:, step] = torch.where(alive_N, tokens_N, decoding.pad_id)
        alive_N &= ~torch.isin(tokens_N, stop_ids)
        if step + 1 == decoding.max_new_tokens or not bool(alive_N.any()):
            break
        rows_A = _drop_ended(cache, rows_A, alive_N)
        cache.length = step
        hidden_A1D = decoder(
            inputs_embeds=decoder.embed_tokens(written_NT[rows_A, step, None]),
            attention_mask=ignored,
            position_ids=(next_N[rows_A] + step).view(1, -1, 1).expand(3, -1, -1),
            past_key_values=cache,
            use_cache=True,
            decoding=cache,
        ).last_hidden_state
        logits_AV = model.lm_head(hidden_A1D[:, 0]).float()
    return _cut(written_NT[:, : step + 1].tolist(), decoding.stop_ids)


def _prefill(model: Any, prompts: Prompts, max_length: int) -> tuple[GroupCache, Tensor, Tensor]:
    """The cache of the prompts, their last hidden states [B, D], and the positions [B] after them."""
    positions_3BP = find_positions(model, prompts)
    is_padded = not bool(prompts.mask_BP.all())
    outputs = model.model(
        input_ids=prompts.ids_BP,
        attention_mask=prompts.mask_BP if is_padded else None,
        position_ids=positions_3BP,
        mm_token_type_ids=prompts.types_BP,
        use_cache=True,
        **prompts.image_inputs,
    )
    cache = GroupCache(
        prefixes=[(layer.keys, layer.values) for layer in outputs.past_key_values.layers],
        hidden_BP=prompts.mask_BP == 0 if is_padded else None,
        max_length=max_length,
    )
    return cache, outputs.last_hidden_state[:, -1], next_positions(positions_3BP, prompts.mask_BP)


def _drop_ended(cache: GroupCache, rows_A: Tensor, alive_N: Tensor) -> Tensor:
    """Leave ended completions out of the cache where enough have ended; returns the rows that stay, as many for each group that does."""
    alive_BG = alive_N[rows_A].view(len(cache.prefixes[0][0]), -1)
    groups = alive_BG.any(dim=1).nonzero()[:, 0]
    width = int(alive_BG.sum(dim=1).max())
    if len(groups) * width > REPACK_BELOW * len(rows_A):
        return rows_A
    first_alive = alive_BG[groups].int().argsort(dim=1, descending=True, stable=True)[:, :width]
    kept = (groups[:, None] * alive_BG.shape[1] + first_alive).flatten()
    cache.keep(groups, kept)
    return rows_A[kept]


def _cut(rows: list[list[int]], stop_ids: tuple[int, ...]) -> list[list[int]]:
    """Every row up to its first stop token."""
    ends = [next((place for place, token in enumerate(row) if token in stop_ids), len(row) - 1) for row in rows]
    return [row[: end + 1] for row, end in zip(rows, ends, strict=True)]
