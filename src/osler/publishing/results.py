"""The numbers of a model card as tables of text. Every number is one that the reports print, by the same functions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from osler import metrics
from osler.evaluation.compare import UNIT
from osler.metrics import DASH, ImageGain, p_value, percent, points
from osler.publishing.finished import FinishedRun
from osler.publishing.questions import Tested, Trained, describe_tested
from osler.reports.confidence import confidence_rows
from osler.reports.image_use import above_zero
from osler.reports.load_runs import Evaluation
from osler.reports.looking import look_rows
from osler.reports.page import count_tables
from osler.reports.tables import AccuracyTable, PolicyTable, accuracy_table, change_rows, gain_table, group_title, has_few_clusters
from osler.reports.trained import shared_domain
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
class Group:
    """Evaluations that asked the same questions, wholly or in part."""

    place: str  # "Phantom, split test"
    own: tuple[Evaluation, ...]  # of the published policy
    rows: tuple[Evaluation, ...]  # all of them
    domain: frozenset[str]  # modalities that were trained on; empty where the questions are of another dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The tables of a card; an empty tuple or None where nothing was measured. Each title names the questions."""

    main: tuple[Table, ...]  # one for each evaluation of the policy: modalities, with guessing, the best blind baseline and the image gain
    by_question_type: tuple[Table, ...]
    compared: tuple[Table, ...]  # all policies and baselines by modality; () where there is one only
    changes: Table | None
    truth: tuple[Table, ...]
    looks: tuple[Table, ...]  # the policy on altered images
    confidence: tuple[Table, ...]
    counts: tuple[Table, ...]  # trained and tested questions
    has_blind: bool  # whether a blind baseline beside guessing was measured
    has_few: bool  # whether an interval rests on few images or patients, which its cell says
    unshown: tuple[str, ...]  # modalities on which nothing shows that the policy uses the image


def group_evaluations(finished: FinishedRun, trained: Trained) -> tuple[Group, ...]:
    """The evaluations by their questions: those of the dataset that was trained on first, then in the order of rows."""
    members: list[list[Evaluation]] = []
    for row in finished.evaluations:
        asked = _questions(row)
        place = next((one for one in members if any(asked & _questions(other) for other in one)), None)
        if place is None:
            members.append([row])
        else:
            place.append(row)
    own = {row.title for row in finished.own}
    groups = []
    for rows in members:
        published = tuple(row for row in rows if row.title in own)
        tested = [describe_tested(finished, trained, row) for row in published or rows]
        is_of_training = any(one.is_of_training for one in tested)
        groups.append(
            Group(
                place="; ".join(dict.fromkeys(one.place for one in tested)),
                own=published,
                rows=tuple(rows),
                domain=shared_domain([finished.run]) if is_of_training else frozenset(),
            )
        )
    return tuple(sorted(groups, key=lambda group: (not group.own, not group.domain)))


def _questions(row: Evaluation) -> set[tuple[str, str]]:
    return {(record.dataset, record.sample_id) for record in row.records}


def measure(finished: FinishedRun, groups: Sequence[Group], tested: Sequence[Tested]) -> Results:
    """All tables of a run."""
    published = [(group, _gains(group)) for group in groups if group.own]
    owned = [(group, row) for group, _ in published for row in group.own]
    return Results(
        main=tuple(_main_table(row, gains, group) for group, gains in published for row in group.own),
        by_question_type=tuple(_type_table(row, group) for group, row in owned if len({one.question_type for one in row.records}) > 1),
        compared=tuple(_compared_table(group) for group in groups if len(group.rows) > 1 or not group.own),
        changes=_change_table([group for group, _ in published]),
        truth=tuple(table for group, _ in published if (table := _truth_table(group)) is not None),
        looks=tuple(table for group, _ in published for table in _look_tables(group)),
        confidence=tuple(table for group, _ in published if (table := _confidence_table(group)) is not None),
        counts=tuple(_count_tables(finished.run.manifest, tested)),
        has_blind=any(row.blind or row.is_blind for group in groups for row in group.rows),
        has_few=any(has_few_clusters(accuracy_table([row])) for _, row in owned),
        unshown=tuple(f"{name} ({group.place})" if len(published) > 1 else name for group, gains in published for name in _unshown(gains)),
    )


def _gains(group: Group) -> PolicyTable[ImageGain] | None:
    return gain_table([*group.own, *(row for row in group.rows if row.is_blind)], in_domain=group.domain)


def _main_table(row: Evaluation, gains: PolicyTable[ImageGain] | None, group: Group) -> Table:
    """One row for each modality, then the average of the modalities and all questions."""
    table = accuracy_table([row], in_domain=group.domain)
    gain = next((one for one in gains.rows if one.title == row.title), None) if gains is not None else None
    found = dict(zip(gains.columns, gain.cells, strict=True)) if gains is not None and gain is not None else {}
    rows = [
        (
            _domain_title(name, group.domain),
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
    return Table(title=f"{row.title} on {group.place} ({row.detail})", heads=heads, rows=tuple(rows))


def describe_baseline(gain: ImageGain | None) -> str:
    """The best baseline that does not see the image, with its accuracy: "32.1 (option prior)"; a dash where none was measured."""
    return DASH if gain is None or gain.baseline is None else f"{percent(gain.blind)} ({gain.baseline})"


def _domain_title(name: str | None, domain: Collection[str]) -> str:
    return group_title(name) + (" (trained on)" if name in domain else "")


def _type_table(row: Evaluation, group: Group) -> Table:
    table = accuracy_table([row], "question_type")
    cells = zip(table.columns, table.rows[0].cells, table.chance, strict=False)
    rows = tuple((group_title(name), f"{cell.total:,}", str(cell), percent(chance)) for name, cell, chance in cells)
    return Table(title=f"{row.title} on {group.place}", heads=("Question type", "Questions", "Accuracy", "Guessing"), rows=rows)


def _compared_table(group: Group) -> Table:
    table: AccuracyTable = accuracy_table(group.rows, in_domain=group.domain)
    titles = {row.title for row in group.own}
    body = [
        (f"**{row.title}**" if row.title in titles else row.title, row.detail, *map(str, (*row.cells, row.average))) for row in table.rows
    ]
    body.append(("Guessing", "", *map(percent, table.chance)))
    heads = ("Policy", "Weights, strategy", *(_domain_title(name, group.domain) for name in table.columns), "Average")
    return Table(title=group.place, heads=heads, rows=tuple(body))


def _change_table(groups: Sequence[Group]) -> Table | None:
    """The policy against another one on the same questions, with one correction over the whole table."""
    titles = {row.title for group in groups for row in group.own}
    rows = [(group.place, row) for group in groups for row in change_rows(group.rows)]
    adjusted = metrics.holm([row.change.p_value for _, row in rows])
    body = tuple(
        (row.title, place, row.baseline, points(row.change.difference), f"{row.change.num_samples:,}", p_value(p))
        for (place, row), p in zip(rows, adjusted, strict=True)
        if row.title in titles
    )
    heads = ("Policy", "Questions", "Compared with", "Change in points", "Shared questions", "p (Holm)")
    return Table(heads=heads, rows=body) if body else None


def _truth_table(group: Group) -> Table | None:
    """True reasonings by modality, then what the rows of all questions say of right answers."""
    table = truth_table(group.own, in_domain=group.domain)
    if table is None:
        return None
    whole = {row.title: row.truth for row in truth_rows(group.own, ())}
    heads = ("Policy", *(_domain_title(name, group.domain) for name in table.columns), ALL, "Right answers with a false reason")
    body = tuple(
        (row.title, *map(str, row.cells), str(whole[row.title].true_reasonings), str(whole[row.title].right_for_false_reason))
        for row in table.rows
    )
    return Table(title=group.place, heads=heads, rows=body)


def _look_tables(group: Group) -> Iterator[Table]:
    for row in look_rows(group.own):
        body = [("As it is", f"{row.plain.total:,}", str(row.plain), DASH, DASH)] if row.images else []
        for image in row.images:
            change = image.result.change
            changed = points(change.difference) if change is not None else DASH
            body.append((image.title, f"{image.result.num_questions:,}", str(image.result.accuracy), changed, str(image.changed)))
        if body:
            heads = ("Image", "Questions", "Accuracy", "Change in points", "Answers that changed")
            yield Table(title=f"{row.title} on {group.place}", heads=heads, rows=tuple(body))


def _confidence_table(group: Group) -> Table | None:
    body = []
    for row in confidence_rows(group.own):
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
    return Table(title=group.place, heads=heads, rows=tuple(body)) if body else None


def _decimals(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def _count_tables(manifest: Mapping[str, Any], tested: Sequence[Tested]) -> Iterator[Table]:
    parts = {"train": manifest.get("train"), **{f"Tested: {', '.join(one.titles)}": {"cells": one.cells} for one in tested}}
    for table in count_tables(parts):
        rows = [(title, *(f"{number:,}" for number in numbers)) for title, numbers in table.rows]
        rows.append(("All", *(f"{number:,}" for number in table.totals)))
        heads = ("Trained" if split == "train" else split for split in table.splits)
        yield Table(heads=(table.name.capitalize(), *heads), rows=tuple(rows))


def _unshown(gains: PolicyTable[ImageGain] | None) -> tuple[str, ...]:
    """The modalities in which the interval of every evaluation's image gain contains 0, or lies below it."""
    shown = above_zero(gains)
    return tuple(title for name in (gains.columns if gains is not None else ()) if (title := group_title(name)) not in shown)
