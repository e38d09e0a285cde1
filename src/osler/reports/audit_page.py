"""What a page and a terminal show of an audit: heat maps and sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from osler.audits.baselines import BASELINES, Baseline, blind_accuracy
from osler.audits.findings import ALL, LEAK_TITLES, Audit, AxisAudit, Grid, LeakKind, Shares
from osler.audits.redrawn import RedrawnComparison
from osler.data.answer_options import Distractors
from osler.metrics import DASH, percent, points
from osler.reports.heat import HeatMap, Tile, shade
from osler.reports.tables import group_title

LEAD_BASELINE: Final = "option_prior"
"""The baseline whose train x test matrix is always visible; those of the others fold."""

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
"""Why a question keeps its distractors."""

ITEMS_TITLE: Final = "Option prior on original and on redrawn questions"
ITEM_COLUMNS: Final = ("Rows", "Rows redrawn", "Guessing", "Original", "Redrawn", "Difference", "All rows, original", "All rows, redrawn")

CORNER: Final = "train \N{DOWNWARDS ARROW} test \N{RIGHTWARDS ARROW}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRow:
    """A domain's option prior before and after redrawing, with the texts of `ITEM_COLUMNS`."""

    title: str
    values: tuple[str, ...]  # ("3,241", "1,839", "25.0", "100.0 [99.8, 100.0]", "29.3 [27.3, 31.4]", "-70.7 [..]", "99.0", "58.9")
    kept: str  # "568 too few other right answers, 834 yes or no"; a dash where all were redrawn


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisPage:
    """The heat maps of one axis."""

    title: str  # "question type"
    blind: HeatMap
    lead: HeatMap  # LEAD_BASELINE, train by test
    other_blind: tuple[HeatMap, ...]
    leaks: HeatMap
    all_leaks: tuple[HeatMap, ...]  # train by test


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPage:
    """The content of a page about one audit."""

    audit: Audit
    verdict: str
    recovered: str
    across: tuple[str, ...]
    axes: tuple[AxisPage, ...]  # the main one first
    items: tuple[ItemRow, ...]
    cases: HeatMap | None
    items_title: str = ITEMS_TITLE
    item_columns: tuple[str, ...] = ITEM_COLUMNS
    fault_titles: Mapping[str, str] = field(default_factory=lambda: FAULT_TITLES)
    baselines: tuple[Baseline, ...] = tuple(BASELINES.values())

    @property
    def title(self) -> str:
        """The title for display: "SLAKE, by modality"."""
        return f"{self.audit.title}, by {self.audit.main.title}"


def build_audit(audit: Audit) -> AuditPage:
    """The heat maps and sentences of an audit."""
    axes = [audit.main, *(axis for name, axis in audit.axes.items() if name != audit.axis)]
    return AuditPage(
        audit=audit,
        verdict=verdict(audit.main),
        recovered=recovered_line(audit.main),
        across=tuple(across_lines(audit)),
        axes=tuple(_build_axis(axis) for axis in axes),
        items=tuple(item_row(domain, comparison) for domain, comparison in audit.items.items()),
        cases=case_grid(audit) if audit.cases else None,
    )


def _build_axis(axis: AxisAudit) -> AxisPage:
    return AxisPage(
        title=axis.title,
        blind=blind_overview(axis),
        lead=blind_grid(axis, LEAD_BASELINE),
        other_blind=tuple(blind_grid(axis, name) for name in axis.blind if name != LEAD_BASELINE),
        leaks=leak_overview(axis),
        all_leaks=tuple(leak_grid(axis, kind) for kind in axis.leaks),
    )


def domain_title(name: str) -> str:
    """The name of a domain for display: "xray" -> "X-ray", "all" -> "All"."""
    return "All" if name == ALL else group_title(name)


def blind_overview(axis: AxisAudit) -> HeatMap:
    """Every baseline fitted and tested on the same domain, and guessing."""
    rows = [(BASELINES[name].title, _tiles(axis, _diagonal(axis, grid), _blind_tile)) for name, grid in axis.blind.items()]
    return HeatMap(
        title=f"Answered blind, by {axis.title}",
        caption="Per cent right without image or model, fitted on train and tested on test of the same column, with 95 % intervals.",
        columns=_columns(axis),
        rows=(*rows, ("Guessing", _tiles(axis, axis.chance, lambda share, total: _tile(share, f"n = {total:,}")))),
    )


def leak_overview(axis: AxisAudit) -> HeatMap:
    """Every kind of leak from a domain's train rows into its test rows, and paths that name the right option."""
    rows = [(_leak_title(kind), _tiles(axis, _diagonal(axis, grid), _leak_tile, axis.rows.test)) for kind, grid in axis.leaks.items()]
    return HeatMap(
        title=f"Shared with train, by {axis.title}",
        caption="Per cent of a column's test rows that share something with train rows of the same column. A path that names the right "
        "option is no leak while no prompt shows it.",
        columns=_columns(axis),
        rows=(*rows, ("Path names the right option", _tiles(axis, axis.label_in_path, _leak_tile))),
    )


def blind_grid(axis: AxisAudit, baseline: str) -> HeatMap:
    """One baseline on every train (rows) and test domain (columns)."""
    return HeatMap(
        title=f"{BASELINES[baseline].title}: train (rows) by test (columns), {axis.title}",
        caption=f"Looks at {BASELINES[baseline].what}. Per cent right with 95 % intervals.",
        columns=_columns(axis),
        rows=tuple((domain_title(train), _tiles(axis, shares, _blind_tile)) for train, shares in axis.blind[baseline].items()),
        corner=CORNER,
    )


def leak_grid(axis: AxisAudit, kind: LeakKind) -> HeatMap:
    """One kind of leak from every train (rows) into every test domain (columns)."""
    rows = ((domain_title(train), _tiles(axis, shares, _leak_tile, axis.rows.test)) for train, shares in axis.leaks[kind].items())
    return HeatMap(
        title=f"{_leak_title(kind)}: train (rows) by test (columns), {axis.title}",
        caption="Per cent of test rows.",
        columns=_columns(axis),
        rows=tuple(rows),
        corner=CORNER,
    )


def _columns(axis: AxisAudit) -> tuple[str, ...]:
    return tuple(domain_title(name) for name in axis.rows.test)


def _diagonal(axis: AxisAudit, grid: Grid) -> Shares:
    return {domain: grid[domain][domain] for domain in axis.rows.test}


def _tiles(
    axis: AxisAudit, shares: Shares, tile: Callable[[float | None, int], Tile], totals: Mapping[str, int] | None = None
) -> tuple[Tile, ...]:
    """One tile for each test domain, made from its share and its `totals`, by default its number of questions with choices."""
    totals = axis.questions if totals is None else totals
    return tuple(tile(shares[domain], totals[domain]) for domain in axis.rows.test)


def _blind_tile(share: float | None, total: int) -> Tile:
    accuracy = blind_accuracy(share, total)
    return _tile(share, "" if share is None else f"[{percent(accuracy.low)}, {percent(accuracy.high)}]")


def _leak_tile(share: float | None, total: int) -> Tile:
    return _tile(share, "" if share is None else f"{round(share * total):,} of {total:,}")


def _tile(share: float | None, detail: str) -> Tile:
    return Tile(text=percent(share), detail=detail, style=shade(share))


def _leak_title(kind: LeakKind) -> str:
    return LEAK_TITLES[kind][:1].upper() + LEAK_TITLES[kind][1:]


def case_grid(audit: Audit) -> HeatMap:
    """For each source, the test rows with a known patient or case that is also in train."""
    return HeatMap(
        title="Patient or case in train, by source",
        caption="Of the test rows whose patient or case the data or their file names tell.",
        columns=("Per cent",),
        rows=tuple((source, (_leak_tile(cases.share, cases.num_rows),)) for source, cases in audit.cases.items()),
    )


def item_row(domain: str, comparison: RedrawnComparison) -> ItemRow:
    """One domain of the table of redrawn questions."""
    kept = {reason: comparison.counts[reason] for reason in KEPT_TITLES if comparison.counts.get(reason)}
    estimates = (str(comparison.original), str(comparison.redrawn), points(comparison.difference))
    return ItemRow(
        title=domain_title(domain),
        values=(
            f"{comparison.num_test:,}",
            f"{comparison.num_redrawn:,}",
            percent(comparison.chance),
            *estimates,
            percent(comparison.all_rows.original),
            percent(comparison.all_rows.redrawn),
        ),
        kept=", ".join(f"{count:,} {KEPT_TITLES[reason]}" for reason, count in kept.items()) or DASH,
    )


def verdict(axis: AxisAudit) -> str:
    """One sentence on whether the questions can be answered blind."""
    above, total = axis.count_above_chance()
    if not total:
        return "No questions with choices, so nothing can be answered blind."
    domain = ALL if ALL in axis.rows.test else next(iter(axis.rows.test))
    pooled = ""
    if (best := axis.best(domain)) is not None:
        name, accuracy = best
        guessing = percent(axis.chance[domain])
        pooled = f" Over all questions the best is the {BASELINES[name].title.lower()}, {accuracy}, where guessing gets {guessing}."
    expected = 0.025 * total
    results = f"{above} of {total} blind results lie above guessing with their whole interval"
    if above <= expected + 2 * expected**0.5:
        return f"Blind baselines are at chance: {results}, where luck alone puts {expected:.1f}.{pooled}"
    return f"The questions give themselves away: {results}.{pooled}"


def recovered_line(axis: AxisAudit) -> str:
    """A sentence about the domain without a train file, "" where there is none."""
    for domain, shares in axis.recovered.items():
        return (
            f"{domain_title(domain)} has no train file at hand; its {axis.rows.recovered[domain]:,} train rows in files of the other axis "
            f"answer {blind_accuracy(shares[LEAD_BASELINE], axis.questions[domain])} per cent of its test questions by the option prior."
        )
    return ""


def across_lines(audit: Audit) -> list[str]:
    """How many test rows of one axis are train rows of the other, one sentence for each direction."""
    return [
        f"{percent(share)} % of the test rows by {audit.axes[test].title} stand in train by {audit.axes[train].title}: keep the axes apart"
        for train, cells in audit.across_axes.items()
        for test, share in cells.items()
        if share
    ]
