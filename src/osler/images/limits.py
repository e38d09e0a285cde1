"""The limits of an image that is read, whatever its format."""

from __future__ import annotations

from typing import Final

MAX_PIXELS: Final = 64_000_000
"""The maximum of width x height, e.g. 8000 x 8000."""

MAX_BYTES: Final = 512 * 1024**2
"""The largest image file that is opened."""

MAX_ASPECT_RATIO: Final = 200
"""The largest ratio of the longer to the shorter side; the processors of the Qwen2-VL family reject larger ones."""

MAX_SLICES: Final = 100_000
"""The most slices or frames of one file, all time points together."""


def size_fault(width: int, height: int) -> str | None:
    """Why an image of this size is refused, e.g. "has 30000 x 30000 pixels, ..."; None for a size within the limits."""
    if width * height > MAX_PIXELS:
        return f"has {width} x {height} pixels, more than {MAX_PIXELS:,}: store a smaller copy"
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        return f"has {width} x {height} pixels, too narrow for any model: remove the row"
    return None
