"""The section "Is the reasoning true?": true reasonings and right answers for false reasons, beside what luck would reach."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from osler import metrics
from osler.evaluation.truth import Luck, luck, measure_truth
from osler.metrics import Estimate
from osler.metrics.estimates import NO_ESTIMATE
from osler.metrics.truth import ReasoningTruth
from osler.reports.load_runs import Evaluation
from osler.reports.tables import PolicyRow, PolicyTable, order_groups
from osler.types import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthRow:
    """The reasonings of one policy."""

    title: str
    truth: ReasoningTruth
    luck: Luck | None


def select(records: Iterable[Record], domain: Collection[str]) -> tuple[Record, ...]:
    """The records of the modalities of `domain`; all records where it is empty."""
    return tuple(record for record in records if not domain or record.modality in domain)


def truth_rows(evaluations: Iterable[Evaluation], domain: Collection[str]) -> tuple[TruthRow, ...]:
    """A row for each policy with reasonings that can be checked, on the questions of `domain`."""
    rows = []
    for row in evaluations:
        records = select(row.records, domain)
        truth = measure_truth(records)
        if truth is not None:
            rows.append(TruthRow(title=row.title, truth=truth, luck=luck(records)))
    return tuple(rows)


def truth_table(evaluations: Iterable[Evaluation], *, in_domain: Collection[str] = ()) -> PolicyTable[Estimate] | None:
    """The share of true reasonings of each policy in each modality; None where no reasoning can be checked."""
    judged = [row for row in evaluations if measure_truth(row.records) is not None]
    if not judged:
        return None
    groups = [metrics.group(row.records, ("modality",)) for row in judged]
    columns = order_groups({key[0] for group in groups for key in group}, in_domain)
    rows = []
    for row, group in zip(judged, groups, strict=True):
        cells = tuple(_true_reasonings(group.get((name,), ())) for name in columns)
        rows.append(PolicyRow(title=row.title, cells=cells, average=metrics.average(cells)))
    return PolicyTable(columns=columns, rows=tuple(rows))


def _true_reasonings(records: Sequence[Record]) -> Estimate:
    truth = measure_truth(records)
    return NO_ESTIMATE if truth is None else truth.true_reasonings
