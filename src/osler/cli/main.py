"""The command line: `osler VERB [RECIPE] [--section.key=value ...]`. Each verb calls one workflow and prints its result.

Exit codes: 0 success, 1 a check failed (`--strict`, `--fail-on`), 2 a user error, in one line; a traceback is a bug in Osler.
With `--json` the last line of standard output is one JSON object, and all other output goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from osler import __version__
from osler.cli.ask import add_ask
from osler.cli.audit import add_audit
from osler.cli.common import EPILOG, name_reader
from osler.cli.data import add_data
from osler.cli.demo import add_demo
from osler.cli.doctor import add_doctor
from osler.cli.eval import add_eval
from osler.cli.export import add_export
from osler.cli.jobs import add_jobs
from osler.cli.judge import add_judge
from osler.cli.matrix import add_matrix
from osler.cli.publish import add_publish
from osler.cli.report import add_report
from osler.cli.serve import add_serve
from osler.cli.split import add_split_verb
from osler.cli.train import add_training
from osler.errors import OslerError

TOP_LEVEL = ("--name", "--sft_target")
"""Keys of a recipe that belong to no section and that no verb has as an option."""


RESUMED = frozenset({"demo", "train", "sft", "eval", "judge", "matrix", "jobs"})
"""Verbs that keep what they have done."""
CONTINUES = "; the same command continues where it stopped"


class OneLineParser(argparse.ArgumentParser):
    """A parser with one-line errors that point to `--help`; its subparsers are of the same class."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"osler: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code; `arguments` are those of this process when None."""
    own, overrides = split_overrides(sys.argv[1:] if arguments is None else arguments)
    options = build_parser().parse_args(own)
    seed = getattr(options, "seed", None)
    options.overrides = [*overrides, f"--seed={seed}"] if seed is not None else overrides
    if getattr(options, "strict", False):
        options.overrides = [*options.overrides, "--data.strict=true"]
    out = contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext()
    try:
        with out:
            options.overrides = name_reader(getattr(options, "recipe", None), options.overrides)
            result = options.run(options)
    except OslerError as error:
        print(f"osler: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"osler: interrupted{CONTINUES if options.verb in RESUMED else ''}", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if options.json:
        print(json.dumps(result, default=str))
    return int(result.get("exit_code", 0))


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the verb's own arguments from overrides of the recipe: `--section.key value` and `--section.key=value`, in any order.

    What begins with "--" is never the value of the override before it.
    """
    own: list[str] = []
    overrides: list[str] = []
    needs_value = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        is_override = name.startswith("--") and ("." in name or name in TOP_LEVEL)
        is_value = needs_value and not argument.startswith("--")
        (overrides if is_override or is_value else own).append(argument)
        needs_value = is_override and not equals
    return own, overrides


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = OneLineParser(
        prog="osler",
        description="Train compact vision-language models to reason about medical images, and measure whether they use the image.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"osler {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for add in (
        add_demo,
        add_data,
        add_audit,
        add_split_verb,
        add_export,
        add_doctor,
        add_training,
        add_eval,
        add_ask,
        add_judge,
        add_matrix,
        add_jobs,
        add_report,
        add_publish,
        add_serve,
    ):
        add(verbs)
    return parser
