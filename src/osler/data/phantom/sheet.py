"""A contact sheet: one row of pictures per modality, each with a caption."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from osler.data.phantom.atlas import Atlas, Findings
from osler.data.phantom.canvas import STANDARD_DIFFICULTY, Difficulty
from osler.data.phantom.images import ATLASES, MIN_SIZE
from osler.errors import ConfigError
from osler.taxonomy import Modality

if TYPE_CHECKING:
    from PIL.Image import Image

_GAP: Final = 8
_TITLE_HEIGHT: Final = 24
_LINE_HEIGHT: Final = 14
_CAPTION_LINES: Final = 3
_PAPER, _INK, _SOFT_INK = (255, 255, 255), (24, 28, 36), (96, 104, 116)
_SHOWN_GRADES: Final = ("severe", "moderate", "mild", "severe", "moderate", "minimal", "severe", "mild")


def pick_findings(atlas: Atlas, column: int) -> Findings:
    """The findings of one column. Neighbouring columns differ in every attribute, and eight columns show every value twice."""
    block = column // 4
    return atlas.make_findings(
        technique=atlas.techniques[column % len(atlas.techniques)],
        anatomy=atlas.anatomies[(column + 2 * block) % len(atlas.anatomies)],
        disease=atlas.diseases[(column + block) % len(atlas.diseases)],
        grade=_SHOWN_GRADES[column % len(_SHOWN_GRADES)],
        other=atlas.others[(column + 3 * block) % len(atlas.others)],
    )


def caption(findings: Findings) -> tuple[str, str, str]:
    """Three lines: ("tumour, mild", "axial brain, upper left", "T2-weighted")."""
    first = ", ".join(part for part in (findings.disease, findings.grade) if part)
    second = ", ".join(part for part in (findings.anatomy, findings.other) if part)
    return first, second, findings.technique


def contact_sheet(*, seed: int = 0, size: int = 168, num_columns: int = 8, difficulty: Difficulty = STANDARD_DIFFICULTY) -> Image:
    """The sheet as an RGB image; `size` is the side of a picture in pixels, and captions are legible from 150.

    Raises ConfigError for an empty sheet or for pictures too small to show a lesion.
    """
    import PIL.Image
    from PIL import ImageDraw, ImageFont

    if num_columns < 1 or size < MIN_SIZE:
        raise ConfigError(f"a contact sheet needs at least one column and pictures of {MIN_SIZE} pixels")
    row_height = _TITLE_HEIGHT + size + _CAPTION_LINES * _LINE_HEIGHT + _GAP
    sheet = PIL.Image.new("RGB", (_GAP + num_columns * (size + _GAP), _GAP + len(Modality) * row_height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    title_font = ImageFont.load_default(size=17)
    caption_fonts = [ImageFont.load_default(size=points) for points in (11, 10, 9, 8)]
    for row, modality in enumerate(Modality):
        atlas, top = ATLASES[modality], _GAP + row * row_height
        pen.text((_GAP, top), modality.title, fill=_INK, font=title_font)
        for column in range(num_columns):
            findings, left = pick_findings(atlas, column), _GAP + column * (size + _GAP)
            rng = np.random.default_rng([seed, row, column])
            picture = np.clip(atlas.draw(findings, rng, size, difficulty), 0, 1) * 255 + 0.5
            sheet.paste(PIL.Image.fromarray(picture.astype(np.uint8)), (left, top + _TITLE_HEIGHT))
            for line, text in enumerate(caption(findings)):
                place = (left, top + _TITLE_HEIGHT + size + 1 + line * _LINE_HEIGHT)
                font = next((font for font in caption_fonts if pen.textlength(text, font) <= size), caption_fonts[-1])
                pen.text(place, text, fill=_SOFT_INK if line else _INK, font=font)
    return sheet
