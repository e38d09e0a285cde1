"""Time and memory of the update and of the step of GRPO: TRL, PrefixGrouper, Osler's packed row, and Osler.

    pip install --no-deps prefix-grouper==0.0.1.post1
    python benchmarks/grpo_update.py [--shapes no_think,think,demo] [--steps 5] [--threads 1] [--json]

Four trainers start from the same weights and take their steps in turn, with the same questions and random numbers: TRL's own; TRL's
rollout with an update by PrefixGrouper; TRL's rollout with Osler's packed row; and Osler's, whose update continues from its rollout. In the
first step, before any is timed, the script asserts that log-probabilities and gradients equal TRL's, and in every step that completions
and losses do.

The update is the forward and backward pass of the loss, with the vision tower where it is part of it. Memory is measured in a process of
its own for each trainer: the highest resident memory during the update and during the step, beyond what was resident before the step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from benchmark_model import make_questions
from grpo_step import (
    CLOCKS,
    HEADLINE,
    LOSS_TOLERANCE,
    NUM_QUESTIONS,
    SHAPES,
    Shape,
    load,
    make_trainer,
    read_resident,
    reset_peak,
    run_step,
)
from prefix_grouper_update import PackedRowTrainer, PrefixGrouperTrainer, import_prefix_grouper
from trl import GRPOTrainer

from osler.policies.quiet import quiet_training
from osler.training.phases import PhaseTimer
from osler.training.shared_prefix.trainer import SharedPrefixGRPOTrainer

TRAINERS: Final = {
    "TRL": GRPOTrainer,
    "PrefixGrouper": PrefixGrouperTrainer,
    "packed row": PackedRowTrainer,
    "Osler": SharedPrefixGRPOTrainer,
}
WARM_UP: Final = 1  # steps that are not counted
MEMORY_STEPS: Final = 2  # the first is not counted
TOLERANCE: Final = 1e-5
"""Of a log-probability, absolute, and of the gradient: the length of the difference by the length of TRL's."""


def make(name: str, shape: Shape, folder: str) -> Any:
    """A trainer of TRAINERS on the model of the benchmarks, ready for its first step."""
    model, processor, _ = load(shape, None)
    trainer = make_trainer(
        TRAINERS[name], processor, make_questions(processor, NUM_QUESTIONS, shape.size, shape.prompt), shape, folder, model
    )
    assert name != "Osler" or trainer.shares_prefix
    return trainer


def batches(trainer: Any, num: int) -> Iterator[tuple[int, Any]]:
    """The first `num` batches of questions, each with its number as the seed."""
    yield from zip(range(num), trainer.get_train_dataloader(), strict=False)


@contextmanager
def record(trainer: Any, recorded: dict[str, Any]) -> Iterator[None]:
    """Store completions, log-probabilities and gradient of a step. Rows are sorted by their tokens, because TRL shuffles them."""
    score, backward = trainer._get_per_token_logps_and_entropies, trainer.accelerator.backward

    def score_and_store(model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any) -> Any:
        scores = score(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        if torch.is_grad_enabled():
            rows = sorted(zip(input_ids[:, -logits_to_keep:].tolist(), scores[0].tolist(), strict=True))
            recorded["completions"], recorded["logps"] = [row[0] for row in rows], torch.tensor([row[1] for row in rows])
        return scores

    def backward_and_store(*args: Any, **kwargs: Any) -> None:
        backward(*args, **kwargs)
        recorded["gradient"] = torch.cat([weight.grad.flatten() for weight in trainer.model.parameters() if weight.grad is not None])

    trainer._get_per_token_logps_and_entropies, trainer.accelerator.backward = score_and_store, backward_and_store
    try:
        yield
    finally:
        trainer._get_per_token_logps_and_entropies, trainer.accelerator.backward = score, backward


def compare(recorded: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The largest differences from TRL's log-probabilities ("logps") and gradient ("gradient"). Asserts that they are within TOLERANCE."""
    trl, found = recorded["TRL"], {"logps": 0.0, "gradient": 0.0}
    for name, own in recorded.items():
        assert own["completions"] == trl["completions"], f"{name}: the completions differ"
        logps = float((own["logps"] - trl["logps"]).abs().max())
        gradient = float((own["gradient"] - trl["gradient"]).norm() / trl["gradient"].norm())
        assert logps <= TOLERANCE, f"{name}: the log-probabilities differ by {logps:.1e}"
        assert gradient <= TOLERANCE, f"{name}: the gradients differ by {gradient:.1e}"
        found = {"logps": max(found["logps"], logps), "gradient": max(found["gradient"], gradient)}
    return found


def measure_times(shape: Shape, num_steps: int, read: Callable[[], float]) -> tuple[dict[str, dict[str, list[float]]], dict[str, float]]:
    """Run the steps. Returns the milliseconds of each counted "update" and "step" of each trainer, and what `compare` returns."""
    times: dict[str, dict[str, list[float]]] = {name: {"update": [], "step": []} for name in TRAINERS}
    recorded: dict[str, dict[str, Any]] = {name: {} for name in TRAINERS}
    with tempfile.TemporaryDirectory() as folder:
        trainers = {name: make(name, shape, str(Path(folder) / name)) for name in TRAINERS}
        timers = {name: PhaseTimer(read) for name in TRAINERS}
        for number, inputs in batches(trainers["TRL"], WARM_UP + num_steps):
            losses, completions = {}, {}
            for name, trainer in trainers.items():
                torch.manual_seed(number)
                timers[name].seconds.clear()
                if number == 0:
                    with record(trainer, recorded[name]):
                        losses[name] = run_step(trainer, inputs, timers[name])
                    timers[name].wrap(trainer, "_compute_loss", "update")
                    timers[name].wrap(trainer.accelerator, "backward", "update")
                else:
                    losses[name] = run_step(trainer, inputs, timers[name])
                completions[name] = sorted(trainer._buffered_inputs[0]["completion_ids"].tolist())
                if number >= WARM_UP:
                    seconds = timers[name].seconds
                    times[name]["update"].append(1e3 * seconds["update"])
                    times[name]["step"].append(1e3 * sum(seconds.values()))
            assert all(own == completions["TRL"] for own in completions.values()), f"step {number}: the completions differ"
            assert max(losses.values()) - min(losses.values()) <= LOSS_TOLERANCE, f"step {number}: the losses differ"
            if number == 0:
                differences = compare(recorded)
                recorded.clear()
    return times, differences


def measure_memory(name: str, shape: Shape) -> dict[str, float] | None:
    """The highest GiB of one step after the first, in its "update" and in all of the "step"; None where the system cannot say."""
    if read_resident("VmRSS") is None:
        return None
    used: dict[str, float] = {"update": 0.0, "step": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(name, shape, folder)
        compute_loss, rollout = trainer._compute_loss, [0.0]

        def compute_and_split(*args: Any, **kwargs: Any) -> Any:
            rollout.append(read_resident("VmHWM") or 0.0)
            reset_peak()
            return compute_loss(*args, **kwargs)

        trainer._compute_loss = compute_and_split
        for number, inputs in batches(trainer, MEMORY_STEPS):
            torch.manual_seed(number)
            before = reset_peak(trims=True)
            run_step(trainer, inputs, PhaseTimer(time.perf_counter))
            if number:
                update = (read_resident("VmHWM") or 0.0) - before
                used = {"update": max(used["update"], update), "step": max(used["step"], update, rollout[-1] - before)}
    return used


def memory_of_all(names: Sequence[str]) -> dict[str, dict[str, dict[str, float] | None]]:
    """For each trainer, in a process of its own, what `measure_memory` returns for each of the shapes `names`."""
    memory = {}
    for name in TRAINERS:
        command = [sys.executable, __file__, f"--memory-of={name}", f"--shapes={','.join(names)}", f"--threads={torch.get_num_threads()}"]
        memory[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    return memory


def ratio(slow: Sequence[float], fast: Sequence[float]) -> str:
    """How many times faster, by the medians, and the lowest and highest ratio of two steps in turn."""
    ratios = sorted(one / other for one, other in zip(slow, fast, strict=True))
    return f"**{statistics.median(slow) / statistics.median(fast):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def print_times(name: str, times: dict[str, dict[str, list[float]]]) -> None:
    """A row for each trainer."""
    for trainer, own in times.items():
        cells = [
            cell
            for part in ("update", "step")
            for cell in (
                f"{statistics.median(own[part]):.0f}",
                "" if trainer == "TRL" else ratio(times["TRL"][part], own[part]),
                "" if trainer in ("TRL", "PrefixGrouper") else ratio(times["PrefixGrouper"][part], own[part]),
            )
        ]
        print(f"| {name}, {trainer} | {' | '.join(cells)} |", flush=True)


def print_memory(names: Sequence[str], memory: dict[str, dict[str, dict[str, float] | None]]) -> None:
    """A row for each shape and trainer."""
    print("\n| shape | update, GiB | of TRL's | step, GiB | of TRL's |\n|---|---|---|---|---|")
    for name in names:
        for trainer, rows in memory.items():
            own, trl = rows[name], memory["TRL"][name]
            if own is not None and trl is not None:
                cells = [f"{own[part]:.2f} | {own[part] / trl[part]:.2f}" for part in ("update", "step")]
                print(f"| {name}, {trainer} | {' | '.join(cells)} |")


def main(arguments: Sequence[str]) -> int:
    """Measure the shapes of --shapes and print the tables."""
    known = [name for name, shape in SHAPES.items() if not shape.has_true_size]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default=HEADLINE, help=f"comma-separated names out of {', '.join(known)} (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="steps of each trainer that are counted (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads (default: %(default)s)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu is the CPU time of this process, for a busy machine")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--memory-of", choices=TRAINERS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    names = options.shapes.split(",")
    if unknown := set(names) - set(known):
        parser.error(f"argument --shapes: unknown {', '.join(sorted(unknown))}, choose from {', '.join(known)}")
    if min(options.steps, options.threads) < 1:
        parser.error("--steps and --threads must be 1 or more")
    try:
        import_prefix_grouper()
    except ImportError as error:
        parser.error(str(error))
    torch.set_num_threads(options.threads)
    if options.memory_of is not None:
        with quiet_training():
            print(json.dumps({name: measure_memory(options.memory_of, SHAPES[name]) for name in names}))
        return 0
    print("| shape | update, ms | TRL's by it | PrefixGrouper's by it | step, ms | TRL's by it | PrefixGrouper's by it |")
    print("|---|---|---|---|---|---|---|")
    times, differences = {}, {}
    for name in names:
        with quiet_training():
            times[name], differences[name] = measure_times(SHAPES[name], options.steps, CLOCKS[options.clock])
        print_times(name, times[name])
    memory = memory_of_all(names)
    print_memory(names, memory)
    print(
        f"\nLargest difference from TRL: {max(found['logps'] for found in differences.values()):.1e} of a log-probability, "
        f"{max(found['gradient'] for found in differences.values()):.1e} of the gradient"
    )
    if options.json:
        print(json.dumps({"threads": torch.get_num_threads(), "times": times, "memory": memory, "differences": differences}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
