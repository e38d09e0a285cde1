"""`osler report`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osler.verbs.base import add_verb


def add_report(verbs: Any) -> None:
    """`osler report`."""
    parser = add_verb(
        verbs,
        "report",
        run_report,
        "one self-contained HTML file about runs",
        "Tables with intervals, training curves, and example cases with image, reasoning and verdict.",
        "osler report runs/demo --out demo.html",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, or a folder that holds runs")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the HTML file (default: %(default)s)")


def run_report(options: argparse.Namespace) -> Mapping[str, Any]:
    """`osler report`."""
    from osler.report import write_report

    write_report(options.runs, options.out)
    print(f"report: {options.out}")  # noqa: T201
    return {"report": options.out}
