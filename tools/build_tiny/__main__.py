"""Command line: `python -m tools.build_tiny --out DIR [--seed N]`, run from the root of the repository."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from osler.cli.main import OneLineParser
from osler.errors import OslerError

DESCRIPTION: Final = """\
Train osler-tiny, the policy that is packaged with Osler: a Qwen2-VL of 1.8 million parameters, from random weights, on phantom images.

Steps: draw 32,000 images of eight modalities; train the vision encoder (1,800 steps), then the language model (1,600 steps, few of them on
MRI); grade the answers and the reasoning to 1,600 held-out questions with each of four prompt strategies.

Time: about 20 minutes on one CPU core, with about 3 GB of memory. More cores do not help: PyTorch runs with one thread, so that the same
seed on the same machine yields the same weights, bit for bit.

Output: DIR becomes a Qwen2-VL checkpoint of 8 MB with config.json, generation_config.json, model.safetensors, preprocessor_config.json,
tokenizer.json, tokenizer_config.json, chat_template.jinja, accuracy.json (the graded answers, counted) and README.md (the model card).
Files of these names in DIR are overwritten.
"""
EPILOG: Final = """\
examples:
  python -m tools.build_tiny --out my-tiny              # the packaged policy
  python -m tools.build_tiny --out my-tiny-1 --seed 1   # other images, weights and batches
  python -m tools.build_tiny --studies --out my-study   # what the recipe demo_volume starts from
  python -m tools.build_tiny --images slake --data.root=DIR --data.train.modalities='[]' --out my-slake   # it has seen real pixels
  osler eval demo --policy my-tiny                      # evaluate it like any other policy
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the policy; 0 when it is written, 2 with one line on standard error for a user error."""
    parser = OneLineParser(
        prog="python -m tools.build_tiny", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of images, weights and batches (default: %(default)s)")
    parser.add_argument("--studies", action="store_true", help="continue the packaged policy on studies of several slices instead")
    parser.add_argument(
        "--images",
        metavar="RECIPE",
        help="continue the packaged policy on the training questions of a recipe instead; --section.key=value sets its values",
    )
    options, overrides = parser.parse_known_args(arguments)
    if overrides and options.images is None:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    if options.studies and options.images is not None:
        parser.error("--studies and --images are two ways to continue the packaged policy: name one")
    if options.seed < 0:
        parser.error(f"argument --seed: must be 0 or more, got {options.seed}")
    try:
        options.out.mkdir(parents=True, exist_ok=True)  # before the training, which takes minutes
        if options.studies:
            from tools.build_tiny.studies import build_on_studies

            build_on_studies(options.out, seed=options.seed)
        elif options.images is not None:
            from osler.config import load_config
            from osler.data.select import load_split
            from tools.build_tiny.real_images import build_on_images

            build_on_images(options.out, load_split(load_config(options.images, overrides).data, "train"), seed=options.seed)
        else:
            from tools.build_tiny.recipe import build

            build(options.out, seed=options.seed)
    except OSError as error:
        parser.error(f"cannot write {options.out}: {error.strerror or error}")
    except OslerError as error:
        parser.error(str(error))
    print(f"policy: {options.out}", file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
