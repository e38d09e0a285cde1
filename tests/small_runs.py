"""Small recipes, one-colour images and readers of metrics files, for the tests of training."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from osler.config import Config, build_config
from osler.run_folder import Run
from osler.types import Sample

CLOCKS = {"time_s", "step_time"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SolidImage:
    """A square of one grey."""

    grey: int
    size: int

    @property
    def uri(self) -> str:
        return f"solid:{self.grey}/{self.size}"

    def load(self) -> Image.Image:
        return Image.new("RGB", (self.size, self.size), (self.grey,) * 3)


def solid_sample(*squares: tuple[int, int]) -> Sample:
    """A question with the greys of its images, in order, in its text."""
    greys = [grey for grey, _ in squares]
    return Sample(
        id=f"solid/{'-'.join(map(str, greys))}",
        dataset="solid",
        images=tuple(SolidImage(grey=grey, size=size) for grey, size in squares),
        question=f"Greys {' '.join(map(str, greys))} end?",
        choices=("yes", "no"),
        target="A",
        modality=None,
        question_type=None,
    )


SOLID_SAMPLES = (
    solid_sample((0, 56)),
    solid_sample((40, 112)),
    solid_sample((80, 84), (120, 56)),
    solid_sample((160, 84)),
    solid_sample((200, 112)),
    solid_sample((240, 56), (20, 112)),
)


def recipe(policy: Path, /, **sections: Any) -> Config:
    """Four MRI phantoms, two questions a step with two completions each, two steps; `sections` go on top, key by key."""
    values: dict[str, Any] = {
        "data": {"reader": "phantom", "train": {"modalities": ["mri"], "limit": 4}, "test": {"modalities": ["ct"], "limit": 2}},
        "prompt": {"strategy": "no_think"},
        "policy": {"path": str(policy), "device": "cpu"},
        "sampling": {"max_completion_length": 6},
        "grpo": {
            "num_generations": 2,
            "per_device_train_batch_size": 4,
            "max_steps": 2,
            "learning_rate": 1e-3,
            "entropy_coef": 0.01,  # a gradient even where all rewards are zero
            "disable_tqdm": True,
        },
        "sft": {"learning_rate": 1e-3},
    }
    for name, section in sections.items():
        values[name] = {**values[name], **section} if isinstance(section, dict) and name in values else section
    return build_config(values)


def read_lines(run: Run) -> list[dict[str, Any]]:
    """The metrics of a run without the measured times."""
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS and not key.startswith("seconds/")} for line in lines]


def assert_same_lines(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """The same steps with the same numbers up to rounding."""
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def forget_after(run: Run, step: int) -> None:
    """Make a finished run look as if it had been killed just after that step's checkpoint."""
    shutil.rmtree(run.policy)
    for checkpoint in run.checkpoints.glob("checkpoint-*"):
        if int(checkpoint.name.partition("-")[2]) > step:
            shutil.rmtree(checkpoint)


def as_run(policy: Path, folder: Path) -> Path:
    """A run folder around a checkpoint, without training and evaluation."""
    folder.mkdir()
    (folder / "config.json").write_text(build_config({"policy": {"path": str(policy)}}).to_json())
    shutil.copytree(policy, folder / "policy")
    return folder
