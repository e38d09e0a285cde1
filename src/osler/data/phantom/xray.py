"""Radiographs: soft tissue and bone are drawn separately and added, so that dual-energy images can show one without the other."""

from __future__ import annotations

from typing import Final

import numpy as np

from osler.data.phantom.atlas import NORMAL, Atlas, Findings
from osler.data.phantom.canvas import Difficulty, Field, Sketch, grey, grid, texture
from osler.data.phantom.lesions import Lesion
from osler.taxonomy import Modality


def _add_long_bone(bone: Sketch, start: tuple[float, float], end: tuple[float, float], half_width: float, value: float = 0.52) -> None:
    """A tube with a dense cortex and wider ends."""
    for x, y in (start, end):
        bone.oval(x, y, 1.3 * half_width, 1.15 * half_width, value)
    bone.stroke([start, end], half_width, value)
    bone.stroke([start, end], 0.5 * half_width, 0.7 * value)


def _add_ribs(bone: Sketch, rng: np.random.Generator, cage: Field) -> None:
    """Evenly spaced posterior ribs, crossed by fainter anterior ribs, within the mask `cage`."""
    x, y = grid(cage.shape[0])
    aside, phase = np.abs(x - np.float32(bone.dx)), rng.uniform(0, 1)
    for curve, spacing, half_width, value in (
        (0.95 * np.maximum(aside - 0.2, 0) ** 2 - 0.12 * aside, 0.185, 0.036, 0.2),
        (-0.42 * aside + 0.25 * aside**2, 0.21, 0.034, 0.1),
    ):
        offset = np.abs(((y - curve) / np.float32(spacing) + np.float32(phase)) % 1 - 0.5) * np.float32(spacing)
        rib = np.clip((half_width - offset) * 50 + 0.5, 0, 1)
        edge = 0.75 + 0.25 * np.clip(offset / np.float32(half_width), 0, 1) ** 2
        bone.field = bone.field + np.float32(value) * rib * edge * cage


def draw_chest(soft: Sketch, bone: Sketch, rng: np.random.Generator) -> None:
    """A chest from the front, with the heart on the right of the picture."""
    soft.oval(0, 0.35, 0.97, 1.1, 0.5, edge=3)
    soft.stroke([(0, -1.1), (0, -0.7)], 0.25, 0.45, edge=3)
    soft.oval(0, 0.5, 0.84, 1.0, 0.56, edge=10)
    for side in (-1, 1):
        soft.oval(side * 0.41, 0.0, 0.34, 0.71, 0.16, side * -0.06, edge=3)
    soft.oval(-0.42, 0.78, 0.46, 0.3, 0.62, edge=2)  # the diaphragm
    soft.oval(0.44, 0.84, 0.46, 0.3, 0.6, edge=2)
    soft.stroke([(0, -0.9), (0, 0.7)], 0.12, 0.55, edge=3)
    soft.oval(0.16, 0.32, 0.33, 0.25, 0.66, 0.5, edge=3)
    soft.oval(-0.05, 0.25, 0.17, 0.28, 0.64, edge=3)
    soft.oval(0.1, -0.2, 0.1, 0.1, 0.6, edge=3)
    soft.stroke([(0, -1.0), (0, -0.3)], 0.045, 0.33, edge=2)
    for side in (-1, 1):
        for turn in np.linspace(-1.1, 1.3, 6) + rng.uniform(-0.2, 0.2, 6):
            middle = (side * (0.17 + 0.15 * np.cos(turn)), -0.02 + 0.16 * np.sin(turn))
            tip = (side * (0.17 + 0.29 * np.cos(turn)), -0.02 + 0.34 * np.sin(turn))
            soft.stroke([(side * 0.15, 0.0), middle], 0.02, 0.36, edge=3)
            soft.stroke([middle, tip], 0.011, 0.27, edge=3)
        bone.stroke([(side * 0.08, -0.62), (side * 0.35, -0.68), (side * 0.75, -0.8)], 0.035, 0.3)
        bone.stroke([(side * 0.68, -0.62), (side * 0.8, -0.1), (side * 0.84, -0.05)], 0.03, 0.16, edge=2)
        bone.oval(side * 0.93, -0.7, 0.13, 0.12, 0.4)
    for y in np.arange(-0.95, 0.9, 0.17) + rng.uniform(-0.05, 0.05):
        bone.oval(0, y, 0.095, 0.075, 0.17)
    _add_ribs(bone, rng, soft.mask(0, 0.1, 0.79, 0.93, edge=2))


def _draw_hand(soft: Sketch, bone: Sketch, rng: np.random.Generator) -> None:
    """A hand, left or right, with the fingers together."""
    side = 1.0 if rng.random() < 0.5 else -1.0
    tips = [(side * x, y) for x, y in ((-0.42, -0.62), (-0.15, -0.86), (0.13, -0.8), (0.42, -0.52))]
    wrist = 0.66
    soft.stroke([(0, 0.5), (0, 1.2)], 0.34, 0.24, edge=3)
    soft.oval(0, 0.3, 0.56, 0.5, 0.26, edge=3)
    soft.stroke([(-side * 0.4, 0.45), (-side * 0.72, 0.1), (-side * 0.82, -0.12)], 0.13, 0.24, edge=3)
    for x, y in tips:
        soft.stroke([(0.95 * x, 0.2), (x, y)], 0.155, 0.24, edge=3)
    for x, y in tips:
        knuckle = 0.02 + 0.1 * abs(x)
        _add_long_bone(bone, (0.45 * x, 0.46), (0.85 * x, knuckle), 0.055)
        start, span = knuckle - 0.09, knuckle - 0.09 - y
        for low, high, half_width in ((0.0, 0.4, 0.05), (0.52, 0.74, 0.042), (0.86, 0.98, 0.032)):
            drift = x - 0.88 * x
            base, tip = (0.88 * x + low * drift, start - low * span), (0.88 * x + high * drift, start - high * span)
            _add_long_bone(bone, base, tip, half_width)
    for (ax, ay), (bx, by) in (((-0.3, 0.47), (-0.56, 0.28)), ((-0.64, 0.2), (-0.74, 0.04)), ((-0.77, -0.05), (-0.81, -0.14))):
        _add_long_bone(bone, (side * ax, ay), (side * bx, by), 0.05)
    for x, y in ((-0.2, 0.57), (-0.07, 0.56), (0.06, 0.56), (0.19, 0.57), (-0.14, 0.68), (0.0, 0.69), (0.14, 0.68)):
        bone.oval(side * x, y, 0.072, 0.06, 0.5, core=(0.045, 0.035, 0.4))
    _add_long_bone(bone, (-side * 0.13, wrist + 0.17), (-side * 0.12, 1.3), 0.11)
    _add_long_bone(bone, (side * 0.16, wrist + 0.19), (side * 0.14, 1.3), 0.07)


def _draw_knee(soft: Sketch, bone: Sketch, rng: np.random.Generator) -> None:
    side = 1.0 if rng.random() < 0.5 else -1.0
    soft.stroke([(0, -1.2), (0, -0.1)], 0.74, 0.26, edge=4)
    soft.stroke([(0, -0.1), (0, 1.2)], 0.68, 0.26, edge=4)
    soft.stroke([(0, -1.2), (0, 1.2)], 0.55, 0.31, edge=10)
    bone.stroke([(0, -1.2), (0, -0.45)], 0.25, 0.56)
    bone.stroke([(0, -1.2), (0, -0.5)], 0.15, 0.36, edge=2)
    for x in (-1.0, 1.0):
        bone.stroke([(x * 0.14, -0.85), (x * 0.19, -0.55), (x * 0.36, -0.3)], 0.11, 0.54)
    bone.stroke([(0, -0.6), (0, -0.3)], 0.22, 0.42, edge=4)
    for x in (-0.27, 0.27):
        bone.oval(x, -0.25, 0.27, 0.22, 0.58)
        bone.oval(x, -0.26, 0.24, 0.19, 0.45)
    bone.oval(0, -0.06, 0.1, 0.1, 0.16, edge=2)
    bone.stroke([(-0.4, 0.13), (0.4, 0.13)], 0.085, 0.58)
    bone.stroke([(-0.38, 0.16), (0.38, 0.16)], 0.075, 0.44)
    bone.oval(0, 0.27, 0.4, 0.2, 0.44, edge=2)
    bone.stroke([(0, 0.4), (0, 1.2)], 0.23, 0.56)
    bone.stroke([(0, 0.3), (0, 1.2)], 0.14, 0.36, edge=2)
    for x in (-0.05, 0.05):
        bone.stroke([(x, 0.1), (x, 0.02)], 0.022, 0.5)
    bone.oval(0, -0.34, 0.19, 0.2, 0.58, edge=2, core=(0.165, 0.175, 0.53))
    _add_long_bone(bone, (side * 0.44, 0.36), (side * 0.4, 1.3), 0.085)


def _draw_pelvis(soft: Sketch, bone: Sketch, rng: np.random.Generator) -> None:
    soft.oval(0, 0, 1.02, 1.25, 0.24, edge=6)
    soft.oval(0, -0.2, 0.85, 0.95, 0.32, edge=16)
    for _ in range(6):
        soft.oval(rng.uniform(-0.2, 0.2), rng.uniform(-0.85, -0.1), rng.uniform(0.06, 0.12), rng.uniform(0.04, 0.08), 0.22, edge=4)
    for y in (-0.95, -0.72):
        bone.oval(0, y, 0.17, 0.1, 0.4)
        bone.stroke([(-0.3, y), (0.3, y)], 0.03, 0.3)
        bone.oval(0, y, 0.13, 0.06, 0.3)
    for y, width in ((-0.52, 0.24), (-0.38, 0.2), (-0.25, 0.15), (-0.13, 0.1), (-0.03, 0.06)):
        bone.oval(0, y, width, 0.085, 0.36, edge=2)
        for side in (-0.5, 0.5):
            bone.oval(side * width, y, 0.035, 0.025, 0.2)
    for side in (-1, 1):
        bone.oval(side * 0.53, -0.4, 0.24, 0.4, 0.46, side * 0.45)
        bone.oval(side * 0.53, -0.41, 0.205, 0.36, 0.24, side * 0.45, edge=3)
        bone.stroke([(side * 0.22, -0.3), (side * 0.3, -0.05), (side * 0.42, 0.08)], 0.055, 0.42)
        bone.stroke([(side * 0.38, 0.2), (side * 0.22, 0.3), (side * 0.05, 0.36)], 0.055, 0.4)
        bone.stroke([(side * 0.05, 0.36), (side * 0.08, 0.46), (side * 0.26, 0.66), (side * 0.4, 0.6), (side * 0.42, 0.3)], 0.05, 0.4)
        bone.stroke([(side * 0.56, 0.2), (side * 0.8, 0.36)], 0.11, 0.4)
        bone.oval(side * 0.84, 0.36, 0.1, 0.13, 0.44)
        _add_long_bone(bone, (side * 0.79, 0.5), (side * 0.7, 1.3), 0.12, 0.5)
        bone.oval(side * 0.51, 0.15, 0.2, 0.2, 0.56)
        bone.oval(side * 0.52, 0.16, 0.165, 0.165, 0.46)


_VIEWS: Final = {"chest": draw_chest, "hand": _draw_hand, "knee": _draw_knee, "pelvis": _draw_pelvis}


def _scatter(rng: np.random.Generator, cx: float, cy: float, radius: float) -> list[tuple[float, float]]:
    """Points in a disc, six of them near its border so that the extent of the cluster is visible."""
    rim = np.linspace(0, 2 * np.pi, 6, endpoint=False) + rng.uniform(0, 2 * np.pi)
    num_inner = 1 + round(55 * radius * (radius + 0.1))
    turns = np.concatenate([rim, rng.uniform(0, 2 * np.pi, num_inner)])
    reaches = np.concatenate([np.full(6, 0.85), 0.75 * np.sqrt(rng.uniform(0, 1, num_inner))]) * radius
    return [(float(cx + reach * np.cos(turn)), float(cy + reach * np.sin(turn))) for reach, turn in zip(reaches, turns, strict=True)]


def _add_lesion(picture: Field, findings: Findings, rng: np.random.Generator, difficulty: Difficulty) -> Field:
    """Paint a ring, a cluster or a disc: shapes that are distinct in an inverted image as well."""
    lesion = Lesion.place(picture, findings, rng, difficulty, dx=0.36, dy=0.3, step=0.36)
    lesion.level_ground(high=0.6)
    match findings.disease:
        case "cyst":
            lesion.disc(lesion.radius + 0.01, 1)
            lesion.disc(lesion.radius - max(0.15 * lesion.radius, 0.025), -0.6)
        case "calcification":
            specks = Sketch(field=lesion.picture)
            for x, y in _scatter(rng, lesion.cx, lesion.cy, lesion.radius):
                specks.oval(x, y, 0.024, 0.024, lesion.ground + 1.2 * lesion.step)
        case "mass":
            lesion.blob(lesion.radius, 1, rng, roughness=0.08)
    return lesion.picture


def _draw(findings: Findings, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Field:
    soft = Sketch.start(size, rng, 0.03)
    bone = Sketch(field=np.zeros((size, size), np.float32), dx=soft.dx, dy=soft.dy, scale=soft.scale)
    _VIEWS[findings.anatomy](soft, bone, rng)
    match findings.technique:
        case "dual-energy bone image":
            picture = 0.08 + 1.25 * bone.field + 0.08 * soft.field
        case "dual-energy soft tissue image":  # the subtraction is never perfect
            picture = 1.2 * soft.field + 0.12 * bone.field
        case _:
            picture = soft.field + bone.field
    picture = picture * (1 + np.float32(0.03 * difficulty.noise) * texture(rng, size, 1))
    if findings.disease != NORMAL:
        picture = _add_lesion(picture, findings, rng, difficulty)
    if findings.technique == "inverted radiograph":
        picture = 1 - np.clip(picture, 0, 1)
    return grey(picture + np.float32(0.02 * difficulty.noise) * rng.standard_normal((size, size), dtype=np.float32))


ATLAS: Final = Atlas(
    modality=Modality.XRAY,
    technique_signs={
        "standard radiograph": "white bone on grey soft tissue",
        "inverted radiograph": "black bone on a white background",
        "dual-energy bone image": "bone without soft tissue",
        "dual-energy soft tissue image": "bone faded out of the picture",
    },
    anatomy_signs={
        "chest": "two dark lungs beside the heart",
        "hand": "five fingers above a palm",
        "knee": "two bone ends at one joint",
        "pelvis": "two hips around a ring",
    },
    disease_signs={
        "cyst": "a thin ring around an even area",
        "calcification": "a cluster of fine dense specks",
        "mass": "a solid disc with a smooth border",
        NORMAL: "no focal lesion in any part",
    },
    draw=_draw,
)
