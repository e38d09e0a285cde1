"""The mentions of a text: where it names a value, before the grammar decides what is said about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Final

from osler.facts import Kind
from osler.grading.stance import CLAUSE_ENDS, COPULAS
from osler.grading.terms import (
    GENERIC,
    NAMESAKES,
    NOT_A_PLANE,
    NOT_A_SIDE,
    NOT_AN_ORGAN,
    NUMBERS,
    SUBSTANCES,
    TermIndex,
    Values,
    fold_word,
    general_terms,
)
from osler.text import ARTICLES, locate_words, split_words

_SENTENCE_ENDS: Final = frozenset({".", "!", "?", "\n"})
_MIDDLES: Final = frozenset({"centre", "center", "middle", "midline"})
WHOLES: Final = _MIDDLES | {"image", "picture", "scan", "film", "frame", "screen", "slice", "field", "body", "patient"}
PLACE_NOUNS: Final = frozenset({"half", "side", "part", "portion", "quadrant", "corner", "third", "edge", "hand"})
"""Nouns behind a side or a position that name no thing: "the left half"."""
_NOT_A_PLACE: Final = frozenset({"lobe", "pole", "segment", "zone", "limb", "limit", "signal", "than"})
_ORGAN_PARTS: Final = frozenset({"margin", "border", "tip", "edge", "end", "aspect", "surface", "contour", "wall", "base"})
"""Nouns that name a part of what stands behind "of": "the inferior margin of the liver"."""
_INNER: Final = frozenset({"middle", "mid"})
_CLEAR: Final = frozenset({"free", "clear", "normal", "unremarkable", "healthy", "spared", "unaffected", "uninvolved"})
_BRIGHTNESS: Final = frozenset({"bright", "dark", "black", "white", "grey", "gray", "high", "low"})
_BEFORE_PLANES: Final = frozenset({"intra", "extra", "off", "non"})
_FUNCTIONS: Final = frozenset(
    {"function", "functions", "task", "job", "role", "purpose", "responsible", "pump", "pumps", "filter", "filters"}
    | {"secrete", "secretes", "produce", "produces", "digest", "digests"}
)
_SHOWN: Final = frozenset(
    {"see", "seen", "visible", "show", "shows", "shown", "image", "picture", "slice", "section", "scan", "there", "here", "depicted"}
    | {"identify", "identified", "contains", "included", "present"}
)
_COMMON: Final = frozenset(
    {"usually", "typically", "generally", "commonly", "common", "often", "always", "rarely", "seldom", "practice"}
    | {"depends", "tend", "tends", "options", "choices", "candidates", "possible"}
)
"""Words of sentences about images of a kind, or about the options, rather than about this image."""
_COMPARED: Final = frozenset({"before", "prior", "previous", "previously", "since", "compared", "comparison", "interval", "earlier"})
_NEEDS_NO_COMPARISON: Final = frozenset({"unchanged", "new", "resolved"})
_NOT_COUNTED: Final = CLAUSE_ENDS | COPULAS | {"cm", "mm", "of", "year", "years", "day", "days"}
_NOUN_DISTANCE: Final = 4
"""Within how many words behind a number its noun stands."""
_CLAUSE: Final = 10
PLACES: Final = frozenset({Kind.SIDE, Kind.POSITION})
IMAGE_KINDS: Final = frozenset({Kind.MODALITY, Kind.TECHNIQUE, Kind.PLANE})
"""The kinds that are about the image as a whole."""
ATTRIBUTES: Final = PLACES | {Kind.SIZE, Kind.COUNT, Kind.COLOUR, Kind.SEVERITY, Kind.CHANGE}
"""The kinds that are about something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """One value that a text names, at the words `begin` to `end`."""

    kind: Kind
    value: str
    begin: int
    end: int

    @property
    def is_noun(self) -> bool:
        """Whether a side, a size or a colour can be about it."""
        return self.kind in (Kind.ANATOMY, Kind.PRESENCE)

    @property
    def is_generic(self) -> bool:
        """Whether it stands for the only lesion of the image, as "abnormality" does."""
        return self.kind is Kind.PRESENCE and self.value in GENERIC


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A text as words, with its mentions in order."""

    folded: list[str]  # as `split_words` gives them
    is_joined: list[bool]
    spans: list[tuple[int, int]]  # characters of each word
    mentions: tuple[Mention, ...]

    @cached_property
    def unclaimed(self) -> list[str]:
        """The words with "" for those of mentions, so that "a dark area without a wall" negates nothing behind it."""
        words = list(self.folded)
        for mention in self.mentions:
            words[mention.begin : mention.end] = [""] * (mention.end - mention.begin)
        return words

    @cached_property
    def nouns(self) -> dict[int, Mention]:
        """The mentions that something can be about, by their first word."""
        return {mention.begin: mention for mention in self.mentions if mention.is_noun}

    @cached_property
    def attributes(self) -> dict[int, Mention]:
        """The mentions that are about something, by each of their words."""
        return {at: mention for mention in self.mentions if mention.kind in ATTRIBUTES for at in range(mention.begin, mention.end)}

    @cached_property
    def image_words(self) -> dict[int, Mention]:
        """The mentions that are about the image as a whole, by their first word."""
        return {mention.begin: mention for mention in self.mentions if mention.kind in IMAGE_KINDS}

    @cached_property
    def sentences(self) -> list[int]:
        """The number of the sentence of every word."""
        numbers, number = [], 0
        for word in self.folded:
            numbers.append(number)
            number += word in _SENTENCE_ENDS
        return numbers

    @cached_property
    def questions(self) -> frozenset[int]:
        """The numbers of the sentences that end with a question mark."""
        return frozenset(number for word, number in zip(self.folded, self.sentences, strict=True) if word == "?")

    @cached_property
    def comparisons(self) -> frozenset[int]:
        """The numbers of the sentences that compare with an earlier image."""
        return frozenset(number for word, number in zip(self.folded, self.sentences, strict=True) if word in _COMPARED)

    @cached_property
    def common_knowledge(self) -> frozenset[int]:
        """The numbers of the sentences that hold for many images: "cysts are common in adults", "options include normal and cyst"."""
        shown = {number for word, number in zip(self.folded, self.sentences, strict=True) if word in _SHOWN}
        return frozenset(number for word, number in zip(self.folded, self.sentences, strict=True) if word in _COMMON) - shown

    @cached_property
    def generalities(self) -> frozenset[int]:
        """The numbers of the sentences about organs in general, not about this image: "the ear is part of the head"."""
        words: dict[int, list[str]] = {}
        for word, number in zip(self.folded, self.sentences, strict=True):
            words.setdefault(number, []).append(word)
        return frozenset(
            number
            for number, sentence in words.items()
            if _SHOWN.isdisjoint(sentence)
            and (
                not _FUNCTIONS.isdisjoint(sentence)
                or any(word in COPULAS and sentence[at + 1 : at + 3] == ["part", "of"] for at, word in enumerate(sentence))
            )
        )

    def clause_behind(self, position: int) -> list[str]:
        """The words from a position to the end of its clause, at most ten."""
        return list(takewhile(lambda word: word not in CLAUSE_ENDS, self.folded[position : position + _CLAUSE]))

    def clause_before(self, position: int) -> list[str]:
        """The words of the clause before a position, at most ten, the nearest first."""
        return list(takewhile(lambda word: word not in CLAUSE_ENDS, reversed(self.folded[max(0, position - _CLAUSE) : position])))


def find_mentions(text: str, own: TermIndex) -> Reading:
    """The mentions of the last `text.MAX_LENGTH` characters: at each word the longest phrase; of two equal ones that of the dataset."""
    words = split_words(text)
    content = [number for number, word in enumerate(words.folded) if word not in ARTICLES]
    found = _match([fold_word(words.folded[number]) for number in content], content, own, general_terms())
    whole = Reading(folded=words.folded, is_joined=words.is_joined, spans=locate_words(text, words), mentions=tuple(found))
    meant = [mention for mention in found if _is_meant(mention, whole)]
    meant += [*_counts(whole), *_heights(whole)]
    meant.sort(key=lambda mention: (mention.begin, mention.end))
    return Reading(folded=whole.folded, is_joined=whole.is_joined, spans=whole.spans, mentions=tuple(meant))


def _match(folded: list[str], content: list[int], own: TermIndex, general: TermIndex) -> list[Mention]:
    """The longest phrases among the words without articles; `content` holds the place of each in the text."""
    mentions: list[Mention] = []

    def add(begin: int, length: int, values: Values) -> None:
        for kind, value in values:
            mention = Mention(kind=kind, value=value, begin=content[begin], end=content[begin + length - 1] + 1)
            twin = next((other for other in mentions[-2:] if (other.kind, other.value, other.end) == (kind, value, mention.begin)), None)
            if twin is not None:  # "T2-weighted MRI" states MRI once
                mentions.remove(twin)
            mentions.append(mention)

    position = 0
    while position < len(folded):
        matches = [found for index in (own, general) if (found := index.match(folded, position)) is not None]
        if not matches:
            position += 1
            continue
        length, values = max(matches, key=lambda found: found[0])
        add(position, length, values)
        kinds = {kind for kind, _ in values}
        if Kind.TECHNIQUE in kinds and Kind.MODALITY not in kinds:  # "non-contrast CT" is CT too
            for inner in range(position, position + length):
                implied = general.match(folded[: position + length], inner)
                if implied is not None and implied[1][0][0] is Kind.MODALITY:
                    add(inner, implied[0], implied[1][:1])
        position += length
    return mentions


def _is_meant(mention: Mention, reading: Reading) -> bool:
    """Whether the words around a phrase leave it the meaning of its kind."""
    behind = [word for word in reading.clause_behind(mention.end) if word not in ARTICLES]
    before = reading.folded[mention.begin - 1] if mention.begin else ""
    match mention.kind:
        case Kind.SIDE | Kind.POSITION:
            return _is_place(mention, reading, behind)
        case Kind.CHANGE:
            return mention.value in _NEEDS_NO_COMPARISON or reading.sentences[mention.begin] in reading.comparisons
        case Kind.ANATOMY | Kind.PRESENCE if mention.value in SUBSTANCES:
            is_described = behind[:1] != [] and behind[0] in COPULAS and not _BRIGHTNESS.isdisjoint(behind[1:3])
            return before not in _BRIGHTNESS and not is_described
        case Kind.ANATOMY:
            return not _is_namesake(mention, reading, behind)
        case Kind.PLANE:
            return not NOT_A_PLANE.intersection(behind[:1]) and before not in _BEFORE_PLANES
    return True


def _is_namesake(mention: Mention, reading: Reading, behind: list[str]) -> bool:
    """Whether the name of an organ is that of something else: "the pancreatic head", "the head of the pancreas", "heart failure"."""
    if mention.value == "hand" and reading.folded[mention.begin - 1] in ("left", "right") and reading.is_joined[mention.begin - 1]:
        return True
    if mention.value not in NAMESAKES or mention.end - mention.begin > 1:
        return bool(NOT_AN_ORGAN.intersection(behind[:1]))
    if (reading.folded[mention.begin - 1],) in NAMESAKES[mention.value] and mention.begin:
        return True
    return behind[:1] == ["of"] and any(at in reading.nouns for at in range(mention.end + 1, mention.end + 3))


def _is_place(mention: Mention, reading: Reading, behind: list[str]) -> bool:
    """Not "the right answer", "the left lobe", "left of the heart" or "the left side is clear"; but "left of the centre"."""
    if "patient" in reading.folded[max(0, mention.begin - 2) : mention.begin]:
        return False
    if (pair := pair_behind(mention, reading)) is not None:  # "the upper and lower lobes"
        behind = [word for word in reading.clause_behind(pair.end) if word not in ARTICLES]
    if behind[:1] and behind[0] in _INNER:  # "the right middle lobe"
        behind = behind[1:]
    behind = [fold_word(word) for word in behind]
    if behind and (behind[0] in _NOT_A_PLACE or (mention.kind is Kind.SIDE and (behind[0],) in NOT_A_SIDE)):
        return False
    while behind and behind[0] in PLACE_NOUNS:
        behind = behind[1:]
    if behind[:1] and behind[0] in COPULAS and not _CLEAR.isdisjoint(behind[1:3]):
        return False
    if behind[1:2] == ["of"] and behind[0] in _ORGAN_PARTS:
        behind = behind[1:]
    return behind[:1] != ["of"] or behind[1:2] == [] or behind[1] in WHOLES


def pair_behind(mention: Mention, reading: Reading) -> Mention | None:
    """The second of two places that stand before one noun: the "left" of "the right and left lungs"."""
    if reading.folded[mention.end : mention.end + 1] not in (["and"], ["or"]):
        return None
    other = reading.attributes.get(mention.end + 1)
    return other if other is not None and other.kind is mention.kind and other.begin == mention.end + 1 else None


def _counts(reading: Reading) -> Iterator[Mention]:
    """Numbers before a noun: "two large kidneys"."""
    for position, word in enumerate(reading.unclaimed):
        value = NUMBERS.get(word) or (word if word.isdecimal() and len(word) <= 2 else None)
        if value is None:
            continue
        for behind in range(position + 1, min(position + 1 + _NOUN_DISTANCE, len(reading.folded))):
            if behind in reading.nouns:
                yield Mention(kind=Kind.COUNT, value=value, begin=position, end=position + 1)
                break
            if reading.unclaimed[behind] in _NOT_COUNTED or not reading.folded[behind].isalpha():
                break


def _heights(reading: Reading) -> Iterator[Mention]:
    """ "Above the centre" is a position; "above the diaphragm" is not."""
    for position, word in enumerate(reading.unclaimed):
        if word in ("above", "below") and not _MIDDLES.isdisjoint(reading.clause_behind(position)):
            yield Mention(kind=Kind.POSITION, value="upper" if word == "above" else "lower", begin=position, end=position + 1)
