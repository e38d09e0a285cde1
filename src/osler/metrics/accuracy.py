"""Accuracy and the other shares of a set of records, overall and per group."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal

from osler.metrics.clusters import Unit, cluster, clustered_proportion, mean_of_groups
from osler.metrics.estimates import NO_ESTIMATE, Estimate, Proportion, mean, proportion
from osler.taxonomy import Modality, QuestionType
from osler.types import FinishReason, Outcome, Record

GroupKey = Literal["modality", "question_type", "dataset", "subject_id", "strategy", "policy"]

_RANKS: Final[Mapping[str, int]] = {name: rank for rank, name in enumerate((*Modality, *QuestionType))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The metrics of a set of records. The rates are shares of all records, in [0, 1]; all None if there are no records."""

    accuracy: Proportion
    chance: float | None  # the expected accuracy of guessing: 0.25 for four choices
    incorrect: float | None
    no_answer: float | None
    ambiguous: float | None
    well_formed: float | None
    truncated: float | None  # stopped by the length limit
    mean_tokens: float | None  # of a completion


def accuracy(records: Collection[Record], unit: Unit = "sample") -> Proportion:
    """The share of correct records, in [0, 1]. A record without an answer, or with an ambiguous one, counts as not correct.

    `unit` is what the interval takes to be independent: every record ("sample"), or clusters of records that share an image or a subject
    (see `clusters.cluster`). If no two records share one, all three intervals are equal.
    """
    if unit == "sample":
        return proportion(sum(is_correct(record) for record in records), len(records))
    return clustered_proportion(list(records), [is_correct(record) for record in records], unit)


def is_correct(record: Record) -> bool:
    """Whether grading found the answer to be correct."""
    return record.outcome == Outcome.CORRECT


def mean_accuracy(groups: Sequence[Sequence[Record]], unit: Unit = "sample", *, has: Callable[[Record], bool] = is_correct) -> Estimate:
    """The mean of the accuracies of groups, with equal weights; no value without groups, or if one is empty.

    The interval is by `unit` over all groups together, because different groups can hold questions about one image. `has` replaces being
    correct by another property of a record, of whose share the mean is then taken.
    """
    values = [[float(has(record)) for record in members] for members in groups]
    together = mean_of_groups(values, cluster(list(chain.from_iterable(groups)), unit))
    return NO_ESTIMATE if together is None else together.estimate()


def chance(records: Iterable[Record]) -> float | None:
    """The expected accuracy of guessing uniformly among the choices, in [0, 1]; open-ended records are skipped, None if all are."""
    return mean([1 / len(record.choices) for record in records if record.choices])


def summarize(records: Collection[Record], unit: Unit = "sample") -> Summary:
    """The accuracy of the records, with an interval by `unit` (see `accuracy`), and the shares of each outcome and format."""
    return Summary(
        accuracy=accuracy(records, unit),
        chance=chance(records),
        incorrect=mean([record.outcome == Outcome.INCORRECT for record in records]),
        no_answer=mean([record.outcome == Outcome.NO_ANSWER for record in records]),
        ambiguous=mean([record.outcome == Outcome.AMBIGUOUS for record in records]),
        well_formed=mean([record.is_well_formed for record in records]),
        truncated=mean([record.finish_reason == FinishReason.LENGTH for record in records]),
        mean_tokens=mean([record.num_tokens for record in records]),
    )


def group(records: Iterable[Record], by: Sequence[GroupKey]) -> dict[tuple[str | None, ...], list[Record]]:
    """The records of each combination of the fields `by`, e.g. {("ct", "lesion_grading"): [..]}, sorted by `taxonomy_order`."""
    cells: dict[tuple[str | None, ...], list[Record]] = {}
    for record in records:
        cells.setdefault(tuple(getattr(record, name) for name in by), []).append(record)
    return {key: cells[key] for key in sorted(cells, key=lambda key: [taxonomy_order(name) for name in key])}


def taxonomy_order(name: str | None) -> tuple[bool, int, str]:
    """A sort key: names of the taxonomy in its order, then other names alphabetically, then None."""
    return name is None, _RANKS.get(name or "", len(_RANKS)), name or ""
