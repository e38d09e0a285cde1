"""Axial CT sections: a map of Hounsfield units, displayed with a window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from osler.data.phantom.atlas import NORMAL, Atlas, Findings
from osler.data.phantom.canvas import Difficulty, Field, Sketch, blend, ellipse, grey, texture
from osler.data.phantom.lesions import Lesion
from osler.taxonomy import Modality

# Hounsfield units; _PLAIN and _ENHANCED hold the organs that contrast medium changes.
_AIR, _LUNG, _FAT, _FLUID, _BONE, _MARROW = -1000.0, -850.0, -105.0, 8.0, 700.0, 230.0
_PLAIN: Final = {"muscle": 52.0, "liver": 62.0, "spleen": 52.0, "kidney": 36.0, "vessel": 42.0, "gut": 38.0, "urine": 8.0}
_ENHANCED: Final = {"muscle": 66.0, "liver": 112.0, "spleen": 128.0, "kidney": 205.0, "vessel": 290.0, "gut": 85.0, "urine": 260.0}
_WINDOWS: Final = {  # centre and width
    "non-contrast CT": (40.0, 400.0),
    "contrast-enhanced CT": (60.0, 440.0),
    "lung window CT": (-550.0, 1500.0),
    "bone window CT": (450.0, 1900.0),
}


def _start_body(size: int, rng: np.random.Generator, rx: float, ry: float, wall: float, muscle: float) -> Sketch:
    """Skin, subcutaneous fat, the muscle wall and the fat inside it, on the table."""
    sketch = Sketch.start(size, rng, _AIR, stretch=1.17)
    rx, ry = rx * rng.uniform(0.97, 1.03), ry * rng.uniform(0.97, 1.03)
    sketch.stroke([(x, 0.82 - 0.1 * x * x) for x in np.linspace(-0.8, 0.8, 9)], 0.012, -350.0)
    sketch.oval(0, 0.02, rx, ry, -20.0, core=(rx - 0.02, ry - 0.02, _FAT))
    sketch.oval(0, 0.02, rx - wall, ry - wall, muscle)
    sketch.oval(0, -0.03, rx - wall - 0.07, ry - wall - 0.07, _FAT)
    return sketch


def _add_spine(sketch: Sketch, y: float, muscle: float) -> None:
    """A vertebra with its canal, arch and spinous process, between the back muscles."""
    for side in (-1, 1):
        sketch.oval(side * 0.17, y + 0.2, 0.16, 0.12, muscle, side * 0.3)
        sketch.stroke([(side * 0.07, y + 0.07), (side * 0.12, y + 0.15), (0, y + 0.24)], 0.026, _BONE)
        sketch.stroke([(side * 0.1, y + 0.12), (side * 0.25, y + 0.1)], 0.025, _BONE)
    sketch.stroke([(0, y + 0.2), (0, y + 0.32)], 0.022, _BONE)
    sketch.oval(0, y, 0.15, 0.115, _BONE, core=(0.125, 0.09, _MARROW))
    sketch.oval(0, y + 0.145, 0.055, 0.045, 30.0)


def _add_ribs(sketch: Sketch, rng: np.random.Generator, rx: float, ry: float, num_ribs: int) -> None:
    """Oblique sections of the ribs, along the body wall."""
    phase = rng.uniform(-0.1, 0.1)
    for side in (-1, 1):
        for turn in np.linspace(-1.0, 1.05, num_ribs) + phase:
            x, y = side * rx * np.cos(turn), 0.0 + ry * np.sin(turn)
            angle = float(np.arctan2(ry * np.cos(turn), -side * rx * np.sin(turn)))
            sketch.oval(x, y, 0.085, 0.028, _BONE, angle, core=(0.06, 0.011, _MARROW))


def _draw_chest(size: int, rng: np.random.Generator, units: Mapping[str, float]) -> Sketch:
    sketch = _start_body(size, rng, 0.93, 0.7, 0.07, units["muscle"])
    for side in (-1, 1):
        sketch.oval(side * 0.42, -0.01, 0.335, 0.5, _LUNG, side * -0.12)
        for turn in np.linspace(-1.35, 1.35, 6) + rng.uniform(-0.2, 0.2, 6):  # vessels leave the hilum and get thinner
            x, y = side * 0.22, 0.02
            for width in (0.022, 0.015, 0.009):
                reach = rng.uniform(0.08, 0.13)
                tip = (x + side * reach * np.cos(turn), y + 1.2 * reach * np.sin(turn))
                sketch.stroke([(x, y), tip], width, units["vessel"] - 60.0)
                x, y, turn = *tip, turn + rng.uniform(-0.6, 0.6)
        for x, y, width in zip(rng.uniform(0.25, 0.6, 7), rng.uniform(-0.3, 0.3, 7), rng.uniform(0.01, 0.022, 7), strict=True):
            sketch.oval(side * x, y, width, width, units["vessel"] - 60.0)
        sketch.stroke([(side * 0.12, 0.02), (side * 0.3, -0.03)], 0.035, units["vessel"])
    sketch.oval(0, -0.02, 0.19, 0.4, _FAT + 60)
    sketch.oval(0.13, -0.1, 0.27, 0.24, units["muscle"], 0.5)
    sketch.oval(0.16, -0.08, 0.15, 0.13, units["vessel"], 0.5)
    sketch.oval(-0.07, -0.15, 0.08, 0.12, units["vessel"])
    sketch.oval(0.12, 0.24, 0.08, 0.08, units["vessel"])
    sketch.oval(0.01, 0.14, 0.045, 0.035, units["gut"])
    _add_spine(sketch, 0.38, units["muscle"])
    _add_ribs(sketch, rng, 0.8, 0.58, 6)
    sketch.oval(0, -0.56, 0.13, 0.035, _BONE, core=(0.1, 0.016, _MARROW))
    return sketch


def _draw_upper_abdomen(size: int, rng: np.random.Generator, units: Mapping[str, float]) -> Sketch:
    sketch = _start_body(size, rng, 0.93, 0.74, 0.08, units["muscle"])
    sketch.oval(-0.36, -0.01, 0.4, 0.53, units["liver"], 0.1)
    sketch.oval(0.02, -0.3, 0.36, 0.22, units["liver"], -0.25)
    for _ in range(9):  # portal and hepatic veins
        x, y, turn = rng.uniform(-0.58, -0.1), rng.uniform(-0.32, 0.3), rng.uniform(0, np.pi)
        sketch.stroke([(x, y), (x + 0.12 * np.cos(turn), y + 0.12 * np.sin(turn))], 0.016, 0.5 * (units["vessel"] + units["liver"]) - 12)
    sketch.oval(0.42, -0.22, 0.29, 0.25, units["gut"], 0.3)
    sketch.oval(0.42, -0.2, 0.25, 0.2, 25.0, 0.3)
    sketch.oval(0.42, -0.32, 0.2, 0.09, -850.0)
    sketch.oval(0.57, 0.2, 0.19, 0.31, units["spleen"], 0.35)
    sketch.oval(0.14, 0.02, 0.22, 0.06, units["gut"], -0.35)
    sketch.oval(-0.13, 0.2, 0.07, 0.055, 0.6 * units["vessel"] + 15)
    sketch.oval(0.06, 0.24, 0.065, 0.065, units["vessel"])
    _add_spine(sketch, 0.41, units["muscle"])
    _add_ribs(sketch, rng, 0.83, 0.62, 5)
    return sketch


def _draw_kidneys(size: int, rng: np.random.Generator, units: Mapping[str, float]) -> Sketch:
    sketch = _start_body(size, rng, 0.93, 0.7, 0.11, units["muscle"])
    for _ in range(13):  # loops of bowel filled with fluid; gas would look like a cyst, so it is only in the midline
        x, y = rng.uniform(-0.55, 0.58), rng.uniform(-0.42, -0.02)
        rx, ry, angle = rng.uniform(0.07, 0.15), rng.uniform(0.06, 0.1), rng.uniform(-0.7, 0.7)
        sketch.oval(x, y, rx, ry, units["gut"], angle, core=(rx - 0.03, ry - 0.03, units["gut"] - 28.0))
    for x in (-0.09, 0.09):
        sketch.oval(x, -0.45, 0.08, 0.045, -800.0)
    sketch.oval(-0.64, -0.02, 0.12, 0.33, units["liver"], 0.12)
    for side in (-1, 1):
        x, y = side * 0.44, 0.27 + rng.uniform(-0.03, 0.03)
        sketch.oval(x, y, 0.2, 0.25, units["kidney"], side * 0.35)
        sketch.oval(x - side * 0.06, y - 0.03, 0.1, 0.13, 0.6 * units["kidney"] + 5, side * 0.35)
        sketch.oval(x - side * 0.12, y - 0.05, 0.08, 0.08, _FAT)
        sketch.stroke([(side * 0.07, 0.14), (x - side * 0.1, y - 0.05)], 0.016, units["vessel"] - 15)
        sketch.oval(side * 0.2, 0.4, 0.09, 0.12, units["muscle"], side * -0.2)
    sketch.oval(-0.1, 0.13, 0.075, 0.06, 0.7 * units["vessel"] + 10)
    sketch.oval(0.08, 0.15, 0.06, 0.06, units["vessel"])
    _add_spine(sketch, 0.38, units["muscle"])
    return sketch


def _draw_pelvis(size: int, rng: np.random.Generator, units: Mapping[str, float]) -> Sketch:
    sketch = _start_body(size, rng, 0.95, 0.66, 0.09, units["muscle"])
    sketch.oval(0, -0.06, 0.42, 0.4, _FAT)
    for side in (-1, 1):
        sketch.oval(side * 0.5, 0.42, 0.34, 0.19, units["muscle"], side * -0.35)
        sketch.oval(side * 0.36, 0.02, 0.14, 0.28, units["muscle"], side * 0.15)
        sketch.oval(side * 0.45, -0.36, 0.2, 0.12, units["muscle"], side * 0.4)
        sketch.oval(side * 0.55, 0.0, 0.19, 0.18, _BONE, core=(0.155, 0.145, _MARROW + 90))  # the femoral head in its socket
        socket = [(0.55, -0.24), (0.36, -0.14), (0.32, 0.04), (0.4, 0.2), (0.5, 0.26)]
        sketch.stroke([(side * x, y) for x, y in socket], 0.042, _BONE)
        sketch.stroke([(side * 0.68, 0.08), (side * 0.79, 0.14)], 0.07, _BONE - 150)
        sketch.oval(side * 0.27, -0.4, 0.055, 0.055, units["vessel"])
        sketch.oval(side * 0.36, -0.37, 0.05, 0.05, 0.7 * units["vessel"] + 10)
    sketch.oval(0, -0.16, 0.25, 0.21, units["gut"], core=(0.22, 0.18, _FLUID))
    sketch.oval(0, -0.06, 0.15, 0.07, units["urine"], edge=4)
    sketch.oval(0, 0.17, 0.16, 0.09, units["gut"] + 5)
    sketch.oval(0, 0.34, 0.11, 0.1, units["gut"])
    sketch.oval(0, 0.33, 0.06, 0.05, -700.0)
    sketch.stroke([(-0.1, 0.5), (0, 0.52), (0.1, 0.5)], 0.035, _BONE)
    return sketch


_SECTIONS: Final = {"chest": _draw_chest, "upper abdomen": _draw_upper_abdomen, "kidney level": _draw_kidneys, "pelvis": _draw_pelvis}


def _add_lesion(picture: Field, findings: Findings, rng: np.random.Generator, difficulty: Difficulty) -> Field:
    """Paint the lesion relative to its surroundings after windowing: in Hounsfield units some windows would not show it."""
    lesion = Lesion.place(picture, findings, rng, difficulty, dx=0.35, dy=0.32, step=0.33)
    lesion.level_ground()
    match findings.disease:
        case "cyst":
            mask = ellipse(picture.shape[0], lesion.cx, lesion.cy, lesion.radius, lesion.radius * rng.uniform(0.92, 1.08))
            lesion.paint(mask, lesion.ground - lesion.step)
        case "haemorrhage":
            lesion.blob(lesion.radius, 1, rng, roughness=0.12)
        case "abscess":
            lesion.ring(rng)
    return blend(picture, ellipse(picture.shape[0], 0, 0.02, 0.85, 0.72, edge=4), lesion.picture)


def _draw(findings: Findings, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Field:
    units = _ENHANCED if findings.technique == "contrast-enhanced CT" else _PLAIN
    centre, width = _WINDOWS[findings.technique]
    sketch = _SECTIONS[findings.anatomy](size, rng, units)
    grain = np.float32(14 * difficulty.noise) * texture(rng, size, 1)
    picture = np.clip((sketch.field + grain - np.float32(centre - width / 2)) * np.float32(1 / width), 0, 1)
    if findings.disease != NORMAL:
        picture = _add_lesion(picture, findings, rng, difficulty)
    return grey(picture + np.float32(0.022 * difficulty.noise) * rng.standard_normal((size, size), dtype=np.float32))


ATLAS: Final = Atlas(
    modality=Modality.CT,
    technique_signs={
        "non-contrast CT": "grey vessels among soft tissue",
        "contrast-enhanced CT": "brightly filled vessels",
        "lung window CT": "fat nearly as bright as muscle",
        "bone window CT": "dark soft tissue beside bright bone",
    },
    anatomy_signs={
        "chest": "two dark lungs around the heart",
        "upper abdomen": "a large liver opposite the stomach",
        "kidney level": "a kidney on each side",
        "pelvis": "two femoral heads beside the bladder",
    },
    disease_signs={
        "cyst": "a round dark area without a wall",
        "haemorrhage": "an evenly bright area",
        "abscess": "a bright ring with a dark centre",
        NORMAL: "no focal lesion in any part",
    },
    draw=_draw,
)
