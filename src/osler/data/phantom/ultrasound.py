"""Ultrasound: a map of echoes under a curved or linear probe, with speckle, shadow, enhancement and colour overlays."""

from __future__ import annotations

from typing import Final

import numpy as np

from osler.data.phantom.atlas import NORMAL, Atlas, Findings
from osler.data.phantom.canvas import Difficulty, Field, Sketch, blend, blur, ellipse, grey, grid, texture
from osler.data.phantom.lesions import Lesion, lesion_centre, lesion_radius
from osler.taxonomy import Modality

_APEX: Final = -1.75  # y of the centre of the curved probe's circle, above the picture
_DEPTHS: Final = (0.85, 2.72)  # inner and outer radius of its sector
_HALF_ANGLE: Final = 0.49  # of its sector, radians
_TOWARDS, _AWAY, _POWER, _GREEN, _GOLD = (
    np.array(colour, np.float32) for colour in ((0.95, 0.15, 0.08), (0.1, 0.25, 1.0), (1.0, 0.55, 0.08), (0.2, 0.9, 0.3), (1.0, 0.8, 0.2))
)


def _draw_kidney(size: int, rng: np.random.Generator) -> Sketch:
    sketch = Sketch.start(size, rng, 0.46)
    sketch.oval(0, -1.0, 1.2, 0.42, 0.55, edge=6)
    sketch.stroke([(-1, -0.5), (0, -0.62), (1, -0.5)], 0.02, 0.7, edge=2)
    tilt = rng.uniform(-0.12, 0.12)
    sketch.oval(0, 0.05, 0.83, 0.56, 0.85, tilt, edge=2, core=(0.8, 0.53, 0.36))
    for turn in np.linspace(0, 2 * np.pi, 10, endpoint=False) + rng.uniform(-0.1, 0.1, 10):
        x, y = 0.54 * np.cos(turn), 0.05 + 0.33 * np.sin(turn)
        sketch.oval(x, y, 0.11, 0.07, 0.26, float(np.arctan2(np.sin(turn) * 0.6, np.cos(turn))), edge=4)
    sketch.oval(0, 0.05, 0.46, 0.2, 0.78, tilt, edge=8)
    for x in rng.uniform(-0.35, 0.35, 4):
        sketch.oval(x, 0.05 + rng.uniform(-0.08, 0.08), 0.07, 0.03, 0.5, edge=3)
    return sketch


def _draw_liver(size: int, rng: np.random.Generator) -> Sketch:
    sketch = Sketch.start(size, rng, 0.5)
    sketch.oval(0, -1.0, 1.2, 0.3, 0.62, edge=6)
    for x, y, turn in ((-0.1, -0.25, 0.5), (0.2, 0.1, -0.5), (-0.2, 0.3, 0.2)):  # portal veins have bright walls
        tip = (x + 0.32 * np.cos(turn + rng.uniform(-0.2, 0.2)), y + 0.32 * np.sin(turn))
        sketch.stroke([(x, y), tip], 0.05, 0.8, edge=2)
        sketch.stroke([(x, y), tip], 0.027, 0.12, edge=2)
    hub = (0.05 + rng.uniform(-0.05, 0.05), 0.68)
    for x, y in ((-0.6, 0.05), (0.0, 0.05), (0.65, 0.1)):  # hepatic veins have no bright walls and meet below the diaphragm
        middle = (0.55 * x + 0.45 * hub[0] + rng.uniform(-0.06, 0.06), 0.42)
        sketch.stroke([(x, y), (0.85 * x, 0.26), middle], 0.022, 0.2, edge=2)
        sketch.stroke([middle, hub], 0.036, 0.14, edge=2)
    arc = [(1.15 * np.sin(turn), 0.86 - 0.42 * (1 - np.cos(turn)) * 1.2) for turn in np.linspace(-0.9, 0.9, 9)]
    sketch.stroke([(x, y + 0.14) for x, y in arc], 0.11, 0.28, edge=4)
    sketch.stroke(arc, 0.035, 1.0, edge=2)
    return sketch


def _draw_gallbladder(size: int, rng: np.random.Generator) -> Sketch:
    sketch = Sketch.start(size, rng, 0.48)
    sketch.oval(0, -1.0, 1.2, 0.36, 0.6, edge=6)
    tilt = rng.uniform(-0.25, 0.25)
    lean = -np.sin(tilt)
    sketch.oval(lean * 0.4, 0.62, 0.2, 0.5, 0.75, tilt, edge=14)  # enhancement: fluid does not attenuate sound
    for margin, value in ((0.035, 0.82), (0.0, 0.04)):  # the wall, then the lumen: body and neck
        sketch.oval(lean * 0.05, 0.12, 0.17 + margin, 0.34 + margin, value, tilt, edge=2)
        sketch.stroke([(lean * -0.15, -0.1), (lean * -0.5, -0.42)], 0.075 + margin, value, edge=2)
    sketch.stroke([(-0.85, 0.1), (-0.6, 0.35)], 0.03, 0.8, edge=2)
    return sketch


def _draw_thyroid(size: int, rng: np.random.Generator) -> Sketch:
    """A linear probe across the neck: two lobes beside the trachea, a carotid artery on each side, strap muscles above."""
    sketch = Sketch.start(size, rng, 0.34)
    sketch.oval(0, -0.95, 1.6, 0.13, 0.72, edge=3)
    sketch.stroke([(-1, -0.74), (1, -0.74)], 0.08, 0.3, edge=3)
    for side in (-1, 1):
        sketch.oval(side * 0.5, -0.6, 0.5, 0.09, 0.2, side * 0.12, edge=2)
        sketch.oval(side * 0.42, 0.02, 0.37, 0.5, 0.6, side * -0.1, edge=2)
        sketch.oval(side * 0.86, 0.1, 0.13, 0.15, 0.65, edge=2, core=(0.105, 0.125, 0.05))
        sketch.oval(side * 0.5, 0.78, 0.5, 0.16, 0.24, side * -0.15, edge=3)
    sketch.oval(0, -0.28, 0.2, 0.14, 0.58, edge=2)
    sketch.stroke([(0, 0.12), (0, 1.1)], 0.17, 0.06, edge=3)
    sketch.stroke([(0.19 * np.sin(turn), 0.13 - 0.2 * np.cos(turn)) for turn in np.linspace(-1.5, 1.5, 7)], 0.035, 1.0, edge=2)
    for y in (0.12, 0.32, 0.52):
        sketch.stroke([(-0.1, y), (0.1, y)], 0.012, 0.3, edge=2)
    return sketch


_ORGANS: Final = {"kidney": _draw_kidney, "liver": _draw_liver, "gallbladder": _draw_gallbladder, "thyroid": _draw_thyroid}


def field_of_view(anatomy: str, size: int) -> Field:
    """The mask of the probe's field of view: a square for the linear probe, else a sector."""
    x, y = grid(size)
    if anatomy == "thyroid":
        return ((0.96 - np.maximum(np.abs(x), np.abs(y))) * 56).clip(0, 1)
    reach, turn = np.hypot(x, y - np.float32(_APEX)), np.arctan2(x, y - np.float32(_APEX))
    within = np.minimum((reach - _DEPTHS[0]) * 56, (_DEPTHS[1] - reach) * 56)
    sector: Field = np.clip(np.minimum(within, (_HALF_ANGLE - np.abs(turn)) * reach * 56), 0, 1)
    return sector


def _behind(size: int, cx: float, cy: float, half_width: float, anatomy: str, depth: float) -> Field:
    """The mask of the strip behind a point, along the beam, which fades over `depth`."""
    x, y = grid(size)
    lean, spread = (0.0, 0.0) if anatomy == "thyroid" else (cx / (cy - _APEX), half_width / (cy - _APEX))
    below = y - np.float32(cy)
    aside = np.abs(x - np.float32(cx) - np.float32(lean) * below)
    width = np.float32(half_width) + np.float32(spread) * np.maximum(below, 0)
    strip: Field = np.clip((width - aside) * 30 + 0.5, 0, 1) * np.clip(below * 30 + 0.5, 0, 1)
    strip *= np.clip(1.6 - below / np.float32(depth), 0, 1)
    return strip


def _paint_lesion(lesion: Lesion, findings: Findings, rng: np.random.Generator) -> None:
    size, cx, cy, radius = lesion.picture.shape[0], lesion.cx, lesion.cy, lesion.radius
    lesion.level_ground(low=0.4, high=0.52, strength=0.9)
    dark = max(lesion.ground - lesion.step, 0)
    match findings.disease:
        case "cyst":
            enhancement = 0.8 * _behind(size, cx, cy, 0.8 * radius, findings.anatomy, 2.2 * radius)
            lesion.paint(enhancement, min(lesion.ground + 0.7 * lesion.step, 1))
            lesion.disc(radius + 0.03, 0.5)
            lesion.paint(ellipse(size, cx, cy, radius, radius), dark)
        case "solid mass":
            lesion.blob(radius + 0.03, -0.5, rng, roughness=0.1)
            lesion.blob(radius, 1, rng, roughness=0.1)
        case "stone":
            lesion.paint(_behind(size, cx, cy, radius, findings.anatomy, 9.0), dark)  # acoustic shadow
            below = ellipse(size, cx, cy + 0.45 * radius + 0.03, 1.05 * radius, 0.75 * radius)
            lesion.paint(ellipse(size, cx, cy, radius, 0.7 * radius) * (1 - below), 1.0)


def speckle(rng: np.random.Generator, size: int, amount: float) -> Field:
    """Fully developed, log-compressed speckle with a mean of about 1; its grains are wider than deep."""
    field = rng.standard_normal((2, size, size), dtype=np.float32)
    for shift in (1, 2):
        field = field + np.roll(field, shift, axis=2)
    field = field + 0.6 * np.roll(field, 1, axis=1)
    amplitude = np.hypot(field[0], field[1])
    amplitude = amplitude / amplitude.mean()
    speckle: Field = 1 + np.float32(0.42 * amount) * np.log(amplitude + np.float32(0.25))
    return speckle


def _flow(rng: np.random.Generator, size: int, num_vessels: int) -> Field:
    """Short curved vessels: 1 for flow towards the probe, -1 for flow away from it."""
    sketch = Sketch(field=np.zeros((size, size), np.float32))
    for k in range(num_vessels):
        x, y, turn = rng.uniform(-0.4, 0.4), rng.uniform(-0.35, 0.45), rng.uniform(0, 2 * np.pi)
        bend = turn + rng.uniform(-0.8, 0.8)
        middle = (x + 0.14 * np.cos(turn), y + 0.14 * np.sin(turn))
        tip = (middle[0] + 0.12 * np.cos(bend), middle[1] + 0.12 * np.sin(bend))
        sketch.stroke([(x, y), middle, tip], rng.uniform(0.025, 0.045), 1.0 if k % 2 else -1.0, edge=2)
    return sketch.field


def _overlay(echo: Field, technique: str, lesion: Lesion | None, rng: np.random.Generator) -> Field:
    """The picture with the technique's colours. No vessel crosses a lesion, because it would hide a small one."""
    size = echo.shape[0]
    picture = grey(echo)
    if technique == "B-mode ultrasound":
        return picture
    x, y = grid(size)
    frame = np.maximum(np.abs(x) / np.float32(0.62), np.abs(y - np.float32(0.05)) / np.float32(0.6))
    box, line = np.clip((1 - frame) * 35 + 0.5, 0, 1), np.clip(1 - np.abs(frame - 1) * 45, 0, 1)
    if technique == "elastography":
        stiffness = np.clip(0.5 + 0.24 * texture(rng, size, 7) + 0.2 * y, 0, 1)
        hue = np.stack([np.clip(1.5 - np.abs(4 * stiffness - peak), 0, 1) for peak in (3.0, 2.0, 1.0)], axis=2)
        return blend(picture, 0.62 * box, hue * (0.15 + 1.1 * echo[..., None]))
    flow = _flow(rng, size, 10) * box * np.clip(8 * blur(echo, 1) - 0.8, 0, 1)  # no flow in shadows and bile
    if lesion is not None:
        clear = 1.3 * lesion.radius + 0.04
        flow = flow * (1 - ellipse(size, lesion.cx, lesion.cy, clear, clear, edge=2))
    shade = (0.65 + 0.35 * np.abs(texture(rng, size, 1)))[..., None]
    if technique == "colour Doppler":
        colour, rim = np.where(flow[..., None] > 0, _TOWARDS, _AWAY), _GREEN
    else:
        colour, rim = _POWER, _GOLD
    return blend(blend(picture, 0.75 * np.abs(flow), colour * shade), 0.9 * line, rim)


def _draw(findings: Findings, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Field:
    echo = _ORGANS[findings.anatomy](size, rng).field
    echo = echo * (1 + np.float32(0.08) * texture(rng, size, 4))
    lesion = None
    if findings.disease != NORMAL:
        cx, cy = lesion_centre(findings.other, rng, dx=0.34, dy=0.3)
        radius = lesion_radius(findings, rng, difficulty)
        lesion = Lesion(picture=echo, cx=cx, cy=cy, radius=radius, step=0.42 * difficulty.contrast)
        _paint_lesion(lesion, findings, rng)
        echo = lesion.picture
    echo = np.clip(echo * speckle(rng, size, difficulty.noise), 0, 1) * field_of_view(findings.anatomy, size)
    return _overlay(echo, findings.technique, lesion, rng)


ATLAS: Final = Atlas(
    modality=Modality.ULTRASOUND,
    technique_signs={
        "B-mode ultrasound": "grey echoes without any colour",
        "colour Doppler": "red and blue flow in a box",
        "power Doppler": "orange flow in a box",
        "elastography": "a rainbow map of stiffness",
    },
    anatomy_signs={
        "kidney": "a bean with a bright centre",
        "liver": "dark veins below a bright diaphragm",
        "gallbladder": "a black pear with a bright wall",
        "thyroid": "two bright lobes beside the windpipe",
    },
    disease_signs={
        "cyst": "a black disc with brightness behind it",
        "solid mass": "a bright solid area",
        "stone": "a bright arc casting a shadow",
        NORMAL: "no focal lesion in any part",
    },
    draw=_draw,
)
