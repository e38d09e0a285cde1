"""The paths of `osler report`, sorted into runs, matrices and audits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from osler.errors import DataError
from osler.reports.load_runs import TRACES, is_run
from osler.reports.matrices import MATRIX_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The files and folders of a report, each once, in the order of the command line."""

    audits: tuple[Path, ...]  # files
    runs: tuple[Path, ...]  # folders
    matrices: tuple[Path, ...]  # folders


def sort_sources(paths: Sequence[Path]) -> Sources:
    """A file is an audit or a `matrix.json`; a folder is a run, a matrix, or contains runs and matrices.

    Raises DataError for a path that does not exist and for a folder without runs and matrices.
    """
    audits: list[Path] = []
    runs: list[Path] = []
    matrices: list[Path] = []
    for path in paths:
        if path.is_file() and path.name == MATRIX_FILE:
            matrices.append(path.parent)
        elif path.is_file():
            audits.append(path)
        elif path.is_dir():
            folders = (path, *sorted(path.iterdir()))
            own_runs = [folder for folder in folders if is_run(folder)]
            own_matrices = [folder for folder in folders if (folder / MATRIX_FILE).is_file()]
            if not own_runs and not own_matrices:
                traces = f"a run folder has one of {', '.join(TRACES)}, a matrix folder {MATRIX_FILE}"
                raise DataError(f"{path} holds no run and no matrix: {traces}")
            runs += own_runs
            matrices += own_matrices
        else:
            raise DataError(f"{path} does not exist: give folders of runs or matrices that Osler wrote, or files of `osler audit --save`")
    return Sources(audits=_each_once(audits), runs=_each_once(runs), matrices=_each_once(matrices))


def _each_once(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The first of several paths to the same file or folder."""
    first: dict[Path, Path] = {}
    for path in paths:
        first.setdefault(path.resolve(), path)
    return tuple(first.values())
