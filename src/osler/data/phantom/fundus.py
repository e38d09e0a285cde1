"""Fundus photography: optic disc, macula and vessels in four kinds of light, with haemorrhages, exudates or glaucoma."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from osler.data.phantom.atlas import NORMAL, Atlas, Findings
from osler.data.phantom.canvas import Difficulty, Field, blend, ellipse, grid, texture
from osler.data.phantom.lesions import lesion_centre, lesion_radius
from osler.data.phantom.stamps import Points, discs, grain, illumination, scatter_in_disc
from osler.taxonomy import Modality

# The colour of each part of the eye and each lesion (0xRRGGBB) in each kind of light.
_PARTS: Final = ("retina", "fovea", "vessels", "disc", "cup", "haemorrhages", "exudates")
_PALETTES: Final = {
    "colour photograph": (0xD1662B, 0x803012, 0x85170F, 0xF7B35C, 0xFFF2CC, 0x4D0508, 0xFFF280),
    "red-free photograph": (0x478F5C, 0x1F4D2E, 0x14381F, 0x7ACC8F, 0xD6FFE0, 0x05140A, 0xDBFFE0),
    "fluorescein angiography": (0x454547, 0x1A1A1C, 0xE0E0E0, 0x999999, 0x1F1F1F, 0x000000, 0xFFFFFF),
    "autofluorescence": (0x9E9E99, 0x666663, 0x454542, 0x1A1A1A, 0x6B6B6B, 0x0D0D0D, 0xFFFFFF),
}
_DISC_RADIUS: Final = 0.22
_HEALTHY_CUP: Final = 0.24
_CUPS: Final = {"minimal": 0.42, "mild": 0.60, "moderate": 0.77, "severe": 0.94}  # cup-to-disc ratio of each grade of glaucoma
_Colours = Mapping[str, Field]
_SPREAD: Final = 1.4  # a patch of spots is wider than a single lesion


def _unpack(code: int) -> Field:
    """The channels of 0xRRGGBB in 0..1."""
    return np.array([code >> 16, code >> 8 & 255, code & 255], np.float32) / np.float32(255)


def _draw(findings: Findings, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Field:
    colours = {part: _unpack(code) for part, code in zip(_PARTS, _PALETTES[findings.technique], strict=True)}
    side = 1.0 if findings.anatomy.startswith("right") else -1.0  # in a right eye, the disc is right of the macula
    jx, jy = rng.uniform(-0.05, 0.05, 2)
    gap = 0.60 + rng.uniform(-0.03, 0.03)
    disc_x = jx + (side * gap if findings.anatomy.endswith("macula") else 0.0)
    disc_y = jy - 0.03
    picture = np.ones((size, size, 3), np.float32) * colours["retina"] * (1 + 0.05 * texture(rng, size, 6))[..., None]
    x, y = grid(size)
    distance = (x - np.float32(disc_x - side * gap)) ** 2 + (y - np.float32(disc_y + 0.06)) ** 2
    picture = blend(picture, np.exp(distance * np.float32(-1 / 0.026)), colours["fovea"])
    picture = _paint_disc(picture, findings, rng, difficulty, (disc_x, disc_y), colours)
    # Vessels fade over the disc, so that the border of the cup stays visible.
    faded = 1 - 0.75 * ellipse(size, disc_x, disc_y, _DISC_RADIUS, _DISC_RADIUS, edge=3)
    picture = blend(picture, _vessels(rng, size, disc_x, disc_y, side) * faded, colours["vessels"])
    picture = _paint_spots(picture, findings, rng, difficulty, colours)
    rim = np.sqrt(x * x + y * y)
    picture *= (illumination(rng, size, 0.12) * (1.05 - 0.22 * rim * rim))[..., None]
    picture = blend(picture, np.clip((rim - 0.95) * 28 + 0.5, 0, 1), 0.0)
    return grain(rng, picture, 0.02 * difficulty.noise)


def _paint_disc(
    picture: Field, findings: Findings, rng: np.random.Generator, difficulty: Difficulty, centre: tuple[float, float], colours: _Colours
) -> Field:
    size, (x, y) = picture.shape[0], centre
    radius = _DISC_RADIUS * rng.uniform(0.96, 1.04)
    ratio, strength = _HEALTHY_CUP, 1.0
    if findings.disease == "glaucoma" and findings.grade is not None:
        ratio = min(0.96, _HEALTHY_CUP + (_CUPS[findings.grade] - _HEALTHY_CUP) * difficulty.lesion_size)
        strength = min(1.0, difficulty.contrast)
    ratio *= rng.uniform(0.97, 1.03)
    picture = blend(picture, ellipse(size, x, y, radius * 0.95, radius, edge=1.5), colours["disc"])
    return blend(picture, ellipse(size, x, y, radius * 0.95 * ratio, radius * ratio) * strength, colours["cup"])


def _vessels(rng: np.random.Generator, size: int, disc_x: float, disc_y: float, side: float) -> Field:
    """Four arcades of an artery and a vein with branches: temporal vessels bend around the macula, nasal vessels are straight."""
    t = np.linspace(0, 1, max(72, size * 2 // 3))
    thin = 1 - 0.55 * t
    vessels: list[Points] = []  # x, y and half width along each vessel, (3, num)

    def add(x: Points, y: Points, width: float, step: int = 1) -> None:  # branches are half as long and need half the points
        vessels.append(np.stack([x, y, width * thin])[:, ::step])

    for up in (-1.0, 1.0):
        for width, spread in ((0.026, 1.0), (0.034, 1.16)):
            wave = 0.018 * np.sin(t * rng.uniform(9, 14) + rng.uniform(0, 6))
            height = 0.60 * spread * rng.uniform(0.93, 1.07)
            x = disc_x - side * (1.5 * t**1.15 - 0.02 * spread)
            y = disc_y + up * (height * np.sin(np.pi * 0.80 * t**0.62) + wave)
            add(x, y, width)
            start = rng.integers(len(t) // 4, len(t) // 2)
            add(x[start] - side * 0.5 * t, y[start] + up * (0.45 * t + wave - wave[0]), width * 0.6, step=2)
            reach = rng.uniform(0.65, 0.85) * spread
            nasal_x = disc_x + side * (0.95 * t)
            nasal_y = disc_y + up * (reach * t**0.85 + wave)
            add(nasal_x, nasal_y, width * 0.8)
            start = rng.integers(len(t) // 4, len(t) // 2)
            add(nasal_x[start] + side * 0.5 * t, nasal_y[start] + up * (0.1 * t + wave - wave[0]), width * 0.5, step=2)
    return discs(size, *np.concatenate(vessels, axis=1)) * 0.85


def _paint_spots(picture: Field, findings: Findings, rng: np.random.Generator, difficulty: Difficulty, colours: _Colours) -> Field:
    """A patch of a few large dark haemorrhages or of many small bright exudates; nothing for the other diseases."""
    if findings.disease in (NORMAL, "glaucoma"):
        return picture
    radius = lesion_radius(findings, rng, difficulty) * _SPREAD
    cx, cy = lesion_centre(findings.other, rng, dx=0.38, dy=0.38, jitter=0.06)
    if findings.disease == "haemorrhages":
        points = scatter_in_disc(rng, max(1, round(120 * radius * radius)), cx, cy, radius)
        # Each haemorrhage is a row of overlapping discs: flame-shaped, unlike a vessel or a dot.
        turn = rng.uniform(0, np.pi, (len(points), 1))
        along = np.array([[-0.035, 0.0, 0.035]]) * rng.uniform(0.5, 1.2, (len(points), 1))
        x, y = points[:, :1] + along * np.cos(turn), points[:, 1:] + along * np.sin(turn)
        mask = discs(picture.shape[0], x, y, (0.035, 0.05, 0.035))
    else:
        points = scatter_in_disc(rng, max(5, round(300 * radius * radius)), cx, cy, radius)
        mask = discs(picture.shape[0], points[:, 0], points[:, 1], rng.uniform(0.018, 0.028, len(points)), edge=0.8)
    return blend(picture, mask * np.float32(min(1.0, 0.95 * difficulty.contrast)), colours[findings.disease])


ATLAS: Final = Atlas(
    modality=Modality.FUNDUS,
    technique_signs={
        "colour photograph": "an orange retina with red vessels",
        "red-free photograph": "a green retina with dark vessels",
        "fluorescein angiography": "white vessels on a dark grey retina",
        "autofluorescence": "a dark disc on light grey retina",
    },
    anatomy_signs={
        "right macula": "a central macula with the disc on its right",
        "left macula": "a central macula with the disc on its left",
        "right optic disc": "a central disc with the macula on its left",
        "left optic disc": "a central disc with the macula on its right",
    },
    disease_signs={
        "haemorrhages": "a patch of large dark blots",
        "exudates": "a patch of small bright dots",
        "glaucoma": "a wide cup in the disc",
        NORMAL: "a small cup and no spots",
    },
    draw=_draw,
    diseases_without_other=frozenset({NORMAL, "glaucoma"}),
)
