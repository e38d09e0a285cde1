"""`osler report`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osler.cli.common import add_verb


def add_report(verbs: Any) -> None:
    """`osler report`."""
    parser = add_verb(
        verbs,
        "report",
        run_report,
        "one self-contained HTML file about audits, runs and matrices",
        "What the data give away, tables with intervals, training curves, whether the policies looked, heat maps\n"
        "of matrices, and example cases with image, reasoning and verdict: one page with a table of contents.",
        "osler report runs/demo --out demo.html",
        "osler report audit.json runs/demo runs/matrix_phantom --out all.html",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="run folders, matrix folders, folders that hold such, and files of `osler audit --save`, in any mix",
    )
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the HTML file (default: %(default)s)")


def run_report(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler report`."""
    from osler.reports.make import write_report

    report = write_report(options.paths, options.out)
    print(f"report: {options.out} ({report.kinds})")  # noqa: T201
    counts = {"audits": len(report.audits), "runs": len(report.runs.runs) if report.runs else 0, "matrices": len(report.matrices)}
    return {"report": options.out, **counts}
