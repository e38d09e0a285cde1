"""`osler report`: audits, runs and matrices as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osler.audits.findings import read_audit
from osler.errors import DataError
from osler.files import HTML, check_replaceable, write_whole
from osler.reports.audit_page import build_audit
from osler.reports.examples import FindById, FindImage, build_examples, recipe_images, split_images
from osler.reports.glance import build_glance
from osler.reports.headline import without_readers
from osler.reports.load_runs import TRACES, collect_evaluations, load_runs
from osler.reports.matrices import MATRIX_FILE, read_matrix
from osler.reports.matrix_page import build_matrix_page
from osler.reports.page import Page, build_page
from osler.reports.report import Report, render_report
from osler.reports.unfinished import PLAN_FILE, read_unfinished
from osler.reports.written import WrittenCard, build_written
from osler.run_folder import FINISHED_JOBS, PARTS

MAX_FEATURED: Final = 4
"""The most policies with example cards, so that the file stays small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The files and folders of a report, each once, in the order of the command line."""

    audits: tuple[Path, ...]  # files
    runs: tuple[Path, ...]  # folders
    matrices: tuple[Path, ...]  # folders


def write_report(
    paths: Sequence[Path],
    out: Path,
    *,
    find_image: FindImage | None = None,
    examples_per_group: int = 4,
    seed: int = 0,
    refresh: int | None = None,
    trained_on: dict[Path, FindById] | None = None,
) -> Report:
    """Write the report of run folders, folders that hold runs, matrix folders and audit files, in any mix, to one HTML file.

    `find_image` gives the image of an example; by default it is read by the reader of the run's recipe. Examples without an image show a
    grey square. With `refresh` a browser loads the page again after so many seconds. `trained_on` keeps the readers of training images
    from one page to the next. The same paths and seed give the same bytes. Raises DataError in one line for files that cannot be read or
    written.
    """
    sources = sort_sources(paths)
    audits = tuple(build_audit(read_audit(path)) for path in sources.audits)
    matrices = tuple(
        build_matrix_page(read_unfinished(folder) if (folder / PLAN_FILE).is_file() else read_matrix(folder)) for folder in sources.matrices
    )
    readers = {} if trained_on is None else trained_on
    runs = _build_runs(sources.runs, find_image, examples_per_group, seed, readers) if sources.runs else None
    report = Report(audits=audits, runs=runs, matrices=matrices, refresh=refresh)
    write_page(render_report(report), out)
    return report


def _build_runs(
    folders: Sequence[Path], find_image: FindImage | None, examples_per_group: int, seed: int, trained_on: dict[Path, FindById]
) -> Page:
    runs = load_runs(folders)
    evaluations = collect_evaluations(runs)
    images = {run.name: find_image or recipe_images(run.config) for run in runs}
    last = {
        row.run: row for row in without_readers([row for row in evaluations if row.records])
    }  # of each run, which is the trained policy
    featured = [(row, images[row.run]) for row in evaluations if last.get(row.run) is row][-MAX_FEATURED:]
    examples = build_examples(featured, evaluations, per_group=examples_per_group, seed=seed)
    written: list[WrittenCard] = []
    if len(runs) == 1 and runs[0].completions:
        written = build_written(runs[0], trained_on.setdefault(folders[0], split_images(runs[0].config, "train")))
    return build_page(runs, evaluations, examples, build_glance(runs, evaluations, images, seed=seed), written)


def sort_sources(paths: Sequence[Path]) -> Sources:
    """A file is an audit, or that of a matrix; a folder is a run, a matrix that may be unfinished, or contains runs and matrices.

    Raises DataError for a path that does not exist and for a folder without runs and matrices.
    """
    audits, runs, matrices = [], [], []
    for path in paths:
        if path.is_file() and path.name in (MATRIX_FILE, PLAN_FILE):
            matrices.append(path.parent)
        elif path.is_file():
            _refuse_part(path)
            audits.append(path)
        elif path.is_dir():
            folders = (path, *sorted(path.iterdir()))
            runs_here = [folder for folder in folders if any((folder / name).exists() for name in TRACES)]
            matrices_here = [folder for folder in folders if any((folder / name).is_file() for name in (MATRIX_FILE, PLAN_FILE))]
            if not runs_here and not matrices_here:
                _refuse_part(path)
                if (path / FINISHED_JOBS).is_file():
                    raise DataError(
                        f"{path} holds jobs that have not all ended: run the same command again, or give the folders of its runs"
                    )
                traces = f"a run folder has one of {', '.join(TRACES)}, a matrix folder {MATRIX_FILE}"
                raise DataError(f"{path} holds no run and no matrix: {traces}")
            runs += runs_here
            matrices += matrices_here
        else:
            raise DataError(f"{path} does not exist: give folders of runs or matrices that Osler wrote, or files of `osler audit --save`")
    return Sources(audits=_drop_repeated(audits), runs=_drop_repeated(runs), matrices=_drop_repeated(matrices))


def _refuse_part(path: Path) -> None:
    """Raise DataError for a part of a run or a matrix, such as a records file: the page needs the folder."""
    whole = path.resolve()
    for folder in whole.parents[:2]:
        part = whole.relative_to(folder).parts[0]  # not any file: an audit may be saved beside them
        if part in PARTS | {FINISHED_JOBS} and any((folder / name).exists() for name in (*TRACES, FINISHED_JOBS)):
            raise DataError(f"{path} is a part of {folder}: give that folder")


def _drop_repeated(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The first of several paths to the same file or folder."""
    resolved = [path.resolve() for path in paths]
    return tuple(path for place, path in enumerate(paths) if resolved.index(resolved[place]) == place)


def write_page(html: str, out: Path) -> None:
    """Write the page; the file appears complete or not at all, and replaces only a page. Raises DataError."""
    check_replaceable(out, HTML, "page")
    # A completion may contain half of a surrogate pair, which UTF-8 cannot encode.
    text = html.encode("utf-8", "replace").decode("utf-8")
    try:
        write_whole(out, text)
    except OSError as error:
        raise DataError(f"cannot write {out} ({error.strerror}): choose another --out") from None
