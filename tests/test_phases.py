"""The seconds of each phase of a step: whole, on both paths, and without effect on copies of the model."""

import copy
import json
from pathlib import Path

import pytest
import torch
from small_runs import recipe

from osler.training.grpo import train_grpo
from osler.training.phases import PHASES, PhaseTimer


def test_inner_phases_do_not_count_for_outer_ones() -> None:
    readings = iter([0.0, 1.0, 4.0, 10.0, 11.0, 13.0])
    timer = PhaseTimer(lambda: next(readings))
    with timer.phase("outer"), timer.phase("inner"):
        pass
    with pytest.raises(ValueError, match="x"), timer.phase("inner"):
        raise ValueError("x")
    assert timer.seconds == {"outer": 7.0, "inner": 5.0}


def test_a_copy_of_a_watched_module_computes_with_its_own_weights() -> None:
    layer, timer = torch.nn.Linear(2, 2), PhaseTimer(iter(range(100)).__next__)
    timer.watch(layer, "layer")
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.weight.zero_()
        twin.bias.zero_()
    assert twin(torch.ones(1, 2)).abs().sum() == 0
    layer(torch.ones(1, 2))
    assert timer.seconds == {"layer": 2}
    with pytest.raises(RuntimeError):
        layer(torch.ones(1, 3))
    assert timer.seconds == {"layer": 3}  # closed after an error too


@pytest.mark.integration
@pytest.mark.parametrize("share", [True, False], ids=["shared", "trl"])
def test_every_step_says_where_its_time_went(tiny_folder: Path, tmp_path: Path, share: bool) -> None:
    run = train_grpo(recipe(tiny_folder, trainer={"share_prefix": share}, policy={"lora": {"r": 4}} if share else {}), tmp_path / "run")
    for line in [json.loads(line) for line in run.metrics.read_text().splitlines()]:
        seconds = {name: line[f"seconds/{name}"] for name in PHASES}
        assert all(value >= 0 for value in seconds.values())
        assert all(seconds[name] > 0 for name in ("processor", "vision", "prefill", "decode", "update forward", "backward", "optimiser"))
        assert sum(seconds.values()) >= line["step_time"]
