"""Two processes train from the command to the saved folder; what is saved is what was trained."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import assert_same_lines, read_lines
from tiny_checkpoint import save_tiny
from two_process_runs import CASES

from osler.policies.load import load_policy
from osler.run_folder import Run

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case trained, by one pair of processes: their start takes longer than the trainings."""
    folder = tmp_path_factory.mktemp("pair")
    policy = save_tiny(folder / "policy", hidden=32, layers=2)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)])}
    command = [*launcher, str(TESTS / "two_process_runs.py"), str(policy), str(folder)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert set(json.loads((folder / "codes.json").read_text()).values()) == {0}, ended.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", [*CASES, "resumed", "anew"])
def test_the_saved_policy_is_the_trained_one(folder: Path, name: str) -> None:
    saved = load_policy(folder / ("full" if name in ("resumed", "anew") else name) / "policy").model.state_dict()
    start = load_policy(folder / "policy").model.state_dict()
    trained = torch.load(folder / f"{name}.pt", weights_only=True)
    if name == "full":  # `anew` has replaced it since
        saved = load_policy(folder / "full.1" / "policy").model.state_dict()
    assert set(saved) == set(trained)
    for key, weight in saved.items():
        torch.testing.assert_close(weight, trained[key], rtol=0, atol=1e-6)
    assert any((weight - start[key]).abs().max() > 1e-3 for key, weight in saved.items())


def test_a_kept_adapter_loads_on_its_base(folder: Path) -> None:
    for name in ("lora", "fsdp_lora"):
        adapter = folder / name / "adapter"
        assert {path.name for path in adapter.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
        merged, whole = (load_policy(path).model.state_dict() for path in (adapter, folder / name / "policy"))
        for key, weight in whole.items():
            torch.testing.assert_close(merged[key], weight, rtol=0, atol=1e-6)


def test_only_one_process_moves_the_old_run(folder: Path) -> None:
    assert (folder / "full.1").is_dir()
    assert not (folder / "full.2").exists()


def test_a_killed_run_resumes_as_if_nothing_had_happened(folder: Path) -> None:
    resumed, anew = (torch.load(folder / f"{name}.pt", weights_only=True) for name in ("resumed", "anew"))
    for key, weight in resumed.items():
        torch.testing.assert_close(weight, anew[key], rtol=0, atol=1e-5)
    assert_same_lines(read_lines(Run(root=folder / "full.1")), read_lines(Run(root=folder / "full")))
