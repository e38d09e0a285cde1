"""Jobs on the nodes of a Ray cluster: each is a task, which Ray starts again on another node when its node dies.

The nodes need Osler, the same paths of data and run folders (shared storage), and the same Python.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from osler.errors import ConfigError, MissingExtra, OslerError, first_line
from osler.experiments.launchers.launcher import Commands, Resources
from osler.experiments.launchers.local import run_on_node

MAX_TASKS: Final = 256
"""Tasks that wait in Ray's queue at once; each takes a thread here."""

SETTINGS: Final = ("address", "namespace")
"""What `--launcher-option` may give: the cluster's address (default: RAY_ADDRESS, a cluster on this machine, or a new one)."""


class RayLauncher:
    """Implements `Launcher` on a Ray cluster, which it joins or starts."""

    num_at_once = MAX_TASKS

    def __init__(self, resources: Resources, settings: Mapping[str, str]) -> None:
        try:
            ray: Any = import_module("ray")
        except ImportError:
            raise MissingExtra("ray", "ray") from None
        if unknown := sorted(settings.keys() - set(SETTINGS)):
            raise ConfigError(f"--launcher-option {unknown[0]}: for ray use {', '.join(SETTINGS)}")
        self._ray, self._resources = ray, resources
        self._lock = threading.Lock()
        self._refs: set[Any] = set()
        self._is_stopped = False
        self._is_own = not ray.is_initialized()
        if self._is_own:
            try:
                ray.init(**{"log_to_driver": False, "logging_level": "error", "include_dashboard": None, **settings})
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ConfigError(f"no Ray cluster: {first_line(error)}; start one with `ray start --head`, or give its address") from None
        self._check()

    def _check(self) -> None:
        """Raise ConfigError where no node has what a job asks for: Ray would wait for such a node without an end."""
        asked = {"CPU": self._resources.cpus, "GPU": self._resources.gpus, "memory": (self._resources.memory_gb or 0) * 1024**3}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
            largest: dict[str, float] = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)), default={})
            memory = largest.get("memory", 0) / 1024**3
            self.close()
            raise ConfigError(
                f"no node of the Ray cluster has what a job asks for; the largest has {largest.get('CPU', 0):g} CPUs, "
                f"{largest.get('GPU', 0):g} GPUs and {memory:.0f} GB: lower --job-cpus, --job-gpus or --job-memory"
            )

    def run(self, name: str, commands: Commands, log: Path) -> int:
        """See `Launcher`."""
        ray, asked = self._ray, self._resources
        task = ray.remote(run_on_node).options(
            name=name,
            num_cpus=asked.cpus,
            num_gpus=asked.gpus,
            memory=None if asked.memory_gb is None else int(asked.memory_gb * 1024**3),
            max_retries=asked.tries - 1,
            scheduling_strategy="SPREAD",
        )
        with self._lock:
            if self._is_stopped:
                raise OslerError(f"{name} was not started; the same command continues")
            ref = task.remote([list(command) for command in commands], str(log.absolute()), asked.cpus, str(Path.cwd()), asked.hours)
            self._refs.add(ref)
        try:
            return int(ray.get(ref))
        except ray.exceptions.RayError as error:
            raise OslerError(f"{name} did not end in {asked.tries} tries on Ray: {first_line(error)}; the same command continues") from None
        finally:
            with self._lock:
                self._refs.discard(ref)

    def stop(self) -> None:
        """Cancel all tasks."""
        with self._lock:
            self._is_stopped = True
            refs = list(self._refs)
        for ref in refs:
            self._ray.cancel(ref, force=True)

    def close(self) -> None:
        """Leave the cluster, and end it if it was started here."""
        if self._is_own:
            self._ray.shutdown()
