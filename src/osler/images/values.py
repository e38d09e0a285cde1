"""What the values of slices say beside their pictures: a window by percentiles, and what a picture hides without a word.

Only slices of DICOM files in grey and of volumes have values; pictures have none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from osler.errors import DataError
from osler.images.dicom import DicomFrame
from osler.images.geometry import unturned
from osler.types import ImageSource

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Parts = Callable[[], Iterator[NDArray[np.float64]]]

PERCENTILES: Final = (0.5, 99.5)
"""Of the values of a series: what `window = "auto"` shows black and white."""

_BINS: Final = 1 << 16
_FINE: Final = 1 << 12  # a bin is at most this part of the range that is shown
_PASSES: Final = 8  # each makes bins at least _BINS times as narrow
_NEARLY_ALL: Final = 0.99  # of the values, that are shown as one tone
_ALIKE: Final = 0.97  # of the values, from which on they are taken for equal


@runtime_checkable
class HasValues(Protocol):
    """A slice whose picture is made of values."""

    def read_values(self) -> NDArray[np.float64]:
        """The values in one row, without padding; some may be no finite numbers. Raises DataError as `load` does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundWindow:
    """The window that is found in the values of a series."""

    window: str | None  # "12..834"; None where all values are equal
    note: str  # how it was found


@lru_cache(maxsize=64)
def find_window(slices: tuple[ImageSource, ...], _state: int) -> FoundWindow:
    """One window for all slices: from the percentile 0.5 of all their values to the percentile 99.5, else from minimum to maximum.

    The numbers are right within 1/2000 of the range. `_state` is a number that changes with the files. Raises DataError where
    a slice cannot be read or has colours.
    """
    import numpy as np

    def parts() -> Iterator[NDArray[np.float64]]:
        for source in map(unturned, slices):
            if isinstance(source, HasValues):
                values = source.read_values()
                yield values[np.isfinite(values)]

    ends = [(values.min(), values.max()) for values in parts() if values.size]
    if not ends:
        return FoundWindow(window=None, note="the window auto is left out: no value is a number")
    least, most = float(min(low for low, _ in ends)), float(max(high for _, high in ends))
    if least == most or not math.isfinite(most - least):
        what = "all values are equal" if least == most else "the values are too large"
        return FoundWindow(window=None, note=f"the window auto is left out: {what}")
    low, high = _find_percentiles(parts, least, most)
    how = f"the percentiles {PERCENTILES[0]:g} and {PERCENTILES[1]:g} of the values of {len(slices)} slices"
    if not low < high:
        low, high, how = least, most, f"the least and the largest value of {len(slices)} slices, whose percentiles are equal"
    window = f"{_write(low, high - low)}..{_write(high, high - low)}"
    return FoundWindow(window=window, note=f"the window auto is {window}, {how}")


def _write(value: float, width: float) -> str:
    """A number without an exponent, within 1/10,000 of the width."""
    import numpy as np

    return np.format_float_positional(value + 0.0, precision=max(0, 4 - math.floor(math.log10(width))), trim="-")


def _find_percentiles(parts: Parts, least: float, most: float) -> tuple[float, float]:
    """Both percentiles of all values, which lie from `least` to `most`, by histograms whose bins grow narrower around them."""
    low, high = _narrow(parts, (least, most), PERCENTILES)
    for _ in range(_PASSES):
        if max(low[1] - low[0], high[1] - high[0]) <= (high[1] - low[0]) / _FINE:
            break
        (low,), (high,) = (_narrow(parts, _tighten(parts, span), [share]) for span, share in zip((low, high), PERCENTILES, strict=True))
    return low[0], high[1]


def _narrow(parts: Parts, span: tuple[float, float], percentiles: Sequence[float]) -> list[tuple[float, float]]:
    """For each percentile of all values the bin that holds it, of a histogram over a span that holds it."""
    import numpy as np

    low, high = span
    step = (high - low) / _BINS
    if not low < low + step < high:
        return [span] * len(percentiles)
    counts, below, total = np.zeros(_BINS, np.int64), 0, 0
    for values in parts():
        counts += np.histogram(values, _BINS, (low, high))[0]
        below += int(np.count_nonzero(values < low))
        total += values.size
    reached = np.cumsum(counts) + below
    places = [min(int(np.searchsorted(reached, percentile / 100 * total)), _BINS - 1) for percentile in percentiles]
    blur = 2 * float(np.spacing(max(abs(low), abs(high))))  # of the edges, which are rounded
    return [(max(low, low + place * step - blur), min(high, low + (place + 1) * step + blur)) for place in places]


def _tighten(parts: Parts, span: tuple[float, float]) -> tuple[float, float]:
    """The least and the largest value within a span that holds some."""
    inside = (values[(values >= span[0]) & (values <= span[1])] for values in parts())
    ends = [(values.min(), values.max()) for values in inside if values.size]
    return float(min(low for low, _ in ends)), float(max(high for _, high in ends))


def find_hidden_values(slices: Sequence[ImageSource]) -> tuple[str, ...]:
    """What the pictures of slices hide: values that are no numbers, and values of a range that all become one tone.

    Every slice is decoded. Slices that have colours or cannot be read are left out: of the latter `files.verify` tells why.
    """
    import numpy as np

    tones, equal = np.zeros(256, np.int64), Counter[float]()
    num_values = num_missing = num_flat = num_looked = 0
    for source in slices:
        own = unturned(source)
        if not isinstance(own, HasValues):
            continue
        try:
            stored = own.read_values()
            values = stored[np.isfinite(stored)]
            histogram = np.array(source.load().convert("L").histogram()) if values.size else None
            has_own_range = _has_own_range(own)
        except DataError:
            continue
        num_missing += stored.size - values.size
        num_values += stored.size
        if histogram is None:
            continue
        middle = float(np.partition(values, values.size // 2)[values.size // 2])
        alike = int(np.count_nonzero(values == middle))
        num_flat += has_own_range and _is_flat(histogram, alike / values.size)
        num_looked += 1
        tones += histogram
        equal[middle] += alike
    found = []
    if num_missing:
        found.append(f"{_percent(num_missing / num_values)} of its values are no numbers: they are black")
    if num_looked and _is_flat(tones, max(equal.values()) / max(1, num_values - num_missing)):
        found.append(f"{_percent(tones.max() / tones.sum())} of its values are shown as one tone, though they differ: give a window")
    elif num_flat:
        found.append(f"{num_flat} of {num_looked} slices show nearly all values as one tone, though they differ: give a window")
    return tuple(found)


def _is_flat(tones: NDArray[np.int64], alike: float) -> bool:
    """Whether nearly all pixels have one tone, by the counts of the tones, but not nearly all values are equal."""
    return bool(tones.max() >= _NEARLY_ALL * tones.sum()) and alike < _ALIKE


def _has_own_range(source: ImageSource) -> bool:
    """Whether a slice is scaled by its own minimum and maximum; of others an empty one may well be one tone."""
    if not isinstance(source, DicomFrame) or source.window is not None:
        return False
    return not source.read_elements(("WindowCenter", "VOILUTSequence"))


def _percent(share: float) -> str:
    """A share, such as "0.5 %", that is "all" for 1 only."""
    return "all" if share == 1 else f"{max(0.1, min(99.9, 100 * share)):.1f} %"
