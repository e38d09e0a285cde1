"""What a page and a terminal show of an audit: heat maps and sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from osler.audits.baselines import ALL_BASELINES, Baseline, blind_accuracy
from osler.audits.findings import ALL, LEAK_TITLES, Audit, AxisAudit, Grid, Shares
from osler.audits.open_baselines import OPEN_BASELINES, OpenBaseline, OpenShares
from osler.audits.redrawn import RedrawnComparison
from osler.data.distractors import Distractors
from osler.metrics import DASH, percent, points
from osler.reports.heat import HeatMap, Tile, shade
from osler.reports.tables import group_title

LEAD_BASELINE: Final = "option_prior"
"""The baseline with a train x test matrix that is always visible; the matrices of the others are folded."""

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
    Distractors.NAMED: "options that the question names",
    Distractors.REFERS: "options that refer to others",
    Distractors.OPEN_ENDED: "open-ended",
}
"""Why a question keeps its distractors."""

MakeTile = Callable[[float | None, int], Tile]
"""The tile of a share and its total."""

ITEMS_TITLE: Final = "Option prior on original and on redrawn questions"
ITEM_COLUMNS: Final = ("Rows", "Rows redrawn", "Guessing", "Original", "Redrawn", "Difference", "All rows, original", "All rows, redrawn")

CORNER: Final = "train \N{DOWNWARDS ARROW} test \N{RIGHTWARDS ARROW}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisPage:
    """The heat maps of one axis."""

    title: str  # "question type"
    blind: HeatMap
    lead: HeatMap  # LEAD_BASELINE, train by test
    other_blind: tuple[HeatMap, ...]
    has_closed: bool  # whether a test question has choices; without one the three above hold nothing
    open_blind: HeatMap | None  # open questions by domain; None where train or test has none
    open_maps: tuple[HeatMap, ...]  # train by test
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
    items: tuple[tuple[str, ...], ...]  # by domain: its title, the texts of ITEM_COLUMNS, and why questions were not redrawn
    cases: HeatMap | None
    items_title: str = ITEMS_TITLE
    item_columns: tuple[str, ...] = ITEM_COLUMNS
    fault_titles: Mapping[str, str] = field(default_factory=lambda: FAULT_TITLES)
    baselines: tuple[Baseline, ...]
    open_baselines: tuple[OpenBaseline, ...]

    @property
    def title(self) -> str:
        """The title for display: "SLAKE, by modality"."""
        return f"{self.audit.title}, by {self.audit.main.title}"


def build_audit(audit: Audit) -> AuditPage:
    """The heat maps and sentences of an audit."""
    axes = [audit.main, *(axis for name, axis in audit.axes.items() if name != audit.axis)]
    return AuditPage(
        audit=audit,
        verdict=" ".join(filter(None, (verdict(audit.main, audit.failures(("shortcut",))), open_verdict(audit.main)))),
        recovered=recovered_line(audit.main),
        across=tuple(across_lines(audit)),
        axes=tuple(_build_axis(axis) for axis in axes),
        items=tuple(item_row(domain, comparison) for domain, comparison in audit.items.items()),
        cases=case_grid(audit) if audit.cases else None,
        baselines=tuple(ALL_BASELINES[name] for name in audit.main.blind),
        open_baselines=tuple(OPEN_BASELINES[name] for name in audit.main.open_blind),
    )


def _build_axis(axis: AxisAudit) -> AxisPage:
    columns = tuple(map(domain_title, axis.rows.test))

    def tiles(shares: Shares, tile: MakeTile, totals: Mapping[str, int]) -> tuple[Tile, ...]:
        return tuple(tile(shares[domain], totals[domain]) for domain in axis.rows.test)

    def train_by_test(title: str, caption: str, grid: Grid, tile: MakeTile, totals: Mapping[str, int]) -> HeatMap:
        rows = tuple((domain_title(train), tiles(shares, tile, totals)) for train, shares in grid.items())
        title = f"{title}: train (rows) by test (columns), {axis.title}"
        return HeatMap(title=title, caption=caption, columns=columns, rows=rows, corner=CORNER)

    def diagonal(grid: Grid) -> Shares:
        return {domain: grid[domain][domain] for domain in axis.rows.test}

    blind_rows, blind_maps = [], {}
    for name, grid in axis.blind.items():
        title, caption = ALL_BASELINES[name].title, f"Looks at {ALL_BASELINES[name].what}. Per cent right with 95 % intervals."
        blind_rows.append((title, tiles(diagonal(grid), _blind_tile, axis.questions)))
        blind_maps[name] = train_by_test(title, caption, grid, _blind_tile, axis.questions)
    blind_rows.append(("Guessing", tiles(axis.chance, lambda share, total: _tile(share, f"n = {total:,}"), axis.questions)))
    leak_rows, leak_maps = [], []
    for kind, grid in axis.leaks.items():
        title = LEAK_TITLES[kind][:1].upper() + LEAK_TITLES[kind][1:]
        leak_rows.append((title, tiles(diagonal(grid), _leak_tile, axis.rows.test)))
        leak_maps.append(train_by_test(title, "Per cent of test rows.", grid, _leak_tile, axis.rows.test))
    leak_rows.append(("Path names the right option", tiles(axis.label_in_path, _leak_tile, axis.questions)))
    open_maps = open_grids(axis)
    return AxisPage(
        title=axis.title,
        has_closed=any(axis.questions.values()),
        open_blind=open_maps[0] if open_maps else None,
        open_maps=open_maps[1:],
        blind=HeatMap(
            title=f"Answered blind, by {axis.title}",
            caption="Per cent right without image or model, fitted on train and tested on test of the same column, with 95 % intervals.",
            columns=columns,
            rows=tuple(blind_rows),
        ),
        lead=blind_maps[LEAD_BASELINE],
        other_blind=tuple(heat for name, heat in blind_maps.items() if name != LEAD_BASELINE),
        leaks=HeatMap(
            title=f"Shared with train, by {axis.title}",
            caption="Per cent of a column's test rows that share something with train rows of the same column. A path that names the right "
            "option is no leak while no prompt shows it.",
            columns=columns,
            rows=tuple(leak_rows),
        ),
        all_leaks=tuple(leak_maps),
    )


def open_grids(axis: AxisAudit) -> tuple[HeatMap, ...]:
    """The blind baselines on open questions: by domain, then train by test for each baseline; () where train or test has none."""
    if not any(axis.best_open(domain) for domain in axis.rows.test):
        return ()

    def tiles(shares: Mapping[str, OpenShares | None]) -> tuple[Tile, ...]:
        return tuple(_open_tile(shares[domain], axis.open_questions[domain]) for domain in axis.rows.test)

    columns = tuple(map(domain_title, axis.rows.test))
    caption = "Per cent right by the rules of the grader with 95 % intervals, and per cent that no rule decides."
    in_domain, maps = [], []
    for name, grid in axis.open_blind.items():
        baseline = OPEN_BASELINES[name]
        in_domain.append((baseline.title, tiles({domain: grid[domain][domain] for domain in axis.rows.test})))
        rows = tuple((domain_title(train), tiles(shares)) for train, shares in grid.items())
        title = f"Open questions, {baseline.title.lower()}: train (rows) by test (columns), {axis.title}"
        maps.append(HeatMap(title=title, caption=f"Gives {baseline.what}. {caption}", columns=columns, rows=rows, corner=CORNER))
    numbers = tuple(Tile(text=f"{axis.open_questions[domain]:,}") for domain in axis.rows.test)
    by_domain = HeatMap(
        title=f"Open questions answered blind, by {axis.title}",
        caption=f"Fitted on train and tested on test of the same column. {caption}",
        columns=columns,
        rows=(*in_domain, ("Questions", numbers)),
    )
    return (by_domain, *maps)


def _open_tile(shares: OpenShares | None, total: int) -> Tile:
    if shares is None:
        return _tile(None, "")
    accuracy = blind_accuracy(shares.right, total)
    return _tile(shares.right, f"[{percent(accuracy.low)}, {percent(accuracy.high)}], undecided {percent(shares.undecided)}")


def domain_title(name: str) -> str:
    """The name of a domain for display: "xray" -> "X-ray", "all" -> "All"."""
    return "All" if name == ALL else group_title(name)


def _blind_tile(share: float | None, total: int) -> Tile:
    accuracy = blind_accuracy(share, total)
    return _tile(share, "" if share is None else f"[{percent(accuracy.low)}, {percent(accuracy.high)}]")


def _leak_tile(share: float | None, total: int) -> Tile:
    return _tile(share, "" if share is None else f"{round(share * total):,} of {total:,}")


def _tile(share: float | None, detail: str) -> Tile:
    return Tile(text=percent(share), detail=detail, style=shade(share))


def case_grid(audit: Audit) -> HeatMap:
    """For each source, the test rows with a known patient or case that is also in train."""
    return HeatMap(
        title="Patient or case in train, by source",
        caption="Of the test rows with a patient or case that the data or the file names state.",
        columns=("Per cent",),
        rows=tuple((source, (_leak_tile(cases.share, cases.num_rows),)) for source, cases in audit.cases.items()),
    )


def item_row(domain: str, comparison: RedrawnComparison) -> tuple[str, ...]:
    """One domain of the table of redrawn questions: its title, the texts of ITEM_COLUMNS, and why questions were not redrawn."""
    kept = {reason: count for reason in KEPT_TITLES if (count := comparison.counts.get(reason))}
    return (
        domain_title(domain),
        f"{comparison.num_test:,}",
        f"{comparison.num_redrawn:,}",
        percent(comparison.chance),
        str(comparison.original),
        str(comparison.redrawn),
        points(comparison.difference),
        percent(comparison.all_rows.original),
        percent(comparison.all_rows.redrawn),
        ", ".join(f"{count:,} {KEPT_TITLES[reason]}" for reason, count in kept.items()) or DASH,
    )


def verdict(axis: AxisAudit, shortcuts: Sequence[str] = ()) -> str:
    """One sentence on whether the questions can be answered blind; `shortcuts` are the reasons of that gate, which it must agree with."""
    above, total = axis.count_above_chance()
    if not total:
        return "" if open_verdict(axis) else "No questions with choices, so nothing can be answered blind."
    domain = _widest(axis)
    pooled, is_above = "", False
    if (best := axis.best(domain)) is not None:
        name, accuracy = best
        guessing = axis.chance[domain]
        is_above = None not in (accuracy.low, guessing) and accuracy.low > guessing  # type: ignore[operator]
        title = ALL_BASELINES[name].title.lower()
        pooled = f" Over all questions the best is the {title}, {accuracy}, where guessing gets {percent(guessing)}."
    expected = 0.025 * total
    results = f"{above} of {total} blind results lie above guessing with their whole interval"
    if shortcuts:
        more = f" and {len(shortcuts) - 1} more" * (len(shortcuts) > 1)
        return f"The questions give themselves away: {results}, and the {shortcuts[0].removeprefix('shortcut: ')}{more}.{pooled}"
    if above <= expected + 2 * expected**0.5:
        who = "Blind baselines are at chance, but not all" if is_above else "Blind baselines are at chance"
        return f"{who}: {results}, where luck alone puts {expected:.1f}.{pooled}"
    return f"The questions give themselves away: {results}.{pooled}"


def open_verdict(axis: AxisAudit) -> str:
    """One sentence on how many open questions can be answered blind; "" where train or test has none."""
    if not axis.rows.test or (best := axis.best_open(domain := _widest(axis))) is None:
        return ""
    name, accuracy = best
    title = OPEN_BASELINES[name].title.lower()
    return f"Of {axis.open_questions[domain]:,} open questions the {title} answers {accuracy} per cent right by the grader's rules, blind."


def _widest(axis: AxisAudit) -> str:
    """All domains together, or the only one."""
    return ALL if ALL in axis.rows.test else next(iter(axis.rows.test))


def recovered_line(axis: AxisAudit) -> str:
    """A sentence about the first domain without a train file; "" where all have one."""
    for domain, shares in axis.recovered.items():
        return (
            f"{domain_title(domain)} has no train file at hand; its {axis.rows.recovered[domain]:,} train rows in files of the other axis "
            f"answer {blind_accuracy(shares[LEAD_BASELINE], axis.questions[domain])} per cent of its test questions by the option prior."
        )
    return ""


def across_lines(audit: Audit) -> list[str]:
    """Sentences on the test rows of one axis that are train rows of another, one for each direction that has such rows."""
    return [
        f"{percent(share)} % of the test rows by {audit.axes[test].title} stand in train by {audit.axes[train].title}: keep the axes apart"
        for train, cells in audit.across_axes.items()
        for test, share in cells.items()
        if share
    ]
