"""Shared by the verbs: help texts, common arguments, and the recipe, the run folder and the names that a command line gives."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from osler.errors import ConfigError
from osler.files import packaged_recipes
from osler.images.fingerprints import DEFAULT_DISTANCE
from osler.images.near import MAX_DISTANCE

if TYPE_CHECKING:
    from osler.config import Config
    from osler.images.fingerprints import Opening

Name = TypeVar("Name", bound=str)
Verb = Callable[[argparse.Namespace], Mapping[str, Any]]
"""Runs a verb, prints its results, and returns the JSON object of `--json`; its "exit_code" is the exit code (default 0)."""

EPILOG = """\
Set any value of a recipe on the command line: --policy.path Qwen/Qwen2-VL-2B-Instruct, --data.train.limit=600.
Models trained with Osler are research tools, not for clinical use.
"""


def add_verb(verbs: Any, name: str, run: Verb, summary: str, description: str, *examples: str) -> argparse.ArgumentParser:
    """Add a verb with its help and examples; the caller adds its arguments."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=summary,
        description=description,
        epilog="examples:\n  " + "\n  ".join(examples) + "\n\n" + EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object, the last line of standard output")
    parser.set_defaults(run=run)
    return parser


def add_recipe(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add the RECIPE argument."""
    known = ", ".join(sorted(packaged_recipes()))
    parser.add_argument("recipe", nargs="?" if optional else None, metavar="RECIPE", help=f"a TOML file, or one of {known}")
    parser.add_argument("--strict", action="store_true", help="stop where a row of the data is refused; by default it is left out")


def add_split(parser: argparse.ArgumentParser) -> None:
    """Add RECIPE and `--split`."""
    add_recipe(parser, optional=True)
    parser.add_argument(
        "--split", choices=("train", "test"), default="train", help="the questions of [data.train] or [data.test] (default: %(default)s)"
    )


def add_distance(parser: argparse.ArgumentParser) -> None:
    """Add `--distance`."""
    parser.add_argument(
        "--distance",
        type=int,
        default=DEFAULT_DISTANCE,
        metavar="BITS",
        help=f"images are near-duplicates when at most so many of 64 hash bits differ, 0 to {MAX_DISTANCE} (default: %(default)s)",
    )


def add_opening(parser: argparse.ArgumentParser) -> None:
    """Add `--workers` and `--cache`, of verbs that open many images."""
    parser.add_argument("--workers", type=int, default=None, metavar="N", help="threads that open images (default: as suits the machine)")
    parser.add_argument(
        "--cache",
        type=Path,
        default=None,
        metavar="DIR",
        help="keep the hashes of image files in this folder, and open only new and changed files next time (default: keep nothing)",
    )


def opening_of(options: argparse.Namespace) -> Opening:
    """The settings of these two options. Raises ConfigError for fewer than one worker."""
    from osler.images.fingerprints import Opening

    return Opening(workers=options.workers, cache=options.cache)


def add_run_options(parser: argparse.ArgumentParser, folder: str = "run folder (default: runs/<name of the recipe>-<verb>)") -> None:
    """Add the options of verbs that write runs; `folder` is the help of `--out`."""
    parser.add_argument("--out", type=Path, default=None, help=folder)
    parser.add_argument("--seed", type=int, default=None, help="random seed (default: the recipe's)")
    parser.add_argument("--fresh", action="store_true", help="start over; by default the run in --out is resumed")
    parser.add_argument("--dry-run", action="store_true", help="print what would run and on how many questions, then stop")


def name_reader(recipe: str | None, overrides: Sequence[str]) -> list[str]:
    """The overrides, with the reader that knows the layout of `--data.root` where no reader is named with it; says which, and why."""
    from osler.config import load_config, parse_overrides
    from osler.data.privacy.private import read_private
    from osler.data.readers import READERS
    from osler.data.readers.recognise import recognise

    given = dict(parse_overrides(overrides))
    if "data.root" not in given or "data.reader" in given:
        return list(overrides)
    if recipe is not None and load_config(recipe).data.reader != "phantom":
        return list(overrides)
    is_private = given.get("data.private", recipe is not None and load_config(recipe).data.private)
    look = partial(recognise, Path(str(given["data.root"])))
    name, why = read_private(look) if is_private else look()
    because = "" if is_private else f", because {why}"  # it may quote names of files
    print(f"reader: {name} ({READERS[name].card.title}){because}; --data.reader names another", file=sys.stderr)
    return [*overrides, f"--data.reader={name}"]


def say_where_it_goes(config: Config, policy: str | None = None) -> None:
    """Say on standard error that images and texts go to another machine, where `[eval] engine` asks one.

    Raises ConfigError and DataError for a wrong address or key, before anything is asked.
    """
    if config.eval.engine != "openai":
        return
    from osler.evaluation.engines.openai import make_endpoint

    endpoint = make_endpoint(config.eval, config.policy.path if policy is None else policy)
    if not endpoint.is_local:
        print(f"note: questions, images and patient contexts are sent to {endpoint.host}", file=sys.stderr)
    if endpoint.sends_key_openly:
        print("note: the key goes through the network without encryption, because the address begins with http:", file=sys.stderr)


def say_loading(policy: str) -> None:
    """Say in a terminal that a policy is loaded, which takes several seconds without another word. Nothing for a pipe or a file."""
    if sys.stderr.isatty():
        print(f"loading {policy} ..", file=sys.stderr, flush=True)


def run_folder(options: argparse.Namespace, config: Config) -> Path:
    """The run folder that a verb writes."""
    return options.out or Path("runs") / f"{config.name}-{options.verb}"


def choose(option: str, text: str, known: Collection[Name]) -> tuple[Name, ...]:
    """ "sft,grpo" -> those members of `known`, in its order; "all" -> all. Raises ConfigError for an unknown name, and for no name."""
    names = split_names(text) or (text,)
    if unknown := sorted({*names} - {*known, "all"}):
        raise ConfigError(f"{option} does not know {unknown[0]!r}: use {', '.join(known)}, or all")
    return tuple(name for name in known if name in names or "all" in names)


def split_names(text: str) -> tuple[str, ...]:
    """ "think, no_think" -> ("think", "no_think"), each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def print_dry_run(config: Config, verb: str) -> Mapping[str, Any]:
    """Print what a run would do, and return the resolved recipe."""
    print(describe_recipe(config, ("test",) if verb == "eval" else ("train", "test"), is_sft=verb == "sft"))
    return config.to_values()


def describe_recipe(config: Config, splits: Sequence[Literal["train", "test"]] = ("train", "test"), *, is_sft: bool = False) -> str:
    """The resolved recipe, the questions by modality and type, and one prompt of the first split. Loads no model.

    For SFT also the completion that it learns. Raises what the run would raise for the first question without one.
    """
    from osler.data.select import counts, describe_samples, load_split
    from osler.prompts import render

    lines = [config.to_json()]
    samples_of = {split: load_split(config.data, split) for split in splits}
    for split, samples in samples_of.items():
        redrawn = describe_samples(samples).get("distractors", {})
        lines.append(f"\n{split}: {len(samples)} questions" + (f", distractors {redrawn}" if redrawn else ""))
        for modality, row in counts(samples).items():
            lines.append(f"  {modality}: " + ", ".join(f"{question_type} {number}" for question_type, number in row.items()))
    sample, is_training = samples_of[splits[0]][0], splits[0] == "train"
    strategy = (None if is_training else config.prompt.eval_strategy) or config.prompt.strategy
    prompt = render(sample, strategy, phase="train" if is_training else "eval")
    images = ", ".join(source.uri for source in sample.images) or "no image"
    lines.append(f"\n{sample.id} ({images}), strategy {strategy}, target {sample.target}:\n{prompt.text}")
    if "train" in samples_of and not is_sft:
        from osler.grading import resolve_rewards
        from osler.training.arguments import grpo_arguments
        from osler.training.expectation_settings import check_expectation
        from osler.training.grpo import check_mixture, check_rewards

        prompts = [render(one, config.prompt.strategy, phase="train") for one in samples_of["train"]]
        check_rewards(rewards := resolve_rewards(config.rewards.names), prompts)
        check_mixture(config, prompts)
        if config.trainer.expectation != "sampled" or config.rewards.looking:
            check_expectation(config, grpo_arguments(config, Path("unused")), prompts, rewards)
    if is_sft:
        from osler.training.sft import sft_target

        completions = [sft_target(sample, config) for sample in samples_of["train"]]
        lines.append(f"\nSFT learns to write:\n{completions[0]}")
    return "\n".join(lines)
