"""Two processes that share the work of a step compute what one process does alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sharing_cases import pay, run
from tiny_checkpoint import save_tiny

TESTS = Path(__file__).parent
SETTINGS = [
    ("one_update", {}, {}),
    ("beta", {"beta": 0.04, "loss_type": "grpo"}, {}),
    ("accumulation", {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}, {}),
    ("lora", {"beta": 0.04}, {"policy": {"lora": {"r": 4}}}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("grpo", "sections"), [row[1:] for row in SETTINGS], ids=[row[0] for row in SETTINGS])
def test_two_processes_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grpo: dict[str, Any], sections: dict[str, Any]) -> None:
    """Two processes with sharing, four completions each, against one of TRL's with eight: it is handed the completions they wrote."""
    monkeypatch.chdir(tmp_path)
    policy = save_tiny(tmp_path / "policy", hidden=32, layers=2)
    settings = json.dumps({"grpo": grpo, "sections": sections})
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)])}
    command = [*launcher, str(TESTS / "sharing_training.py"), str(policy), str(tmp_path), settings]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    written = [json.loads((tmp_path / f"completions-{rank}.json").read_text()) for rank in (0, 1)]
    rollouts = iter([first + second for first, second in zip(*written, strict=True)])
    assert written[0] != written[1]

    def replay(trainer: Any) -> None:
        trainer._generate_single_turn = lambda *_args, **_kwargs: (next(rollouts), None)

    whole = {**grpo, "per_device_train_batch_size": 2 * grpo.get("per_device_train_batch_size", 4)}
    alone = run(policy, pay, whole, dict(sections), share=False, prepare=replay)
    for found, expected in zip(json.loads((tmp_path / "logged.json").read_text()), alone[2], strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-6)
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4, abs=1e-7)
        assert found["reward"] == pytest.approx(expected["reward"], abs=1e-6)
    for name, weight in torch.load(tmp_path / "weights.pt", weights_only=True).items():
        torch.testing.assert_close(weight, alone[3][name], rtol=0, atol=1e-5)
