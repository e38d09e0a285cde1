"""Compare log-probabilities of shared prompts with TRL's own, once for each kind of update batch.

In half precision rounding alone changes the log-probability of a rare token by tenths, which would hide a wrong position or a branch that
sees its neighbour. So both paths are computed again with float32 weights and without autocast, where they may differ by EXACT at most; the
values that are used are compared too, by their mean, for faults of half precision itself. Where the weights are sharded there is no such
copy. Then TRL's own path is computed a second time behind more padding, and the differences may be a few times as large as its rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from accelerate.utils import AutocastKwargs
from torch import Tensor

EXACT: Final = 1e-3
"""Allowed difference of any log-probability in float32."""

MEAN_IN_HALF: Final = 5e-2
"""Allowed mean difference in half precision, beside the comparison in float32."""

TIMES_NOISE: Final = 4
"""Allowed differences in half precision of sharded weights, as a multiple of the rounding noise of TRL's own path."""

MIN_NOISE: Final = 1e-3
"""Rounding noise that is assumed at least: a CPU can round equally behind any padding."""

MORE_PADDING: Final = 8
"""Tokens of padding before the prompts when the noise is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What decides which code scores a batch: the kinds are checked one by one."""

    has_images: bool
    is_ragged: bool  # completions of unequal length
    is_padded: bool  # prompts of unequal length
    num_groups: int  # 1, or 2 for several
    continues: bool  # from the KV cache of the rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far shared log-probabilities are from TRL's, and how far they may be."""

    found: float
    allowed: float
    how: str  # "largest, in float32"

    @property
    def is_fine(self) -> bool:
        """Whether the difference is allowed; NaN is not."""
        return self.found <= self.allowed


def compare_exactly(trl_S: Tensor, shared_S: Tensor) -> Difference:
    """Log-probabilities that were both computed in float32."""
    return Difference(found=_max(trl_S, shared_S), allowed=EXACT, how="largest, in float32")


def compare_in_half(trl_S: Tensor, shared_S: Tensor) -> Difference:
    """Log-probabilities in half precision, when the same code was compared in float32."""
    return Difference(found=_mean(trl_S, shared_S), allowed=MEAN_IN_HALF, how="mean, in half precision")


def compare_with_noise(trl_S: Tensor, shared_S: Tensor, again_S: Tensor) -> tuple[Difference, Difference]:
    """Log-probabilities in half precision, with TRL's `again_S` behind more padding: their mean and their largest difference."""
    mean, largest = (max(measure(trl_S, again_S), MIN_NOISE) for measure in (_mean, _max))
    return (
        Difference(found=_mean(trl_S, shared_S), allowed=TIMES_NOISE * mean, how="mean, against rounding"),
        Difference(found=_max(trl_S, shared_S), allowed=TIMES_NOISE * max(largest, 10 * MIN_NOISE), how="largest, against rounding"),
    )


def _max(one_S: Tensor, other_S: Tensor) -> float:
    return float((one_S - other_S).abs().float().max())


def _mean(one_S: Tensor, other_S: Tensor) -> float:
    return float((one_S - other_S).abs().float().mean())


def exact_twin(model: Any) -> Any:
    """A copy of an unwrapped model with float32 weights and without autocast. Weights that are float32 already are shared, not copied.

    Raises torch.OutOfMemoryError.
    """
    weights: dict[int, Any] = {
        id(weight): weight
        if weight.dtype == torch.float32
        else torch.nn.Parameter(weight.detach().float(), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    twin = copy.deepcopy(model, weights)
    for module in twin.modules():
        if (original := vars(module).pop("_original_forward", None)) is not None:  # accelerate's autocast stands in front of it
            module.forward = original
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(module, name, buffer.float())
    return twin


@contextmanager
def without_autocast(accelerator: Any) -> Iterator[None]:
    """Mixed precision off, for code that asks the accelerator for it too."""
    handler = accelerator.autocast_handler
    accelerator.autocast_handler = AutocastKwargs(enabled=False)
    try:
        with torch.autocast(accelerator.device.type, enabled=False):
            yield
    finally:
        accelerator.autocast_handler = handler
