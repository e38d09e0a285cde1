"""`osler data`: check, view, make and convert data."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osler.cli.common import add_recipe, add_split, add_verb, choose
from osler.cli.deidentify import add_deidentify
from osler.cli.tables import print_table, printable
from osler.errors import ConfigError, DataError, PolicyError
from osler.files import is_there, packaged_recipes

if TYPE_CHECKING:
    from osler.config import DataConfig, PolicyConfig
    from osler.data.inspect import CheckReport
    from osler.data.phantom import Difficulty
    from osler.images.study import Study
    from osler.reports.contact_sheet import Measure

_TABLES: Final = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
MAX_SHOWN: Final = 20
"""Refused rows and bad images that `data check` prints; its JSON holds them all."""


def add_data(families: Any) -> None:
    """`osler data check|view|phantom|convert|deidentify`."""
    family = families.add_parser("data", help="check, view, make and convert data", description="Check, view, make and convert data.")
    verbs = family.add_subparsers(dest="data_verb", required=True, metavar="VERB")
    _add_check(verbs)
    _add_view(verbs)
    _add_phantom(verbs)
    _add_convert(verbs)
    add_deidentify(verbs)


def _add_check(verbs: Any) -> None:
    """`osler data check`."""
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


def _add_view(verbs: Any) -> None:
    """`osler data view`."""
    view = add_verb(
        verbs,
        "view",
        _view,
        "write an HTML page of what a policy sees of questions, or of a study",
        "Show a random sample of questions, drawn with the recipe's seed: pictures, question, choices, target.\n"
        "Or, in place of a recipe, name a study: a folder with DICOM files, a NIfTI or NRRD volume, a picture.\n"
        "Pictures have the size that the processor of [policy] gives them, with their tokens and orientation;\n"
        "--data.study says which slices of a study are shown.",
        "osler data view --data.reader=phantom --out view.html",
        "osler data view patient1/ct --data.study.window=lung --data.study.slices=12",
        "osler data view body.nii.gz --data.study.plane=coronal --policy.path=Qwen/Qwen2-VL-2B-Instruct",
    )
    add_split(view)
    view.add_argument("--out", type=Path, default=Path("view.html"), help="the HTML file (default: %(default)s)")
    view.add_argument("--count", type=int, default=24, help="number of questions (default: %(default)s)")


def _add_phantom(verbs: Any) -> None:
    """`osler data phantom`."""
    phantom = add_verb(
        verbs,
        "phantom",
        _phantom,
        "draw phantom images and questions in the file layout of Med-R1, or phantom studies as DICOM or NIfTI",
        "Write images, split files of both axes and a contact sheet. The same seed gives the same bytes.\n"
        "With --studies: volumes, cines, two views, and prior and current images, with questions that no\n"
        "single picture answers, in phantom_study.jsonl. NIfTI holds volumes only.",
        "osler data phantom --out phantom --train 2000 --test 500",
        "osler data phantom --out studies --studies dicom --train 100 --test 50",
        "osler data phantom --out volumes --studies nifti --kinds ct_volume,mri_volume --slices 24 --size 112",
    )
    phantom.add_argument("--out", type=Path, required=True, help="output folder")
    phantom.add_argument(
        "--train", type=int, default=600, help="training questions of each modality or kind of study (default: %(default)s)"
    )
    phantom.add_argument("--test", type=int, default=300, help="test questions of each modality or kind of study (default: %(default)s)")
    phantom.add_argument("--seed", type=int, default=0, help="seed of images and questions (default: %(default)s)")
    phantom.add_argument("--size", type=int, default=None, help="image size in pixels (default: 112, of studies 84)")
    phantom.add_argument("--studies", choices=("dicom", "nifti"), default=None, help="write studies, in this format")
    phantom.add_argument("--kinds", default=None, help="kinds of studies, with commas between (default: all that the format can hold)")
    phantom.add_argument("--slices", type=int, default=8, help="slices of a volume and frames of a cine (default: %(default)s)")
    phantom.add_argument("--contrast", type=float, default=1.0, help="lesion contrast (default: %(default)s)")
    phantom.add_argument("--noise", type=float, default=1.0, help="acquisition noise (default: %(default)s)")
    phantom.add_argument("--lesion-size", type=float, default=1.0, help="lesion radius (default: %(default)s)")
    phantom.add_argument(
        "--shortcut",
        type=float,
        default=0.0,
        help="share of the training questions whose right option alone has a qualifier (default: 0)",
    )


def _add_convert(verbs: Any) -> None:
    """`osler data convert`."""
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


def _check(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.config import load_config
    from osler.data.inspect import check_report
    from osler.data.select import read_report

    data = load_config(options.recipe, options.overrides).data
    report = check_report(data.reader, read_report(data, data.options), look=options.images, study=data.study)
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

    _check_out(data, out)
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


def _check_out(data: DataConfig, out: Path) -> None:
    """Raise ConfigError for a file that is the data, or that their reader would find among them."""
    if data.root is not None and Path(data.root).exists() and out.resolve().is_relative_to(Path(data.root).resolve()):
        raise ConfigError(f"--out {out} lies among the data, where it would be read as more of them: write it elsewhere")


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
    if report.context:
        shown = ", ".join(f"{name.replace('_', ' ')} {num:,}" for name, num in report.context.items())
        print(f"\npatient context, in number of samples: {shown}")
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
    if report.hidden:
        print("\nstudies whose pictures hide values:")
        _print_some([f"{hidden.row}: {hidden.finding}" for hidden in report.hidden])
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
    from osler.data.select import load_split
    from osler.evaluation.question import reword
    from osler.reports.contact_sheet import view_samples, view_study

    source = _find_study(options.recipe)
    config = load_config(None if source is not None else options.recipe, options.overrides)
    measure, note = _measure_with(config.policy)
    study = config.data.study
    if source is not None:
        if config.data.private:
            raise ConfigError("[data] private is for questions: a path that is named on the command line stands on the page")
        if config.data.options:
            raise ConfigError(f"a study has no reader, whose option data.{next(iter(config.data.options))} would be: leave it out")
        try:
            page = view_study(source, options.out, study, measure, note=note)
        except DataError as error:
            raise DataError(reword(str(error))) from None
    else:
        samples = load_split(config.data, options.split, shows_studies=False)
        page = view_samples(samples, options.out, study, measure, num=options.count, seed=config.seed, note=note)
    print(f"page: {page}")
    return {"page": page}


def _find_study(recipe: str | None) -> Study | None:
    """The study that stands in the place of a recipe; None for a recipe."""
    from osler.images.study import study_at

    if recipe is None or recipe in packaged_recipes() or recipe.endswith(".toml"):
        return None
    if not recipe.strip() or not (is_there(Path(recipe)) or os.path.islink(recipe)):  # noqa: PTH114 # a text that is no path is no link
        raise ConfigError(f"no recipe and no study at {recipe!r}: check the path, or use a recipe such as demo")
    if recipe.lower().endswith(_TABLES):
        raise ConfigError(f"{recipe} is a table of questions: --data.reader=jsonl --data.root={recipe}")
    return study_at(recipe)


def _measure_with(policy: PolicyConfig) -> tuple[Measure | None, str]:
    """How the policy sees a picture, and what the page says about that. A policy that is not on this machine is no reason to stop."""
    from osler.policies.load import open_processor
    from osler.reports.contact_sheet import measure_with

    try:
        processor = open_processor(policy)
    except PolicyError as error:
        print(f"pictures are shown as they are read, without tokens: {error}", file=sys.stderr)
        return None, f"The policy {policy.path} is not here: pictures are shown as they are read, before its processor."
    return measure_with(processor), f"Sizes and tokens are those of {policy.path}."


def _phantom(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.data.phantom import Difficulty
    from osler.data.phantom.images import DEFAULT_SIZE
    from osler.data.phantom.write import write_phantom

    difficulty = Difficulty(contrast=options.contrast, noise=options.noise, lesion_size=options.lesion_size)
    if options.studies is not None:
        return _phantom_studies(options, difficulty)
    if options.kinds is not None:
        raise ConfigError("--kinds names kinds of studies: add --studies dicom or --studies nifti")
    written = write_phantom(
        options.out,
        num_questions={"train": options.train, "test": options.test},
        seed=options.seed,
        size=DEFAULT_SIZE if options.size is None else options.size,
        difficulty=difficulty,
        shortcut=options.shortcut,
    )
    print(f"{written.num_questions} questions on {written.num_images} images in {options.out}; look at {options.out}/contact_sheet.png")
    return {"questions": written.num_questions, "images": written.num_images, "files": dict(written.questions_per_file), "out": options.out}


def _phantom_studies(options: argparse.Namespace, difficulty: Difficulty) -> Mapping[str, Any]:
    from osler.data.phantom.studies import StudyKind
    from osler.data.phantom.studies.files import write_phantom_studies

    of_format = [kind for kind in StudyKind if options.studies == "dicom" or kind.is_volume]
    kinds = of_format if options.kinds is None else choose("--kinds", options.kinds, of_format)
    num_studies = write_phantom_studies(
        options.out,
        num_questions={"train": options.train, "test": options.test},
        kinds=kinds,
        file_format=options.studies,
        seed=options.seed,
        size=options.size,
        num_slices=options.slices,
        difficulty=difficulty,
        shortcut=options.shortcut,
    )
    print(
        f"{num_studies} studies in {options.out}, questions in {options.out}/phantom_study.jsonl; look at {options.out}/contact_sheet.png"
    )
    return {"studies": num_studies, "kinds": [*kinds], "out": options.out}


def _convert(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.config import load_config
    from osler.data.inspect import convert
    from osler.data.select import load_split

    data = load_config(options.recipe, options.overrides).data
    _check_out(data, options.out)
    samples = load_split(data, options.split, shows_studies=data.private)  # slices of private studies are written, others are named
    images = convert(samples, options.out)
    print(f"{len(samples)} questions in {options.out}, image paths from {images}")
    return {"rows": len(samples), "out": options.out, "images": images}
