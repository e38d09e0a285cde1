"""What verbs share: their help, the RECIPE argument, and the folder that a run writes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osler.config import load_config, packaged_recipes

if TYPE_CHECKING:
    from osler.config import Config

Verb = Callable[[argparse.Namespace], Mapping[str, Any]]

EPILOG = """\
Any value of a recipe can be set on the command line: --policy.path Qwen/Qwen2-VL-2B-Instruct, --data.train.limit=600.
Models trained with Osler are research tools, not for clinical use.
"""


def add_verb(verbs: Any, name: str, run: Verb, summary: str, description: str, *examples: str) -> argparse.ArgumentParser:
    """A verb with its help and examples; the caller adds its arguments."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=summary,
        description=description,
        epilog="examples:\n  " + "\n  ".join(examples) + "\n\n" + EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="end standard output with one JSON object")
    parser.set_defaults(run=run)
    return parser


def add_recipe(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """The RECIPE argument."""
    known = ", ".join(sorted(path.stem for path in packaged_recipes().glob("*.toml")))
    parser.add_argument("recipe", nargs="?" if optional else None, metavar="RECIPE", help=f"a TOML file, or one of {known}")


def add_split(parser: argparse.ArgumentParser) -> None:
    """`--split`."""
    parser.add_argument("--split", choices=("train", "test"), default="train", help="[data.train] or [data.test] (default: %(default)s)")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Where a run goes, and how it starts."""
    parser.add_argument("--out", type=Path, default=None, help="run folder (default: runs/<name of the recipe>-<verb>)")
    parser.add_argument("--seed", type=int, default=None, help="the recipe's seed")
    parser.add_argument("--fresh", action="store_true", help="start over instead of continuing the run in --out")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe, the counts and one prompt; then stop")


def resolve(options: argparse.Namespace) -> Config:
    """The recipe of a verb with its overrides."""
    seed = [f"--seed={options.seed}"] if getattr(options, "seed", None) is not None else []
    return load_config(options.recipe, [*options.overrides, *seed])


def run_folder(options: argparse.Namespace, config: Config) -> Path:
    """Where a verb writes."""
    return options.out or Path("runs") / f"{config.name}-{options.verb}"


def describe(config: Config, verb: str) -> Mapping[str, Any]:
    """`--dry-run`."""
    from osler.training.arguments import describe as describe_config

    print(describe_config(config, ("test",) if verb == "eval" else ("train", "test")))  # noqa: T201
    return config.model_dump(mode="json")
