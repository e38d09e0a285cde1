"""What a CUDA graph does, on a CPU: the operators of one call are kept with their operands, and run again on the same memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recording(TorchDispatchMode):
    """Inside the context, operators are kept; `play` runs them again. No Python of the recorded code runs then."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        assert all(isinstance(leaf, Tensor) for leaf in tree_leaves(result)), f"{function} reads a value, which a CUDA graph cannot"
        self.calls.append((function, args, kwargs or {}, result))
        return result

    def play(self) -> None:
        for function, args, kwargs, result in self.calls:
            for old, new in zip(tree_leaves(result), tree_leaves(function(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():  # neither a view nor an operand that was changed in place
                    old.copy_(new)


def record_operators(step: Callable[[Tensor, Tensor], Tensor], num_rows: int, device: torch.device) -> Callable[[Tensor, int], Tensor]:
    """A stand-in for `cuda_graph.record`. Unlike a graph, it runs the step once while it records."""
    tokens_A, place = torch.zeros(num_rows, dtype=torch.long, device=device), torch.zeros(1, dtype=torch.long, device=device)
    with Recording() as recording:
        logits_AV = step(tokens_A, place)

    def play(tokens: Tensor, place_index: int) -> Tensor:
        tokens_A.copy_(tokens)
        place.fill_(place_index)
        with torch.autocast(device.type, enabled=False):
            recording.play()
        return logits_AV.clone()

    return play
