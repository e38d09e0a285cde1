"""The errors a user can cause. Each carries one line that names the remedy; the command line prints it and exits with 2.

The tree::

    OslerError
    ├── ConfigError     a recipe or an override is wrong
    ├── DataError       an annotation file, a row or an image is wrong
    ├── PolicyError     a model folder, checkpoint or processor is wrong
    ├── EngineError     generation cannot run as asked
    └── MissingExtra    an optional package is not installed

Anything else that escapes is a bug of Osler's and keeps its traceback.
"""

from __future__ import annotations


class OslerError(Exception):
    """The user can mend this; `str(error)` is one line that says how."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class ConfigError(OslerError):
    """A recipe or an override is wrong."""


class DataError(OslerError):
    """An annotation file, a row or an image is wrong."""


class PolicyError(OslerError):
    """A model folder, a checkpoint or a processor is wrong."""


class EngineError(OslerError):
    """Generation cannot run as asked."""


class MissingExtra(OslerError):  # noqa: N818 - named for what is missing
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'osler[{extra}]'")
