"""The first screen of a page about runs: a headline in words, the forest plot and one example."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from osler import metrics
from osler.evaluation.compare import UNIT
from osler.evaluation.truth import measure_truth, reasoning_state
from osler.metrics import is_correct
from osler.metrics.truth import ReasoningState
from osler.reports.examples import Example, FindImage, build_example
from osler.reports.figures import Figure
from osler.reports.forest import ForestRow, forest_figure
from osler.reports.headline import Lead, describe_domain, describe_lead, explain_lead, find_lead
from osler.reports.load_runs import Evaluation, Run
from osler.reports.truth import select
from osler.types import Record

_WHOSE: Final[Mapping[ReasoningState, str]] = {
    "true": "whose reasoning is true",
    "false": "whose reasoning is false",
    "unchecked": "whose reasoning states nothing that can be checked",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """The content of the first screen."""

    sentences: tuple[str, ...]  # the first in large letters
    notes: tuple[str, ...]  # whether luck explains the changes
    figure: Figure | None
    example: Example | None
    policy: str  # the title of the policy that the example is from
    caption: str  # how the example was chosen


def build_glance(
    runs: Sequence[Run], evaluations: Sequence[Evaluation], images: Mapping[str, FindImage], *, seed: int = 0
) -> Glance | None:
    """The first screen; None where no policy answered. `images` finds the image of a record by the name of its run."""
    lead = find_lead(runs, evaluations)
    if lead is None:
        return None
    picked = pick_typical(lead.row.records, seed=seed)
    return Glance(
        sentences=describe_lead(lead),
        notes=explain_lead(lead),
        figure=_forest(lead, evaluations),
        example=build_example(picked, images[lead.row.run]),
        policy=lead.row.title,
        caption=describe_choice(picked, lead.row.records),
    )


def _forest(lead: Lead, evaluations: Sequence[Evaluation]) -> Figure | None:
    """All policies on questions like those of the headline, of its datasets; those without any of these questions are left out."""
    rows: list[ForestRow] = []
    answered: list[Record] = []
    datasets = {record.dataset for record in lead.row.records}
    for row in evaluations:
        records = [record for record in select(row.records, lead.domain) if record.dataset in datasets]
        if records:
            truth = measure_truth(records)
            accuracy = metrics.accuracy(records, UNIT)
            group = "" if row.is_blind else ", ".join(sorted(row.strategies))
            rows.append(ForestRow(title=row.title, group=group, accuracy=accuracy, truth=None if truth is None else truth.true_reasonings))
            answered += records
    return forest_figure(rows, questions=describe_domain(lead.domain), guess=metrics.chance(answered))


def pick_typical(records: Sequence[Record], *, seed: int) -> Record:
    """A random right answer whose reasoning is in the most frequent state among the right answers; a wrong one where none is right."""
    pool = _right_by_state(records)
    candidates = max(pool.values(), key=len) if pool else list(records)
    return random.Random(seed).choice(sorted(candidates, key=lambda record: record.sample_id))


def describe_choice(picked: Record, records: Sequence[Record]) -> str:
    """ "A random right answer whose reasoning is false, as in 92 % of its right answers." """
    if not is_correct(picked):
        return "A random answer; none is right."
    counts = Counter({state: len(part) for state, part in _right_by_state(records).items()})
    state = reasoning_state(picked)
    if state is None:
        return "A random right answer."
    return f"A random right answer {_WHOSE[state]}, as in {100 * counts[state] / counts.total():.0f} % of its right answers."


def _right_by_state(records: Sequence[Record]) -> dict[ReasoningState | None, list[Record]]:
    by_state: dict[ReasoningState | None, list[Record]] = {}
    for record in records:
        if is_correct(record):
            by_state.setdefault(reasoning_state(record), []).append(record)
    return by_state
