"""User errors. Each has a one-line message that says how to fix it; the command line prints the message and exits with status 2.

The tree::

    OslerError
    ├── ConfigError     a recipe or an override is wrong
    ├── DataError       an annotation file, a row or an image is wrong
    ├── PolicyError     a model folder, checkpoint or processor is wrong
    ├── EngineError     generation cannot run with these settings
    ├── MissingAnswers  an endpoint did not answer some questions; exit code 1, because the same command may succeed
    ├── MissingExtra    an optional package is not installed
    └── Interrupted     Ctrl-C, where the same command would not continue; exit code 130

Any other exception is a bug in Osler and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class OslerError(Exception):
    """User error. `str(error)` is one line that says how to fix it."""

    exit_code: ClassVar[int] = 2  # of the command line

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class ConfigError(OslerError):
    """A recipe or an override is wrong."""


class DataError(OslerError):
    """An annotation file, a row or an image is wrong."""


class PolicyError(OslerError):
    """A model folder, a checkpoint or a processor is wrong."""


class EngineError(OslerError):
    """Generation cannot run with these settings."""


class MissingAnswers(OslerError):  # noqa: N818 - named for what is missing
    """Some questions got no answer, which is no wrong answer. The answers that came are kept; the same command asks the others."""

    exit_code: ClassVar[int] = 1


class MissingExtra(OslerError):  # noqa: N818 - named for what is missing
    """An optional package is not installed; `extra` is the extra of Osler that installs it, None for packages without one."""

    def __init__(self, package: str, extra: str | None) -> None:
        what = f"'osler[{extra}]'" if extra else package
        super().__init__(f"{package} is not installed: pip install {what}")


class Interrupted(OslerError):  # noqa: N818 - no fault of anybody
    """Ctrl-C stopped what keeps nothing to continue with. The message says what is left."""

    exit_code: ClassVar[int] = 130  # as a shell counts: 128 and the number of the signal


@contextmanager
def naming_missing_packages() -> Iterator[None]:
    """Raise a failed import of a library, such as that of an optimizer's package, as a ConfigError with the library's words."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"a setting needs a package that is not installed: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    """The first line of another library's error, at most 200 characters; the name of its class when it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
