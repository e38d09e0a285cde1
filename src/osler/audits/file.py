"""An audit as a file: `osler audit --save` writes it, `osler report` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from osler.audits.findings import ADAPTER, Audit
from osler.errors import DataError
from osler.files import read_text, write_json

MAX_BYTES: Final = 64 << 20


def save_audit(report: Mapping[str, Any], path: Path) -> None:
    """Write the JSON of an audit; the file appears complete or not at all. Raises DataError."""
    try:
        write_json(path, report)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror}): choose another --save") from None


def read_audit(path: Path) -> Audit:
    """The audit in a file of `osler audit --save`, or in the output of `osler audit --json`: there it is the last line.

    Raises DataError in one line for any other file, one of an earlier version of Osler included.
    """
    text = read_text(path, MAX_BYTES, "name the file that `osler audit --save` wrote")
    for part in (text, text.strip().rpartition("\n")[2]):
        with suppress(ValueError):
            return ADAPTER.validate_json(part, strict=True)
    raise DataError(f"{path} holds no audit that this version of Osler wrote: make one with `osler audit .. --save FILE`")
