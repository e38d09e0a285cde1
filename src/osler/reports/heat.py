"""Heat maps: tables of coloured cells, with text that is readable on every colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Colour = tuple[float, float, float]
"""Red, green and blue, 0 to 255."""

_NOTHING: Final[Colour] = (244, 245, 246)
_WHITE: Final[Colour] = (255, 255, 255)
_BLACK: Final[Colour] = (0, 0, 0)
_BLUE: Final[Colour] = (54, 130, 196)  # no darker: on the blues between this and navy neither black nor white text stands out well
_ORANGE: Final[Colour] = (222, 110, 40)
_FULL: Final = 0.4
"""The difference that gets the full colour; most differences are smaller."""

_FADE: Final = 0.5
"""How far the colour of a hatched cell is mixed with white, so that its text is readable over the lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One cell of a heat map."""

    text: str  # "61.2", "+12.0", or a dash
    detail: str = ""  # "[51, 70]", below the text
    style: str = ""  # its colours as CSS
    hint: str = ""  # shown when the pointer is over the cell
    mark: str = ""  # "not significant"; a tile with a mark is hatched
    star: str = ""  # "*" where a difference is significant, for terminals, which have no colours
    is_edge: bool = False  # a mean beside the cells, or another policy's row below them


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """One table, e.g. with train domains as rows and test domains as columns."""

    title: str
    caption: str = ""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Tile, ...]], ...]
    means: str = ""  # "diagonal 61.2 [..], off-diagonal .., all .."
    corner: str = ""  # meaning of rows and columns, "trained on \N{DOWNWARDS ARROW} tested on \N{RIGHTWARDS ARROW}"
    has_diagonal: bool = False  # rows and columns are the same domains, and the diagonal is marked


def shade(value: float | None) -> str:
    """The colours of a share as CSS: white at 0 to blue at 1."""
    return _style(_NOTHING if value is None else _mix(_WHITE, _BLUE, value))


def shade_difference(value: float | None, *, is_faded: bool = False) -> str:
    """The colours of a difference as CSS: orange below 0, white at 0, blue above, full at 40 points; `is_faded` for hatched cells."""
    if value is None:
        return _style(_NOTHING)
    strength = min(1.0, abs(value) / _FULL) * (_FADE if is_faded else 1.0)
    return _style(_mix(_WHITE, _BLUE if value > 0 else _ORANGE, strength))


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _style(background: Colour) -> str:
    red, green, blue = background
    return f"background-color: rgb({red:.0f}, {green:.0f}, {blue:.0f}); color: {readable_on(background)}"


def readable_on(background: Colour) -> str:
    """Black or white as CSS, the one with more contrast: at least 4.58 on every colour, and WCAG 2.2 requires 4.5."""
    white, black = contrast(background, _WHITE), contrast(background, _BLACK)
    return "#ffffff" if white > black else "#000000"


def contrast(first: Colour, second: Colour) -> float:
    """The contrast ratio of two colours, 1 to 21 (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio)."""
    darker, lighter = sorted((_luminance(first), _luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: Colour) -> float:
    """Relative luminance, 0 to 1 (https://www.w3.org/TR/WCAG22/#dfn-relative-luminance)."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (part / 255 for part in colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
