"""Whether an open answer equals the reference: right, wrong, or cannot decide. The first rule of this table that applies decides.

=========== ========================================================== ============================================================
rule        decides                                                    example
=========== ========================================================== ============================================================
exact       right: equal after `fold_answer`                           "The liver." for "Liver"
empty       wrong: no word                                             "?" for "Liver"
yes_no      yes and no only by yes and no                              "No, it is clear" for "no"; "clear" for "no" is wrong
rephrased   right: equal without plural, spelling and the sentence     "It is probably the liver." for "Liver"
synonym     right: equal by the table of `answer_terms`                "Right hepatic lobe" for "right lobe of the liver"
number      equal numbers, by unit and tolerance, or different ones    "20 mm" for "2 cm"; "2 mm" is wrong; "11th rib" for "10th rib"
extra       wrong: names alternatives, or more things of one kind      "liver or spleen" for "liver"
set         all items of a list, in any order; fewer or more are wrong "heart and liver" for "Liver, Heart"; "liver" is wrong
side        wrong: another side or height                              "left lung" for "right lung"
negation    wrong: one is denied and the other is not                  "no effusion" for "effusion"
opposite    wrong: opposites                                           "hypodense" for "hyperdense"
different   wrong: no common word, or another term of the same kind    "spleen" for "liver", "lung mass" for "brain mass"
undecided   cannot decide: more general, more specific, or overlapping "small pleural effusion" for "pleural effusion"
=========== ========================================================== ============================================================

No rule measures how near two answers are, and none knows medicine beyond its table: a synonym that the table lacks is "different".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import Final

from osler.facts import Kind
from osler.grading.answer_items import RELATIONS, Answer, Item, read_items
from osler.grading.answer_sentence import NEGATIONS
from osler.grading.answer_terms import IMPLIES_MRI, NARROWER, OPPOSITES, answer_terms
from osler.grading.quantities import is_same_quantity
from osler.grading.terms import PARTS
from osler.text import fold_answer

UNDECIDED: Final = "undecided"
MAX_ORDERED: Final = 6
"""Items of a list up to which open items are assigned in every order."""

_YES_NO: Final = frozenset({"yes", "no"})
_BEHIND_YES_NO: Final = frozenset({",", ".", "it", "there", "they", "this", "these", "he", "she"})
"""What follows a yes or no that answers: "No, it is clear", "Yes it is"; not "no mass"."""
_SIDES: Final = frozenset({"left", "right", "bilateral"})
_ORDINAL: Final = re.compile(r"\d{1,3}(?:st|nd|rd|th)")
_PREDICATES: Final = frozenset({"is", "are", "was", "were", "ruled"})
_EXCLUSIVE: Final = frozenset({Kind.MODALITY, Kind.TECHNIQUE, Kind.PLANE, Kind.ANATOMY, Kind.COLOUR})
"""Kinds of which two answers with common words cannot have different values."""
_LISTED: Final = _EXCLUSIVE | {Kind.PRESENCE}
_SIDED: Final = frozenset({Kind.SIDE, Kind.POSITION})


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The result of comparing an answer with a reference."""

    is_right: bool | None  # None: cannot decide
    rule: str  # "synonym"


@lru_cache(maxsize=2048)
def compare(answer: str, reference: str) -> Comparison:
    """Compare two texts by the rules above. An answer without any word equals no reference."""
    folded, wanted = _fold(answer), _fold(reference)
    if not any(word[0].isalnum() for word in folded):
        return Comparison(is_right=bool(folded) and folded == wanted, rule="exact" if folded and folded == wanted else "empty")
    if folded == wanted:
        return Comparison(is_right=True, rule="exact")
    if (decided := _compare_yes_no(folded, wanted)) is not None:
        return decided
    plain, plain_wanted = read_items(answer, with_synonyms=False), read_items(reference, with_synonyms=False)
    if _may_be_right(plain, plain_wanted) and (same := _compare_answers(plain, plain_wanted)).is_right:
        return same
    found = _compare_answers(read_items(answer), read_items(reference))
    return Comparison(is_right=True, rule="synonym") if found == Comparison(is_right=True, rule="rephrased") else found


_fold: Final = lru_cache(maxsize=1 << 14)(fold_answer)  # an audit compares each text with many


def _may_be_right(answer: Answer, reference: Answer) -> bool:
    """False where `_compare_answers` would not say right: one phrase without numbers against another one. It says nothing of the others."""
    if len(answer.items) != 1 or len(reference.items) != 1 or answer.has_alternatives or reference.has_alternatives:
        return True
    one, other = answer.items[0], reference.items[0]
    return bool(one.quantities or other.quantities) or _is_same_phrase(one.words, other.words)


def _compare_yes_no(folded: Sequence[str], wanted: Sequence[str]) -> Comparison | None:
    is_asked = tuple(wanted) in {("yes",), ("no",)}
    given = folded[0] if folded[0] in _YES_NO and (len(folded) == 1 or folded[1] in _BEHIND_YES_NO) else None
    if not is_asked:
        return Comparison(is_right=False, rule="yes_no") if len(folded) == 1 and given else None
    is_contrary = folded[-1] in _YES_NO and folded[-1] != given
    if given == wanted[0] == "yes" and not is_contrary and not NEGATIONS.isdisjoint(folded):  # "Yes, there is no effusion"
        return Comparison(is_right=None, rule=UNDECIDED)
    return Comparison(is_right=given == wanted[0] and not is_contrary, rule="yes_no")


def _compare_answers(answer: Answer, reference: Answer) -> Comparison:
    if not answer.items or not reference.items:
        return Comparison(is_right=False, rule="empty")
    if answer.has_alternatives != reference.has_alternatives:
        is_wrong = answer.has_alternatives or _compare_lists(answer.items, reference.items[:1]).is_right is False
        return Comparison(is_right=False if is_wrong else None, rule="extra" if is_wrong else UNDECIDED)
    found = _compare_lists(answer.items, reference.items)
    if found.is_right is False and (asserted := _without_denied(answer.items, reference.items)):  # "liver, not spleen" for "liver"
        return Comparison(is_right=None, rule=UNDECIDED) if _compare_lists(asserted, reference.items).is_right else found
    if found.is_right and (answer.has_more or answer.is_question or reference.has_more):
        return Comparison(is_right=None, rule=UNDECIDED)  # only first sentences were compared; what follows may take the answer back
    return found


def _without_denied(answer: Sequence[Item], reference: Sequence[Item]) -> list[Item]:
    """The items that an answer does not deny; [] where it denies none, or where the reference denies something."""
    asserted = [item for item in answer if NEGATIONS.isdisjoint(item.words)]
    return asserted if len(asserted) < len(answer) and all(NEGATIONS.isdisjoint(item.words) for item in reference) else []


def _compare_lists(answer: Sequence[Item], reference: Sequence[Item]) -> Comparison:
    if len(answer) == len(reference) == 1:
        return compare_items(answer[0], reference[0])
    sides, wanted = _sides_of(answer), _sides_of(reference)
    if any(sides[noun] != wanted[noun] for noun in sides.keys() & wanted.keys()):
        return Comparison(is_right=False, rule="side")
    fewer, more = sorted((answer, reference), key=len)
    if len(fewer) != len(more):
        is_open = any(
            any(compare_items(one, other).is_right is None for other in more)
            and not any(compare_items(one, other).is_right for other in more)
            for one in fewer
        )
        return Comparison(is_right=None if is_open else False, rule=UNDECIDED if is_open else "set")
    return Comparison(is_right=(best := _match(fewer, more)), rule=UNDECIDED if best is None else "set")


def _match(one: Sequence[Item], other: Sequence[Item]) -> bool | None:
    """Whether the items of two lists of one length are equal in some order; None where an order leaves all open or equal."""
    results = [[compare_items(first, second).is_right for second in other] for first in one]
    if all(any(row) for row in results) and all(any(row[at] for row in results) for at in range(len(other))):
        return True
    if len(one) > MAX_ORDERED:
        return None if all(any(result is not False for result in row) for row in results) else False
    is_open = any(all(results[row][column] is not False for row, column in enumerate(order)) for order in permutations(range(len(other))))
    return None if is_open else False


def _sides_of(items: Sequence[Item]) -> dict[str, frozenset[str]]:
    """The sides that stand in one item with each organ: {"lung": {"left"}}."""
    kinds = answer_terms().kinds
    found: dict[str, frozenset[str]] = {}
    for item in items:
        sides = _SIDES.intersection(item.words)
        for word in item.words:
            if sides and kinds.get(word) is Kind.ANATOMY:
                found[word] = found.get(word, frozenset()) | sides
    return found


def compare_items(answer: Item, reference: Item) -> Comparison:
    """Compare one thing with another."""
    if len(answer.quantities) > len(reference.quantities) > 0:
        return Comparison(is_right=False, rule="extra")
    numbers = _compare_numbers(answer, reference)
    if _is_same_phrase(answer.words, reference.words):
        if numbers is True:
            return Comparison(is_right=True, rule="number" if answer.quantities else "rephrased")
        return Comparison(is_right=numbers, rule=UNDECIDED if numbers is None else "number")
    if numbers is False:
        return Comparison(is_right=False, rule="number")
    if any(_is_none(one) and other.words == ("normal",) for one, other in ((answer, reference), (reference, answer))):
        return Comparison(is_right=None, rule=UNDECIDED)  # "no abnormality" for "normal"
    found, wanted = _read_phrase(answer.words), _read_phrase(reference.words)
    if found.is_denied != wanted.is_denied:
        is_none = _is_none(answer) or _is_none(reference)
        return Comparison(is_right=None if is_none else False, rule=UNDECIDED if is_none else "negation")
    if numbers and (_counts_only(answer, reference) or _counts_only(reference, answer)):
        return Comparison(is_right=True, rule="number")
    if (rule := _contradiction(found, wanted)) is not None:
        return Comparison(is_right=False, rule=rule)
    if found.bare.isdisjoint(wanted.bare) and not (answer.quantities and reference.quantities) and not _are_related(found, wanted):
        return Comparison(is_right=False, rule="different")
    if RELATIONS.isdisjoint(answer.words) and _names_more(found.bare, wanted.bare):
        return Comparison(is_right=False, rule="extra")
    return Comparison(is_right=None, rule=UNDECIDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Phrase:
    """What comparing needs of the words of an item."""

    words: frozenset[str]
    bare: frozenset[str]  # without negations
    is_denied: bool
    opposites: tuple[tuple[str, str], ...]  # (word, its opposite)
    ordinals: frozenset[str]  # {"11th"}
    kinds: Mapping[Kind, frozenset[str]]
    relatives: frozenset[str]  # of all bare words
    has_terms: bool  # whether a bare one is a term of several words


@lru_cache(maxsize=1 << 14)
def _read_phrase(words: tuple[str, ...]) -> _Phrase:
    found = frozenset(words)
    bare = found - NEGATIONS
    return _Phrase(
        words=found,
        bare=bare,
        is_denied=len(bare) < len(found),
        opposites=tuple((word, other) for word in found if (other := OPPOSITES.get(word)) is not None),
        ordinals=frozenset(word for word in found if _ORDINAL.fullmatch(word)),
        kinds=_by_kind(found),
        relatives=frozenset[str]().union(*map(_relatives, bare)),
        has_terms=any(" " in word for word in bare),
    )


def _are_related(found: _Phrase, wanted: _Phrase) -> bool:
    """`_is_related` of the bare words, which are compared one by one only where one of them has a relative among the others."""
    if not (found.has_terms or wanted.has_terms) and found.relatives.isdisjoint(wanted.bare) and wanted.relatives.isdisjoint(found.bare):
        return False
    return _is_related(found.bare, wanted.bare)


def _is_none(item: Item) -> bool:
    """Whether an item says that there is nothing: "0", "none", "no abnormality"."""
    return not item.words and any(not quantity.high for quantity in item.quantities)


def _is_same_phrase(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two phrases have the same words. The order counts where two sides or a relation are among them: "left of the right lung"."""
    if tuple(one) == tuple(other):
        return True
    return sorted(one) == sorted(other) and RELATIONS.isdisjoint(one) and sum(word in _SIDES for word in one) < 2


def _compare_numbers(answer: Item, reference: Item) -> bool | None:
    """Whether the numbers are equal; None where one has a number that the other has not, or where equality is open."""
    if len(answer.quantities) != len(reference.quantities):
        return None
    results = [is_same_quantity(one, other) for one, other in zip(answer.quantities, reference.quantities, strict=True)]
    if any(one.is_range and not other.is_range for one, other in zip(answer.quantities, reference.quantities, strict=True)):
        return False  # a range is no answer to a number, or the widest would be the safest
    return False if False in results else None if None in results else True


def _counts_only(one: Item, other: Item) -> bool:
    """Whether one is only a count and the other begins with it: "2" and "2 kidneys"."""
    is_count = not one.words and len(one.quantities) == 1 and one.quantities[0].dimension is None
    return is_count and other.begins_with_number and _PREDICATES.isdisjoint(other.words)


def _contradiction(found: _Phrase, wanted: _Phrase) -> str | None:
    """The rule by which two phrases exclude each other; None if none does."""
    for word, other in found.opposites:
        if other in wanted.words and word not in wanted.words and other not in found.words:
            return "opposite"
    if found.ordinals and wanted.ordinals and found.ordinals.isdisjoint(wanted.ordinals):
        return "number"
    here_of, there_of = found.kinds, wanted.kinds
    if not here_of or not there_of:
        return None
    for kind in here_of.keys() & there_of.keys() & _SIDED:
        if here_of[kind] != there_of[kind] and (kind is Kind.SIDE or here_of[kind].isdisjoint(there_of[kind])):
            return "side"
    for kind in here_of.keys() & there_of.keys() & _EXCLUSIVE:
        if here_of[kind].isdisjoint(there_of[kind]) and not _is_related(here_of[kind], there_of[kind]):
            return "different"
    return None


@lru_cache(maxsize=1 << 14)
def _by_kind(words: frozenset[str]) -> Mapping[Kind, frozenset[str]]:
    """The words of each kind that there is."""
    found: dict[Kind, frozenset[str]] = {}
    for word in words:
        if (kind := answer_terms().kinds.get(word)) is not None:
            found[kind] = found.get(kind, frozenset()) | {word}
    return found


def _names_more(found: Collection[str], wanted: Collection[str]) -> bool:
    """Whether an answer names further things of a kind that the reference names one of: "liver spleen" for "liver"."""
    asked_of, found_of = _by_kind(frozenset(wanted)), _by_kind(frozenset(found))
    for kind in asked_of.keys() & found_of.keys() & _LISTED:
        asked = asked_of[kind]
        extra = found_of[kind] - asked
        if extra and not any(_is_related({word}, asked) for word in extra):
            return True
    return False


def _is_related(found: Collection[str], wanted: Collection[str]) -> bool:
    """Whether a term of one phrase is a part or a narrower term of one of the other: "lung" and "chest", "T2" and "MRI"."""
    return any(
        one != other and (other in _relatives(one) or one in _relatives(other) or _holds(one, other)) for one in found for other in wanted
    )


def _holds(one: str, other: str) -> bool:
    """Whether the words of one term are among those of the other: "effusion" and "pleural effusion"."""
    if " " not in one and " " not in other:
        return False
    first, second = set(one.split()), set(other.split())
    return first <= second or second <= first


@lru_cache(maxsize=1 << 14)
def _relatives(word: str) -> frozenset[str]:
    """The parts and narrower terms of a term, and what implies it."""
    return frozenset({*PARTS.get(word, ()), *NARROWER.get(word, ()), *(IMPLIES_MRI if word == "mri" else ())})
