"""From the text of an open answer to its items, canonical words without the sentence around them: "It is the left lung." -> left, lung."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from osler.facts import Kind
from osler.grading.answer_sentence import ALTERNATIVES, LISTS, drop_chinese_subject, first_sentence, strip_part, strip_sentence
from osler.grading.answer_terms import IMPLIES_MRI, answer_terms
from osler.grading.quantities import Quantity, quantity_index, take_quantities
from osler.grading.terms import GENERIC, NOT_A_PLANE, NUMBERS, fold_word
from osler.text import MAX_LENGTH, split_words

MAX_ITEMS: Final = 32
"""Items of a list that are read."""

RELATIONS: Final = frozenset(
    {"to", "above", "below", "behind", "under", "beneath", "underneath", "from", "between", "over", "near", "beside", "adjacent", "than"}
    | {"around", "into", "after", "before", "outside", "inside"}
)
"""Words between two things whose order matters: "anterior to the colon"."""

_NUMBER_WORDS: Final = {word: value for word, value in NUMBERS.items() if word != "both"} | dict.fromkeys(
    ("zero", "none", "nothing", "nil"), "0"
)
_NUMBER_WORD: Final = re.compile(rf"\b(?:{'|'.join(_NUMBER_WORDS)})\b", re.IGNORECASE)
_CHINESE_NUMBERS: Final = dict(zip("零一二两三四五六七八九", "01223456789", strict=True)) | {"十": "10"}
_CHINESE_COUNT: Final = re.compile(
    r"([零一二两三四五六七八九十])(?=[个只块处枚张颗])|(?<![\u3040-\u9fff])([零一二两三四五六七八九十])(?=[\s。.]*$)"
)
_CHINESE_NONE: Final = tuple(map(list, ("无", "没有", "无异常", "没有异常", "未见异常")))
_MEASURE_WORDS: Final = frozenset("个只块处枚张颗")
_BOTH_SIDES: Final = frozenset({frozenset({"left", "right"}), frozenset({"左", "右"})})

_NEEDLESS: Final = frozenset(
    {"the", "of", "an", "的", '"', "'", "(", ")", "[", "]", "{", "}", "*", "-", "=", "<", ">", "^", ":", "∙", ".", "s"}
)
_BEHIND_IMAGE_TERMS: Final = frozenset(
    {"scan", "image", "imaging", "study", "picture", "photo", "examination", "slice", "section", "view"} | set("图像片扫描")
)
_BEHIND_PLACES: Final = frozenset({"part", "corner", "region", "area", "portion", "view", "projection"})
_BEHIND_ORGANS: Final = frozenset({"region", "area"})
_BEHIND_SHAPES: Final = frozenset({"shape", "shaped"})
_SHAPES: Final = frozenset({"circular", "oval", "irregular", "u-shaped"})
_IMAGE_KINDS: Final = frozenset({Kind.MODALITY, Kind.TECHNIQUE, Kind.PLANE})
_PLACE_KINDS: Final = frozenset({Kind.SIDE, Kind.POSITION})


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that an answer names."""

    words: tuple[str, ...]  # ("left", "lung"), canonical, in the order of the text
    quantities: tuple[Quantity, ...] = ()
    begins_with_number: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The items of an answer, without repetitions."""

    items: tuple[Item, ...]
    has_alternatives: bool  # joined by "or"
    has_more: bool  # whether further sentences follow the first
    is_question: bool


@lru_cache(maxsize=1 << 15)
def read_items(text: str, *, with_synonyms: bool = True) -> Answer:
    """The items of the last MAX_LENGTH characters of a text. Without synonyms only spelling, plural and the sentence are ignored."""
    text = _NUMBER_WORD.sub(lambda match: _NUMBER_WORDS[match[0].lower()], text[-MAX_LENGTH:])
    if not text.isascii():
        text = _CHINESE_COUNT.sub(lambda match: _CHINESE_NUMBERS[match[1] or match[2]], drop_chinese_subject(text))
    text, quantities = take_quantities(text)
    words = split_words(text).folded
    first, has_more = first_sentence(words)
    items: dict[Item, None] = {}
    has_alternatives = False
    for part, is_alternative in _split_list(_join_sides(strip_sentence(first))):
        has_alternatives = has_alternatives or (is_alternative and bool(part))
        item = _read_part(strip_part(part), quantities, with_synonyms=with_synonyms)
        if item.words or item.quantities:
            items[item] = None
        if len(items) == MAX_ITEMS:
            break
    return Answer(items=tuple(_merge(list(items))), has_alternatives=has_alternatives, has_more=has_more, is_question="?" in words[-1:])


def _join_sides(words: Sequence[str]) -> list[str]:
    """The words with "bilateral" in place of "left and right"."""
    joined: list[str] = []
    position = 0
    while position < len(words):
        first, link, second = [*words[position : position + 3], "", ""][:3]
        is_both = frozenset((first, second)) in _BOTH_SIDES and link in LISTS - {","}
        joined.append("bilateral" if is_both else first)
        position += 3 if is_both else 1
    return joined


def _split_list(words: Sequence[str]) -> Iterator[tuple[list[str], bool]]:
    """The parts of a list, each with whether an "or" stands before it."""
    part: list[str] = []
    is_alternative = False
    for word in words:
        if word not in LISTS and word not in ALTERNATIVES:
            part.append(word)
            continue
        yield part, is_alternative
        part, is_alternative = [], word in ALTERNATIVES or (is_alternative and not part)
    yield part, is_alternative


def _read_part(words: Sequence[str], quantities: Sequence[Quantity], *, with_synonyms: bool) -> Item:
    """The item of one part; what it repeats in brackets is left out: "CT (computed tomography)", "two (2)"."""
    item = _read_item(words, quantities, with_synonyms=with_synonyms)
    if words[-1:] != [")"] or "(" not in words:
        return item
    at = words.index("(")
    outer, inner = (
        _read_item(strip_part(list(half)), quantities, with_synonyms=with_synonyms) for half in (words[:at], words[at + 1 : -1])
    )
    return outer if outer == inner else item


def _read_item(words: Sequence[str], quantities: Sequence[Quantity], *, with_synonyms: bool) -> Item:
    placed = ["from" if word == "of" and at and words[at - 1] in ("left", "right") else word for at, word in enumerate(words)]
    folded = [fold_word(word) for at, word in enumerate(placed) if word not in _NEEDLESS or (word == "s" and at == 0)]
    if folded in _CHINESE_NONE or (len(folded) == 2 and folded[0] == "no" and folded[1] in GENERIC):  # "no abnormality" is none
        return Item(words=(), quantities=(Quantity(low=0.0, high=0.0),), begins_with_number=True)
    marks = [quantities[index] for word in folded if (index := quantity_index(word)) is not None and index < len(quantities)]
    begins_with_number = bool(folded) and quantity_index(folded[0]) is not None
    plain = [word for word in folded if quantity_index(word) is None and not (marks and word in _MEASURE_WORDS)]
    if plain and plain[0] in ("r", "l"):
        plain[0] = "right" if plain[0] == "r" else "left"
    canonical = _canonical(plain) if with_synonyms else plain
    return Item(words=tuple(canonical), quantities=tuple(marks), begins_with_number=begins_with_number)


def _canonical(words: Sequence[str]) -> list[str]:
    """The words with terms in place of their synonyms, and without nouns such as "scan" behind the name of a modality."""
    terms = answer_terms()
    found: list[str] = []
    position = 0
    is_term = False  # whether the last word found is one
    while position < len(words):
        if is_term and found and _is_needless_behind(found[-1], words, position):
            position += 1
            continue
        match = terms.match(words, position)
        if match is not None and not _is_no_plane(match, words, position):
            length, canonical = match
            if terms.kinds.get(canonical[0]) in _PLACE_KINDS and found and found[-1] in ("in", "on", "at"):
                found.pop()  # "lung on the right"
            found += [word for word in canonical if found[-1:] != [word]]  # "plain film radiograph"
            if length > 1 and words[position + length - 1] == "方" and terms.kinds.get(found[-len(canonical) - 1 :][0]) is Kind.ANATOMY:
                found.append("from")  # "气管下方" is below the trachea, "气管下部" its lower part
            position += length
            is_term = True
            continue
        found.append(words[position])
        is_term = False
        position += 1
    return found


def _is_no_plane(match: tuple[int, tuple[str, ...]], words: Sequence[str], position: int) -> bool:
    """Whether the name of a plane is part of another name: "transverse colon"."""
    length, canonical = match
    behind = words[position + length : position + length + 1]
    return answer_terms().kinds.get(canonical[0]) is Kind.PLANE and not NOT_A_PLANE.isdisjoint(behind)


def _is_needless_behind(term: str, words: Sequence[str], position: int) -> bool:
    """Whether a noun adds nothing to the term before it: "CT scan", "grey in colour", "upper left part", "chest region"."""
    kind, word = answer_terms().kinds.get(term), words[position]
    if kind in _IMAGE_KINDS:
        return word in _BEHIND_IMAGE_TERMS
    if kind is Kind.COLOUR:
        return word == "colour" or (word == "in" and list(words[position + 1 :]) == ["colour"])
    if kind in _PLACE_KINDS:
        return word in _BEHIND_PLACES
    return (kind is Kind.ANATOMY and word in _BEHIND_ORGANS) or (term in _SHAPES and word in _BEHIND_SHAPES)


def _join_pairs(items: Sequence[Item]) -> Sequence[Item]:
    """The items with "bilateral lung" in place of "left lung" and "right lung"; of two phrases that differ in more both stay."""
    joined: dict[Item, None] = {}
    for item in items:
        other = "right" if "left" in item.words else "left"
        side = "left" if "left" in item.words else "right"
        pair = tuple(other if word == side else word for word in item.words)
        partner = next((known for known in joined if known.words == pair), None) if item.words.count(side) == 1 else None
        if partner is None or item.quantities or partner.quantities or other in item.words or len(item.words) < 2:
            joined[item] = None
            continue
        del joined[partner]
        joined[Item(words=tuple("bilateral" if word == side else word for word in item.words))] = None
    return list(joined)


def _merge(items: Sequence[Item]) -> Sequence[Item]:
    """One item for "left and top" of places only and for "left lung, right lung"; no MRI beside a weighting of MRI, which implies it."""
    items = _join_pairs(items)
    if any(not IMPLIES_MRI.isdisjoint(item.words) for item in items):
        bare = [tuple(word for word in item.words if word != "mri") for item in items]
        items = [
            Item(words=words, quantities=item.quantities, begins_with_number=item.begins_with_number)
            for words, item in zip(bare, items, strict=True)
            if words or item.quantities
        ]
    kinds = answer_terms().kinds
    if len(items) > 1 and all(not item.quantities and all(kinds.get(word) in _PLACE_KINDS for word in item.words) for item in items):
        return [Item(words=tuple(dict.fromkeys(word for item in items for word in item.words)))]
    return items
