"""The truth of a policy's reasonings, what chance alone would reach, and the change between two evaluations."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from osler.evaluation.compare import UNIT
from osler.facts import Facts, Kind, Statement, Truth
from osler.grading.fact_check import check
from osler.metrics.accuracy import group, is_correct
from osler.metrics.clusters import cluster
from osler.metrics.paired import PairedDifference, paired_difference
from osler.metrics.truth import ReasoningState, ReasoningTruth, TruthShares, state_of, summarize_truth, truth_shares
from osler.prompts import STRATEGIES, Format
from osler.types import Record

_REASONING: Final = frozenset({Format.THINK_ANSWER, Format.ANSWER_THINK})


@dataclass(frozen=True, slots=True, kw_only=True)
class Luck:
    """The truth that reasonings reach without looking at the image: two blind baselines, on the same questions."""

    usual: TruthShares  # each statement replaced by the most frequent one of its kind, in its modality and question type
    other_image: TruthShares  # each reasoning compared with another image of the same modality

    def to_json(self) -> dict[str, Any]:
        """The keys `usual_statements` and `other_image`, each as in `TruthShares.to_json`."""
        return {"usual_statements": self.usual.to_json(), "other_image": self.other_image.to_json()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthDifference:
    """One evaluation minus another, paired by sample. `gained` and `lost` count the samples that have the property on one side only."""

    accuracy: PairedDifference  # over the questions that both sides answered
    true_reasonings: PairedDifference  # over the questions with a reasoning on both sides
    right_for_false_reason: PairedDifference  # false reasonings, over the questions that both sides answered right

    def to_json(self) -> dict[str, Any]:
        """For each part `value`, `low` and `high` in shares of one, the number of `questions`, and `p_value`."""
        parts = {name: getattr(self, name) for name in ("accuracy", "true_reasonings", "right_for_false_reason")}
        return {name: {**part.difference.to_json(), "questions": part.num_samples, "p_value": part.p_value} for name, part in parts.items()}


def reasoning_state(record: Record) -> ReasoningState | None:
    """The state of a record's reasoning; None where nothing is known of the image, or the strategy asks for no reasoning.

    A completion without the reasoning that its strategy asks for is unchecked: silence is not truth. One that reasons although its
    strategy asks for the answer alone is left out.
    """
    strategy = STRATEGIES.get(record.strategy)  # None for a strategy of a plug-in that is not installed here
    expected = None if strategy is None else strategy.format
    if record.facts is None or expected is Format.ANSWER or not (record.reasoning is not None or expected in _REASONING):
        return None
    return state_of(record.statements or ())


def with_reasoning(records: Sequence[Record]) -> list[Record]:
    """The records that have a state."""
    return [record for record in records if reasoning_state(record) is not None]


def measure_truth(records: Sequence[Record]) -> ReasoningTruth | None:
    """The truth of the reasonings, with intervals clustered by subject; None where no record has a state (see `reasoning_state`)."""
    reasoned = with_reasoning(records)
    return summarize_truth(reasoned, UNIT) if reasoned else None


def luck(records: Sequence[Record], seed: int = 0) -> Luck | None:
    """How often the reasonings would be true by chance; None where `measure_truth` is None.

    The most frequent statements are counted on the same records, which can only raise that baseline. Reasonings about the only subject of
    their modality are left out of `other_image`. The same records and seed give the same result.
    """
    reasoned = with_reasoning(records)
    if not reasoned:
        return None
    usual = [_check_all(claims, record.facts) for record, claims in zip(reasoned, _usual_claims(reasoned), strict=True)]
    donors = _draw_other_facts(reasoned, seed)
    moved = [(record, _check_all(_claims(record), facts)) for record, facts in zip(reasoned, donors, strict=True) if facts is not None]
    return Luck(
        usual=truth_shares(reasoned, usual, UNIT),
        other_image=truth_shares([record for record, _ in moved], [claims for _, claims in moved], UNIT),
    )


def truth_to_json(records: Sequence[Record]) -> dict[str, Any] | None:
    """The figures of `measure_truth`, with those of `luck` under "luck" and those of each modality under "modalities"; None as there."""
    found = _figures(records)
    if found is not None:
        parts = {name: _figures(part) for (name,), part in group(records, ("modality",)).items()}
        found["modalities"] = {str(name): part for name, part in parts.items() if part is not None}
    return found


def _figures(records: Sequence[Record]) -> dict[str, Any] | None:
    found, chance = measure_truth(records), luck(records)
    return None if found is None or chance is None else {**found.to_json(), "luck": chance.to_json()}


def truth_difference(before: Sequence[Record], after: Sequence[Record]) -> TruthDifference | None:
    """`after` minus `before`; None where a side has no reasonings. Raises DataError if a side holds a sample twice."""
    first, second = with_reasoning(before), with_reasoning(after)
    if not first or not second:
        return None
    first_right, second_right = ([record for record in side if is_correct(record)] for side in (first, second))
    return TruthDifference(
        accuracy=paired_difference(before, after, UNIT),
        true_reasonings=paired_difference(first, second, UNIT, has=lambda record: reasoning_state(record) == "true"),
        right_for_false_reason=paired_difference(first_right, second_right, UNIT, has=lambda record: reasoning_state(record) == "false"),
    )


def _claims(record: Record) -> tuple[Statement, ...]:
    """The different statements of a record's evidence, without their places in the text and their truth."""
    evidence = (part for part in record.statements or () if not part.repeats_answer)
    return tuple(dict.fromkeys(replace(part, begin=0, end=0, truth=Truth.NOT_CHECKABLE) for part in evidence))


def _usual_claims(records: Sequence[Record]) -> list[tuple[Statement, ...]]:
    """For each record as many statements of each kind as it makes: the most frequent ones of its modality and question type."""
    counts: defaultdict[tuple[str | None, str | None, Kind], Counter[Statement]] = defaultdict(Counter)
    for record in records:
        for claim in _claims(record):
            counts[record.modality, record.question_type, claim.kind][claim] += 1
    ranked = {key: [claim for claim, _ in found.most_common()] for key, found in counts.items()}
    usual = []
    for record in records:
        kinds = Counter(claim.kind for claim in _claims(record))
        usual.append(tuple(claim for kind, num in kinds.items() for claim in ranked[record.modality, record.question_type, kind][:num]))
    return usual


def _draw_other_facts(records: Sequence[Record], seed: int) -> list[Facts | None]:
    """For each record the facts of another subject's image of the same modality; None where there is no other subject.

    The subjects of a modality are shuffled, and each takes those of the next one, so that none keeps its own.
    """
    subjects = cluster(records, UNIT)
    known: defaultdict[str | None, defaultdict[int, list[Facts]]] = defaultdict(lambda: defaultdict(list))
    for record, subject in zip(records, subjects, strict=True):
        if record.facts is not None:
            known[record.modality][subject].append(record.facts)
    donors: dict[tuple[str | None, int], list[Facts]] = {}
    for modality, facts_of in known.items():
        order = list(facts_of)
        random.Random(f"{seed}/{modality}").shuffle(order)
        if len(order) > 1:
            donors |= {(modality, one): facts_of[other] for one, other in zip(order, [*order[1:], order[0]], strict=True)}
    drawn = []
    for record, subject in zip(records, subjects, strict=True):
        given = donors.get((record.modality, subject))
        drawn.append(None if given is None else random.Random(f"{seed}/{record.sample_id}").choice(given))
    return drawn


def _check_all(claims: Sequence[Statement], facts: Facts | None) -> tuple[Statement, ...]:
    return tuple(replace(claim, truth=check(claim, facts)) for claim in claims) if facts is not None else ()
