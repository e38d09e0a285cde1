"""Where jobs run: on this machine, or on the nodes of a Ray or a Slurm cluster with shared storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from osler.errors import ConfigError
from osler.experiments.launchers.launcher import Launcher, Resources

__all__ = ["Launcher", "Launching", "Resources"]

LauncherName = Literal["local", "ray", "slurm"]


def _open_local(resources: Resources, settings: Mapping[str, str]) -> Launcher:
    from osler.experiments.launchers.local import LocalLauncher

    if settings:
        raise ConfigError("--launcher-option is for ray and slurm: leave it out, or name a --launcher")
    if asked := resources.asked:
        raise ConfigError(f"{asked[0]} is for a job on a cluster: leave it out, or name --launcher ray or slurm")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Launching:
    """Which launcher to open, as a command line says it."""

    name: LauncherName = "local"
    resources: Resources = field(default_factory=Resources)
    settings: Mapping[str, str] = field(default_factory=dict)  # of the launcher's own

    def open(self) -> Launcher:
        """Open the launcher. Raises MissingExtra without its package, and ConfigError for settings that it refuses."""
        return _OPENERS[self.name](self.resources, dict(self.settings))
