"""MRI sections of the brain and the spine: a map of tissues, each with its signal in the sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from osler.data.phantom.atlas import NORMAL, Atlas, Findings
from osler.data.phantom.canvas import Difficulty, Field, Sketch, blend, grey, grid, texture
from osler.data.phantom.lesions import Lesion
from osler.taxonomy import Modality

# Relative signal of each tissue. Cortical bone and air are dark in every sequence. The contrast-enhanced sequence suppresses fat.
_TISSUES: Final = ("fat", "fluid", "grey", "white", "muscle", "marrow", "disc", "cord", "vessel", "dura", "cortex", "air")
_SIGNALS: Final = {
    technique: dict(zip(_TISSUES, (*signals, 0.05, 0.02), strict=True))
    for technique, signals in {
        "T1-weighted MRI": (0.92, 0.12, 0.44, 0.64, 0.38, 0.66, 0.36, 0.56, 0.10, 0.30),
        "T2-weighted MRI": (0.70, 0.98, 0.58, 0.38, 0.22, 0.46, 0.66, 0.34, 0.08, 0.15),
        "FLAIR MRI": (0.50, 0.05, 0.70, 0.50, 0.30, 0.34, 0.20, 0.74, 0.06, 0.18),
        "contrast-enhanced T1-weighted MRI": (0.24, 0.12, 0.42, 0.56, 0.44, 0.34, 0.20, 0.50, 1.00, 0.95),
    }.items()
}


def _draw_axial_brain(size: int, rng: np.random.Generator, signal: Mapping[str, float]) -> Sketch:
    sketch = Sketch.start(size, rng, signal["air"])
    rx, ry = 0.76 * rng.uniform(0.97, 1.03), 0.92 * rng.uniform(0.97, 1.02)
    for depth, tissue in ((0, "muscle"), (0.02, "fat"), (0.07, "cortex"), (0.11, "dura"), (0.125, "fluid")):
        sketch.oval(0, 0, rx - depth, ry - depth, signal[tissue])
    _add_gyri(sketch, rng, signal, sketch.mask(0, 0, rx - 0.145, ry - 0.145, edge=3), rx - 0.145, ry - 0.145)
    brain = sketch.mask(0, 0, rx - 0.13, ry - 0.13)
    for y in (-0.66, 0.66):
        sketch.stroke([(0, y), (0, 0.34 * np.sign(y))], 0.02, signal["fluid"], inside=brain)
    sketch.stroke([(0, -0.8), (0, -0.4)], 0.008, signal["dura"], inside=brain)
    sketch.stroke([(0, 0.4), (0, 0.8)], 0.008, signal["dura"], inside=brain)
    sketch.oval(0, 0.79, 0.035, 0.025, signal["vessel"])
    sketch.oval(0, -0.2, 0.2, 0.04, signal["white"])
    for side in (-1, 1):
        sketch.oval(side * 0.15, -0.05, 0.055, 0.14, signal["grey"], side * -0.35)  # caudate and putamen
        sketch.oval(side * 0.31, -0.03, 0.055, 0.16, signal["grey"], side * -0.2)
        sketch.oval(side * 0.11, 0.13, 0.085, 0.12, signal["grey"], side * -0.3)
        sketch.oval(side * 0.085, -0.17, 0.045, 0.15, signal["fluid"], side * 0.35)
        sketch.oval(side * 0.2, 0.3, 0.05, 0.15, signal["fluid"], side * -0.5)
        sketch.oval(side * 0.19, 0.27, 0.02, 0.05, signal["vessel"] if signal["vessel"] > 0.5 else signal["grey"], side * -0.5)
        sketch.stroke([(side * 0.58, -0.05), (side * 0.44, 0.0)], 0.022, signal["fluid"])
    sketch.oval(0, 0.1, 0.02, 0.12, signal["fluid"])
    return sketch


def _add_gyri(sketch: Sketch, rng: np.random.Generator, signal: Mapping[str, float], inside: Field, rx: float, ry: float) -> None:
    """White matter under folded cortex, with fluid in the sulci."""
    size = sketch.field.shape[0]
    x, y = grid(size)
    depth = 1 - np.hypot((x - np.float32(sketch.dx)) / np.float32(rx), (y - np.float32(sketch.dy)) / np.float32(ry))
    folds = texture(rng, size, 2)
    white = np.clip((depth - 0.17 - 0.08 * folds) * 14 + 0.5, 0, 1)
    sulci = np.clip((0.34 - np.abs(folds) - 1.6 * np.maximum(depth - 0.06, 0)) * 5 + 0.2, 0, 1)
    brain = signal["grey"] + white * np.float32(signal["white"] - signal["grey"])
    sketch.field = blend(sketch.field, inside, blend(brain, sulci, signal["fluid"]))


def _draw_sagittal_brain(size: int, rng: np.random.Generator, signal: Mapping[str, float]) -> Sketch:
    """The midline, with the face on the left."""
    sketch = Sketch.start(size, rng, signal["air"])
    sketch.oval(-0.3, 0.55, 0.4, 0.5, signal["fat"], 0.2)  # face and neck
    sketch.oval(-0.22, 0.6, 0.36, 0.5, signal["muscle"], 0.2)
    sketch.stroke([(-0.78, 0.36), (-0.83, 0.5), (-0.72, 0.52)], 0.05, signal["muscle"])
    sketch.stroke([(0.3, 0.6), (0.42, 1.1)], 0.33, signal["fat"])
    sketch.stroke([(0.28, 0.6), (0.38, 1.1)], 0.27, signal["muscle"])
    sketch.oval(0, -0.1, 0.93, 0.83, signal["fat"], core=(0.875, 0.775, signal["cortex"]))
    sketch.oval(0, -0.1, 0.835, 0.735, signal["dura"])
    cavity = sketch.mask(0, -0.1, 0.82, 0.72)
    sketch.field = blend(sketch.field, cavity, signal["fluid"])
    _add_gyri(sketch, rng, signal, np.minimum(cavity, sketch.mask(0, -0.14, 0.81, 0.66, edge=3)), 0.82, 0.72)
    sketch.stroke([(-0.62, 0.5), (-0.3, 0.5), (-0.02, 0.62)], 0.1, signal["cortex"])  # skull base, sinus and palate
    sketch.oval(-0.55, 0.58, 0.13, 0.08, signal["air"])
    sketch.stroke([(-0.6, 0.82), (-0.25, 0.84)], 0.09, signal["muscle"])
    sketch.stroke([(-0.5, 0.7), (-0.15, 0.72), (-0.02, 1.0)], 0.03, signal["air"])
    arc = [(0.34 * np.cos(turn) - 0.03, -0.02 - 0.26 * np.sin(turn)) for turn in np.linspace(0.1, 3.3, 9)]
    sketch.stroke([(x, y + 0.08) for x, y in arc], 0.045, signal["fluid"])
    sketch.stroke(arc, 0.04, signal["white"])
    sketch.oval(0.02, 0.1, 0.16, 0.09, signal["grey"], 0.15)
    sketch.oval(0.34, 0.36, 0.29, 0.2, signal["fluid"], 0.25)
    sketch.oval(0.36, 0.37, 0.26, 0.17, signal["grey"], 0.25)  # cerebellum with its folia
    for turn in np.linspace(-1.2, 1.2, 7):
        sketch.stroke([(0.2, 0.33), (0.2 + 0.37 * np.cos(turn), 0.36 + 0.17 * np.sin(turn))], 0.013, signal["white"])
    sketch.stroke([(0.0, 0.12), (0.04, 0.36), (0.14, 0.62), (0.2, 1.1)], 0.13, signal["fluid"])
    sketch.stroke([(0.0, 0.14), (0.04, 0.36), (0.14, 0.6), (0.2, 1.1)], 0.065, signal["cord"])
    sketch.oval(-0.02, 0.34, 0.1, 0.14, signal["cord"], -0.15)
    sketch.stroke([(0.58, -0.05), (0.72, 0.1), (0.62, 0.3)], 0.022, signal["vessel"])
    sketch.oval(-0.16, 0.42, 0.035, 0.03, signal["vessel"])
    return sketch


def _draw_sagittal_spine(size: int, rng: np.random.Generator, signal: Mapping[str, float]) -> Sketch:
    """Lumbar vertebrae and discs, the dural sac with the cord, the spinous processes and the back; anterior is left."""
    sketch = Sketch.start(size, rng, signal["fat"] * 0.8)
    bow, phase = rng.uniform(0.05, 0.09), rng.uniform(-0.12, 0.12)

    def shift(y: float) -> float:
        return float(bow * np.cos(2.2 * (y - 0.15)) - 0.22)

    heights = np.linspace(-1.2, 1.2, 13)
    sketch.stroke([(-0.95, -1.2), (-0.85, 1.2)], 0.28, signal["muscle"])
    sketch.stroke([(shift(y) - 0.4, y) for y in heights], 0.045, signal["vessel"])
    sketch.stroke([(0.62, -1.2), (0.68, 1.2)], 0.22, signal["muscle"])
    for half_width, tissue in ((0.13, "cortex"), (0.115, "dura"), (0.1, "fluid")):
        sketch.stroke([(shift(y) + 0.4, y) for y in heights], half_width, signal[tissue])
    sketch.stroke([(shift(y) + 0.4, y) for y in heights if y < 0.45], 0.045, signal["cord"])
    for roots in (0.37, 0.43):
        sketch.stroke([(shift(y) + roots, y) for y in heights if y > 0.15], 0.012, signal["cord"])
    for y in np.arange(-1.2, 1.3, 0.4) + phase:
        x = shift(y)
        left, right, top, bottom = x - 0.17, x + 0.17, y - 0.07, y + 0.07
        sketch.stroke([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], 0.075, signal["cortex"])
        sketch.stroke([(left, y - 0.06), (right, y - 0.06), (right, y + 0.06), (left, y + 0.06)], 0.065, signal["marrow"])
        sketch.stroke([(left, y), (right, y)], 0.07, signal["marrow"])
        sketch.oval(x + 0.01, y + 0.2, 0.22, 0.05, signal["disc"] * 0.55, core=(0.15, 0.035, signal["disc"]))
        sketch.stroke([(x + 0.62, y + 0.04), (x + 0.82, y + 0.1)], 0.085, signal["cortex"])
        sketch.stroke([(x + 0.62, y + 0.04), (x + 0.82, y + 0.1)], 0.065, signal["marrow"])
        sketch.stroke([(x + 0.02, y), (x + 0.24, y)], 0.012, signal["vessel"])
    sketch.stroke([(0.97, -1.2), (1.0, 1.2)], 0.13, signal["fat"])
    return sketch


def _draw_axial_spine(size: int, rng: np.random.Generator, signal: Mapping[str, float]) -> Sketch:
    """A lumbar disc between the psoas muscles, the dural sac with nerve roots, the arch and the back muscles."""
    sketch = Sketch.start(size, rng, signal["air"])
    sketch.oval(0, -0.25, 1.2, 1.18, signal["fat"])
    sketch.oval(0, -0.62, 0.95, 0.42, signal["muscle"] * 0.8 + 0.05)
    for _ in range(8):
        sketch.oval(rng.uniform(-0.8, 0.8), rng.uniform(-0.95, -0.68), rng.uniform(0.08, 0.14), rng.uniform(0.06, 0.1), signal["disc"])
    for side in (-1, 1):
        sketch.oval(side * 0.17, -0.53, 0.09, 0.085, signal["vessel"])
        sketch.oval(side * 0.56, -0.15, 0.2, 0.29, signal["muscle"], side * 0.15)
        sketch.oval(side * 0.42, 0.5, 0.36, 0.27, signal["muscle"], side * -0.12)
        sketch.oval(side * 0.82, 0.16, 0.15, 0.22, signal["muscle"], side * 0.3)
        for _ in range(5):
            x, y = side * rng.uniform(0.15, 0.65), rng.uniform(0.35, 0.65)
            sketch.stroke([(x, y), (x + 0.09, y + rng.uniform(-0.06, 0.06))], 0.01, signal["fat"])
    sketch.oval(0, -0.18, 0.4, 0.29, signal["cortex"], core=(0.37, 0.26, signal["disc"] * 0.6 + 0.03))
    sketch.oval(0, -0.17, 0.26, 0.17, signal["disc"])
    for side in (-1, 1):
        sketch.stroke([(side * 0.26, 0.1), (side * 0.3, 0.28), (side * 0.1, 0.38), (0, 0.45)], 0.06, signal["cortex"])
        sketch.stroke([(side * 0.27, 0.15), (side * 0.29, 0.27)], 0.035, signal["marrow"])
        sketch.oval(side * 0.3, 0.08, 0.035, 0.03, signal["cord"])
    sketch.stroke([(0, 0.42), (0, 0.72)], 0.065, signal["cortex"])
    sketch.stroke([(0, 0.45), (0, 0.7)], 0.04, signal["marrow"])
    sketch.oval(0, 0.19, 0.2, 0.14, signal["dura"], core=(0.18, 0.12, signal["fluid"]))
    for x, y in zip(rng.uniform(-0.11, 0.11, 9), rng.uniform(0.2, 0.27, 9), strict=True):
        sketch.oval(x, y, 0.018, 0.018, signal["cord"])
    return sketch


_SECTIONS: Final = {
    "axial brain": _draw_axial_brain,
    "sagittal brain": _draw_sagittal_brain,
    "sagittal spine": _draw_sagittal_spine,
    "axial spine": _draw_axial_spine,
}


def _add_lesion(picture: Field, findings: Findings, rng: np.random.Generator, difficulty: Difficulty) -> Field:
    """Paint a lesion that looks nearly the same in every sequence: methaemoglobin is bright and calcium dark in all four."""
    lesion = Lesion.place(picture, findings, rng, difficulty, dx=0.34, dy=0.3, step=0.33)
    lesion.level_ground()
    match findings.disease:
        case "tumour":
            lesion.ring(rng)
        case "haematoma":
            lesion.blob(lesion.radius, 1, rng, roughness=0.1)
        case "calcification":
            lesion.blob(lesion.radius, -1, rng, roughness=0.14)
    return lesion.picture


def _draw(findings: Findings, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Field:
    sketch = _SECTIONS[findings.anatomy](size, rng, _SIGNALS[findings.technique])
    picture = sketch.field * (1 + np.float32(0.05 * difficulty.noise) * texture(rng, size, 1.5))
    if findings.disease != NORMAL:
        picture = _add_lesion(picture, findings, rng, difficulty)
    x, y = grid(size)
    slope, turn = 0.08, rng.uniform(0, 2 * np.pi)  # the receive coil is more sensitive on one side
    picture = picture * (1 + np.float32(slope * np.cos(turn)) * x + np.float32(slope * np.sin(turn)) * y)
    real, imaginary = rng.standard_normal((2, size, size), dtype=np.float32) * np.float32(0.025 * difficulty.noise)
    return grey(np.hypot(picture + real, imaginary))  # Rician noise: the magnitude of a complex signal


ATLAS: Final = Atlas(
    modality=Modality.MRI,
    technique_signs={
        "T1-weighted MRI": "dark fluid and bright fat",
        "T2-weighted MRI": "bright fluid and dark white matter",
        "FLAIR MRI": "dark fluid and bright grey matter",
        "contrast-enhanced T1-weighted MRI": "bright vessels, dark fluid and dark fat",
    },
    anatomy_signs={
        "axial brain": "two symmetric hemispheres around the ventricles",
        "sagittal brain": "the brain stem and cerebellum in profile",
        "sagittal spine": "a column of vertebrae and discs",
        "axial spine": "one disc between the back muscles",
    },
    disease_signs={
        "tumour": "a bright ring with a dark core",
        "haematoma": "an evenly bright area",
        "calcification": "a dark area with an uneven border",
        NORMAL: "no focal lesion in any part",
    },
    draw=_draw,
)
