"""`osler report`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from osler.cli.common import add_verb


def add_report(verbs: Any) -> None:
    """`osler report`."""
    parser = add_verb(
        verbs,
        "report",
        _run,
        "write one self-contained HTML page about audits, runs and matrices",
        "Write one page: the finding in words, what the data give away without images, accuracies with intervals,\n"
        "whether the reasoning is true, training curves, whether the policies use the images, heat maps of\n"
        "matrices, and example questions with image, marked reasoning and verdict. With --watch the page of a\n"
        "training follows it: curves so far, and completions with their images and rewards.",
        "osler report runs/demo --out demo.html",
        "osler report runs/demo-train --watch --every 20",
        "osler report audit.json runs/demo runs/matrix_phantom --out all.html",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="run folders, matrix folders, folders that contain these, and files of `osler audit --save`",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="write the page again while a run trains, until it ends or Ctrl-C is pressed; a run that has not begun is waited for",
    )
    parser.add_argument(
        "--every", type=int, default=30, metavar="SECONDS", help="with --watch: the time between two pages (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the HTML file (default: %(default)s)")


def _run(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.errors import Interrupted
    from osler.reports.make import write_report
    from osler.reports.watch import watch_report

    try:
        if options.watch:
            report = watch_report(options.paths, options.out, every=options.every, tell=partial(print, file=sys.stderr))
        else:
            report = write_report(options.paths, options.out)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted before {options.out} was written; the same command begins with it anew") from None
    print(f"report: {options.out} ({report.kinds})")
    counts = {"audits": len(report.audits), "runs": len(report.runs.runs) if report.runs else 0, "matrices": len(report.matrices)}
    return {"report": options.out, **counts}
