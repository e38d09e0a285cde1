"""Whether a recipe fits into the memory, by its plan, before its weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osler.config import Config
from osler.doctor.findings import Finding, ok
from osler.doctor.memory_fit import fit_into, largest_batch
from osler.doctor.memory_plan import MemoryPlan, plan_memory
from osler.doctor.memory_recipe import work_of
from osler.training.disk import format_bytes
from osler.types import Prompt

MARGIN: Final = 1.15
"""How far measured peaks are from the plan at most (benchmarks/README.md, "Memory plan")."""

PARTS: Final = (
    *("weights", "reference", "gradients", "gradient_buckets", "optimizer"),
    *("activations", "kv_cache", "logits", "packed_weights", "self_check"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a training may use."""

    memory: int | None  # bytes of one device, which processes on a CPU divide among them; None where it is not known
    num_processes: int = 1


def check_memory(config: Config, prompts: Sequence[Prompt], machine: Machine) -> Iterator[Finding | MemoryPlan]:
    """The plan of `osler train`, and what it means for this machine: a failure where even the least that the plan allows does not fit."""
    shape, work = work_of(config, Path(config.policy.path), num_processes=machine.num_processes, prompts=prompts)
    plan = plan_memory(shape, work)
    yield plan
    says = f"{format_bytes(plan.peak)} at the peak, in the {plan.worst_phase}: {describe_parts(plan)}"
    if machine.memory is None:
        yield ok("memory", f"{says}; --memory GB compares it with a device's")
        return
    memory = machine.memory if work.is_gpu else machine.memory // machine.num_processes
    says += f"; {format_bytes(memory)} are there{'' if memory == machine.memory else ' for each process'}"
    if plan.peak * MARGIN <= memory:
        batch = largest_batch(shape, work, int(memory / MARGIN))
        is_bounded = batch is not None and batch < len(prompts) * work.num_generations
        yield ok("memory", f"{says}, enough for per_device_train_batch_size {batch}" if is_bounded else says)
        return
    fit = fit_into(shape, work, int(memory / MARGIN))
    is_certain = plan.peak > memory * MARGIN
    if not fit.fits:
        says += f"; with all that helps still {format_bytes(fit.plan.peak)}: use a larger device, or share the weights among several"
    yield Finding(check="memory", level="failure" if is_certain else "warning", says=says, remedy=" ".join(fit.settings) or None)


def describe_parts(plan: MemoryPlan) -> str:
    """The parts of a plan that are not nothing: "weights 7 MB, optimizer 15 MB"."""
    sizes = ((name, getattr(plan, name)) for name in PARTS)
    return ", ".join(f"{name.replace('_', ' ')} {format_bytes(size)}" for name, size in sizes if size)


def free_memory(device: str) -> int | None:
    """The free bytes of `[policy] device`: of the card, or on a CPU what the system could give; None where it does not say."""
    import torch

    from osler.policies.load import find_device

    found = find_device(device)
    if found.type == "cuda":
        return int(torch.cuda.mem_get_info(found)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
