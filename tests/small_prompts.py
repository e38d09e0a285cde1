"""Small prompts about pictures of random pixels, for the tests of engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from osler.errors import DataError
from osler.prompts import render
from osler.types import Prompt, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """A picture of random pixels."""

    seed: int
    width: int = 56
    height: int = 56

    @property
    def uri(self) -> str:
        return f"noise:{self.seed}"

    def load(self) -> Image.Image:
        if self.seed < 0:
            raise DataError(f"{self.uri} cannot be drawn: use a seed of 0 or more")
        pixels = np.random.default_rng(self.seed).integers(0, 255, (self.height, self.width, 3), dtype=np.uint8)
        return Image.fromarray(pixels)


def make_prompt(number: int, words: int = 3, images: Sequence[Noise] | None = None) -> Prompt:
    sample = Sample(
        id=f"own/{number}",
        dataset="own",
        images=tuple([Noise(seed=number)] if images is None else images),
        question=" ".join(["what"] * words) + f" {number}?",
        choices=("CT", "MRI"),
        target="A",
        modality=None,
        question_type=None,
    )
    return render(sample, "no_think")
