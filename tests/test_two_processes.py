"""Two processes train from the command to the saved folder; what is saved is what was trained."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from small_runs import assert_same_lines, read_lines
from tiny_checkpoint import save_tiny
from two_process_runs import CASES, command

from osler.cli.main import main
from osler.policies.load import load_policy
from osler.run_folder import Run
from osler.training.curriculum import FILE

pytestmark = pytest.mark.integration

TESTS = Path(__file__).parent


def test_two_processes_train_what_they_save(tmp_path: Path) -> None:
    """All cases in a row, because the start of the two processes takes longer than their trainings."""
    cases = [case for case in CASES if not case.startswith("zero")]
    train_in_two(tmp_path, cases)
    for name in (*(case for case in cases if case not in ("uneven", "refused")), "anew"):
        check_saved_policy(tmp_path, name)
    for name in (name for name in cases if name.endswith("lora")):
        check_adapter(tmp_path / name)
    check_whole_run(tmp_path)
    counted = {(tmp_path / folder / FILE).read_text() for folder in ("curriculum-0", "curriculum-1", "curriculum/checkpoints/checkpoint-4")}
    assert len(counted) == 1  # both processes, and the checkpoint
    assert sum(json.loads(counted.pop())["asked"]) == 4


@pytest.mark.slow
def test_two_processes_under_deepspeed_train_what_they_save(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    cases = [case for case in CASES if case.startswith("zero")]
    train_in_two(tmp_path, cases)
    for name in cases:
        check_saved_policy(tmp_path, name)
    check_adapter(tmp_path / "zero_3_lora")


@pytest.mark.slow
def test_deepspeed_asks_for_a_launcher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    assert main(command(str(save_tiny(tmp_path / "policy")), tmp_path / "run", "zero_3_full")) == 2
    assert "deepspeed needs a launcher" in capsys.readouterr().err


def train_in_two(folder: Path, cases: Sequence[str]) -> None:
    """Two processes run the commands of `cases` in `folder`; all but the refused one must succeed."""
    policy = save_tiny(folder / "policy", hidden=32, layers=2)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)])}
    start = [*launcher, str(TESTS / "two_process_runs.py"), str(policy), str(folder), ",".join(cases)]
    ended = subprocess.run(start, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr[:2000] + ended.stderr[-2000:]
    codes = json.loads((folder / "codes.json").read_text())
    assert codes == {name: 2 if name == "refused" else 0 for name in codes}, ended.stderr[-3000:]
    assert ("osler: fsdp shares weights among GPUs only" in ended.stderr) == ("refused" in codes)


def check_saved_policy(folder: Path, name: str) -> None:
    """What was saved is what was trained, and not the start."""
    run = {"full": "full.1", "anew": "full"}.get(name, name)  # the last case has set the first aside
    saved, start = (load_policy(path).model.state_dict() for path in (folder / run / "policy", folder / "policy"))
    trained = torch.load(folder / f"{name}.pt", weights_only=True)
    assert set(saved) == set(trained), name
    for key, weight in saved.items():
        torch.testing.assert_close(weight, trained[key], rtol=0, atol=1e-6)
    assert any((weight - start[key]).abs().max() > 1e-3 for key, weight in saved.items()), name


def check_adapter(run: Path) -> None:
    """The adapter that is kept gives the merged policy on its base."""
    adapter = run / "adapter"
    assert {path.name for path in adapter.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    merged, whole = (load_policy(path).model.state_dict() for path in (adapter, run / "policy"))
    for key, weight in whole.items():
        torch.testing.assert_close(merged[key], weight, rtol=0, atol=1e-6)


def check_whole_run(folder: Path) -> None:
    """One process alone moves the old run, and a run that was killed after its first step resumes as if nothing had happened."""
    assert (folder / "full.1").is_dir()
    assert not (folder / "full.2").exists()
    resumed, anew = (torch.load(folder / f"{name}.pt", weights_only=True) for name in ("resumed", "anew"))
    for key, weight in resumed.items():
        torch.testing.assert_close(weight, anew[key], rtol=0, atol=1e-5)
    assert_same_lines(read_lines(Run(root=folder / "full.1")), read_lines(Run(root=folder / "full")))
