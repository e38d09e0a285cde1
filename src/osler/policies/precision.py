"""The modes in which a model computes, and its share of a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def without_gradient(model: Any) -> Iterator[None]:
    """Inference mode; under autocast a mode in which every weight is cast once and not for every token.

    The cache of autocast keeps no weight in inference mode, and elsewhere only those that require a gradient (torch 2.13).
    """
    import torch

    if not torch.is_autocast_enabled(next(model.parameters()).device.type):
        with torch.inference_mode():
            yield
        return
    frozen = [weight for weight in model.parameters() if not weight.requires_grad and weight.dtype == torch.float32]
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        with torch.no_grad():
            yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


@contextmanager
def spare_core(device: torch.device) -> Iterator[None]:
    """On a CPU keep one core free for the next batch: torch threads that wait for a core spin, which is ten times slower on two cores."""
    import torch

    threads = torch.get_num_threads()
    if device.type == "cpu" and threads > 1:
        torch.set_num_threads(threads - 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
