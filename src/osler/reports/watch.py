"""`osler report --watch`: the page of a training, written again while it trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from osler.errors import ConfigError
from osler.reports.examples import FindById
from osler.reports.make import sort_sources, write_report
from osler.reports.report import Report
from osler.run_folder import Run

MIN_EVERY: Final = 2
"""Seconds between two pages, at least."""

MAX_EVERY: Final = 3600


def watch_report(paths: Sequence[Path], out: Path, *, every: int, wait: Callable[[float], None] = time.sleep) -> Report:
    """Write the page every `every` seconds, each time as a whole, until every run has its trained policy or Ctrl-C is pressed.

    The page loads itself again while it is watched; the last one does not. Nothing tells that a training was killed: press Ctrl-C then.
    Raises ConfigError for an interval out of range or other things than runs, and the errors of `write_report`.
    """
    if not MIN_EVERY <= every <= MAX_EVERY:
        raise ConfigError(f"--every {every}: use {MIN_EVERY} to {MAX_EVERY} seconds")
    sources = sort_sources(paths)
    if sources.audits or sources.matrices:
        raise ConfigError("--watch takes folders of runs that train: write the page of audits and matrices without it")
    trained_on: dict[Path, FindById] = {}
    try:
        while not all(map(is_finished, sources.runs)):
            write_report(paths, out, refresh=every, trained_on=trained_on)
            wait(every)
    except KeyboardInterrupt:
        pass  # the way to stop watching
    return write_report(paths, out, trained_on=trained_on)


def is_finished(folder: Path) -> bool:
    """Whether a run holds its trained policy, which is written last."""
    return Run(root=folder).policy.is_dir()
