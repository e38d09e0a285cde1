"""Scores of more groups than memory holds the graphs of, part by part.

Each part is computed without a graph first and, when the gradient of its scores is known, once more with one.

A loss depends on the model through its log-probabilities and entropies alone. So their gradient is enough to send each part backward by
itself, and what remains in memory is one part's graph (the gradient cache of Gao et al., 2021, arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from osler.training.shared_prefix.groups import Scores, join

Part = Callable[[], Scores]
"""Computes the scores of some groups; the same each time."""


def score_in_parts(parts: Sequence[Part]) -> Scores:
    """The scores of all parts, whose gradient reaches the weights that the parts use. For one process: no other waits for a part."""
    scores: Scores = _Parts.apply(torch.zeros((), requires_grad=True), parts)  # type: ignore[no-untyped-call]
    return scores


class _Parts(torch.autograd.Function):
    """Its one tensor input only makes PyTorch ask for a gradient: weights receive theirs within `backward`."""

    @staticmethod
    def forward(ctx: Any, _anchor: Tensor, parts: Sequence[Part]) -> Scores:
        ctx.set_materialize_grads(False)  # without an entropy bonus nothing need go backward through entropies
        with torch.no_grad():
            found = [part() for part in parts]
        ctx.parts, ctx.sizes = parts, [len(logps) for logps, _ in found]
        return join(found)

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
