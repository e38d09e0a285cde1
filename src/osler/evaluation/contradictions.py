"""A patient context that says the opposite, by rules: another age group, the other sex, the other side, a denied indication.

The words of a text are changed in the same way, so that a free text such as "67-year-old man, pain in the left knee" becomes
"6-year-old woman, pain in the right knee". A text without such words stays as it is.
"""

from __future__ import annotations

import re
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from osler.context import ADULT, Context, years_of
from osler.types import PLACE

OLD: Final = 75
"""The age in years that a child gets."""

YOUNG: Final = 6
"""The age in years that an adult gets."""

_PAIRS: Final = (
    ("left", "right"), ("left-sided", "right-sided"), ("male", "female"), ("man", "woman"), ("men", "women"), ("boy", "girl"),
    ("he", "she"), ("his", "her"), ("gentleman", "lady"), ("左", "右"), ("男", "女"),
)  # fmt: skip
_OPPOSITES: Final = MappingProxyType({one: other for pair in _PAIRS for one, other in (pair, pair[::-1])})
# "left" and "right" are no sides in "left untreated" and "right-handed"; 左右 is "about".
_WORD: Final = re.compile(
    r"\b(?:" + "|".join(sorted((word for word in _OPPOSITES if word.isascii()), key=len, reverse=True)) + r")\b"
    r"(?!\s+(?:untreated|away|over|out|angle|behind)\b|-handed)|左(?!右)|(?<!左)右|[男女]",
    re.IGNORECASE,
)
# A number of years is an age only with a word that says so: "cough for 3 years".
_AGE: Final = re.compile(
    r"\b(\d{1,3})(?=[\s-]*(?:years?|yrs?)[\s-]+(?:old|male|female|man|woman|boy|girl)\b|[\s-]*(?:y/?o\b|y\.o\.)|\s*岁)"
    r"|(?:(?<=\baged )|(?<=\bage )|(?<=\bage: ))(\d{1,3})\b|^(\d{1,3})(?=\s?[MF]\b)",
    re.IGNORECASE,
)
# "45 yo F" anywhere and "45F" at the beginning, but not "101 F", a temperature.
_SHORT: Final = re.compile(r"\b(\d{1,3})(\s?(?:y/?o|y\.o\.)\s?)([MF])\b|^(\d{1,3})(\s?)([MF])\b")
_DENIED: Final = re.compile(r"(?:no|not|without|denies|denied|negative for)\s+(?:evidence of\s+|any\s+)?", re.IGNORECASE)
_ASKED: Final = re.compile(
    r"(?:please\s+)?(?:evaluat(?:e|ion)|assess(?:ment)?|rule out|r/o|suspected|suspicion|suspect|concern|query|\?)"
    r"\s*(?:(?:for|of)\b)?[\s:]*",
    re.IGNORECASE,
)
_SEVERAL: Final = re.compile(r"[,;.\n]\s*\S|\b(?:and|or|with)\b", re.IGNORECASE)


def contradict(context: Context) -> Context:
    """The context with the opposite of what it says in every field that has one; the same context where none has."""
    changed = {name: change_words(text) for name in ("history", "prior_findings", "text") if (text := getattr(context, name)) is not None}
    if context.age is not None:
        changed["age"] = _other_age(context.age)
    for name, value in (("sex", context.sex), ("laterality", context.laterality)):
        if value is not None:
            changed[name] = _OPPOSITES.get(value, value)
    if context.indication is not None:
        changed["indication"] = contradict_indication(context.indication)
    return replace(context, **changed)


def _other_age(age: str) -> str:
    years = years_of(age)
    return age if years is None else f"{OLD if years < ADULT else YOUNG} years"


def contradict_indication(text: str) -> str:
    """The other side where the text names one, else its opposite: "cough" -> "no cough", "no cough" -> "cough".

    >>> [contradict_indication(text) for text in ("pain in the left knee", "evaluate for pneumonia", "cough, fever")]
    ['pain in the right knee', 'no pneumonia', 'none of the following: cough, fever']
    """
    if (swapped := change_words(text)) != text:
        return swapped
    bare = text.strip()
    if found := _DENIED.match(bare):
        return bare[found.end() :]
    bare = bare[found.end() :] if (found := _ASKED.match(bare)) and bare[found.end() :].strip(" .?") else bare
    if bare.casefold().rstrip(".") in ("none", "normal", "healthy"):
        return "abnormal"
    if bare.startswith(PLACE) or _SEVERAL.search(bare):
        return f"none of the following: {bare}"
    return f"no {bare[:1].lower() if bare[1:2].islower() else bare[:1]}{bare[1:]}"


def change_words(text: str) -> str:
    """The text with other ages, sexes and sides; the same text where it names none.

    >>> change_words("67-year-old man, pain in the left knee")
    '6-year-old woman, pain in the right knee'
    """
    short = _SHORT.sub(lambda found: f"{found[1] or found[4]}{found[2] or found[5] or ''}{'FM'['MF'.index(found[3] or found[6])]}", text)
    aged = _AGE.sub(lambda found: str(OLD if int(found[1] or found[2] or found[3]) < ADULT else YOUNG), short)
    return _WORD.sub(lambda found: _like(_OPPOSITES[found[0].lower()], found[0]), aged)


def _like(word: str, model: str) -> str:
    """The word in the case of another one: "LEFT" -> "RIGHT", "Left" -> "Right"."""
    if model.isupper() and len(model) > 1:
        return word.upper()
    return word.capitalize() if model[0].isupper() else word
