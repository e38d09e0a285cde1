"""Axial slices of a trunk (Hounsfield units) and of a head (T2-weighted signal, 0 to 1000) that change along the patient.

A volume covers a part of the body that begins at a random height, so that no organ tells the place of a slice within its volume.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from osler.data.phantom.canvas import Field, Sketch, blend, grid, texture

_COVERED: Final = 0.5  # of the body, by one volume
_MIN_PROFILE: Final = 0.2


def _profile(height: float, low: float, high: float) -> float:
    """How wide an organ from `low` to `high` is at a height: 1 in its middle, 0 outside."""
    aside = (height - (low + high) / 2) / ((high - low) / 2)
    return float(np.sqrt(max(0.0, 1 - aside * aside)))


def draw_trunk(size: int, rng: np.random.Generator, place: float) -> Field:
    """A slice of the trunk in Hounsfield units, with contrast medium; `place` is its height within the volume, 0 to 1."""
    sketch = Sketch.start(size, rng, -1000.0, stretch=1.17)
    height = rng.uniform(0, 1 - _COVERED) + _COVERED * place
    wide, phase = rng.uniform(0.97, 1.03), rng.uniform(-0.1, 0.1)
    loops = rng.uniform((-0.5, -0.4, 0.07, 0.0), (0.5, 0.0, 0.13, 1.0), (7, 4))
    waist = wide * (1 - 0.07 * _profile(height, 0.15, 0.55))
    rx, ry = 0.93 * waist, 0.7 * waist
    sketch.oval(0, 0.02, rx, ry, -20.0, core=(rx - 0.02, ry - 0.02, -105.0))
    sketch.oval(0, 0.02, rx - 0.08, ry - 0.08, 66.0, core=(rx - 0.16, ry - 0.17, -105.0))
    if (wide := _profile(height, -0.3, 0.28)) > _MIN_PROFILE:  # the wings of the pelvis
        for side in (-1, 1):
            sketch.oval(side * 0.58, 0.08, 0.1 * wide, 0.36 * wide, 650.0, side * 0.4, core=(0.06 * wide, 0.3 * wide, 300.0))
    for x, y, radius, low in loops:  # bowel
        if (wide := _profile(height, low - 0.35, low + 0.3)) > _MIN_PROFILE:
            sketch.oval(x, y, radius * wide, 0.8 * radius * wide, 85.0, core=(0.6 * radius * wide, 0.45 * radius * wide, 45.0))
    if (wide := _profile(height, 0.3, 0.62)) > _MIN_PROFILE:
        for side in (-1, 1):
            sketch.oval(side * 0.44, 0.26, 0.19 * wide, 0.23 * wide, 190.0, side * 0.35, core=(0.09 * wide, 0.11 * wide, 70.0))
    if (wide := _profile(height, 0.4, 0.95)) > _MIN_PROFILE:  # liver, on the left of the picture, and stomach and spleen
        sketch.oval(-0.36, -0.02, 0.4 * wide, 0.5 * wide, 112.0, 0.1)
        sketch.oval(0.4, -0.2, 0.27 * wide, 0.22 * wide, 85.0, 0.3, core=(0.23 * wide, 0.18 * wide, 25.0))
        sketch.oval(0.56, 0.2, 0.17 * wide, 0.28 * wide, 128.0, 0.35)
    if (wide := _profile(height, 0.72, 1.5)) > _MIN_PROFILE:
        for side in (-1, 1):
            sketch.oval(side * 0.43, -0.03, 0.34 * wide, 0.52 * wide, -850.0, side * -0.12)
        sketch.oval(0.12, -0.1, 0.27 * wide, 0.24 * wide, 180.0, 0.5)
    sketch.oval(0.06, 0.24, 0.065, 0.065, 290.0)
    sketch.oval(-0.12, 0.21, 0.065, 0.055, 200.0)
    for side in (-1, 1):
        sketch.oval(side * 0.17, 0.6, 0.16, 0.1, 66.0, side * 0.3)
        if height > 0.45:
            for turn in (-0.75, 0.1, 0.9):
                angle = turn + phase + 0.35 * np.sin(20 * height)
                sketch.oval(side * (rx - 0.12) * np.cos(angle), (ry - 0.12) * np.sin(angle), 0.05, 0.04, 700.0)
    sketch.oval(0, 0.41, 0.15, 0.115, 700.0, core=(0.125, 0.09, 230.0))
    sketch.oval(0, 0.55, 0.05, 0.04, 30.0)
    return sketch.field


def draw_head(size: int, rng: np.random.Generator, noise: np.random.Generator, place: float) -> Field:
    """A T2-weighted slice of the head, 0 to 1000; the folds of the brain are drawn from `noise`."""
    sketch = Sketch.start(size, rng, 20.0)
    height = rng.uniform(0, 1 - _COVERED) + _COVERED * place
    wide = rng.uniform(0.97, 1.02) * (0.8 + 0.2 * _profile(height, -0.35, 1.05))
    rx, ry = 0.78 * wide, 0.93 * wide
    sketch.oval(0, 0, rx, ry, 700.0, core=(rx - 0.06, ry - 0.06, 60.0))
    sketch.oval(0, 0, rx - 0.1, ry - 0.1, 980.0)
    inside = sketch.mask(0, 0, rx - 0.13, ry - 0.13, edge=3)
    x, y = grid(size)
    depth = 1 - np.hypot(x / np.float32(rx - 0.13), y / np.float32(ry - 0.13))
    folds = texture(noise, size, 2)
    white = np.clip((depth - 0.17 - 0.08 * folds) * 14 + 0.5, 0, 1)
    sulci = np.clip((0.34 - np.abs(folds) - 1.6 * np.maximum(depth - 0.06, 0)) * 5 + 0.2, 0, 1)
    sketch.field = blend(sketch.field, inside, blend(580 - 200 * white, sulci, 980.0))
    if (low := _profile(height, -0.4, 0.25)) > _MIN_PROFILE:  # eyes and cerebellum
        for side in (-1, 1):
            sketch.oval(side * 0.3, -0.72, 0.13 * low, 0.13 * low, 960.0)
            sketch.oval(side * 0.2, 0.52, 0.24 * low, 0.22 * low, 520.0)
        sketch.oval(0, 0.28, 0.13 * low, 0.14 * low, 420.0)
    if (wide := _profile(height, 0.2, 0.85)) > _MIN_PROFILE:  # ventricles, with the deep nuclei beside them
        for side in (-1, 1):
            sketch.oval(side * 0.26, -0.03, 0.06 * wide, 0.15 * wide, 560.0, side * -0.2)
            sketch.oval(side * 0.09, -0.15, 0.05 * wide, 0.17 * wide, 980.0, side * 0.3)
            sketch.oval(side * 0.17, 0.27, 0.05 * wide, 0.15 * wide, 980.0, side * -0.45)
    for side in (-1, 1):
        sketch.stroke([(0, side * (ry - 0.14)), (0, side * 0.42)], 0.014, 900.0)
    return sketch.field
