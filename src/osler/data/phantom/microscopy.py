"""Light microscopy: blood and three tissues in four techniques, at four densities, with parasites, inflammation or malignancy.

Cytoplasm, nuclei and abnormal cells are drawn as three fields; the technique gives them their colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from osler.data.phantom.atlas import NORMAL, Atlas, Findings
from osler.data.phantom.canvas import Difficulty, Field, band, blend, blur, grey, grid, texture
from osler.data.phantom.lesions import lesion_radius
from osler.data.phantom.stamps import discs, grain, illumination, scatter, scatter_in_disc
from osler.taxonomy import Modality

_DENSITIES: Final = ("sparse", "few", "many", "crowded")
_NUM_CELLS: Final = {  # cells (glands, fibres) in the picture at each density
    "blood smear": (5, 12, 26, 52),
    "glandular tissue": (2, 4, 8, 14),
    "squamous epithelium": (3, 6, 12, 22),
    "muscle": (2, 4, 7, 11),
}
_EXTENT: Final = 1.7  # radius of the patch of abnormal cells, in lesion radii
_STAINS: Final = {  # background colour, then opacity and colour of mottling, cytoplasm, nuclei and abnormal cells
    "haematoxylin and eosin stain": (
        (0.97, 0.93, 0.95),
        ((0.5, (0.95, 0.82, 0.88)), (0.85, (0.90, 0.46, 0.62)), (0.85, (0.42, 0.25, 0.60)), (1.0, (0.22, 0.08, 0.38))),
    ),
    "Giemsa stain": (
        (0.93, 0.94, 0.88),
        ((0.6, (0.84, 0.89, 0.86)), (0.8, (0.50, 0.64, 0.78)), (0.85, (0.24, 0.30, 0.66)), (1.0, (0.10, 0.08, 0.42))),
    ),
    "fluorescence microscopy": (
        (0.0, 0.01, 0.03),
        ((0.6, (0.0, 0.06, 0.05)), (0.6, (0.05, 0.75, 0.22)), (0.9, (0.15, 0.35, 1.0)), (1.0, (1.0, 0.45, 0.95))),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tissue:
    cytoplasm: Field
    nuclei: Field


def _blood(rng: np.random.Generator, size: int, num: int) -> _Tissue:
    """Red blood cells: discs with a pale centre and no nucleus."""
    points = scatter(rng, num, extent=1.0)
    x, y, radius = points[:, 0], points[:, 1], rng.uniform(0.105, 0.12, num)
    pale = discs(size, x, y, radius * 0.42, edge=4)
    return _Tissue(cytoplasm=discs(size, x, y, radius) * (1 - 0.6 * pale), nuclei=np.zeros((size, size), np.float32))


def _glands(rng: np.random.Generator, size: int, num: int) -> _Tissue:
    """Rings of cells with dark nuclei around an empty lumen."""
    points = scatter(rng, num, extent=0.85)
    x, y, radius = points[:, 0], points[:, 1], rng.uniform(0.21, 0.235, num)
    wall = discs(size, x, y, radius) - discs(size, x, y, radius - 0.12)
    turn = rng.uniform(0, 1, (num, 1)) + np.arange(10) * (np.pi / 5)
    reach = radius[:, None] - 0.045
    nuclei = discs(size, x[:, None] + reach * np.cos(turn), y[:, None] + reach * np.sin(turn), 0.036)
    return _Tissue(cytoplasm=np.clip(wall, 0, 1), nuclei=nuclei * (wall > 0.1))


def _squames(rng: np.random.Generator, size: int, num: int) -> _Tissue:
    """Large flat cells with straight sides and one small nucleus."""
    points = scatter(rng, num, extent=0.92)
    x, y = grid(size)
    cytoplasm = np.zeros((size, size), np.float32)
    for cx, cy in points:
        turn, radius = rng.uniform(0, np.pi), rng.uniform(0.21, 0.24)
        sides = turn + np.arange(5) * (2 * np.pi / 5)
        dx, dy = x - np.float32(cx), y - np.float32(cy)
        reach = dx * np.float32(np.cos(sides[0])) + dy * np.float32(np.sin(sides[0]))
        for side in sides[1:]:
            np.maximum(reach, dx * np.float32(np.cos(side)) + dy * np.float32(np.sin(side)), out=reach)
        inside = (np.float32(radius) - reach) * 56
        cell = np.clip(inside + 0.5, 0, 1) * (0.55 + 0.4 * (inside < 2))
        np.maximum(cytoplasm, cell, out=cytoplasm)
    return _Tissue(cytoplasm=cytoplasm, nuclei=discs(size, points[:, 0], points[:, 1], 0.045))


def _fibres(rng: np.random.Generator, size: int, num: int) -> _Tissue:
    """Parallel striped fibres with flat nuclei at their edges."""
    x, y = grid(size)
    turn = rng.uniform(-0.5, 0.5)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    along, across = x * cos + y * sin, y * cos - x * sin
    step = 2.3 / num
    offsets = -1.15 + step * (np.arange(num) + 0.5) + rng.uniform(-0.08, 0.08, num) * step
    cytoplasm = np.zeros((size, size), np.float32)
    for offset in offsets:
        np.maximum(cytoplasm, band(across - np.float32(offset), 0.083), out=cytoplasm)
    cytoplasm *= 0.75 + 0.25 * np.sin(along * np.float32(2 * np.pi / 0.11))
    places = rng.uniform(-1, 1, (num, 4, 1)) + np.linspace(-0.05, 0.05, 5)
    edge = (offsets + 0.085 * rng.choice((-1, 1), num))[:, None, None]
    nuclei = discs(size, places * cos - edge * sin, places * sin + edge * cos, 0.024)
    return _Tissue(cytoplasm=cytoplasm, nuclei=nuclei)


_TISSUES: Final = {"blood smear": _blood, "glandular tissue": _glands, "squamous epithelium": _squames, "muscle": _fibres}


def _draw(findings: Findings, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Field:
    assert findings.other is not None
    num = _NUM_CELLS[findings.anatomy][_DENSITIES.index(findings.other)]
    tissue = _TISSUES[findings.anatomy](rng, size, num)
    abnormal = _abnormal(findings, rng, size, difficulty)
    picture = _stain(tissue, abnormal, findings.technique, rng)
    return grain(rng, picture * illumination(rng, size, 0.06)[..., None], 0.02 * difficulty.noise)


def _abnormal(findings: Findings, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Field:
    """A patch of crescents (parasites), of many small round cells (inflammation) or of large misshapen nuclei (malignancy)."""
    if findings.disease == NORMAL:
        return np.zeros((size, size), np.float32)
    radius = lesion_radius(findings, rng, difficulty) * _EXTENT
    cx, cy = rng.uniform(-0.42, 0.42, 2)
    area = radius * radius
    match findings.disease:
        case "parasitic infection":
            points = scatter_in_disc(rng, max(2, round(85 * area)), cx, cy, radius)
            bow = np.linspace(-1.2, 1.2, 9)
            turn = rng.uniform(0, 2 * np.pi, (len(points), 1)) + bow
            x, y = points[:, :1] + 0.07 * np.cos(turn), points[:, 1:] + 0.07 * np.sin(turn)
            mask = discs(size, x, y, 0.026 * np.cos(bow) ** 0.5)
        case "inflammation":
            points = scatter_in_disc(rng, max(5, round(230 * area)), cx, cy, radius)
            mask = discs(size, points[:, 0], points[:, 1], rng.uniform(0.034, 0.04, len(points)))
        case _:
            points = scatter_in_disc(rng, max(1, round(62 * area)), cx, cy, radius * 0.9)
            lobes = rng.uniform(-0.048, 0.048, (2, len(points), 4))
            x, y = points[:, :1] + lobes[0], points[:, 1:] + lobes[1]
            body = discs(size, x, y, rng.uniform(0.048, 0.075, x.shape))
            mask = body * (1 - 0.75 * discs(size, x[:, :2], y[:, :2], 0.02))
    return mask * np.float32(min(1.0, difficulty.contrast))


def _stain(tissue: _Tissue, abnormal: Field, technique: str, rng: np.random.Generator) -> Field:
    """The picture of the three fields in the colours of the technique, or in phase contrast."""
    size = abnormal.shape[0]
    mottling = 0.5 + 0.5 * np.clip(texture(rng, size, 4), -1, 1)
    if technique not in _STAINS:
        dense = np.clip(0.55 * tissue.cytoplasm + 0.45 * tissue.nuclei + abnormal, 0, 1.3)
        halo = blur(dense, 2) - dense
        light = 0.56 + 0.55 * halo - 0.16 * dense - 0.22 * abnormal + 0.03 * mottling
        return grey(np.clip(light, 0, 1))
    background, layers = _STAINS[technique]
    picture = np.ones((size, size, 3), np.float32) * np.array(background, np.float32)
    for field, (opacity, colour) in zip((mottling, tissue.cytoplasm, tissue.nuclei, abnormal), layers, strict=True):
        picture = blend(picture, field * opacity, colour)
    return picture


ATLAS: Final = Atlas(
    modality=Modality.MICROSCOPY,
    technique_signs={
        "haematoxylin and eosin stain": "pink tissue on a pale ground",
        "Giemsa stain": "blue-grey cells on a pale ground",
        "fluorescence microscopy": "green cells glowing on black",
        "phase contrast microscopy": "grey cells with bright halos",
    },
    anatomy_signs={
        "blood smear": "separate discs with pale centres",
        "glandular tissue": "rings of cells around empty lumens",
        "squamous epithelium": "large flat cells with straight sides",
        "muscle": "parallel striped fibres",
    },
    disease_signs={
        "parasitic infection": "a patch of thin crescents",
        "inflammation": "a patch of small round cells",
        "malignancy": "large misshapen nuclei in a patch",
        NORMAL: "no patch of abnormal cells",
    },
    draw=_draw,
    other_kind="density",
    others=_DENSITIES,
    other_signs={
        "sparse": "lone cells far apart",
        "few": "wide gaps between the cells",
        "many": "narrow gaps between the cells",
        "crowded": "cells packed edge to edge",
    },
    diseases_without_other=frozenset(),
)
