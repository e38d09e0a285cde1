"""Tokens drawn from the stream of random numbers of `generate`, which draws for completions that have ended too.

`torch.multinomial` divides each probability by an exponential number and takes the largest quotient. On many CPUs PyTorch makes these
numbers one by one, the logarithm included. Here the uniform numbers behind them are drawn for all rows, to keep the stream; the rest is
computed for the rows that still matter, with vector instructions. With another generator (MKL's, a GPU's) `multinomial` draws.

Legend: N completions of a rollout, A = completions still computed, V vocabulary.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def draw_tokens(probs_AV: Tensor, rows_A: Tensor, num_rows: int) -> Tensor:
    """A token [N] for each of `num_rows` rows, of which `rows_A` have these probabilities; tokens of other rows mean nothing."""
    is_whole = len(rows_A) == num_rows
    if probs_AV.device.type == "cpu" and probs_AV.dtype == torch.float32 and draws_one_by_one():
        uniform_NV = torch.empty(num_rows, probs_AV.shape[1], dtype=torch.float64).uniform_()
        exponential_AV = _to_exponential(uniform_NV if is_whole else uniform_NV[rows_A])
        drawn_A = torch.div(probs_AV, exponential_AV, out=exponential_AV).argmax(dim=-1)
        return drawn_A if is_whole else drawn_A.new_zeros(num_rows).index_copy_(0, rows_A, drawn_A)
    probs_NV = probs_AV if is_whole else probs_AV.new_ones(num_rows, probs_AV.shape[1]).index_copy_(0, rows_A, probs_AV)
    return torch.multinomial(probs_NV, num_samples=1)[:, 0]


@cache
def draws_one_by_one() -> bool:
    """Whether this build and CPU make exponential numbers from uniform ones in double precision, in their order."""
    one, other = (torch.Generator().manual_seed(0) for _ in range(2))
    exponential = torch.empty(64).exponential_(generator=one)
    uniform = torch.empty(64, dtype=torch.float64).uniform_(generator=other)
    return torch.equal(exponential, _to_exponential(uniform)) and torch.equal(one.get_state(), other.get_state())


def _to_exponential(uniform: Tensor) -> Tensor:
    """Exponential numbers in float32; `uniform` is overwritten."""
    return uniform.neg_().log1p_().neg_().float()
