"""`osler eval`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from osler.cli.common import add_recipe, add_run_options, add_verb, describe, resolve, run_folder
from osler.errors import ConfigError

if TYPE_CHECKING:
    from osler.config import Config

Name = TypeVar("Name", bound=StrEnum)


def add_eval(verbs: Any) -> None:
    """`osler eval`."""
    parser = add_verb(
        verbs,
        "eval",
        run_eval,
        "test a policy on any reader, greedily",
        "Answer the test questions of a recipe and grade every answer. Writes RUN/records/LABEL.jsonl;\na killed run continues.",
        "osler eval demo --policy runs/demo/grpo-think",
        "osler eval slake --data.root DIR --policy osler-tiny --label zero_shot",
        "osler eval demo --ablation all                 did it look? LABEL.blank.jsonl and four more, beside LABEL.jsonl",
        "osler eval demo --ablation blank,swap_within",
        "osler eval demo --circular                     every rotation of the options",
        "osler eval demo --reasoning all                does the answer rest on the reasoning of LABEL.jsonl?",
    )
    add_recipe(parser)
    parser.add_argument("--policy", default=None, help="packaged name, run, local folder or hub id (default: the recipe's)")
    parser.add_argument("--label", default="eval", help="name of the records file and of the row in reports (default: %(default)s)")
    probes = parser.add_argument_group(
        "altered questions", "Each goes into RUN/records/LABEL.<name>.jsonl and is compared with LABEL.jsonl where that exists."
    )
    probes.add_argument("--ablation", default="", metavar="NAMES", help="blank, noise, swap_within, swap_across, question_only; or all")
    probes.add_argument("--circular", action="store_true", help="ask every rotation of the options; right means right in every one")
    probes.add_argument(
        "--reasoning", default="", metavar="NAMES", help="answer again from reasoning that is cut, shuffled, replaced; or all"
    )
    add_run_options(parser)


def run_eval(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler eval`."""
    config = resolve(options)
    if options.dry_run:
        return describe(config, options.verb)
    if options.ablation or options.circular or options.reasoning:
        return run_altered(options, config)
    from osler.evaluation.run import run_evaluation

    return run_evaluation(config, run_folder(options, config), policy=options.policy, label=options.label, fresh=options.fresh)


def run_altered(options: argparse.Namespace, config: Config) -> Mapping[str, Any]:
    """`osler eval` with altered questions."""
    from osler.evaluation.ablations import Ablation
    from osler.evaluation.interventions import Intervention

    ablations = parse_names("--ablation", options.ablation, Ablation)
    interventions = parse_names("--reasoning", options.reasoning, Intervention)
    from osler.experiments.probes import run_probes

    return run_probes(
        config,
        run_folder(options, config),
        policy=options.policy,
        label=options.label,
        fresh=options.fresh,
        ablations=ablations,
        is_circular=options.circular,
        interventions=interventions,
    )


def parse_names(option: str, text: str, known: type[Name]) -> tuple[Name, ...]:
    """ "blank,noise" as members of an enum, each once, in the enum's order; "all" is every one. Raises ConfigError for another name."""
    names = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := sorted(names - {*known, "all"}):
        raise ConfigError(f"{option} does not know {unknown[0]!r}: use {', '.join(known)}, or all")
    return tuple(member for member in known if "all" in names or member.value in names)
