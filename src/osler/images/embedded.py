"""Encoded images that are no files of their own: in a line of JSON, a cell of a table, or a saved dataset."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from osler.errors import DataError, first_line
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
class Cell:
    """Where a row stands: in a row group of a Parquet file, or in a folder that `Dataset.save_to_disk` wrote."""

    path: Path
    group: int | None  # None in a folder
    row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInTable(EncodedImage):
    """An encoded image in a cell of a table, read from disk each time; implements `ImageSource`."""

    uri: str
    cell: Cell = field(repr=False, compare=False)
    column: str = field(repr=False, compare=False)
    place: int = field(repr=False, compare=False)  # in the list of the cell

    def open(self) -> IO[bytes]:
        """The bytes as a stream. Raises DataError where the table cannot be read, or changed under a running process."""
        import pyarrow

        try:
            if self.cell.group is None:
                found = _saved(self.cell.path)[self.cell.row][self.column].to_pylist()[0]
            else:
                found = _column(self.cell.path, self.cell.group, self.column)[self.cell.row].as_py()
            member = found[self.place] if isinstance(found, list) else found
            content = member.get("bytes") if isinstance(member, dict) else member
        except (OSError, ValueError, LookupError, TypeError, pyarrow.ArrowException) as error:
            raise DataError(f"image {self.uri} cannot be read from {self.cell.path.name} ({first_line(error)}): start again") from error
        if not isinstance(content, bytes) or content_uri(content) != self.uri:
            raise DataError(f"image {self.uri} is no longer in {self.cell.path.name}: start again")
        return io.BytesIO(content)


@lru_cache(maxsize=4)
def _saved(folder: Path) -> Any:
    import datasets

    return datasets.load_from_disk(str(folder)).with_format("arrow")


@lru_cache(maxsize=2)  # the next image is often in the same row group
def _column(path: Path, group: int, column: str) -> Any:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column]).column(column)
