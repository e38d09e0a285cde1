"""`osler train` and `osler sft`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from osler.cli.common import add_recipe, add_run_options, add_verb, print_dry_run, run_folder


def add_training(verbs: Any) -> None:
    """`osler train` and `osler sft`."""
    train = add_verb(
        verbs,
        "train",
        _run,
        "train a policy with GRPO",
        "Train a policy with GRPO (group relative policy optimization). If a run is interrupted, the same\n"
        "command resumes it from its last checkpoint.",
        "osler train medvlm_r1 --policy.path Qwen/Qwen2-VL-2B-Instruct --data.root DIR",
        "osler train demo --dry-run",
    )
    sft = add_verb(
        verbs,
        "sft",
        _run,
        "fine-tune a policy on reference answers, for as many steps as GRPO",
        "Fine-tune a policy on reference answers (supervised fine-tuning). The prompt and the number of steps\n"
        "are those of `osler train`, unless [sft] sets them.",
        "osler sft demo --prompt.strategy=no_think",
        "osler sft slake --data.root DIR",
    )
    for parser in (train, sft):
        add_recipe(parser)
        add_run_options(parser)


def _run(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.config import load_config

    config = load_config(options.recipe, options.overrides)
    if options.dry_run:
        from osler.training.arguments import check_trained_dtype

        check_trained_dtype(config, "grpo" if options.verb == "train" else "sft")
        return print_dry_run(config, options.verb)
    if options.verb == "train":
        from osler.training.grpo import train_grpo as start
    else:
        from osler.training.sft import train_sft as start
    run = start(config, run_folder(options, config), fresh=options.fresh)
    if os.environ.get("RANK", "0") == "0":  # of several processes, one says it
        print(f"policy: {run.policy}   (test it: osler eval {options.recipe or 'RECIPE'} --policy {run.root})")
    return {"run": run.root, "policy": run.policy}
