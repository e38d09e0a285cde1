"""The section "Did it look?": policies on questions with altered images, rotated options or changed reasoning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from osler import metrics
from osler.evaluation.ablations import Ablation
from osler.evaluation.compare import CIRCULAR, REASONING, TITLES, UNIT, Alteration, compare
from osler.evaluation.context_changes import ContextChange
from osler.evaluation.reasoning_rules import RuleSummary, summarize_reasoning
from osler.metrics import Circular, Estimate, Proportion, percent, summarize_rotations
from osler.metrics.estimates import NO_ESTIMATE
from osler.reports.figures import MAX_BARS, Figure, draw_bars
from osler.reports.load_runs import Evaluation
from osler.types import Record

PLAIN_TITLE: Final = "As it is"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlteredRow:
    """A policy under one alteration of its questions."""

    title: str  # "Blank"
    result: Alteration
    adjusted_p: float | None = None  # Holm's p over the rows of the table

    @property
    def changed(self) -> Estimate:
        """The share of the plain answers that the alteration changed, with its interval."""
        same = self.result.same_answer
        if same is None or same.value is None or same.low is None or same.high is None:
            return NO_ESTIMATE
        return Estimate(value=1 - same.value, low=1 - same.high, high=1 - same.low)


@dataclass(frozen=True, slots=True, kw_only=True)
class LookRow:
    """One policy: its plain accuracy and its results on altered questions; alterations without records are absent."""

    title: str
    plain: Proportion
    chance: float | None
    images: tuple[AlteredRow, ...]  # image ablations
    reasoning: tuple[AlteredRow, ...]
    circular: Circular | None
    rules: tuple[RuleSummary, ...]  # agreement of the plain reasoning with the answers, () where no rule applies
    incomparable: tuple[str, ...]  # alterations answered by another policy or strategy, which are not compared with the plain answers


def look_rows(evaluations: Iterable[Evaluation]) -> tuple[LookRow, ...]:
    """One row for every policy (except blind baselines) with altered questions, or with reasoning to which a rule applies."""
    rows = [_look(row) for row in evaluations if not row.is_blind]
    rows = [row for row in rows if row.images or row.reasoning or row.circular is not None or row.rules]
    images = adjust([row.images for row in rows])
    reasoning = adjust([row.reasoning for row in rows])
    return tuple(replace(row, images=first, reasoning=second) for row, first, second in zip(rows, images, reasoning, strict=True))


def _look(evaluation: Evaluation) -> LookRow:
    altered = {name: evaluation.altered[name] for name in TITLES if name in evaluation.altered and name not in tuple(ContextChange)}
    plain = policies_of(evaluation.records)
    incomparable = tuple(name for name, records in altered.items() if evaluation.records and policies_of(records) != plain)
    compared = [
        AlteredRow(title=TITLES[name], result=compare(name, () if name in incomparable else evaluation.records, records))
        for name, records in altered.items()
        if name != CIRCULAR
    ]
    circular = summarize_rotations(altered.get(CIRCULAR, ()), UNIT)
    rules = summarize_reasoning(evaluation.records)
    return LookRow(
        title=evaluation.title,
        plain=metrics.accuracy(evaluation.records, UNIT),
        chance=metrics.chance(evaluation.records or [record for row in compared for record in altered[row.result.name]]),
        images=tuple(row for row in compared if not row.result.name.startswith(REASONING)),
        reasoning=tuple(row for row in compared if row.result.name.startswith(REASONING)),
        circular=circular if circular.num_questions else None,
        rules=rules if any(rule.agreement.total for rule in rules) else (),
        incomparable=incomparable,
    )


def policies_of(records: Iterable[Record]) -> frozenset[tuple[str, str]]:
    """Policy and strategy of the records."""
    return frozenset((record.policy, record.strategy) for record in records)


def adjust(tables: Sequence[Sequence[AlteredRow]]) -> list[tuple[AlteredRow, ...]]:
    """The rows of one table, by policy, with Holm's p over all of them."""
    p_values = [None if row.result.change is None else row.result.change.p_value for rows in tables for row in rows]
    adjusted = iter(metrics.holm(p_values))
    return [tuple(replace(row, adjusted_p=next(adjusted)) for row in rows) for rows in tables]


def look_notes(rows: Sequence[LookRow]) -> tuple[str, ...]:
    """What a reader must know before comparing rows."""
    notes = [
        f"{row.title}: another policy or strategy answered under {', '.join(TITLES[name].lower() for name in row.incomparable)}, "
        "so that is compared with nothing. Evaluate it again with --fresh."
        for row in rows
        if row.incomparable
    ]
    if sum(bool(row.images) for row in rows) > MAX_BARS:
        notes.append(f"The figure shows the last {MAX_BARS} policies.")
    return tuple(notes)


def look_figure(rows: Sequence[LookRow]) -> Figure | None:
    """Bars of accuracy with the original images and under every ablation in the rows; None without ablations."""
    drawn = [row for row in rows if row.images][-MAX_BARS:]
    names = [name for name in Ablation if any(row.result.name == name for look in drawn for row in look.images)]
    if not names:
        return None
    bars: dict[str, list[Estimate]] = {}
    for look in drawn:
        by_name = {row.result.name: row.result.accuracy for row in look.images}
        bars[look.title] = [look.plain, *(by_name.get(name, NO_ESTIMATE) for name in names)]
    guesses = [look.chance for look in drawn if look.chance is not None]
    guess = metrics.mean(guesses) if len(guesses) == len(drawn) else None
    groups = [PLAIN_TITLE, *(TITLES[name] for name in names)]
    title = "Accuracy without the image"
    texts = []
    for policy, estimates in bars.items():
        values = ", ".join(f"{group.lower()} {percent(part.value)}" for group, part in zip(groups, estimates, strict=True))
        texts.append(f"{policy}: {values}")
    description = f"{title}: {'; '.join(texts)}"
    return draw_bars(title, groups, bars, [guess] * len(groups), salt=title, description=description)
