"""`osler matrix`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osler.cli.common import add_recipe, add_verb, resolve


def add_matrix(verbs: Any) -> None:
    """`osler matrix`."""
    parser = add_verb(
        verbs,
        "matrix",
        run_matrix,
        "train on every modality or question type, test each policy on all of them",
        "Train one policy for each domain of an axis, with SFT and with GRPO, and test it on every domain,\n"
        "beside the policy that was not trained and an option prior that never looks. With two strategies\n"
        "it also tests where they differ. Ends with the matrices, matrix.json and an HTML page of heat maps.\n"
        "Every policy is a command of its own: what has ended does not run again, so the same command\n"
        "continues a matrix that was killed.",
        "osler matrix matrix_phantom --axis modality,question_type",
        "osler matrix matrix_phantom --axis modality --domains ct,mri,xray --limit 64 --grpo.max_steps=4",
        "osler matrix med_r1_modality --data.root=DIR --strategy med_r1_think,med_r1_no_think --rows zero_shot,grpo,blind",
        "osler matrix med_r1_modality --data.root=DIR --policies runs/med-r1     runs/med-r1/ct, runs/med-r1/mri ..",
        "osler matrix matrix_phantom --dry-run          print the commands",
    )
    add_recipe(parser)
    parser.add_argument("--axis", default="modality", metavar="AXES", help="modality, question_type, or both (default: modality)")
    parser.add_argument("--domains", default="", metavar="NAMES", help="some of the axis's domains (default: those of the test questions)")
    parser.add_argument("--strategy", default="", metavar="NAMES", help="one or more (default: the recipe's [matrix] strategies)")
    parser.add_argument(
        "--rows",
        default="zero_shot,sft,grpo,blind",
        metavar="ROWS",
        help="which rows to make (default: %(default)s); --policies replaces sft and grpo, and its runs are always tested",
    )
    parser.add_argument("--limit", type=int, default=None, metavar="N", help="training and test questions of each domain")
    parser.add_argument("--policies", type=Path, default=None, metavar="DIR", help="test the runs DIR/<domain> instead of training any")
    parser.add_argument("--out", type=Path, default=None, help="folder of the runs (default: runs/<name of the recipe>)")
    parser.add_argument("--seed", type=int, default=None, help="the recipe's seed")
    parser.add_argument("--fresh", action="store_true", help="set the runs in --out aside and start over")
    parser.add_argument("--dry-run", action="store_true", help="print the questions of every domain and the commands; then stop")


def run_matrix(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler matrix`."""
    from osler.experiments.matrix import run_matrix
    from osler.experiments.plan import MatrixOptions, parse_axes, parse_rows, split_names

    seed = [f"--seed={options.seed}"] if options.seed is not None else []
    chosen = MatrixOptions(
        axes=parse_axes(options.axis),
        domains=split_names(options.domains),
        strategies=split_names(options.strategy),
        rows=parse_rows(options.rows),
        limit=options.limit,
        policies=options.policies,
    )
    return run_matrix(
        options.recipe,
        options.out or Path("runs") / resolve(options).name,
        chosen,
        overrides=[*options.overrides, *seed],
        fresh=options.fresh,
        is_dry=options.dry_run,
    )
