"""Does the reasoning say what the answer says? Rules that read a modality, a side or an option which answer or sample then contradict.

A rule says nothing unless the reasoning states exactly one thing of its kind without denying it: "not on the left", "unlike CT", "if this
were MRI" and "left or right" state nothing. So a contradiction is one that a reader would see too, and the share of agreement is one of
the completions that a rule can read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from osler.grading.choice import read_choice
from osler.grading.words import Words, index_options, split_words
from osler.metrics import Proportion, Unit
from osler.metrics.clusters import clustered_proportion
from osler.taxonomy import Modality
from osler.types import LETTERS, Record

NUM_EXAMPLES: Final = 5
"""Contradictions that a summary names."""

Phrase = tuple[str, ...]
Vocabulary = Mapping[str, frozenset[Phrase]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one rule found in one record."""

    rule: str  # "side"
    stated: str  # "left"
    expected: str  # "right"

    @property
    def agrees(self) -> bool:
        """Whether the reasoning states what the answer or the sample says."""
        return self.stated == self.expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a reasoning may state, and what it has to agree with. None where it states nothing, or nothing is expected of it."""

    name: str
    description: str
    stated: Callable[[Record], str | None]
    expected: Callable[[Record], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSummary:
    """One rule over many records."""

    rule: str
    num_reasonings: int  # records that have any reasoning
    agreement: Proportion  # of those in which the rule could read what is stated
    contradictions: tuple[str, ...]  # ids of the first few samples whose reasoning contradicts


def check_reasoning(record: Record) -> tuple[Finding, ...]:
    """What the rules find in the reasoning of one record, in their order; () without reasoning."""
    if not record.reasoning:
        return ()
    findings = []
    for rule in RULES:
        expected = rule.expected(record)
        stated = rule.stated(record) if expected is not None else None
        if expected is not None and stated is not None:
            findings.append(Finding(rule=rule.name, stated=stated, expected=expected))
    return tuple(findings)


def summarize_reasoning(records: Iterable[Record], unit: Unit = "subject") -> tuple[RuleSummary, ...]:
    """Every rule's agreement over the records that have reasoning. The rule "option" gives the share of answers that agree with theirs."""
    reasoned = [record for record in records if record.reasoning]
    found = [(record, finding) for record in reasoned for finding in check_reasoning(record)]
    summaries = []
    for rule in RULES:
        own = [(record, finding) for record, finding in found if finding.rule == rule.name]
        against = [record.sample_id for record, finding in own if not finding.agrees]
        summaries.append(
            RuleSummary(
                rule=rule.name,
                num_reasonings=len(reasoned),
                agreement=clustered_proportion([record for record, _ in own], [finding.agrees for _, finding in own], unit),
                contradictions=tuple(against[:NUM_EXAMPLES]),
            )
        )
    return tuple(summaries)


# Words around a mention that keep it from being a statement.
_CLAUSE_ENDS: Final = frozenset({".", ",", ";", ":", "!", "?", "\n", "but", "although", "though", "while", "whereas", "because", "so"})
_DENIALS: Final = frozenset(
    {"not", "no", "never", "neither", "nor", "without", "except", "cannot", "unlike", "than", "versus", "vs", "instead"}
)
_HYPOTHESES: Final = frozenset({"if", "whether", "unless", "or", "either", "could", "might", "may", "would", "possibly", "perhaps"})
_COPULAS: Final = frozenset({"is", "are", "was", "were", "seems", "can", "be", "has", "been"})
_DENIED: Final = frozenset({"not", "unlikely", "excluded", "ruled", "absent", "wrong", "incorrect", "impossible", "improbable", "false"})
_PREPOSITIONS: Final = frozenset({"on", "in", "by", "with", "at", "from"})
_REACH: Final = 6
"""Words before a mention among which a denial still reaches it."""


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

# "The right answer", "left untreated"; and "left of the image", which shows the patient's right in many views.
_NO_SIDE: Final = _phrases(
    "answer", "option", "choice", "one", "diagnosis", "letter", "angle", "away", "out", "over", "untreated", "behind"
) | _phrases(
    *(f"{before}of the {shown}" for before in ("", "side ", "half ") for shown in ("image", "picture", "film", "screen", "frame", "scan"))
)


def _mentions(words: Words, position: int, phrases: Collection[Phrase]) -> int:
    """The length of the longest of the phrases that stands at a position; 0 for none."""
    return max((len(phrase) for phrase in phrases if tuple(words.folded[position : position + len(phrase)]) == phrase), default=0)


def _is_stated(words: Words, begin: int, end: int, *, through_prepositions: bool) -> bool:
    """Whether a mention is neither denied nor supposed by the clause around it.

    "No shift on CT" states CT, since what is denied stands before the preposition; for a side ("no shift on the left") it does not help.
    """
    for word in reversed(words.folded[max(0, begin - _REACH) : begin]):
        if word in _CLAUSE_ENDS or (word in _PREPOSITIONS and not through_prepositions):
            break
        if word in _DENIALS or word in _HYPOTHESES:
            return False
    behind = words.folded[end : end + 5]
    if behind[:1] == ["or"]:
        return False
    return not (behind and behind[0] in _COPULAS and not _DENIED.isdisjoint(_until_clause_end(behind)))


def _until_clause_end(behind: list[str]) -> list[str]:
    return behind[: next((place for place, word in enumerate(behind) if word in _CLAUSE_ENDS), len(behind))]


def _stated_of(
    text: str, vocabulary: Vocabulary, *, not_before: Collection[Phrase] = (), through_prepositions: bool = False
) -> frozenset[str]:
    """The names of a vocabulary that a text states."""
    words = split_words(text)
    stated = set()
    for position in range(len(words.folded)):
        for name, phrases in vocabulary.items():
            length = _mentions(words, position, phrases)
            if not length or _mentions(words, position + length, not_before):
                continue
            if _is_stated(words, position, position + length, through_prepositions=through_prepositions):
                stated.add(name)
    return frozenset(stated)


def _only(names: Collection[str]) -> str | None:
    return next(iter(names)) if len(names) == 1 else None


def _modality_stated(record: Record) -> str | None:
    return _only(_stated_of(record.reasoning or "", MODALITY_WORDS))


def _side_stated(record: Record) -> str | None:
    return _only(_sides(record.reasoning or ""))


@lru_cache(maxsize=4096)
def _sides(text: str) -> frozenset[str]:
    return _stated_of(text, SIDE_WORDS, not_before=_NO_SIDE, through_prepositions=True)


def _side_expected(record: Record) -> str | None:
    """The side of the answer, or where it has none that of the question."""
    answer = _answer_text(record)
    return None if answer is None else _only(_sides(answer) or _sides(_question(record)))


def _question(record: Record) -> str:
    """The prompt up to its options; all of it where there are none."""
    if not record.choices:
        return record.prompt
    return re.split(rf"\bA\)\s*{re.escape(record.choices[0])}", record.prompt, maxsplit=1)[0]


def _answer_text(record: Record) -> str | None:
    """The text of the option that was answered, or the open answer."""
    if record.answer is None or not record.choices:
        return record.answer
    place = LETTERS.find(record.answer)
    return record.choices[place] if 0 <= place < len(record.choices) else None


def _option_stated(record: Record) -> str | None:
    """The letter that the reasoning comes to: what it claims, read as the grader reads, else the one option that its last sentence has."""
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
        if (found := options.match(words.folded, position)) is None or words.is_joined[found[1] - 1]:
            position += 1
            continue
        names, end = found
        has_letters = any(word.isalpha() for word in words.folded[position:end])
        if has_letters and len(names) == 1 and _is_stated(words, position, end, through_prepositions=True):
            last = (set() if has_ended else last) | names
            has_ended = False
        position = end
    return LETTERS[next(iter(last))] if len(last) == 1 else None


def _option_expected(record: Record) -> str | None:
    return record.answer if record.choices and _answer_text(record) is not None else None


RULES: Final = (
    Rule(
        name="modality",
        description="the imaging modality that the reasoning names against the sample's",
        stated=_modality_stated,
        expected=lambda record: record.modality,
    ),
    Rule(
        name="side",
        description="left or right in the reasoning against the answer, or the question where the answer has no side",
        stated=_side_stated,
        expected=_side_expected,
    ),
    Rule(
        name="option",
        description="the option that the reasoning comes to against the one that was answered",
        stated=_option_stated,
        expected=_option_expected,
    ),
)
"""Every rule, in the order in which they are reported."""
