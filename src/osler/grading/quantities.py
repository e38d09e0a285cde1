"""Numbers, ranges and measured lengths in an answer, and whether two of them are equal: "2 cm" is "20 mm", not "2 mm".

A number without a unit is a count and must be equal. Two measured values are equal within TOLERANCE.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

TOLERANCE: Final = 0.05
"""The relative difference up to which two measured values are equal: the relaxed accuracy of PlotQA (Methani et al. 2020) and ChartQA
(Masry et al. 2022)."""

MAX_QUANTITIES: Final = 64
"""Quantities that are read in one answer; further ones stay words."""

_FIRST_MARK: Final = 0xE000  # a private character stands for each quantity among the words
_PRIVATE: Final = re.compile("[\ue000-\uf8ff]")
_TIMES: Final = re.compile(r"(?<=\d)\s?[x×]\s?(?=\d)")  # "3x4 cm"

# Factors to the SI unit of the dimension or, without one, to the unit that is usual in reports. Symbols: BIPM, The International System
# of Units (2019).
_UNITS: Final = {
    "length": {"mm": 1e-3, "millimetre": 1e-3, "millimeter": 1e-3, "毫米": 1e-3, "cm": 1e-2, "centimetre": 1e-2, "centimeter": 1e-2,
               "厘米": 1e-2, "公分": 1e-2, "µm": 1e-6, "um": 1e-6, "micron": 1e-6, "micrometre": 1e-6, "micrometer": 1e-6, "微米": 1e-6,
               "metre": 1.0, "meter": 1.0, "m": 1.0, "inch": 0.0254, "inches": 0.0254},
    "volume": {"ml": 1e-3, "cc": 1e-3, "millilitre": 1e-3, "milliliter": 1e-3, "毫升": 1e-3, "litre": 1.0, "liter": 1.0, "l": 1.0},
    "mass": {"mg": 1e-3, "g": 1.0, "gram": 1.0, "kg": 1e3},
    "share": {"%": 1.0, "percent": 1.0, "per cent": 1.0},
    "angle": {"°": 1.0, "degree": 1.0, "度": 1.0},
    "attenuation": {"hu": 1.0, "hounsfield unit": 1.0},
    "time": {"second": 1.0, "sec": 1.0, "minute": 60.0, "min": 60.0, "hour": 3600.0, "day": 86400.0, "week": 7 * 86400.0,
             "month": 365.25 / 12 * 86400, "year": 365.25 * 86400, "yr": 365.25 * 86400, "岁": 365.25 * 86400, "周": 7 * 86400.0},
}  # fmt: skip
_FACTORS: Final = {unit: (dimension, factor) for dimension, units in _UNITS.items() for unit, factor in units.items()}
_UNIT: Final = "|".join(sorted(map(re.escape, _FACTORS), key=lambda unit: -len(unit)))
_NUMBER: Final = r"\d{1,12}(?:\.\d{1,12})?"
_QUANTITY: Final = re.compile(
    rf"(?<![^\W\u3040-\u9fff])(?<!\d\.)(?:(?P<bound><=?|>=?|≤|≥|(?<![^\s(])[-−](?=\d))\s?)?(?P<low>{_NUMBER})"
    rf"(?:\s?(?:{_UNIT})?\s?(?:-|–|to|至|到|~)\s?(?P<high>{_NUMBER}))?"
    rf"(?:\s?-?\s?(?P<unit>{_UNIT})s?(?![^\W\u4e00-\u9fff]))?(?![^\W\u4e00-\u9fff]|\.\d)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A number or a range with the dimension of its unit. Example: "2-3 cm"."""

    low: float  # 0.02, in the unit of the dimension
    high: float  # 0.03; equal to `low` for a single number
    dimension: str | None = None  # "length"; None for a count
    bound: str = ""  # "<" of "< 5 mm", "-" of a negative number

    @property
    def is_range(self) -> bool:
        """Whether it gives two ends."""
        return self.low != self.high


def take_quantities(text: str) -> tuple[str, list[Quantity]]:
    """`text` with one private character in place of each quantity, and the quantities in order; `quantity_index` is the way back."""
    found: list[Quantity] = []

    def replace(match: re.Match[str]) -> str:
        if len(found) == MAX_QUANTITIES:
            return match[0]
        dimension, factor = _FACTORS.get((match["unit"] or "").lower(), (None, 1.0))
        low = float(match["low"]) * factor
        high = float(match["high"]) * factor if match["high"] else low
        bound = (match["bound"] or "").replace("≤", "<").replace("≥", ">")[:1]
        found.append(Quantity(low=min(low, high), high=max(low, high), dimension=dimension, bound=bound))
        return f" {chr(_FIRST_MARK + len(found) - 1)} "

    return _QUANTITY.sub(replace, _TIMES.sub(" x ", _PRIVATE.sub(" ", text))), found


def quantity_index(word: str) -> int | None:
    """Which quantity a word of the text of `take_quantities` stands for; None for any other word."""
    index = ord(word) - _FIRST_MARK if len(word) == 1 else -1
    return index if 0 <= index < MAX_QUANTITIES else None


def is_same_quantity(one: Quantity, other: Quantity) -> bool | None:
    """Whether two quantities are equal; None where only one has a unit, or where a number lies within the other's range."""
    if one.dimension != other.dimension:
        return None if None in (one.dimension, other.dimension) else False
    if _is_within_bound(one, other) or _is_within_bound(other, one):
        return None  # "0.5 cm" for "< 1 cm"
    tolerance = 0.0 if one.dimension is None else TOLERANCE
    if one.is_range == other.is_range:
        is_same = _is_close(one.low, other.low, tolerance) and _is_close(one.high, other.high, tolerance)
        return None if is_same and one.bound != other.bound else is_same
    span, number = (one, other) if one.is_range else (other, one)
    return None if span.low <= number.low <= span.high else False


def _is_within_bound(bounded: Quantity, number: Quantity) -> bool:
    """Whether a single number without a bound is allowed by the bound of another."""
    if bounded.bound not in ("<", ">") or number.bound or number.is_range or bounded.is_range:
        return False
    return number.low < bounded.low if bounded.bound == "<" else number.low > bounded.low


def _is_close(one: float, other: float, tolerance: float) -> bool:
    return abs(one - other) <= tolerance * max(abs(one), abs(other)) + 1e-12
