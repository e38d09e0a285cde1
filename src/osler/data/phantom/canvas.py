"""Shapes and textures on a square float32 canvas. Coordinates run from -1 (left, top) to 1 (right, bottom) at every canvas size.

A field is a grey image, (size, size) float32. A mask is a field in 0..1 with edges about one pixel wide. A picture is (size, size, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osler.errors import ConfigError

Field = NDArray[np.float32]
Core = tuple[float, float, float]  # rx, ry and value of a concentric ellipse


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """How hard a picture is to read: factors for the lesion's contrast with its background, the acquisition noise and the lesion's radius.

    Raises ConfigError for a value that cannot be drawn.
    """

    contrast: float = 1.0
    noise: float = 1.0
    lesion_size: float = 1.0

    def __post_init__(self) -> None:
        if min(self.contrast, self.noise) < 0 or not 0 < self.lesion_size <= 1.5:
            raise ConfigError(f"{self} cannot be drawn: contrast and noise must be 0 or more, lesion_size above 0 and at most 1.5")


STANDARD_DIFFICULTY: Final = Difficulty()


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[Field, Field]:
    """The x and the y coordinates of the pixel centres, two read-only fields."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


def ellipse(size: int, cx: float, cy: float, rx: float, ry: float, angle: float = 0.0, *, edge: float = 1.0) -> Field:
    """The mask of an ellipse rotated by `angle` radians; `edge` is the width of its soft border in pixels of a 112-pixel canvas."""
    x, y = grid(size)
    dx, dy = x - np.float32(cx), y - np.float32(cy)
    if angle:
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        dx, dy = dx * cos + dy * sin, dy * cos - dx * sin
    radius = np.sqrt((dx / np.float32(rx)) ** 2 + (dy / np.float32(ry)) ** 2)
    softness = np.float32(max(min(rx, ry), 1e-3) * 56 / max(edge, 1e-3))
    return ((1 - radius) * softness + np.float32(0.5)).clip(0, 1)


def band(distance: Field, half_width: float, *, edge: float = 1.0) -> Field:
    """The mask of the pixels at most `half_width` from a curve, given each pixel's distance to it."""
    return ((np.float32(half_width) - np.abs(distance)) * np.float32(56 / max(edge, 1e-3)) + np.float32(0.5)).clip(0, 1)


def blend(picture: Field, mask: Field, value: ArrayLike) -> Field:
    """`picture` with `value` (a number, a colour, a field or a picture) where `mask` is 1; takes a grey field or a colour picture."""
    if picture.ndim == 3 and mask.ndim == 2:
        mask = mask[..., None]
    return (picture + mask * (np.asarray(value, np.float32) - picture)).astype(np.float32)


@lru_cache(maxsize=64)
def _mirror(length: int, before: int, after: int) -> NDArray[np.intp]:
    """The indices that pad an axis of `length` with its mirror image."""
    index = np.arange(-before, length + after) % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)


def blur(field: Field, radius: float) -> Field:
    """Approximate Gaussian blur by three box filters; `radius` is in pixels of a 112-pixel canvas, borders are mirrored."""
    half = max(1, round(radius * field.shape[0] / 112))
    width = 2 * half + 1
    for axis in (0, 1):
        # Three passes shorten the axis by 3 * width pixels: padding once gives the same result as padding before each pass.
        field = np.take(field, _mirror(field.shape[axis], 3 * (half + 1), 3 * half), axis=axis)
        for _ in range(3):
            total = np.cumsum(field, axis=axis, dtype=np.float32)
            field = total[width:] - total[:-width] if axis == 0 else total[:, width:] - total[:, :-width]
            field *= np.float32(1 / width)
    return field


def texture(rng: np.random.Generator, size: int, radius: float) -> Field:
    """Smooth noise with mean 0 and standard deviation 1, blurred by `radius` pixels of a 112-pixel canvas."""
    field = blur(rng.standard_normal((size, size), dtype=np.float32), radius)
    standard: Field = (field - field.mean()) / (field.std() + np.float32(1e-6))
    return standard


def grey(field: Field) -> Field:
    """A grey field as a picture with three equal channels."""
    return np.repeat(field[..., None], 3, axis=2)


def blob(size: int, cx: float, cy: float, radius: float, rng: np.random.Generator, *, roughness: float) -> Field:
    """The mask of a disc with an irregular border, which deviates by about `roughness` times the radius."""
    x, y = grid(size)
    dx, dy = x - np.float32(cx), y - np.float32(cy)
    angle = np.arctan2(dy, dx)
    phases = rng.uniform(0, 2 * np.pi, 3).astype(np.float32)
    waves = sum(np.sin(np.float32(k) * angle + phase) for k, phase in zip((2, 3, 5), phases, strict=True))
    border = np.float32(radius) * (1 + np.float32(roughness / 1.7) * waves)
    mask: Field = np.clip((border - np.hypot(dx, dy)) * np.float32(56) + np.float32(0.5), 0, 1)
    return mask


@dataclass(slots=True, kw_only=True)
class Sketch:
    """A grey field to paint on. Shapes are given in the patient's coordinates, which are shifted and scaled a little in every picture.

    Each shape changes `field` in place and computes only its bounding box, so small shapes are cheap.
    """

    field: Field
    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0
    stretch: float = 1.0  # additional factor of the y axis

    @classmethod
    def start(cls, size: int, rng: np.random.Generator, background: float, *, stretch: float = 1.0) -> Sketch:
        """An empty sketch, randomly shifted by up to 0.025 and scaled by up to 3 %."""
        dx, dy = rng.uniform(-0.025, 0.025, 2)
        scale = float(rng.uniform(0.97, 1.03))
        return cls(field=np.full((size, size), background, np.float32), dx=float(dx), dy=float(dy), scale=scale, stretch=stretch)

    def _place(self, x: float, y: float) -> tuple[float, float]:
        return x * self.scale + self.dx, y * self.scale * self.stretch + self.dy

    def _window(self, cx: float, cy: float, ex: float, ey: float) -> tuple[slice, slice]:
        size = self.field.shape[0]
        low = [max(0, int((centre - extent + 1) / 2 * size) - 2) for centre, extent in ((cy, ey), (cx, ex))]
        high = [min(size, max(0, int((centre + extent + 1) / 2 * size) + 3)) for centre, extent in ((cy, ey), (cx, ex))]
        return slice(low[0], high[0]), slice(low[1], high[1])

    def oval(
        self, cx: float, cy: float, rx: float, ry: float, value: float, angle: float = 0.0, *, edge: float = 1.0, core: Core | None = None
    ) -> None:
        """Paint an ellipse, rotated clockwise by `angle` radians, and then the ellipse `core` inside it."""
        px, py = self._place(cx, cy)
        rx, ry = rx * self.scale, ry * self.scale * self.stretch
        cos, sin = float(np.cos(angle)), float(np.sin(angle))
        soft = edge / 56
        window = self._window(px, py, np.hypot(rx * cos, ry * sin) + soft, np.hypot(rx * sin, ry * cos) + soft)
        x, y = grid(self.field.shape[0])
        dx, dy = x[window] - np.float32(px), y[window] - np.float32(py)
        u, v = dx * np.float32(cos / rx) + dy * np.float32(sin / rx), dy * np.float32(cos / ry) - dx * np.float32(sin / ry)
        mask = np.clip((1 - np.sqrt(u * u + v * v)) * np.float32(min(rx, ry) / soft) + np.float32(0.5), 0, 1)
        part = self.field[window]
        part += mask * (np.float32(value) - part)
        if core is not None:
            self.oval(cx, cy, *core, angle, edge=edge)

    def mask(self, cx: float, cy: float, rx: float, ry: float, *, edge: float = 1.0) -> Field:
        """The mask of an ellipse in the patient's coordinates."""
        return ellipse(self.field.shape[0], *self._place(cx, cy), rx * self.scale, ry * self.scale * self.stretch, edge=edge)

    def stroke(
        self, points: Sequence[tuple[float, float]], half_width: float, value: float, *, edge: float = 1.0, inside: Field | None = None
    ) -> None:
        """Paint a line through `points` with round ends, within the mask `inside` if given."""
        placed = [self._place(*point) for point in points]
        width = half_width * self.scale
        x, y = grid(self.field.shape[0])
        for (ax, ay), (bx, by) in pairwise(placed):
            reach = width + edge / 56
            window = self._window((ax + bx) / 2, (ay + by) / 2, abs(ax - bx) / 2 + reach, abs(ay - by) / 2 + reach)
            dx, dy = x[window] - np.float32(ax), y[window] - np.float32(ay)
            ux, uy = bx - ax, by - ay
            along = np.clip((dx * np.float32(ux) + dy * np.float32(uy)) / np.float32(ux * ux + uy * uy + 1e-9), 0, 1)
            distance = np.hypot(dx - along * np.float32(ux), dy - along * np.float32(uy))
            mask, part = band(distance, width, edge=edge), self.field[window]
            part += (mask if inside is None else mask * inside[window]) * (np.float32(value) - part)
