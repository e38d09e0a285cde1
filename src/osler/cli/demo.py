"""`osler demo`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osler.cli.common import add_verb
from osler.cli.launching import add_launcher, launching_of
from osler.cli.tables import print_accuracies

if TYPE_CHECKING:
    from osler.config import Config
    from osler.experiments.demo import DemoResult, TableRow


def add_demo(verbs: Any) -> None:
    """`osler demo`."""
    parser = add_verb(
        verbs,
        "demo",
        _run,
        "run the protocols of both papers at small scale, in minutes on a laptop",
        "Train the packaged tiny policy on MRI phantom questions and test it on MRI, CT and X-ray:\n"
        "zero-shot, SFT and GRPO, each with Think, No-Think and Think-After. Prints a table and the\n"
        "reward curves, and writes an HTML report. Needs no download, no account and no GPU.\n"
        "If it is interrupted, the same command resumes it.",
        "osler demo",
        "osler demo --seed 1 --out runs/demo-1",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for the runs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="seed of data, sampling and training (default: the recipe's)")
    parser.add_argument("--fresh", action="store_true", help="rename the folder --out, if it holds a demo, and start over")
    add_launcher(parser)


def _run(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.config import load_config
    from osler.experiments.demo import run_demo

    options.recipe = "demo"
    seed = [f"--data.seed={options.seed}"] if options.seed is not None else []
    config = load_config(options.recipe, options.overrides)
    overrides = [*options.overrides, *seed]
    result = run_demo(config, options.out, fresh=options.fresh, overrides=overrides, launching=launching_of(options))
    print_demo(result, config, options.out)
    rows = [row_to_json(row, result, config) for row in result.rows]
    return {"report": result.report, "seconds": round(result.seconds, 1), "rows": rows}


def print_demo(result: DemoResult, config: Config, out: Path) -> None:
    """Print the accuracy of every row, the gain of every trained row over zero-shot, and the reward curves."""
    from osler.audits.credits import read_credits
    from osler.experiments.demo import STRATEGIES, lift
    from osler.files import read_json_lines
    from osler.metrics import points

    in_domain = config.data.train.modalities
    order = list(STRATEGIES)
    rows = sorted(result.rows, key=lambda row: (row.title != "blind", order.index(row.strategy), row.questions > 0, row.title))
    blind = {row.label: read_credits(row.records_file(out)) for row in rows}
    print_accuracies([(row.label, result.records[row.name]) for row in rows], in_domain=in_domain, blind=blind)
    for row in rows:
        if row.questions and (gain := lift(row, rows, result.records, in_domain).difference).value is not None:
            print(f"{row.label}: {points(gain)} points in-domain over zero-shot, paired")
    for row in rows:
        rewards = [float(step["reward"]) for step in read_json_lines(out / row.name / "metrics.jsonl") if "reward" in step]
        if "GRPO" in row.title and rewards:
            print(f"reward {rewards[0]:.2f} {sparkline(rewards)} {rewards[-1]:.2f}  {row.label}")
    print(f"\nreport: {result.report}   ({result.seconds:.0f} s)")
    print("Phantoms are drawings and this is a research tool: not for clinical use.")


def row_to_json(row: TableRow, result: DemoResult, config: Config) -> dict[str, Any]:
    """One row of the table; shares between 0 and 1."""
    from osler.evaluation.compare import UNIT
    from osler.evaluation.truth import truth_to_json
    from osler.experiments.demo import lift
    from osler.metrics import accuracy

    shares = {}
    for modality in config.data.test.modalities:
        share = accuracy([record for record in result.records[row.name] if record.modality == modality], UNIT)
        shares[modality] = {**share.to_json(), "total": share.total}
    values = {"name": row.name, "title": row.title, "strategy": row.strategy, "questions": row.questions, "accuracy": shares}
    values["truth"] = truth_to_json(result.records[row.name])
    if row.questions:
        gain = lift(row, result.rows, result.records, config.data.train.modalities)
        values["lift"] = {**gain.difference.to_json(), "p": gain.p_value}
    return values


def sparkline(values: Sequence[float]) -> str:
    """A curve as one line of up to 40 characters; each shows the mean of an equal part of the values, e.g. "▁▂▅▇█"."""
    marks = "▁▂▃▄▅▆▇█"
    width = min(40, len(values))
    edges = [len(values) * k // width for k in range(width + 1)] if width else []
    means = [sum(values[i:j]) / (j - i) for i, j in pairwise(edges)]
    low, high = (min(means), max(means)) if means else (0.0, 0.0)
    return "".join(marks[round((value - low) / (high - low or 1.0) * (len(marks) - 1))] for value in means)
