"""The frames of a cine (tones, 0 to 255) and the two views of a chest (0 to 1000)."""

from __future__ import annotations

import numpy as np

from osler.data.phantom.canvas import Difficulty, Field, Sketch, texture
from osler.data.phantom.studies.truth import Spot
from osler.data.phantom.ultrasound import field_of_view, speckle
from osler.data.phantom.xray import draw_chest


def draw_echoes(
    size: int, rng: np.random.Generator, noise: np.random.Generator, spot: Spot, *, is_chamber: bool, difficulty: Difficulty
) -> Field:
    """A frame of an ultrasound cine: a bright spot in tissue, or a chamber with a bright wall."""
    sketch = Sketch.start(size, rng, 0.42)
    sketch.oval(0, -1.0, 1.2, 0.34, 0.6, edge=6)
    for side in (-1, 1):
        tilt = rng.uniform(-0.2, 0.2)
        sketch.stroke([(side * 0.75, -0.1 + tilt), (side * 0.45, 0.75 + tilt)], 0.03, 0.65, edge=2)
    field = sketch.field * (1 + np.float32(0.08) * texture(rng, size, 4))
    echoes = Sketch(field=field)  # in the picture's own coordinates, as the truth is
    contrast = difficulty.contrast
    if is_chamber:
        wall = spot.radius + 0.07
        echoes.oval(spot.x, spot.y, wall, 1.15 * wall, 0.42 + 0.45 * contrast, edge=2)
        echoes.oval(spot.x, spot.y, spot.radius, 1.15 * spot.radius, max(0.42 - 0.38 * contrast, 0), edge=2)
    else:
        echoes.oval(spot.x, spot.y, spot.radius + 0.03, spot.radius + 0.03, max(0.42 - 0.2 * contrast, 0), edge=3)
        echoes.oval(spot.x, spot.y, spot.radius, spot.radius, 0.42 + 0.58 * contrast, edge=2)
    shown: Field = np.clip(echoes.field * speckle(noise, size, difficulty.noise), 0, 1) * field_of_view("heart", size)
    return shown * np.float32(255)


def draw_frontal_chest(size: int, rng: np.random.Generator) -> Field:
    """A chest from the front, 0 to 1000: the patient's left, with the heart, is on the right."""
    soft = Sketch.start(size, rng, 0.03)
    bone = Sketch(field=np.zeros((size, size), np.float32), dx=soft.dx, dy=soft.dy, scale=soft.scale)
    draw_chest(soft, bone, rng)
    return (soft.field + bone.field) * np.float32(1000)


def draw_lateral_chest(size: int, rng: np.random.Generator) -> Field:
    """A chest from the side, 0 to 1000: the front, with the breastbone, is on the left."""
    sketch = Sketch.start(size, rng, 0.03)
    bone = Sketch(field=np.zeros((size, size), np.float32), dx=sketch.dx, dy=sketch.dy, scale=sketch.scale)
    sketch.oval(0, 0.25, 0.8, 1.2, 0.5, edge=3)
    sketch.stroke([(0.02, -1.2), (0.05, -0.7)], 0.26, 0.46, edge=3)
    sketch.oval(-0.02, 0.0, 0.6, 0.78, 0.17, 0.05, edge=3)
    sketch.oval(-0.1, -0.62, 0.42, 0.24, 0.3, edge=8)  # the shoulders
    sketch.oval(-0.2, 0.42, 0.36, 0.27, 0.4, 0.5, edge=12)  # the heart
    sketch.oval(0.0, 0.86, 0.74, 0.32, 0.62, 0.12, edge=2)  # the diaphragm
    sketch.stroke([(0.0, -1.0), (0.06, -0.25)], 0.045, 0.14, edge=2)
    bone.stroke([(-0.56, -0.5), (-0.68, 0.3)], 0.035, 0.26)
    for y in np.arange(-0.9, 0.95, 0.17) + rng.uniform(-0.05, 0.05):
        bone.oval(0.62 - 0.12 * abs(y), y, 0.085, 0.07, 0.22, core=(0.06, 0.045, 0.12))
    for y in np.arange(-0.5, 0.6, 0.26) + rng.uniform(-0.06, 0.06):
        bone.stroke([(0.55, y - 0.1), (0.1, y + 0.04), (-0.45, y + 0.22)], 0.028, 0.1, edge=2)
    return (sketch.field + bone.field) * np.float32(1000)
