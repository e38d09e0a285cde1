"""Where organs and findings lie: by the boxes and by the answers to position questions.

SLAKE uses two conventions, measured on its boxes and recorded in docs/datasets.md. The place of an organ without a side of its own, such as
the liver, is its place in the image. The side of a finding of the lungs or the brain is the patient's side, which the image shows mirrored.
The half above or below is the same in both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from osler.facts import Fact, Kind
from osler.text import fold_words

DEAD_ZONE: Final = 0.05
"""A centre closer to the middle of the image than this share of its width or height lies on neither side."""

_OPPOSITE: Final = {"left": "right", "right": "left", "upper": "lower", "lower": "upper"}
_VERTICAL: Final = {"upper": "upper", "top": "upper", "lower": "lower", "bottom": "lower"}
_POSITION: Final = re.compile(
    r"(?:where is are|where is|where are|which is|which place does|what part of the lung is) (?:the )?(?P<name>.+?)"
    r"(?: (?:in|existing in|in the lung of) this image.*| (?:in the lung|located|locate)\b.*)?"
)


@dataclass(frozen=True, slots=True)
class Place:
    """The side and the half in which something lies; None where it is on neither or unknown."""

    side: str | None  # "left" or "right"
    half: str | None  # "upper" or "lower"

    def mirrored(self) -> Place:
        """The same place with the sides of the patient instead of those of the image, or the reverse."""
        return Place(_OPPOSITE.get(self.side or ""), self.half)

    def contradicts(self, other: Place) -> bool:
        """Whether one is left where the other is right, or above where the other is below."""
        return (self.side, other.side) in _OPPOSITE.items() or (self.half, other.half) in _OPPOSITE.items()


def place_of_box(box: tuple[float, float, float, float], size: tuple[int, int]) -> Place:
    """The place in the image of the centre of a box [x, y, width, height] in pixels; `size` is the image's width and height."""
    across, down = ((box[axis] + box[axis + 2] / 2) / size[axis] - 0.5 for axis in (0, 1))
    return Place(_beyond(across, "left", "right"), _beyond(down, "upper", "lower"))


def _beyond(offset: float, before: str, behind: str) -> str | None:
    return None if abs(offset) < DEAD_ZONE else before if offset < 0 else behind


def common_place(places: Sequence[Place]) -> Place:
    """The side and the half that all of one or more places share."""
    sides, halves = {place.side for place in places}, {place.half for place in places}
    return Place(sides.pop() if len(sides) == 1 else None, halves.pop() if len(halves) == 1 else None)


@lru_cache(maxsize=4096)
def asked_place(question: str) -> str | None:
    """What a position question asks for: "Where is the liver in this image?" -> "liver"; None for other questions."""
    match = _POSITION.fullmatch(fold_words(question))
    return match["name"] if match else None


def place_of_answer(answer: str) -> Place | None:
    """The place that a short answer states: "Upper Left Lung", "Left Lung, Right" (the image's side comes second and is left out), "Top".

    None for an answer with other words, such as "above the rectum".
    """
    text = re.sub(r"\bside\b|\bof\b|\bthe\b", " ", fold_words(answer))
    paired = re.fullmatch(r"(left|right) (?:lung|chest) (?:(upper|lower) ?)?(?:left|right)?", " ".join(text.split()))
    if paired:
        return Place(paired[1], paired[2])
    words = [word for word in text.split() if word not in ("lung", "lobe", "chest", "brain", "and")]
    sides = [word for word in words if word in ("left", "right")]
    halves = [_VERTICAL[word] for word in words if word in _VERTICAL]
    if len(sides) + len(halves) != len(words) or not words or len(sides) > 1 or len(halves) > 1:
        return None
    return Place(sides[0] if sides else None, halves[0] if halves else None)


def place_facts(about: str, place: Place) -> Iterator[Fact]:
    """The side, the half and the quarter, and that the others are wrong."""
    if place.side:
        yield Fact(kind=Kind.SIDE, value=place.side, about=about)
        yield Fact(kind=Kind.SIDE, value=_OPPOSITE[place.side], about=about, holds=False)
    if place.half:
        yield Fact(kind=Kind.POSITION, value=place.half, about=about)
        yield Fact(kind=Kind.POSITION, value=_OPPOSITE[place.half], about=about, holds=False)
    for half in ("upper", "lower"):
        for side in ("left", "right"):
            if place.side == side and place.half == half:
                yield Fact(kind=Kind.POSITION, value=f"{half} {side}", about=about)
            elif Place(side, half).contradicts(place):
                yield Fact(kind=Kind.POSITION, value=f"{half} {side}", about=about, holds=False)
