"""Accuracy and the shares beside it, per cell and on average."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from osler.metrics.clusters import NUM_RESAMPLES, Unit, bootstrap_mean, cluster, clustered_proportion
from osler.metrics.estimates import Estimate, Proportion, average, mean, proportion
from osler.taxonomy import Modality, QuestionType
from osler.types import FinishReason, Outcome, Record

GroupKey = Literal["modality", "question_type", "dataset", "subject_id", "strategy", "policy"]

_RANKS: Final[Mapping[str, int]] = {name: rank for rank, name in enumerate((*Modality, *QuestionType))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a set of records comes to. The rates are shares of all records, None where there are none."""

    accuracy: Proportion
    chance: float | None  # what guessing would get: 0.25 for four choices
    incorrect: float | None
    no_answer: float | None
    ambiguous: float | None
    well_formed: float | None
    truncated: float | None  # stopped by the length limit
    mean_tokens: float | None


def accuracy(records: Collection[Record], unit: Unit = "sample") -> Proportion:
    """The share of correct records. No answer and an ambiguous one count as not correct.

    `unit` says what is independent: "sample" takes every question to be, "image" and "subject" widen the interval for questions that
    share one (see `clusters.cluster`). Where none does, the interval is the same.
    """
    if unit == "sample":
        return proportion(sum(is_correct(record) for record in records), len(records))
    return clustered_proportion(list(records), [is_correct(record) for record in records], unit)


def bootstrap_accuracy(
    records: Collection[Record], unit: Unit = "subject", *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Estimate:
    """Accuracy with the percentile interval of a bootstrap that draws whole clusters; no limits for fewer than two of them.

    It narrows to a point at 0 and 100 %, where `accuracy` does not.
    """
    values = [float(is_correct(record)) for record in records]
    return bootstrap_mean(values, cluster(records, unit), num_resamples=num_resamples, seed=seed)


def is_correct(record: Record) -> bool:
    """Whether grading found the right answer."""
    return record.outcome == Outcome.CORRECT


def chance(records: Iterable[Record]) -> float | None:
    """What guessing evenly among the choices would get on average; open-ended questions are left out, None when all are."""
    shares = [1 / len(record.choices) for record in records if record.choices]
    return mean(shares)


def summarize(records: Collection[Record], unit: Unit = "sample") -> Summary:
    """Accuracy, and the shares that explain it."""
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
    """Records by the values of some fields, in the order of the taxonomy, then of the alphabet; None comes last."""
    cells: dict[tuple[str | None, ...], list[Record]] = {}
    for record in records:
        cells.setdefault(tuple(getattr(record, name) for name in by), []).append(record)
    return {key: cells[key] for key in sorted(cells, key=lambda key: [taxonomy_order(name) for name in key])}


def taxonomy_order(name: str | None) -> tuple[bool, int, str]:
    """A sort key: the taxonomy's own names in its order, other names by the alphabet, None last."""
    return name is None, _RANKS.get(name or "", len(_RANKS)), name or ""


def table(
    records: Iterable[Record], by: Sequence[GroupKey] = ("modality",), unit: Unit = "sample"
) -> dict[tuple[str | None, ...], Summary]:
    """One summary per cell that has records, e.g. `by=("modality", "question_type")` for the matrix of both papers."""
    return {key: summarize(members, unit) for key, members in group(records, by).items()}


def macro_average(
    records: Iterable[Record], by: GroupKey = "modality", names: Collection[str | None] | None = None, unit: Unit = "sample"
) -> Estimate:
    """The mean of the groups' accuracies, each group weighing the same: the papers' "average" over modalities.

    With `names` the average is over exactly these groups, and None when one of them is empty.
    The interval: Zou, Huang and Zhang (2009), https://doi.org/10.1016/j.csda.2008.09.033, from each group's Wilson limits.
    """
    cells = {key[0]: accuracy(members, unit) for key, members in group(records, (by,)).items()}
    if names is not None:
        cells = {name: cells.get(name, proportion(0, 0)) for name in names}
    return average(list(cells.values()))
