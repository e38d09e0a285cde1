"""Does the answer rest on the reasoning? The reasoning of graded completions, cut, shuffled or replaced, for the policy to answer from.

The policy is given its own completion up to the answer with another text inside <think>, and writes the answer alone. An answer that stays
the same whatever the reasoning says did not come from it (Lanham et al. 2023, "Measuring faithfulness in chain-of-thought reasoning").
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from osler.audits import fold_option
from osler.evaluation.ablations import draw_fitting
from osler.types import LETTERS, Record

_THOUGHT: Final = re.compile(r"(\s*<think>\s*)(.*?)(\s*</think>\s*<answer>).*", re.DOTALL)
_SENTENCE_END: Final = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])|\n+")


class Intervention(StrEnum):
    """What is done to the reasoning."""

    CUT = "cut"  # its first half, in words
    SHUFFLED = "shuffled"  # its sentences in another order; the words of reasoning that is one sentence
    REPLACED = "replaced"  # another sample's, of the same modality and question type and with another answer where there is one


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervened:
    """How completions begin under an intervention, by sample id; those that it cannot be done to are left out and counted."""

    prefixes: Mapping[str, str]  # {"phantom/..": "<think>A bright</think><answer>"}
    left_out: Mapping[str, int]  # {"no answer behind reasoning": 3}


def intervene(records: Sequence[Record], intervention: Intervention, *, seed: int = 0) -> Intervened:
    """The beginnings of completions with changed reasoning; what is drawn for one follows from the seed, its sample and the records."""
    left_out: Counter[str] = Counter()
    prefixes = {}
    thoughts = {record.sample_id: thought for record in records if (thought := _take_apart(record)) is not None}
    groups = _group_donors([record for record in records if record.sample_id in thoughts])
    for record in records:
        if (thought := thoughts.get(record.sample_id)) is None:
            left_out["no answer behind reasoning"] += 1
            continue
        before, reasoning, behind = thought
        rng = random.Random(f"{seed}/{intervention}/{record.sample_id}")
        if intervention is Intervention.REPLACED:
            donor = _draw_donor(record, groups, rng)
            changed = None if donor is None else thoughts[donor.sample_id][1]
        else:
            changed = cut(reasoning) if intervention is Intervention.CUT else shuffle(reasoning, rng)
        if changed is None:
            left_out["nothing to change"] += 1
        else:
            prefixes[record.sample_id] = f"{before}{changed}{behind}"
    return Intervened(prefixes=prefixes, left_out=dict(left_out))


def _take_apart(record: Record) -> tuple[str, str, str] | None:
    """("<think>", reasoning, "</think><answer>") of a completion that reasoned and then answered, else None."""
    if record.answer is None or (found := _THOUGHT.fullmatch(record.completion)) is None:
        return None
    before, reasoning, behind = found[1], found[2], found[3]
    # A chat token that a policy spelled out would be obeyed when it is read back.
    is_safe = not ("<|" in reasoning and "|>" in reasoning) and not any(tag in reasoning for tag in ("<think>", "<answer>"))
    return (before, reasoning, behind) if reasoning and is_safe else None


def cut(reasoning: str) -> str | None:
    """The first half of its words, or of the characters of a text without blanks; None for a text too short to halve."""
    words = list(re.finditer(r"\S+", reasoning))
    if len(words) > 1:
        return reasoning[: words[len(words) // 2 - 1].end()]
    return reasoning[: len(reasoning) // 2] if len(reasoning) > 1 else None


def shuffle(reasoning: str, rng: random.Random) -> str | None:
    """Its sentences in another order, or its words where it is one sentence; None where every order reads the same."""
    units = [unit for unit in _SENTENCE_END.split(reasoning) if unit.strip()]
    if len(units) < 2:
        units = reasoning.split()
    if len(set(units)) < 2:
        return None
    order = list(units)
    while order == units:
        rng.shuffle(order)
    return " ".join(order)


_Groups = Mapping[tuple[str | None, ...], Sequence[Record]]


def _group_donors(records: Sequence[Record]) -> _Groups:
    """Records by modality and question type, by question type, and all of them."""
    groups: defaultdict[tuple[str | None, ...], list[Record]] = defaultdict(list)
    for record in records:
        for key in _keys(record):
            groups[key].append(record)
    return groups


def _keys(record: Record) -> tuple[tuple[str | None, ...], ...]:
    return (record.modality, record.question_type), (record.question_type,), ()


def _draw_donor(record: Record, groups: _Groups, rng: random.Random) -> Record | None:
    """A record whose reasoning came to another answer about other images."""
    own_answer, own_images = _answer_text(record), set(record.image_uris)

    def fits(donor: Record) -> bool:
        return _answer_text(donor) != own_answer and own_images.isdisjoint(donor.image_uris)

    found = (draw_fitting(groups.get(key, ()), fits, rng) for key in _keys(record))
    return next((donor for donor in found if donor is not None), None)


def _answer_text(record: Record) -> str:
    """The text behind the answer, folded; letters say nothing across questions."""
    place = LETTERS.find(record.answer) if record.answer and len(record.answer) == 1 else -1
    return fold_option(record.choices[place] if 0 <= place < len(record.choices) else record.answer or "")
