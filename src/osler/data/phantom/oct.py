"""OCT of the retina and the cornea: a band of layers in cross-section. Each site has its own shape of the band."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from osler.data.phantom.atlas import NORMAL, Atlas, Findings
from osler.data.phantom.canvas import Difficulty, Field, band, blend, ellipse, grey, grid, texture
from osler.data.phantom.lesions import lesion_radius
from osler.data.phantom.stamps import discs, grain
from osler.taxonomy import Modality

_SIDES: Final = {"far left": -0.66, "left of centre": -0.22, "right of centre": 0.22, "far right": 0.66}

# Reflectivity of the layers at each relative depth (0 is the surface, 1 the base of the band). The retina's layers, in order: nerve fibres,
# nuclear layers, photoreceptors, pigment epithelium.
_RETINA_DEPTH: Final = (-0.02, 0.0, 0.12, 0.17, 0.32, 0.37, 0.48, 0.53, 0.76, 0.79, 0.83, 0.86, 0.90, 0.93, 1.02, 1.05)
_RETINA_ECHO: Final = (0.0, 0.85, 0.75, 0.42, 0.50, 0.22, 0.28, 0.52, 0.20, 0.62, 0.62, 0.25, 0.30, 0.98, 0.98, 0.42)
_CORNEA_DEPTH: Final = (-0.02, 0.0, 0.07, 0.12, 0.19, 0.24, 0.90, 0.93, 1.0, 1.03)
_CORNEA_ECHO: Final = (0.0, 0.95, 0.95, 0.30, 0.80, 0.45, 0.38, 0.90, 0.90, 0.0)

# Colour map of the false-colour display, (256, 3): black, blue, green, yellow, orange, white.
_STOPS: Final = (0.0, 0.15, 0.35, 0.55, 0.75, 1.0)
_CHANNELS: Final = ((0.0, 0.05, 0.0, 0.55, 1.0, 1.0), (0.0, 0.0, 0.55, 0.9, 0.65, 0.95), (0.08, 0.55, 0.75, 0.1, 0.0, 0.85))
_RAINBOW: Final = np.stack([np.interp(np.linspace(0, 1, 256), _STOPS, channel) for channel in _CHANNELS], axis=1).astype(np.float32)


@dataclass(slots=True, kw_only=True)
class _Site:
    """The y coordinates of the band's surface and base in every column, (size,)."""

    top: Field
    base: Field


def _site(anatomy: str, x: Field, rng: np.random.Generator) -> _Site:
    """The shape of one site, slightly shifted and tilted; `x` holds the x coordinates of the columns."""
    middle, height, tilt = rng.uniform(-0.06, 0.06), rng.uniform(-0.05, 0.05), rng.uniform(-0.07, 0.07)
    u = x - np.float32(middle)
    line = np.float32(height) + np.float32(tilt) * u
    match anatomy:
        case "fovea":
            base = line + 0.36 + 0.05 * u * u
            dip = np.exp(-((u / 0.20) ** 2))
            return _Site(top=base - 0.58 + 0.34 * dip, base=base)
        case "optic disc":
            cup = np.exp(-((u / 0.30) ** 4))
            base = line + 0.16 + 0.50 * cup
            rim = np.exp(-(((np.abs(u) - 0.48) / 0.16) ** 2))
            return _Site(top=base - 0.52 - 0.08 * rim + 0.10 * cup, base=base)
        case "peripheral retina":
            base = line + 0.24
            return _Site(top=base - 0.34, base=base)
        case _:
            base = line + 0.02 + 0.62 * u * u
            return _Site(top=base - 0.42, base=base)


def _draw(findings: Findings, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Field:
    x, y = grid(size)
    columns = x[0]
    site = _site(findings.anatomy, columns, rng)
    radius = lesion_radius(findings, rng, difficulty)
    centre = (_SIDES[findings.other] if findings.other else 0.0) + rng.uniform(-0.05, 0.05)
    along = (columns - np.float32(centre)) / np.float32(max(radius, 1e-3))
    strength = min(1.0, difficulty.contrast)
    if findings.disease == "fluid":  # fluid lifts the surface
        site.top = site.top - np.float32(0.75 * radius * strength) * np.exp(-(along**2) * 1.6)
    is_cornea = findings.anatomy == "cornea"
    depth = (y - site.top) / (site.base - site.top)
    echo = np.interp(depth, _CORNEA_DEPTH if is_cornea else _RETINA_DEPTH, _CORNEA_ECHO if is_cornea else _RETINA_ECHO).astype(np.float32)
    if not is_cornea:
        echo *= np.where(depth > 1, np.exp(-np.maximum(y - site.base, 0) * 2.6), 1).astype(np.float32)
        echo = echo * (1 + 0.35 * texture(rng, size, 3) * (depth > 1))
    echo = _paint_lesion(echo, findings.disease, rng, np.float32(strength), centre, radius, site)
    speckle = 1 + np.float32(0.20 * difficulty.noise) * texture(rng, size, 0.6)
    echo = np.clip(echo * speckle + 0.035, 0, 1)
    return grain(rng, _show(echo, findings.technique, rng, depth), 0.025 * difficulty.noise)


def _paint_lesion(
    echo: Field, disease: str, rng: np.random.Generator, strength: np.float32, centre: float, radius: float, site: _Site
) -> Field:
    """Fluid is a black bleb inside the band, deposits are bright mounds on its base, a membrane is a bright wavy line above its surface."""
    size = echo.shape[0]
    x, y = grid(size)
    columns = x[0]
    match disease:
        case "fluid":
            top, base = (float(np.interp(centre, columns, edge)) for edge in (site.top, site.base))
            middle, half = top + 0.62 * (base - top), 0.62 * radius + 0.015
            bleb = ellipse(size, centre, middle, radius, half, edge=1.2)
            rim = ellipse(size, centre, middle, radius + 0.035, half + 0.035)
            return blend(blend(echo, rim * strength * 0.6, 0.55), bleb * strength, 0.02)
        case "deposits":
            num = max(2, round(radius / 0.05))
            xs = centre + np.linspace(-radius, radius, num) + rng.uniform(-0.01, 0.01, num)
            ys = np.interp(xs, columns, site.base) - 0.06
            mounds = discs(size, xs, ys, rng.uniform(0.066, 0.078, num))
            return blend(echo, mounds * strength, 1.0)
        case "membrane":
            lift = 0.09 + 0.03 * np.sin(np.clip((columns - centre) / 0.06, -60, 60))
            reach = np.clip((np.float32(radius) - np.abs(x - np.float32(centre))) * 28 + 0.5, 0, 1)
            line = band(y - (site.top - lift.astype(np.float32)), 0.026) * reach
            return blend(echo, line * strength, 0.98)
        case _:
            return echo


def _show(echo: Field, technique: str, rng: np.random.Generator, depth: Field) -> Field:
    """The picture of the reflectivity `echo` in the technique's display."""
    match technique:
        case "inverted B-scan":
            return grey(1 - echo)
        case "false-colour B-scan":
            return _RAINBOW[(echo * 255).astype(np.uint8)]
        case "flow-overlay B-scan":
            size = echo.shape[0]
            level = 0.22 + 0.62 * np.linspace(0, 1, 26) + rng.uniform(-0.06, 0.06, 26)
            column = rng.permutation(26)
            where = np.abs(depth[:, (column * size) // 26] - level).argmin(axis=0)
            xs, ys = (column + 0.5) * (2 / 26) - 1, (where + 0.5) * (2 / size) - 1
            flow = discs(size, xs, ys, rng.uniform(0.026, 0.04, 26))
            return blend(grey(echo * 0.85), flow, (0.95, 0.08, 0.05))
        case _:
            return grey(echo)


ATLAS: Final = Atlas(
    modality=Modality.OCT,
    technique_signs={
        "plain B-scan": "white layers on black",
        "inverted B-scan": "black layers on white",
        "false-colour B-scan": "layers in blue, green and yellow",
        "flow-overlay B-scan": "red flow spots on grey layers",
    },
    anatomy_signs={
        "fovea": "a narrow dip in the surface",
        "optic disc": "a deep broad cup in the middle",
        "peripheral retina": "a thin flat band",
        "cornea": "a dome with nothing beneath",
    },
    disease_signs={
        "fluid": "a black bleb inside the band",
        "deposits": "bright mounds on the base",
        "membrane": "a bright line above the surface",
        NORMAL: "smooth unbroken layers",
    },
    draw=_draw,
    other_kind="side",
    others=tuple(_SIDES),
    other_signs={
        "far left": "a change near the left edge",
        "left of centre": "a change just left of the middle",
        "right of centre": "a change just right of the middle",
        "far right": "a change near the right edge",
    },
)
