"""Atomic writes of files and folders, and checked reads.

Osler writes each file and folder under a temporary name in the same folder and then renames it, so that a killed process leaves no
incomplete file. A JSON Lines file that is appended to may end in an incomplete line, which readers drop.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from osler.errors import DataError


def is_there(path: Path) -> bool:
    """Whether a file or folder exists; a name that no file can have, such as one of 300 characters, does not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path for a file or a folder, renamed to `path` at the end of the `with` block, or deleted if the block raises.

    The parent folder is created. A file replaces an existing file; a folder replaces only an empty folder. Raises OSError if the parent
    folder cannot be created or the rename fails.
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


@contextmanager
def locking(path: Path, wait: float = 0.0, *, is_kept: bool = True) -> Iterator[bool]:
    """Lock a file for the `with` block. The value is False where another process has held the lock for `wait` seconds more.

    The lock ends with its process. Unless `is_kept` the file is removed behind the block. Where the system or the disk has no locks, the
    value is True.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield True
        return
    end = time.monotonic() + wait
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_ours = True
            except BlockingIOError:
                if time.monotonic() < end:
                    time.sleep(min(0.1, wait))
                    continue
                is_ours = False
            except OSError:  # this disk has none
                is_ours = True
            if is_ours and not _is_at(path, file):
                continue  # its holder has removed it meanwhile, so that others lock a new one
            try:
                yield is_ours
            finally:
                if is_ours and not is_kept:
                    path.unlink(missing_ok=True)
            return


def _is_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


HTML: Final = "<!doctype html"
"""What every page begins with, case aside."""


def check_replaceable(path: Path, begins: str, kind: str) -> None:
    """Raise DataError where a file exists that is not empty and does not begin with `begins`, case aside.

    What is written to a path that a user names replaces an earlier file of its `kind`, "page" or "audit", and nothing else: a slip of the
    keyboard must not cost a dataset.
    """
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            head = file.read(len(begins.encode()))
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}), which would be replaced: name another file") from None
    if head and head.decode("utf-8", "replace").lower() != begins.lower():
        raise DataError(f"{path} exists and is no {kind} of Osler: name another file, or remove it")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically, text as UTF-8; its folder is created. Raises OSError."""
    with replacing(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def create_whole(path: Path, content: str) -> None:
    """Write a new text file atomically. Raises FileExistsError if it exists, also if another process writes it at the same time."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_text(content, encoding="utf-8")
        os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. Raises OSError."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value per line, atomically. Raises OSError."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_text(path: Path, max_bytes: int, remedy: str) -> str:
    """The text of a file of at most `max_bytes`; "" if it is not UTF-8, so that the caller's format check rejects it.

    Raises DataError, with a message that ends with `remedy`, for a file that is too large, absent or unreadable.
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
    """The JSON object in a file, {} if there is no file. Raises DataError, one line, for a file that holds no JSON object."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): restore it, or delete it to continue without it") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} is not a JSON object: restore it, or delete it to continue without it")
    return value


def split_lines(content: bytes) -> list[bytes]:
    """The lines of a JSON Lines file, without an incomplete last line of a killed process.

    A last line without a newline is complete if it is valid JSON, which the beginning of a JSON object never is.
    """
    *lines, last = content.split(b"\n")
    try:
        json.loads(last)
    except ValueError:
        return lines
    return [*lines, last]


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a JSON Lines file, [] if there is no file; an incomplete last line is dropped (see `split_lines`).

    Raises DataError, with the number of the entry, for any other line that is not a JSON object.
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


def packaged_recipes() -> dict[str, Path]:
    """Name -> file of the recipes that are part of Osler, in an installed package or in a checkout."""
    installed = Path(__file__).parent / "recipes"
    folder = installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"
    return {path.stem: path for path in folder.glob("*.toml")}
