"""Encoded images that are no files of their own: in a line of JSON, a cell of a table, or a saved dataset."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from typing import IO, Any

from osler.errors import DataError
from osler.images.files import EncodedImage


def content_uri(content: bytes) -> str:
    """The name of an image without a file, from its bytes: equal images have one name."""
    return f"sha256/{hashlib.sha256(content).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBytes(EncodedImage):
    """An encoded image in memory; implements `ImageSource`."""

    uri: str
    content: bytes = field(repr=False, compare=False)

    @classmethod
    def of(cls, content: bytes) -> ImageBytes:
        """The image of these bytes, by their hash."""
        return cls(uri=content_uri(content), content=content)

    def open(self) -> IO[bytes]:
        """The bytes as a stream."""
        return io.BytesIO(self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInTable(EncodedImage):
    """An encoded image in a cell of a dataset of the `datasets` library, read from disk each time; implements `ImageSource`."""

    uri: str
    table: Any = field(repr=False, compare=False)  # a datasets.Dataset in the format "arrow", which decodes nothing
    row: int = field(repr=False, compare=False)
    column: str = field(repr=False, compare=False)
    place: int = field(repr=False, compare=False)  # in the list of the cell

    def open(self) -> IO[bytes]:
        """The bytes as a stream. Raises DataError if the table changed under a running process."""
        cell = self.table[self.row][self.column].to_pylist()[0]
        member = cell[self.place] if isinstance(cell, list) else cell
        content = member.get("bytes") if isinstance(member, dict) else member
        if not isinstance(content, bytes) or content_uri(content) != self.uri:
            raise DataError(f"image {self.uri} is no longer in its table: start again")
        return io.BytesIO(content)
