"""Size and place of a lesion, and a painter for lesions on grey fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from osler.data.phantom.atlas import LOCATIONS, Findings
from osler.data.phantom.canvas import Difficulty, Field, blend, blob, ellipse

_RADII: Final = {"minimal": 0.075, "mild": 0.125, "moderate": 0.19, "severe": 0.27}
"""Lesion radius of each grade in canvas units (1 = half the image) for a `lesion_size` of 1; each is at least 1.4 times the last."""


def lesion_radius(findings: Findings, rng: np.random.Generator, difficulty: Difficulty) -> float:
    """The radius of the lesion in canvas units, with 6 % of jitter, so that grades never overlap; 0 for a normal image."""
    if findings.grade is None:
        return 0.0
    return float(_RADII[findings.grade] * difficulty.lesion_size * rng.uniform(0.94, 1.06))


def lesion_centre(location: str | None, rng: np.random.Generator, *, dx: float, dy: float, jitter: float = 0.05) -> tuple[float, float]:
    """A point about (dx, dy) from the centre in the named quadrant of the picture; None for a random quadrant."""
    name = location or LOCATIONS[rng.integers(len(LOCATIONS))]
    x = dx if name.endswith("right") else -dx
    y = dy if name.startswith("lower") else -dy
    return float(x + rng.uniform(-jitter, jitter)), float(y + rng.uniform(-jitter, jitter))


@dataclass(slots=True, kw_only=True)
class Lesion:
    """A lesion on a grey field. It is painted in grey values `ground + levels * step`; 1 is brighter than its surroundings, -1 darker."""

    picture: Field
    cx: float
    cy: float
    radius: float
    step: float
    ground: float = 0.0  # grey value of the surroundings, set by `level_ground`

    @classmethod
    def place(
        cls, picture: Field, findings: Findings, rng: np.random.Generator, difficulty: Difficulty, *, dx: float, dy: float, step: float
    ) -> Lesion:
        """A lesion of the findings' size in the findings' quadrant, (dx, dy) from the centre; nothing is painted yet."""
        radius = lesion_radius(findings, rng, difficulty)
        cx, cy = lesion_centre(findings.other, rng, dx=dx, dy=dy)
        return cls(picture=picture, cx=cx, cy=cy, radius=radius, step=step * difficulty.contrast)

    def level_ground(self, *, low: float = 0.33, high: float = 0.67, strength: float = 0.8) -> None:
        """Pull the surroundings towards a grey of `low` to `high`, so that darker and brighter lesions are both visible; set `ground`."""
        halo = self._disc(1.25 * self.radius + 0.03, edge=24 * self.radius + 3)
        target = float(np.clip(_mean_inside(self.picture, halo), low, high))
        self.paint(np.float32(strength) * halo, target)
        self.ground = _mean_inside(self.picture, self._disc(1.3 * self.radius))

    def _disc(self, radius: float, *, edge: float = 1.0) -> Field:
        return ellipse(self.picture.shape[0], self.cx, self.cy, radius, radius, edge=edge)

    def paint(self, mask: Field, value: float) -> None:
        """Set the grey value where `mask` is 1."""
        self.picture = blend(self.picture, mask, value)

    def disc(self, radius: float, levels: float) -> None:
        """Paint a disc."""
        self.paint(self._disc(radius), self.ground + levels * self.step)

    def blob(self, radius: float, levels: float, rng: np.random.Generator, *, roughness: float) -> None:
        """Paint a disc with an irregular border."""
        mask = blob(self.picture.shape[0], self.cx, self.cy, radius, rng, roughness=roughness)
        self.paint(mask, self.ground + levels * self.step)

    def ring(self, rng: np.random.Generator) -> None:
        """Paint a bright ring with a dark centre."""
        self.blob(self.radius + 0.01, 1, rng, roughness=0.1)
        self.disc(self.radius - max(0.3 * self.radius, 0.03), -1)


def _mean_inside(field: Field, mask: Field) -> float:
    return float((field * mask).sum() / (mask.sum() + np.float32(1e-6)))
