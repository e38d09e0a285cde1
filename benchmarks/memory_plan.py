"""The memory that `osler doctor` plans, against the memory that a training takes.

    python benchmarks/memory_plan.py [--cases tiny_sft,wide_grpo] [--json]
    python benchmarks/memory_plan.py --cases true_grpo --policy DIR

Each case trains in its own process, by the code of `osler train` and `osler sft`. The measured peak is the highest resident memory while
the trainer trains, minus the resident memory before the policy was loaded. The checkpoint of the cases of true size is made by
tools/make_checkpoint.py; the wide ones are benchmark_model.py with a larger decoder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from benchmark_model import make_model, make_processor
from grpo_step import read_resident, reset_peak

from osler.config import Config, build_config
from osler.doctor.memory_plan import MemoryPlan
from osler.doctor.memory_recipe import plan_for
from osler.doctor.memory_work import Kind
from osler.policies.sources import find_policy

GIB: Final = 1 << 30
TRUE: Final = "true"
"""The policy of the cases that need --policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A training whose memory is measured."""

    policy: str = "osler-tiny"  # a packaged name, one of WIDE, or TRUE
    kind: Kind = "grpo"
    steps: int = 2  # the optimizer has states from the second on
    processes: int = 1
    sections: dict[str, Any] = field(default_factory=dict)  # of the recipe


WIDE: Final[dict[str, dict[str, int]]] = {
    "wide_100m": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "wide_200m": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 13, "num_attention_heads": 16},
    "wide_300m": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 20, "num_attention_heads": 16},
}
LORA: Final = {"lora": {"r": 16}, "freeze_vision": True}
FSDP: Final = {"fsdp": True, "fsdp_config": {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}}


def _grpo(rows: int, times: int, completion: int, **grpo: Any) -> dict[str, Any]:
    """Sections of a GRPO recipe: completions of a micro-batch, generations of a group, tokens of a completion."""
    return {
        "grpo": {"per_device_train_batch_size": rows, "num_generations": times, "entropy_coef": 0.01, **grpo},
        "sampling": {"max_completion_length": completion},
    }


def _sft(rows: int, **sft: Any) -> dict[str, Any]:
    return {"sft": {"per_device_train_batch_size": rows, **sft}}


CASES: Final[dict[str, Case]] = {
    "tiny_sft": Case(kind="sft", sections=_sft(24)),
    "tiny_lora": Case(kind="sft", sections={**_sft(24), "policy": LORA}),
    "tiny_grpo": Case(sections=_grpo(64, 8, 16)),
    "tiny_grpo_long": Case(sections=_grpo(192, 8, 48)),
    "study_grpo": Case(policy="osler-tiny-study", sections=_grpo(64, 8, 32)),
    "100m_sft": Case(policy="wide_100m", kind="sft", sections=_sft(4)),
    "100m_grpo": Case(policy="wide_100m", sections=_grpo(16, 8, 32)),
    "100m_grpo_parts": Case(policy="wide_100m", sections={**_grpo(16, 8, 32), "trainer": {"groups_per_forward": 1}}),
    "100m_grpo_accumulated": Case(policy="wide_100m", sections=_grpo(8, 8, 32, gradient_accumulation_steps=2)),
    "100m_grpo_mixed": Case(policy="wide_100m", sections=_grpo(8, 4, 16, bf16=True)),
    "100m_trl": Case(policy="wide_100m", sections={**_grpo(4, 4, 16), "trainer": {"share_prefix": False}}),
    "200m_sft_checkpointing": Case(policy="wide_200m", kind="sft", sections=_sft(4, gradient_checkpointing=True)),
    "200m_grpo_kl": Case(policy="wide_200m", sections=_grpo(8, 4, 32, beta=0.04)),
    "300m_grpo_lora": Case(policy="wide_300m", sections={**_grpo(8, 8, 32), "policy": LORA}),
    "300m_grpo_checkpointing": Case(policy="wide_300m", sections=_grpo(8, 8, 32, gradient_checkpointing=True)),
    "100m_sft_ddp": Case(policy="wide_100m", kind="sft", processes=2, sections=_sft(4)),
    "100m_grpo_ddp": Case(policy="wide_100m", processes=2, sections=_grpo(16, 8, 32)),
    "100m_sft_fsdp": Case(policy="wide_100m", kind="sft", processes=2, sections=_sft(4, **FSDP)),
    "100m_grpo_fsdp": Case(policy="wide_100m", processes=2, sections=_grpo(16, 8, 32, **FSDP)),
    "300m_grpo_lora_ddp": Case(policy="wide_300m", processes=2, sections={**_grpo(8, 8, 32), "policy": LORA}),
    "true_sft": Case(policy=TRUE, kind="sft", steps=1, sections={**_sft(1), "policy": {**LORA, "dtype": "bfloat16"}}),
    "true_grpo": Case(policy=TRUE, steps=1, sections={**_grpo(2, 2, 8), "policy": {**LORA, "dtype": "bfloat16"}}),
}
HEADLINE: Final = ",".join(name for name, case in CASES.items() if case.policy != TRUE)


def make_policy(name: str, folder: Path) -> Path:
    """Write one of WIDE; it has random weights."""
    processor = make_processor()
    processor.image_processor.size = {"shortest_edge": 224 * 224, "longest_edge": 224 * 224}
    make_model(processor, **WIDE[name]).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def config_of(case: Case, policy: str) -> Config:
    """The recipe of a case, on phantom questions."""
    values: dict[str, Any] = {
        "data": {"reader": "phantom", "train": {"modalities": ["mri"], "limit": 96}},
        "prompt": {"strategy": "no_think"},
        "policy": {"path": policy, "device": "cpu", **case.sections.get("policy", {})},
        "sampling": case.sections.get("sampling", {}),
        "trainer": {"checkpoint": "none", **case.sections.get("trainer", {})},
        "grpo": {"max_steps": case.steps, "disable_tqdm": True, **case.sections.get("grpo", {})},
        "sft": {"max_steps": case.steps, **case.sections.get("sft", {})},
    }
    return build_config(values)


def measure(case: Case, policy: str) -> dict[str, float]:
    """Train in this process; returns the GiB of "training" and of "saving" beyond what was resident before the policy was loaded."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    from osler.grading.rewards import resolve_rewards
    from osler.run_folder import Run
    from osler.training import grpo, sft
    from osler.training.arguments import grpo_arguments
    from osler.training.checkpoints import load_for_training, name_reference, save_policy
    from osler.training.dataset import read_prompts
    from osler.training.shared_prefix import trainer as _  # noqa: F401

    config = config_of(case, policy)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(root=Path(folder) / "run")
        prompts = read_prompts(config)
        is_grpo = case.kind == "grpo"
        arguments = grpo_arguments(config, run.root) if is_grpo else sft.sft_arguments(config, run.root, len(prompts))
        before = reset_peak(trims=True)
        loaded = load_for_training(config, prompts, arguments)
        name_reference(loaded, config, run)
        if "fsdp" in case.sections[case.kind]:  # accelerate shards on GPUs alone, though FSDP works on a CPU as well
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        if is_grpo:
            trainer: Any = grpo.build_trainer(config, loaded, prompts, resolve_rewards(config.rewards.names), arguments)
        else:
            trainer = sft.build_trainer(config, loaded, prompts, [sft.sft_target(prompt.sample, config) for prompt in prompts], arguments)
        if is_grpo:  # an end that is never generated, so that completions are as long as planned
            trainer.eos_token_ids = [loaded.model.config.image_token_id]
        ready = reset_peak(trims=True)
        trainer.train()
        training = (read_resident("VmHWM") or 0.0) - before
        reset_peak()
        save_policy(trainer, loaded, run, config)
        return {"loaded": ready - before, "training": training, "saving": (read_resident("VmHWM") or 0.0) - before}


def compare(name: str, folder: Path, given: Path | None) -> dict[str, Any]:
    """The plan of a case and what it takes in a process of its own."""
    case = CASES[name]
    if case.policy == TRUE:
        assert given is not None
        policy = given
    elif case.policy in WIDE:
        policy = folder / case.policy
        if not policy.is_dir():
            command = [sys.executable, __file__, "--make", case.policy, "--policy", str(policy)]
            subprocess.run(command, check=True, capture_output=True)  # a process of its own gives its memory back
    else:
        policy = Path(find_policy(case.policy).path)
    plan: MemoryPlan = plan_for(config_of(case, str(policy)), policy, num_processes=case.processes, kind=case.kind)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case.processes}"] if case.processes > 1 else []
    command = [sys.executable, *launcher, __file__, "--in-process", "--cases", name, "--policy", str(policy)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    each = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"loaded"')]
    measured = max(each, key=lambda one: one["training"])  # of all processes
    return {
        "measured_gib": measured,
        "predicted_gib": plan.peak / GIB,
        "ratio": plan.peak / GIB / measured["training"],
        "saving_ratio": plan.saving_peak / GIB / measured["saving"],
        "phase": plan.worst_phase,
        "plan": asdict(plan),
    }


def main(arguments: Sequence[str]) -> int:
    """Measure the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", default=HEADLINE, help=f"comma-separated, of {', '.join(CASES)} (default: all but those of true size)")
    parser.add_argument("--policy", type=Path, help="the checkpoint for the cases of true size, see tools/make_checkpoint.py")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--make", choices=WIDE, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    names = options.cases.split(",")
    if options.make is not None:
        make_policy(options.make, options.policy)
        return 0
    if unknown := set(names) - CASES.keys():
        parser.error(f"argument --cases: unknown {', '.join(sorted(unknown))}, choose from {', '.join(CASES)}")
    if options.policy is None and any(CASES[name].policy == TRUE for name in names):
        parser.error("--policy is missing: make a checkpoint with `python -m tools.make_checkpoint`")
    if options.in_process:
        print(json.dumps(measure(CASES[names[0]], str(options.policy))))
        return 0
    rows = {}
    print("| case | parameters, millions | planned, GiB | measured, GiB | ratio | worst phase |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            row = rows[name] = compare(name, Path(folder), options.policy)
            millions = row["plan"]["parameters"] / 1e6
            sizes = f"{row['predicted_gib']:.2f} | {row['measured_gib']['training']:.2f} | **{row['ratio']:.2f}**"
            print(f"| {name} | {millions:.1f} | {sizes} | {row['phase']} |", flush=True)
    if options.json:
        print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
