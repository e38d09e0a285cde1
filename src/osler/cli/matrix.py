"""`osler matrix`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osler.cli.common import add_recipe, add_run_options, add_verb, choose, split_names
from osler.cli.launching import add_launcher, launching_of
from osler.cli.tables import print_heat, print_table

if TYPE_CHECKING:
    from osler.experiments.plan import AxisPlan
    from osler.metrics import MatrixMeans
    from osler.reports.matrices import AxisMatrices


def add_matrix(verbs: Any) -> None:
    """`osler matrix`."""
    parser = add_verb(
        verbs,
        "matrix",
        _run,
        "train on each modality or question type, and test every policy on all of them",
        "Train one policy on each domain of an axis, with SFT and with GRPO, and test it on every domain,\n"
        "beside the untrained policy and a blind baseline that never sees the image. With two strategies,\n"
        "also test where they differ. Prints the matrices, and writes matrix.json and an HTML page of heat\n"
        "maps. Every policy is a command of its own; finished commands are not run again, so the same\n"
        "command resumes an interrupted matrix.",
        "osler matrix matrix_phantom --axis modality,question_type",
        "osler matrix matrix_phantom --axis modality --domains ct,mri,xray --limit 64 --grpo.max_steps=4",
        "osler matrix med_r1_modality --data.root=DIR --strategy med_r1_think,med_r1_no_think --rows zero_shot,grpo,blind",
        "osler matrix med_r1_modality --data.root=DIR --policies runs/med-r1     tests runs/med-r1/ct, runs/med-r1/mri ..",
        "osler matrix med_r1_modality --data.root=DIR --out /shared/matrix --launcher slurm --job-gpus 1 --job-hours 12",
        "osler matrix matrix_phantom --dry-run          prints the commands",
    )
    add_recipe(parser)
    parser.add_argument("--axis", default="modality", metavar="AXES", help="modality, question_type, or all (default: modality)")
    parser.add_argument("--domains", default="", metavar="NAMES", help="only these domains (default: those of the test questions)")
    parser.add_argument(
        "--strategy", default="", metavar="NAMES", help="one or more strategies (default: the recipe's [matrix] strategies)"
    )
    parser.add_argument(
        "--rows",
        default="zero_shot,sft,grpo,blind",
        metavar="ROWS",
        help="kinds of policies (default: %(default)s); --policies replaces sft and grpo, and its runs are always tested",
    )
    parser.add_argument("--limit", type=int, default=None, metavar="N", help="training and test questions of each domain")
    parser.add_argument("--policies", type=Path, default=None, metavar="DIR", help="test the runs DIR/<domain> instead of training")
    add_run_options(parser, "folder for the runs (default: runs/<name of the recipe>)")
    add_launcher(parser)


def _run(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.config import load_config
    from osler.experiments.matrix import plan_matrix, run_matrix
    from osler.experiments.plan import ROWS, MatrixOptions
    from osler.taxonomy import AXES

    chosen = MatrixOptions(
        axes=choose("--axis", options.axis, AXES),
        domains=split_names(options.domains),
        strategies=split_names(options.strategy),
        rows=choose("--rows", options.rows, ROWS),
        limit=options.limit,
        policies=options.policies,
    )
    overrides = options.overrides
    out = options.out or Path("runs") / load_config(options.recipe, options.overrides).name
    if options.dry_run:
        return print_plans(plan_matrix(options.recipe, out, chosen, overrides=overrides))
    launching = launching_of(options)
    result = run_matrix(options.recipe, out, chosen, overrides=overrides, fresh=options.fresh, launching=launching)
    print_matrices(result.figures.axes.values())
    print(f"\nreport: {result.report}   ({result.seconds:.0f} s)")
    return {"out": out, "report": result.report, "seconds": round(result.seconds, 1), **result.figures.to_json()}


def print_plans(plans: Sequence[AxisPlan]) -> Mapping[str, Any]:
    """Print the number of questions of every domain and the commands; notes go to standard error."""
    for plan in plans:
        num_test = Counter(getattr(sample, plan.axis) for sample in plan.test)
        for name in plan.domains:
            print(f"{plan.axis} {name}: {len(plan.train.get(name, ())):,} training and {num_test[name]:,} test questions")
        for note in plan.notes:
            print(note, file=sys.stderr)
    commands = [["osler", *command] for plan in plans for job in plan.jobs for command in job.commands]
    for command in commands:
        print(shlex.join(command))
    return {"commands": commands}


def print_matrices(axes: Iterable[AxisMatrices]) -> None:
    """Print the accuracies and true reasonings of every matrix, the differences between strategies beside published ones, and all means."""
    from osler.metrics import points
    from osler.reports.matrix_page import build_axis

    def three(means: MatrixMeans) -> list[Any]:
        return [means.diagonal, means.off_diagonal, means.everything]

    for found in axes:
        page = build_axis(found)
        for heat in (*page.accuracy, *page.other_accuracy, *page.truths, *page.other_truths, *page.differences):
            print_heat(heat, "trained on")
        if page.differences:
            print("* significant at 5 % after Holm's correction over the cells of the matrix")
        print_table(
            ("", "Diagonal", "Off-diagonal", "All", "Image gain, diagonal", "off-diagonal", "all"),
            [
                [part.title, *map(str, three(part.means)), *(map(points, three(gain)) if (gain := part.image_gain_means) else [""] * 3)]
                for part in found.matrices.values()
            ],
            title=f"Means over cells, by {found.title}",
        )
        reasoned = [
            [part.title, *map(str, (*three(part.truth_means), *three(part.right_for_false_reason_means)))]
            for part in found.matrices.values()
            if part.truth_means is not None and part.right_for_false_reason_means is not None
        ]
        if reasoned:
            heads = ("", "True reasonings, diagonal", "off-diagonal", "all", "Right, false reason, diagonal", "off-diagonal", "all")
            print_table(heads, reasoned, title=f"Is the reasoning true? Means over cells, by {found.title}")
        for note in page.notes:
            print(note)
