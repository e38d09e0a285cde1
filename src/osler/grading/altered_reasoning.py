"""Completions with altered reasoning up to their <answer>, behind which a policy is asked again.

Two alterations: the reasoning of another question in place of its own, so that an answer that follows from the reasoning changes, and the
same statements in other words and another order, so that it stays.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from osler.grading.grade import grade
from osler.prompts import Format, find_strategy
from osler.text import fold_option
from osler.types import LETTERS

_REASONED: Final = re.compile(r"(\s*<think>\s*)(.*?)(\s*</think>\s*<answer>).*", re.DOTALL)
_SENTENCE_END: Final = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])|\n+")
_FRAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "The image shows ": "I see ",
        "The image also shows ": "I also see ",
        "I see ": "The image shows ",
        "I also see ": "The image also shows ",
        "There is ": "The image shows ",
        "There are ": "The image shows ",
    }
)
"""Beginnings of sentences, and others that say the same."""
_LEAD: Final = "In this image: "
"""Stands before a reasoning that nothing else rewords."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoned:
    """A completion that reasons and then answers, in parts."""

    before: str  # "<think>"
    reasoning: str
    after: str  # "</think><answer>"

    def with_reasoning(self, reasoning: str) -> str:
        """The completion up to <answer>, with this reasoning in place of its own."""
        return f"{self.before}{reasoning}{self.after}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Altered:
    """The beginnings of a completion, up to <answer>, with altered reasoning: "<think>I see a ring.</think><answer>"."""

    replaced: str | None  # None without a question whose reasoning could take its place
    reworded: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AlteredAnswers:
    """The letters that the policy answers behind altered reasoning; None where it was not asked."""

    replaced: str | None
    reworded: str | None


def split_completion(text: str) -> Reasoned | None:
    """The parts of a completion that reasons and then answers, else None."""
    if (match := _REASONED.fullmatch(text)) is None:
        return None
    before, reasoning, after = match.groups()
    # Chat tokens that a policy spelled out would be tokenized as real chat tokens in the prefix.
    is_safe = not ("<|" in reasoning and "|>" in reasoning) and not any(tag in reasoning for tag in ("<think>", "<answer>"))
    return Reasoned(before=before, reasoning=reasoning, after=after) if reasoning and is_safe else None


def split_sentences(reasoning: str) -> list[str]:
    """The sentences of a text, clauses before a semicolon included."""
    return [sentence for sentence in _SENTENCE_END.split(reasoning) if sentence.strip()]


def drop_conclusion(reasoning: str, answer: str) -> str | None:
    """The sentences that do not contain the text of the answer; None if there are none."""
    return " ".join(sentence for sentence in split_sentences(reasoning) if not _repeats(sentence, answer)) or None


def reword(reasoning: str, answer: str, rng: random.Random) -> str:
    """The same statements: findings in another order and with other frames, then the sentences that contain the answer."""
    sentences = split_sentences(reasoning)
    findings = [_reframe(sentence) for sentence in sentences if not _repeats(sentence, answer)]
    rng.shuffle(findings)
    reworded = " ".join([*findings, *(sentence for sentence in sentences if _repeats(sentence, answer))])
    return reworded if reworded != reasoning else _LEAD + reasoning


def _reframe(sentence: str) -> str:
    frame = next((frame for frame in _FRAMES if sentence.startswith(frame)), None)
    return sentence if frame is None else _FRAMES[frame] + sentence.removeprefix(frame)


def _repeats(sentence: str, answer: str) -> bool:
    return f" {fold_option(answer)} " in f" {fold_option(sentence)} "


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """A well-formed completion that reasons before it answers with one of its options."""

    sample_id: str
    parts: Reasoned
    options: frozenset[str]  # folded
    answer: str  # its text, folded
    evidence: str | None  # the reasoning without its conclusion


def alter(
    texts: Sequence[str],
    *,
    choices: Sequence[Sequence[str]],
    target: Sequence[str],
    strategy: Sequence[str],
    sample_id: Sequence[str],
    question_type: Sequence[str | None],
    seed: str,
) -> list[Altered | None]:
    """The altered beginnings of the completions of one step; None for those that do not reason and then answer in the strict format.

    The other reasoning is drawn from completions of other questions of the same strategy and question type that answer something else,
    if possible one of this question's options. Otherwise its conclusion is dropped, because it would not be an answer here; a question
    without a type then has no other reasoning. Draws depend on the seed, the row and the completions.
    """
    rows = zip(texts, choices, target, strategy, sample_id, strict=True)
    answered = [_read(text, options, gold, name, sample) for text, options, gold, name, sample in rows]
    donors: defaultdict[tuple[str, str | None], list[_Answered]] = defaultdict(list)
    keys = list(zip(strategy, question_type, strict=True))
    for key, own in zip(keys, answered, strict=True):
        if own is not None:
            donors[key].append(own)
    altered: list[Altered | None] = []
    for row, (key, own) in enumerate(zip(keys, answered, strict=True)):
        if own is None:
            altered.append(None)
            continue
        rng = random.Random(f"{seed}/{row}")
        other = _draw_reasoning(own, donors[key], rng, may_drop=key[1] is not None)
        reworded = own.parts.with_reasoning(reword(own.parts.reasoning, own.answer, rng))
        altered.append(Altered(replaced=None if other is None else own.parts.with_reasoning(other), reworded=reworded))
    return altered


def _read(text: str, choices: Sequence[str], target: str, strategy: str, sample_id: str) -> _Answered | None:
    if find_strategy(strategy).format is not Format.THINK_ANSWER or (parts := split_completion(text)) is None:
        return None
    verdict = grade(text, choices=choices, target=target, strategy=strategy, is_lenient=False)
    if not verdict.is_well_formed or verdict.answer is None or verdict.answer not in LETTERS[: len(choices)]:
        return None
    options = [fold_option(choice) for choice in choices]
    answer = options[LETTERS.index(verdict.answer)]
    evidence = drop_conclusion(parts.reasoning, answer)
    return _Answered(sample_id=sample_id, parts=parts, options=frozenset(options), answer=answer, evidence=evidence)


def _draw_reasoning(own: _Answered, donors: Sequence[_Answered], rng: random.Random, *, may_drop: bool) -> str | None:
    others = [donor for donor in donors if donor.sample_id != own.sample_id and donor.answer != own.answer]
    if among := [donor for donor in others if donor.answer in own.options]:
        return rng.choice(among).parts.reasoning
    evidence = [donor.evidence for donor in others if donor.evidence is not None]
    return rng.choice(evidence) if may_drop and evidence else None
