"""The benchmarks run. A step of the smallest shape, with TRL's trainer and with Osler's, on equal completions."""

import time
from pathlib import Path

import pytest

from osler import read
from osler.policies.quiet import quiet_training


def test_a_step_is_measured_with_both_trainers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import grpo_step

    shape = grpo_step.Shape(size=56, prompt=40, completion=4, num_generations=2)
    with quiet_training():
        result = grpo_step.measure(shape, 1, time.perf_counter)
    assert result["equal_completions"] == 1.0
    assert result["trl_ms"] > 0 < result["osler_ms"]
    assert result["phases"]["osler"]["prefill"] > 0


def test_the_curriculum_is_measured_on_uneven_modalities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    train, test = (read("benchmarks.curriculum:uneven", split=split, modalities=["mri", "oct"], num=100) for split in ("train", "test"))
    assert [sum(sample.modality == name for sample in train) for name in ("mri", "oct")] == [87, 13]
    assert [sum(sample.modality == name for sample in test) for name in ("mri", "oct")] == [300, 300]
