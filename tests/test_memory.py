"""Memory: how many groups a forward pass may hold, and what to change when it was too much."""

from pathlib import Path
from typing import Any

import pytest
import torch
from shared_prefix_cases import UNLIKE, make_completions, make_sharp, read_groups
from small_runs import recipe

from osler.errors import OslerError
from osler.training.grpo import train_grpo
from osler.training.shared_prefix.attention import branch_mask, groups_within, install
from osler.training.shared_prefix.packed_row import pack

MEDVLM_R1 = {"num_generations": 8, "repeats": 6, "prompt": 300, "completion": 512, "itemsize": 2}
PER_GROUP = 8 * 6 * 512 * 816 * 2  # 300 + 512 tokens, rounded up to 816


@pytest.mark.parametrize(
    ("memory", "groups"), [(4 * 8 * PER_GROUP, 8), (4 * 8 * PER_GROUP - 4, 7), (4 * PER_GROUP, 1), (0, 1), (40 * 10**9, 249)]
)
def test_a_mask_takes_a_quarter_of_the_free_memory(memory: int, groups: int) -> None:
    assert groups_within(memory, **MEDVLM_R1) == groups


@pytest.mark.parametrize(("prompt", "steps", "repeats"), [(3, 2, 1), (16, 16, 2), (300, 12, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_mask_is_as_large_as_planned(prompt: int, steps: int, repeats: int, dtype: torch.dtype) -> None:
    """Its rows are aligned, so that no layer copies it; 8 rows a group."""
    mask = branch_mask(torch.ones(8, prompt, dtype=torch.bool), steps, repeats, dtype)
    assert (mask.shape, mask.stride(-2) % 16) == ((8, 1, steps * repeats, prompt + steps), 0)
    sizes = {"num_generations": 8, "repeats": repeats, "prompt": prompt, "completion": steps, "itemsize": dtype.itemsize}
    assert groups_within(4 * mask.untyped_storage().nbytes(), **sizes) == 1
    assert groups_within(8 * mask.untyped_storage().nbytes(), **sizes) == 2


def test_all_layers_share_one_mask() -> None:
    """A boolean mask would become a tensor of its own in every layer, kept for the backward pass."""
    model, prompts = make_sharp("qwen2_vl"), read_groups("qwen2_vl", UNLIKE).prompts([0, 1])
    install(model)
    inputs = pack(model, prompts, *make_completions([4, 2, 3, 4, 1, 4]))
    saved: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[-2:] == inputs["layout"].mask.shape[-2:] and tensor.dtype == torch.float32:
            saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**inputs, fused_lm_head=True)
    assert {tensor.untyped_storage().data_ptr() for tensor in saved} == {inputs["layout"].mask.untyped_storage().data_ptr()}


def too_large_at_step_one(trainer_state: Any, completions: list[Any], **_: Any) -> list[float]:
    """A reward function in a process whose memory does not suffice from the second step on."""
    if trainer_state.global_step == 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 12.00 GiB")
    return [float(row % 2) for row in range(len(completions))]


ROWS: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    (
        "default",
        {},
        ["groups_per_forward=1", "gradient_checkpointing=true", "max_completion_length", "lora.r=16"],
        ["max_pixels", "static"],
    ),
    (
        "spent",
        {
            "trainer": {"groups_per_forward": 1, "static_decoding": True},
            "policy": {"lora": {"r": 2}},
            "grpo": {"gradient_checkpointing": True},
        },
        [
            "static_decoding=false",
            "max_completion_length",
            "max_pixels",
            "per_device_train_batch_size=2 with gradient_accumulation_steps=2",
        ],
        ["groups_per_forward", "gradient_checkpointing", "lora"],
    ),
]


@pytest.mark.integration
@pytest.mark.parametrize(("sections", "named", "unnamed"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_lack_of_memory_names_settings(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sections: dict[str, Any],
    named: list[str],
    unnamed: list[str],
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    rewards = {"names": ["test_memory:too_large_at_step_one"], "weights": None}
    with pytest.raises(OslerError) as caught:
        train_grpo(recipe(tiny_folder, rewards=rewards, **sections), tmp_path / "run")
    text = str(caught.value)
    assert text.startswith("out of memory on cpu at step 1. Change ")
    assert "\n" not in text
    assert all(word in text for word in named)
    assert not any(word in text for word in unnamed)
