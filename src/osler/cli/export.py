"""`osler export`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from osler.cli.common import add_recipe, add_verb
from osler.errors import ConfigError

FORMATS = ("verl", "ms_swift", "easyr1", "lmms_eval")


def add_export(verbs: Any) -> None:
    """`osler export`."""
    parser = add_verb(
        verbs,
        "export",
        _run,
        "write questions for verl, ms-swift, EasyR1 or lmms-eval",
        "Write the questions of a recipe, a dataset or a manifest in the format of another trainer or\n"
        "evaluation harness. Prompts follow [prompt] strategy; except for EasyR1, a small file beside the\n"
        "data grades answers as Osler does. Images are embedded in parquet, copied to OUT/images, or\n"
        "referenced by paths relative to OUT; images that other tools would read differently (16 bits,\n"
        "rotated, TIFF) are written as PNG. The recipe's name, --name, names the task or data source.",
        "osler export --to verl --data.reader=slake --data.root=DIR --out slake-verl",
        "osler export slake --to ms_swift --data.root=DIR --data.manifest=slake.json --images reference --out slake-swift",
        "osler export --to lmms_eval --name my_task --data.reader=vqa_rad --data.root=DIR --prompt.strategy=no_think --out my_task",
    )
    add_recipe(parser, optional=True)
    parser.add_argument("--to", choices=FORMATS, required=True, help="the tool to write for")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument(
        "--splits", nargs="+", choices=("train", "test"), default=None, help="splits to write (default: both; test for lmms_eval)"
    )
    parser.add_argument(
        "--images",
        choices=("embed", "copy", "reference"),
        default=None,
        help="how to store images (default: embed for verl and lmms_eval, copy for ms_swift and easyr1)",
    )


def _run(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.config import Config, load_config
    from osler.data.export.formats import FORMATS as KNOWN
    from osler.data.export.formats import Split, export
    from osler.data.select import load_split

    config = load_config(options.recipe, options.overrides)
    if config.data.study.layout == "video":
        raise ConfigError('[data.study] layout = "video" is no file that other tools read: use "images" or "montage"')
    splits: Sequence[Split] = options.splits or KNOWN[options.to].splits
    written = export(
        {split: load_split(config.data, split) for split in splits},
        options.out,
        to=options.to,
        strategy=config.prompt.strategy,
        images=options.images,
        name=config.name if options.recipe or config.name != Config().name else config.data.reader,
    )
    for file, number in written.files.items():
        print(f"{number:,} rows in {written.out / file}")
    beside = ", ".join(written.extras) or "nothing"
    print(f"{written.num_images:,} images written, {written.num_references:,} left where they are; beside the data: {beside}")
    return {
        "out": written.out,
        "rows": dict(written.files),
        "beside": list(written.extras),
        "images_written": written.num_images,
        "images_referenced": written.num_references,
    }
