"""One page out of its parts: audits, runs and matrices. Every page is rendered here, with one part or with many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from osler.audits.findings import Audit
from osler.reports.audit_page import AuditPage, build_audit
from osler.reports.matrices import MatrixReport
from osler.reports.matrix_page import MatrixPage, build_matrix_page
from osler.reports.page import Page
from osler.reports.render import render

_FIRST: Final = (("glance", "At a glance", "At a glance", "glance"),)
"""The section of runs before all others."""

_RESULTS: Final = (
    ("summary", "Results of runs", "Results", "runs"),
    ("open", "Open questions", "Open", "open_rows"),
    ("truth", "Is the reasoning true?", "Is it true?", "truths"),
    ("question-types", "Question types", "Question types", "outcomes"),
    ("outcomes", "What became of the answers", "Outcomes", "outcomes"),
    ("confidence", "Confidence", "Confidence", "confidence"),
    ("training", "Training", "Training", "training_figures"),
    ("looked", "Did it look?", "Did it look?", "looks"),
    ("readers", "Readers", "Readers", "readers"),
    ("reading", "Does it read the context and not the image?", "Context", "readings"),
)
"""The sections of runs before the matrices: id, title, short title, and the field of Page that is empty when there is no such section."""

_DETAILS: Final = (
    ("examples", "Examples", "Examples", "examples"),
    ("data", "Data", "Data", "counts"),
    ("setup", "Setup", "Setup", "runs"),
)
"""The sections of runs after the matrices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section in the table of contents."""

    id: str  # "audit-2"
    title: str  # "What the data give away: SLAKE, by modality"
    short: str  # "Audit: slake", for the bar on top
    parts: tuple[tuple[str, str], ...] = ()  # ("audit-2-blind", "Answered blind")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The content of a page, in its order: the first screen of runs, audits, results of runs, matrices, examples."""

    audits: tuple[AuditPage, ...] = ()
    runs: Page | None = None
    matrices: tuple[MatrixPage, ...] = ()
    refresh: int | None = None  # seconds after which a browser loads the page again; None: never

    @property
    def num_runs(self) -> int:
        """How many runs the page covers."""
        return len(self.runs.runs) if self.runs else 0

    @property
    def title(self) -> str:
        """The heading: the experiment of the runs, the title of the only part, or the subject of all parts."""
        if self.runs is not None:
            return self.runs.title
        names = [*(page.title for page in self.audits), *(page.title for page in self.matrices)]
        if len(names) == 1:
            return names[0]
        subject = "What the data give away" if self.audits else "What the policies answered"
        return f"{subject}, and whether the policies looked" if self.matrices else subject

    @property
    def kinds(self) -> str:
        """The numbers of parts: "2 audits, 13 runs and 1 matrix"."""
        counts = ((len(self.audits), "audit", "audits"), (self.num_runs, "run", "runs"), (len(self.matrices), "matrix", "matrices"))
        texts = [f"{count} {one if count == 1 else many}" for count, one, many in counts if count]
        return " and ".join(part for part in (", ".join(texts[:-1]), texts[-1]) if part)

    @property
    def is_mixed(self) -> bool:
        """Whether the page has several parts, so that it starts with a table of contents."""
        return len(self.audits) + len(self.matrices) + (self.runs is not None) > 1

    @property
    def contents(self) -> tuple[Section, ...]:
        """Every section, in the order of the page."""
        parts = (("blind", "Answered blind"), ("items", "Redrawn questions"), ("leaks", "Leaks"), ("quality", "Quality of the rows"))
        audits = [(page.title, page.audit.reader, [part for part in parts if part[0] != "items" or page.items]) for page in self.audits]
        matrices = [
            (page.title, page.title, [(axis.figures.axis, f"By {axis.figures.title}") for axis in page.axes]) for page in self.matrices
        ]
        return (
            *self._run_sections(_FIRST),
            *_page_sections("Audit", "What the data give away", audits),
            *self._run_sections(_RESULTS),
            *_page_sections("Matrix", "Tested on every domain", matrices),
            *self._run_sections(_DETAILS),
        )

    def _run_sections(self, sections: Sequence[tuple[str, str, str, str]]) -> list[Section]:
        if self.runs is None:
            return []
        return [Section(id=key, title=title, short=short) for key, title, short, field in sections if getattr(self.runs, field)]


def _page_sections(kind: str, subject: str, pages: Sequence[tuple[str, str, Sequence[tuple[str, str]]]]) -> Iterator[Section]:
    """The sections of one kind of pages, with numbers from the second on. A page is its title, short title, and parts by id."""
    for number, (title, short, parts) in enumerate(pages, start=1):
        name = kind.lower() if number == 1 else f"{kind.lower()}-{number}"
        yield Section(
            id=name,
            title=f"{subject}: {title}",
            short=kind if len(pages) == 1 else f"{kind}: {short}",
            parts=tuple((f"{name}-{key}", heading) for key, heading in parts),
        )


def render_report(report: Report) -> str:
    """The page as one HTML text that needs no other file and no network."""
    return render("page.html.j2", report=report, contents=report.contents)


def render_audit_page(audit: Audit) -> str:
    """The page of one audit."""
    return render_report(Report(audits=(build_audit(audit),)))


def render_matrix_page(report: MatrixReport) -> str:
    """The page of one matrix folder."""
    return render_report(Report(matrices=(build_matrix_page(report),)))
