"""A contact sheet of phantom studies: one row for each question, with what it asks and its answer above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from osler.data.phantom.canvas import STANDARD_DIFFICULTY, Difficulty
from osler.data.phantom.studies.source import DEFAULT_SIZE, PhantomStudy
from osler.data.phantom.studies.truth import ASPECTS, CAPTIONS, Aspect, StudyKind

if TYPE_CHECKING:
    from PIL.Image import Image

ALL_ROWS: Final = tuple((kind, aspect) for kind in StudyKind for aspect in ASPECTS[kind])
NUM_PICTURES: Final = 8
"""Pictures of a row: one series of so many, or so many pairs."""

_GAP: Final = 4
_TITLE_HEIGHT: Final = 17
_PAPER, _INK, _LETTER = 255, 30, 230


def contact_sheet(
    *,
    seed: int = 0,
    rows: Sequence[tuple[StudyKind, Aspect]] = ALL_ROWS,
    size: int = DEFAULT_SIZE,
    difficulty: Difficulty = STANDARD_DIFFICULTY,
) -> Image:
    """The sheet as a grey image; pictures of `size` pixels. R on an axial slice and a frontal view is the patient's right."""
    import PIL.Image
    from PIL import ImageDraw, ImageFont

    height = _TITLE_HEIGHT + size + _GAP
    sheet = PIL.Image.new("L", (_GAP + NUM_PICTURES * (size + _GAP), _GAP + len(rows) * height), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for row, (kind, aspect) in enumerate(rows):
        top, left = _GAP + row * height, _GAP
        for index in range(NUM_PICTURES // 2 if kind.has_views else 1):
            study = PhantomStudy(kind=kind, aspect=aspect, split="train", seed=seed, index=index, size=size, difficulty=difficulty)
            title = f"{study.truth.answer}" if index else f"{kind}, {aspect}: {study.truth.answer}"
            pen.text((left, top), title.replace("_", " "), fill=_INK, font=font)
            for picture in study.pictures:
                tile = PIL.Image.fromarray(picture.render()[..., 0])
                if kind.is_volume or (kind in CAPTIONS and "Lateral" not in CAPTIONS[kind][picture.number - 1]):
                    ImageDraw.Draw(tile).text((2, 0), "R", fill=_LETTER, font=font)
                sheet.paste(tile, (left, top + _TITLE_HEIGHT))
                left += size + _GAP
    return sheet
