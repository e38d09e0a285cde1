"""Heat maps: tables of coloured cells with black text, which is readable on every colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Colour = tuple[float, float, float]
"""Red, green and blue, 0 to 255."""

_NOTHING: Final[Colour] = (244, 245, 246)
_BLUE: Final[Colour] = (54, 130, 196)  # the contrast of black text is 5; WCAG 2.2 requires 4.5, also over the lines of a hatched cell
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
    return _style(_NOTHING, 1.0) if value is None else _style(_BLUE, value)


def shade_difference(value: float | None, *, is_faded: bool = False) -> str:
    """The colours of a difference as CSS: orange below 0, white at 0, blue above, full at 40 points; `is_faded` for hatched cells."""
    if value is None:
        return _style(_NOTHING, 1.0)
    return _style(_BLUE if value > 0 else _ORANGE, min(1.0, abs(value) / _FULL) * (_FADE if is_faded else 1.0))


def _style(colour: Colour, strength: float) -> str:
    """The colour mixed with white: white at a strength of 0, the full colour at 1."""
    red, green, blue = (round(255 + strength * (part - 255)) for part in colour)
    return f"background-color: rgb({red}, {green}, {blue}); color: #000000"
