"""`osler split`."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osler.cli.common import add_distance, add_opening, add_recipe, add_verb, opening_of

if TYPE_CHECKING:
    from osler.data.splits.make import SplitReport


def add_split_verb(verbs: Any) -> None:
    """`osler split`."""
    parser = add_verb(
        verbs,
        "split",
        _run,
        "divide a dataset so that train and test share no image, near duplicate, subject or case",
        "Read every question of a dataset, from all of its published splits, and divide it again: questions\n"
        "that share an image (by name, by bytes, as a near duplicate, or as a turned or mirrored copy), a\n"
        "subject or a case stay together; cropped copies are not looked for. Modality, question type and\n"
        "answer are spread as evenly as that allows. Writes one manifest file;\n"
        "with [data] manifest = FILE, train, sft and eval use it, and stop when the data have changed.\n"
        "A sample is on the same side for both axes, so you can train on a modality and test on a question\n"
        "type: --data.train.modalities='[\"ct\"]' --data.test.question_types='[\"lesion_grading\"]'.",
        "osler split --data.reader=slake --data.root=DIR --out slake.json",
        "osler split --data.reader=med_r1 --data.root=DIR --test 0.2 --validation 0.1 --out med_r1.json",
        "osler split --data.reader=med_r1 --data.root=DIR --protocol medvlm_r1 --out medvlm_r1.json",
        "osler train slake --data.root=DIR --data.manifest=slake.json",
    )
    add_recipe(parser, optional=True)
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write, a JSON file")
    parser.add_argument(
        "--test", type=float, default=0.2, metavar="SHARE", help="share of the questions for testing (default: %(default)s)"
    )
    parser.add_argument(
        "--validation", type=float, default=0.0, metavar="SHARE", help="share of the questions for validation (default: none)"
    )
    parser.add_argument(
        "--protocol",
        choices=("fractions", "medvlm_r1"),
        default="fractions",
        help="medvlm_r1: train on 600 MRI questions, test on 300 questions each of MRI, CT and X-ray (default: %(default)s)",
    )
    add_distance(parser)
    add_opening(parser)
    parser.add_argument(
        "--images", choices=("fingerprint", "none"), default="fingerprint", help="none: group by file names and subjects only"
    )
    parser.add_argument("--seed", type=int, default=None, help="seed of the assignment (default: the recipe's)")
    parser.add_argument("--fresh", action="store_true", help="replace the file at --out")


def _run(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.config import load_config
    from osler.data.splits.make import SplitOptions, split_dataset
    from osler.data.splits.manifest import write_manifest

    config = load_config(options.recipe, options.overrides)
    shares = {"train": 1 - options.test - options.validation, "validation": options.validation, "test": options.test}
    report = split_dataset(
        config.data,
        SplitOptions(
            fractions={name: round(share, 9) for name, share in shares.items() if share != 0 or name != "validation"},
            protocol=options.protocol,
            max_distance=options.distance,
            has_images=options.images != "none",
            opening=opening_of(options),
            seed=config.seed,
        ),
        has_progress=True,
    )
    write_manifest(report.manifest, options.out, replace=options.fresh)
    print(describe_split(report))
    print(f"manifest: {options.out}")
    manifest = report.manifest
    return {
        "manifest": options.out,
        "digest": manifest.digest(),
        "counts": manifest.counts,
        "groups": manifest.num_groups,
        "largest_group": report.largest_group,
        "images": report.num_images,
        "images_at_hand": report.num_known_images,
        "turned_images": report.num_turned_images,
    }


def describe_split(report: SplitReport) -> str:
    """The counts of a split as lines of text, with a warning where near duplicates join too many questions."""
    manifest = report.manifest
    sizes = Counter(sample.split or "left over" for sample in manifest.samples)
    total = len(manifest.samples)
    lines = [
        f"{total:,} questions in {manifest.num_groups:,} groups (the largest has {report.largest_group:,}); "
        f"{report.num_known_images:,} of {report.num_images:,} images looked at"
    ]
    for split in (*manifest.splits, "left over"):
        if sizes[split]:
            cells = ", ".join(f"{modality} {sum(row.values()):,}" for modality, row in manifest.counts.get(split, {}).items())
            lines.append(f"  {split:<10} {sizes[split]:>7,} {sizes[split] / total:6.1%}  {cells}".rstrip())
    if report.num_turned_images is not None:
        turned = report.num_turned_images
        lines.append(f"{turned:,} images are turned or mirrored copies of others and stay with them; cropped copies are not looked for")
    lines += [line for line in (report.undecoded, report.describe_chain()) if line is not None]
    return "\n".join(lines)
