"""One procedural picture, drawn on demand from a seed and an index.

Image k depends only on (seed, split, modality, k), so images can be drawn in any order and in any process. Two consecutive images belong to
one subject: the even one has any findings, the odd one always has a lesion with a grade and another attribute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from osler.data.phantom import ct, dermoscopy, fundus, microscopy, mri, ultrasound, xray
from osler.data.phantom import oct as tomography
from osler.data.phantom.atlas import GRADES, NORMAL, Atlas, Findings
from osler.data.phantom.canvas import STANDARD_DIFFICULTY, Difficulty
from osler.errors import ConfigError
from osler.taxonomy import SPLITS, Modality, Split

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

ATLASES: Final[Mapping[Modality, Atlas]] = MappingProxyType(
    {module.ATLAS.modality: module.ATLAS for module in (ct, mri, xray, ultrasound, dermoscopy, fundus, tomography, microscopy)}
)

IMAGES_PER_SUBJECT: Final = 2
DEFAULT_SIZE: Final = 112
MIN_SIZE: Final = 56
KEPT: Final = 4096
"""Pictures in memory, at most 154 MB: all that `osler demo` shows. To draw one takes as long as to answer a question about it."""
MAX_SEED: Final = 2**32 - 1
_MODALITIES: Final = tuple(Modality)
_FINDINGS, _PICTURE, QUESTION_STREAM = 0, 1, 2  # purposes of random streams; each question type adds its number to the last


def open_stream(split: Split, modality: Modality, seed: int, index: int, purpose: int) -> np.random.Generator:
    """The random generator of one image for one purpose, independent of all others; the split is part of its seed."""
    return np.random.default_rng([seed, SPLITS.index(split), _MODALITIES.index(modality), index, purpose])


def draw_findings(atlas: Atlas, rng: np.random.Generator, *, has_lesion: bool) -> Findings:
    """Independent, uniformly drawn findings; `has_lesion` limits the diseases to those with a grade and another attribute."""
    diseases = tuple(name for name in atlas.diseases if not (has_lesion and (name == NORMAL or name in atlas.diseases_without_other)))
    pools = (atlas.techniques, atlas.anatomies, diseases, GRADES, atlas.others)
    picks = rng.integers([len(pool) for pool in pools])
    technique, anatomy, disease, grade, other = (pool[pick] for pool, pick in zip(pools, picks, strict=True))
    return atlas.make_findings(technique=technique, anatomy=anatomy, disease=disease, grade=grade, other=other)


def check_drawing(split: str, seed: int, index: int, size: int) -> None:
    """Raise ConfigError for what no phantom can be drawn with: an unknown split, a seed, index or size out of range."""
    if split not in SPLITS:
        raise ConfigError(f"unknown phantom split {split!r}: use one of {', '.join(SPLITS)}")
    if not 0 <= seed <= MAX_SEED or not 0 <= index <= MAX_SEED:
        raise ConfigError(f"phantom seed {seed} and index {index} must lie in 0..{MAX_SEED}")
    if size < MIN_SIZE:
        raise ConfigError(f"phantom size {size} is too small to show a minimal lesion: use {MIN_SIZE} or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomImage:
    """An image source that draws its picture on demand. Raises ConfigError for a split, seed, index or size out of range."""

    modality: Modality
    split: Split  # "train"
    seed: int  # 0 .. 2**32 - 1
    index: int  # 17
    size: int = DEFAULT_SIZE  # pixels
    difficulty: Difficulty = STANDARD_DIFFICULTY

    def __post_init__(self) -> None:
        check_drawing(self.split, self.seed, self.index, self.size)

    @property
    def uri(self) -> str:
        """A stable name, "phantom:mri/test/17?seed=0"; settings that differ from the default are appended, "&size=224"."""
        size = f"&size={self.size}" if self.size != DEFAULT_SIZE else ""
        changed = {name: value for name, value in asdict(self.difficulty).items() if value != getattr(STANDARD_DIFFICULTY, name)}
        difficulty = "".join(f"&{name}={value:g}" for name, value in changed.items())
        return f"phantom:{self.modality}/{self.split}/{self.index}?seed={self.seed}{size}{difficulty}"

    @property
    def subject_id(self) -> str:
        """The subject of this image and its neighbour, "phantom/train/mri/0/8"."""
        return f"phantom/{self.split}/{self.modality}/{self.seed}/{self.index // IMAGES_PER_SUBJECT}"

    @property
    def findings(self) -> Findings:
        """The ground truth of the picture."""
        rng = open_stream(self.split, self.modality, self.seed, self.index, _FINDINGS)
        return draw_findings(ATLASES[self.modality], rng, has_lesion=self.index % IMAGES_PER_SUBJECT == 1)

    def render(self) -> NDArray[np.uint8]:
        """The picture, (size, size, 3), 0..255."""
        rng = open_stream(self.split, self.modality, self.seed, self.index, _PICTURE)
        picture = ATLASES[self.modality].draw(self.findings, rng, self.size, self.difficulty)
        return (np.clip(picture, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)

    def read_size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.size, self.size

    def digest(self) -> str:
        """The SHA-256 of the name, which determines every pixel."""
        return hashlib.sha256(self.uri.encode()).hexdigest()

    def load(self) -> Picture:
        """The picture as an RGB image. Small ones are drawn once in a process while they are among the last KEPT that were loaded."""
        from PIL import Image

        return Image.fromarray(draw_once(self) if self.size <= DEFAULT_SIZE else self.render())


@lru_cache(KEPT)
def draw_once(image: PhantomImage) -> NDArray[np.uint8]:
    """What `PhantomImage.render` gives; the array is shared, and nobody may write to it."""
    picture = image.render()
    picture.flags.writeable = False
    return picture
