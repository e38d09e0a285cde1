"""Rollouts of groups: one prefill of each distinct prompt, then all completions of the batch are decoded together.

Finished completions are dropped from the computation. Tokens are sampled as Transformers' `generate` samples them, from the same stream of
random numbers, so both give the same completions.

Legend: B groups, G generations of a group, N = B G completions, A = completions still computed, T tokens of a completion, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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

from osler.policies.precision import without_gradient
from osler.training.shared_prefix.attention import PromptCache
from osler.training.shared_prefix.decoder import Decoder
from osler.training.shared_prefix.packed_row import PromptBatch, prefill
from osler.training.shared_prefix.sampling import draw_tokens
from osler.training.shared_prefix.static_decoders import StaticDecoders

REPACK_BELOW: Final = 0.75
"""Finished completions are dropped when at most this share of the rows remains: dropping each at once would copy more than it saves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How completions are generated. The defaults sample from the full distribution."""

    max_new_tokens: int
    stop_ids: tuple[int, ...]
    pad_id: int
    suppressed_ids: tuple[int, ...] = ()  # never generated, e.g. the image token
    do_sample: bool = True
    temperature: float = 1.0
    top_k: int = 0  # 0 keeps all
    top_p: float = 1.0
    min_p: float | None = None
    is_static: bool = False  # every step has the same shapes, for a CUDA graph; finished completions are not dropped
    splits_cache: bool | None = None  # the layout of the KV cache, see `decoding_cache`; None: the one for the device

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The completions of `roll_out`, group after group."""

    completion_ids: list[list[int]]  # each up to its first stop token, which is kept
    caches: tuple[PromptCache, ...]  # one for each chunk of prompts; with autograd graph if `keeps_graph`
    logps_NT: Tensor | None = None  # log-probabilities of the tokens at the sampling temperature; None unless `scores`
    entropies_NT: Tensor | None = None


class TokenScores:
    """Log-probabilities and entropies of generated tokens, from the unfiltered distribution, as an update computes them."""

    def __init__(self, num_rows: int, decoding: Decoding, device: torch.device) -> None:
        self.temperature = decoding.temperature
        self.logps_NT, self.entropies_NT = torch.zeros(2, num_rows, decoding.max_new_tokens, device=device)

    def record(self, rows_A: Tensor, step: int, logits_AV: Tensor, tokens_N: Tensor) -> None:
        """Store the scores of the tokens of one step."""
        scaled_AV = logits_AV / self.temperature if self.temperature != 1.0 else logits_AV
        logs_AV = scaled_AV.log_softmax(dim=-1)
        self.logps_NT[rows_A, step] = logs_AV.gather(1, tokens_N[rows_A, None])[:, 0]
        self.entropies_NT[rows_A, step] = -(logs_AV.exp() * logs_AV).sum(dim=-1)


def roll_out(
    model: Any,
    chunks: Sequence[PromptBatch],
    num_generations: int,
    decoding: Decoding,
    *,
    keeps_graph: bool = False,
    scores: bool = False,
    decoders: StaticDecoders | None = None,
) -> Rollout:
    """Generate `num_generations` completions of every prompt. The prompts of a chunk share one prefill.

    `attention.install` was called on `model`, a Transformers model without active gradient checkpointing. `keeps_graph` keeps the autograd
    graph of the prefill for `score_after_cache`; `scores` adds log-probabilities and entropies of the tokens. `decoders` keeps what static
    decoding records for later rollouts; None: it is recorded anew.
    """
    with torch.set_grad_enabled(keeps_graph):
        caches = tuple(prefill(model, prompts) for prompts in chunks)
    return decode(model, caches, num_generations, decoding, scores=scores, decoders=decoders)


def decode(
    model: Any,
    caches: tuple[PromptCache, ...],
    num_generations: int,
    decoding: Decoding,
    *,
    scores: bool = False,
    begins_NT: Tensor | None = None,
    decoders: StaticDecoders | None = None,
) -> Rollout:
    """Generate `num_generations` completions behind every cached prompt; with `begins_NT`, behind its tokens too, up to the first -1."""
    with without_gradient(model):
        rollout = _decode(model, caches, num_generations, decoding, scores=scores, begins_NT=begins_NT, decoders=decoders)
    if rollout.logps_NT is None or rollout.entropies_NT is None:
        return rollout
    # Copies, because autograd refuses tensors that were made in inference mode.
    return replace(rollout, logps_NT=rollout.logps_NT.clone(), entropies_NT=rollout.entropies_NT.clone())


def _decode(
    model: Any,
    caches: tuple[PromptCache, ...],
    num_generations: int,
    decoding: Decoding,
    *,
    scores: bool,
    begins_NT: Tensor | None = None,
    decoders: StaticDecoders | None = None,
) -> Rollout:
    """Sample tokens until every completion has ended."""
    last_BE = torch.cat([cache.last_BE.detach() for cache in caches])
    device, num_rows = last_BE.device, len(last_BE) * num_generations
    processors, stop_ids = decoding.processors(device), torch.tensor(decoding.stop_ids, device=device)
    written_NT = torch.full((num_rows, decoding.max_new_tokens), decoding.pad_id, device=device)
    alive_N = torch.ones(num_rows, dtype=torch.bool, device=device)
    rows_A = torch.arange(num_rows, device=device)  # the row in the batch of each computed completion
    logits_AV = model.lm_head(last_BE).float().repeat_interleave(num_generations, dim=0)
    token_scores = TokenScores(num_rows, decoding, device) if scores else None
    decoder: Decoder | None = None
    advance: Callable[[Tensor, int], Tensor] | None = None
    for step in range(decoding.max_new_tokens):
        scores_AV = processors(written_NT[rows_A, :step], logits_AV)
        if decoding.do_sample:
            tokens_N = draw_tokens(scores_AV.softmax(dim=-1), rows_A, num_rows)
        else:
            tokens_N = torch.full_like(alive_N, decoding.pad_id, dtype=torch.long)
            tokens_N[rows_A] = scores_AV.argmax(dim=-1)
        if begins_NT is not None and step < begins_NT.shape[1]:
            tokens_N = torch.where(begins_NT[:, step] >= 0, begins_NT[:, step], tokens_N)
        if token_scores is not None:
            token_scores.record(rows_A, step, logits_AV, tokens_N)
        written_NT[:, step] = torch.where(alive_N, tokens_N, decoding.pad_id)
        alive_N &= ~torch.isin(tokens_N, stop_ids)
        if step + 1 == decoding.max_new_tokens or not bool(alive_N.any()):
            break
        if advance is None and decoding.is_static:
            decoders = StaticDecoders() if decoders is None else decoders
            advance = decoders.begin(model, caches, num_generations, decoding.max_new_tokens, splits_cache=decoding.splits_cache)
        elif advance is None:
            decoder = Decoder(model, caches, num_generations, decoding.max_new_tokens, splits_cache=decoding.splits_cache)
            advance = decoder.step
        if decoder is not None:
            rows_A = _drop_finished(decoder, rows_A, alive_N, step)
        logits_AV = advance(written_NT[rows_A, step], step).float()
    completion_ids = _cut(written_NT[:, : step + 1].tolist(), decoding.stop_ids)
    if token_scores is None:
        return Rollout(completion_ids=completion_ids, caches=caches)
    logps_NT, entropies_NT = token_scores.logps_NT[:, : step + 1], token_scores.entropies_NT[:, : step + 1]
    return Rollout(completion_ids=completion_ids, caches=caches, logps_NT=logps_NT, entropies_NT=entropies_NT)


def _drop_finished(decoder: Decoder, rows_A: Tensor, alive_N: Tensor, step: int) -> Tensor:
    """Drop finished completions when enough have ended. Returns the remaining rows: equally many for each remaining group."""
    alive_BG = alive_N[rows_A].view(decoder.cache.num_groups, -1)
    groups = alive_BG.any(dim=1).nonzero()[:, 0]
    width = int(alive_BG.sum(dim=1).max())
    if len(groups) * width > REPACK_BELOW * len(rows_A):
        return rows_A
    first_alive = alive_BG[groups].int().argsort(dim=1, descending=True, stable=True)[:, :width]
    decoder.keep(groups, first_alive, step)
    return rows_A[(groups[:, None] * alive_BG.shape[1] + first_alive).flatten()]


def _cut(rows: list[list[int]], stop_ids: tuple[int, ...]) -> list[list[int]]:
    """Every row up to its first stop token."""
    ends = [next((place for place, token in enumerate(row) if token in stop_ids), len(row) - 1) for row in rows]
    return [row[: end + 1] for row, end in zip(rows, ends, strict=True)]
