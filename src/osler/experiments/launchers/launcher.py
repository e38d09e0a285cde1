"""What a launcher of jobs is, and what a job may ask a cluster for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

from osler.errors import ConfigError

Commands = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a job asks a cluster for, and how often it may start. On this machine nothing is asked for."""

    cpus: int = 1
    gpus: int = 0
    memory_gb: float | None = None  # None: what the cluster gives by default
    hours: float | None = None
    tries: int = 3  # a job starts again when its node dies; each start resumes from the checkpoints on shared storage

    @property
    def asked(self) -> tuple[str, ...]:
        """The options that ask for something else than the default."""
        default = Resources()
        return tuple(
            f"--job-{field.name.partition('_')[0]}" for field in fields(self) if getattr(self, field.name) != getattr(default, field.name)
        )

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot be asked for."""
        least = {"cpus": 1, "gpus": 0, "tries": 1}
        for name, minimum in least.items():
            if (value := getattr(self, name)) < minimum:
                raise ConfigError(f"--job-{name} {value}: use {minimum} or more")
        for name in ("memory_gb", "hours"):
            if (value := getattr(self, name)) is not None and not 0 < value < float("inf"):
                raise ConfigError(f"--job-{name.partition('_')[0]} {value:g}: use a number above 0")


class Launcher(Protocol):
    """Runs jobs. `run` is called from as many threads at once as `num_at_once` says."""

    @property
    def num_at_once(self) -> int:
        """The jobs that may run or wait in the cluster's queue at once."""

    def run(self, name: str, commands: Commands, log: Path) -> int:
        """Run `osler` commands until one fails and return its exit code, or 0; their output is appended to `log`.

        Raises OslerError where no node ran the job to its end.
        """

    def stop(self) -> None:
        """Stop all jobs, so that every `run` returns or raises soon."""

    def close(self) -> None:
        """Give back what the launcher holds, after all jobs have ended."""
