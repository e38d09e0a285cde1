"""`osler data`: check, view, make and convert data."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osler.cli.common import add_recipe, add_split, add_verb
from osler.cli.deidentify import add_deidentify
from osler.cli.tables import print_table, printable
from osler.errors import ConfigError

if TYPE_CHECKING:
    from osler.config import DataConfig
    from osler.data.inspect import CheckReport

MAX_SHOWN: Final = 20
"""Refused rows and bad images that `data check` prints; its JSON holds them all."""


def add_data(families: Any) -> None:
    """`osler data check|view|phantom|convert|deidentify`."""
    family = families.add_parser("data", help="check, view, make and convert data", description="Check, view, make and convert data.")
    verbs = family.add_subparsers(dest="data_verb", required=True, metavar="VERB")
    check = add_verb(
        verbs,
        "check",
        _check,
        "count the questions of a dataset, and list the rows that were refused and why",
        "Read all annotation files, count the questions of each modality and question type, list the\n"
        "known problems that the reader handled and the rows that it refused, and open the images. Public\n"
        "datasets have faulty rows, so the exit code is 0 even when rows were refused, except with --strict.",
        "osler data check --data.reader=slake --data.root=DIR",
        "osler data check --data.reader=med_r1 --data.root=DIR --data.axis=modality --images none",
        "osler data check --data.reader=jsonl --data.root=mine.jsonl --strict      for CI on your own data",
    )
    add_recipe(check, optional=True)
    check.add_argument(
        "--images", choices=("none", "header", "decode"), default="header", help="how to check images (default: %(default)s)"
    )
    check.add_argument("--out", type=Path, default=None, help="write the questions that were read as JSON lines, in one form")
    view = add_verb(
        verbs,
        "view",
        _view,
        "write an HTML page of questions with their images",
        "Show a random sample of questions, drawn with the recipe's seed: image, question, choices, target.",
        "osler data view --data.reader=phantom --out view.html",
    )
    add_split(view)
    view.add_argument("--out", type=Path, default=Path("view.html"), help="the HTML file (default: %(default)s)")
    view.add_argument("--count", type=int, default=24, help="number of questions (default: %(default)s)")
    phantom = add_verb(
        verbs,
        "phantom",
        _phantom,
        "draw phantom images and questions in the file layout of Med-R1",
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
    convert = add_verb(
        verbs,
        "convert",
        _convert,
        "write the questions of any dataset as JSON lines",
        "Write one JSON object a line, in the layout that the jsonl reader reads.",
        "osler data convert --data.reader=vqa_rad --data.root=DIR --out vqa_rad.jsonl",
    )
    add_split(convert)
    convert.add_argument("--out", type=Path, required=True, help="the JSONL file")
    add_deidentify(verbs)


def _check(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.config import load_config
    from osler.data.inspect import check_report
    from osler.data.select import read_report

    data = load_config(options.recipe, options.overrides).data
    report = check_report(data.reader, read_report(data, data.options), look=options.images)
    print_check(report)
    payload: dict[str, Any] = json.loads(report.to_json())
    if options.out is not None:
        images = write_checked(data, options.out)
        print(f"\n{report.num_samples:,} questions in {options.out}, image paths from {images}")
        payload["out"] = options.out
    if not options.strict:
        return payload
    if not report.is_clean:
        print(f"\nnot clean: {len(report.refused):,} rows refused, {len(report.bad_images):,} images that cannot be shown")
    return {**payload, "exit_code": int(not report.is_clean)}


def write_checked(data: DataConfig, out: Path) -> Path:
    """Write every question of a dataset with its split as JSON lines; returns the folder of the image paths. Raises ConfigError for a file
    that the reader would find among the data.
    """
    from osler.data.inspect import convert
    from osler.data.select import read_report

    if data.root is not None and Path(data.root).is_dir() and out.resolve().is_relative_to(Path(data.root).resolve()):
        raise ConfigError(f"--out {out} lies among the data, where it would be read as more of them: write it elsewhere")
    report = read_report(data, data.options)
    parts = {name: read_report(data, {**data.options, "split": name}).samples for name in report.splits}
    if not parts:
        return convert(report.samples, out)
    if loose := len(report.samples) - sum(map(len, parts.values())):
        raise ConfigError(f"{loose:,} questions stand in tables that name no split, and others do: name these tables after a split first")
    used = Counter(sample.id for samples in parts.values() for sample in samples)
    named = [
        (replace(sample, id=f"{name}/{sample.id}") if used[sample.id] > 1 else sample, name)
        for name, samples in parts.items()
        for sample in samples
    ]
    return convert([sample for sample, _ in named], out, splits={sample.id: name for sample, name in named})


def print_check(report: CheckReport) -> None:
    """Print what a dataset holds and what is wrong with it."""
    from osler.taxonomy import QuestionType

    print(f"{report.title} ({report.reader})\nlicence: {report.licence}")
    print(f"{report.num_samples:,} samples, {report.num_images:,} images, {report.num_subjects:,} named subjects, ", end="")
    print(f"{len(report.refused):,} rows refused\n")
    kinds = [str(kind) for kind in (*QuestionType, "unknown") if any(kind in row for row in report.counts.values())]
    totals = {kind: sum(row.get(kind, 0) for row in report.counts.values()) for kind in kinds}
    rows = [
        [name, *(f"{row[kind]:,}" if kind in row else "-" for kind in kinds), f"{sum(row.values()):,}"]
        for name, row in (*report.counts.items(), ("all", totals))
    ]
    print_table(["", *(kind.replace("_", " ") for kind in kinds), "all"], rows, has_lines=False)
    print(f"\nchoices: {_shares(report.num_choices)}")
    print(f"\nright letters: {_shares(report.targets)}")
    known = ", ".join(f"{kind} {num:,}" for kind, num in report.facts.items()) or "none"
    print(f"\nfacts: {report.num_images_with_facts:,} of {report.num_images:,} images: {known}")
    if report.notes:
        print("\nhandled:")
        for note, count in report.notes.items():
            some = ", ".join(report.examples.get(note, ()))
            print(f"  {count:>8,}  {printable(note)}" + (f"  ({printable(some)})" if some else ""))
    if not report.num_samples:
        print("\nno question was read")
    if report.refused:
        print("\nrefused:")
        _print_some([f"{refusal.row}: {refusal.reason}" for refusal in report.refused])
    how = {"none": "not looked at", "header": "headers read", "decode": "decoded"}[report.image_check]
    if not report.bad_images:
        print(f"\nimages: {how}" + (", all sound" if report.image_check != "none" else ""))
    else:
        print(f"\nimages: {how}, {len(report.bad_images):,} of {report.num_images:,} cannot be shown:")
        _print_some([f"{bad.row}: {bad.reason}" for bad in report.bad_images])
    print("copies of images between splits are not looked for here: `osler audit` finds equal, similar, turned and mirrored ones")


def _shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {count:,} ({count / total:.1%})" for name, count in counts.items()) or "-"


def _print_some(lines: Sequence[str]) -> None:
    for line in lines[:MAX_SHOWN]:
        print(f"  {printable(line)}")
    if len(lines) > MAX_SHOWN:
        print(f"  ... and {len(lines) - MAX_SHOWN:,} more; --json lists them all")


def _view(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.config import load_config
    from osler.data.inspect import view
    from osler.data.select import load_split

    config = load_config(options.recipe, options.overrides)
    path = view(load_split(config.data, options.split), options.out, num=options.count, seed=config.seed)
    print(f"page: {path}")
    return {"page": path}


def _phantom(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.data.phantom import Difficulty
    from osler.data.phantom.write import write_phantom

    written = write_phantom(
        options.out,
        num_questions={"train": options.train, "test": options.test},
        seed=options.seed,
        size=options.size,
        difficulty=Difficulty(contrast=options.contrast, noise=options.noise, lesion_size=options.lesion_size),
    )
    print(f"{written.num_questions} questions on {written.num_images} images in {options.out}; look at {options.out}/contact_sheet.png")
    return {"questions": written.num_questions, "images": written.num_images, "files": dict(written.questions_per_file), "out": options.out}


def _convert(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.config import load_config
    from osler.data.inspect import convert
    from osler.data.select import load_split

    samples = load_split(load_config(options.recipe, options.overrides).data, options.split)
    images = convert(samples, options.out)
    print(f"{len(samples)} questions in {options.out}, image paths from {images}")
    return {"rows": len(samples), "out": options.out, "images": images}
