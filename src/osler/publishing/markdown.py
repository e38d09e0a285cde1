"""Filling the Markdown templates of cards and checklists."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from osler import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

    from osler.publishing.results import Table


def fill(template: str, **content: Any) -> str:
    """A template as Markdown. It ends with one newline and has no two empty lines in a row outside of code."""
    return _squeeze(_environment().get_template(template).render(version=__version__, **content))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("osler.publishing"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(cell=cell, fence=fence, quote=quote, table=write_table, number=lambda value: f"{value:,}", duration=duration)
    return environment


def cell(text: object) -> str:
    """Text of a file within a line or a cell of a table: no line break, no column and no tag of its own."""
    return " ".join(str(text).split()).replace("|", r"\|").replace("<", "&lt;")


def write_table(table: Table) -> str:
    """A table of GitHub's Markdown: the first column to the left, the others to the right."""
    lines = [_line(table.heads), "| --- |" + " ---: |" * (len(table.heads) - 1), *(_line(row) for row in table.rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(cell, cells))} |"


def fence(text: str, language: str = "") -> str:
    """Text as a block of code, exactly; with as many backticks as it needs."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{text}\n{marks}"


def quote(text: str) -> str:
    """Text as a string of Python, on one line."""
    return json.dumps(text, ensure_ascii=False)


def duration(seconds: float) -> str:
    """ "46 seconds", "12 minutes", "3.4 hours"."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"


def _squeeze(text: str) -> str:
    """Without repeated empty lines, except in blocks of code."""
    kept: list[str] = []
    marks = ""
    for line in text.split("\n"):
        start = re.match(r"`{3,}", line)
        if start and not marks:
            marks = start[0]
        elif marks and line == marks:
            marks = ""
        if marks or line.strip() or (kept and kept[-1].strip()):
            kept.append(line if marks else line.rstrip())
    return "\n".join(kept).strip("\n") + "\n"
