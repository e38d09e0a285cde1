"""An audit as tables in a terminal and as one HTML page: the same grids in both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TextIO

from osler import __version__
from osler.audit.blind import BASELINES, Blind
from osler.audit.findings import ALL, LEAK_TITLES, Audit, AxisAudit
from osler.audit.leaks import Leak
from osler.items import Distractors, DomainItems
from osler.metrics import DASH, percent
from osler.reporting.page import shade
from osler.reporting.tables import group_title

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
ITEM_COLUMNS: Final = ("Questions", "Guessing", "Original", "Redrawn", "Redrawn rows only", "Rows redrawn", "Rows kept")

MAX_SHOWN_REFUSALS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A share with what stands below it."""

    value: float | None
    detail: str = ""  # "[96.1, 97.4]" or "435 of 3,241"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table of shares."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    key: str = ""  # what the page files it under, e.g. "option_prior"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRow:
    """A domain's option prior before and after redrawing, as it is printed under `ITEM_COLUMNS`."""

    title: str
    values: tuple[str, ...]  # ("3,241", "31.4", "99.0", "58.9", "29.3", "1,839", "1,402")
    kept: str  # "568 too few other right answers, 834 yes or no"; a dash where all were redrawn


def domain_title(name: str) -> str:
    """What a person reads for a domain: "xray" -> "X-ray", "all" -> "All"."""
    return "All" if name == ALL else group_title(name)


def axis_title(axis: str) -> str:
    """E.g. "question type"."""
    return axis.replace("_", " ")


def blind_overview(found: AxisAudit) -> Grid:
    """Every baseline fitted and tested on the same domain, and guessing."""
    rows = [(BASELINES[name].title, tuple(_blind_cell(found.own(name, domain)) for domain in found.test)) for name in found.blind]
    asked = {domain: found.own("longest", domain).total for domain in found.test}  # questions with choices
    guessing = tuple(Cell(value=found.chance[domain], detail=f"n = {asked[domain]:,}") for domain in found.test)
    return Grid(
        title=f"Answered blind, by {axis_title(found.axis)}",
        caption="Per cent right without image or model, fitted on train and tested on test of the same column, with 95 % intervals.",
        columns=_titles(found.test),
        rows=(*rows, ("Guessing", guessing)),
    )


def blind_grid(found: AxisAudit, baseline: str) -> Grid:
    """One baseline on every train (rows) and test domain (columns)."""
    matrix = found.blind[baseline]
    return Grid(
        title=f"{BASELINES[baseline].title}: train (rows) by test (columns), {axis_title(found.axis)}",
        caption=f"Looks at {BASELINES[baseline].what}. Per cent right with 95 % intervals.",
        columns=_titles(found.test),
        rows=tuple((domain_title(row), tuple(_blind_cell(cells[column]) for column in found.test)) for row, cells in matrix.items()),
        key=baseline,
    )


def leak_overview(found: AxisAudit) -> Grid:
    """Every kind of leak from a domain's train rows into its test rows, and paths that name the right option."""
    rows = [
        (_capital(LEAK_TITLES[kind]), tuple(_leak_cell(matrix[domain][domain]) for domain in found.test))
        for kind, matrix in found.leaks.items()
    ]
    paths = tuple(_leak_cell(found.label_in_path[domain]) for domain in found.test)
    return Grid(
        title=f"Shared with train, by {axis_title(found.axis)}",
        caption="Per cent of a column's test rows that share something with train rows of the same column. A path that names the right "
        "option is no leak while no prompt shows it.",
        columns=_titles(found.test),
        rows=(*rows, ("Path names the right option", paths)),
    )


def leak_grid(found: AxisAudit, kind: str) -> Grid:
    """One kind of leak from every train (rows) into every test domain (columns)."""
    return Grid(
        title=f"{_capital(LEAK_TITLES[kind])}: train (rows) by test (columns), {axis_title(found.axis)}",
        caption="Per cent of test rows.",
        columns=_titles(found.test),
        rows=tuple(
            (domain_title(row), tuple(_leak_cell(cells[column]) for column in found.test)) for row, cells in found.leaks[kind].items()
        ),
        key=kind,
    )


def item_row(found: DomainItems) -> ItemRow:
    """One domain of the table of redrawn questions."""
    kept = {reason: found.counts[reason] for reason in KEPT_TITLES if found.counts.get(reason)}
    shares = (percent(value) for value in (found.chance, found.original, found.redrawn, found.redrawn_only))
    redrawn = found.counts.get(Distractors.REDRAWN, 0)
    return ItemRow(
        title=domain_title(found.domain),
        values=(f"{found.num_test:,}", *shares, f"{redrawn:,}", f"{sum(kept.values()):,}"),
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


def _blind_cell(cell: Blind) -> Cell:
    return Cell(value=cell.value, detail="" if cell.value is None else f"[{percent(cell.low)}, {percent(cell.high)}]")


def _leak_cell(leak: Leak) -> Cell:
    return Cell(value=leak.value, detail=f"{leak.shared:,} of {leak.total:,}" if leak.total else "")


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
        found = main.recovered
        _say(
            console,
            f"{domain_title(found.domain)} has no train file; its {found.num_rows:,} train rows in files of the other axis answer "
            f"{found.blind[LEAD_BASELINE]} of its test questions by the option prior",
        )
    if audit.cases:
        _print_grid(console, case_grid(audit))
    for line in (*across_lines(audit), *fault_lines(audit), *(f"note: {note}" for note in audit.notes), *audit.reasons):
        _say(console, line)


def case_grid(audit: Audit) -> Grid:
    """Test rows of each source whose patient or case stands in train, of those whose case is known."""
    return Grid(
        title="Patient or case in train, by source",
        caption="Of the test rows whose patient or case the data or their file names tell.",
        columns=("Per cent",),
        rows=tuple((source, (_leak_cell(leak),)) for source, leak in audit.cases.items()),
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
    lines = [f"{FAULT_TITLES[name]}: {len(ids):,} rows, such as {ids[0]}" for name, ids in audit.quality.faults.items() if ids]
    for row in audit.quality.letters:
        shares = ", ".join(f"{letter} {percent(share)}" for letter, share in row.shares.items())
        lines.append(f"Right letters of {row.num_choices} options: {shares} (even shares: p = {row.p_value:.2g})")
    lines += [f"Refused because {reason}: {count:,}" for reason, count in list(audit.quality.refused.items())[:MAX_SHOWN_REFUSALS]]
    return lines


def _say(console: Any, text: str) -> None:
    from rich.text import Text

    console.print(Text("".join(character if character.isprintable() else "?" for character in text)))


def _print_grid(console: Any, grid: Grid) -> None:
    _print_table(console, grid.title, grid.columns, ((title, *(percent(cell.value) for cell in cells)) for title, cells in grid.rows))


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


def render_audit_page(audit: Audit) -> str:
    """The audit as one HTML text that needs no other file and no network."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("osler.reporting", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=percent, shade=shade, axis_title=axis_title, domain_title=domain_title)
    axes = [audit.main, *(found for axis, found in audit.axes.items() if axis != audit.axis)]
    return (
        environment.get_template("audit.html.j2")
        .render(
            audit=audit,
            version=__version__,
            main=audit.main,
            verdict=verdict(audit.main),
            overviews=[(found, blind_overview(found), leak_overview(found)) for found in axes],
            blind_grids=[[blind_grid(found, name) for name in found.blind] for found in axes],
            leak_grids=[[leak_grid(found, kind) for kind in found.leaks] for found in axes],
            cases=case_grid(audit),
            items_title=ITEMS_TITLE,
            item_columns=ITEM_COLUMNS,
            item_rows=[item_row(found) for found in audit.items],
            across=across_lines(audit),
            fault_titles=FAULT_TITLES,
            baselines=BASELINES,
            lead=LEAD_BASELINE,
        )
        .lstrip()
    )
