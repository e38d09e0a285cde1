"""The largest batch that fits into a memory, and the settings with which a training fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from osler.doctor.memory_plan import MemoryPlan, plan_memory
from osler.doctor.memory_shape import ModelShape
from osler.doctor.memory_work import ALL_LINEAR, Adapter, Workload

MAX_ROWS: Final = 1 << 20
RANK: Final = 16
"""Of the adapter that is proposed."""

SHORTEST_COMPLETION: Final = 64
"""Tokens, below which no shorter completions are proposed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What to type so that a training fits."""

    settings: tuple[str, ...]  # ("--trainer.groups_per_forward=1",); empty where it fits as it is
    plan: MemoryPlan  # with these settings
    fits: bool  # False where even all of them together do not suffice


def largest_batch(shape: ModelShape, work: Workload, memory: int) -> int | None:
    """The largest `per_device_train_batch_size` whose peak is at most `memory` bytes, everything else unchanged; None where none fits.

    For GRPO it is a multiple of G, so that every group is whole.
    """
    unit = work.num_generations if work.kind == "grpo" else 1
    number = _largest(lambda number: plan_memory(shape, replace(work, rows=number * unit)).peak <= memory, MAX_ROWS // unit)
    return None if number is None else number * unit


def largest_group(shape: ModelShape, work: Workload, memory: int) -> int | None:
    """The largest G with the same number of questions in a micro-batch whose peak is at most `memory` bytes; at least 2, or None."""
    questions = work.groups

    def fits(number: int) -> bool:
        return plan_memory(shape, replace(work, rows=questions * number, num_generations=number)).peak <= memory

    number = _largest(fits, MAX_ROWS // questions)
    return None if number is None or number < 2 else number


def _largest(fits: Callable[[int], bool], limit: int) -> int | None:
    """The largest number from 1 to `limit` that fits, where none fits above one that does not."""
    if not fits(1):
        return None
    low, high = 1, 2
    while high <= limit and fits(high):
        low, high = high, 2 * high
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def fit_into(shape: ModelShape, work: Workload, memory: int) -> Fit:
    """The first settings, added one by one, with which the peak is at most `memory` bytes; those that change no result come first.

    A setting that does not lower the peak is left out.
    """
    plan, settings = plan_memory(shape, work), list[str]()
    while plan.peak > memory:
        for setting, changed in _changes(work):
            tried = plan_memory(shape, changed)
            if tried.peak < plan.peak:
                settings.append(setting)
                work, plan = changed, tried
                break
        else:
            return Fit(settings=_last_of_each(settings), plan=plan, fits=False)
    return Fit(settings=_last_of_each(settings), plan=plan, fits=True)


def _changes(work: Workload) -> Iterator[tuple[str, Workload]]:
    """Settings to type that need less memory, each with the work that it makes."""
    section = work.kind
    if work.kind == "grpo" and work.shares_prefix and work.groups_per_forward != 1 and work.groups > 1:
        yield "--trainer.groups_per_forward=1", replace(work, groups_per_forward=1)
    if work.static_decoding:
        yield "--trainer.static_decoding=false", replace(work, static_decoding=False)
    if not work.checkpoints:
        yield f"--{section}.gradient_checkpointing=true", replace(work, checkpoints=True)
    if work.is_gpu and not work.autocast and work.dtype == "float32":
        yield f"--{section}.bf16=true", replace(work, autocast=True)
    unit = work.num_generations if work.kind == "grpo" else 1
    if work.rows % (2 * unit) == 0:
        rows, steps = work.rows // 2, 2 * work.accumulation
        micro_batches = 2 * work.micro_batches if work.kind == "grpo" else 1
        smaller = replace(work, rows=rows, accumulation=steps, micro_batches=micro_batches)
        yield f"--{section}.per_device_train_batch_size={rows} --{section}.gradient_accumulation_steps={steps}", smaller
    if work.adapter is None:
        adapter = Adapter(rank=RANK, targets=ALL_LINEAR)
        yield f"--policy.lora.r={RANK}", replace(work, adapter=adapter, has_reference=False)
    if work.kind == "grpo" and work.completion // 2 >= SHORTEST_COMPLETION:
        half = work.completion // 2
        yield f"--sampling.max_completion_length={half}", replace(work, completion=half)


def _last_of_each(settings: list[str]) -> tuple[str, ...]:
    """Of settings with the same key the last, in order."""
    return tuple({setting.partition("=")[0]: setting for setting in settings}.values())
