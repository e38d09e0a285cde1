"""Where jobs run: on this machine, or on the nodes of a Ray or a Slurm cluster with shared storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol, get_args

from osler.errors import ConfigError

Commands = Sequence[Sequence[str]]
LauncherName = Literal["local", "ray", "slurm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a job asks a cluster for, and how often it may start. On this machine nothing is asked for."""

    cpus: int = 1
    gpus: int = 0
    memory_gb: float | None = None  # None: what the cluster gives by default
    hours: float | None = None
    tries: int = 3  # a job starts again when its node dies; each start resumes from the checkpoints on shared storage

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


def _open_local(resources: Resources, settings: Mapping[str, str]) -> Launcher:  # noqa: ARG001
    from osler.experiments.launchers.local import LocalLauncher

    if settings:
        raise ConfigError("--launcher-option is for ray and slurm: leave it out, or name a --launcher")
    return LocalLauncher()


def _open_ray(resources: Resources, settings: Mapping[str, str]) -> Launcher:
    from osler.experiments.launchers.on_ray import RayLauncher

    return RayLauncher(resources, settings)


def _open_slurm(resources: Resources, settings: Mapping[str, str]) -> Launcher:
    from osler.experiments.launchers.on_slurm import SlurmLauncher

    return SlurmLauncher(resources, settings)


_OPENERS: Final[Mapping[str, Callable[[Resources, Mapping[str, str]], Launcher]]] = {
    "local": _open_local,
    "ray": _open_ray,
    "slurm": _open_slurm,
}
LAUNCHERS: Final[tuple[LauncherName, ...]] = get_args(LauncherName)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launching:
    """Which launcher to open, as a command line says it."""

    name: LauncherName = "local"
    resources: Resources = Resources()
    settings: Mapping[str, str] = field(default_factory=dict)  # of the launcher's own

    def open(self) -> Launcher:
        """Open the launcher. Raises MissingExtra without its package, and ConfigError for settings that it refuses."""
        return _OPENERS[self.name](self.resources, dict(self.settings))
