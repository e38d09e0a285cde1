"""What the trainer keeps between TRL's callbacks: one object for each generation batch.

TRL generates completions for a batch, then makes one or several updates with them, and calls the trainer at each point (docs/sharing.md
lists the calls in order). `GenerationStep` exists from the rollout to the last of these updates; outside of it the trainer's
`generation` is None and every method is TRL's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import gcd
from typing import Any

import torch
from torch import Tensor

from osler.training.shared_prefix.attention import PromptCache
from osler.training.shared_prefix.groups import Groups
from osler.training.shared_prefix.packed_row import Letters
from osler.training.shared_prefix.rollout import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows of the tensors that TRL passes in the current call: of the whole rollout, or of one micro-batch."""

    group_ids: Sequence[int]  # of each row, the index of its group in `groups`
    block: int  # number of consecutive rows with the same prompt; below 2 nothing is shared
    batch: dict[str, Any] = field(default_factory=dict)  # the micro-batch of an update; empty in a rollout
    letters: Letters | None = None  # other letters that are scored in the place of an answer's


@dataclass(slots=True, kw_only=True)
class GenerationStep:
    """The state of one generation batch."""

    groups: Groups
    bound: int  # groups in one forward pass; 0: all, prompts one by one
    rows: Rows | None = None  # set while TRL's rollout or loss function runs
    rollout: Rollout | None = None  # from the end of decoding to the end of TRL's rollout function
    prefills: Sequence[tuple[PromptCache, tuple[int, ...]]] = ()  # the rollout's KV caches and their groups, just as long
    ref_letter_logps_NO: Tensor | None = None  # of the letters, by the policy that was scored last in the rollout, which is the reference

    @property
    def old_logps_NT(self) -> Tensor | None:
        """The log-probabilities of the policy that generated the completions, during the rollout."""
        return self.rollout.logps_NT if self.rollout is not None else None

    def begin_rollout(self, num_rows: int) -> None:
        """TRL works on all completions of the batch, group after group."""
        num_generations = self.groups.num_generations
        self.rows = Rows(group_ids=[row // num_generations for row in range(num_rows)], block=num_generations)

    def begin_update(self, batch: dict[str, Any], *, shares_prefix: bool) -> None:
        """TRL computes the loss of a micro-batch; its `group_id` holds the group of each row."""
        letters = Letters(place_N=batch["letter_place"], ids_NO=batch["letter_ids"]) if "letter_place" in batch else None
        ids_N = batch["group_id"]
        block = gcd(len(ids_N), self.groups.num_generations)
        ids_BG = ids_N.view(-1, block)
        is_whole = shares_prefix and bool(torch.all(ids_BG == ids_BG[:, :1]))
        self.rows = Rows(group_ids=ids_N.tolist(), block=block if is_whole else 0, batch=batch, letters=letters)

    def end_rollout(self) -> None:
        """The rollout is done; what an update needs of it is in `groups` and in TRL's batch."""
        self.rows = self.rollout = self.ref_letter_logps_NO = None
        self.prefills = ()

    def end_update(self) -> None:
        """The loss is computed. The weights change next, so the autograd graph of the prompts is not used again."""
        self.rows = None
        self.groups.graph = []
