"""The answers of a server as lines of JSON, where its operator asks for them: texts, figures and hashes, never an image."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from osler.errors import ConfigError

log = logging.getLogger("osler.serving")


class AnswerLog:
    """Appends to `folder`/answers.jsonl, for its owner only. A line is written whole before its client has the answer.

    Raises ConfigError where the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "answers.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            size = os.fstat(self._file).st_size
            self._is_torn = bool(size) and os.pread(self._file, 1, size - 1) != b"\n"  # a process was killed while it wrote
        except OSError as error:
            raise ConfigError(f"cannot write {path} ({error.strerror}): give another --log-dir") from None

    def write(self, route: str, values: Mapping[str, Any]) -> None:
        """Append one answer. A full disk is reported and stops no answer."""
        entry = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "route": route, **values}
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        line = b"\n" + line if self._is_torn else line
        try:
            self._is_torn = os.write(self._file, line) < len(line)
        except OSError as error:
            log.error("an answer was not logged: %s", error.strerror)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
