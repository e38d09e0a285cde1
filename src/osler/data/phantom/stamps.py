"""Many discs at once, random points, irregular outlines and image-wide effects, for pictures of cells, vessels and hairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osler.data.phantom.canvas import Field, grid

Points = NDArray[np.float64]


def discs(size: int, x: ArrayLike, y: ArrayLike, radius: ArrayLike, *, edge: float = 1.0) -> Field:
    """The mask of all discs with centres (x, y) and the given radii, in canvas units; discs outside the canvas are left out.

    One vectorised pass over small windows: a thousand discs cost less than ten full-canvas ellipses. Discs of very different radii are
    faster in separate calls, because every window has the size of the largest disc.
    """
    scale = size / 2
    xs, ys, radii = (values.ravel() for values in np.broadcast_arrays(*(np.asarray(values, np.float32) for values in (x, y, radius))))
    softness = edge * size / 112
    half = int(np.ceil(float(radii.max(initial=0)) * scale + 0.5 * softness + 0.5))
    px, py, pr = (xs + 1) * scale - 0.5, (ys + 1) * scale - 0.5, radii * scale
    inside = (px > -half) & (px < size - 1 + half) & (py > -half) & (py < size - 1 + half)
    px, py, pr = px[inside], py[inside], pr[inside]
    window = np.arange(-half, half + 1)
    ix, iy = np.rint(px).astype(np.int64)[:, None] + window, np.rint(py).astype(np.int64)[:, None] + window
    distance = np.sqrt(((iy - py[:, None]) ** 2)[:, :, None] + ((ix - px[:, None]) ** 2)[:, None, :]).astype(np.float32)
    value = np.clip((pr[:, None, None] - distance) / np.float32(softness) + 0.5, 0, 1)
    margin = 2 * half + 1
    width = size + 2 * margin
    canvas = np.zeros(width * width, np.float32)
    index = (iy + margin)[:, :, None] * width + (ix + margin)[:, None, :]
    np.maximum.at(canvas, index.ravel(), value.ravel())
    return np.ascontiguousarray(canvas.reshape(width, width)[margin : margin + size, margin : margin + size])


def outline(size: int, cx: float, cy: float, radius: float, waves: Points, phases: Points, *, edge: float = 1.0) -> Field:
    """The mask of a closed curve around (cx, cy). Wave k changes the radius by the fraction `waves[k]`, with k + 2 periods per turn."""
    x, y = grid(size)
    dx, dy = x - np.float32(cx), y - np.float32(cy)
    distance: Field = np.hypot(dx, dy)
    # A table of 256 angles is five times faster than a sine per pixel and wave.
    angle = np.linspace(-np.pi, np.pi, 256, dtype=np.float32)
    order = np.arange(2, 2 + len(waves), dtype=np.float32)
    swing = (np.asarray(waves, np.float32)[:, None] * np.sin(order[:, None] * angle + np.asarray(phases, np.float32)[:, None])).sum(axis=0)
    step = ((np.arctan2(dy, dx) + np.float32(np.pi)) * np.float32(255 / (2 * np.pi))).astype(np.int64)
    limit: Field = np.float32(radius) * (1 + swing[step])
    return ((limit - distance) * np.float32(56 / max(edge, 1e-3)) + 0.5).clip(0, 1)


def scatter(rng: np.random.Generator, num: int, *, extent: float) -> Points:
    """`num` well-separated points in the square -extent..extent, (num, 2): each is the farthest of eight random candidates."""
    points = np.empty((num, 2))
    tries = rng.uniform(-extent, extent, (num, 8, 2))
    points[0] = tries[0, 0]
    for i in range(1, num):
        gaps = np.abs(tries[i][:, None, :] - points[None, :i, :]).max(axis=2).min(axis=1)
        points[i] = tries[i, int(gaps.argmax())]
    return points


def scatter_in_disc(rng: np.random.Generator, num: int, cx: float, cy: float, radius: float) -> Points:
    """`num` points spread evenly over a disc, (num, 2): a sunflower pattern with a random rotation and jitter."""
    k = np.arange(num) + 0.5
    distance = radius * np.sqrt(k / num)
    angle = k * 2.399963 + rng.uniform(0, 2 * np.pi)
    jitter = rng.uniform(-0.25, 0.25, (num, 2)) * radius / np.sqrt(num)
    points: Points = np.stack([cx + distance * np.cos(angle), cy + distance * np.sin(angle)], axis=1) + jitter
    return points


def illumination(rng: np.random.Generator, size: int, strength: float) -> Field:
    """A field of factors: a linear gradient in a random direction, 1 in the centre and at most 1 + `strength` at the border."""
    x, y = grid(size)
    turn = rng.uniform(0, 2 * np.pi)
    amount = strength * rng.uniform(0.3, 1)
    return 1 + x * np.float32(amount * np.cos(turn)) + y * np.float32(amount * np.sin(turn))


def grain(rng: np.random.Generator, picture: Field, sigma: float) -> Field:
    """The picture with independent Gaussian noise on every value, clipped to 0..1."""
    noisy = picture + rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(sigma)
    return np.clip(noisy, 0, 1, out=noisy)
