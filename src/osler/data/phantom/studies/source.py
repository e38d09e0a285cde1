"""A procedural study, and each of its pictures as an image source that is drawn when it is needed.

Everything follows from (seed, split, kind, aspect, index): pictures can be drawn in any order and in any process. A study is drawn for one
question, so it is also the subject.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from osler.data.phantom.canvas import STANDARD_DIFFICULTY, Difficulty
from osler.data.phantom.images import check_drawing
from osler.data.phantom.studies.draw import draw
from osler.data.phantom.studies.truth import ASPECTS, Aspect, Mark, StudyKind, Truth, draw_truth
from osler.errors import ConfigError
from osler.images.windows import Window, apply_window, parse_windows
from osler.taxonomy import SPLITS, Split

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

DEFAULT_SIZE: Final = 84
"""Pixels of a slice's side: three by three visual tokens of 28 pixels."""

DEFAULT_SLICES: Final = 8
MIN_SLICES: Final = 6
MAX_SLICES: Final = 64
WINDOWS: Final[Mapping[StudyKind, str]] = MappingProxyType(
    {
        StudyKind.CT_VOLUME: "40/400",  # Hounsfield units
        StudyKind.MRI_VOLUME: "500/1000",  # a signal of 0 to about 1000
        StudyKind.ULTRASOUND_CINE: "128/256",  # the tones themselves
        StudyKind.XRAY_VIEWS: "500/1000",
        StudyKind.FOLLOW_UP: "500/1000",
    }
)
"""The window that each kind is shown with, as `osler.images.windows` writes it."""

_STREAM: Final = 100  # added to the kind: the streams of single images have no modality of such a number
_TRUTH, _ANATOMY, _NOISE, QUESTION, SHORTCUT = 0, 1, 2, 3, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomStudy:
    """A study of several pictures. Raises ConfigError for a value out of range."""

    kind: StudyKind
    aspect: Aspect
    split: Split
    seed: int  # 0 .. 2**32 - 1
    index: int
    size: int = DEFAULT_SIZE  # pixels
    num_slices: int = DEFAULT_SLICES  # of a volume or a cine; the others have two pictures
    difficulty: Difficulty = STANDARD_DIFFICULTY

    def __post_init__(self) -> None:
        if self.aspect not in ASPECTS[self.kind]:
            raise ConfigError(f"no question about {self.aspect} fits {self.kind}: use one of {', '.join(ASPECTS[self.kind])}")
        check_drawing(self.split, self.seed, self.index, self.size)
        if not MIN_SLICES <= self.num_slices <= MAX_SLICES:
            raise ConfigError(f"a phantom study of {self.num_slices} slices cannot be drawn: use {MIN_SLICES} to {MAX_SLICES}")

    @property
    def num_pictures(self) -> int:
        """2 for views and a follow-up."""
        return 2 if self.kind.has_views else self.num_slices

    @property
    def name(self) -> str:
        """What tells it from every other study of its size: "ct_volume/level/test/0/17"."""
        return f"{self.kind}/{self.aspect}/{self.split}/{self.seed}/{self.index}"

    @property
    def window(self) -> str:
        """The window that its pictures are shown with."""
        return WINDOWS[self.kind]

    @property
    def truth(self) -> Truth:
        """What it shows."""
        return _draw_truth(self)

    @property
    def pictures(self) -> tuple[StudyPicture, ...]:
        """Its pictures in their order."""
        return tuple(StudyPicture(study=self, number=number) for number in range(1, self.num_pictures + 1))

    def stream(self, purpose: int, picture: int = 0) -> np.random.Generator:
        """The random generator for one purpose, independent of all others."""
        kind, aspect = list(StudyKind).index(self.kind) + _STREAM, list(Aspect).index(self.aspect)
        return np.random.default_rng([self.seed, SPLITS.index(self.split), kind, aspect, self.index, purpose, picture, 1])

    def values(self, number: int) -> NDArray[np.int16]:
        """One picture, counted from 1, in the units of its window, (size, size): Hounsfield units for CT."""
        truth = self._scaled_truth()
        field = draw(truth, number - 1, self.stream(_ANATOMY), self.stream(_NOISE, number), self.size, self.difficulty)
        return np.rint(field).astype(np.int16)

    def _scaled_truth(self) -> Truth:
        """The truth with the radii of the difficulty; a chamber keeps its size."""
        truth, factor = self.truth, self.difficulty.lesion_size
        if factor == 1 or self.aspect is Aspect.CONTRACTION:
            return truth
        return replace(truth, marks=tuple(_scale(mark, factor) for mark in truth.marks))


@lru_cache(maxsize=64)
def _draw_truth(study: PhantomStudy) -> Truth:
    """Kept, because each picture of a study needs it."""
    return draw_truth(study.kind, study.aspect, study.num_pictures, study.stream(_TRUTH))


def _scale(mark: Mark, factor: float) -> Mark:
    spots = (None if spot is None else replace(spot, radius=spot.radius * factor) for spot in mark.spots)
    return replace(mark, spots=tuple(spots))


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPicture:
    """One picture of a study; implements `ImageSource` and `HasDigest`."""

    study: PhantomStudy
    number: int  # from 1

    @property
    def uri(self) -> str:
        """A stable name, "phantom:ct_volume/level/test/17?seed=0&slice=5"; settings that differ from the default are appended."""
        study = self.study
        told = {"size": (study.size, DEFAULT_SIZE), "slices": (study.num_slices, DEFAULT_SLICES)}
        told |= {key: (value, getattr(STANDARD_DIFFICULTY, key)) for key, value in asdict(study.difficulty).items()}
        others = "".join(f"&{key}={value:g}" for key, (value, usual) in told.items() if value != usual)
        return f"phantom:{study.kind}/{study.aspect}/{study.split}/{study.index}?seed={study.seed}&slice={self.number}{others}"

    def render(self) -> NDArray[np.uint8]:
        """The picture, (size, size, 3), 0..255."""
        (window,) = parse_windows(self.study.window)
        assert isinstance(window, Window)
        tones = np.rint(apply_window(self.study.values(self.number).astype(np.float64), window)).astype(np.uint8)
        return np.repeat(tones[..., None], 3, axis=2)

    def read_size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.study.size, self.study.size

    def digest(self) -> str:
        """The SHA-256 of the name, which determines every pixel."""
        return hashlib.sha256(self.uri.encode()).hexdigest()

    def load(self) -> Picture:
        """The picture as an RGB image."""
        from PIL import Image

        return Image.fromarray(self.render())
