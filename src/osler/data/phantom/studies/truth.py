"""What a study shows: the ground truth of each of its pictures, and the answer that follows from all of them together.

Pictures are the slices of a volume from the feet to the head, the frames of a cine in the order of time, the frontal and the lateral view,
or the prior and the current image. The patient's left is on the right of a picture (`osler.images.geometry`).

Answers are uniform over their pool. What one picture shows is nearly independent of the answer: the size of a lesion does not depend on how
many slices it is on, nor on whether it has grown, and the place of a moving spot does not depend on its direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import numpy as np

from osler.data.phantom.atlas import LOCATIONS, NORMAL
from osler.taxonomy import Modality


class StudyKind(StrEnum):
    """A kind of study. The random streams depend on this order."""

    CT_VOLUME = "ct_volume"
    MRI_VOLUME = "mri_volume"
    ULTRASOUND_CINE = "ultrasound_cine"
    XRAY_VIEWS = "xray_views"
    FOLLOW_UP = "follow_up"

    @property
    def modality(self) -> Modality:
        """The modality of its pictures."""
        return _MODALITIES[self]

    @property
    def is_volume(self) -> bool:
        """Whether its pictures are parallel slices."""
        return self in (StudyKind.CT_VOLUME, StudyKind.MRI_VOLUME)

    @property
    def has_views(self) -> bool:
        """Whether it has two pictures, each with a caption."""
        return self in CAPTIONS


class Aspect(StrEnum):
    """What a question asks about a study. The random streams depend on this order."""

    SIDE = "side"  # of the patient
    LEVEL = "level"  # which third of the volume
    COUNT = "count"  # how many lesions
    EXTENT = "extent"  # on how many slices
    DIAGNOSIS = "diagnosis"  # one of three lesions away from the middle of the volume, or none
    MOTION = "motion"  # direction of a moving spot
    CONTRACTION = "contraction"  # of a chamber
    SITE = "site"  # side, and in front or behind
    CHANGE = "change"  # against the prior image
    NEW_SITE = "new_site"  # quadrant of the lesion that the prior image lacks


_MODALITIES: Final = {
    StudyKind.CT_VOLUME: Modality.CT,
    StudyKind.MRI_VOLUME: Modality.MRI,
    StudyKind.ULTRASOUND_CINE: Modality.ULTRASOUND,
    StudyKind.XRAY_VIEWS: Modality.XRAY,
    StudyKind.FOLLOW_UP: Modality.XRAY,
}
CAPTIONS: Final[Mapping[StudyKind, tuple[str, str]]] = MappingProxyType(
    {StudyKind.XRAY_VIEWS: ("Frontal view", "Lateral view"), StudyKind.FOLLOW_UP: ("Prior image", "Current image")}
)
"""The captions of the pictures of a study that is no series."""

_OF_VOLUMES: Final = (Aspect.SIDE, Aspect.LEVEL, Aspect.COUNT, Aspect.EXTENT, Aspect.DIAGNOSIS)
ASPECTS: Final[Mapping[StudyKind, tuple[Aspect, ...]]] = MappingProxyType(
    {
        StudyKind.CT_VOLUME: _OF_VOLUMES,
        StudyKind.MRI_VOLUME: _OF_VOLUMES,
        StudyKind.ULTRASOUND_CINE: (Aspect.MOTION, Aspect.CONTRACTION),
        StudyKind.XRAY_VIEWS: (Aspect.SITE,),
        StudyKind.FOLLOW_UP: (Aspect.CHANGE, Aspect.NEW_SITE),
    }
)
"""The questions of each kind of study."""

SIDES: Final = ("left", "right")
LEVELS: Final = ("lower", "middle", "upper")
NUMBERS: Final = ("one", "two", "three", "four")
DISEASES: Final[Mapping[StudyKind, tuple[str, ...]]] = MappingProxyType(
    {
        StudyKind.CT_VOLUME: ("cyst", "haemorrhage", "abscess"),
        StudyKind.MRI_VOLUME: ("tumour", "haematoma", "calcification"),
        StudyKind.XRAY_VIEWS: ("mass",),
        StudyKind.FOLLOW_UP: ("mass",),
    }
)
STEPS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {"to the left": (-1, 0), "to the right": (1, 0), "upwards": (0, -1), "downwards": (0, 1)}
)
"""The direction of each motion on the screen: to the right and down."""

SWINGS: Final[Mapping[str, float]] = MappingProxyType({"strongly": 0.44, "weakly": 0.17, "not at all": 0.0})
"""By how much of its mean radius a chamber's radius changes between its largest and its smallest."""

CHANGES: Final = ("larger", "smaller", "unchanged", "new", "resolved")
GRADE_RADII: Final = (0.075, 0.125, 0.19, 0.27)
"""The radius of a mass of each grade on a radiograph, in canvas units: tiny, small, medium-sized, large."""

_POOLS: Final = {
    Aspect.SIDE: SIDES,
    Aspect.LEVEL: LEVELS,
    Aspect.COUNT: NUMBERS,
    Aspect.EXTENT: NUMBERS,
    Aspect.MOTION: tuple(STEPS),
    Aspect.CONTRACTION: tuple(SWINGS),
    Aspect.SITE: tuple(f"{side} {depth}" for side in SIDES for depth in ("anterior", "posterior")),
    Aspect.CHANGE: CHANGES,
    Aspect.NEW_SITE: LOCATIONS,
}
_TRAVEL: Final = 0.28  # of a moving spot over the whole cine, in canvas units
_JITTER: Final = 0.05


def pool_of(kind: StudyKind, aspect: Aspect) -> tuple[str, ...]:
    """All answers to the questions of one aspect."""
    return (*DISEASES[kind], NORMAL) if aspect is Aspect.DIAGNOSIS else _POOLS[aspect]


def level_of(picture: int, num_pictures: int) -> str:
    """The third of the volume that holds the middle of a slice, by its number from 0."""
    return LEVELS[int(3 * (picture + 0.5) / num_pictures)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """Where a thing lies on one picture, in canvas units: from -1 (left, top) to 1 (right, bottom)."""

    x: float
    y: float
    radius: float

    @property
    def side(self) -> str:
        """The side of the patient, who is looked at from the front or from the feet."""
        return "left" if self.x > 0 else "right"

    @property
    def height(self) -> str:
        """The half of the picture."""
        return "upper" if self.y < 0 else "lower"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A lesion, a moving spot or a chamber: its spot on each picture, None where it is not there."""

    name: str  # "cyst"
    spots: tuple[Spot | None, ...]

    @property
    def pictures(self) -> tuple[int, ...]:
        """The pictures that show it, counted from 0."""
        return tuple(place for place, spot in enumerate(self.spots) if spot is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The ground truth of one study. The answer can be read from the marks of all pictures together."""

    kind: StudyKind
    aspect: Aspect
    num_pictures: int
    marks: tuple[Mark, ...]
    answer: str


def draw_truth(kind: StudyKind, aspect: Aspect, num_pictures: int, rng: np.random.Generator) -> Truth:
    """A study with a uniformly drawn answer. `num_pictures` is 6 or more for a series, 2 for views."""
    pool = pool_of(kind, aspect)
    answer = pool[rng.integers(len(pool))]
    if kind.is_volume:
        marks = _volume_marks(kind, aspect, answer, num_pictures, rng)
    elif kind is StudyKind.ULTRASOUND_CINE:
        marks = (_moving_mark(answer, num_pictures, rng) if aspect is Aspect.MOTION else _beating_mark(answer, num_pictures, rng),)
    elif kind is StudyKind.XRAY_VIEWS:
        marks = (_two_view_mark(answer, rng),)
    else:
        marks = (_changing_mark(answer, rng),) if aspect is Aspect.CHANGE else _new_marks(answer, rng)
    return Truth(kind=kind, aspect=aspect, num_pictures=num_pictures, marks=marks, answer=answer)


def _volume_marks(kind: StudyKind, aspect: Aspect, answer: str, num: int, rng: np.random.Generator) -> tuple[Mark, ...]:
    """Lesions in different quadrants, so that those of neighbouring slices are not taken for one.

    On which slices they are does not depend on their look or size.
    """
    quadrants = [(x, y) for x in (-1, 1) for y in (-1, 1)]
    order = [int(place) for place in rng.permutation(4)]
    names = [DISEASES[kind][pick] for pick in rng.integers(len(DISEASES[kind]), size=4)]
    length, first = int(rng.integers(1, 3)), 0
    match aspect:
        case Aspect.SIDE:
            first = int(rng.integers(num - length + 1))
            order = [place for place in order if quadrants[place][0] == (1 if answer == "left" else -1)]
        case Aspect.LEVEL:
            within = [slice_ for slice_ in range(num) if level_of(slice_, num) == answer]
            length = min(length, len(within) - 1)
            first = within[rng.integers(len(within) - length + 1)]
        case Aspect.EXTENT:
            length = 1 + NUMBERS.index(answer)
            first = int(rng.integers(num - length + 1))
        case Aspect.DIAGNOSIS:
            outer = [slice_ for slice_ in range(num) if level_of(slice_, num) != "middle"]
            length, first = 1, outer[rng.integers(len(outer))]
            names = [answer]
        case Aspect.COUNT:
            slices = np.sort(rng.permutation(num)[: 1 + NUMBERS.index(answer)])
            return tuple(_lesion(names[n], quadrants[order[n]], int(at), 1, num, rng) for n, at in enumerate(slices))
    return () if answer == NORMAL else (_lesion(names[0], quadrants[order[0]], first, length, num, rng),)


def _lesion(name: str, quadrant: tuple[int, int], first: int, length: int, num: int, rng: np.random.Generator) -> Mark:
    """A lesion on the slices from `first` on, of the same size on all of them but for 6 %."""
    x, y = (sign * at + rng.uniform(-_JITTER, _JITTER) for sign, at in zip(quadrant, (0.35, 0.3), strict=True))
    radii = rng.uniform(0.15, 0.22) * rng.uniform(0.94, 1.06, num)
    shown = range(first, first + length)
    return Mark(name=name, spots=tuple(_spot(x, y, radii[place]) if place in shown else None for place in range(num)))


def _moving_mark(answer: str, num: int, rng: np.random.Generator) -> Mark:
    x, y = rng.uniform(-0.36, 0.36, 2)
    radius = rng.uniform(0.1, 0.14)
    across, down = STEPS[answer]
    ways = [_TRAVEL * (frame / (num - 1) - 0.5) for frame in range(num)]
    return Mark(name="spot", spots=tuple(_spot(x + across * way, y + down * way, radius) for way in ways))


def _beating_mark(answer: str, num: int, rng: np.random.Generator) -> Mark:
    """A chamber during one heart beat, which begins anywhere."""
    x, y = rng.uniform(-0.12, 0.12, 2)
    mean = 0.25 * (0.42 / 0.25) ** rng.uniform()
    phases = 2 * np.pi * (rng.uniform() + np.arange(num) / num)
    radii = mean * (1 + SWINGS[answer] / 2 * np.cos(phases)) * rng.uniform(0.985, 1.015, num)
    return Mark(name="chamber", spots=tuple(_spot(x, y, radius) for radius in radii))


def _two_view_mark(answer: str, rng: np.random.Generator) -> Mark:
    """A mass at one height on both views: the front is on the left of a lateral view."""
    side, depth = answer.split()
    height, radius = rng.choice((-1, 1)) * 0.28 + rng.uniform(-_JITTER, _JITTER), rng.uniform(0.11, 0.17)
    across = [(1 if side == "left" else -1) * 0.4, (-1 if depth == "anterior" else 1) * 0.32]
    return Mark(name="mass", spots=tuple(_spot(x + rng.uniform(-_JITTER, _JITTER), height, radius) for x in across))


def _changing_mark(answer: str, rng: np.random.Generator) -> Mark:
    """A mass on the prior and the current image: one grade more or less, the same, or on one of the two only.

    The grade on either image is uniform over all that the answer leaves, so that it tells little: a large mass has not shrunk.
    """
    grade = int(rng.integers(3 if answer in ("larger", "smaller") else 4))
    grades: tuple[int | None, int | None] = {
        "larger": (grade, grade + 1),
        "smaller": (grade + 1, grade),
        "unchanged": (grade, grade),
        "new": (None, grade),
        "resolved": (grade, None),
    }[answer]
    return _mass(LOCATIONS[rng.integers(4)], grades, rng)


def _new_marks(answer: str, rng: np.random.Generator) -> tuple[Mark, ...]:
    """An unchanged mass, and a new one in another quadrant."""
    others = [place for place in LOCATIONS if place != answer]
    old, new = (int(grade) for grade in rng.integers(4, size=2))
    return _mass(others[rng.integers(3)], (old, old), rng), _mass(answer, (None, new), rng)


def _mass(place: str, grades: tuple[int | None, ...], rng: np.random.Generator) -> Mark:
    """A mass in a quadrant of the chest, "upper left" for the patient's left; None where an image lacks it."""
    height, side = place.split()
    x = (1 if side == "left" else -1) * 0.4 + rng.uniform(-_JITTER, _JITTER)
    y = (-1 if height == "upper" else 1) * 0.32 - 0.05 + rng.uniform(-_JITTER, _JITTER)
    factors = rng.uniform(0.94, 1.06, len(grades))
    spots = (None if grade is None else _spot(x, y, GRADE_RADII[grade] * factor) for grade, factor in zip(grades, factors, strict=True))
    return Mark(name="mass", spots=tuple(spots))


def _spot(x: float, y: float, radius: float) -> Spot:
    return Spot(x=float(x), y=float(y), radius=float(radius))
