"""A secret key, and what is made from it: names, UIDs and the shift of dates. The same key gives the same ones, another key others.

Every one is an HMAC-SHA-256 (RFC 2104) of what it stands for, so that nobody finds it by hashing all names without the key.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import stat
import uuid
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from osler.errors import ConfigError, DataError

KEY_BYTES: Final = 32
MAX_SHIFT: Final = 3650
"""Dates are shifted back by 1 to so many days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A secret of KEY_BYTES bytes; it is in no representation of itself."""

    secret: bytes = field(repr=False)

    def digest(self, kind: str, value: str) -> str:
        """The hash of a value of a kind ("image", "uid"), 64 hexadecimal digits."""
        return hmac.new(self.secret, f"{kind}\0{value}".encode("utf-8", "surrogatepass"), sha256).hexdigest()

    def name(self, kind: str, value: str) -> str:
        """A short name, 20 hexadecimal digits (80 bits): "3f0c27c1b0a14e559d02"."""
        return self.digest(kind, value)[:20]

    def uid(self, uid: str) -> str:
        """The UID in place of another one, below the root of UUIDs: "2.25.329800735698586629295641978511506172918"."""
        return f"2.25.{uuid.UUID(self.digest('uid', uid)[:32], version=4).int}"

    def shift(self, patient: str) -> int:
        """By how many days the dates of a patient are shifted back, 1 to MAX_SHIFT."""
        return int(self.digest("shift", patient)[:16], 16) % MAX_SHIFT + 1


def load_key(path: str | Path) -> Key:
    """The key of a file, which is made when it is missing: 64 hexadecimal digits, for the eyes of its owner only (mode 0600).

    Raises DataError for a file that holds no key or that others may read, and ConfigError for one that cannot be made.
    """
    path = Path(path).expanduser()
    try:
        _create(path)
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise DataError(f"the key file {path} may be read by others: chmod 600 it")
        text = path.read_text(encoding="ascii").strip() if path.stat().st_size < 1024 else ""
        secret = bytes.fromhex(text)
    except UnicodeDecodeError:
        secret = b""
    except ValueError:
        secret = b""
    except OSError as error:
        raise ConfigError(f"the key file {path} cannot be read or made ({error.strerror}): name a file in a folder of yours") from None
    if len(secret) != KEY_BYTES:
        raise DataError(f"{path} holds no key of {2 * KEY_BYTES} hexadecimal digits: name another file, which is made when it is missing")
    return Key(secret=secret)


def check_key_file(path: str | Path, *folders: Path) -> None:
    """Raise ConfigError where the key would lie in one of the folders, and so be passed on with what it protects."""
    file = Path(path).expanduser().resolve()
    for folder in folders:
        if file.is_relative_to(folder.resolve()):
            raise ConfigError(f"the key file {path} lies inside {folder}: keep it elsewhere, because who has it can undo the names")


def _create(path: Path) -> None:
    """Make the file where it is missing; of two processes one makes it, whole."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was faster
    else:
        logging.getLogger("osler").warning("a new key was made: %s; keep it, because only the same key gives the same names", path)
    finally:
        draft.unlink(missing_ok=True)
