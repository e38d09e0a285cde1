"""Dynamic sampling: groups whose completions all have the same reward give no gradient and are replaced by other questions.

From DAPO (Yu et al., 2025, arXiv 2503.14476, section 3.2), with a bound on the number of rounds.

Legend: B groups, G generations of a group, N = B G completions, P prompt, C completion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from osler.training.rollout_state import COLUMNS


def _columns(dims: str) -> tuple[str, ...]:
    return tuple(name for name, column in COLUMNS.items() if column.dims == dims)


LEFT, RIGHT, BOTH = _columns("NP"), _columns("NC"), _columns("NS")  # padded on the left, on the right; a prompt's, then a completion's
WHOLE: Final = ("advantages",)


def find_equal(advantages_N: Tensor, num_generations: int) -> list[int]:
    """The indices of groups whose completions all have the advantage 0."""
    alive_B = (advantages_N.view(-1, num_generations) != 0).any(dim=1)
    equal: list[int] = (~alive_B).nonzero()[:, 0].tolist()
    return equal


def replace_groups(
    batch: Mapping[str, Any], fresh: Mapping[str, Any], places: Mapping[int, int], num_generations: int, pad_id: int
) -> dict[str, Any]:
    """`batch` with some groups replaced by groups of `fresh`: `{index in batch: index in fresh}`. Both are TRL's output of a rollout.

    Rows are padded to the larger width of both. A key that only one of them has, or that is unknown, is an error.
    """
    if batch.keys() != fresh.keys():
        raise AssertionError(f"rollouts with different keys: {sorted(batch.keys() ^ fresh.keys())}")
    steps = torch.arange(num_generations)
    old_N = torch.cat([place * num_generations + steps for place in places])
    new_N = torch.cat([group * num_generations + steps for group in places.values()])
    prompt, completion = (max(one[name].shape[1] for one in (batch, fresh)) for name in ("prompt_ids", "completion_ids"))

    def widen(one: Mapping[str, Any], name: str) -> Tensor:
        tensor: Tensor = one[name]
        own_prompt, own_completion = one["prompt_ids"].shape[1], one["completion_ids"].shape[1]
        left = 0 if name in RIGHT else prompt - own_prompt
        right = 0 if name in LEFT else completion - own_completion
        return pad(tensor, (left, right), value=pad_id if name.endswith("_ids") and name not in BOTH else 0)

    merged: dict[str, Any] = {}
    for name in batch:
        is_whole = name in WHOLE or (name in RIGHT and batch[name].shape[1] == fresh[name].shape[1] == 1)
        if is_whole:
            merged[name] = batch[name].clone()
            merged[name][old_N] = fresh[name][new_N]
        elif name in (*LEFT, *RIGHT, *BOTH):
            merged[name] = widen(batch, name).clone()
            merged[name][old_N] = widen(fresh, name)[new_N]
        elif name == "group_id":  # a new group takes the index of the group that it replaces
            merged[name] = batch[name]
        elif name != "num_items_in_batch":
            raise AssertionError(f"a rollout holds {name}, which dynamic sampling does not know")
    merged["num_items_in_batch"] = merged["completion_mask"].sum()
    return merged
