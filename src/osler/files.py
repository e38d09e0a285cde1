"""Files that appear whole or not at all, and reading within bounds.

A process can be killed at any moment. So every file and folder that Osler writes is made under another name beside its place and then
renamed. A JSON Lines file that grows line by line may end in half a line, which readers drop.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from osler.errors import DataError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or a folder at; it is renamed to `path` when the block ends, and removed when the block raises.

    The parent folder is made when absent. A file replaces an existing file; a folder replaces only an empty folder.
    Raises OSError when the parent folder cannot be made or the rename fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield draft
        draft.replace(path)
    finally:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8, that appears whole or not at all; its folder is made when absent. Raises OSError."""
    with replacing(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def create_whole(path: Path, content: str) -> None:
    """The same for a file that must not exist yet, also when two processes write it at once: the second raises FileExistsError."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_text(content, encoding="utf-8")
        os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; the file appears whole or not at all."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value a line; the file appears whole or not at all."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_text(path: Path, max_bytes: int, remedy: str) -> str:
    """The text of a file that Osler wrote, at most `max_bytes` long; empty when its bytes are not UTF-8.

    Raises DataError, whose line ends with `remedy`, for a file that is too large, absent or unreadable.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise DataError(f"{path} is larger than {max_bytes:,} bytes: {remedy}")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {remedy}") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file that Osler wrote, {} when there is no file. Raises DataError, in one line, for anything else."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): restore it, or delete it to go on without it") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} is not a JSON object: restore it, or delete it to go on without it")
    return value


def split_lines(content: bytes) -> list[bytes]:
    """The lines of a JSON Lines file, without a last line that a killed process left half-written.

    A last line without a newline is complete when it is valid JSON: the beginning of a JSON object never is.
    """
    *lines, last = content.split(b"\n")
    try:
        json.loads(last)
    except ValueError:
        return lines
    return [*lines, last]


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file that grew line by line, [] when there is no file; a half-written last line is dropped.

    Raises DataError, with the number of the line, for any other line that is not a JSON object.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(filter(bytes.strip, split_lines(path.read_bytes())), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, entry {number} is not JSON ({error}): delete that line") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, entry {number} is not a JSON object: delete that line")
        rows.append(row)
    return rows


def digest_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
