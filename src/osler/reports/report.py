"""One page out of its parts: audits, runs and matrices. Every page is rendered here, with one part or with many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from osler.audits.findings import Audit
from osler.reports.audit_page import AuditPage, build_audit
from osler.reports.matrices import MatrixReport
from osler.reports.matrix_page import MatrixPage, build_matrix_page
from osler.reports.page import Page
from osler.reports.render import render

MAX_NAMED: Final = 3
"""How many runs a heading names; more are counted."""

_RESULTS: Final = (
    ("summary", "Results of runs", "Results", "runs"),
    ("question-types", "Question types", "Question types", "outcomes"),
    ("outcomes", "What became of the answers", "Outcomes", "outcomes"),
    ("confidence", "Confidence", "Confidence", "confidence"),
    ("training", "Training", "Training", "training_figures"),
    ("looked", "Did it look?", "Did it look?", "looks"),
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
    """The content of a page, in its order: audits, results of runs, matrices, examples."""

    audits: tuple[AuditPage, ...] = ()
    runs: Page | None = None
    matrices: tuple[MatrixPage, ...] = ()

    @property
    def num_runs(self) -> int:
        """How many runs the page covers."""
        return len(self.runs.runs) if self.runs else 0

    @property
    def title(self) -> str:
        """The heading: the title of the only part, the names of a few runs, or the subject of all parts."""
        names = [*(page.title for page in self.audits), *(page.title for page in self.matrices)]
        if self.runs is not None:
            names.append(", ".join(run.name for run in self.runs.runs) if self.num_runs <= MAX_NAMED else f"{self.num_runs} runs")
        if len(names) == 1:
            return names[0]
        subject = "What the data give away" if self.audits else "What the policies answered"
        return f"{subject}, and whether the policies looked" if self.runs or self.matrices else subject

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
        matrices = [
            Section(
                id=name,
                title=f"Tested on every domain: {page.title}",
                short=_short_title("Matrix", page.title, self.matrices),
                parts=tuple((f"{name}-{part.figures.axis}", f"By {part.figures.title}") for part in page.axes),
            )
            for name, page in zip(_names("matrix", self.matrices), self.matrices, strict=True)
        ]
        return (*self._audit_sections(), *self._run_sections(_RESULTS), *matrices, *self._run_sections(_DETAILS))

    def _audit_sections(self) -> list[Section]:
        sections = []
        for name, page in zip(_names("audit", self.audits), self.audits, strict=True):
            parts = [("blind", "Answered blind"), ("items", "Redrawn questions"), ("leaks", "Leaks"), ("quality", "Quality of the rows")]
            shown = tuple((f"{name}-{key}", title) for key, title in parts if key != "items" or page.items)
            short = _short_title("Audit", page.audit.reader, self.audits)
            sections.append(Section(id=name, title=f"What the data give away: {page.title}", short=short, parts=shown))
        return sections

    def _run_sections(self, sections: Sequence[tuple[str, str, str, str]]) -> list[Section]:
        if self.runs is None:
            return []
        return [Section(id=key, title=title, short=short) for key, title, short, field in sections if getattr(self.runs, field)]


def _names(kind: str, pages: Sequence[object]) -> list[str]:
    return [kind if number == 1 else f"{kind}-{number}" for number in range(1, len(pages) + 1)]


def _short_title(kind: str, title: str, pages: Sequence[object]) -> str:
    return kind if len(pages) == 1 else f"{kind}: {title}"


def render_report(report: Report) -> str:
    """The page as one HTML text that needs no other file and no network."""
    return render("page.html.j2", report=report, contents=report.contents)


def render_audit_page(audit: Audit) -> str:
    """The page of one audit."""
    return render_report(Report(audits=(build_audit(audit),)))


def render_matrix_page(report: MatrixReport) -> str:
    """The page of one matrix folder."""
    return render_report(Report(matrices=(build_matrix_page(report),)))
