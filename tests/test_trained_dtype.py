"""Which weights a training may change: float32 ones, those of an adapter, and bfloat16 ones of which DeepSpeed keeps float32 copies."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import forget_after, recipe

from osler.cli.main import main
from osler.config import build_config
from osler.errors import ConfigError
from osler.run_folder import Run
from osler.training.arguments import check_trained_dtype
from osler.training.grpo import train_grpo
from osler.training.sft import train_sft

BF16, LORA = {"dtype": "bfloat16"}, {"lora": {"r": 4}}
ZERO = {"zero_optimization": {"stage": 3}, "bf16": {"enabled": "auto"}}
ROUNDED = {**ZERO, "bf16": {"enabled": "auto", "bf16_master_weights_and_grads": True}}

# Section, its settings, those of [policy], what a refusal ends with; None: it trains.
ROWS: list[tuple[str, dict[str, Any], dict[str, Any], str | None]] = [
    ("grpo", {}, {}, None),
    ("grpo", {"bf16": True}, {}, None),
    ("grpo", {}, {**BF16, **LORA}, None),
    ("grpo", {}, BF16, "--policy.dtype=float32 --grpo.bf16=true, or an adapter, --policy.lora.r=16"),
    ("grpo", {"bf16": True}, BF16, "--policy.dtype=float32 --grpo.bf16=true, or an adapter, --policy.lora.r=16"),
    ("sft", {}, BF16, "--policy.dtype=float32 --sft.bf16=true, or an adapter, --policy.lora.r=16"),
    ("sft", {}, {**BF16, **LORA}, None),
    ("grpo", {"deepspeed": ZERO}, {}, None),
    ("grpo", {"deepspeed": ZERO}, BF16, "add --grpo.bf16=true"),
    ("grpo", {"deepspeed": ZERO}, {**BF16, **LORA}, "add --grpo.bf16=true"),  # under ZeRO-3 TRL keeps the adapter in bfloat16 too
    ("grpo", {"deepspeed": ZERO, "bf16": True}, BF16, None),
    ("grpo", {"deepspeed": json.dumps(ZERO), "bf16": True}, BF16, None),
    ("sft", {"deepspeed": ZERO, "bf16": True}, BF16, None),
    ("grpo", {"deepspeed": ROUNDED, "bf16": True}, {}, "leave it out"),
    ("grpo", {"deepspeed": json.dumps(ROUNDED), "bf16": True}, BF16, "leave it out"),
    ("grpo", {"deepspeed": "nowhere.json"}, BF16, "--policy.dtype=float32 --grpo.bf16=true, or an adapter, --policy.lora.r=16"),
]


@pytest.mark.parametrize(("section", "values", "policy", "ending"), ROWS)
def test_weights_that_would_stand_still_are_refused(
    section: str, values: dict[str, Any], policy: dict[str, Any], ending: str | None
) -> None:
    config = build_config({section: values, "policy": policy})
    if ending is None:
        check_trained_dtype(config, section)
        return
    with pytest.raises(ConfigError) as caught:
        check_trained_dtype(config, section)
    assert str(caught.value).endswith(ending)
    assert "\n" not in str(caught.value)


def test_a_file_of_deepspeed_is_read_and_sft_takes_bf16_from_grpo(tmp_path: Path) -> None:
    file = tmp_path / "zero3.json"
    file.write_text(json.dumps(ZERO))
    shared = {"grpo": {"bf16": True}, "sft": {"deepspeed": str(file)}, "policy": BF16}
    check_trained_dtype(build_config(shared), "sft")
    with pytest.raises(ConfigError, match=r"add --sft.bf16=true$"):
        check_trained_dtype(build_config({**shared, "grpo": {}}), "sft")


@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["run", "dry"])
@pytest.mark.parametrize("verb", ["train", "sft"])
def test_the_command_line_refuses_before_it_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, more: list[str]) -> None:
    arguments = [verb, "demo", "--out", str(tmp_path / "run"), "--policy.path=nowhere", "--policy.dtype=bfloat16", *more]
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "they would stand still" in said.err
    assert said.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.integration
@pytest.mark.parametrize("start", [pytest.param(train_grpo, id="grpo"), pytest.param(train_sft, id="sft", marks=pytest.mark.slow)])
def test_an_adapter_has_float32_weights_that_move(tiny_folder: Path, tmp_path: Path, start: Callable[..., Run]) -> None:
    """On bfloat16 weights, at a small learning rate, also after a resume; peft stores the adapter as it was trained."""
    steps = {"max_steps": 3, "save_steps": 1, "save_total_limit": 3, "learning_rate": 1e-6}
    config = recipe(tiny_folder, policy={**BF16, **LORA}, grpo=steps, sft=steps)
    run = start(config, tmp_path / "run")
    forget_after(run, 1)
    before = load_file(run.checkpoints / "checkpoint-1/adapter_model.safetensors")
    after = load_file(start(config, run.root).adapter / "adapter_model.safetensors")
    assert {weight.dtype for weight in (*before.values(), *after.values())} == {torch.float32}
    moved = [(weight != before[name]).double().mean().item() for name, weight in after.items() if "lora_B" in name]
    assert min(moved) > 0.9
    assert {weight.dtype for weight in load_file(run.policy / "model.safetensors").values()} == {torch.bfloat16}
