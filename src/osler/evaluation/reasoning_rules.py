"""Rules that compare the reasoning with the answer: does the reasoning state another modality, side or option?

A rule applies only where the reasoning states exactly one modality, side or option and does not negate it: "not on the left", "unlike CT",
"if this were MRI" and "left or right" state nothing. Agreement is a share of the completions to which a rule applies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from osler.evaluation.records import answer_text_of, question_of
from osler.grading.choice import read_choice
from osler.grading.option_index import index_options
from osler.grading.stance import Stance, read_stance
from osler.grading.terms import MODALITY_WORDS, NOT_A_SIDE, Phrase, Vocabulary, phrases
from osler.metrics import Proportion
from osler.metrics.clusters import clustered_proportion
from osler.text import Words, split_words
from osler.types import LETTERS, Record

NUM_EXAMPLES: Final = 5
"""Sample ids that a summary lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one rule for one record."""

    rule: str  # "side"
    stated: str  # "left"
    expected: str  # "right"

    @property
    def agrees(self) -> bool:
        """Whether the reasoning states what the answer or the sample states."""
        return self.stated == self.expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One comparison: `stated` reads the reasoning, `expected` the sample or the answer. Either is None where the rule does not apply."""

    name: str
    stated: Callable[[Record], str | None]
    expected: Callable[[Record], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSummary:
    """The agreement of one rule over many records."""

    rule: str
    num_reasonings: int  # records with reasoning
    agreement: Proportion  # over the records to which the rule applies
    contradictions: tuple[str, ...]  # sample ids of the first contradictions


def check_reasoning(record: Record) -> tuple[Finding, ...]:
    """The findings of all rules that apply to one record, in the order of RULES; () without reasoning."""
    findings = []
    for rule in RULES if record.reasoning else ():
        expected = rule.expected(record)
        stated = rule.stated(record) if expected is not None else None
        if expected is not None and stated is not None:
            findings.append(Finding(rule=rule.name, stated=stated, expected=expected))
    return tuple(findings)


def summarize_reasoning(records: Iterable[Record]) -> tuple[RuleSummary, ...]:
    """The agreement of every rule over the records with reasoning, in the order of RULES."""
    reasoned = [record for record in records if record.reasoning]
    pairs: dict[str, list[tuple[Record, Finding]]] = {rule.name: [] for rule in RULES}
    for record in reasoned:
        for finding in check_reasoning(record):
            pairs[finding.rule].append((record, finding))
    return tuple(
        RuleSummary(
            rule=rule,
            num_reasonings=len(reasoned),
            agreement=clustered_proportion([record for record, _ in checked], [finding.agrees for _, finding in checked], "subject"),
            contradictions=tuple(record.sample_id for record, finding in checked if not finding.agrees)[:NUM_EXAMPLES],
        )
        for rule, checked in pairs.items()
    )


SIDE_WORDS: Final[Vocabulary] = MappingProxyType({"left": phrases("left"), "right": phrases("right")})

# "left of the image" is the right side of the patient in many views
_NOT_A_PATIENT_SIDE: Final = NOT_A_SIDE | phrases(
    *(f"{before}of the {shown}" for before in ("", "side ", "half ") for shown in ("image", "picture", "film", "screen", "frame", "scan"))
)


def _match_length(words: Words, position: int, phrases: Collection[Phrase]) -> int:
    """The length in words of the longest phrase that begins at a position; 0 for none."""
    return max((len(phrase) for phrase in phrases if tuple(words.folded[position : position + len(phrase)]) == phrase), default=0)


def _is_stated(words: Words, begin: int, end: int, *, through_prepositions: bool) -> bool:
    return read_stance(words.folded, begin, end, through_prepositions=through_prepositions) is Stance.AFFIRMED


def _stated_names(
    text: str, vocabulary: Vocabulary, *, not_before: Collection[Phrase] = (), through_prepositions: bool = False
) -> frozenset[str]:
    """The names of a vocabulary that a text states, except terms that a phrase of `not_before` follows."""
    words = split_words(text)
    stated = set()
    for position in range(len(words.folded)):
        for name, names in vocabulary.items():
            length = _match_length(words, position, names)
            if not length or _match_length(words, position + length, not_before):
                continue
            if _is_stated(words, position, position + length, through_prepositions=through_prepositions):
                stated.add(name)
    return frozenset(stated)


def _single(names: Collection[str]) -> str | None:
    return next(iter(names)) if len(names) == 1 else None


@lru_cache(maxsize=4096)
def _sides(text: str) -> frozenset[str]:
    return _stated_names(text, SIDE_WORDS, not_before=_NOT_A_PATIENT_SIDE, through_prepositions=True)


def _expected_side(record: Record) -> str | None:
    """The side that the answer names, or the question where the answer names none."""
    answer = answer_text_of(record)
    return None if answer is None else _single(_sides(answer) or _sides(question_of(record)))


def _concluded_option(record: Record) -> str | None:
    """The letter of the option that the reasoning concludes: as the grader reads it, else the only option stated last."""
    options = index_options(record.choices)
    reading = read_choice(record.reasoning or "", options)
    if reading.option is not None and reading.option < len(record.choices):
        return LETTERS[reading.option]
    if reading.kind in {"several", "disagreement", "duplicate_text"}:
        return None
    words = split_words(record.reasoning or "")
    last: set[int] = set()
    has_ended, position = True, 0
    while position < len(words.folded):
        if words.folded[position] in {".", "!", "?", ";", "\n"}:
            has_ended = True
        if (match := options.match(words.folded, position)) is None or words.is_joined[match[1] - 1]:
            position += 1
            continue
        names, end = match
        has_letters = any(word.isalpha() for word in words.folded[position:end])
        if has_letters and len(names) == 1 and _is_stated(words, position, end, through_prepositions=True):
            last = (set() if has_ended else last) | names
            has_ended = False
        position = end
    return LETTERS[next(iter(last))] if len(last) == 1 else None


RULES: Final = (
    Rule(  # the modality that the reasoning names and that of the sample
        name="modality",
        stated=lambda record: _single(_stated_names(record.reasoning or "", MODALITY_WORDS)),
        expected=lambda record: record.modality,
    ),
    Rule(  # the side in the reasoning and in the answer, or in the question where the answer has none
        name="side",
        stated=lambda record: _single(_sides(record.reasoning or "")),
        expected=_expected_side,
    ),
    Rule(  # the option that the reasoning concludes and the one that is answered
        name="option",
        stated=_concluded_option,
        expected=lambda record: record.answer if record.choices and answer_text_of(record) is not None else None,
    ),
)
"""All rules, in the order of reports."""
