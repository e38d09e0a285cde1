"""Compares answers to altered questions with the plain answers: which alteration a record belongs to, and what it changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from osler.evaluation.ablations import Ablation
from osler.evaluation.context_changes import ContextChange
from osler.evaluation.interventions import Intervention
from osler.evaluation.reasoning_rules import summarize_reasoning
from osler.metrics import PairedDifference, Proportion, Unit, accuracy, paired_difference
from osler.metrics.clusters import clustered_proportion
from osler.types import Record

CIRCULAR: Final = "circular"
REASONING: Final = "reasoning_"
UNIT: Final[Unit] = "subject"
"""What intervals take as independent: questions that share no image and no patient or case."""

TITLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        Ablation.BLANK.value: "Blank",
        Ablation.NOISE.value: "Noise",
        Ablation.SWAP_WITHIN.value: "Swapped, same modality",
        Ablation.SWAP_ACROSS.value: "Swapped, other modality",
        Ablation.QUESTION_ONLY.value: "No image",
        ContextChange.NONE.value: "No context",
        ContextChange.SHUFFLED.value: "Context of another patient",
        ContextChange.CONTRADICTORY.value: "Contradictory context",
        CIRCULAR: "Rotated options",
        f"{REASONING}{Intervention.CUT}": "Cut",
        f"{REASONING}{Intervention.SHUFFLED}": "Shuffled",
        f"{REASONING}{Intervention.REPLACED}": "Replaced",
    }
)
"""Name of each alteration -> its title in reports, in the order of rows. Its records are in LABEL.<name>.jsonl."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alteration:
    """What an alteration changed; `change` and `same_answer` are None without plain answers."""

    name: str  # "blank", "reasoning_cut"
    num_questions: int
    accuracy: Proportion
    change: PairedDifference | None  # altered minus plain accuracy, on the questions that both answer
    same_answer: Proportion | None  # share of the plain answers that the alteration did not change
    follows: Proportion | None = None  # where changed reasoning states an option: share of answers that give it


def alteration_of(record: Record) -> str | None:
    """The alteration of a record's question: "blank", "circular" for every rotation of the options; None for an unaltered question."""
    return CIRCULAR if record.ablation is None and record.rotation is not None else record.ablation


def compare(name: str, plain: Sequence[Record], altered: Sequence[Record]) -> Alteration:
    """Compare altered with plain records of the same questions. Raises DataError when either holds a question twice."""
    before = {record.sample_id: record.answer for record in plain if record.answer is not None}
    shared = [record for record in altered if record.sample_id in before]
    is_same = [record.answer == before[record.sample_id] for record in shared]
    rules = summarize_reasoning(altered) if name.startswith(REASONING) else ()
    return Alteration(
        name=name,
        num_questions=len(altered),
        accuracy=accuracy(altered, UNIT),
        change=paired_difference(plain, altered, UNIT) if plain else None,
        same_answer=clustered_proportion(shared, is_same, UNIT) if plain else None,
        follows=next((rule.agreement for rule in rules if rule.rule == "option"), None),
    )
