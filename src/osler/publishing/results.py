"""The numbers of a model card as tables of text. Every number is one that the reports print, by the same functions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from osler import metrics
from osler.evaluation.compare import UNIT
from osler.metrics import DASH, Estimate, ImageGain, p_value, percent, points
from osler.publishing.finished import FinishedRun
from osler.reports.confidence import confidence_rows
from osler.reports.load_runs import Evaluation
from osler.reports.looking import look_rows
from osler.reports.page import count_tables, shared_domain
from osler.reports.tables import AccuracyTable, PolicyTable, accuracy_table, change_rows, gain_table, group_title
from osler.reports.truth import truth_rows, truth_table

ALL: Final = "All questions"
AVERAGE: Final = "Average of the rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of text; the first column names the rows."""

    title: str = ""
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The tables of a card; an empty tuple or None where nothing was measured."""

    main: tuple[Table, ...]  # one for each evaluation of the policy: modalities, with guessing, the best blind baseline and the image gain
    by_question_type: tuple[Table, ...]
    compared: Table | None  # all policies and baselines by modality; None where there is one only
    changes: Table | None
    truth: Table | None
    looks: tuple[Table, ...]  # the policy on altered images
    confidence: Table | None
    counts: tuple[Table, ...]  # questions of each split
    has_blind: bool  # whether a blind baseline beside guessing was measured
    unshown: tuple[str, ...]  # modalities on which nothing shows that the policy uses the image


def measure(finished: FinishedRun) -> Results:
    """All tables of a run."""
    own, everything = finished.own, finished.evaluations
    domain = shared_domain([finished.run])
    gains = gain_table([*own, *(row for row in everything if row.is_blind)], in_domain=domain) if own else None
    return Results(
        main=tuple(_main_table(row, gains, domain) for row in own),
        by_question_type=tuple(_type_table(row) for row in own if len({record.question_type for record in row.records}) > 1),
        compared=_compared_table(everything, own, domain) if len(everything) > 1 else None,
        changes=_change_table(everything, own),
        truth=_truth_table(own, domain),
        looks=tuple(_look_tables(own)),
        confidence=_confidence_table(own),
        counts=tuple(_count_tables(finished.run.manifest)),
        has_blind=any(row.blind for row in own) or any(row.is_blind for row in everything),
        unshown=_unshown(gains),
    )


def _main_table(row: Evaluation, gains: PolicyTable[ImageGain] | None, domain: Collection[str]) -> Table:
    """One row for each modality, then the average of the modalities and all questions."""
    table = accuracy_table([row], in_domain=domain)
    gain = next((one for one in gains.rows if one.title == row.title), None) if gains is not None else None
    found = dict(zip(gains.columns, gain.cells, strict=True)) if gains is not None and gain is not None else {}
    rows = [
        (
            _domain_title(name, domain),
            f"{cell.total:,}",
            str(cell),
            percent(chance),
            describe_baseline(found.get(name)),
            points(found[name].gain) if name in found else DASH,
        )
        for name, cell, chance in zip(table.columns, table.rows[0].cells, table.chance, strict=False)
    ]
    whole = metrics.accuracy(row.records, UNIT)
    if len(rows) > 1:
        average = points(gain.average) if gain is not None else DASH
        rows.append((AVERAGE, DASH, str(table.rows[0].average), percent(table.chance[-1]), DASH, average))
        rows.append((ALL, f"{whole.total:,}", str(whole), percent(metrics.chance(row.records)), DASH, DASH))
    heads = ("Modality", "Questions", "Accuracy", "Guessing", "Best without the image", "Image gain")
    return Table(title=f"{row.title}: {row.detail}", heads=heads, rows=tuple(rows))


def describe_baseline(gain: ImageGain | None) -> str:
    """The best baseline that does not see the image, with its accuracy: "32.1 (option prior)"; a dash where none was measured."""
    return DASH if gain is None or gain.baseline is None else f"{percent(gain.blind)} ({gain.baseline})"


def _domain_title(name: str | None, domain: Collection[str]) -> str:
    return group_title(name) + (" (trained on)" if name in domain else "")


def _type_table(row: Evaluation) -> Table:
    table = accuracy_table([row], "question_type")
    cells = zip(table.columns, table.rows[0].cells, table.chance, strict=False)
    rows = tuple((group_title(name), f"{cell.total:,}", str(cell), percent(chance)) for name, cell, chance in cells)
    return Table(title=row.title, heads=("Question type", "Questions", "Accuracy", "Guessing"), rows=rows)


def _compared_table(rows: Sequence[Evaluation], own: Collection[Evaluation], domain: Collection[str]) -> Table:
    table: AccuracyTable = accuracy_table(rows, in_domain=domain)
    titles = {row.title for row in own}
    body = [
        (f"**{row.title}**" if row.title in titles else row.title, row.detail, *map(str, (*row.cells, row.average))) for row in table.rows
    ]
    body.append(("Guessing", "", *map(percent, table.chance)))
    heads = ("Policy", "Weights, strategy", *(_domain_title(name, domain) for name in table.columns), "Average")
    return Table(heads=heads, rows=tuple(body))


def _change_table(rows: Sequence[Evaluation], own: Collection[Evaluation]) -> Table | None:
    titles = {row.title for row in own}
    body = tuple(
        (row.title, row.baseline, points(row.change.difference), f"{row.change.num_samples:,}", p_value(row.adjusted_p))
        for row in change_rows(rows)
        if row.title in titles
    )
    return Table(heads=("Policy", "Compared with", "Change in points", "Shared questions", "p (Holm)"), rows=body) if body else None


def _truth_table(own: Sequence[Evaluation], domain: Collection[str]) -> Table | None:
    """True reasonings by modality, then what the rows of all questions say of right answers."""
    table = truth_table(own, in_domain=domain)
    if table is None:
        return None
    whole = {row.title: row.truth for row in truth_rows(own, ())}
    heads = ("Policy", *(_domain_title(name, domain) for name in table.columns), ALL, "Right answers with a false reason")
    body = tuple(
        (row.title, *map(str, row.cells), str(whole[row.title].true_reasonings), str(whole[row.title].right_for_false_reason))
        for row in table.rows
    )
    return Table(heads=heads, rows=body)


def _look_tables(own: Sequence[Evaluation]) -> Iterator[Table]:
    for row in look_rows(own):
        body = [("As it is", f"{row.plain.total:,}", str(row.plain), DASH, DASH)] if row.images else []
        for image in row.images:
            change = image.result.change
            changed = points(change.difference) if change is not None else DASH
            body.append((image.title, f"{image.result.num_questions:,}", str(image.result.accuracy), changed, str(image.changed)))
        if body:
            heads = ("Image", "Questions", "Accuracy", "Change in points", "Answers that changed")
            yield Table(title=row.title, heads=heads, rows=tuple(body))


def _confidence_table(own: Sequence[Evaluation]) -> Table | None:
    body = []
    for row in confidence_rows(own):
        parts = (row.calibration.confidence, row.calibration.accuracy.value, row.calibration.expected_error)
        body.append((row.name, f"{row.calibration.num_answers:,}", *map(percent, parts), _decimals(row.brier), _decimals(row.risk_area)))
    heads = (
        "Policy (confidence)",
        "Answers",
        "Mean confidence",
        "Accuracy",
        "Expected calibration error",
        "Brier score",
        "Risk-coverage area",
    )
    return Table(heads=heads, rows=tuple(body)) if body else None


def _decimals(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def _count_tables(manifest: Mapping[str, Any]) -> Iterator[Table]:
    for table in count_tables(manifest):
        rows = [(title, *(f"{number:,}" for number in numbers)) for title, numbers in table.rows]
        rows.append(("All", *(f"{number:,}" for number in table.totals)))
        yield Table(heads=(table.name.capitalize(), *(f"{split.capitalize()} questions" for split in table.splits)), rows=tuple(rows))


def _unshown(gains: PolicyTable[ImageGain] | None) -> tuple[str, ...]:
    """The modalities in which the interval of every evaluation's image gain contains 0, or lies below it."""
    if gains is None:
        return ()
    columns = zip(gains.columns, zip(*(row.cells for row in gains.rows), strict=True), strict=True)
    return tuple(group_title(name) for name, cells in columns if not any(_is_shown(cell.gain) for cell in cells))


def _is_shown(gain: Estimate) -> bool:
    return gain.low is not None and gain.low > 0
