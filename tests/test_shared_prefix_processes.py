"""Two processes that share the work of a step compute what one process does alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_prefix_cases import SAMPLES, pay, run
from tiny_checkpoint import save_tiny

from osler.data.donors import find_contradicting

TESTS = Path(__file__).parent
SETTINGS = [
    ("one_update", {}, {}),
    ("beta", {"beta": 0.04, "loss_type": "grpo"}, {}),
    ("accumulation", {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}, {}),
    ("lora", {"beta": 0.04}, {"policy": {"lora": {"r": 4}}}),
]


FSDP = {
    "fsdp": "full_shard",
    "fsdp_config": {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "cpu_ram_efficient_loading": False},
}


def deepspeed(stage: int) -> dict[str, Any]:
    """DeepSpeed's own optimizer needs a compiler; TRL's is as good."""
    sizes = {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto"}
    others = {"gradient_clipping": "auto", "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    return {"deepspeed": {"zero_optimization": {"stage": stage}, **sizes, **others}}


# Of four completions some are cut off, and a process may be left with none to learn from, while others wait for it in every layer.
TRUNCATED = {"mask_truncated_completions": True, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "max_steps": 4}
SHARDED = [
    ("fsdp", FSDP, {}, True),
    ("fsdp_beta", {**FSDP, "beta": 0.04, "loss_type": "grpo", "num_iterations": 2}, {}, True),
    ("fsdp_lora_checkpointing", {**FSDP, "gradient_checkpointing": True}, {"policy": {"lora": {"r": 4}}}, True),
    ("fsdp_frozen", FSDP, {"policy": {"freeze_vision": True}}, True),
    ("fsdp_truncated", {**FSDP, **TRUNCATED}, {}, True),
    ("zero_2", deepspeed(2), {}, True),
    ("zero_3", deepspeed(3), {}, True),
    ("zero_3_iterations", {**deepspeed(3), "loss_type": "grpo", "num_iterations": 2}, {}, True),
    ("zero_3_truncated", {**deepspeed(3), **TRUNCATED}, {}, True),
    ("zero_3_spread", {**deepspeed(3), "ds3_gather_for_generation": False}, {}, False),
]


ENUMERATED = {"trainer": {"expectation": "enumerated", "min_enumerated_mass": 0}, "sampling": {"max_completion_length": 24}}
LOOKING = {**ENUMERATED, "rewards": {"looking": 0.5}}
EXPECTED = [
    ("enumerated", {"loss_type": "dapo"}, ENUMERATED),
    ("enumerated_beta", {"beta": 0.04, "loss_type": "grpo", "num_iterations": 2}, ENUMERATED),
    ("enumerated_fsdp", {**FSDP, "loss_type": "dr_grpo"}, ENUMERATED),
    ("looking", {"loss_type": "dapo"}, LOOKING),
    ("looking_fsdp", {**FSDP, "loss_type": "grpo"}, LOOKING),
]


@pytest.mark.slow
@pytest.mark.parametrize(("grpo", "sections"), [row[1:] for row in EXPECTED], ids=[row[0] for row in EXPECTED])
def test_expectations_of_two_processes_are_those_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grpo: dict[str, Any], sections: dict[str, Any]
) -> None:
    """Nothing is drawn, so nothing has to be handed over. Two questions have a twin."""
    assert sum(donor is not None for donor in find_contradicting(SAMPLES, seed=0)) == 2
    monkeypatch.chdir(tmp_path)
    policy, _ = train_in_two(tmp_path, grpo, sections, shares=True)
    plain = {name: value for name, value in grpo.items() if not name.startswith("fsdp")}
    assert_same(tmp_path, run(policy, pay, {**plain, "per_device_train_batch_size": 8}, {**sections}, share=True))


@pytest.mark.slow
@pytest.mark.parametrize(("grpo", "sections"), [row[1:] for row in SETTINGS], ids=[row[0] for row in SETTINGS])
def test_two_processes_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grpo: dict[str, Any], sections: dict[str, Any]) -> None:
    monkeypatch.chdir(tmp_path)
    assert_two_are_one(tmp_path, grpo, sections, shares=True)


@pytest.mark.slow
@pytest.mark.parametrize(("grpo", "sections", "shares"), [row[1:] for row in SHARDED], ids=[row[0] for row in SHARDED])
def test_two_processes_that_share_their_weights_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grpo: dict[str, Any], sections: dict[str, Any], shares: bool
) -> None:
    if "deepspeed" in grpo:
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    monkeypatch.chdir(tmp_path)
    said = assert_two_are_one(tmp_path, grpo, sections, shares=shares)
    assert ("prompts are not shared within groups: " in said) == (not shares)


def assert_two_are_one(folder: Path, grpo: dict[str, Any], sections: dict[str, Any], *, shares: bool) -> str:
    """Two processes, four completions each, against one of TRL's with eight, which is handed the completions that they wrote.

    Returns what they said.
    """
    policy, said = train_in_two(folder, grpo, sections, shares=shares)
    written = [json.loads((folder / f"completions-{rank}.json").read_text()) for rank in (0, 1)]
    rollouts = iter([first + second for first, second in zip(*written, strict=True)])
    assert written[0] != written[1]

    def replay(trainer: Any) -> None:
        trainer._generate_single_turn = lambda *_args, **_kwargs: (next(rollouts), None)

    plain = {name: value for name, value in grpo.items() if not name.startswith(("fsdp", "deepspeed", "ds3"))}
    whole = {**plain, "per_device_train_batch_size": 2 * grpo.get("per_device_train_batch_size", 4)}
    assert_same(folder, run(policy, pay, whole, dict(sections), share=False, prepare=replay))
    return said


def train_in_two(folder: Path, grpo: dict[str, Any], sections: dict[str, Any], *, shares: bool) -> tuple[Path, str]:
    """A training by two processes: the policy that it began with, and what it said."""
    policy = save_tiny(folder / "policy", hidden=32, layers=2)
    settings = json.dumps({"grpo": grpo, "sections": sections, "shares": shares})
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)])}
    command = [*launcher, str(TESTS / "shared_prefix_training.py"), str(policy), str(folder), settings]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return policy, ended.stderr


def assert_same(folder: Path, alone: Any) -> None:
    """What two processes logged and ended with, against a training by one."""
    for found, expected in zip(json.loads((folder / "logged.json").read_text()), alone[2], strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-6)
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4, abs=1e-7)
        assert found.get("reward") == pytest.approx(expected.get("reward"), abs=1e-6)
    for name, weight in torch.load(folder / "weights.pt", weights_only=True).items():
        torch.testing.assert_close(weight, alone[3][name], rtol=0, atol=1e-5)
