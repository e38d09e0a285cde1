"""Rows as another process sends them: plain rows as columns of texts, which takes a tenth of the time of sending their samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from osler.data.readers.layouts.plain import PLAIN_FIELDS, make_plain
from osler.data.readers.layouts.reading import Part, PlainRow, ReadRow
from osler.images.files import ImageFile

_IMAGES: Final = PLAIN_FIELDS.index("images")


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A part without its plain rows, and these."""

    part: Part
    places: Sequence[int]  # of the rows of `part` among all
    numbers: Sequence[int]  # of the plain rows in their table
    images: Sequence[tuple[str, ...]]  # the paths of each distinct tuple of images
    columns: Sequence[Sequence[Any]]  # the values of `PLAIN_FIELDS` of all plain rows; of images the place in `images`


def pack(part: Part) -> Packed:
    """What `unpack` makes the part of; the part loses its rows."""
    plain = [row for row in part.rows if isinstance(row, tuple)]
    others = [(place, row) for place, row in enumerate(part.rows) if not isinstance(row, tuple)]
    columns: list[list[Any]] = [[getattr(sample, name) for _, sample in plain] for name in PLAIN_FIELDS]
    distinct = {id(images): images for images in columns[_IMAGES]}  # equal images of a file are one object
    places = {key: place for place, key in enumerate(distinct)}
    columns[_IMAGES] = [places[id(images)] for images in columns[_IMAGES]]
    part.rows = [row for _, row in others]
    return Packed(
        part=part,
        places=[place for place, _ in others],
        numbers=[number for number, _ in plain],
        images=[tuple([image.path for image in images]) for images in distinct.values()],
        columns=columns,
    )


def unpack(packed: Packed, root: Path) -> Part:
    """The part, whose images lie below `root`."""
    images = [tuple([ImageFile(root=root, path=path) for path in paths]) for paths in packed.images]
    columns = list(packed.columns)
    columns[_IMAGES] = [images[place] for place in columns[_IMAGES]]
    plain = zip(packed.numbers, map(make_plain, *columns), strict=True)
    rows: list[ReadRow | PlainRow | None] = [None] * (len(packed.places) + len(packed.numbers))
    for place, row in zip(packed.places, packed.part.rows, strict=True):
        rows[place] = row
    packed.part.rows = [next(plain) if row is None else row for row in rows]
    return packed.part
