"""`osler train` and `osler sft` for `test_two_processes`, which starts this twice at once: `two_process_runs.py POLICY FOLDER CASES`.

Both processes run the commands of those `CASES` in turn. The first writes the weights that each training ended with, as the trainer held
them, to compare with the policy that was saved.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from small_runs import forget_after

from osler.cli.main import main
from osler.run_folder import Run
from osler.training import checkpoints, grpo

LORA = ("--policy.lora.r=4", "--grpo.beta=0.04")
CURRICULUM = (  # one question a step, half of its completions on each process
    *("--data.train.modalities=['mri', 'ct']", "--data.train.limit=8", "--data.mixture=balanced", "--data.curriculum=variance"),
    *("--data.curriculum_refresh=1", "--grpo.num_generations=4", "--grpo.max_steps=4", "--grpo.save_steps=4"),
)
UNEVEN = (  # completions of unequal length on one process, and of equal length on the other
    *("--policy.path=osler-tiny", "--data.train.limit=16", "--sampling.max_completion_length=12"),
    *("--grpo.num_generations=4", "--grpo.per_device_train_batch_size=4", "--grpo.max_steps=3", "--grpo.learning_rate=0"),
)
FSDP = ("--grpo.fsdp=true", "--grpo.fsdp_config={version = 2, auto_wrap_policy = 'TRANSFORMER_BASED_WRAP'}")
ZERO_3 = json.dumps(
    {
        "zero_optimization": {"stage": 3},
        **dict.fromkeys(("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"), "auto"),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own optimizer needs a compiler
    }
)
CASES: Mapping[str, tuple[str, ...]] = MappingProxyType(  # FSDP last: it leaves settings in the environment
    {
        "full": ("train", "--grpo.beta=0.04", "--grpo.save_steps=1", "--grpo.num_iterations=2"),
        "lora": ("train", *LORA),
        "curriculum": ("train", *CURRICULUM),
        "uneven": ("train", *UNEVEN),
        "sft": ("sft",),
        "fsdp_full": ("train", "--grpo.beta=0.04", *FSDP),
        "fsdp_lora": ("train", *LORA, *FSDP),
        "refused": ("train", *FSDP),  # as it is asked for on a CPU
        "zero_3_full": ("train", "--grpo.beta=0.04", f"--grpo.deepspeed={ZERO_3}"),
        "zero_3_lora": ("train", *LORA, f"--grpo.deepspeed={ZERO_3}"),
    }
)


def command(policy: str, out: Path, case: str) -> list[str]:
    """The command line of a case."""
    verb, *own = CASES[case]
    small = ["--data.train.modalities=['mri']", "--data.train.limit=4", "--data.test.limit=2", "--prompt.strategy=no_think"]
    sizes = ["--grpo.num_generations=2", "--grpo.per_device_train_batch_size=2", "--grpo.max_steps=2", "--grpo.disable_tqdm=true"]
    rewards = ["--rewards.names=['accuracy', 'format']", "--rewards.weights=[1, 1]"]
    others = ["--sampling.max_completion_length=6", "--grpo.entropy_coef=0.01", *rewards]
    rates = ["--grpo.learning_rate=1e-2", "--sft.learning_rate=1e-2", "--grpo.warmup_steps=0", "--sft.warmup_steps=0"]
    return [verb, "demo", "--out", str(out), f"--policy.path={policy}", "--policy.device=cpu", *small, *sizes, *others, *rates, *own]


def merged(weights: Mapping[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """The weights of a model with its LoRA adapter added, W + scale B A, by the names of the model without it."""
    whole = {}
    for name, weight in weights.items():
        if ".lora_" in name:
            continue
        layer = name.removesuffix(".base_layer.weight")
        if layer != name:
            down, up = (weights[f"{layer}.lora_{part}.default.weight"] for part in "AB")
            weight = weight + scale * up @ down
        whole[name.removeprefix("base_model.model.").replace(".base_layer", "")] = weight
    return whole


def watch(folder: Path) -> dict[str, Any]:
    """Make every saving of a policy write the weights in memory first, to the file that the returned dictionary names."""
    save, target = checkpoints.save_policy, {}

    def save_both(trainer: Any, *arguments: Any) -> None:
        weights = checkpoints.gather_weights(trainer)
        model = trainer.accelerator.unwrap_model(trainer.model)
        if weights is None:
            weights = model.state_dict()
        if getattr(trainer, "curriculum", None) is not None:
            (counted := folder / f"{target['name']}-{trainer.accelerator.process_index}").mkdir()
            trainer.curriculum.save(counted)
        if trainer.accelerator.is_main_process:
            config = model.peft_config["default"] if hasattr(model, "peft_config") else None
            torch.save(merged(weights, config.lora_alpha / config.r) if config else weights, folder / f"{target['name']}.pt")
        save(trainer, *arguments)

    checkpoints.save_policy = save_both
    return target


def run_all(policy: str, folder: Path, cases: Sequence[str]) -> None:
    """The cases; the full training three times, as it is, resumed from its first checkpoint, and anew."""
    target = watch(folder)
    codes = {}
    build = grpo.build_trainer

    def build_sharded(*arguments: Any, **more: Any) -> Any:
        # accelerate shards on GPUs alone, though FSDP works on a CPU as well; to build the arguments resets its state
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        trainer = build(*arguments, **more)
        assert trainer.is_fsdp_enabled
        return trainer

    def run(case: str, name: str, *more: str) -> None:
        AcceleratorState._reset_state()
        grpo.build_trainer = build_sharded if case.startswith("fsdp") else build
        target["name"] = name
        codes[name] = main([*command(policy, folder / (case if more or name == "resumed" else name), case), *more])
        torch.distributed.barrier()

    for case in cases:
        run(case, case)
        if case == "full":
            if os.environ["RANK"] == "0":
                forget_after(Run(root=folder / "full"), 1)
            torch.distributed.barrier()
            run("full", "resumed")
            run("full", "anew", "--fresh")
    if os.environ["RANK"] == "0":
        (folder / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    run_all(sys.argv[1], Path(sys.argv[2]), sys.argv[3].split(","))
    sys.stdout.flush()
