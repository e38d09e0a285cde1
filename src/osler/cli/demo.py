"""`osler demo`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osler.cli.common import add_verb, resolve


def add_demo(verbs: Any) -> None:
    """`osler demo`."""
    parser = add_verb(
        verbs,
        "demo",
        run_demo,
        "both papers' protocol in minutes on a laptop",
        "Train the packaged tiny policy on MRI phantom questions and test it on MRI, CT and X-ray:\n"
        "zero-shot, SFT and GRPO; Think, No-Think and Think-After. Ends with a table, the reward\n"
        "curves and an HTML report. No download, no account, no GPU.",
        "osler demo",
        "osler demo --seed 1 --out runs/demo-1",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the runs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="seed of data, sampling and training")
    parser.add_argument("--fresh", action="store_true", help="start over instead of continuing in --out")


def run_demo(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler demo`."""
    from osler.experiments.demo import run

    options.recipe = "demo"
    seed = [f"--seed={options.seed}", f"--data.seed={options.seed}"] if options.seed is not None else []
    return run(resolve(options), options.out, fresh=options.fresh, overrides=[*options.overrides, *seed])
