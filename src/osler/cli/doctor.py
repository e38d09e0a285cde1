"""`osler doctor`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from osler.cli.common import add_recipe, add_verb, run_folder
from osler.cli.tables import printable
from osler.errors import ConfigError

if TYPE_CHECKING:
    from osler.doctor.findings import Finding

TITLES: Final = {"ok": "ok", "skipped": "-", "warning": "warning", "failure": "FAILS"}


def add_doctor(verbs: Any) -> None:
    """`osler doctor`."""
    parser = add_verb(
        verbs,
        "doctor",
        _run,
        "check a machine and a recipe before a training, and whether its reward is alive",
        "Say what is installed and on which device; with a recipe also whether its questions, images and policy\n"
        "can be read, whether every prompt fits, how much memory it takes, by arithmetic before the weights are\n"
        "loaded, and whether the reward is alive: a few rollouts of the policy as it starts and a few updates, by\n"
        "the trainer of `osler train`, in a temporary folder. Each finding names a setting to type. `osler train`\n"
        "applies the same rules to its metrics while it runs.\n"
        "Exit code 1 where a run would stop with an error; a run that would learn nothing is a warning.",
        "osler doctor",
        "osler doctor demo",
        "osler doctor slake --data.root=DIR --images all --no-rollouts",
        "osler doctor medvlm_r1 --data.root DIR --memory 80 --processes 2 --no-rollouts",
        "osler doctor medvlm_r1 --policy.path Qwen/Qwen2-VL-2B-Instruct --data.root DIR --rollouts 5",
    )
    add_recipe(parser, optional=True)
    parser.add_argument(
        "--images",
        choices=("sample", "all", "none"),
        default="sample",
        help="which images of the training questions are decoded: 64 of them, all, or none (default: %(default)s)",
    )
    parser.add_argument("--rollouts", type=int, default=None, metavar="N", help="rollouts of the trial (default: 6)")
    parser.add_argument(
        "--memory", type=float, default=None, metavar="GB", help="of the device that will train, for the memory plan (default: this one's)"
    )
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="of that training, for the plan (default: %(default)s)")
    parser.add_argument("--no-rollouts", action="store_true", help="do not try the reward")
    parser.add_argument("--seed", type=int, default=None, help="random seed (default: the recipe's)")
    parser.set_defaults(out=None)


def _run(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.config import load_config
    from osler.doctor.doctor import Options, examine
    from osler.doctor.reward_alive import ROLLOUTS

    if options.rollouts is not None and (options.rollouts < 1 or options.no_rollouts):
        raise ConfigError("--rollouts is 1 or more, and goes without --no-rollouts")
    if options.processes < 1 or (options.memory is not None and not 0 < options.memory < float("inf")):
        raise ConfigError("--processes is 1 or more, and --memory a number of GB above 0")
    has_recipe = options.recipe is not None or bool(options.overrides)
    config = load_config(options.recipe, options.overrides) if has_recipe else None
    rollouts = 0 if options.no_rollouts else options.rollouts or ROLLOUTS
    folder = run_folder(options, config or load_config(None)).parent
    memory = None if options.memory is None else int(options.memory * 1e9)
    looked = Options(images=options.images, rollouts=rollouts, memory=memory, num_processes=options.processes)
    diagnosis = examine(config, folder, looked)
    for finding in diagnosis.findings:
        _print(finding)
    counts = {level: sum(one.level == level for one in diagnosis.findings) for level in ("warning", "failure")}
    print(f"findings that would stop a run: {counts['failure']}, warnings: {counts['warning']}")
    return {
        "findings": [asdict(finding) for finding in diagnosis.findings],
        "memory": None if diagnosis.memory is None else {**asdict(diagnosis.memory), "peak": diagnosis.memory.peak},
        "trial": None if diagnosis.trial is None else _finite(asdict(diagnosis.trial)),
        "exit_code": int(diagnosis.would_fail),
    }


def _finite(value: Any) -> Any:
    """The value without numbers that JSON lacks: an infinite KL divergence becomes null, and its warning says what it is."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print(finding: Finding) -> None:
    print(f"{TITLES[finding.level]:8} {finding.check:22} {printable(finding.says)}")
    if finding.remedy is not None:
        print(f"{'':8} {'':22} try {printable(finding.remedy)}")
