"""`osler report --watch`: the page of a training, written again while it trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from osler.errors import ConfigError, DataError, Interrupted
from osler.reports.examples import FindById
from osler.reports.load_runs import TRACES
from osler.reports.make import sort_sources, write_report
from osler.reports.report import Report
from osler.run_folder import PARTS, Run

MIN_EVERY: Final = 2
"""Seconds between two pages, at least."""

MAX_EVERY: Final = 3600


def watch_report(
    paths: Sequence[Path],
    out: Path,
    *,
    every: int,
    wait: Callable[[float], None] = time.sleep,
    tell: Callable[[str], None] = lambda _: None,
) -> Report:
    """Write the page every `every` seconds, each time as a whole, until every run has its trained policy or Ctrl-C is pressed.

    A run that has not begun is waited for, as long as it takes. The page loads itself again while it is watched; the last one does not.
    Nothing tells that a training was killed: press Ctrl-C then. `tell` gets a line when it waits and one when it begins. Raises ConfigError
    for an interval out of range or other things than runs, DataError for a path in no folder, Interrupted for Ctrl-C while it waits for a
    run, and the errors of `write_report`.
    """
    if not MIN_EVERY <= every <= MAX_EVERY:
        raise ConfigError(f"--every {every}: use {MIN_EVERY} to {MAX_EVERY} seconds")
    try:
        await_runs(paths, wait, tell)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped waiting for {_name(paths)}, where no training has begun; no page was written") from None
    sources = sort_sources(paths)
    if sources.audits or sources.matrices:
        raise ConfigError("--watch takes folders of runs that train: write the page of audits and matrices without it")
    tell(f"watching: open {out} in a browser; Ctrl-C stops")
    trained_on: dict[Path, FindById] = {}
    try:
        while not all(map(is_finished, sources.runs)):
            await_runs(paths, wait, tell)  # a training that fails before its first step takes its folder away
            write_report(paths, out, refresh=every, trained_on=trained_on)
            wait(every)
    except KeyboardInterrupt:  # the way to stop watching
        if not all(map(_has_begun, paths)):
            gone = "it was taken away, as by a training that fails before its first step"
            raise Interrupted(f"stopped waiting for {_name(paths)}: {gone}; {out} shows the last that was there") from None
    return write_report(paths, out, trained_on=trained_on)


def await_runs(paths: Sequence[Path], wait: Callable[[float], None], tell: Callable[[str], None]) -> None:
    """Return when every path that is absent, or a folder without anything of a run yet, holds a run.

    Raises DataError for a path whose parent folder does not exist: it is more likely mistyped than about to be made.
    """
    expected = [path for path in paths if not _has_begun(path)]
    for path in expected:
        if not path.parent.is_dir():
            raise DataError(f"{path} does not exist, nor does the folder {path.parent}: make that folder, or correct the path")
    if expected:
        tell(f"waiting for {_name(expected)}: no training has begun there yet, and the page is written when one does; Ctrl-C stops")
    while not all(map(_has_begun, expected)):
        wait(MIN_EVERY)


def _name(paths: Sequence[Path]) -> str:
    """The paths where nothing of a run is."""
    return ", ".join(str(path) for path in paths if not _has_begun(path))


def _has_begun(path: Path) -> bool:
    """False for an absent path and for a folder with nothing but what a run may begin with."""
    if not path.is_dir():
        return path.exists()
    names = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")}  # drafts of files begin with a dot
    return bool(names & set(TRACES)) or not names <= PARTS


def is_finished(folder: Path) -> bool:
    """Whether a run holds its trained policy, which is written last."""
    return Run(root=folder).policy.is_dir()
