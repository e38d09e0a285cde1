"""The MNI152 average brain with known truth: slices of its T1 image with a black ball drawn into them, and its tissue maps.

The files are those that nilearn's wheel carries (the ICBM 152 nonlinear symmetric 2009 average at 1 mm, Fonov et al., NeuroImage 2011). The
grid of all three is the same; voxel (i, j, k) lies at (i - 98, j - 134, k - 72) mm to the right, the front and the head.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from osler.errors import DataError, MissingExtra
from osler.images.files import ImageFile
from osler.images.geometry import Series
from osler.images.volumes import read_volume
from osler.taxonomy import Plane

if TYPE_CHECKING:
    from PIL.Image import Image

FILES: Final = {name: f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz" for name in ("t1", "gm", "wm")}
SHAPE: Final = (197, 233, 189)
ORIGIN: Final = (-98, -134, -72)  # millimetres to the right, the front and the head of voxel (0, 0, 0)
WINDOW: Final = "128/256"
"""The values of 0 to 255 as they are."""

_RADIUS: Final = 9  # of the ball, in millimetres
_TISSUE: Final = 200  # of 255, the least sum of both maps in the brain
_FOLDERS: Final = ("", "nilearn/datasets/data", "datasets/data")


def find_root(root: Path | None) -> Path:
    """The folder of the three files: `root`, a folder of nilearn below it, or that of an installed nilearn, which is not imported.

    Raises DataError where they are missing.
    """
    spec = importlib.util.find_spec("nilearn") if root is None else None
    base = root if root is not None else Path(spec.origin).parent if spec is not None and spec.origin else None
    for folder in _FOLDERS if base is not None else ():
        if base is not None and all((base / folder / name).is_file() for name in FILES.values()):
            return base / folder
    where = "nilearn is not installed" if base is None else f"{str(base)!r} lacks {FILES['t1']} or a map beside it"
    raise DataError(f"{where}: run pip install --no-deps nilearn==0.14.1 (its files are enough), or name the folder with --data.root")


@lru_cache(maxsize=3)
def load_map(root: Path, name: str) -> NDArray[np.uint8]:
    """The volume "t1", "gm" or "wm", 0 to 255; a map of 255 is only that tissue. Raises DataError, and MissingExtra without nibabel."""
    try:
        import nibabel
    except ImportError:
        raise MissingExtra("nibabel", "medical") from None

    image = nibabel.load(root / FILES[name])
    if image.shape != SHAPE or tuple(np.diag(image.affine)) != (1, 1, 1, 1) or tuple(image.affine[:3, 3]) != ORIGIN:
        raise DataError(f"{FILES[name]} has another grid than that of nilearn 0.14: install nilearn==0.14.1")
    return np.asarray(image.dataobj)


@lru_cache(maxsize=8)
def read_plane(root: Path, plane: Plane) -> Series:
    """The slices of the T1 image in a plane, in the order and orientation of `osler.images.geometry`."""
    (series,) = read_volume(root, FILES["t1"], plane=plane, window=WINDOW)
    return series


@dataclass(frozen=True, slots=True, kw_only=True)
class Ball:
    """A ball without signal, in millimetres to the right, the front and the head."""

    right: int
    front: int
    head: int
    radius: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BrainSlice:
    """A slice of the average brain; implements `ImageSource` and `HasDigest`."""

    root: Path
    plane: Plane
    index: int  # in the order of the plane
    size: int = 112  # pixels from front to back, or from head to feet
    ball: Ball | None = None  # of axial slices only

    @property
    def uri(self) -> str:
        """A name without the folder: "mni152:axial/60?size=112&ball=20,-30,12,9"."""
        ball = self.ball
        told = f"&ball={ball.right},{ball.front},{ball.head},{ball.radius}" if ball is not None else ""
        return f"mni152:{self.plane}/{self.index}?size={self.size}{told}"

    def load(self) -> Image:
        """The slice in mode RGB, `size` pixels high. Raises DataError where the files are missing."""
        from PIL import ImageDraw
        from PIL.Image import Resampling

        picture = read_plane(self.root, self.plane).slices[self.index].load()
        if self.ball is not None and (radius := self.ball_radius) > 0:
            x, y = -ORIGIN[0] - self.ball.right, SHAPE[1] - 1 + ORIGIN[1] - self.ball.front  # the patient's right is on the left
            ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), fill=(0, 0, 0))
        return picture.resize((round(self.size * picture.width / picture.height), self.size), Resampling.BILINEAR)

    @property
    def ball_radius(self) -> float:
        """The radius of the ball on this slice in millimetres; 0 where it does not reach it."""
        if self.ball is None:
            return 0.0
        away = self.index + ORIGIN[2] - self.ball.head
        return float(np.sqrt(max(0, self.ball.radius**2 - away**2)))

    def digest(self) -> str:
        """The SHA-256 of the file and of what is shown of it."""
        return hashlib.sha256(f"{ImageFile(root=self.root, path=FILES['t1']).digest()} {self.uri}".encode()).hexdigest()


def draw_ball(root: Path, rng: np.random.Generator, *, side: str, lowest: float, highest: float) -> Ball:
    """A ball in the brain tissue of one side, whose centre lies between two heights in millimetres."""
    first, last = round(lowest) - ORIGIN[2], round(highest) - ORIGIN[2]
    grey, white = (load_map(root, name)[..., first : last + 1] for name in ("gm", "wm"))
    is_brain = grey.astype(np.int16) + white > _TISSUE
    is_inside = is_brain.copy()
    for axis in (0, 1):  # and so is what lies a radius beside the centre
        is_inside &= np.roll(is_brain, _RADIUS, axis) & np.roll(is_brain, -_RADIUS, axis)
    right, front, up = np.nonzero(is_inside)
    away = right + ORIGIN[0]
    allowed = np.flatnonzero((away > 2 * _RADIUS) if side == "right" else (away < -2 * _RADIUS))
    pick = allowed[rng.integers(len(allowed))]
    voxel = (int(right[pick]), int(front[pick]), int(up[pick]) + first)
    return Ball(right=voxel[0] + ORIGIN[0], front=voxel[1] + ORIGIN[1], head=voxel[2] + ORIGIN[2], radius=_RADIUS)


def grey_share(root: Path, index: int) -> float:
    """The share of grey among grey and white matter on an axial slice, from the maps."""
    grey, white = (float(load_map(root, name)[..., index].sum(dtype=np.int64)) for name in ("gm", "wm"))
    return grey / (grey + white)
