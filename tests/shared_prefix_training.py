"""A short training for `test_shared_prefix_processes`, which starts it twice at once: `shared_prefix_training.py POLICY OUT SETTINGS`.

Each process writes the completions of every rollout; the first also what it logged and the weights it ended with.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import shared_prefix_cases
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from shared_prefix_cases import pay, run
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict


def main(policy: str, out: str, settings: str) -> None:
    """Train with TRL's sampling, sharing on where it can be."""
    rank, folder = int(os.environ["RANK"]), Path(out)
    own = json.loads(settings)
    if "fsdp" in own["grpo"]:
        shard_on_cpu()

    def watch(trainer: Any) -> None:
        assert trainer.accelerator.num_processes == 2
        assert trainer.is_fsdp_enabled == ("fsdp" in own["grpo"])
        torch.manual_seed(rank)  # each process draws completions of its own

    trainer, written, logged, _ = run(Path(policy), pay, own["grpo"], own["sections"], share=True, prepare=watch)
    assert trainer.shares_prefix == own["shares"]
    assert bool(trainer.checked) == own["shares"]
    weights = gather(trainer)
    (folder / f"completions-{rank}.json").write_text(json.dumps(written))
    if rank == 0:
        (folder / "logged.json").write_text(json.dumps(logged))
        torch.save(weights, folder / "weights.pt")


def shard_on_cpu() -> None:
    """Let accelerate shard weights here: it does so on GPUs alone, though FSDP works on a CPU as well."""
    build = shared_prefix_cases.build_trainer

    def build_sharded(*args: Any) -> Any:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        return build(*args)

    shared_prefix_cases.build_trainer = build_sharded


def gather(trainer: Any) -> dict[str, Any]:
    """The whole weights, on every process."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer._dist.is_zero3:
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(model.parameters())):
            return {name: weight.detach().clone() for name, weight in model.named_parameters()}
    if not trainer.is_fsdp_enabled:
        return {name: weight.detach() for name, weight in model.named_parameters()}
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    return {name: whole[name] for name, _ in model.named_parameters()}


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # DeepSpeed's processes may wait for each other at the end
