"""What an earlier phantom left in a folder: its files beside those of another one would be read as one dataset."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from osler.errors import DataError


def check_leftovers(out: Path, planned: Collection[str], patterns: Iterable[str]) -> None:
    """Raise DataError where `out` holds files of these glob patterns that are not planned; paths are relative to `out`.

    The planned files are replaced. Nothing is removed, because Osler does not know who else uses the folder.
    """
    found = {path.relative_to(out).as_posix() for pattern in patterns for path in out.glob(pattern)}
    if left := sorted(found.difference(planned)):
        files = "file" if len(left) == 1 else "files"
        raise DataError(
            f"{out} holds {len(left):,} {files} of a phantom with other settings, such as {left[0]}: choose an empty folder, or remove them"
        )
