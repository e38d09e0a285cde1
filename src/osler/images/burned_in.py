"""Signs of text in the pixels of an image: what a DICOM header says, and a detector of lines of small bright or dark marks.

The detector looks for what a scanner or a workstation writes: marks of one height, side by side on one line, of one tone that differs
from its surroundings. `docs/privacy.md` has its measured errors. It finds a line, it does not read it, and it misses single letters,
handwriting and text that is fainter than MIN_CONTRAST or smaller than MIN_HEIGHT.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

MIN_HEIGHT: Final = 5
MAX_HEIGHT: Final = 80  # _TALLEST times the largest reduction
"""Pixels of a letter's height."""

MIN_CONTRAST: Final = 48
"""Grey values, of 255, between a letter and its surroundings."""

MIN_LETTERS: Final = 4
"""Marks of a line, below which it is taken for anatomy or a side marker."""

_REDUCTIONS: Final = (1, 2, 4)  # the picture is looked at in full size, in half and in a quarter
_STRONG: Final = 110  # grey values: the edges of letters that touch fall below it
_WINDOW: Final = 7  # pixels: a stroke is thinner
_TALLEST: Final = 20  # pixels of a letter in one of the sizes
_SPREAD: Final = 30  # grey values between the tones of one line
_MAX_GAP: Final = 1.2  # letter heights between two letters
_MAX_DRIFT: Final = 1.7  # letter heights of a line, which stands straight
_ENHANCED_SC: Final = "1.2.840.10008.5.1.4.1.1.7"
_ULTRASOUND: Final = ("1.2.840.10008.5.1.4.1.1.6", "1.2.840.10008.5.1.4.1.1.3")
_DRAWN: Final = frozenset({"SCREEN SAVE", "DOSE_INFO", "POST_PROCESSED", "OVERVIEW", "LABEL"})


class Header(Protocol):
    """A DICOM data set, or any mapping from keyword to value."""

    def get(self, key: str, default: Any = None, /) -> Any:
        """The value of an element by its keyword."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLine:
    """A line of marks that looks like text, in pixels of the picture; right and bottom are outside."""

    left: int
    top: int
    right: int
    bottom: int
    num_letters: int


def header_signs(header: Header) -> tuple[str, ...]:
    """Why the pixels of a DICOM file may show a name, by its header; () without a sign, which is no proof that there is none.

    "burned-in annotation" (0028,0301), "recognizable visual features" (0028,0302), "secondary capture", "ultrasound", "screen image".
    """
    kind = str(header.get("SOPClassUID") or "")
    words = {str(word).upper() for word in header.get("ImageType") or ()}
    signs = {
        "burned-in annotation": str(header.get("BurnedInAnnotation") or "").upper() == "YES",
        "recognizable visual features": str(header.get("RecognizableVisualFeatures") or "").upper() == "YES",
        "secondary capture": kind.startswith(_ENHANCED_SC) or str(header.get("Modality") or "") in ("SC", "OT"),
        "ultrasound": kind.startswith(_ULTRASOUND) or str(header.get("Modality") or "") == "US",
        "screen image": bool(words & _DRAWN),
    }
    says_no = str(header.get("BurnedInAnnotation") or "").upper() == "NO"
    return tuple(sign for sign, holds in signs.items() if holds and not (says_no and sign in ("secondary capture", "ultrasound")))


def find_text(picture: Image) -> tuple[TextLine, ...]:
    """The lines of marks in a picture that look like text, from the top."""
    import numpy as np

    grey = picture.convert("L")
    lines: dict[tuple[int, int, int, int], TextLine] = {}
    for factor in _REDUCTIONS:
        if min(grey.size) < 2 * _WINDOW * factor:
            break
        tones = np.asarray(grey.reduce(factor), dtype=np.int16)
        for line in (line for marks in (*_marks(tones), *_marks(255 - tones)) for line in _lines(marks)):
            box = tuple(factor * side for side in (line.left, line.top, line.right, line.bottom))
            if not any(_overlap(box, known) for known in lines):
                left, top, right, bottom = box
                lines[left, top, right, bottom] = replace(line, left=left, top=top, right=right, bottom=bottom)
    return tuple(sorted(lines.values(), key=lambda line: (line.top, line.left)))


def _overlap(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@dataclass(frozen=True, slots=True)
class _Mark:
    """A connected group of pixels that are brighter than what is around them."""

    left: int
    top: int
    right: int
    bottom: int
    tone: float

    @property
    def height(self) -> int:
        return self.bottom - self.top


def _marks(tones: NDArray[np.int16]) -> Iterator[list[_Mark]]:
    """The bright marks of letter size, whose strokes are thin and of one tone: those of weak contrast, then those of strong contrast."""
    from scipy import ndimage

    background = ndimage.grey_opening(tones, size=(_WINDOW, _WINDOW))
    rise = tones - background
    for contrast in (MIN_CONTRAST, _STRONG):
        yield _find_marks(tones, rise >= contrast)


def _find_marks(tones: NDArray[np.int16], mask: NDArray[np.bool_]) -> list[_Mark]:
    """The connected groups of a mask that have the size and the tone of a letter."""
    import numpy as np
    from scipy import ndimage

    if not mask.any():
        return []
    labels, num = ndimage.label(mask, structure=np.ones((3, 3), int))
    found = []
    areas = np.bincount(labels.ravel(), minlength=num + 1)
    for label, place in enumerate(ndimage.find_objects(labels), start=1):
        rows, columns = place
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if not (MIN_HEIGHT <= height <= _TALLEST and width <= 2.2 * height and areas[label] >= 4):
            continue
        fill = areas[label] / (height * width)
        if fill < 0.18 or (fill > 0.92 and width > 0.6 * height):
            continue
        core = tones[place][labels[place] == label]
        low, high = np.percentile(core, (50, 95))
        if high - low <= _SPREAD:
            found.append(_Mark(columns.start, rows.start, columns.stop, rows.stop, float(high)))
    return found


def _lines(marks: list[_Mark]) -> Iterator[TextLine]:
    """The chains of at least MIN_LETTERS marks on one base line, of one height and tone."""
    rest = sorted(marks, key=lambda mark: mark.left)
    used: set[int] = set()
    for number, first in enumerate(rest):
        if number in used:
            continue
        chain = [number]
        last = first
        for other in range(number + 1, len(rest)):
            mark = rest[other]
            if mark.left - last.right > _MAX_GAP * max(last.height, mark.height) + 2:
                break
            if other not in used and _follows(last, mark):
                chain.append(other)
                last = mark
        members = [rest[place] for place in chain]
        tallest = max(mark.height for mark in members)
        span = max(mark.bottom for mark in members) - min(mark.top for mark in members)
        if len(chain) >= MIN_LETTERS and span <= _MAX_DRIFT * tallest:
            used.update(chain)
            yield TextLine(
                left=min(mark.left for mark in members),
                top=min(mark.top for mark in members),
                right=max(mark.right for mark in members),
                bottom=max(mark.bottom for mark in members),
                num_letters=len(members),
            )


def _follows(one: _Mark, other: _Mark) -> bool:
    """Whether a mark can be the next letter behind another: capitals beside small letters differ in height, not in base line or tone."""
    height = max(one.height, other.height)
    return (
        other.left >= one.right - 1
        and min(one.height, other.height) >= 0.55 * height
        and abs(one.bottom - other.bottom) <= max(1, 0.22 * height)
        and abs(one.tone - other.tone) <= _SPREAD
    )
