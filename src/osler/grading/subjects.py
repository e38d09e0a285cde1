"""What a side, a size or another attribute is about: the noun that it stands before, or the subject of its sentence."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Final

from osler.facts import Kind
from osler.grading.mentions import PLACE_NOUNS, PLACES, WHOLES, Mention, Reading, pair_behind
from osler.grading.stance import CLAUSE_ENDS, COPULAS, PREPOSITIONS
from osler.grading.terms import fold_word
from osler.text import ARTICLES

_INSIDE: Final = frozenset({"in", "within", "inside", "of", "involving", "affecting", "into", "near", "around", "over", "along"})
_NOT_A_NOUN: Final = (
    CLAUSE_ENDS
    | COPULAS
    | PREPOSITIONS
    | _INSIDE
    | ARTICLES
    | frozenset({"and", "or", "nor", "not", "no", "to", "for", "as", "than", "that", "which", "it", "its", "this", "there", "i", "we"})
    | frozenset(
        {"then", "too", "also", "only", "very", "both", "compared", "since", "before", "after", "likely", "consistent", "seen", "shown"}
    )
    | frozenset({"lies", "lie", "appears", "appear", "looks", "look", "shows", "show", "suggests", "suggest", "indicates", "have"})
)
_BESIDE: Final = _INSIDE | {"to", "beside", "behind", "between", "like", "under"}
"""Before a noun that is not the subject: "a cyst similar to the kidney"."""
_DEFINITE: Final = frozenset({"the", "its", "their", "some"})
_NO_SUBJECT: Final = (
    WHOLES
    | PLACE_NOUNS
    | frozenset({"location", "position", "place", "size", "extent", "grade", "severity", "stage", "amount", "colour", "plane", "view"})
    | frozenset({"answer", "diagnosis", "conclusion", "option", "question", "level", "rest", "one", "first", "course"})
    | frozenset({"spot", "patch", "focus", "shadow", "ring", "dot", "structure", "signal", "density", "defect", "damage", "brightness"})
)
"""Nouns that no organ is called by, so what is said about them is about the image or its lesion: "the bright spot is on the left"."""
_MAX_NAME: Final = 3
_UNKNOWN_DISTANCE: Final = 15
_NOUN_DISTANCE: Final = 4


def find_subject(mention: Mention, reading: Reading) -> str | None:
    """The organ, finding or other noun that an attribute is about, in the singular; None for the image or its only lesion.

    A finding "in the left lung" is on the left; "the left lung" itself is too.
    """
    noun = noun_behind(mention, reading)
    if isinstance(noun, Mention):
        if noun.kind is Kind.ANATOMY and mention.kind in PLACES and _is_inside(mention, reading):
            return _name(next((other for other in _nouns_before(mention, reading) if other.kind is Kind.PRESENCE), noun))
        return _name(noun)
    if noun is not None:
        return noun
    if (unknown := _unknown_before(mention, reading)) is not None:
        return unknown
    before = list(_nouns_before(mention, reading))
    own = [other for other in before if not _is_inside(other, reading, _BESIDE)]
    return _name((own or before)[0]) if before else None


def _unknown_before(mention: Mention, reading: Reading) -> str | None:
    """A noun outside the vocabulary that stands nearer than any other, with "the" or "some": "the gastric bubble is on the left"."""
    words, folded = reading.unclaimed, reading.folded
    sentence = reading.sentences[mention.begin]
    for position in range(mention.begin - 1, max(-1, mention.begin - _UNKNOWN_DISTANCE), -1):
        if reading.sentences[position] != sentence or (words[position] == "" and position not in reading.attributes):
            return None
        if words[position] not in _DEFINITE:
            continue
        name = list(takewhile(lambda word: word and word not in _NOT_A_NOUN and word[0].isalpha(), words[position + 1 : mention.begin]))
        is_whole = position + 1 + len(name) < mention.begin and len(name) <= _MAX_NAME
        if not name or not is_whole or fold_word(name[-1]) in _NO_SUBJECT:
            continue
        if position and folded[position - 1] in _BESIDE | PREPOSITIONS and folded[position - 1] != "with":
            continue
        return fold_word(name[-1])
    return None


def is_part_of_organ(mention: Mention, reading: Reading) -> bool:
    """Whether a position names a part of an organ and no place in the image: "the upper lung", but not "a mass in the upper lung"."""
    noun = noun_behind(mention, reading) if mention.kind is Kind.POSITION else None
    if not isinstance(noun, Mention) or noun.kind is not Kind.ANATOMY:
        return False
    return not (_is_inside(mention, reading) and any(other.kind is Kind.PRESENCE for other in _nouns_before(mention, reading)))


def _name(noun: Mention) -> str | None:
    return None if noun.is_generic else " ".join(fold_word(word) for word in noun.value.split())


def noun_behind(mention: Mention, reading: Reading) -> Mention | str | None:
    """The noun that the attribute stands before: a mention or another word; None where it stands alone."""
    last, position = None, mention.end if (pair := pair_behind(mention, reading)) is None else pair.end
    for _ in range(_NOUN_DISTANCE):
        if position >= len(reading.folded):
            break
        if position in reading.nouns:
            return reading.nouns[position]
        if position in reading.attributes:
            position = reading.attributes[position].end
            continue
        if (about_image := reading.image_words.get(position)) is not None:  # "a moderate T1 signal"
            position = about_image.end
            continue
        word = reading.folded[position]
        if reading.unclaimed[position] == "" or word in _NOT_A_NOUN or not word[0].isalnum():
            break
        if fold_word(word) in PLACE_NOUNS and mention.kind in PLACES:
            return None
        last = word
        position += 1
    return None if last is None or (mention.kind in PLACES and _is_behind_preposition(mention, reading)) else fold_word(last)


def _is_behind_preposition(mention: Mention, reading: Reading) -> bool:
    """Whether the attribute follows a preposition and at most an article: "on the left suggests"."""
    before = [word for word in reading.folded[max(0, mention.begin - 2) : mention.begin] if word not in ARTICLES]
    return bool(before) and (before[-1] in PREPOSITIONS or before[-1] in ("to", "of"))


def _is_inside(mention: Mention, reading: Reading, words: frozenset[str] = _INSIDE) -> bool:
    """Whether a word such as "in" stands before, with only articles and attributes between: "a cyst in the large left kidney"."""
    for position in range(mention.begin - 1, max(-1, mention.begin - 5), -1):
        if reading.folded[position] in ARTICLES or position in reading.attributes:
            continue
        return reading.folded[position] in words
    return False


def _nouns_before(mention: Mention, reading: Reading) -> Iterator[Mention]:
    """The nouns before an attribute in its sentence, the nearest first."""
    sentence = reading.sentences[mention.begin]
    for other in reversed(reading.mentions):
        if other.is_noun and other.end <= mention.begin:
            if reading.sentences[other.begin] != sentence:
                return
            yield other
