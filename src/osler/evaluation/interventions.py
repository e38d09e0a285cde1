"""Reasoning interventions: completions whose reasoning is cut, shuffled or replaced, and from which the policy then writes the answer.

The policy continues its own completion, with a changed text inside <think>, from the <answer> tag on. An answer that does not depend on the
text did not come from the reasoning (Lanham et al. 2023, "Measuring faithfulness in chain-of-thought reasoning").
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from osler.data.donors import draw_fitting
from osler.evaluation.records import answer_text_of
from osler.grading.altered_reasoning import split_completion, split_sentences
from osler.text import fold_option
from osler.types import Record

_Groups = defaultdict[tuple[str | None, ...], list[Record]]


class Intervention(StrEnum):
    """How the reasoning is changed."""

    CUT = "cut"  # to the first half of its words
    SHUFFLED = "shuffled"  # sentences in another order, or words where there is one sentence
    REPLACED = "replaced"  # by that of a sample with another answer, of the same modality and question type if possible


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervened:
    """The beginnings of completions under an intervention. Records that it cannot be applied to are left out and counted."""

    prefixes: Mapping[str, str]  # by sample id: {"phantom/..": "<think>A bright</think><answer>"}
    left_out: Mapping[str, int]  # {"no answer behind reasoning": 3}


def intervene(records: Sequence[Record], intervention: Intervention, *, seed: int = 0) -> Intervened:
    """The beginnings of completions with changed reasoning. Random draws for a record depend on the seed, its sample id and the records."""
    left_out: Counter[str] = Counter()
    prefixes = {}
    answered = [record for record in records if record.answer is not None]
    parts = {record.sample_id: split for record in answered if (split := split_completion(record.completion)) is not None}
    groups: _Groups = defaultdict(list)
    for record in records:
        for key in _keys(record) if record.sample_id in parts else ():
            groups[key].append(record)
    for record in records:
        if record.sample_id not in parts:
            left_out["no answer behind reasoning"] += 1
            continue
        own = parts[record.sample_id]
        rng = random.Random(f"{seed}/{intervention}/{record.sample_id}")
        if intervention is Intervention.REPLACED:
            donor = _draw_donor(record, groups, rng)
            changed = None if donor is None else parts[donor.sample_id].reasoning
        else:
            changed = cut(own.reasoning) if intervention is Intervention.CUT else shuffle(own.reasoning, rng)
        if changed is None:
            left_out["nothing to change"] += 1
        else:
            prefixes[record.sample_id] = own.with_reasoning(changed)
    return Intervened(prefixes=prefixes, left_out=dict(left_out))


def cut(reasoning: str) -> str | None:
    """The first half of the words, or of the characters of a text without spaces; None for a text that is too short."""
    words = list(re.finditer(r"\S+", reasoning))
    if len(words) > 1:
        return reasoning[: words[len(words) // 2 - 1].end()]
    return reasoning[: len(reasoning) // 2] if len(reasoning) > 1 else None


def shuffle(reasoning: str, rng: random.Random) -> str | None:
    """The sentences in another order, or the words of a single sentence; None where every order gives the same text."""
    units = split_sentences(reasoning)
    if len(units) < 2:
        units = reasoning.split()
    if len(set(units)) < 2:
        return None
    order = list(units)
    while order == units:
        rng.shuffle(order)
    return " ".join(order)


def _keys(record: Record) -> tuple[tuple[str | None, ...], ...]:
    """The groups that may give a record other reasoning, the best first: same modality and question type, same type, all records."""
    return (record.modality, record.question_type), (record.question_type,), ()


def _draw_donor(record: Record, groups: _Groups, rng: random.Random) -> Record | None:
    """A record with another answer about other images."""
    answer, images = _folded_answer(record), set(record.image_uris)

    def fits(donor: Record) -> bool:
        return _folded_answer(donor) != answer and images.isdisjoint(donor.image_uris)

    draws = (draw_fitting(groups.get(key, ()), fits, rng) for key in _keys(record))
    return next((donor for donor in draws if donor is not None), None)


def _folded_answer(record: Record) -> str:
    # The text of the choice, because letters cannot be compared between questions; an out-of-range letter has no text.
    return fold_option(answer_text_of(record) or record.answer or "")
