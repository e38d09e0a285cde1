"""`osler publish`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osler.cli.common import add_verb
from osler.errors import ConfigError


def add_publish(verbs: Any) -> None:
    """`osler publish`."""
    parser = add_verb(
        verbs,
        "publish",
        _run,
        "make a folder for the hub of a finished run: weights, model card, reporting checklist",
        "Write a folder that can be uploaded as it is: merged weights in shards, the LoRA adapter if there is one,\n"
        "processor and generation settings, a model card (README.md) whose numbers come from the records of the\n"
        "run, and TRIPOD-LLM and CLAIM as tables of what the run answers and what you must (CHECKLIST.md). The\n"
        "folder loads in Transformers 4.57 and 5.23 with equal logits. A manifest of `osler split` becomes a\n"
        "dataset card. Look at the folder, edit the card, then run the same command with --push: it shows what\n"
        "would be uploaded and asks first. An edited card stays as it is, but for the lines that name the model:\n"
        "they get the id of --push. An evaluation in a folder of its own is named by --with; one that asked\n"
        "questions of the training is refused. Records, images and keys are never uploaded. Log in with `hf auth login`.",
        "osler publish runs/demo/grpo-think --with runs/demo/zero-shot-think --out published/grpo-think",
        "osler publish runs/slake-train --with runs/slake-eval --author author.toml --out published/slake",
        "osler publish runs/slake-train --with runs/slake-eval --out published/slake --push OWNER/NAME",
        "osler publish slake.json --out published/slake-split          the manifest of a split",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="the folder of a finished run, or a file of `osler split`")
    parser.add_argument("--out", type=Path, required=True, help="a new folder, or the one that the same command wrote before")
    parser.add_argument(
        "--with",
        dest="others",
        type=Path,
        action="append",
        default=[],
        metavar="RUN",
        help="a folder of evaluations of PATH that are not in it, or a run whose results stand beside those of PATH, such as zero-shot; "
        "may be repeated",
    )
    parser.add_argument(
        "--author",
        type=Path,
        default=None,
        metavar="FILE",
        help="a TOML file with what only you know: licence, contact, energy, checklist items",
    )
    parser.add_argument("--shard-size", default="5GB", metavar="SIZE", help="the largest file of weights (default: %(default)s)")
    parser.add_argument("--push", default=None, metavar="HUB_ID", help="upload to OWNER/NAME on the Hugging Face hub, after a question")
    parser.add_argument("--public", action="store_true", help="a repository that is created is public; by default it is private")
    parser.add_argument("--yes", action="store_true", help="upload without the question")
    parser.add_argument("--dry-run", action="store_true", help="print the card and the files; write and upload nothing")


def _run(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.publishing.author import read_author
    from osler.publishing.publish import Published, publish_manifest, publish_run
    from osler.publishing.push import check_hub_id

    if options.push is not None:
        check_hub_id(options.push)
    author = read_author(options.author)
    published: Published
    if options.path.is_file():
        if options.others:
            raise ConfigError(f"{options.path} is a manifest: --with is for runs")
        published = publish_manifest(options.path, options.out, author=author, hub_id=options.push, is_dry=options.dry_run)
    else:
        published = publish_run(
            options.path,
            options.out,
            others=options.others,
            author=author,
            hub_id=options.push,
            shard_size=options.shard_size,
            is_dry=options.dry_run,
        )
    _print(published, is_dry=options.dry_run)
    address = _push(published, options) if options.push is not None and not options.dry_run else None
    return {
        "folder": published.folder,
        "kind": published.kind,
        "files": list(published.files),
        "author_items": published.num_open,
        "notes": list(published.notes),
        "is_dry_run": options.dry_run,
        "uploaded": address,
    }


def _print(published: Any, *, is_dry: bool) -> None:
    if is_dry:
        print(published.card)
    what = "would hold" if is_dry else "holds" if published.is_new else "was published before and holds"
    print(f"{published.folder} {what} {', '.join(published.files)}")
    if published.num_open:
        print(f"CHECKLIST.md: {published.num_open} items wait for you")
    for note in published.notes:
        print(f"note: {note}")
    print("Not for clinical use. Read README.md before you pass the folder on.")


def _push(published: Any, options: argparse.Namespace) -> str | None:
    """Show what would be uploaded, ask, and upload; None where the answer is no."""
    from osler import __version__
    from osler.publishing.push import confirm, open_hub, plan_upload, push

    upload = plan_upload(published.folder, published.files, options.push, kind=published.kind, is_public=options.public)
    print(upload.describe())
    hub = open_hub()
    if not confirm(f"upload to {upload.hub_id}?", sys.stdin, sys.stdout, is_sure=options.yes):
        print("nothing was uploaded")
        return None
    address = push(hub, upload, message=f"Upload with Osler {__version__}")
    print(f"uploaded: {address}")
    return address
