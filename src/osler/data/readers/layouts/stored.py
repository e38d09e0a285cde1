"""Rows of Parquet files and of datasets that Hugging Face's library saved. Of encoded images only the hashes are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from osler.errors import DataError, first_line
from osler.images.embedded import Cell, ImageInTable, content_uri

Row = tuple[int, Any]


def read_parquet(path: Path) -> Iterator[Row]:
    """Number and object of each row; one row group at a time is in memory. Raises DataError for a file that cannot be read."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            classes = _classes(datasets.Features.from_arrow_schema(file.schema_arrow))
            for group in range(file.num_row_groups):
                for place, row in enumerate(file.read_row_group(group).to_pylist()):
                    number += 1
                    yield number, _named(row, classes, Cell(path=path, group=group, row=place))
    except (OSError, ValueError, TypeError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet ({first_line(error)}): write it again") from error


def read_saved(folder: Path) -> Iterator[Row]:
    """Number and object of each row of a folder that `Dataset.save_to_disk` wrote. Raises DataError where it cannot be read."""
    import datasets
    import pyarrow

    try:
        table = datasets.load_from_disk(str(folder))
        classes = _classes(table.features)
        number = 0
        for batch in table.with_format("arrow").iter(batch_size=64):
            for row in batch.to_pylist():
                number += 1
                yield number, _named(row, classes, Cell(path=folder, group=None, row=number - 1))
    except (OSError, ValueError, TypeError, AttributeError, pyarrow.ArrowException, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{folder} cannot be read as a saved dataset ({first_line(error)}): save it again") from error


def _classes(features: Any) -> dict[str, Sequence[str]]:
    """Column -> the names of its classes, which the library stores as numbers."""
    import datasets

    return {name: feature.names for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)}


def _named(row: Mapping[str, Any], classes: Mapping[str, Sequence[str]], cell: Cell) -> dict[str, Any]:
    """The row with the names of its classes, and with the places of its encoded images."""
    named = {name: _class_name(value, classes[name]) if name in classes else value for name, value in row.items()}
    return {name: _stay(value, cell, name) for name, value in named.items()}


def _class_name(value: Any, names: Sequence[str]) -> Any:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None  # -1 stands for none


def _stay(value: Any, cell: Cell, column: str, place: int = 0) -> Any:
    if isinstance(value, list):
        return [_stay(member, cell, column, number) for number, member in enumerate(value)]
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, bytes):
        return ImageInTable(uri=content_uri(content), cell=cell, column=column, place=place)
    return value
