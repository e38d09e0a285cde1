"""`osler data`: check, look at, make and convert data."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osler.cli.common import add_recipe, add_split, add_verb, resolve


def add_data(families: Any) -> None:
    """`osler data check|view|phantom|tiny|convert`."""
    family = families.add_parser("data", help="check, look at, make and convert data", description="Check, look at, make and convert data.")
    verbs = family.add_subparsers(dest="data_verb", required=True, metavar="VERB")
    check = add_verb(
        verbs,
        "check",
        run_data_check,
        "count the questions of a reader, and say which rows it refused and why",
        "Read annotation files whole, count questions per modality and question type, list the\n"
        "known traps and the refused rows, and open the images.",
        "osler data check --data.reader=slake --data.root=DIR",
        "osler data check --data.reader=med_r1 --data.root=DIR --data.axis=modality --images none",
        "osler data check --data.reader=jsonl --data.root=mine.jsonl --strict      for CI over data of your own",
    )
    add_recipe(check, optional=True)
    check.add_argument(
        "--images", choices=("none", "header", "decode"), default="header", help="how to look at images (default: %(default)s)"
    )
    check.add_argument(
        "--strict",
        action="store_true",
        help="exit with 1 when a row was refused or an image cannot be shown (default: 0, because readers leave out by rule what public "
        "datasets get wrong)",
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
        "Train osler-tiny from random weights on phantoms, with a fixed seed. Takes about 20 minutes on one core.",
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


def run_data_check(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler data check`."""
    from osler.data.inspect import check

    data = resolve(options).data
    report = check(data.reader, data.root, look=options.images, **data.options)
    print(report.render())  # noqa: T201
    payload: dict[str, Any] = json.loads(report.to_json())
    if not options.strict:
        return payload
    if not report.is_clean:
        print(f"\nnot clean: {len(report.refused):,} rows refused, {len(report.bad_images):,} images that cannot be shown")  # noqa: T201
    return {**payload, "exit_code": int(not report.is_clean)}


def run_data_view(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler data view`."""
    from osler.data.inspect import view
    from osler.data.select import load_split

    config = resolve(options)
    path = view(load_split(config.data, options.split), options.out, num=options.count, seed=config.seed)
    print(f"page: {path}")  # noqa: T201
    return {"page": path}


def run_data_phantom(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler data phantom`."""
    from osler.data.phantom import Difficulty
    from osler.data.phantom.write import write_phantom

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
    from tools.build_tiny.recipe import build

    build(options.out, seed=options.seed)
    return {"policy": options.out}


def run_data_convert(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler data convert`."""
    from osler.data.inspect import convert
    from osler.data.select import load_split

    conversion = convert(load_split(resolve(options).data, options.split), options.out)
    print(f"{conversion.num_samples} questions in {conversion.path}, image paths from {conversion.images}")  # noqa: T201
    return {"rows": conversion.num_samples, "out": conversion.path, "images": conversion.images}
