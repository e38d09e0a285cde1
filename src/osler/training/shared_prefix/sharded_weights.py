"""Full weights for a rollout when each process holds a part of them: FSDP version 2 and DeepSpeed's ZeRO.

Decoding reads single weight matrices for every token, so it needs all of them on every process; TRL's rollout does too under ZeRO-3. The
update runs through the wrapped model, which gathers its weights layer by layer as in any other training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def is_sharded(trainer: Any) -> bool:
    """Whether each process of this trainer holds only a part of the weights."""
    return bool(trainer.is_fsdp_enabled or trainer._dist.is_zero3)


def find_obstacle(trainer: Any) -> str | None:
    """The reason why this trainer's weights cannot be gathered for a shared rollout, or None."""
    if trainer.is_fsdp_enabled and trainer._dist.fsdp_version != 2:
        return "weights are sharded by FSDP's first version: set fsdp_version to 2"
    if trainer._dist.is_zero3 and not trainer.args.ds3_gather_for_generation:
        return "ds3_gather_for_generation is off"
    return None


class UnshardedCopy:
    """A copy of a model whose weights are empty except inside `full_weights`. Make it before the model is sharded."""

    def __init__(self, model: Any, device: torch.device) -> None:
        hollow = {weight: torch.empty_like(weight, device="meta") for weight in model.parameters()}
        stand_ins = {id(weight): torch.nn.Parameter(empty, requires_grad=False) for weight, empty in hollow.items()}
        self.model, self.device = copy.deepcopy(model, stand_ins), device
        self.model.gradient_checkpointing_disable()
        self._empty = self.model.state_dict()

    @contextmanager
    def full_weights(self, sharded: Any) -> Iterator[Any]:
        """The copy, with the weights gathered from all processes. A collective operation: every process must call it."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        weights = get_model_state_dict(sharded, options=StateDictOptions(full_state_dict=True))
        self.model.load_state_dict(weights, assign=True)
        self.model.to(self.device)  # with CPU offload the gathered weights are on the CPU
        try:
            yield self.model
        finally:
            self.model.load_state_dict(self._empty, assign=True)
