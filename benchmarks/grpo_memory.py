"""Peak memory of a GRPO step, for several values of `[trainer] groups_per_forward`.

    python benchmarks/grpo_memory.py [--bounds 0,4,1] [--groups 16] [--json]

Each value runs in its own process, which trains the benchmark model for STEPS steps on the same questions with the same random numbers. The
script asserts that all processes generate the same completions and the same losses. It prints the peak resident memory minus the resident
memory before the first step, and the median time of a step; with --json the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from benchmark_model import make_model, make_processor, make_questions
from grpo_step import LOSS_TOLERANCE, NUM_QUESTIONS, SHAPES, make_trainer, run_step

from osler.policies.quiet import quiet_training
from osler.training.phases import PhaseTimer
from osler.training.shared_prefix.trainer import SharedPrefixGRPOTrainer
from osler.training.shared_prefix.update import Sharing

COMPLETION: Final = 120
"""Tokens of a completion, as with the strategy Think: most of the memory of an update is for completions."""
STEPS: Final = 3


def measure(groups_per_forward: int, groups: int) -> dict[str, Any]:
    """Run the steps in this process; returns "mib" (peak), "seconds" (median of a step), "losses" and "completions" (token ids)."""
    shape = replace(SHAPES["demo"], completion=COMPLETION, groups=groups)
    seconds, losses, completions = [], [], []
    with tempfile.TemporaryDirectory() as folder, quiet_training():
        processor = make_processor()
        questions = make_questions(processor, max(NUM_QUESTIONS, STEPS * groups), shape.size, shape.prompt)
        trainer = make_trainer(SharedPrefixGRPOTrainer, processor, questions, shape, folder, make_model(processor))
        trainer.sharing = Sharing(groups_per_forward=groups_per_forward)
        trainer.checks_itself = False  # skip the comparison with TRL's own path, which is made once
        before = _peak_mib()
        for number, inputs in zip(range(STEPS), trainer.get_train_dataloader(), strict=False):
            torch.manual_seed(number)
            start = time.perf_counter()
            losses.append(run_step(trainer, inputs, PhaseTimer(time.perf_counter)))
            seconds.append(time.perf_counter() - start)
            completions.append(sorted(trainer._buffered_inputs[0]["completion_ids"].tolist()))
    return {"mib": _peak_mib() - before, "seconds": statistics.median(seconds), "losses": losses, "completions": completions}


def _peak_mib() -> float:
    """The peak resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def main(arguments: Sequence[str]) -> int:
    """Measure each value in its own process and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bounds", default="0,4,1", help="groups_per_forward, comma-separated; 0 is no bound (default: %(default)s)")
    parser.add_argument("--groups", type=int, default=16, help="groups in each step (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.in_process:
        print(json.dumps(measure(int(options.bounds), options.groups)))
        return 0
    rows: dict[int, dict[str, Any]] = {}
    print("| groups per forward pass | peak, MiB | relative to no bound | step, s |\n|---|---|---|---|")
    for bound in map(int, options.bounds.split(",")):
        command = [sys.executable, __file__, "--in-process", f"--bounds={bound}", f"--groups={options.groups}"]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        first = next(iter(rows.values()), result)
        assert result["completions"] == first["completions"], f"bound {bound}: the completions differ"
        assert all(abs(ours - theirs) <= LOSS_TOLERANCE for ours, theirs in zip(result["losses"], first["losses"], strict=True))
        rows[bound] = result
        print(f"| {bound or 'no bound'} | {result['mib']:.0f} | {result['mib'] / first['mib']:.2f} | {result['seconds']:.1f} |", flush=True)
    if options.json:
        print(json.dumps({str(bound): {key: result[key] for key in ("mib", "seconds")} for bound, result in rows.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
