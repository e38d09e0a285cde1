"""One page out of parts: audits, runs, matrices. Every page is made here, with one part or with many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from osler.reports.render import render

if TYPE_CHECKING:
    from osler.reports.audit_page import AuditPage
    from osler.reports.matrix_page import MatrixPage
    from osler.reports.page import Page

MAX_NAMED: Final = 3
"""Runs that a heading names; more are counted."""

_RESULTS: Final = (
    ("summary", "Results of runs", "Results", "runs"),
    ("question-types", "Question types", "Question types", "outcomes"),
    ("outcomes", "What became of the answers", "Outcomes", "outcomes"),
    ("confidence", "Confidence", "Confidence", "confidence"),
    ("training", "Training", "Training", "training_figures"),
    ("looked", "Did it look?", "Did it look?", "looks"),
)
"""The sections of runs before the matrices: id, title, short title, and the part of the page without which there is none."""

_DETAILS: Final = (
    ("examples", "Examples", "Examples", "examples"),
    ("data", "Data", "Data", "counts"),
    ("setup", "Setup", "Setup", "runs"),
)
"""Those behind the matrices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One section in the table of contents."""

    id: str  # "audit-2"
    title: str  # "What the data give away: SLAKE, by modality"
    short: str  # "Audit: slake", for the bar on top
    parts: tuple[tuple[str, str], ...] = ()  # ("audit-2-blind", "Answered blind")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that a page shows, in its order: audits, results of runs, did they look, matrices, examples."""

    audits: tuple[AuditPage, ...] = ()
    runs: Page | None = None
    matrices: tuple[MatrixPage, ...] = ()

    @property
    def title(self) -> str:
        """The heading: the one part's own title, the names of a few runs, or what the parts are about."""
        names = [*(page.title for page in self.audits), *self._run_names(), *(page.title for page in self.matrices)]
        if len(names) == 1:
            return names[0]
        subject = "What the data give away" if self.audits else "What the policies answered"
        return f"{subject}, and whether the policies looked" if self.runs or self.matrices else subject

    def _run_names(self) -> list[str]:
        if self.runs is None:
            return []
        names = [run.name for run in self.runs.runs]
        return [", ".join(names) if len(names) <= MAX_NAMED else f"{len(names)} runs"]

    @property
    def kinds(self) -> str:
        """What is on the page: "2 audits, 13 runs and 1 matrix"."""
        num_runs = len(self.runs.runs) if self.runs else 0
        counts = ((len(self.audits), "audit", "audits"), (num_runs, "run", "runs"), (len(self.matrices), "matrix", "matrices"))
        texts = [f"{count} {one if count == 1 else many}" for count, one, many in counts if count]
        return " and ".join(part for part in (", ".join(texts[:-1]), texts[-1]) if part)

    @property
    def is_mixed(self) -> bool:
        """Whether there is so much that the page opens with a table of contents."""
        return len(self.audits) + len(self.matrices) + (self.runs is not None) > 1

    @property
    def contents(self) -> tuple[Entry, ...]:
        """Every section, in the order of the page."""
        matrices = [
            Entry(
                id=name,
                title=f"Tested on every domain: {page.title}",
                short=_numbered("Matrix", page.title, self.matrices),
                parts=tuple((f"{name}-{part.found.axis}", f"By {part.found.title}") for part in page.axes),
            )
            for name, page in zip(_names("matrix", self.matrices), self.matrices, strict=True)
        ]
        return (*self._audit_entries(), *self._run_entries(_RESULTS), *matrices, *self._run_entries(_DETAILS))

    def _audit_entries(self) -> list[Entry]:
        entries = []
        for name, page in zip(_names("audit", self.audits), self.audits, strict=True):
            parts = [("blind", "Answered blind"), ("items", "Redrawn questions"), ("leaks", "Leaks"), ("quality", "Quality of the rows")]
            shown = tuple((f"{name}-{key}", title) for key, title in parts if key != "items" or page.items)
            title, short = f"What the data give away: {page.title}", _numbered("Audit", page.audit.reader, self.audits)
            entries.append(Entry(id=name, title=title, short=short, parts=shown))
        return entries

    def _run_entries(self, sections: Sequence[tuple[str, str, str, str]]) -> list[Entry]:
        if self.runs is None:
            return []
        return [Entry(id=key, title=title, short=short) for key, title, short, part in sections if getattr(self.runs, part)]


def _names(kind: str, pages: Sequence[object]) -> list[str]:
    return [kind if number == 1 else f"{kind}-{number}" for number in range(1, len(pages) + 1)]


def _numbered(kind: str, title: str, pages: Sequence[object]) -> str:
    return kind if len(pages) == 1 else f"{kind}: {title}"


def render_report(report: Report) -> str:
    """The page as one HTML text that needs no other file and no network."""
    return render("page.html.j2", report=report, contents=report.contents)
