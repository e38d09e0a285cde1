"""The facts of datasets with answer options: the modality, and what the right answers to other questions about the same image state."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from osler.data.facts.names import anatomy_facts, finding_facts, finding_of, organ_of
from osler.data.facts.questions import read_facts
from osler.data.facts.table import FactTable
from osler.facts import Fact, Facts, Kind
from osler.taxonomy import Modality, QuestionType
from osler.types import Sample

_TISSUE: Final = re.compile(r"\s+(?:tissue|joint)$", re.IGNORECASE)


def add_facts(samples: Sequence[Sample], notes: Counter[str]) -> tuple[Sample, ...]:
    """The samples with facts. Most images have one question, whose own answer is no fact about it, so they have only their modality."""
    num_questions = Counter(sample.images for sample in samples)
    table = FactTable(notes)
    for sample in samples:
        if num_questions[sample.images] > 1:
            if known := _modality_facts(sample.modality):
                table.add(_key(sample), known.facts)
            table.add(_key(sample), _answer_facts(sample), sample.id)
    return tuple(
        replace(
            sample,
            facts=table.facts_of(_key(sample), sample.id) if num_questions[sample.images] > 1 else _modality_facts(sample.modality),
        )
        for sample in samples
    )


def _key(sample: Sample) -> str:
    return "\n".join(image.uri for image in sample.images)


@lru_cache
def _modality_facts(modality: Modality | None) -> Facts | None:
    """Only the modality, the same object for all images; None without one."""
    if modality is None:
        return None
    return Facts(facts=(Fact(kind=Kind.MODALITY, value=modality.value),), closed=(Kind.MODALITY,))


def _answer_facts(sample: Sample) -> Iterator[Fact]:
    answer = sample.target_text
    if sample.question_type is QuestionType.ANATOMY_IDENTIFICATION and (organ := organ_of(_TISSUE.sub("", answer))):
        yield from anatomy_facts(organ)
    elif sample.question_type is QuestionType.DISEASE_DIAGNOSIS and (finding := finding_of(answer)):
        yield from finding_facts(finding)
    yield from read_facts(sample.question, answer)
