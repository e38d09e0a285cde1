"""`osler split`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osler.cli.common import add_recipe, add_verb, resolve
from osler.images.fingerprints import DEFAULT_DISTANCE, MAX_DISTANCE


def add_split_verb(verbs: Any) -> None:
    """`osler split`."""
    parser = add_verb(
        verbs,
        "split",
        run_split,
        "divide a dataset so that no image, near duplicate, subject or case is on two sides",
        "Read every question of a dataset, whatever split it was published in, and divide it anew: what\n"
        "shares an image (by name, by bytes, or as a near duplicate), a subject or a case stays together,\n"
        "and modality, question type and answer are spread as evenly as that allows. Writes one manifest;\n"
        "with [data] manifest = FILE, train, sft and eval use it, and stop when the data are no longer\n"
        "what they were. A sample has one side for both axes, so train on a modality and test on any\n"
        "question type: --data.train.modalities='[\"ct\"]' --data.test.question_types='[\"lesion_grading\"]'.",
        "osler split --data.reader=slake --data.root=DIR --out slake.json",
        "osler split --data.reader=med_r1 --data.root=DIR --test 0.2 --validation 0.1 --out med_r1.json",
        "osler split --data.reader=med_r1 --data.root=DIR --protocol medvlm_r1 --out medvlm_r1.json",
        "osler train slake --data.root=DIR --data.manifest=slake.json",
    )
    add_recipe(parser, optional=True)
    parser.add_argument("--out", type=Path, required=True, help="the manifest, a JSON file")
    parser.add_argument("--test", type=float, default=0.2, metavar="SHARE", help="share of the questions to test on (default: %(default)s)")
    parser.add_argument("--validation", type=float, default=0.0, metavar="SHARE", help="share to validate on (default: none)")
    parser.add_argument(
        "--protocol",
        choices=("fractions", "medvlm_r1"),
        default="fractions",
        help="medvlm_r1: 600 MRI questions to train on, 300 of MRI, CT and X-ray each to test on (default: %(default)s)",
    )
    parser.add_argument(
        "--distance",
        type=int,
        default=DEFAULT_DISTANCE,
        metavar="BITS",
        help=f"perceptual hashes of 64 bits so far apart are one picture, 0 to {MAX_DISTANCE} (default: %(default)s)",
    )
    parser.add_argument("--images", choices=("fingerprint", "none"), default="fingerprint", help="none groups by names and subjects only")
    parser.add_argument("--seed", type=int, default=None, help="seed of the assignment (default: the recipe's)")
    parser.add_argument("--fresh", action="store_true", help="replace the file at --out")


def run_split(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler split`."""
    from osler.data.splits.make import SplitOptions, split_dataset, write_split

    config = resolve(options)
    shares = {"train": 1 - options.test - options.validation, "validation": options.validation, "test": options.test}
    report = split_dataset(
        config.data,
        SplitOptions(
            fractions={name: round(share, 9) for name, share in shares.items() if share != 0 or name != "validation"},
            protocol=options.protocol,
            max_distance=options.distance,
            has_images=options.images != "none",
            seed=config.seed,
        ),
        has_progress=True,
    )
    write_split(report, options.out, fresh=options.fresh)
    print(report.render())  # noqa: T201
    print(f"manifest: {options.out}")  # noqa: T201
    manifest = report.manifest
    return {
        "manifest": options.out,
        "digest": manifest.digest(),
        "counts": manifest.counts,
        "groups": manifest.num_groups,
        "largest_group": report.largest_group,
        "images": report.num_images,
        "images_at_hand": report.num_known_images,
    }
