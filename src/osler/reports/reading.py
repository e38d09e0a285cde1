"""The section "Does it read the context and not the image?": policies with the context of another patient, an opposite one, or none."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from osler import metrics
from osler.evaluation.compare import TITLES, UNIT, Alteration
from osler.evaluation.context_changes import ContextChange
from osler.evaluation.reliance import Reliance, judge_reliance
from osler.metrics import Proportion, points
from osler.reports.load_runs import Evaluation
from osler.reports.looking import AlteredRow, adjust, policies_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingRow:
    """One policy on the questions with a patient context: its plain answers, and those with a changed context or image."""

    title: str
    plain: Proportion
    chance: float | None
    context: tuple[AlteredRow, ...]
    image: tuple[AlteredRow, ...]  # image ablations of the same questions
    changed: tuple[tuple[str, int], ...]  # field -> questions in which a contradictory context says the opposite of it
    reliance: Reliance

    @property
    def verdict(self) -> str:
        """One sentence: "GRPO reads the context and not the image." """
        return f"{self.title} {self.reliance.verdict}."


def reading_rows(evaluations: Iterable[Evaluation]) -> tuple[ReadingRow, ...]:
    """One row for every policy (except blind baselines) that was asked with a changed context."""
    rows = [row for evaluation in evaluations if not evaluation.is_blind and (row := _read(evaluation)) is not None]
    context = adjust([row.context for row in rows])
    image = adjust([row.image for row in rows])
    return tuple(replace(row, context=first, image=second) for row, first, second in zip(rows, context, image, strict=True))


def _read(evaluation: Evaluation) -> ReadingRow | None:
    """None where no context was changed. Records of another policy or strategy than the plain ones are left out."""
    others = _answered_by_others(evaluation)
    altered = {name: records for name, records in evaluation.altered.items() if name not in others}
    if (reliance := judge_reliance(evaluation.records, altered)) is None:
        return None
    asked = [record for name in ContextChange for record in altered.get(name, ())]
    opposite = altered.get(ContextChange.CONTRADICTORY, ())
    counts = Counter(name for record in opposite for name in record.context_changes or ())
    return ReadingRow(
        title=evaluation.title,
        plain=metrics.accuracy(reliance.plain, UNIT),
        chance=metrics.chance(reliance.plain or asked),
        context=_rows(reliance.context),
        image=_rows(reliance.image),
        changed=tuple((name.replace("_", " "), count) for name, count in counts.most_common()),
        reliance=reliance,
    )


def _answered_by_others(evaluation: Evaluation) -> tuple[str, ...]:
    """The alterations that another policy or strategy answered than the plain questions."""
    own = policies_of(evaluation.records)
    return tuple(name for name, records in evaluation.altered.items() if own and policies_of(records) != own)


def _rows(alterations: Sequence[Alteration]) -> tuple[AlteredRow, ...]:
    titles = ((one, TITLES[one.name]) for one in alterations)
    return tuple(
        AlteredRow(title=title if "context" in title.lower() or "image" in title.lower() else f"Image: {title.lower()}", result=one)
        for one, title in titles
    )


def opposite_fields(rows: Sequence[ReadingRow]) -> tuple[str, ...]:
    """Lines that say what contradictory contexts change: "age in 48 questions, sex in 20"; one line for policies with the same numbers."""
    titles: defaultdict[tuple[tuple[str, int], ...], list[str]] = defaultdict(list)
    for row in rows:
        titles[row.changed].append(row.title)
    lines = []
    for changed, names in titles.items():
        if changed:
            (first, count), *others = changed
            listed = ", ".join([f"{first} in {count} questions", *(f"{name} in {number}" for name, number in others)])
            lines.append(f"{', '.join(names)}: the contradictory contexts say the opposite of {listed}.")
    return tuple(lines)


def reading_notes(rows: Sequence[ReadingRow], evaluations: Iterable[Evaluation]) -> tuple[str, ...]:
    """Lines for the notes on top of the results: each policy that is found out, and changes of the context that are not shown."""
    named = [
        (one.title, [TITLES[name].lower() for name in _answered_by_others(one) if name in tuple(ContextChange)]) for one in evaluations
    ]
    notes = [
        f"{title}: another policy or strategy answered under {', '.join(names)}, so that is not shown. Evaluate it again with --fresh."
        for title, names in named
        if names
    ]
    for row in rows:
        if row.reliance.is_found_out:
            lost = "; ".join(
                f"{one.title.lower()} {points(one.result.change.difference)} points" for one in row.context if one.result.change is not None
            )
            notes.append(f"{row.verdict} Change of its accuracy by the context: {lost}.")
    return tuple(notes)
