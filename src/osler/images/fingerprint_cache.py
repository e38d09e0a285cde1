"""Fingerprints of image files kept in a folder, so that files that have not changed are not opened again.

A row is found by the SHA-256 of the image root and the relative path, and it holds for the same size and time of change in nanoseconds.
It has the digest and the perceptual hashes: no path, no name and no picture. The small grey copy of a fingerprint is not kept; `turned`
takes it again where two hashes are near. A file that is no database any more, or that another version of Osler or Pillow wrote, is made
again.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osler.errors import ConfigError
from osler.images.files import ImageFile
from osler.types import ImageSource

FILE: Final = "fingerprints.sqlite"
MAX_ROWS: Final = 5_000_000
"""Rows of the largest file, about 1 GiB; the oldest are left out."""

_VERSION: Final = 1  # of what a fingerprint is
_NUM_HASHES: Final = 8
_HASHES: Final = struct.Struct(f">{_NUM_HASHES}Q")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_WAIT: Final = 30.0  # seconds for another process that writes
_TABLE: Final = "CREATE TABLE fingerprints (key BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, digest TEXT, hashes BLOB)"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """By what a change of a file is seen."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, source: ImageSource) -> FileState | None:
        """The state of an image file; None for another source, and where there is no file."""
        if type(source) is not ImageFile:
            return None
        try:
            status = (source.root / source.path).stat()
        except (OSError, ValueError):
            return None
        return cls(size=status.st_size, mtime_ns=status.st_mtime_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is kept of a fingerprint: the digest, and the hashes of all turns, () for a picture without."""

    digest: str
    hashes: tuple[int, ...]


class FingerprintCache:
    """The fingerprints in the folder `folder`; a context manager that closes the file."""

    def __init__(self, folder: Path, *, max_rows: int = MAX_ROWS) -> None:
        """Open or make the file. Raises ConfigError where it cannot be written."""
        self.path = folder / FILE
        self._max_rows = max_rows
        self._keys: dict[Path, bytes] = {}
        with self._errors():
            folder.mkdir(parents=True, exist_ok=True)
            try:
                self._base = self._open()
            except sqlite3.DatabaseError as error:
                if not _is_broken(error):
                    raise
                self._remove()
                self._base = self._open()

    def __enter__(self) -> FingerprintCache:
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()

    def find(self, sources: Iterable[ImageSource]) -> Iterator[tuple[ImageSource, Kept]]:
        """Those of the image files whose fingerprints are kept and that have not changed since."""
        for source in sources:
            state = FileState.of(source)
            if state is None or not isinstance(source, ImageFile):
                continue
            try:
                row = self._base.execute(
                    "SELECT digest, hashes FROM fingerprints WHERE key = ? AND size = ? AND mtime_ns = ?",
                    (self._key(source), state.size, state.mtime_ns),
                ).fetchone()
            except sqlite3.DatabaseError:  # a page is broken
                row = None
            if row is not None and (kept := _check(*row)) is not None:
                yield source, kept

    def keep(self, taken: Mapping[ImageSource, Kept], states: Mapping[ImageSource, FileState]) -> None:
        """Keep the fingerprints of image files whose state before they were read is their state now.

        Raises ConfigError where the file cannot be written.
        """
        rows = [
            (self._key(source), state.size, state.mtime_ns, kept.digest, _HASHES.pack(*kept.hashes) if kept.hashes else None)
            for source, kept in taken.items()
            if isinstance(source, ImageFile) and (state := states.get(source)) is not None and FileState.of(source) == state
        ]
        with self._errors():
            try:
                self._write(rows)
            except sqlite3.DatabaseError as error:
                if not _is_broken(error):
                    raise
                self._base.close()
                self._remove()
                self._base = self._open()
                self._write(rows)

    def _write(self, rows: Sequence[tuple[bytes, int, int, str, bytes | None]]) -> None:
        with self._base:
            self._base.executemany("INSERT OR REPLACE INTO fingerprints VALUES (?, ?, ?, ?, ?)", rows)
            (last,) = self._base.execute("SELECT coalesce(max(rowid), 0) FROM fingerprints").fetchone()
            self._base.execute("DELETE FROM fingerprints WHERE rowid <= ?", (last - self._max_rows,))

    def _key(self, source: ImageFile) -> bytes:
        if (root := self._keys.get(source.root)) is None:
            root = self._keys[source.root] = str(source.root.resolve()).encode("utf-8", "surrogatepass")
        return hashlib.sha256(root + b"\0" + source.uri.encode("utf-8", "surrogatepass")).digest()

    def _open(self) -> sqlite3.Connection:
        """The file with a table of this version."""
        from PIL import __version__ as pillow

        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))  # hashes of images are for their owner
        version = int.from_bytes(hashlib.sha256(f"{_VERSION} {pillow}".encode()).digest()[:4], "big") >> 1
        base = sqlite3.connect(self.path, timeout=_WAIT)
        try:
            if base.execute("PRAGMA user_version").fetchone() != (version,):
                with base:
                    base.execute("BEGIN IMMEDIATE")
                    base.execute("DROP TABLE IF EXISTS fingerprints")
                    base.execute(_TABLE)
                    base.execute(f"PRAGMA user_version = {version}")
            base.execute("SELECT key, size, mtime_ns, digest, hashes FROM fingerprints LIMIT 1").fetchone()
        except BaseException:
            base.close()
            raise
        return base

    def _remove(self) -> None:
        for end in ("", "-journal", "-wal", "-shm"):
            self.path.with_name(f"{FILE}{end}").unlink(missing_ok=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"the cache {self.path} cannot be written ({error}): name another folder with --cache") from None


def _is_broken(error: sqlite3.DatabaseError) -> bool:
    """Whether a file is no database, or another one, rather than locked, write-protected or on a full disk."""
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _check(digest: object, hashes: object) -> Kept | None:
    """A row as it was written; None for another one."""
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        return None
    if hashes is None:
        return Kept(digest=digest, hashes=())
    if not isinstance(hashes, bytes) or len(hashes) != _HASHES.size:
        return None
    return Kept(digest=digest, hashes=_HASHES.unpack(hashes))
