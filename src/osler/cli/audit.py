"""`osler audit`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osler.cli.common import add_recipe, add_verb, resolve
from osler.images.fingerprints import DEFAULT_DISTANCE, MAX_DISTANCE


def add_audit(verbs: Any) -> None:
    """`osler audit`."""
    parser = add_verb(
        verbs,
        "audit",
        run_audit,
        "what the questions give away blind, what test shares with train, and what is wrong with rows",
        "Fit lookups that see no image on [data.train] and test them on [data.test], for every train and\n"
        "test domain; find rows, images, near-duplicates and patients that both splits hold; check options\n"
        "and right answers. Text alone is enough; images are opened where all are at hand and they are\n"
        "few, or with --images pixels. With --fail-on it exits with 1 and the reasons, for use in CI:\n"
        "leak: a domain's test rows share more than --max-leak of something with its train rows;\n"
        "shortcut: a blind baseline's interval lies more than --max-shortcut above guessing.\n"
        "With --redrawn it also draws every question's distractors anew, in train and test, from the right\n"
        "answers of other questions, and compares the option prior on the same questions before and after.",
        "osler audit --data.reader=med_r1 --data.root=DIR --data.axis=modality --out audit.html --save audit.json",
        "osler audit --data.reader=slake --data.root=DIR --fail-on leak,shortcut",
        "osler audit --data.reader=slake --data.root=DIR --data.train.language=zh --data.test.language=en",
        "osler audit slake --data.root=DIR --data.distractors=redrawn --json",
        "osler audit --redrawn --data.reader=med_r1 --data.root=DIR --data.axis=modality",
    )
    add_recipe(parser, optional=True)
    parser.add_argument("--out", type=Path, default=None, help="also write one self-contained HTML page there")
    parser.add_argument("--save", type=Path, default=None, metavar="FILE", help="also write the JSON there, for `osler report`")
    parser.add_argument("--fail-on", default=None, metavar="GATES", help="leak, shortcut, or both with a comma: exit with 1 for these")
    parser.add_argument(
        "--images",
        choices=("auto", "paths", "pixels"),
        default="auto",
        help="compare images by path, or by bytes and perceptual hash (default: pixels where all of at most 5,000 files are at hand)",
    )
    parser.add_argument(
        "--distance",
        type=int,
        default=DEFAULT_DISTANCE,
        metavar="BITS",
        help=f"perceptual hashes of 64 bits so far apart are near-duplicates, 0 to {MAX_DISTANCE} (default: %(default)s)",
    )
    parser.add_argument("--max-leak", type=float, default=0.01, metavar="SHARE", help="test rows that may leak (default: %(default)s)")
    parser.add_argument(
        "--max-shortcut", type=float, default=0.1, metavar="SHARE", help="how far above guessing blind may be (default: %(default)s)"
    )
    parser.add_argument("--redrawn", action="store_true", help="also test the option prior on questions with redrawn distractors")


def run_audit(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler audit`."""
    from osler.audits.file import save_audit
    from osler.audits.run import AuditOptions, audit, parse_gates
    from osler.reports.audit_page import render_audit, render_audit_page
    from osler.reports.make import write_page

    gates = parse_gates(options.fail_on)
    chosen = AuditOptions(
        images=options.images,
        max_distance=options.distance,
        max_leak=options.max_leak,
        max_shortcut=options.max_shortcut,
        redrawn=options.redrawn,
    )
    found = audit(resolve(options).data, chosen)
    render_audit(found)
    if options.out is not None:
        write_page(render_audit_page(found), options.out)
        print(f"page: {options.out}")  # noqa: T201
    failures = found.failures(gates)
    report = {**found.to_json(), "failures": list(failures)}
    if options.save is not None:
        save_audit(report, options.save)
        print(f"audit: {options.save}")  # noqa: T201
    if failures:
        print(f"failed on {', '.join(gates)}: {len(failures)} reasons, listed above")  # noqa: T201
    return {**report, "page": options.out, "saved": options.save, "exit_code": int(bool(failures))}
