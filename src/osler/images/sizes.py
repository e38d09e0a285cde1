"""The size of a picture, where it can be known from a header and not by decoding it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from osler.types import ImageSource


@runtime_checkable
class HasSize(Protocol):
    """An image source that knows the size of its picture without decoding it."""

    def read_size(self) -> tuple[int, int]:
        """Width and height in pixels. Raises DataError where the file is missing, not an image, or too large."""


def size_of(source: ImageSource) -> tuple[int, int]:
    """Width and height of the picture in pixels; a source that does not know them is decoded. Raises DataError as `load` does."""
    return source.read_size() if isinstance(source, HasSize) else source.load().size
