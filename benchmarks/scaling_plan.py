"""How long the 8 x 8 matrix of Med-R1 takes at full size on N GPUs, by arithmetic from the model's shape.

    python benchmarks/scaling_plan.py [--gpus 8,64,512] [--seeds 3] [--tokens 120] [--json]

No GPU was at hand, so nothing here is a measured time of a GPU. Three times of a step are shown: `bound` is the least that the card's
arithmetic and memory allow at a usual share of their peaks; `eager` adds what PyTorch takes to launch the kernels of each decoded token;
`reported` is what a third party says of the authors' code (about 4 hours for MedVLM-R1's 300 steps on two A100). The same count of
operations is first compared with the steps that were measured on two CPU cores at true size (benchmarks/README.md).

Legend: G completions of a question, P tokens of a prompt, C of a completion.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

TEXT: Final = 1.31e9  # weights of Qwen2-VL-2B's text model without its embedding
HEAD: Final = 0.233e9  # of the embedding, which is the output layer too
VISION: Final = 0.665e9
PATCHES: Final = 784  # of an image of 392 x 392 pixels: 196 image tokens

QUESTIONS: Final = {
    "ct": (12_567, 3_241),
    "mri": (25_507, 6_370),
    "xray": (6_301, 1_615),
    "ultrasound": (8_917, 2_074),
    "dermoscopy": (5_373, 1_306),
    "fundus": (4_300, 1_098),
    "oct": (3_798, 848),
    "microscopy": (4_570, 1_110),
}
"""Training and test questions of Med-R1's files."""

PER_STEP: Final = 4  # questions of a step, as published
G: Final = 4
P: Final = 300
STRATEGIES: Final = 3  # Think, No-Think, Think-After
REPORTED_SECONDS: Final = 4 * 3600 / 300  # of a step, on two A100, with up to 512 tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A GPU, by its data sheet, and the shares of its peaks that programs of this kind reach."""

    flops: float = 989e12  # H100 SXM, bfloat16, dense
    bandwidth: float = 3.35e12  # bytes a second
    share: float = 0.35
    launch_seconds: float = 0.025  # of one decoded token in eager mode, 28 layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """Floating-point operations of one question."""

    vision: float
    prefill: float
    decode: float
    update: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.vision + self.prefill + self.decode + self.update


def count(*, prompt: int, tokens: int, group: int, trains_all: bool, has_reference: bool, recomputes: bool) -> Operations:
    """Two operations for each weight and token; a backward pass takes twice a forward pass, and once where only an adapter is trained."""
    text, forwards = 2 * (TEXT + HEAD), 1.0 + recomputes + (2 if trains_all else 1) + has_reference
    tower = 2 * VISION * PATCHES
    return Operations(
        vision=tower * (2 + 3 * trains_all),  # rollout and update
        prefill=2 * TEXT * prompt,
        decode=text * group * tokens,
        update=text * (prompt + group * tokens) * forwards,
    )


def seconds_of_step(card: Card, tokens: int, questions: int) -> dict[str, float]:
    """The time of a step with so many questions on each GPU; all groups of a step are decoded together."""
    own = count(prompt=P, tokens=tokens, group=G, trains_all=True, has_reference=True, recomputes=True)
    arithmetic = questions * own.total / (card.flops * card.share)
    longest = 256 if tokens > 20 else tokens  # one of a step's completions usually reaches the limit
    reading = longest * 4 * (TEXT + HEAD) / (card.bandwidth * 2 * card.share)  # float32 weights, once for each token
    return {"bound": arithmetic + reading, "eager": arithmetic + longest * max(card.launch_seconds, reading / longest)}


def plan(num_gpus: int, seeds: int, tokens: int, card: Card) -> dict[str, Any]:
    """Hours of all trainings and evaluations on so many GPUs."""
    # A step has 4 questions, and a process holds whole groups: a training has no use for more than 4 GPUs.
    jobs = len(QUESTIONS) * STRATEGIES * seeds
    each = max(1, min(PER_STEP, num_gpus // jobs))
    at_once = max(1, min(jobs, num_gpus // each))
    lengths = sorted((math.ceil(train / PER_STEP) for train, _ in QUESTIONS.values()), reverse=True)
    step = seconds_of_step(card, tokens, PER_STEP // each) | {"reported": REPORTED_SECONDS / each * 2}
    hours = {}
    for name, seconds in step.items():
        loads = [0.0] * at_once  # the longest job first, to the GPUs that are free first
        for steps in sorted(lengths * (STRATEGIES * seeds), reverse=True):
            loads[loads.index(min(loads))] += steps * seconds / 3600
        hours[name] = round(max(loads), 1)
    answers = (jobs + 1) * sum(test for _, test in QUESTIONS.values())
    return {
        "gpus": num_gpus,
        "jobs": jobs,
        "gpus_per_job": each,
        "gpus_used": each * at_once,
        "step_seconds": {name: round(value, 2) for name, value in step.items()},
        "hours": hours,
        "answers": answers,
        "evaluation_gpu_hours": round(answers / 64 * 256 * card.launch_seconds / 3600),  # eager, 64 at a time, each to the limit
        "checkpoints_tb": round(at_once * 3 * 26.5 / 1000 + jobs * 4.4 / 1000, 1),  # three of each running job, a bfloat16 policy of each
        "gradient_gb_per_step": 0 if each == 1 else round(2 * 4 * (TEXT + HEAD + VISION) * (each - 1) / each / 1e9, 1),
    }


def check_against_cpu() -> list[dict[str, Any]]:
    """The operations of the measured steps over their seconds: the rates of the two shapes should be alike."""
    shapes = {"true_no_think": (296, 10, 8, False, 19.3), "true_think": (346, 100, 4, True, 75.1)}
    rows = []
    for name, (prompt, tokens, group, recomputes, seconds) in shapes.items():
        own = count(prompt=prompt, tokens=tokens, group=group, trains_all=False, has_reference=False, recomputes=recomputes)
        once = own.total - own.vision / 2  # Osler computes the frozen tower once
        rows.append({"shape": name, "tflop": round(once / 1e12, 2), "seconds": seconds, "gflop_per_second": round(once / seconds / 1e9)})
    return rows


def main(arguments: Sequence[str]) -> int:
    """Print the plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", default="8,64,512")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=120, help="mean tokens of a completion")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    steps = sum(math.ceil(train / PER_STEP) for train, _ in QUESTIONS.values())
    plans = [plan(int(number), options.seeds, options.tokens, Card()) for number in options.gpus.split(",")]
    found = {"steps_of_one_matrix": steps, "cpu": check_against_cpu(), "plans": plans}
    if options.json:
        print(json.dumps(found))
        return 0
    print(f"{steps:,} steps for one strategy and one seed")
    for row in [*check_against_cpu(), *plans]:
        print("  ".join(f"{name}={value}" for name, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
