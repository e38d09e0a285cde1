"""Whether a statement bears on the question, and what true words beside the point are worth."""

from __future__ import annotations

from dataclasses import replace

import pytest

from osler.data.phantom import build_samples
from osler.evaluation.records import record_from_json, record_to_json
from osler.evaluation.votes import grade_completion
from osler.facts import Kind
from osler.grading import judge, resolve_rewards
from osler.grading.relevance import RELEVANT_KINDS, bears_on
from osler.metrics.truth import is_to_the_point, state_of, summarize_truth
from osler.prompts import render, target_completion
from osler.taxonomy import Modality, QuestionType
from osler.types import Completion, FinishReason, Record, Sample

SAMPLES = [sample for modality in Modality for sample in build_samples(modality=modality, split="test", seed=5, num_questions=40)]
DISEASE, ANATOMY = QuestionType.DISEASE_DIAGNOSIS, QuestionType.ANATOMY_IDENTIFICATION


def sign_of(sample: Sample, kind: Kind) -> str:
    """The sign of a kind that the image of a sample shows."""
    assert sample.facts is not None
    shown = {fact.value for fact in sample.facts.facts if fact.kind is Kind.SIGN}
    return next(term.phrase for term in sample.terms if term.sign_of is kind and term.phrase in shown)


ROWS = [
    (DISEASE, Kind.PRESENCE, frozenset(), True),
    (DISEASE, Kind.ANATOMY, frozenset(), False),
    (DISEASE, Kind.SIGN, frozenset({Kind.PRESENCE}), True),
    (DISEASE, Kind.SIGN, frozenset({Kind.ANATOMY}), False),
    (DISEASE, Kind.SIGN, frozenset({Kind.ANATOMY, Kind.PRESENCE}), True),
    (DISEASE, Kind.SIGN, frozenset(), True),  # nobody knows what it is a sign of
    (ANATOMY, Kind.SIDE, frozenset(), True),
    (QuestionType.LESION_GRADING, Kind.SIZE, frozenset(), True),
    (QuestionType.LESION_GRADING, Kind.SLICES, frozenset(), True),
    (QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES, Kind.LEVEL, frozenset(), True),
    (QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES, Kind.SIGN, frozenset({Kind.MOTION}), True),
    (DISEASE, Kind.SLICES, frozenset(), False),
    (QuestionType.MODALITY_RECOGNITION, Kind.PRESENCE, frozenset(), False),
    (None, Kind.COLOUR, frozenset(), True),
]


@pytest.mark.parametrize(("question_type", "kind", "meanings", "expected"), ROWS)
def test_a_statement_bears_on_a_question(question_type: QuestionType | None, kind: Kind, meanings: frozenset[Kind], expected: bool) -> None:
    assert bears_on(question_type, kind, meanings) is expected


def test_every_question_type_has_its_kinds() -> None:
    assert set(RELEVANT_KINDS) == set(QuestionType)


def record(sample: Sample, text: str) -> Record:
    completion = Completion(text=text, token_ids=(1,), finish_reason=FinishReason.STOP)
    return grade_completion(render(sample, "think"), completion, "toy")


def test_reference_findings_are_true_and_mostly_to_the_point() -> None:
    """A lesion's colour is the answer itself, so its disease speaks for it; all other deciding findings are of their question."""
    records = [record(sample, target_completion(sample, "think")) for sample in SAMPLES]
    assert {state_of(made.statements or ()) for made in records} == {"true"}
    assert all(is_to_the_point(made.statements or ()) for made in records)
    assert summarize_truth(records).relevant_reasonings.value == 1.0


@pytest.mark.parametrize("kind", [Kind.TECHNIQUE, Kind.ANATOMY])
def test_true_words_beside_the_point_are_true_and_pay_as_little_as_silence(kind: Kind) -> None:
    samples = [sample for sample in SAMPLES if sample.question_type is DISEASE]
    [reward] = resolve_rewards(["statements"])
    texts = {
        name: [f"<think>The image shows {sign_of(sample, name)}.</think><answer>{sample.target}</answer>" for sample in samples]
        for name in (kind, Kind.PRESENCE)
    }
    columns = {
        "choices": [sample.choices for sample in samples],
        "target": [sample.target for sample in samples],
        "strategy": ["think"] * len(samples),
        "sample_id": [sample.id for sample in samples],
        "facts": [sample.facts for sample in samples],
        "terms": [sample.terms for sample in samples],
        "question_type": [sample.question_type for sample in samples],
    }
    assert reward(None, texts[kind], **columns) == [-0.5] * len(samples)
    assert min(reward(None, texts[Kind.PRESENCE], **columns)) > 0.3
    records = [record(sample, text) for sample, text in zip(samples, texts[kind], strict=True)]
    truth = summarize_truth(records)
    assert (truth.true_reasonings.value, truth.relevant_reasonings.value) == (1.0, 0.0)
    assert record_from_json(record_to_json(records[0])) == records[0]


def test_without_a_question_type_everything_counts() -> None:
    sample = next(sample for sample in SAMPLES if sample.question_type is DISEASE)
    assert sample.facts is not None
    text = f"The image shows {sign_of(sample, Kind.ANATOMY)}."
    known = judge(text, facts=sample.facts, terms=sample.terms, question_type=DISEASE)
    free = judge(text, facts=sample.facts, terms=sample.terms)
    assert [part.is_relevant for part in known] == [False]
    assert free == tuple(replace(part, is_relevant=True) for part in known)
