"""`osler audit`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osler.cli.common import add_distance, add_opening, add_recipe, add_verb, opening_of
from osler.cli.tables import print_heat, print_table, printable

if TYPE_CHECKING:
    from osler.audits.findings import Audit

MAX_SHOWN_REFUSALS: Final = 10


def add_audit(verbs: Any) -> None:
    """`osler audit`."""
    parser = add_verb(
        verbs,
        "audit",
        _run,
        "check a dataset: answers that need no image, leaks between train and test, faulty rows",
        "Fit baselines that see no image on [data.train] and test them on [data.test], for every train and\n"
        "test domain, for questions with choices and for open ones; find rows, images, near-duplicates, turned\n"
        "or mirrored copies and patients that are in both splits (cropped copies are not looked for); check\n"
        "options and right answers. The audit needs only the text; it opens the images when all are present and\n"
        "there are few, or with --images pixels.\n"
        "For use in CI, --fail-on prints reasons and exits with 1:\n"
        "leak: more than --max-leak of a domain's test rows share something with its training rows;\n"
        "shortcut: the interval of a blind baseline lies more than --max-shortcut above guessing, on questions\n"
        "with choices; open questions have no guessing, so their blind accuracies are shown and stop nothing.\n"
        "With --redrawn it also replaces every question's distractors, in train and test, with the right\n"
        "answers of other questions, and compares the option prior on the same questions before and after.",
        "osler audit --data.reader=med_r1 --data.root=DIR --data.axis=modality --out audit.html --save audit.json",
        "osler audit --data.reader=slake --data.root=DIR --fail-on leak,shortcut",
        "osler audit --data.reader=slake --data.root=DIR --data.train.language=zh --data.test.language=en",
        "osler audit slake --data.root=DIR --data.distractors=redrawn --json",
        "osler audit slake_open --data.root=DIR         open questions only",
        "osler audit --redrawn --data.reader=med_r1 --data.root=DIR --data.axis=modality",
    )
    add_recipe(parser, optional=True)
    parser.add_argument("--out", type=Path, default=None, help="also write one self-contained HTML page to this file")
    parser.add_argument("--save", type=Path, default=None, metavar="FILE", help="also write the results as JSON, for `osler report`")
    parser.add_argument(
        "--fail-on", default=None, metavar="GATES", help="exit with 1 when these are found: leak, shortcut, or leak,shortcut"
    )
    parser.add_argument(
        "--images",
        choices=("auto", "paths", "pixels"),
        default="auto",
        help="compare images by path, or by bytes and perceptual hash (default: pixels for up to 5,000 files that are all present)",
    )
    add_distance(parser)
    add_opening(parser)
    parser.add_argument(
        "--max-leak", type=float, default=0.01, metavar="SHARE", help="allowed share of leaking test rows (default: %(default)s)"
    )
    parser.add_argument(
        "--max-shortcut",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="allowed distance of a blind baseline above guessing (default: %(default)s)",
    )
    parser.add_argument("--redrawn", action="store_true", help="also test the option prior on questions with replaced distractors")


def _run(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.audits.findings import SAVED, save_audit
    from osler.audits.run import AuditOptions, audit, parse_gates
    from osler.config import load_config
    from osler.files import HTML, check_replaceable
    from osler.reports.make import write_page
    from osler.reports.report import render_audit_page

    gates = parse_gates(options.fail_on)
    for path, begins, kind in ((options.out, HTML, "page"), (options.save, SAVED, "audit")):
        if path is not None:  # before minutes are spent
            check_replaceable(path, begins, kind)
    settings = AuditOptions(
        images=options.images,
        max_distance=options.distance,
        opening=opening_of(options),
        max_leak=options.max_leak,
        max_shortcut=options.max_shortcut,
        redrawn=options.redrawn,
    )
    result = audit(load_config(options.recipe, options.overrides).data, settings)
    print_audit(result)
    if options.out is not None:
        write_page(render_audit_page(result), options.out)
        print(f"page: {options.out}")
    failures = result.failures(gates)
    report = {**result.to_json(), "failures": list(failures)}
    if options.save is not None:
        save_audit(report, options.save)
        print(f"audit: {options.save}")
    if failures:
        stopped = [gate for gate in gates if result.failures((gate,))]
        print(f"failed on {', '.join(stopped)}: {len(failures)} reasons, listed above")
    return {**report, "page": options.out, "saved": options.save, "exit_code": int(bool(failures))}


def print_audit(audit: Audit) -> None:
    """Print the tables of the main axis, leaks by source, faulty rows, and the reasons that --fail-on can give."""
    from osler.reports.audit_page import build_audit

    page, quality, images = build_audit(audit), audit.quality, audit.images
    rows = f"{quality.num_rows:,} distinct rows, {quality.num_closed:,} with choices, {quality.num_refused:,} refused"
    print(printable(f"{audit.title}: {rows}"))
    print(f"{images.num_shared:,} of {images.num_test:,} test images stand in train as they are; images are compared {images.compared}")
    axis = page.axes[0]
    for grid in (axis.blind, axis.lead) if axis.has_closed else ():
        print_heat(grid)
    if axis.open_blind is not None:
        print_heat(axis.open_blind)
        print("Open questions: per cent right by the grader's rules; --save and --out also have what the rules leave undecided.")
    print_heat(axis.leaks)
    if page.items:
        print_table(["", *page.item_columns, "Kept because"], page.items, title=f"{page.items_title}, by {page.axes[0].title}")
    print(page.verdict)
    if page.recovered:
        print(printable(page.recovered))
    if page.cases:
        print_heat(page.cases)
    for line in (*page.across, *fault_lines(audit), *(f"note: {note}" for note in audit.notes), *audit.reasons):
        print(printable(line))


def fault_lines(audit: Audit) -> list[str]:
    """Each kind of fault with one example, the distribution of right letters, and the reasons for refused rows."""
    from osler.metrics import percent
    from osler.reports.audit_page import FAULT_TITLES

    quality = audit.quality
    faults = [(FAULT_TITLES[name], fault) for name, fault in quality.faults.items() if fault.ids]
    lines = [f"{title}: {fault.num_rows:,} rows, such as {fault.ids[0]}" for title, fault in faults]
    for num_choices, row in quality.letters.items():
        shares = ", ".join(f"{letter} {percent(share)}" for letter, share in row.shares.items())
        lines.append(f"Right letters of {num_choices} options: {shares} (even shares: p = {row.p_value:.2g})")
    return lines + [f"Refused because {reason}: {count:,}" for reason, count in list(quality.refused.items())[:MAX_SHOWN_REFUSALS]]
