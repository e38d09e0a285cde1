"""Whether the words around a term affirm it, negate it ("not on the left") or leave it open ("unlike CT", "left or right").

The rules look at the clause of the term only.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import takewhile
from typing import Final

CLAUSE_ENDS: Final = frozenset({".", ",", ";", ":", "!", "?", "\n", "but", "although", "though", "while", "whereas", "because", "so"})
COPULAS: Final = frozenset({"is", "are", "was", "were", "seems", "can", "ca", "be", "has", "been"})  # "can't" is "ca", "not"
PREPOSITIONS: Final = frozenset({"on", "in", "by", "with", "at", "from", "toward", "towards"})
_NEGATIONS: Final = frozenset(
    {"not", "no", "never", "neither", "nor", "without", "cannot", "absence", "lacks", "excludes", "exclude", "rules", "nothing"}
    | {"negative", "free", "zero", "fail", "fails", "failed"}
)
_UNDECIDED: Final = frozenset({"cannot", "not"})
_EXCLUSIONS: Final = frozenset({"rule", "exclude"})
_SOUGHT: Final = frozenset({"look", "looking", "search", "searching", "check", "checking"})
_LABELS: Final = frozenset({":", "-", "="})
_NONE: Final = frozenset({"no", "none", "negative", "absent", "nil"})
_COMPARISONS: Final = frozenset({"except", "unlike", "than", "versus", "vs", "instead", "resembles", "mimics"})
_CONDITIONALS: Final = frozenset(
    {"if", "whether", "unless", "either", "could", "might", "may", "would", "possibly", "perhaps", "doubt", "doubtful", "history"}
    | {"rule", "denied"}
)
_PREFERENCES: Final = frozenset(
    {"favour", "favours", "favoured", "favouring", "favor", "favors", "favored", "favoring", "prefer", "preferred"}
)
_DOUBTS: Final = frozenset({"or", "versus", "vs", "cannot", "would", "could", "might", "may"})
_REJECTIONS: Final = frozenset(
    {"not", "unlikely", "excluded", "ruled", "absent", "wrong", "incorrect", "impossible", "improbable", "false", "denied", "doubtful"}
)
_ABSENCES: Final = frozenset({"excluded", "ruled", "absent"})
_PERCEIVED: Final = frozenset(
    {"seen", "present", "visible", "identified", "evident", "detected", "found", "shown", "noted", "observed", "there"}
    | {"included", "depicted", "displayed", "captured"}
)
_LANDMARKS: Final = frozenset({"below", "above", "beneath", "underneath", "beyond", "outside", "toward", "towards"})
_LANDMARKS_TO: Final = frozenset({"caudal", "cranial", "inferior", "superior", "close"})
_BEFORE_LANDMARK: Final = frozenset({"a", "an", "the", "left", "right", "both", "level", "of", "to"})
VIEWS: Final = frozenset({"image", "picture", "slice", "section", "scan", "view", "field", "frame", "level"})
_DETERMINERS: Final = frozenset({"a", "an", "the", "it", "there", "this", "i"})
_NEGATION_SCOPE: Final = 6
"""How many words before a term a negation may stand."""
_CONDITION_SCOPE: Final = 15
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
    return _stance_before(words, begin, through_prepositions=through_prepositions) or stance_after(words, end)


def _stance_before(words: Sequence[str], begin: int, *, through_prepositions: bool) -> Stance | None:
    """NEGATED or OPEN by the words before the term; None where they say nothing."""
    stance: Stance | None = None
    following, is_over = "", False
    for distance, word in enumerate(reversed(words[max(0, begin - _CONDITION_SCOPE) : begin])):
        if word in CLAUSE_ENDS or (word in PREPOSITIONS and not through_prepositions):
            break
        if word == "and" and following in _DETERMINERS:  # "no oedema and the lesion is large"
            break
        if word in _CONDITIONALS or (word in _COMPARISONS and distance < _NEGATION_SCOPE):
            return Stance.OPEN
        if word in _SOUGHT and following == "for":  # "we look for a fracture"
            return Stance.OPEN
        if word in _PREFERENCES and is_over:  # "this favours a tumour over an infarct"
            return Stance.OPEN
        if distance < _NEGATION_SCOPE:
            is_over = is_over or word == "over"
            if word in _UNDECIDED and following in _EXCLUSIONS:  # "cannot rule out a fracture"
                return Stance.OPEN
            if word in _NEGATIONS:
                stance = Stance.NEGATED
            elif word == "or":
                stance = stance or Stance.OPEN
        following = word
    return stance


def stance_after(words: Sequence[str], end: int) -> Stance:
    """The stance by the words behind a term; those of a relative clause can only negate it: "the heart, which is not visible"."""
    if _is_labelled_none(words[end : end + 3]):
        return Stance.NEGATED
    relative = end + (words[end : end + 1] == [","])
    if words[relative : relative + 1] not in (["which"], ["that"]):
        return _stance_by(list(words[end : end + _SCOPE_AFTER]))
    stance = _stance_by(list(words[relative + 1 : relative + 1 + _SCOPE_AFTER]))
    return stance if stance is Stance.NEGATED else Stance.AFFIRMED


def _is_labelled_none(after: Sequence[str]) -> bool:
    """Whether the words behind a term are ": none" and the end of the clause."""
    return len(after) >= 2 and after[0] in _LABELS and after[1] in _NONE and (len(after) == 2 or after[2] in CLAUSE_ENDS)


def _stance_by(after: list[str]) -> Stance:
    if after[:1] in (["does"], ["do"], ["did"]) and after[1:3] == ["not", "appear"]:
        return Stance.OPEN
    if not after or after[0] not in COPULAS:
        return Stance.OPEN if after and after[0] in _DOUBTS else Stance.AFFIRMED
    clause = list(takewhile(lambda word: word not in CLAUSE_ENDS, after))
    if _REJECTIONS.isdisjoint(clause):
        return Stance.AFFIRMED
    is_negated = "not" in clause
    is_perception = not _PERCEIVED.isdisjoint(clause) or ("in" in clause and not VIEWS.isdisjoint(clause))
    if is_negated != (not _ABSENCES.isdisjoint(clause)) and (not is_negated or is_perception):
        return Stance.NEGATED
    return Stance.OPEN


def is_landmark(words: Sequence[str], begin: int) -> bool:
    """Whether the organ at words[begin] only says where something lies: "below the level of the lungs", "too low for the heart"."""
    position = begin - 1
    while position >= 0 and words[position] in _BEFORE_LANDMARK:
        position -= 1
    if position < 0:
        return False
    if words[position] == "for":
        return "too" in words[max(0, position - 2) : position]
    return words[position] in _LANDMARKS or (words[position] in _LANDMARKS_TO and words[position + 1] == "to")


def is_out_of_view(words: Sequence[str], end: int) -> bool:
    """Whether the words behind an organ place it outside the image: "is out of the field of view", "in the chest, far above this level"."""
    position, last, has_comma = end, min(len(words), end + _CONDITION_SCOPE), False
    while position < last:
        if words[position] == "," and not has_comma:
            last, has_comma = min(last, position + 3), True
        elif words[position] in CLAUSE_ENDS:
            return False
        elif _is_outside(words[position : position + 5]):
            return True
        position += 1
    return False


def _is_outside(words: Sequence[str]) -> bool:
    """Whether the words begin with a place outside the image: "above this", "out of the field", "nowhere near"."""
    first, after = words[0], [word for word in words[1:] if word != "the"]
    if first in ("above", "below"):
        return after[:1] in (["this"], ["our"])
    if first in ("outside", "beyond") or (first == "out" and after[:1] == ["of"]):
        return not VIEWS.isdisjoint(after[:3])
    return first == "nowhere" and after[:1] == ["near"]
