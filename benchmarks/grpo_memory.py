"""How much memory a GRPO step takes with a bound on the groups that one pass may hold: the same steps, each bound in a process of its own.

    python benchmarks/grpo_memory.py [--bounds 0,4,1] [--groups 16] [--json]

Every process trains the study's model on the same questions and random numbers and must write the same completions and get the same
losses. Prints the peak above what was resident before the first step, and the median time of a step.
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
from grpo_step import LOSS_TOLERANCE, NUM_QUESTIONS, SHAPES, Clock, build, step
from study_model import make_processor, make_questions

from osler.training.arguments import quiet_upstream
from osler.training.shared_prefix.trainer import SharedPrefixGRPOTrainer
from osler.training.shared_prefix.update import Sharing

COMPLETION: Final = 120
"""Tokens of a completion: as in Think, because completions are what an update holds most of."""
STEPS: Final = 3


def measure(bound: int, groups: int) -> dict[str, Any]:
    """Steps of this process, their losses and completions, and its peak."""
    shape = replace(SHAPES["demo"], completion=COMPLETION, groups=groups)
    seconds, losses, written = [], [], []
    with tempfile.TemporaryDirectory() as folder, quiet_upstream():
        processor = make_processor()
        questions = make_questions(processor, max(NUM_QUESTIONS, STEPS * groups), shape.size, shape.prompt)
        trainer = build(SharedPrefixGRPOTrainer, processor, questions, shape, folder)
        trainer.sharing = Sharing(groups_per_forward=bound)
        trainer._is_checked = True  # its comparison with TRL's own path is no part of a step
        before = _peak()
        for number, inputs in zip(range(STEPS), trainer.get_train_dataloader(), strict=False):
            torch.manual_seed(number)
            start = time.perf_counter()
            losses.append(step(trainer, inputs, Clock(time.perf_counter)))
            seconds.append(time.perf_counter() - start)
            written.append(sorted(trainer._buffered_inputs[0]["completion_ids"].tolist()))
    return {"mib": _peak() - before, "seconds": statistics.median(seconds), "losses": losses, "completions": written}


def _peak() -> float:
    """The most memory this process had resident so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def main(arguments: Sequence[str]) -> int:
    """Measure each bound and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bounds", default="0,4,1", help="[trainer] groups_per_forward, with commas; 0 bounds nothing")
    parser.add_argument("--groups", type=int, default=16, help="questions a step (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.here:
        print(json.dumps(measure(int(options.bounds), options.groups)))
        return 0
    rows: dict[int, dict[str, Any]] = {}
    print("| groups a pass may hold | peak, MiB | of no bound | step, s |\n|---|---|---|---|")
    for bound in map(int, options.bounds.split(",")):
        command = [sys.executable, __file__, "--here", f"--bounds={bound}", f"--groups={options.groups}"]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        first = next(iter(rows.values()), found)
        assert found["completions"] == first["completions"], f"bound {bound}: the completions differ"
        assert all(abs(ours - theirs) <= LOSS_TOLERANCE for ours, theirs in zip(found["losses"], first["losses"], strict=True))
        rows[bound] = found
        print(f"| {bound or 'no bound'} | {found['mib']:.0f} | {found['mib'] / first['mib']:.2f} | {found['seconds']:.1f} |", flush=True)
    if options.json:
        print(json.dumps({str(bound): {key: found[key] for key in ("mib", "seconds")} for bound, found in rows.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
