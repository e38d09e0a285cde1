"""The command line: `osler VERB [RECIPE] [--section.key=value ...]`. Each verb loads what it needs and calls one function.

Exit codes: 0 done, 1 a gate said no, 2 the user's mistake in one line, anything else is a bug of Osler's with its traceback.
With `--json` the last line of standard output is one JSON object and everything a person reads goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osler import __version__
from osler.config import load_config, packaged_recipes
from osler.errors import OslerError

if TYPE_CHECKING:
    from osler.config import Config

Verb = Callable[[argparse.Namespace], Mapping[str, Any]]

TOP_LEVEL = ("--name", "--sft_target")
"""Keys of a recipe that stand in no section and are no option of a verb."""

EPILOG = """\
Any value of a recipe can be set on the command line: --policy.path Qwen/Qwen2-VL-2B-Instruct, --data.train.limit=600.
Models trained with Osler are research tools, not for clinical use.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    own, overrides = split_overrides(sys.argv[1:] if arguments is None else arguments)
    options = build_parser().parse_args(own)
    options.overrides = overrides
    out = contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext()
    try:
        with out:
            result = options.run(options)
    except OslerError as error:
        print(f"osler: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print("osler: interrupted; the same command continues where it stopped", file=sys.stderr)  # noqa: T201
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if options.json:
        print(json.dumps(result, default=str))  # noqa: T201
    return int(result.get("exit_code", 0))


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate `--section.key value` and `--section.key=value` from the verb's own arguments, in any order."""
    own: list[str] = []
    overrides: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, _ = argument.partition("=")
        if not (name.startswith("--") and ("." in name or name in TOP_LEVEL)):
            own.append(argument)
            continue
        overrides.append(argument)
        if not equals and (value := next(remaining, None)) is not None:
            overrides.append(value)
    return own, overrides


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="osler",
        description="Train compact vision-language models to reason about medical images, and measure whether they looked.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"osler {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add_demo(verbs)
    data = verbs.add_parser("data", help="check, look at, make and convert data", description="Check, look at, make and convert data.")
    add_data_verbs(data.add_subparsers(dest="data_verb", required=True, metavar="VERB"))
    add_training_verbs(verbs)
    add_eval(verbs)
    add_report(verbs)
    return parser


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


def add_data_verbs(verbs: Any) -> None:
    """`osler data check|view|phantom|tiny|convert`."""
    check = add_verb(
        verbs,
        "check",
        run_data_check,
        "count the questions of a reader, and say which rows it refused and why",
        "Read annotation files whole, count questions per modality and question type, list the\n"
        "known traps and the refused rows, and open the images.",
        "osler data check --data.reader=slake --data.root=DIR",
        "osler data check --data.reader=med_r1 --data.root=DIR --data.axis=modality --images none",
    )
    add_recipe(check, optional=True)
    check.add_argument(
        "--images", choices=("none", "header", "decode"), default="header", help="how to look at images (default: %(default)s)"
    )
    view = add_verb(
        verbs,
        "view",
        run_data_view,
        "an HTML page of questions with their images",
        "Show a seeded sample of questions: image, question, choices, target.",
        "osler data view --data.reader=phantom --out view.html",
    )
    add_recipe(view, optional=True)
    add_split(view)
    view.add_argument("--out", type=Path, default=Path("view.html"), help="the HTML file (default: %(default)s)")
    view.add_argument("--count", type=int, default=24, help="number of questions (default: %(default)s)")
    phantom = add_verb(
        verbs,
        "phantom",
        run_data_phantom,
        "draw phantom images and questions in Med-R1's layout",
        "Write images, split files of both axes and a contact sheet. The same seed gives the same bytes.",
        "osler data phantom --out phantom --train 2000 --test 500",
    )
    phantom.add_argument("--out", type=Path, required=True, help="output folder")
    phantom.add_argument("--train", type=int, default=600, help="training questions of each modality (default: %(default)s)")
    phantom.add_argument("--test", type=int, default=300, help="test questions of each modality (default: %(default)s)")
    phantom.add_argument("--seed", type=int, default=0, help="seed of images and questions (default: %(default)s)")
    phantom.add_argument("--size", type=int, default=112, help="image size in pixels (default: %(default)s)")
    phantom.add_argument("--contrast", type=float, default=1.0, help="lesion contrast (default: %(default)s)")
    phantom.add_argument("--noise", type=float, default=1.0, help="acquisition noise (default: %(default)s)")
    phantom.add_argument("--lesion-size", type=float, default=1.0, help="lesion radius (default: %(default)s)")
    tiny = add_verb(
        verbs,
        "tiny",
        run_data_tiny,
        "rebuild the packaged tiny policy from nothing",
        "Train osler-tiny from random weights on phantoms, with a fixed seed. Takes more than an hour on a laptop.",
        "osler data tiny --out my-tiny --seed 1",
    )
    tiny.add_argument("--out", type=Path, required=True, help="output folder")
    tiny.add_argument("--seed", type=int, default=0, help="seed of images, weights and batches (default: %(default)s)")
    convert = add_verb(
        verbs,
        "convert",
        run_data_convert,
        "write any reader's questions as JSON lines",
        "One JSON object a line, in the layout that the jsonl reader takes.",
        "osler data convert --data.reader=vqa_rad --data.root=DIR --out vqa_rad.jsonl",
    )
    add_recipe(convert, optional=True)
    add_split(convert)
    convert.add_argument("--out", type=Path, required=True, help="the JSONL file")


def add_training_verbs(verbs: Any) -> None:
    """`osler train` and `osler sft`."""
    train = add_verb(
        verbs,
        "train",
        run_training,
        "train a policy with GRPO",
        "Train a policy with GRPO. A run that was killed continues from its last checkpoint when the\nsame command is given again.",
        "osler train medvlm_r1 --policy.path Qwen/Qwen2-VL-2B-Instruct --data.root DIR",
        "osler train demo --dry-run",
    )
    sft = add_verb(
        verbs,
        "sft",
        run_training,
        "fine-tune a policy on reference answers, at GRPO's budget",
        "Fine-tune a policy on reference answers. Prompt and number of steps match GRPO's unless [sft]\nsays otherwise.",
        "osler sft demo --prompt.strategy=no_think",
        "osler sft slake --data.root DIR",
    )
    for parser in (train, sft):
        add_recipe(parser)
        add_run_options(parser)


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
    )
    add_recipe(parser)
    parser.add_argument("--policy", default=None, help="packaged name, run, local folder or hub id (default: the recipe's)")
    parser.add_argument("--label", default="eval", help="name of the records file and of the row in reports (default: %(default)s)")
    add_run_options(parser)


def add_report(verbs: Any) -> None:
    """`osler report`."""
    parser = add_verb(
        verbs,
        "report",
        run_report,
        "one self-contained HTML file about runs",
        "Tables with intervals, training curves, and example cases with image, reasoning and verdict.",
        "osler report runs/demo --out demo.html",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, or a folder that holds runs")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the HTML file (default: %(default)s)")


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


def run_demo(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler demo`."""
    from osler.demo import run

    options.recipe = "demo"
    seed = [f"--seed={options.seed}", f"--data.seed={options.seed}"] if options.seed is not None else []
    return run(resolve(options), options.out, fresh=options.fresh, overrides=[*options.overrides, *seed])


def run_training(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler train` and `osler sft`."""
    config = resolve(options)
    if options.dry_run:
        return describe(config, options.verb)
    if options.verb == "train":
        from osler.train import train as start
    else:
        from osler.sft import train_sft as start
    run = start(config, run_folder(options, config), fresh=options.fresh)
    return {"run": run.root, "policy": run.policy}


def run_eval(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler eval`."""
    config = resolve(options)
    if options.dry_run:
        return describe(config, options.verb)
    from osler.evaluate import run_evaluation

    return run_evaluation(config, run_folder(options, config), policy=options.policy, label=options.label, fresh=options.fresh)


def describe(config: Config, verb: str) -> Mapping[str, Any]:
    """`--dry-run`."""
    from osler.training import describe as describe_config

    print(describe_config(config, ("test",) if verb == "eval" else ("train", "test")))  # noqa: T201
    return config.model_dump(mode="json")


def run_report(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler report`."""
    from osler.report import write_report

    write_report(options.runs, options.out)
    print(f"report: {options.out}")  # noqa: T201
    return {"report": options.out}


def run_data_check(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler data check`."""
    from osler.data import check

    data = resolve(options).data
    report = check(data.reader, data.root, look=options.images, **data.options)
    print(report.render())  # noqa: T201
    payload: dict[str, Any] = json.loads(report.to_json())
    return payload


def run_data_view(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler data view`."""
    from osler.data import view
    from osler.selection import load_split

    config = resolve(options)
    path = view(load_split(config.data, options.split), options.out, num=options.count, seed=config.seed)
    print(f"page: {path}")  # noqa: T201
    return {"page": path}


def run_data_phantom(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler data phantom`."""
    from osler.phantom import Difficulty
    from osler.phantom.write import write_phantom

    written = write_phantom(
        options.out,
        num_questions={"train": options.train, "test": options.test},
        seed=options.seed,
        size=options.size,
        difficulty=Difficulty(contrast=options.contrast, noise=options.noise, lesion_size=options.lesion_size),
    )
    print(f"{written.num_questions} questions on {written.num_images} images in {options.out}; look at {options.out}/contact_sheet.png")  # noqa: T201
    return {"questions": written.num_questions, "images": written.num_images, "files": dict(written.questions_per_file), "out": options.out}


def run_data_tiny(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler data tiny`."""
    from osler.tiny.recipe import build

    build(options.out, seed=options.seed)
    return {"policy": options.out}


def run_data_convert(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler data convert`."""
    from osler.data import convert
    from osler.selection import load_split

    conversion = convert(load_split(resolve(options).data, options.split), options.out)
    print(f"{conversion.num_samples} questions in {conversion.path}, image paths from {conversion.images}")  # noqa: T201
    return {"rows": conversion.num_samples, "out": conversion.path, "images": conversion.images}


if __name__ == "__main__":
    sys.exit(main())
