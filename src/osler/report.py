"""`osler report`: runs -> one HTML file that can be mailed, printed and read without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from osler.errors import DataError
from osler.reporting.examples import FindImage, build_examples, recipe_images
from osler.reporting.page import build_page, render_page
from osler.reporting.runs import Evaluation, collect_evaluations, load_runs
from osler.runs import write_whole

MAX_FEATURED: Final = 4
"""How many policies show example cases, so that the file stays small however many runs it covers."""


def write_report(
    runs: Sequence[Path], out: Path, *, find_image: FindImage | None = None, examples_per_outcome: int = 4, seed: int = 0
) -> None:
    """Write the report of run folders, or of folders that hold run folders, to one HTML file.

    `find_image` gives the picture of an example; without it the reader of each run's recipe does. Examples without a picture show a grey
    square. The same runs and seed give the same bytes. Raises DataError, in one line, for a folder or file that cannot be read or written.
    """
    loaded = load_runs(runs)
    evaluations = collect_evaluations(loaded)
    images = {run.name: find_image or recipe_images(run.config) for run in loaded}
    featured = [(row, images[row.run]) for row in feature(evaluations)]
    examples = build_examples(featured, evaluations, per_outcome=examples_per_outcome, seed=seed)
    write_page(render_page(build_page(loaded, evaluations, examples)), out)


def feature(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The last evaluation of each run that has records, what its training led to; the last MAX_FEATURED of them."""
    last = {row.run: row for row in evaluations if row.records}
    return [row for row in evaluations if last.get(row.run) is row][-MAX_FEATURED:]


def write_page(html: str, out: Path) -> None:
    """Write the text in one step, so that a reader never sees half a page. Raises DataError."""
    # A completion may hold half of a surrogate pair, which no encoding can write.
    text = html.encode("utf-8", "replace").decode("utf-8")
    try:
        write_whole(out, text)
    except OSError as error:
        raise DataError(f"cannot write {out} ({error.strerror}): choose another --out") from None
