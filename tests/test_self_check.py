"""The comparison with TRL's log-probabilities finds planted faults in every precision, and nothing where there is none."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from shared_prefix_cases import pay, run, sharpen
from small_runs import solid_sample
from tiny_checkpoint import save_tiny

from osler.training.shared_prefix import attention, packed_row
from osler.training.shared_prefix.groups import Groups

pytestmark = pytest.mark.integration

SAMPLES = [solid_sample((0, 56), (250, 56)), solid_sample((30, 56), (160, 56)), solid_sample((90, 56)), solid_sample((200, 56))]
PRECISIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "float32": ({}, {}),
    "bf16_arithmetic": ({"bf16": True}, {}),
    "bf16_weights": ({"beta": 0.0}, {"policy": {"dtype": "bfloat16", "lora": {"r": 4}}}),
    "float32_packed": ({"gradient_checkpointing": True}, {}),
    "bf16_packed": ({"bf16": True, "gradient_checkpointing": True}, {}),
    "bf16_sharded": ({"bf16": True}, {}),  # compared with rounding noise, as where no process has all weights
}


def shift_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """Completions begin one position too late."""
    right = packed_row.next_positions
    monkeypatch.setattr(packed_row, "next_positions", lambda *args: right(*args) + 1)


def see_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every completion attends to the tokens of another one."""
    right = attention.attend_branches

    def wrong(prefix: Any, branches: Any, *args: Any) -> Any:
        query, key, value = branches
        return right(prefix, (query, key.roll(1, 0), value.roll(1, 0)), *args)

    monkeypatch.setattr(attention, "attend_branches", wrong)


def swap_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of a prompt, all of one size, are in the wrong order."""
    right = Groups.prompts

    def wrong(groups: Groups, *args: Any, **kwargs: Any) -> Any:
        prompts = right(groups, *args, **kwargs)
        patches = prompts.pixel_values.view(len(prompts.image_grid_thw), -1, prompts.pixel_values.shape[1])
        return replace(prompts, pixel_values=patches.flip(0).flatten(0, 1))

    monkeypatch.setattr(Groups, "prompts", wrong)


def nothing(_monkeypatch: pytest.MonkeyPatch) -> None:
    """No fault."""


@pytest.fixture(scope="module")
def sharp_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("policies") / "sharp", hidden=32, layers=2)


FAULTS = (shift_position, see_neighbour, swap_images)
# In `make test-integration` no false alarm in any precision, every fault in the one that GPUs train in, and one fault in every other
# precision.
FAST = {
    ("float32", see_neighbour),
    *(("bf16_arithmetic", fault) for fault in FAULTS),
    ("bf16_weights", swap_images),
    ("float32_packed", shift_position),
    ("bf16_packed", see_neighbour),
    ("bf16_sharded", shift_position),
}


@pytest.mark.parametrize(
    ("precision", "plant"),
    [
        pytest.param(
            precision,
            plant,
            id=f"{precision}-{plant.__name__}",
            marks=[] if plant is nothing or (precision, plant) in FAST else [pytest.mark.slow],
        )
        for precision in PRECISIONS
        for plant in (nothing, *FAULTS)
    ],
)
def test_planted_faults_are_found(
    sharp_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    plant: Callable[[pytest.MonkeyPatch], None],
    precision: str,
) -> None:
    plant(monkeypatch)
    grpo, sections = PRECISIONS[precision]
    samples = SAMPLES[:2] if plant is swap_images else SAMPLES

    def prepare(trainer: Any) -> None:
        sharpen(trainer.model)
        trainer._is_lockstep = precision == "bf16_sharded"

    with caplog.at_level(logging.INFO, logger="osler"):
        trainer, *_ = run(sharp_folder, pay, {"max_steps": 1, **grpo}, dict(sections), share=True, samples=samples, prepare=prepare)
    said = [record.message for record in caplog.records if "log-probabilities differ" in record.message]
    assert trainer.shares_prefix == (plant is nothing), said
    assert len(said) == 1
    assert trainer.checked
