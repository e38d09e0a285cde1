"""Circular evaluation: accuracy over every rotation of a question's options (MMBench, https://arxiv.org/abs/2307.06281)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from osler.metrics.accuracy import accuracy, is_correct
from osler.metrics.clusters import Unit, clustered_proportion
from osler.metrics.estimates import Proportion, mean
from osler.types import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Circular:
    """The accuracies of a circular evaluation, in [0, 1]; questions without a record of each rotation are left out."""

    num_questions: int
    plain: Proportion  # with the options in their own order
    mean: Proportion  # over all rotations
    consistent: Proportion  # questions with the right answer in every rotation: circular accuracy
    chance: float | None  # the expected circular accuracy of guessing: 1/256 for four options


def rotation_id(sample_id: str, rotation: int) -> str:
    """The id of a sample with its options rotated by `rotation` places: "test/0#rotation=1"; its own id for 0."""
    return f"{sample_id}#rotation={rotation}" if rotation else sample_id


def summarize_rotations(records: Iterable[Record], unit: Unit = "subject") -> Circular:
    """The accuracies of the records of `rotate_options`, with intervals by `unit` (see `clusters.cluster`); other records are skipped."""
    questions: dict[str, dict[int, Record]] = defaultdict(dict)
    for record in records:
        if record.rotation is not None:
            suffix = rotation_id("", record.rotation)
            questions[record.sample_id.removesuffix(suffix)][record.rotation] = record
    complete = [turns for turns in questions.values() if turns.keys() == set(range(len(next(iter(turns.values())).choices)))]
    plain = [turns[0] for turns in complete]
    return Circular(
        num_questions=len(complete),
        plain=accuracy(plain, unit),
        mean=accuracy([record for turns in complete for record in turns.values()], unit),
        consistent=clustered_proportion(plain, [all(map(is_correct, turns.values())) for turns in complete], unit),
        chance=mean([len(turns) ** -float(len(turns)) for turns in complete]),
    )
