"""Dermoscopy: skin of four sites, four lesions that differ in outline and pattern, four colours, four kinds of illumination."""

from __future__ import annotations

from typing import Final

import numpy as np

from osler.data.phantom.atlas import Atlas, Findings
from osler.data.phantom.canvas import Difficulty, Field, blend, ellipse, grid, texture
from osler.data.phantom.lesions import lesion_radius
from osler.data.phantom.stamps import Points, discs, grain, illumination, outline, scatter_in_disc
from osler.taxonomy import Modality

_COLOURS: Final = {"brown": (0.46, 0.26, 0.11), "black": (0.08, 0.07, 0.08), "red": (0.76, 0.10, 0.13), "blue": (0.20, 0.31, 0.60)}
_PALE_SKIN: Final = np.array((0.95, 0.79, 0.70), np.float32)
_TANNED_SKIN: Final = np.array((0.82, 0.61, 0.49), np.float32)
_ZOOM: Final = 1.75  # a dermatoscope is placed on the lesion, so the lesion fills more of the picture than in other modalities


def _draw(findings: Findings, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Field:
    skin = _PALE_SKIN + np.float32(rng.uniform()) * (_TANNED_SKIN - _PALE_SKIN)
    shade = illumination(rng, size, 0.07) + 0.025 * texture(rng, size, 5)
    picture = np.ones((size, size, 3), np.float32) * skin
    if findings.anatomy == "face":
        picture = _paint_follicles(picture, skin, rng)
    picture = _paint_lesion(picture, findings, skin, rng, difficulty)
    if findings.anatomy == "palm":
        shade = shade * _ridges(rng, size)
    picture *= shade[..., None]
    if findings.anatomy == "scalp":
        picture = blend(picture, _hairs(rng, size), (0.16, 0.10, 0.07))
    return grain(rng, _light(picture, findings.technique, rng), 0.02 * difficulty.noise)


def _paint_follicles(picture: Field, skin: Field, rng: np.random.Generator) -> Field:
    """Pale follicle openings with a dark rim on a jittered grid, as on facial skin."""
    size = picture.shape[0]
    axis = np.arange(-1.1, 1.2, 0.27) + rng.uniform(-0.1, 0.1)
    x, y = (a + rng.uniform(-0.05, 0.05, a.shape) for a in np.meshgrid(axis, axis))
    picture = blend(picture, discs(size, x, y, 0.075, edge=1.5), skin * 0.68)
    return blend(picture, discs(size, x, y, 0.045), (1.0, 0.95, 0.82))


def _ridges(rng: np.random.Generator, size: int) -> Field:
    """Brightness factors of parallel, slightly bent skin ridges."""
    x, y = grid(size)
    turn, bend = rng.uniform(-0.7, 0.7), rng.uniform(-0.15, 0.15)
    across = x * np.float32(np.sin(turn)) + y * np.float32(np.cos(turn)) + np.float32(bend) * (x * x - y * y)
    wave: Field = np.sin(across * np.float32(2 * np.pi / 0.17) + np.float32(rng.uniform(0, 6)))
    return 1 + np.float32(0.13) * wave


def _hairs(rng: np.random.Generator, size: int) -> Field:
    """The mask of long hairs that cross the picture in about the same direction."""
    t = np.linspace(-1.4, 1.4, 2 * size)
    main = rng.uniform(0, np.pi)
    xs, ys = [], []
    for offset in np.linspace(-1.0, 1.0, 8):
        turn, bend = main + rng.normal(0, 0.16), rng.uniform(-0.2, 0.2)
        across = offset + rng.uniform(-0.09, 0.09) + bend * t * t
        xs.append(t * np.cos(turn) - across * np.sin(turn))
        ys.append(t * np.sin(turn) + across * np.cos(turn))
    return discs(size, np.concatenate(xs), np.concatenate(ys), 0.014)


def _paint_lesion(picture: Field, findings: Findings, skin: Field, rng: np.random.Generator, difficulty: Difficulty) -> Field:
    size = picture.shape[0]
    cx, cy = rng.uniform(-0.16, 0.16, 2)
    radius = lesion_radius(findings, rng, difficulty) * _ZOOM
    assert findings.other is not None
    colour = skin + (np.array(_COLOURS[findings.other], np.float32) - skin) * np.float32(difficulty.contrast)
    match findings.disease:
        case "naevus":
            return _paint_naevus(picture, colour, rng, cx, cy, radius)
        case "melanoma":
            return _paint_melanoma(picture, colour, rng, cx, cy, radius)
        case "keratosis":
            mask = ellipse(size, cx, cy, radius * 1.04, radius * 0.92, rng.uniform(0, np.pi), edge=0.8)
            plugs = scatter_in_disc(rng, max(4, round(150 * radius * radius)), cx, cy, radius * 0.78)
            horn = discs(size, plugs[:, 0], plugs[:, 1], rng.uniform(0.026, 0.036, len(plugs)))
            return blend(blend(picture, mask, colour), horn * np.float32(min(difficulty.contrast, 1)), (1.0, 0.97, 0.86))
        case _:
            turn = np.append(rng.uniform(0, np.pi) + np.arange(6) * (np.pi / 3), 0.0)
            reach = np.append(np.full(6, 0.68 * radius), 0.0)
            lobes = discs(size, cx + reach * np.cos(turn), cy + reach * np.sin(turn), rng.uniform(0.27, 0.31, 7) * radius)
            halo = ellipse(size, cx, cy, radius, radius, edge=3) * 0.18
            return blend(blend(picture, halo, colour), lobes, colour)


def _paint_naevus(picture: Field, colour: Field, rng: np.random.Generator, cx: float, cy: float, radius: float) -> Field:
    """An even, round patch with a fine regular network."""
    size = picture.shape[0]
    x, y = grid(size)
    turn = rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    pitch = np.float32(2 * np.pi / 0.15)
    holes: Field = np.sin((x * cos + y * sin) * pitch) * np.sin((y * cos - x * sin) * pitch)
    mask = ellipse(size, cx, cy, radius, radius * rng.uniform(0.93, 1.0), turn, edge=2.5)
    return blend(picture, mask * (np.float32(0.86) - np.float32(0.14) * holes), colour)


def _paint_melanoma(picture: Field, colour: Field, rng: np.random.Generator, cx: float, cy: float, radius: float) -> Field:
    """An asymmetric patch with an irregular border and uneven shades."""
    size = picture.shape[0]
    waves = np.array([0.20, 0.14, 0.05, 0.13, 0.04, 0.08, 0.0, 0.07]) * rng.uniform(0.8, 1.2, 8)
    mask = outline(size, cx, cy, radius, waves, rng.uniform(0, 2 * np.pi, 8), edge=0.8)
    blotch = np.clip(texture(rng, size, max(2.0, 14 * radius)), -1.2, 1.2)
    return blend(picture, mask * np.clip(0.90 + 0.15 * blotch, 0.7, 1), colour)


def _around(rng: np.random.Generator, num: int) -> Points:
    """The x and y of points around the centre of the picture, (2, num); reflections must not hide a small lesion in the centre."""
    turn = (np.arange(num) + rng.uniform(0, 1) + rng.uniform(-0.3, 0.3, num)) * (2 * np.pi / num)
    return np.stack([np.cos(turn), np.sin(turn)]) * rng.uniform(0.55, 1.1, num)


def _light(picture: Field, technique: str, rng: np.random.Generator) -> Field:
    """Add the effects of the technique: gel bubbles, glare, a dark tube with a ring of lamps, or nothing."""
    size = picture.shape[0]
    match technique:
        case "immersion dermoscopy":
            (x, y), radii = _around(rng, 8), rng.uniform(0.09, 0.17, 8)
            rim = discs(size, x, y, radii) - discs(size, x, y, radii - 0.03)
            picture = blend(picture, rim * 0.85, (0.98, 0.99, 1.0))
            return blend(picture, discs(size, x - radii * 0.4, y - radii * 0.4, 0.026), 1.0)
        case "dry-contact dermoscopy":
            turn = rng.uniform(0, np.pi)
            along = np.linspace(-0.13, 0.13, 14)
            middles = _around(rng, 9)[..., None]
            x, y = middles[0] + along * np.cos(turn), middles[1] + along * np.sin(turn)
            glare = discs(size, x, y, 0.065 * np.sqrt(1 - (along / 0.14) ** 2), edge=3)
            return blend(picture, glare * 0.95, 1.0)
        case "ring-light dermoscopy":
            tube = ellipse(size, 0, 0, 0.97, 0.97, edge=3)
            angles = rng.uniform(0, 1) + np.arange(16) * (np.pi / 8)
            lamps = discs(size, 0.87 * np.cos(angles), 0.87 * np.sin(angles), 0.042)
            return blend(blend(picture, 1 - tube, 0.02), lamps, 1.0)
        case _:
            return picture


ATLAS: Final = Atlas(
    modality=Modality.DERMOSCOPY,
    technique_signs={
        "polarised dermoscopy": "even light without glare",
        "immersion dermoscopy": "round bubbles in the gel",
        "dry-contact dermoscopy": "streaks of white glare",
        "ring-light dermoscopy": "a dark tube with a lamp ring",
    },
    anatomy_signs={
        "trunk": "plain smooth skin",
        "scalp": "long dark hairs",
        "palm": "parallel skin ridges",
        "face": "rows of pale follicle openings",
    },
    disease_signs={
        "naevus": "an even round patch with a network",
        "melanoma": "a ragged patch of uneven shades",
        "keratosis": "a sharp patch with white dots",
        "haemangioma": "a cluster of separate round lobules",
    },
    draw=_draw,
    other_kind="colour",
    others=tuple(_COLOURS),
    diseases_without_other=frozenset(),
)
