"""Windows: from values in the units of a modality to tones from 0 (black) to 255 (white), by the formulas of DICOM PS3.3, C.11.2.1.

A window is asked for by a short text:

    "lung"                   a preset for CT, in Hounsfield units
    "40/400"                 centre and width, in the units of the file
    "-0.5..2.25"             the values that are black and white, in the units of the file
    "file:2"                 the second window of the file
    "file:BONE"              the window that the file explains so, in any case
    "lung+mediastinum+bone"  three of these, one for each of the channels red, green and blue

A study may also ask for "auto": `values.find_window` makes a range of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from osler.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WHITE: Final = 255.0
_NUMBER: Final = r"-?\d+(?:\.\d+)?"
AUTO: Final = "auto"
"""The window of a study that is found in its values."""

_RANGE: Final = re.compile(rf"({_NUMBER})\.\.({_NUMBER})")
_CENTER_WIDTH: Final = re.compile(rf"({_NUMBER})/({_NUMBER})")
_IN_FILE: Final = re.compile(r"file:(?:(\d{1,4})|(.+))")
_CHANNELS: Final = 3


class VoiFunction(StrEnum):
    """How a window maps values: the defined terms of VOI LUT Function (0028,1056)."""

    LINEAR = "LINEAR"
    LINEAR_EXACT = "LINEAR_EXACT"
    SIGMOID = "SIGMOID"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A range of values that is shown, e.g. centre 40 and width 400; values below it are black, values above it white."""

    center: float
    width: float
    function: VoiFunction = VoiFunction.LINEAR
    explanation: str = ""  # Window Center & Width Explanation (0028,1055): "BONE"

    @property
    def is_valid(self) -> bool:
        """Whether the standard defines this window: LINEAR needs a width of at least 1, the others one above 0."""
        is_wide = self.width >= 1 if self.function is VoiFunction.LINEAR else self.width > 0
        return math.isfinite(self.center) and math.isfinite(self.width) and is_wide


PRESETS: Final[Mapping[str, Window]] = MappingProxyType(
    {
        "lung": Window(center=-600, width=1500),
        "mediastinum": Window(center=50, width=350),
        "bone": Window(center=400, width=1800),
        "brain": Window(center=40, width=80),
        "subdural": Window(center=75, width=215),
        "stroke": Window(center=40, width=40),
        "liver": Window(center=30, width=150),
        "soft_tissue": Window(center=50, width=400),
    }
)
"""Windows for CT in Hounsfield units, from the list "typical window width and level values" of Radiopaedia's article "Windowing (CT)"
(radiopaedia.org/articles/windowing-ct, compared with two copies of the list in November 2026). Where it gives two ranges (subdural: width
130 to 300, level 50 to 100) their middle; of its two stroke windows, 8/32 and 40/40, the wider one; bone is that of the spine, soft tissue
that of the abdomen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileWindow:
    """A window of the file, by its number from 1 or by its explanation."""

    number: int | None = None
    explanation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A window of `PRESETS`, by its name."""

    name: str

    @property
    def window(self) -> Window:
        """Its centre and width."""
        return PRESETS[self.name]


WindowChoice = Window | FileWindow | Preset


def parse_windows(text: str | None) -> tuple[WindowChoice, ...]:
    """The windows of a text such as "lung", "40/400" or "lung+mediastinum+bone": none, one, or one for each channel.

    Raises ConfigError for any other text.
    """
    if text is None:
        return ()
    if not isinstance(text, str):
        raise ConfigError(f"window {text!r} is no text: use one such as 'lung' or '40/400'")
    choices = tuple(_parse_one(part.strip()) for part in text.split("+"))
    if len(choices) not in (1, _CHANNELS):
        raise ConfigError(f"window {text!r} has {len(choices)} parts: one window, or three for the channels red, green and blue")
    return choices


def _parse_one(text: str) -> WindowChoice:
    if text in PRESETS:
        return Preset(name=text)
    if match := _CENTER_WIDTH.fullmatch(text):
        window = Window(center=float(match[1]), width=float(match[2]))
        if not window.is_valid:
            raise ConfigError(f"window {text!r}: the width must be at least 1")
        return window
    if match := _RANGE.fullmatch(text):
        low, high = float(match[1]), float(match[2])
        window = Window(center=(low + high) / 2, width=high - low, function=VoiFunction.LINEAR_EXACT)
        if not window.is_valid:
            raise ConfigError(f"window {text!r}: the second value must be larger than the first")
        return window
    if match := _IN_FILE.fullmatch(text):
        if match[1] == "0":
            raise ConfigError(f"window {text!r}: the first window of a file has the number 1")
        return FileWindow(number=int(match[1])) if match[1] else FileWindow(explanation=match[2])
    ways = "CENTRE/WIDTH such as 40/400, BLACK..WHITE, file:NUMBER or file:EXPLANATION, and auto for a study"
    raise ConfigError(f"window {text!r} is unknown: {', '.join(PRESETS)}, {ways}")


def to_range(low: float, high: float) -> Window | None:
    """The window of the values that are black and white; None where they are equal."""
    window = Window(center=(low + high) / 2, width=high - low, function=VoiFunction.LINEAR_EXACT)
    return window if window.is_valid else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LookupTable:
    """A modality or VOI lookup table: `entries[i]` is the output for the value `first + i`; values outside take the nearest end."""

    entries: NDArray[np.float64]
    first: float
    max_output: float  # 2 ** bits - 1, by the descriptor

    def apply(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The entries of `values`, which are rounded to integers, in the same shape."""
        import numpy as np

        places = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.int64)
        return self.entries[places]


def apply_window(values: NDArray[np.float64], window: Window) -> NDArray[np.float64]:
    """`values` as tones from 0 to 255 in the same shape, not rounded: the equations of PS3.3, C.11.2.1.2.1, C.11.2.1.3.1 and .2."""
    import numpy as np

    center, width = window.center, window.width
    if window.function is VoiFunction.SIGMOID:
        with np.errstate(over="ignore"):  # exp of a large number is infinite, and the tone then 0
            return WHITE / (1 + np.exp(-4 * (values - center) / width))
    if window.function is VoiFunction.LINEAR_EXACT:
        return np.clip(((values - center) / width + 0.5) * WHITE, 0, WHITE)
    if width == 1:
        return np.where(values <= center - 0.5, 0.0, WHITE)
    with np.errstate(over="ignore", invalid="ignore"):  # of values near the largest that there are
        return np.clip(((values - (center - 0.5)) / (width - 1) + 0.5) * WHITE, 0, WHITE)


def apply_range(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """`values` as tones from 0 for `low` to 255 for `high`; all 0 where the two are equal."""
    import numpy as np

    return np.clip((values - low) * (WHITE / (high - low) if high > low else 0.0), 0, WHITE)
