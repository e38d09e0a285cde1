"""Values that may stay in a de-identified file: terms of the standard, known codes, shifted dates, words of a closed vocabulary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

from osler.data.facts.dicom import dicom_facts
from osler.data.privacy.profile import code_terms, descriptor_words
from osler.facts import Kind
from osler.grading.terms import MODALITY_WORDS
from osler.images.dicom_header import damage_errors

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MAX_AGE: Final = 89
"""Ages above it are told as "90+" (45 CFR 164.514(b)(2)(i)(C)), and written as 090Y."""

UNITS: Final = frozenset({"HU", "US", "OD", "HU_MOD", "MGML", "Z_EFF", "ED", "EDW", "PCT"})
"""Defined terms of Rescale Type (PS3.3, C.11.1.1.2), an element of text that decides how values are shown."""

_DATE: Final = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_DATE_TIME: Final = re.compile(r"(\d{8})((?:\d{2}){0,3}(?:\.\d{1,6})?)([+-]\d{4})?")
_TIME: Final = re.compile(r"(?:[01]\d|2[0-3])(?::?[0-5]\d(?::?[0-6]\d(?:\.\d{1,6})?)?)?")
_AGE: Final = re.compile(r"(\d{3})([DWMY])")
_WORDS: Final = re.compile(r"[A-Za-z]+\d?|\d{1,2}(?=D\b)|[23]D")


def clean_words(text: str) -> str:
    """A description with the words of a closed vocabulary only, in small letters: "AX T2 Brain JOHN SMITH" -> "ax t2 brain".

    The words are those of the general vocabulary of statements and of usual protocol names. A name that is such a word, e.g. Head, stays.
    """
    known = _known_words()
    return " ".join(word for word in (found.lower() for found in _WORDS.findall(text)) if word in known)[:64].strip()


@cache
def _known_words() -> frozenset[str]:
    return descriptor_words() | {word for phrases in MODALITY_WORDS.values() for phrase in phrases for word in phrase}


def is_organ(word: str) -> bool:
    """Whether a body part is one that the vocabulary knows: "CHEST", "LSPINE"."""
    return any(fact.kind is Kind.ANATOMY for fact in dicom_facts({"BodyPartExamined": word}).facts)


def is_term(keyword: str, value: str) -> bool:
    """Whether the value of an element of the VR CS is a term that the standard has for it, and so names nobody."""
    if not value:
        return True
    if keyword == "BodyPartExamined":
        return is_organ(value)
    return value in code_terms().get(keyword, ())


@cache
def known_codes() -> Mapping[tuple[str, str], str]:
    """(scheme, value) of every code of the standard's context groups -> its meaning, from pydicom: ("SCT", "10200004") -> "Liver"."""
    from pydicom.sr import _concepts_dict

    concepts: Mapping[str, Mapping[str, Mapping[str, tuple[str, list[int]]]]] = cast("Any", _concepts_dict.concepts)
    return {
        (scheme, value): meaning
        for scheme, by_keyword in concepts.items()
        for by_value in by_keyword.values()
        for value, (meaning, _) in by_value.items()
    }


def cap_age(text: str) -> str | None:
    """An age as DICOM writes it, above MAX_AGE as "090Y"; None for no age. "095Y" -> "090Y", "011M" -> "011M"."""
    match = _AGE.fullmatch(text.strip())
    if match is None:
        return None
    years = int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[match[2]]
    return f"{MAX_AGE + 1:03d}Y" if years >= MAX_AGE + 1 else match[0]


def age_at(born: str, seen: str) -> str | None:
    """The age between two dates of the VR DA as a value of the VR AS; None where one is no date, or they are not in order."""
    begin, end = parse_date(born), parse_date(seen)
    if begin is None or end is None or end < begin:
        return None
    years = end.year - begin.year - ((end.month, end.day) < (begin.month, begin.day))
    if years >= 2:
        return cap_age(f"{min(years, 999):03d}Y")
    months = (end.year - begin.year) * 12 + end.month - begin.month - (end.day < begin.day)
    return f"{months:03d}M" if months else f"{min((end - begin).days, 999):03d}D"


def parse_date(text: str) -> date | None:
    """A date of the VR DA; None for anything else."""
    if (match := _DATE.fullmatch(text.strip())) is None:
        return None
    try:
        return date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        return None


def move_date(vr: str, text: str, days: int) -> str | None:
    """A value of the VR DA, TM or DT, moved back by whole days (0: as it is); None for a value that is none, or a date before year 1."""
    text = text.strip()
    if vr == "TM":
        return text if _TIME.fullmatch(text) else None
    rest = ""
    if vr == "DT":
        if (match := _DATE_TIME.fullmatch(text)) is None:
            return None
        text, rest = match[1], match[2]  # the offset from UTC tells a place
    if (day := parse_date(text)) is None:
        return None
    try:
        return (day - timedelta(days=days)).strftime("%Y%m%d").zfill(8) + rest
    except OverflowError:
        return None


def texts_of(value: Any) -> list[str]:
    """The values of an element as texts, one or several."""
    if value is None:
        return []
    members: Iterable[Any] = value if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else [value]
    return [str(member) for member in members]


def text_of(dataset: Dataset | Mapping[str, Any], keyword: str) -> str:
    """The value of an element as a text, "" where it is missing or damaged."""
    try:
        return str(dataset.get(keyword) or "").strip()
    except damage_errors():
        return ""
