"""An audit as tables in a terminal and as a section of a page: the same grids in both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TextIO

from osler.audits.baselines import BASELINES, Baseline, Blind
from osler.audits.findings import ALL, LEAK_TITLES, Audit, AxisAudit, Recovered
from osler.audits.leaks import Leak
from osler.audits.redrawn import DomainItems
from osler.data.answer_options import Distractors
from osler.metrics import DASH, percent, points
from osler.reports.heat import HeatMap, Tile, shade
from osler.reports.tables import group_title
from osler.reports.whole import Report, render_report

LEAD_BASELINE: Final = "option_prior"
"""The baseline whose whole matrix a terminal shows; the page holds them all."""

FAULT_TITLES: Final[Mapping[str, str]] = {
    "duplicate_options": "Two options are the same text",
    "synonymous_options": "Two options mean the same",
    "synonyms_of_target": "A distractor means what the right option means",
    "contradictory_golds": "The same image and question have another right answer elsewhere",
    "contradicted_by_option": "That other answer is a distractor here",
}

KEPT_TITLES: Final[Mapping[Distractors, str]] = {
    Distractors.TOO_FEW_GOLDS: "too few other right answers",
    Distractors.YES_NO: "yes or no",
    Distractors.REFERS: "options that refer to others",
    Distractors.OPEN_ENDED: "open-ended",
}
"""Why a question keeps the distractors it had."""

ITEMS_TITLE: Final = "Option prior on original and on redrawn questions"
ITEM_COLUMNS: Final = ("Rows", "Rows redrawn", "Guessing", "Original", "Redrawn", "Difference", "All rows, original", "All rows, redrawn")

MAX_SHOWN_REFUSALS: Final = 10
NUM_EXAMPLES: Final = 3


CORNER: Final = "train \N{DOWNWARDS ARROW} test \N{RIGHTWARDS ARROW}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRow:
    """A domain's option prior before and after redrawing, as it is printed under `ITEM_COLUMNS`."""

    title: str
    values: tuple[str, ...]  # ("3,241", "1,839", "25.0", "100.0 [99.8, 100.0]", "29.3 [27.3, 31.4]", "-70.7 [..]", "99.0", "58.9")
    kept: str  # "568 too few other right answers, 834 yes or no"; a dash where all were redrawn


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRow:
    """One kind of fault."""

    title: str
    count: int
    such_as: str  # the ids of a few rows, "" where none are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisPage:
    """The heat maps of one axis."""

    title: str  # "question type"
    blind: HeatMap
    lead: HeatMap  # the leading baseline, train by test
    other_blind: tuple[HeatMap, ...]
    leaks: HeatMap
    all_leaks: tuple[HeatMap, ...]  # train by test


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPage:
    """What a page shows of one audit."""

    audit: Audit
    verdict: str
    recovered: str  # about a train file that is absent, "" where none is
    across: tuple[str, ...]
    axes: tuple[AxisPage, ...]  # the main one first
    items: tuple[ItemRow, ...]
    cases: HeatMap | None
    faults: tuple[FaultRow, ...]
    items_title: str = ITEMS_TITLE
    item_columns: tuple[str, ...] = ITEM_COLUMNS
    baselines: tuple[Baseline, ...] = tuple(BASELINES.values())

    @property
    def title(self) -> str:
        """What a person reads: "SLAKE, by modality"."""
        return f"{self.audit.title}, by {axis_title(self.audit.axis)}"


def domain_title(name: str) -> str:
    """What a person reads for a domain: "xray" -> "X-ray", "all" -> "All"."""
    return "All" if name == ALL else group_title(name)


def axis_title(axis: str) -> str:
    """E.g. "question type"."""
    return axis.replace("_", " ")


def blind_overview(found: AxisAudit) -> HeatMap:
    """Every baseline fitted and tested on the same domain, and guessing."""
    rows = [(BASELINES[name].title, tuple(_blind_tile(found.own(name, domain)) for domain in found.test)) for name in found.blind]
    guessing = tuple(_tile(found.chance[domain], f"n = {found.num_closed(domain):,}") for domain in found.test)
    return HeatMap(
        title=f"Answered blind, by {axis_title(found.axis)}",
        caption="Per cent right without image or model, fitted on train and tested on test of the same column, with 95 % intervals.",
        columns=_titles(found.test),
        rows=(*rows, ("Guessing", guessing)),
    )


def blind_grid(found: AxisAudit, baseline: str) -> HeatMap:
    """One baseline on every train (rows) and test domain (columns)."""
    matrix = found.blind[baseline]
    return HeatMap(
        title=f"{BASELINES[baseline].title}: train (rows) by test (columns), {axis_title(found.axis)}",
        caption=f"Looks at {BASELINES[baseline].what}. Per cent right with 95 % intervals.",
        columns=_titles(found.test),
        rows=tuple((domain_title(row), tuple(_blind_tile(cells[column]) for column in found.test)) for row, cells in matrix.items()),
        corner=CORNER,
    )


def leak_overview(found: AxisAudit) -> HeatMap:
    """Every kind of leak from a domain's train rows into its test rows, and paths that name the right option."""
    rows = [
        (_capital(LEAK_TITLES[kind]), tuple(_leak_tile(matrix[domain][domain]) for domain in found.test))
        for kind, matrix in found.leaks.items()
    ]
    paths = tuple(_leak_tile(found.label_in_path[domain]) for domain in found.test)
    return HeatMap(
        title=f"Shared with train, by {axis_title(found.axis)}",
        caption="Per cent of a column's test rows that share something with train rows of the same column. A path that names the right "
        "option is no leak while no prompt shows it.",
        columns=_titles(found.test),
        rows=(*rows, ("Path names the right option", paths)),
    )


def leak_grid(found: AxisAudit, kind: str) -> HeatMap:
    """One kind of leak from every train (rows) into every test domain (columns)."""
    return HeatMap(
        title=f"{_capital(LEAK_TITLES[kind])}: train (rows) by test (columns), {axis_title(found.axis)}",
        caption="Per cent of test rows.",
        columns=_titles(found.test),
        rows=tuple(
            (domain_title(row), tuple(_leak_tile(cells[column]) for column in found.test)) for row, cells in found.leaks[kind].items()
        ),
        corner=CORNER,
    )


def item_row(found: DomainItems) -> ItemRow:
    """One domain of the table of redrawn questions."""
    kept = {reason: found.counts[reason] for reason in KEPT_TITLES if found.counts.get(reason)}
    estimates = (str(found.original), str(found.redrawn), points(found.difference))
    whole = (percent(value) for value in (found.whole_original, found.whole_redrawn))
    return ItemRow(
        title=domain_title(found.domain),
        values=(f"{found.num_test:,}", f"{found.num_redrawn:,}", percent(found.chance), *estimates, *whole),
        kept=", ".join(f"{count:,} {KEPT_TITLES[reason]}" for reason, count in kept.items()) or DASH,
    )


def verdict(found: AxisAudit) -> str:
    """One sentence on whether the questions can be answered blind."""
    above, total = found.count_above_chance()
    if not total:
        return "No questions with choices, so nothing can be answered blind."
    domain = ALL if ALL in found.test else next(iter(found.test))
    pooled = ""
    if (best := found.best(domain)) is not None:
        name, cell = best
        guessing = percent(found.chance[domain])
        pooled = f" Over all questions the best is the {BASELINES[name].title.lower()}, {cell}, where guessing gets {guessing}."
    expected = 0.025 * total
    results = f"{above} of {total} blind results lie above guessing with their whole interval"
    if above <= expected + 2 * expected**0.5:
        return f"Blind baselines are at chance: {results}, where luck alone puts {expected:.1f}.{pooled}"
    return f"The questions give themselves away: {results}.{pooled}"


def _blind_tile(cell: Blind) -> Tile:
    return _tile(cell.value, "" if cell.value is None else f"[{percent(cell.low)}, {percent(cell.high)}]")


def _leak_tile(leak: Leak) -> Tile:
    return _tile(leak.value, f"{leak.shared:,} of {leak.total:,}" if leak.total else "")


def _tile(value: float | None, detail: str) -> Tile:
    return Tile(text=percent(value), detail=detail, style=shade(value))


def _titles(domains: Iterable[str]) -> tuple[str, ...]:
    return tuple(domain_title(name) for name in domains)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def render_audit(audit: Audit, *, file: TextIO | None = None) -> None:
    """Print an audit: tables of the main axis, the sources' cases, what is wrong with rows, and the reasons that a gate would give."""
    from rich.console import Console

    console = Console(file=file, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console = Console(file=file, highlight=False, width=240, soft_wrap=True)  # a log file has no width to fit in
    main, quality, images = audit.main, audit.quality, audit.shared_images
    rows = f"{quality.num_rows:,} distinct rows, {quality.num_closed:,} with choices, {quality.num_refused:,} refused"
    _say(console, f"{audit.title}: {rows}")
    _say(console, f"{images.shared:,} of {images.total:,} test images stand in train, compared {audit.images}")
    for grid in (blind_overview(main), blind_grid(main, LEAD_BASELINE), leak_overview(main)):
        _print_grid(console, grid)
    if audit.items:
        _print_items(console, audit)
    _say(console, verdict(main))
    if main.recovered is not None:
        _say(console, recovered_line(main.recovered))
    if audit.cases:
        _print_grid(console, case_grid(audit))
    for line in (*across_lines(audit), *fault_lines(audit), *(f"note: {note}" for note in audit.notes), *audit.reasons):
        _say(console, line)


def recovered_line(found: Recovered) -> str:
    """What is known of a domain whose train file is absent."""
    return (
        f"{domain_title(found.domain)} has no train file at hand; its {found.num_rows:,} train rows in files of the other axis answer "
        f"{found.blind[LEAD_BASELINE]} per cent of its test questions by the option prior."
    )


def case_grid(audit: Audit) -> HeatMap:
    """Test rows of each source whose patient or case stands in train, of those whose case is known."""
    return HeatMap(
        title="Patient or case in train, by source",
        caption="Of the test rows whose patient or case the data or their file names tell.",
        columns=("Per cent",),
        rows=tuple((source, (_leak_tile(leak),)) for source, leak in audit.cases.items()),
    )


def across_lines(audit: Audit) -> list[str]:
    """What training on one axis sees of the other's test rows."""
    return [
        f"{percent(leak.value)} % of the test rows by {axis_title(column)} stand in train by {axis_title(row)}: keep the axes apart"
        for row, cells in audit.across_axes.items()
        for column, leak in cells.items()
        if leak.value
    ]


def fault_lines(audit: Audit) -> list[str]:
    """The faults that were found, with an example of each, and how even the letters are."""
    quality = audit.quality
    lines = [f"{FAULT_TITLES[name]}: {quality.count(name):,} rows, such as {ids[0]}" for name, ids in quality.faults.items() if ids]
    for row in quality.letters:
        shares = ", ".join(f"{letter} {percent(share)}" for letter, share in row.shares.items())
        lines.append(f"Right letters of {row.num_choices} options: {shares} (even shares: p = {row.p_value:.2g})")
    lines += [f"Refused because {reason}: {count:,}" for reason, count in list(audit.quality.refused.items())[:MAX_SHOWN_REFUSALS]]
    return lines


def _say(console: Any, text: str) -> None:
    from rich.text import Text

    console.print(Text("".join(character if character.isprintable() else "?" for character in text)))


def _print_grid(console: Any, grid: HeatMap) -> None:
    _print_table(console, grid.title, grid.columns, ((title, *(tile.text for tile in tiles)) for title, tiles in grid.rows))


def _print_items(console: Any, audit: Audit) -> None:
    rows = [item_row(found) for found in audit.items]
    title = f"{ITEMS_TITLE}, by {axis_title(audit.axis)}"
    _print_table(console, title, (*ITEM_COLUMNS, "Kept because"), ((row.title, *row.values, row.kept) for row in rows))


def _print_table(console: Any, title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII2,
        show_edge=False,
        pad_edge=False,
        title=Text(title, style="bold"),
        title_justify="left",
    )
    table.add_column("")
    for column in columns:
        table.add_column(Text(column), justify="right")
    for row in rows:
        table.add_row(*(Text(text) for text in row))
    console.print()
    console.print(table)


def build_audit(audit: Audit) -> AuditPage:
    """Gather grids and sentences."""
    axes = [audit.main, *(found for axis, found in audit.axes.items() if axis != audit.axis)]
    return AuditPage(
        audit=audit,
        verdict=verdict(audit.main),
        recovered="" if audit.main.recovered is None else recovered_line(audit.main.recovered),
        across=tuple(across_lines(audit)),
        axes=tuple(_build_axis(found) for found in axes),
        items=tuple(item_row(found) for found in audit.items),
        cases=case_grid(audit) if audit.cases else None,
        faults=fault_rows(audit),
    )


def _build_axis(found: AxisAudit) -> AxisPage:
    return AxisPage(
        title=axis_title(found.axis),
        blind=blind_overview(found),
        lead=blind_grid(found, LEAD_BASELINE),
        other_blind=tuple(blind_grid(found, name) for name in found.blind if name != LEAD_BASELINE),
        leaks=leak_overview(found),
        all_leaks=tuple(leak_grid(found, kind) for kind in found.leaks),
    )


def fault_rows(audit: Audit) -> tuple[FaultRow, ...]:
    """Every kind of fault with its rows, then the reasons for which the reader refused rows."""
    quality = audit.quality
    faults = [
        FaultRow(title=FAULT_TITLES[name], count=quality.count(name), such_as=", ".join(ids[:NUM_EXAMPLES]))
        for name, ids in quality.faults.items()
    ]
    refused = [FaultRow(title=f"Refused: {reason}", count=count, such_as="") for reason, count in quality.refused.items()]
    return (*faults, *refused)


def render_audit_page(audit: Audit) -> str:
    """The page of one audit alone."""
    return render_report(Report(audits=(build_audit(audit),)))
