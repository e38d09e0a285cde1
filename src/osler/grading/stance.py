"""Whether the words around a term affirm it, negate it ("not on the left") or leave it open ("unlike CT", "left or right").

The rules look at the clause of the term only.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import takewhile
from typing import Final

CLAUSE_ENDS: Final = frozenset({".", ",", ";", ":", "!", "?", "\n", "but", "although", "though", "while", "whereas", "because", "so"})
COPULAS: Final = frozenset({"is", "are", "was", "were", "seems", "can", "be", "has", "been"})
PREPOSITIONS: Final = frozenset({"on", "in", "by", "with", "at", "from"})
_NEGATIONS: Final = frozenset(
    {"not", "no", "never", "neither", "nor", "without", "cannot", "absence", "lacks", "excludes", "rules", "nothing"}
)
_COMPARISONS: Final = frozenset({"except", "unlike", "than", "versus", "vs", "instead", "resembles", "mimics"})
_CONDITIONALS: Final = frozenset(
    {"if", "whether", "unless", "either", "could", "might", "may", "would", "possibly", "perhaps", "doubt", "history"}
)
_DOUBTS: Final = frozenset({"or", "cannot", "would", "could", "might", "may"})
_REJECTIONS: Final = frozenset(
    {"not", "unlikely", "excluded", "ruled", "absent", "wrong", "incorrect", "impossible", "improbable", "false"}
)
_ABSENCES: Final = frozenset({"excluded", "ruled", "absent"})
_PERCEIVED: Final = frozenset(
    {"seen", "present", "visible", "identified", "evident", "detected", "found", "shown", "noted", "observed", "there"}
)
_DETERMINERS: Final = frozenset({"a", "an", "the", "it", "there", "this", "i"})
_NEGATION_SCOPE: Final = 6
"""How many words before a term a negation may stand."""
_SCOPE_AFTER: Final = 5


class Stance(StrEnum):
    """What a text says about a term that it names."""

    AFFIRMED = "affirmed"
    NEGATED = "negated"
    OPEN = "open"  # possible, compared with, or asked about


def read_stance(words: Sequence[str], begin: int, end: int, *, through_prepositions: bool) -> Stance:
    """The stance on the term at words[begin:end], folded words of `split_words`.

    "No shift on CT" affirms CT, because the negation stands before the preposition; "no shift on the left" does not affirm the left side.
    """
    return _stance_before(words, begin, through_prepositions=through_prepositions) or _stance_after(words, end)


def _stance_before(words: Sequence[str], begin: int, *, through_prepositions: bool) -> Stance | None:
    """NEGATED or OPEN by the words before the term; None where they say nothing."""
    stance: Stance | None = None
    following = ""
    for word in reversed(words[max(0, begin - _NEGATION_SCOPE) : begin]):
        if word in CLAUSE_ENDS or (word in PREPOSITIONS and not through_prepositions):
            break
        if word == "and" and following in _DETERMINERS:  # "no oedema and the lesion is large"
            break
        if word in _CONDITIONALS or word in _COMPARISONS:
            return Stance.OPEN
        if word in _NEGATIONS:
            stance = Stance.NEGATED
        elif word == "or":
            stance = stance or Stance.OPEN
        following = word
    return stance


def _stance_after(words: Sequence[str], end: int) -> Stance:
    after = list(words[end : end + _SCOPE_AFTER])
    if not after or after[0] not in COPULAS:
        return Stance.OPEN if after and after[0] in _DOUBTS else Stance.AFFIRMED
    clause = list(takewhile(lambda word: word not in CLAUSE_ENDS, after))
    if _REJECTIONS.isdisjoint(clause):
        return Stance.AFFIRMED
    is_negated = "not" in clause
    if is_negated != (not _ABSENCES.isdisjoint(clause)) and (not is_negated or not _PERCEIVED.isdisjoint(clause)):
        return Stance.NEGATED
    return Stance.OPEN
