"""`osler report`: audits, runs and matrices as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from osler.audits.file import read_audit
from osler.errors import DataError
from osler.files import write_whole
from osler.reports.audit_page import build_audit
from osler.reports.examples import FindImage, build_examples, recipe_images
from osler.reports.load_runs import Evaluation, collect_evaluations, load_runs
from osler.reports.matrices import read_matrix
from osler.reports.matrix_page import build_matrix_page
from osler.reports.page import Page, build_page
from osler.reports.report import Report, render_report
from osler.reports.sources import sort_sources

MAX_FEATURED: Final = 4
"""How many policies show example cases; the file stays small with any number of runs."""


def write_report(
    paths: Sequence[Path], out: Path, *, find_image: FindImage | None = None, examples_per_outcome: int = 4, seed: int = 0
) -> Report:
    """Write the report of run folders, folders that hold runs, matrix folders and audit files, in any mix, to one HTML file.

    `find_image` gives the image of an example; by default it is read by the reader of the run's recipe. Examples without an image show a
    grey square. The same paths and seed give the same bytes. Raises DataError in one line for files that cannot be read or written.
    """
    sources = sort_sources(paths)
    audits = tuple(build_audit(read_audit(path)) for path in sources.audits)
    matrices = tuple(build_matrix_page(read_matrix(folder)) for folder in sources.matrices)
    runs = _gather_runs(sources.runs, find_image, examples_per_outcome, seed) if sources.runs else None
    report = Report(audits=audits, runs=runs, matrices=matrices)
    write_page(render_report(report), out)
    return report


def _gather_runs(folders: Sequence[Path], find_image: FindImage | None, examples_per_outcome: int, seed: int) -> Page:
    loaded = load_runs(folders)
    evaluations = collect_evaluations(loaded)
    images = {run.name: find_image or recipe_images(run.config) for run in loaded}
    featured = [(row, images[row.run]) for row in feature(evaluations)]
    examples = build_examples(featured, evaluations, per_outcome=examples_per_outcome, seed=seed)
    return build_page(loaded, evaluations, examples)


def feature(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The last evaluation with records of each run, which is that of the trained policy; of these the last MAX_FEATURED."""
    last = {row.run: row for row in evaluations if row.records}
    return [row for row in evaluations if last.get(row.run) is row][-MAX_FEATURED:]


def write_page(html: str, out: Path) -> None:
    """Write the page; the file appears complete or not at all. Raises DataError."""
    # A completion may contain half of a surrogate pair, which UTF-8 cannot encode.
    text = html.encode("utf-8", "replace").decode("utf-8")
    try:
        write_whole(out, text)
    except OSError as error:
        raise DataError(f"cannot write {out} ({error.strerror}): choose another --out") from None
