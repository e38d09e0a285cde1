"""One procedural picture, drawn from a seed and an index when it is needed.

Everything about image k follows from (seed, split, modality, k), so images can be made in any order and on any worker. Two consecutive
images belong to one subject: the even one shows any findings, the odd one always a lesion that can be graded and described.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from osler.data.phantom import ct, dermoscopy, fundus, microscopy, mri, ultrasound, xray
from osler.data.phantom import oct as tomography
from osler.data.phantom.atlas import GRADES, NORMAL, Atlas, Findings
from osler.data.phantom.canvas import STANDARD_DIFFICULTY, Difficulty
from osler.errors import ConfigError
from osler.taxonomy import Modality

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Split = Literal["train", "validation", "test"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)
"""A split's position is part of every random stream, so no two splits share a subject."""

ATLASES: Final[Mapping[Modality, Atlas]] = MappingProxyType(
    {module.ATLAS.modality: module.ATLAS for module in (ct, mri, xray, ultrasound, dermoscopy, fundus, tomography, microscopy)}
)

IMAGES_PER_SUBJECT: Final = 2
DEFAULT_SIZE: Final = 112
MIN_SIZE: Final = 56
MAX_SEED: Final = 2**32 - 1
_MODALITIES: Final = tuple(Modality)
_FINDINGS, _PICTURE = 0, 1  # the last word of a random stream; questions use the words after these
QUESTION_STREAM: Final = 2


def open_stream(split: Split, modality: Modality, seed: int, index: int, purpose: int) -> np.random.Generator:
    """The random numbers of one image for one purpose, independent of every other stream."""
    return np.random.default_rng([seed, SPLITS.index(split), _MODALITIES.index(modality), index, purpose])


def draw_findings(atlas: Atlas, rng: np.random.Generator, *, has_lesion: bool) -> Findings:
    """Findings, uniform and independent of each other; with `has_lesion` only diseases that have both a grade and another attribute."""
    diseases = tuple(name for name in atlas.diseases if not (has_lesion and (name == NORMAL or name in atlas.diseases_without_other)))
    pools = (atlas.techniques, atlas.anatomies, diseases, GRADES, atlas.others)
    picks = rng.integers([len(pool) for pool in pools])
    technique, anatomy, disease, grade, other = (pool[pick] for pool, pick in zip(pools, picks, strict=True))
    return Findings(
        modality=atlas.modality,
        technique=technique,
        anatomy=anatomy,
        disease=disease,
        grade=None if disease == NORMAL else grade,
        other=None if disease in atlas.diseases_without_other else other,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomImage:
    """An image source that draws its picture. Raises ConfigError for a split, seed, index or size out of range."""

    modality: Modality
    split: Split  # "train"
    seed: int  # 0 .. 2**32 - 1
    index: int  # 17
    size: int = DEFAULT_SIZE  # pixels
    difficulty: Difficulty = STANDARD_DIFFICULTY

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ConfigError(f"unknown phantom split {self.split!r}: use one of {', '.join(SPLITS)}")
        if not 0 <= self.seed <= MAX_SEED or not 0 <= self.index <= MAX_SEED:
            raise ConfigError(f"phantom seed {self.seed} and index {self.index} must lie in 0..{MAX_SEED}")
        if self.size < MIN_SIZE:
            raise ConfigError(f"phantom size {self.size} is too small to show a minimal lesion: use {MIN_SIZE} or more")

    @property
    def uri(self) -> str:
        """A stable name, e.g. "phantom:mri/test/17?seed=0"; settings other than the default follow, e.g. "&size=224"."""
        size = f"&size={self.size}" if self.size != DEFAULT_SIZE else ""
        changed = {name: value for name, value in asdict(self.difficulty).items() if value != getattr(STANDARD_DIFFICULTY, name)}
        difficulty = "".join(f"&{name}={value:g}" for name, value in changed.items())
        return f"phantom:{self.modality}/{self.split}/{self.index}?seed={self.seed}{size}{difficulty}"

    @property
    def subject_id(self) -> str:
        """The subject that this image shares with its neighbour, e.g. "phantom/train/mri/0/8"."""
        return f"phantom/{self.split}/{self.modality}/{self.seed}/{self.index // IMAGES_PER_SUBJECT}"

    @property
    def findings(self) -> Findings:
        """What the picture shows."""
        rng = open_stream(self.split, self.modality, self.seed, self.index, _FINDINGS)
        return draw_findings(ATLASES[self.modality], rng, has_lesion=self.index % IMAGES_PER_SUBJECT == 1)

    def render(self) -> NDArray[np.uint8]:
        """The picture, (size, size, 3)."""
        rng = open_stream(self.split, self.modality, self.seed, self.index, _PICTURE)
        picture = ATLASES[self.modality].draw(self.findings, rng, self.size, self.difficulty)
        return (np.clip(picture, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)

    def digest(self) -> str:
        """The SHA-256 of the name, from which every pixel follows."""
        return hashlib.sha256(self.uri.encode()).hexdigest()

    def load(self) -> Picture:
        """The picture in RGB."""
        from PIL import Image

        return Image.fromarray(self.render())
