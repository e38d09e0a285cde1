"""What is known about a patient beside the image: age, sex, indication, history, prior findings, side.

Ages, sexes and sides have one normal form, however a dataset writes them; all other fields are texts, kept as they are. An error repeats no
value, because it may name a patient.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from osler.errors import DataError

MAX_YEARS: Final = 130.0
"""No age is higher."""

ADULT: Final = 18.0
"""Years from which a patient is an adult."""

CODED: Final = ("age", "sex", "laterality")
"""The fields with a normal form."""

TEXTS: Final = ("indication", "history", "prior_findings", "text")
"""The fields that are texts, in the order of a prompt; an image may stand within them."""

_NOTHING: Final = frozenset({"", "unknown", "unk", "n/a", "na", "none", "null", "nan", "-", "--", "?", "missing", "not available", "u"}) | {
    "not specified", "unspecified", "not reported", "not known", "not applicable", "未知",
}  # fmt: skip
"""What says that a value is not known."""

_SEXES: Final = {
    **dict.fromkeys(("m", "male", "man", "boy", "男", "男性"), "male"),
    **dict.fromkeys(("f", "female", "woman", "girl", "女", "女性"), "female"),
    **dict.fromkeys(("o", "other", "diverse", "intersex", "non-binary", "nonbinary"), "other"),  # O: Patient's Sex (0010,0040)
}
_SIDES: Final = {
    **dict.fromkeys(("l", "left", "lt", "os", "左", "左侧"), "left"),  # OS, OD, OU: the left, right, both eyes
    **dict.fromkeys(("r", "right", "rt", "od", "右", "右侧"), "right"),
    **dict.fromkeys(("b", "both", "bilateral", "ou", "双侧"), "bilateral"),
    "unpaired": None,  # U in Image Laterality (0020,0062)
}
_PER_YEAR: Final = {"year": 1.0, "month": 12.0, "week": 52.1775, "day": 365.2425}
_UNITS: Final = {
    **dict.fromkeys(("", "y", "yr", "yrs", "year", "years", "yo", "y/o", "y.o", "y.o.", "岁"), "year"),
    **dict.fromkeys(("mo", "mos", "month", "months", "个月", "月"), "month"),
    **dict.fromkeys(("w", "wk", "wks", "week", "weeks", "周"), "week"),
    **dict.fromkeys(("d", "day", "days", "天"), "day"),
}
# Age groups in words, each with an age in years that stands for it.
_AGE_WORDS: Final = {
    "newborn": 0.0, "neonate": 0.0, "infant": 0.5, "toddler": 2.0, "child": 8.0, "paediatric": 8.0, "pediatric": 8.0, "adolescent": 15.0,
    "teenager": 15.0, "young adult": 25.0, "adult": 45.0, "middle-aged": 50.0, "elderly": 75.0,
}  # fmt: skip
_IN_YEARS: Final = r"\s*(?:years?|yrs?|y|岁)?(?:\s+old)?"
_DICOM_AGE: Final = re.compile(r"(\d{3})([dwmy])")  # the value representation AS: PS3.5, 6.2
_AGE: Final = re.compile(r"(\d{1,5}(?:\.\d{1,4})?)[\s-]*([a-z/.]*?|岁|个月|月|周|天)(?:[\s-]+old|[\s-]+of age)?")
_AGE_RANGE: Final = re.compile(rf"(\d{{1,3}})\s*(?:-|–|to)\s*(\d{{1,3}}){_IN_YEARS}")
_AGE_OR_MORE: Final = re.compile(rf"(?:>=|≥)?\s*(\d{{1,3}}){_IN_YEARS}\s*(\+|(?:and|or) (?:older|over|above|more))?{_IN_YEARS}")
_AGE_LIMIT: Final = re.compile(rf"(>|over|above|older than|<|under|below|younger than)\s*(\d{{1,3}}){_IN_YEARS}")
_DECADE: Final = re.compile(r"(\d0)'?s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The patient context of a question. None is what is not known; a text that is blank is None.

    `Context(age="063Y", sex="M")` has the age "63 years" and the sex "male". Raises DataError for an age, sex or side that is not known to
    be one, and for a value that is no text. An age may also be given as a number of years.
    """

    age: str | None = None  # "63 years", "3 months", "60-69 years", "over 89 years", "90 years or older", "60s", "adult"
    sex: str | None = None  # "male", "female", "other"
    indication: str | None = None  # why the image was taken: "cough"
    history: str | None = None  # "diabetes, smoker"
    prior_findings: str | None = None  # of earlier images: "nodule of 6 mm in the left lung"
    laterality: str | None = None  # "left", "right", "bilateral"
    text: str | None = None  # free text as a dataset gives it: "67-year-old man, cough"

    def __post_init__(self) -> None:
        """Bring age, sex and side to their normal form."""
        for name, parse in (("age", parse_age), ("sex", parse_sex), ("laterality", parse_laterality)):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, parse(value))
        for name in TEXTS:
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise DataError(f"the {name.replace('_', ' ')} of a patient context is {type(value).__name__}: write it as text")
            if value is not None and not value.strip():
                object.__setattr__(self, name, None)

    @property
    def values(self) -> dict[str, str]:
        """The fields that are known: {"age": "63 years", "indication": "cough"}."""
        return {name: value for name in FIELDS if (value := getattr(self, name)) is not None}

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that are known, in the order of a prompt."""
        return tuple(value for name in TEXTS if (value := getattr(self, name)) is not None)

    def change_texts(self, change: Callable[[str], str]) -> Context:
        """The context with `change(text)` for each of its texts."""
        return replace(self, **{name: change(value) for name in TEXTS if (value := getattr(self, name)) is not None})

    def to_json(self) -> str | dict[str, str] | None:
        """The free text where nothing else is known, else an object with the known fields; None where nothing is."""
        known = self.values
        return (known["text"] if known.keys() == {"text"} else known) if known else None


FIELDS: Final = tuple(field.name for field in fields(Context))
"""The names of the fields, in their order."""


def to_context(value: Any) -> Context | None:
    """A context or its free text as a Context; None where it says nothing. Raises DataError for anything else."""
    if isinstance(value, str):
        return Context(text=value) if value.strip() else None
    if value is not None and not isinstance(value, Context):
        raise DataError(f"a patient context is {type(value).__name__}: give an osler.Context, or text")
    return value if value is not None and value.values else None


def differing_fields(one: Context | None, other: Context | None) -> tuple[str, ...]:
    """The names of the fields that differ between two contexts: ("age", "sex")."""
    one, other = one or Context(), other or Context()
    return tuple(name for name in FIELDS if getattr(one, name) != getattr(other, name))


def parse_age(value: Any) -> str | None:
    """An age in its normal form; None for words such as "unknown", and for NaN. A number without a unit is in years.

    63, "063Y" and "63-year-old" are "63 years", "3 mo" is "3 months", "60-69" is "60-69 years", "90+" is "90 years or older", ">89" is
    "over 89 years", "60s" and "adult" stay. Raises DataError for anything else, an age above 130 years included, and for "63M": months or a
    man.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return None if isinstance(value, float) and math.isnan(value) else _plain_age(float(value), "year")
    text = " ".join(value.split()).casefold().rstrip(".") if isinstance(value, str) else "?!"
    if text in _NOTHING:
        return None
    if text in _AGE_WORDS or _DECADE.fullmatch(text):
        return text.replace("'", "")
    if found := _DICOM_AGE.fullmatch(text):
        return _plain_age(float(found[1]), {"d": "day", "w": "week", "m": "month", "y": "year"}[found[2]])
    if (found := _AGE.fullmatch(text)) and (unit := _UNITS.get(found[2])):
        return _plain_age(float(found[1]), unit)
    if (found := _AGE_RANGE.fullmatch(text)) and int(found[1]) < int(found[2]) <= MAX_YEARS:
        return f"{int(found[1])}-{int(found[2])} years"
    if (found := _AGE_LIMIT.fullmatch(text)) and int(found[2]) <= MAX_YEARS:
        return f"{'over' if found[1] in ('>', 'over', 'above', 'older than') else 'under'} {int(found[2])} years"
    if (found := _AGE_OR_MORE.fullmatch(text)) and (found[2] or text[0] in ">≥") and int(found[1]) <= MAX_YEARS:
        return f"{int(found[1])} years or older"
    raise DataError("an age is no number of years up to 130, '063Y', '3 months', '60-69', '90+' or 'adult': mend it, or leave it out")


def _plain_age(number: float, unit: str) -> str:
    if not 0 <= number / _PER_YEAR[unit] <= MAX_YEARS:
        raise DataError("an age is below 0 or above 130 years: mend it, or leave it out")
    if unit == "year" and 0 < number < 1:
        number, unit = float(round(number * 12)), "month"
    return f"{number:g} {unit}{'' if number == 1 else 's'}"


def years_of(age: str) -> float | None:
    """An age in its normal form as a number of years: the lower limit of a range, an age that stands for a word; None for other text."""
    if (word := _AGE_WORDS.get(age)) is not None:
        return word
    found = re.match(r"(under )?(?:over )?(\d+(?:\.\d+)?)", age)
    if found is None:
        return None
    number = float(found[2]) / next((rate for unit, rate in _PER_YEAR.items() if f" {unit}" in age), 1.0)
    return number - 1 if found[1] else number


def parse_sex(value: Any) -> str | None:
    """ "male", "female" or "other"; None for words such as "unknown". Raises DataError for anything else, also for codes such as 0."""
    key = value.strip().casefold() if isinstance(value, str) else None
    if key in _NOTHING or (isinstance(value, float) and math.isnan(value)):
        return None
    if key not in _SEXES:
        raise DataError("a sex is none of M, F, O, male, female, other: write it so, or leave it out")
    return _SEXES[key]


def parse_laterality(value: Any) -> str | None:
    """ "left", "right" or "bilateral"; None for "unpaired" and words such as "unknown". Raises DataError for anything else."""
    key = value.strip().casefold() if isinstance(value, str) else None
    if key in _NOTHING or (isinstance(value, float) and math.isnan(value)):
        return None
    if key not in _SIDES:
        raise DataError("a laterality is none of L, R, B, left, right, bilateral: write it so, or leave it out")
    return _SIDES[key]
