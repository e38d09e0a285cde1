"""Colour fundus photography: a disc, a macula and vessels seen in four kinds of light, with haemorrhages, exudates or glaucoma."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np

from osler.phantom.atlas import LOCATIONS, NORMAL, Atlas, Findings, lesion_centre, lesion_radius
from osler.phantom.canvas import Difficulty, Field, blend, ellipse, grid, texture
from osler.phantom.stamps import Points, discs, grain, illumination, scatter_in_disc
from osler.taxonomy import Modality

_Paint: TypeAlias = tuple[float, float, float]

# What each kind of light makes of: retina, fovea, vessels, disc, cup, haemorrhage, exudate.
_PALETTES: Final[MappingProxyType[str, tuple[_Paint, ...]]] = MappingProxyType(
    {
        "colour photograph": (
            (0.82, 0.40, 0.17), (0.50, 0.19, 0.07), (0.52, 0.09, 0.06), (0.97, 0.70, 0.36), (1.0, 0.95, 0.80), (0.30, 0.02, 0.03), (1.0, 0.95, 0.50),
        ),
        "red-free photograph": (
            (0.28, 0.56, 0.36), (0.12, 0.30, 0.18), (0.08, 0.22, 0.12), (0.48, 0.80, 0.56), (0.84, 1.0, 0.88), (0.02, 0.08, 0.04), (0.86, 1.0, 0.88),
        ),
        "fluorescein angiography": (
            (0.27, 0.27, 0.28), (0.10, 0.10, 0.11), (0.88, 0.88, 0.88), (0.60, 0.60, 0.60), (0.12, 0.12, 0.12), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0),
        ),
        "autofluorescence": (
            (0.62, 0.62, 0.60), (0.40, 0.40, 0.39), (0.27, 0.27, 0.26), (0.10, 0.10, 0.10), (0.42, 0.42, 0.42), (0.05, 0.05, 0.05), (1.0, 1.0, 1.0),
        ),
    }
)  # fmt: skip
_DISC_RADIUS: Final = 0.22
_HEALTHY_CUP: Final = 0.24
_CUPS: Final = MappingProxyType({"minimal": 0.42, "mild": 0.60, "moderate": 0.77, "severe": 0.94})
"""Cup-to-disc ratio of each grade of glaucoma."""
_SPREAD: Final = 1.4  # a field of spots is wider than one lesion


def _draw(findings: Findings, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Field:
    retina, fovea, vessel, disc, cup, blood, exudate = (np.array(c, np.float32) for c in _PALETTES[findings.technique])
    side = 1.0 if findings.anatomy.startswith("right") else -1.0  # a right eye's disc lies right of its macula
    jx, jy = rng.uniform(-0.05, 0.05, 2)
    gap = 0.60 + rng.uniform(-0.03, 0.03)
    disc_x = jx + (side * gap if findings.anatomy.endswith("macula") else 0.0)
    disc_y = jy - 0.03
    picture = np.ones((size, size, 3), np.float32) * retina * (1 + np.float32(0.05) * texture(rng, size, 6))[..., None]
    x, y = grid(size)
    distance = (x - np.float32(disc_x - side * gap)) ** 2 + (y - np.float32(disc_y + 0.06)) ** 2
    picture = blend(picture, np.exp(distance * np.float32(-1 / 0.026)), fovea)
    picture = _paint_disc(picture, findings, rng, difficulty, (disc_x, disc_y), disc, cup)
    # Vessels fade over the disc, or they would hide the cup's border.
    faded = 1 - np.float32(0.75) * ellipse(size, disc_x, disc_y, _DISC_RADIUS, _DISC_RADIUS, edge=3)
    picture = blend(picture, _vessels(rng, size, disc_x, disc_y, side) * faded, vessel)
    picture = _paint_spots(picture, findings, rng, difficulty, blood if findings.disease == "haemorrhages" else exudate)
    rim = np.sqrt(x * x + y * y)
    picture *= (illumination(rng, size, 0.12) * (np.float32(1.05) - np.float32(0.22) * rim * rim))[..., None]
    picture = blend(picture, np.clip((rim - np.float32(0.95)) * 28 + np.float32(0.5), 0, 1), 0.0)
    return grain(rng, picture, 0.02 * difficulty.noise)


def _paint_disc(
    picture: Field, findings: Findings, rng: np.random.Generator, difficulty: Difficulty, centre: tuple[float, float], disc: Field, cup: Field
) -> Field:
    size, (x, y) = picture.shape[0], centre
    radius = _DISC_RADIUS * rng.uniform(0.96, 1.04)
    ratio, strength = _HEALTHY_CUP, 1.0
    if findings.disease == "glaucoma" and findings.grade is not None:
        ratio = min(0.96, _HEALTHY_CUP + (_CUPS[findings.grade] - _HEALTHY_CUP) * difficulty.lesion_size)
        strength = min(1.0, difficulty.contrast)
    ratio *= rng.uniform(0.97, 1.03)
    picture = blend(picture, ellipse(size, x, y, radius * 0.95, radius, edge=1.5), disc)
    return blend(picture, ellipse(size, x, y, radius * 0.95 * ratio, radius * ratio) * np.float32(strength), cup)


def _vessels(rng: np.random.Generator, size: int, disc_x: float, disc_y: float, side: float) -> Field:
    """Four arcades, an artery and a vein in each: those of the temporal side bend around the macula, the nasal ones run straight out."""
    t = np.linspace(0, 1, max(72, size * 2 // 3))
    thin = 1 - 0.55 * t
    xs: list[Points] = []
    ys: list[Points] = []
    widths: list[Points] = []

    def add(x: Points, y: Points, width: float) -> None:
        step = 1 if len(xs) % 2 == 0 else 2  # branches are half as long: half the points will do
        xs.append(x[::step])
        ys.append(y[::step])
        widths.append(width * thin[::step])

    for up in (-1.0, 1.0):
        for width, spread in ((0.026, 1.0), (0.034, 1.16)):
            wave = 0.018 * np.sin(t * rng.uniform(9, 14) + rng.uniform(0, 6))
            height = 0.60 * spread * rng.uniform(0.93, 1.07)
            x = disc_x - side * (1.5 * t**1.15 - 0.02 * spread)
            y = disc_y + up * (height * np.sin(np.pi * 0.80 * t**0.62) + wave)
            add(x, y, width)
            start = rng.integers(len(t) // 4, len(t) // 2)
            add(x[start] - side * 0.5 * t, y[start] + up * (0.45 * t + wave - wave[0]), width * 0.6)
            reach = rng.uniform(0.65, 0.85) * spread
            nasal_x = disc_x + side * (0.95 * t)
            nasal_y = disc_y + up * (reach * t**0.85 + wave)
            add(nasal_x, nasal_y, width * 0.8)
            start = rng.integers(len(t) // 4, len(t) // 2)
            add(nasal_x[start] + side * 0.5 * t, nasal_y[start] + up * (0.1 * t + wave - wave[0]), width * 0.5)
    return discs(size, np.concatenate(xs), np.concatenate(ys), np.concatenate(widths)) * np.float32(0.85)


def _paint_spots(picture: Field, findings: Findings, rng: np.random.Generator, difficulty: Difficulty, colour: Field) -> Field:
    """A patch of a few large dark blots or of many small bright dots; nothing for the other diseases."""
    if findings.disease in (NORMAL, "glaucoma"):
        return picture
    radius = lesion_radius(findings, rng, difficulty) * _SPREAD
    cx, cy = lesion_centre(findings.other, rng, dx=0.40, dy=0.40)
    if findings.disease == "haemorrhages":
        points = scatter_in_disc(rng, max(2, round(75 * radius * radius)), cx, cy, radius)
        # A blot is a few overlapping discs in a row: flame-shaped, unlike a vessel and unlike a dot.
        turn = rng.uniform(0, np.pi, (len(points), 1))
        along = np.array([[-0.035, 0.0, 0.035]]) * rng.uniform(0.5, 1.2, (len(points), 1))
        mask = discs(picture.shape[0], points[:, :1] + along * np.cos(turn), points[:, 1:] + along * np.sin(turn), np.array([[0.035, 0.05, 0.035]]))
    else:
        points = scatter_in_disc(rng, max(5, round(300 * radius * radius)), cx, cy, radius)
        mask = discs(picture.shape[0], points[:, 0], points[:, 1], rng.uniform(0.018, 0.028, len(points)), edge=0.8)
    return blend(picture, mask * np.float32(min(1.0, 0.95 * difficulty.contrast)), colour)


ATLAS: Final = Atlas(
    modality=Modality.FUNDUS,
    techniques=tuple(_PALETTES),
    anatomies=("right macula", "left macula", "right optic disc", "left optic disc"),
    diseases=("haemorrhages", "exudates", "glaucoma", NORMAL),
    other_kind="location",
    others=LOCATIONS,
    signs=MappingProxyType(
        {
            "colour photograph": "an orange retina with red vessels",
            "red-free photograph": "a green retina with dark vessels",
            "fluorescein angiography": "white vessels on a dark grey retina",
            "autofluorescence": "a dark disc on light grey retina",
            "right macula": "a central macula, the disc right",
            "left macula": "a central macula, the disc left",
            "right optic disc": "a central disc, the macula left",
            "left optic disc": "a central disc, the macula right",
            "haemorrhages": "a patch of large dark blots",
            "exudates": "a patch of small bright dots",
            "glaucoma": "a wide cup in the disc",
            NORMAL: "a small cup and no spots",
        }
    ),
    draw=_draw,
    diseases_without_other=frozenset({NORMAL, "glaucoma"}),
)
