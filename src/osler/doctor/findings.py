"""What a check found: fine, a warning, or a reason why a run would fail, each with a setting to type where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from osler.errors import OslerError, first_line

Level = Literal["ok", "skipped", "warning", "failure"]
"""failure: a run would stop with an error; warning: it would run and might learn nothing; skipped: not checked, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of a diagnosis."""

    check: str  # "policy"
    level: Level
    says: str
    remedy: str | None = None  # "--sampling.temperature=1.0"; None where `says` names it


def ok(check: str, says: str) -> Finding:
    """A finding that is fine."""
    return Finding(check=check, level="ok", says=says)


def isolated(check: str, run: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of a check; an error that it raises becomes one, so that the other checks still run.

    An error that is not the user's is a bug of Osler or of a library: its class is named. Interruptions pass through.
    """
    try:
        return list(run())
    except OslerError as error:
        return [Finding(check=check, level="failure", says=str(error))]
    except Exception as error:
        return [Finding(check=check, level="failure", says=f"{type(error).__name__}: {first_line(error)}; a run shows the traceback")]
