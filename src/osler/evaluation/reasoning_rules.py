"""Rules that compare the reasoning with the answer: does the reasoning state another modality, side or option?

A rule applies only where the reasoning states exactly one modality, side or option and does not negate it: "not on the left", "unlike CT",
"if this were MRI" and "left or right" state nothing. Agreement is a share of the completions to which a rule applies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from types import MappingProxyType
from typing import Final

from osler.evaluation.records import answer_text_of, question_of
from osler.grading.choice import read_choice
from osler.grading.option_index import index_options
from osler.metrics import Proportion
from osler.metrics.clusters import clustered_proportion
from osler.taxonomy import Modality
from osler.text import Words, split_words
from osler.types import LETTERS, Record

NUM_EXAMPLES: Final = 5
"""Sample ids that a summary lists."""

Phrase = tuple[str, ...]
Vocabulary = Mapping[str, frozenset[Phrase]]


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


# Words around a term that keep it from being a statement.
_CLAUSE_ENDS: Final = frozenset({".", ",", ";", ":", "!", "?", "\n", "but", "although", "though", "while", "whereas", "because", "so"})
_NEGATIONS: Final = frozenset(
    {"not", "no", "never", "neither", "nor", "without", "except", "cannot", "unlike", "than", "versus", "vs", "instead"}
)
_CONDITIONALS: Final = frozenset({"if", "whether", "unless", "or", "either", "could", "might", "may", "would", "possibly", "perhaps"})
_COPULAS: Final = frozenset({"is", "are", "was", "were", "seems", "can", "be", "has", "been"})
_REJECTIONS: Final = frozenset(
    {"not", "unlikely", "excluded", "ruled", "absent", "wrong", "incorrect", "impossible", "improbable", "false"}
)
_PREPOSITIONS: Final = frozenset({"on", "in", "by", "with", "at", "from"})
_NEGATION_SCOPE: Final = 6
"""How many words before a term a negation may stand."""


def _phrases(*texts: str) -> frozenset[Phrase]:
    return frozenset(tuple(text.split()) for text in texts)


MODALITY_WORDS: Final[Vocabulary] = MappingProxyType(
    {
        Modality.CT.value: _phrases("ct", "computed tomography", "cat scan"),
        Modality.MRI.value: _phrases("mri", "mr", "magnetic resonance", "t1 weighted", "t2 weighted", "flair"),
        Modality.XRAY.value: _phrases("x ray", "x rays", "xray", "radiograph", "radiographs", "radiography", "roentgenogram"),
        Modality.ULTRASOUND.value: _phrases("ultrasound", "ultrasonography", "sonogram", "sonography", "echocardiogram"),
        Modality.DERMOSCOPY.value: _phrases("dermoscopy", "dermoscopic", "dermatoscopy", "dermatoscopic"),
        Modality.FUNDUS.value: _phrases(
            "fundus photograph", "fundus photography", "fundus image", "colour fundus", "color fundus", "fundoscopy"
        ),
        Modality.OCT.value: _phrases("oct", "optical coherence tomography"),
        Modality.MICROSCOPY.value: _phrases("microscopy", "micrograph", "microscopic", "microscope", "histology slide", "histopathology"),
    }
)
SIDE_WORDS: Final[Vocabulary] = MappingProxyType({"left": _phrases("left"), "right": _phrases("right")})

# "the right answer", "left untreated", and "left of the image", which is the right side of the patient in many views
_NOT_A_SIDE: Final = _phrases(
    "answer", "option", "choice", "one", "diagnosis", "letter", "angle", "away", "out", "over", "untreated", "behind"
) | _phrases(
    *(f"{before}of the {shown}" for before in ("", "side ", "half ") for shown in ("image", "picture", "film", "screen", "frame", "scan"))
)


def _match_length(words: Words, position: int, phrases: Collection[Phrase]) -> int:
    """The length in words of the longest phrase that begins at a position; 0 for none."""
    return max((len(phrase) for phrase in phrases if tuple(words.folded[position : position + len(phrase)]) == phrase), default=0)


def _is_stated(words: Words, begin: int, end: int, *, through_prepositions: bool) -> bool:
    """Whether the term at words[begin:end] is neither negated nor conditional in its clause.

    "No shift on CT" states CT, because the negation stands before the preposition; "no shift on the left" states no side.
    """
    for word in reversed(words.folded[max(0, begin - _NEGATION_SCOPE) : begin]):
        if word in _CLAUSE_ENDS or (word in _PREPOSITIONS and not through_prepositions):
            break
        if word in _NEGATIONS or word in _CONDITIONALS:
            return False
    after = words.folded[end : end + 5]
    if after[:1] == ["or"]:
        return False
    rest_of_clause = takewhile(lambda word: word not in _CLAUSE_ENDS, after)
    return not (after and after[0] in _COPULAS and not _REJECTIONS.isdisjoint(rest_of_clause))


def _stated_names(
    text: str, vocabulary: Vocabulary, *, not_before: Collection[Phrase] = (), through_prepositions: bool = False
) -> frozenset[str]:
    """The names of a vocabulary that a text states, except terms that a phrase of `not_before` follows."""
    words = split_words(text)
    stated = set()
    for position in range(len(words.folded)):
        for name, phrases in vocabulary.items():
            length = _match_length(words, position, phrases)
            if not length or _match_length(words, position + length, not_before):
                continue
            if _is_stated(words, position, position + length, through_prepositions=through_prepositions):
                stated.add(name)
    return frozenset(stated)


def _single(names: Collection[str]) -> str | None:
    return next(iter(names)) if len(names) == 1 else None


@lru_cache(maxsize=4096)
def _sides(text: str) -> frozenset[str]:
    return _stated_names(text, SIDE_WORDS, not_before=_NOT_A_SIDE, through_prepositions=True)


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
