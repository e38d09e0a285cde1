"""Gradient cache: the backward pass of many groups with the autograd graph of only one part of them in memory.

A GRPO loss depends on the weights only through log-probabilities and entropies. So each part is computed without a graph first; when the
gradient of its scores is known, it is computed again with a graph, and its backward pass runs alone (Gao et al., 2021, arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from osler.training.shared_prefix.groups import Scores, join

Part = Callable[[], Scores]
"""Computes the scores of some groups; each call gives the same result."""


def score_in_parts(parts: Sequence[Part]) -> Scores:
    """The scores of all parts, with gradients for the weights that the parts use. For one process: others would wait at each part."""
    scores: Scores = _Parts.apply(torch.zeros((), requires_grad=True), parts)  # type: ignore[no-untyped-call]
    return scores


class _Parts(torch.autograd.Function):
    """The tensor input only makes PyTorch call `backward`, in which the weights receive their gradients."""

    @staticmethod
    def forward(ctx: Any, _anchor: Tensor, parts: Sequence[Part]) -> Scores:
        ctx.set_materialize_grads(False)  # None for entropies when the loss has no entropy bonus
        with torch.no_grad():
            scores = [part() for part in parts]
        ctx.parts, ctx.sizes = parts, [len(logps) for logps, _ in scores]
        return join(scores)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[None, None]:
        split = [[None] * len(ctx.sizes) if given is None else torch.split(given, ctx.sizes) for given in gradients]
        for part, *own in zip(ctx.parts, *split, strict=True):
            with torch.enable_grad():
                scores = part()
            pairs = zip(scores, own, strict=True)
            known = [(score, given) for score, given in pairs if score is not None and given is not None and score.requires_grad]
            if known:
                torch.autograd.backward([score for score, _ in known], [given for _, given in known])
        return None, None
