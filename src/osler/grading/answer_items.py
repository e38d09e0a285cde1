"""From the text of an open answer to its items, canonical words without the sentence around them: "It is the left lung." -> left, lung."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from osler.facts import Kind
from osler.grading.answer_terms import IMPLIES_MRI, answer_terms
from osler.grading.quantities import Quantity, quantity_index, take_quantities
from osler.grading.terms import GENERIC, NUMBERS, fold_word
from osler.text import ARTICLES, MAX_LENGTH, split_words

MAX_ITEMS: Final = 32
"""Items of a list that are read."""

_NUMBER_WORDS: Final = {word: value for word, value in NUMBERS.items() if word != "both"} | dict.fromkeys(
    ("zero", "none", "nothing", "nil"), "0"
)
_NUMBER_WORD: Final = re.compile(rf"\b(?:{'|'.join(_NUMBER_WORDS)})\b", re.IGNORECASE)
_CHINESE_NUMBERS: Final = dict(zip("零一二两三四五六七八九十", "012234567891", strict=True)) | {"十": "10"}
_CHINESE_COUNT: Final = re.compile(r"(?<![\u3040-\u9fff])([零一二两三四五六七八九十])(?=[个只块处枚张颗]|[\s。.]*$)")
_CHINESE_NONE: Final = (["无"], ["没", "有"])
_MEASURE_WORDS: Final = frozenset("个只块处枚张颗")

_LISTS: Final = frozenset({",", ";", "/", "+", "&", "and", "和", "与", "及", "\n"})
_ALTERNATIVES: Final = frozenset({"or", "vs", "versus", "或"})
_SENTENCE_ENDS: Final = frozenset({".", "!", "?"})
_REASONS: Final = frozenset({"because", "since"})
NEGATIONS: Final = frozenset(
    {"no", "not", "non", "without", "never", "neither", "nor", "cannot", "absent", "unlikely", "excluded", "absence"} | set("无没未非不")
)
RELATIONS: Final = frozenset(
    {"to", "above", "below", "behind", "under", "beneath", "underneath", "from", "between", "over", "near", "beside", "adjacent", "than"}
    | {"around", "into", "after", "before", "outside", "inside"}
)
"""Words between two things whose order matters: "anterior to the colon"."""

_HEDGES: Final = frozenset(
    {"probably", "likely", "possibly", "maybe", "perhaps", "presumably", "apparently", "suspected", "definitely", "clearly"}
    | {"just", "located", "situated", "please"}
)
_ROUGHLY: Final = frozenset({"approximately", "roughly", "about", "around", "circa"})
_LEADING: Final = _HEDGES | ARTICLES | {"in", "on", "at", "within", "of", "its", "their", "some", "be", "been", "like", "as", "the", ":"}
_VERBS: Final = frozenset(
    {"is", "are", "was", "were", "be", "shows", "show", "showing", "depicts", "demonstrates", "reveals", "see", "seems", "appears", "think"}
    | {"indicates", "suggests", "represents", "lies", "displays", "contains", "looks", "believe", "say", "has", "s", "called", ":"}
    | {"located", "situated", "like", "found"}
)
_FRAME: Final = _VERBS | frozenset(
    {"it", "this", "that", "these", "those", "they", "there", "i", "we", "you", "here", "the", "a", "an", "of", "in", "on", "to", "for"}
    | {"organ", "image", "picture", "answer", "modality", "scan", "plane", "colour", "color", "abnormality", "lesion", "disease", "finding"}
    | {"diagnosis", "number", "count", "side", "part", "region", "area", "location", "position", "shape", "structure", "system", "view"}
    | {"patient", "slice", "photo", "type", "kind", "name", "largest", "biggest", "main", "primary", "imaging", "technique", "weighting"}
    | {"function", "treatment", "cause", "symptom", "shown", "seen", "visible", "displayed", "affected", "depicted", "can", "would", "my"}
    | {"body", "clearly", "most", "likely", "probably", "abnormal", "object", "thing", "result", "correct", "final", "question"}
)
"""Words of the sentence around an answer, before its verb."""
_TAIL: Final = frozenset(
    {
        "visible",
        "shown",
        "present",
        "seen",
        "in",
        "on",
        "this",
        "the",
        "image",
        "picture",
        "scan",
        "here",
        "displayed",
        "depicted",
        "affected",
    }
    | {"clearly", "view", "slice", "photo", "can", "be", "is", "are", "what", "it", "that", "there", "of", "study"}
)
_VIEWS: Final = frozenset({"image", "picture", "scan", "slice", "photo", "view", "radiograph"})
_NEEDLESS: Final = frozenset({"the", "of", "an", "的", '"', "'", "(", ")", "[", "]", "{", "}", "*", "-", "=", "<", ">", "^", ":", "∙", "s"})
_BEHIND_IMAGE_TERMS: Final = frozenset({"scan", "image", "imaging", "study", "picture", "photo", "examination", "slice", "section", "view"})
_IMAGE_KINDS: Final = frozenset({Kind.MODALITY, Kind.TECHNIQUE, Kind.PLANE})
_PLACE_KINDS: Final = frozenset({Kind.SIDE, Kind.POSITION})
_BOTH_SIDES: Final = frozenset({frozenset({"left", "right"}), frozenset({"左", "右"})})
_CHINESE_VERBS: Final = frozenset("是为示见于在:")
_CHINESE_FRAME: Final = frozenset(
    "这该图像片中的器官位置显示可能应我认为它病变答案颜色形状模态成平面主要看起来疑似考虑部扫描方式数量在是见于大概也许里:"
)
_CHINESE_HEDGES: Final = (("可", "能"), ("应", "该"), ("大", "概"), ("也", "许"), ("疑", "似"), ("似", "乎"), ("位", "于"), ("考", "虑"))


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


@lru_cache(maxsize=8192)
def read_items(text: str, *, with_synonyms: bool = True) -> Answer:
    """The items of the last MAX_LENGTH characters of a text. Without synonyms only spelling, plural and the sentence are ignored."""
    text = text[-MAX_LENGTH:]
    text = _NUMBER_WORD.sub(lambda match: _NUMBER_WORDS[match[0].lower()], text)
    if not text.isascii():
        text = _CHINESE_COUNT.sub(lambda match: _CHINESE_NUMBERS[match[1]], text)
    text, quantities = take_quantities(text)
    words = split_words(text).folded
    is_question = "?" in words[-1:]
    first, has_more = _first_sentence(words)
    bare = _strip_sentence(first)
    items: dict[Item, None] = {}
    has_alternatives = False
    for part, is_alternative in _split_list(_join_sides(bare)):
        has_alternatives = has_alternatives or is_alternative
        item = _read_item(_strip_part(part), quantities, with_synonyms=with_synonyms)
        if item.words or item.quantities:
            items[item] = None
        if len(items) == MAX_ITEMS:
            break
    return Answer(items=tuple(_merge(list(items))), has_alternatives=has_alternatives, has_more=has_more, is_question=is_question)


def _first_sentence(words: Sequence[str]) -> tuple[list[str], bool]:
    """The words up to the first end of a sentence or a reason, and whether words follow that end."""
    begin = next((at for at, word in enumerate(words) if word[0].isalnum() or quantity_index(word) is not None), 0)
    for at in range(begin, len(words)):
        if words[at] in _SENTENCE_ENDS:
            return list(words[begin:at]), any(word[0].isalnum() for word in words[at + 1 :])
        if words[at] in _REASONS and at > begin:
            return list(words[begin:at]), False
    return list(words[begin:]), False


def _strip_sentence(words: list[str]) -> list[str]:
    """The words without the sentence around the answer; all words where nothing else remains."""
    stripped, frame_end = words, 0
    is_chinese = any("\u3040" <= word[0] <= "\u9fff" for word in words[:2])
    frame, verbs = (_CHINESE_FRAME, _CHINESE_VERBS) if is_chinese else (_FRAME, _VERBS)
    for at, word in enumerate(words):
        if word not in frame:
            break
        if word in verbs:
            frame_end = at + 1
    if 0 < frame_end < len(words) and any(word not in _TAIL for word in words[frame_end:]):
        stripped = words[frame_end:]
    else:
        verb = next((at for at, word in enumerate(words) if at and word in ("is", "are", "can")), len(words))
        if verb < len(words) and all(word in _TAIL for word in words[verb:]):
            stripped = words[:verb]
    return stripped


def _strip_part(words: list[str]) -> list[str]:
    """The words of one part without hedges, articles and prepositions before it, and without "in this image" behind it."""
    begin, end = 0, len(words)
    while begin < end and (words[begin] in _LEADING or _is_hedge(words, begin)):
        begin += 1
    while tuple(words[begin : begin + 2]) in _CHINESE_HEDGES:
        begin += 2
        begin += words[begin : begin + 1] == ["是"]
    while end > begin and words[end - 1] in _HEDGES:
        end -= 1
    if end - begin > 2 and words[end - 1] in _VIEWS:
        at = end - 2
        while at > begin and words[at] in ("the", "this", "an", "a", "s", "patient"):
            at -= 1
        if words[at] in ("in", "on", "of"):
            end = at
    return words[begin:end] or words


def _is_hedge(words: Sequence[str], at: int) -> bool:
    """Whether a word weakens only what follows it here: "most" of "most likely", "about" of "about 2 cm"."""
    following = words[at + 1] if at + 1 < len(words) else ""
    return (words[at] == "most" and following in _HEDGES) or (words[at] in _ROUGHLY and quantity_index(following) is not None)


def _join_sides(words: list[str]) -> list[str]:
    """The words with "bilateral" in place of "left and right"."""
    joined: list[str] = []
    position = 0
    while position < len(words):
        first, link, second = [*words[position : position + 3], "", "", ""][:3]
        if frozenset((first, second)) in _BOTH_SIDES and link in _LISTS - {","}:
            joined.append("bilateral")
            position += 3
        else:
            joined.append(first)
            position += 1
    return joined


def _split_list(words: Sequence[str]) -> Iterator[tuple[list[str], bool]]:
    """The parts of a list, each with whether an "or" stands before it."""
    part: list[str] = []
    is_alternative = False
    for word in words:
        if word not in _LISTS and word not in _ALTERNATIVES:
            part.append(word)
            continue
        yield part, is_alternative
        part, is_alternative = [], word in _ALTERNATIVES or (is_alternative and not part)
    yield part, is_alternative


def _read_item(words: Sequence[str], quantities: Sequence[Quantity], *, with_synonyms: bool) -> Item:
    folded = [fold_word(word) for at, word in enumerate(words) if word not in _NEEDLESS or (word == "s" and at == 0)]
    if folded in _CHINESE_NONE or (len(folded) == 2 and folded[0] == "no" and folded[1] in GENERIC):  # "no abnormality" is none
        return Item(words=(), quantities=(Quantity(low=0.0, high=0.0),), begins_with_number=True)
    marks = [quantities[index] for word in folded if (index := quantity_index(word)) is not None and index < len(quantities)]
    begins_with_number = bool(folded) and quantity_index(folded[0]) is not None
    plain = [word for word in folded if quantity_index(word) is None and not (marks and word in _MEASURE_WORDS)]
    if plain and plain[0] in ("r", "l") and len(plain) > 1:
        plain[0] = "right" if plain[0] == "r" else "left"
    canonical = _canonical(plain) if with_synonyms else plain
    return Item(words=tuple(canonical), quantities=tuple(marks), begins_with_number=begins_with_number)


def _canonical(words: Sequence[str]) -> list[str]:
    """The words with terms in place of their synonyms, and without nouns such as "scan" behind the name of a modality."""
    terms = answer_terms()
    found: list[str] = []
    position = 0
    kind: Kind | None = None
    while position < len(words):
        if (match := terms.match(words, position)) is not None:
            length, canonical = match
            found += [word for word in canonical if found[-1:] != [word]]  # "plain film radiograph"
            kind = terms.kinds.get(canonical[-1])
            position += length
            continue
        word = words[position]
        position += 1
        is_tail = (kind in _IMAGE_KINDS and word in _BEHIND_IMAGE_TERMS) or (kind is Kind.COLOUR and word == "colour")
        is_tail = is_tail or (kind is Kind.COLOUR and word == "in" and list(words[position:]) == ["colour"])
        if not is_tail:
            found.append(word)
            kind = None
    return found


def _merge(items: Sequence[Item]) -> Sequence[Item]:
    """One item for "left and top" of places only, and no MRI beside a weighting of MRI, which implies it."""
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
