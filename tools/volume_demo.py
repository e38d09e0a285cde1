"""The volume demo: GRPO, SFT and the best single slice on phantom volumes, with several seeds, and its table.

    python -m tools.volume_demo --out runs/volumes              # about 7 minutes a seed on two cores
    python -m tools.volume_demo --out runs/volumes --seeds 0    # one seed

Every seed has its own questions, sampling and training. Finished parts are kept when the command is run again. A policy that sees one slice
alone is the GRPO policy itself, asked the same questions with slice 1, 2, .. alone; the best of them counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from osler.audits.credits import read_credits
from osler.cli.main import main as osler
from osler.evaluation.records import read_records
from osler.metrics.accuracy import accuracy, is_correct
from osler.metrics.estimates import Estimate, percent, points
from osler.metrics.gain import choose_baseline
from osler.metrics.paired import paired_difference
from osler.metrics.truth import state_of
from osler.types import Record

RECIPE: Final = "demo_volume"
NUM_SLICES: Final = 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", default="0,1,2", help="seeds with commas between (default: %(default)s)")
    options = parser.parse_args(arguments)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for seed in seeds:
        if code := _run(options.out, seed):
            return code
    sys.stdout.write(describe(options.out, seeds))
    return 0


def _run(out: Path, seed: int) -> int:
    """Every evaluation of a seed; the exit code of the first command that fails, else 0."""
    common = [RECIPE, "--seed", str(seed), f"--data.seed={seed}"]
    policy = f"--policy.path={out / f'grpo-{seed}'}"
    commands = [
        ["eval", *common, "--out", str(out / f"zero-{seed}")],
        ["train", *common, "--out", str(out / f"grpo-{seed}")],
        ["eval", *common, policy, "--out", str(out / f"grpo-{seed}-eval")],
        ["sft", *common, "--out", str(out / f"sft-{seed}")],
        ["eval", *common, f"--policy.path={out / f'sft-{seed}'}", "--out", str(out / f"sft-{seed}-eval")],
    ]
    commands += [
        ["eval", *common, policy, f"--data.single_slice={number}", "--out", str(out / f"single-{seed}-{number}")]
        for number in range(1, NUM_SLICES + 1)
    ]
    return next((code for command in commands if (code := osler(command))), 0)


def describe(out: Path, seeds: Sequence[int]) -> str:
    """The table in Markdown: each policy and seed, and all seeds together, with 95 % intervals; then what GRPO gains."""
    rows: dict[str, list[list[Record]]] = {"zero-shot": [], "SFT": [], "GRPO": [], "GRPO, best single slice": []}
    blind: list[str] = []
    for seed in seeds:
        for name, folder in (("zero-shot", f"zero-{seed}"), ("SFT", f"sft-{seed}-eval"), ("GRPO", f"grpo-{seed}-eval")):
            rows[name].append(_records(out / folder))
        singles = [_records(out / f"single-{seed}-{number}") for number in range(1, NUM_SLICES + 1)]
        rows["GRPO, best single slice"].append(max(singles, key=lambda records: sum(map(is_correct, records))))
        _, pairs = choose_baseline(rows["GRPO"][-1], read_credits(out / f"grpo-{seed}-eval" / "records" / "eval.jsonl"))
        blind.append(percent(sum(pairs.before) / len(pairs.before)))
    lines = [f"| | {' | '.join(f'seed {seed}' for seed in seeds)} | all | true reasonings |", "|---" * (len(seeds) + 3) + "|"]
    for name, of_seeds in rows.items():
        everything = [record for records in of_seeds for record in records]  # their ids name the seed
        true = sum(state_of(record.statements or ()) == "true" for record in everything) / len(everything)
        cells = [_show(accuracy(records)) for records in (*of_seeds, everything)]
        lines.append(f"| {name} | {' | '.join(cells)} | {percent(true)} |")
    lines += [f"| best blind | {' | '.join(blind)} | | |", ""]
    for name in ("zero-shot", "SFT", "GRPO, best single slice"):
        pairs_of_seeds = [paired_difference(one, other) for one, other in zip(rows[name], rows["GRPO"], strict=True)]
        together = paired_difference([r for one in rows[name] for r in one], [r for one in rows["GRPO"] for r in one])
        by_seed = ", ".join(points(found.difference) for found in pairs_of_seeds)
        lines.append(f"GRPO minus {name}: {points(together.difference)}; by seed {by_seed}")
    return "\n".join(lines) + "\n"


def _records(folder: Path) -> list[Record]:
    return list(read_records(folder / "records" / "eval.jsonl"))


def _show(estimate: Estimate) -> str:
    return f"{percent(estimate.value)} [{percent(estimate.low)}, {percent(estimate.high)}]"


if __name__ == "__main__":
    sys.exit(main())
