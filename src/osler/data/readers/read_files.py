"""Read annotation files of bounded size. Every failure is a DataError that names the file."""

from __future__ import annotations

import gc
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

from osler.errors import DataError

MAX_FILE_BYTES: Final = 512 * 1024**2
MAX_LINE_BYTES: Final = 16 * 1024**2
_BOM: Final = b"\xef\xbb\xbf"


@contextmanager
def pausing_collection() -> Iterator[None]:
    """Without Python's collector of reference cycles in the `with` block, or in the function that this decorates.

    Rows and samples hold no cycles, and the collector would visit all of them again and again: half of the time of reading 180,000.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def load_rows(path: Path) -> list[Any]:
    """The rows of a JSON file that contains one list. Raises DataError for anything else."""
    return check_list(parse_json(read_bytes(path), path), path)


def check_list(value: Any, path: Path) -> list[Any]:
    """The value itself. Raises DataError unless it is a list, with `path` as its name."""
    if not isinstance(value, list):
        kind = {dict: "an object", str: "text", type(None): "null"}.get(type(value), "a single value")
        raise DataError(f"{path} holds {kind}, not a list of rows: check that it is the annotation file")
    return value


def load_object(path: Path) -> dict[str, Any]:
    """The keys and values of a JSON file that contains one object. Raises DataError for anything else."""
    value = parse_json(read_bytes(path), path)
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no object: check that it is the annotation file")
    return value


def load_lines(path: Path, *, begin: int = 0, first: int = 1, count: int | None = None) -> Iterator[tuple[int, Any]]:
    """Number, from 1, and value of each line of a JSON Lines file that is not blank; the value of an invalid line is a DataError.

    With `begin`, the byte where a line begins, the lines from this one on, which is number `first`; with `count` as many lines.
    One line is in memory at a time. Raises DataError for a file that cannot be read.
    """
    with _open(path) as stream:
        if begin == 0 and stream.peek(len(_BOM)).startswith(_BOM):
            begin = len(_BOM)
        stream.seek(begin)
        for number, line in enumerate(islice(stream, count), start=first):
            if line.strip():
                yield number, _parse_line(line.removesuffix(b"\n"), path)


def _parse_line(line: bytes, path: Path) -> Any:
    try:
        if len(line) > MAX_LINE_BYTES:
            raise DataError(f"the line has {len(line):,} bytes, more than {MAX_LINE_BYTES:,}")
        return parse_json(line, path)
    except DataError as error:
        return DataError(str(error).removeprefix(f"{path} "))


def read_bytes(path: Path) -> bytes:
    """The bytes of a file without a byte order mark. Raises DataError for a file that is missing, too large or unreadable."""
    with _open(path) as stream:
        return stream.read().removeprefix(_BOM)


@contextmanager
def _open(path: Path) -> Iterator[io.BufferedReader]:
    """A file of bounded size. Raises DataError for one that is missing, too large or unreadable, also while it is read."""
    try:
        if not path.exists():
            raise DataError(f"{path} does not exist: check the data root")
        if not path.is_file():
            raise DataError(f"{path} is not a file: name the annotation file")
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise DataError(f"{path} has {size:,} bytes, more than {MAX_FILE_BYTES:,}: split it into several files")
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check its permissions") from error


_DECODER: Final = json.JSONDecoder()


def _parse_text(text: str) -> Any:
    """What `json.loads` gives and raises, without its look for white space around an object: most lines have none."""
    if text.startswith("{"):
        value, end = _DECODER.raw_decode(text)
        if end == len(text):
            return value
    return json.loads(text)


def parse_json(data: bytes, path: Path) -> Any:
    """The value of JSON text, with `path` as its name. Raises DataError."""
    try:
        return _parse_text(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply: check that it is the annotation file") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise DataError(f"{path} is not valid JSON ({error.msg}, {where}): correct it or download it again") from error
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"{path} holds a number that is too long: correct it or download it again") from error
