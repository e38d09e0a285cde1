"""`osler demo`: MedVLM-R1's protocol in small, on phantoms, as a list of the commands that a user would type.

Every job is one `osler` command in a process of its own, so two run side by side on two cores, a killed demo continues where it stopped,
and nothing here trains or evaluates by another path than the command line does.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from osler import metrics, records
from osler.config import Config
from osler.errors import OslerError
from osler.taxonomy import Modality
from osler.types import Record

STRATEGIES: Final = {"think": "Think", "no_think": "No-Think", "think_after": "Think-After"}
PAPER_QUESTIONS: Final = 600
PAPER_EPOCHS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One `osler` command of the demo, and the commands that must have ended before it."""

    name: str  # "grpo-think"
    arguments: tuple[str, ...]  # ("train", "demo", "--out", "runs/demo/grpo-think", ...)
    needs: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What a user would type."""
        return shlex.join(("osler", *self.arguments))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the closing table."""

    label: str  # "GRPO, 600 questions"
    strategy: str
    records_file: Path


def run(config: Config, out: Path, *, fresh: bool = False) -> Mapping[str, Any]:
    """Run the whole protocol into the folder `out`, print the table and return what `--json` shows."""
    if fresh:
        shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    jobs, rows = plan(config, out)
    run_jobs(jobs, out)
    tables = {row.label: records.read(row.records_file) for row in rows}
    print(render(config, rows, tables))  # noqa: T201
    report = write_report(out)
    print(f"\nreport: {report}\n{time.monotonic() - start:.0f} s. Phantoms are drawings: nothing here speaks of patients.")  # noqa: T201
    return summary(rows, tables, report)
