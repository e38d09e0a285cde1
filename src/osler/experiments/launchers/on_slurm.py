"""Jobs through Slurm, by submitit: each is a Slurm job, which is submitted again when its node dies or its time is over.

The nodes need Osler and the same paths of data and run folders (shared storage).
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

MAX_JOBS: Final = 256
"""Jobs in Slurm's queue at once; each takes a thread here."""

STATE_FOLDER: Final = "slurm"
"""Where submitit keeps scripts and outputs of jobs: this folder beside the first job's log."""


class CommandsOnNode:
    """The callable that submitit runs. Having `checkpoint`, submitit submits it again when its time is over or it is preempted."""

    def __call__(self, commands: Commands, log: str, threads: int, folder: str) -> int:
        """See `local.run_on_node`."""
        return run_on_node(commands, log, threads, folder)

    def checkpoint(self, commands: Commands, log: str, threads: int, folder: str) -> Any:
        """The same commands again: they continue from the checkpoints of their run folders."""
        return import_module("submitit.helpers").DelayedSubmission(self, commands, log, threads, folder)


class SlurmLauncher:
    """Implements `Launcher` through Slurm. `settings` are submitit's: slurm_partition, slurm_account, cluster, .."""

    num_at_once = MAX_JOBS

    def __init__(self, resources: Resources, settings: Mapping[str, str]) -> None:
        try:
            submitit: Any = import_module("submitit")
        except ImportError:
            raise MissingExtra("submitit", "slurm") from None
        self._submitit, self._resources = submitit, resources
        self._settings = {name: int(value) if value.isdigit() else value for name, value in settings.items()}
        self._cluster = self._settings.pop("cluster", None)
        self._lock = threading.Lock()
        self._jobs: dict[str, Any] = {}
        self._is_stopped = False
        self._executor(Path())  # refuses settings and a machine without Slurm before any job is listed

    def _executor(self, folder: Path) -> Any:
        asked = self._resources
        parameters: dict[str, Any] = {"cpus_per_task": asked.cpus, "gpus_per_node": asked.gpus}
        if asked.memory_gb is not None:
            parameters["mem_gb"] = asked.memory_gb
        if asked.hours is not None:
            parameters["timeout_min"] = max(1, round(asked.hours * 60))
        try:
            kept = {"slurm_max_num_timeout": asked.tries - 1} if self._cluster in (None, "slurm") else {}
            executor = self._submitit.AutoExecutor(folder=folder, cluster=self._cluster, **kept)
            if self._cluster is None and executor.cluster != "slurm":
                raise ConfigError("this machine has no Slurm (srun is not found): run on a login node, or use --launcher ray")
            executor.update_parameters(**parameters, **self._settings)
        except (ValueError, TypeError, NameError, RuntimeError) as error:
            raise ConfigError(f"--launcher-option: {first_line(error)}") from None
        return executor

    def run(self, name: str, commands: Commands, log: Path) -> int:
        """See `Launcher`. A job whose node died is submitted again, up to `tries` times in all."""
        executor = self._executor(log.parent / STATE_FOLDER)
        executor.update_parameters(name=name.replace("/", "-"))
        for left in reversed(range(self._resources.tries)):
            with self._lock:
                if self._is_stopped:
                    raise OslerError(f"{name} was not started; the same command continues")
                given = [list(command) for command in commands], str(log.absolute()), self._resources.cpus, str(Path.cwd())
                job = executor.submit(CommandsOnNode(), *given)
                self._jobs[name] = job
            try:
                return int(job.result())
            except self._submitit.core.utils.FailedJobError as error:  # the callable raised
                raise OslerError(f"{name} failed on its node: {first_line(error)}") from None
            except self._submitit.core.utils.UncompletedJobError as error:  # no result: the node died, or the job was cancelled
                if self._is_stopped or not left:
                    said = first_line(error)
                    raise OslerError(
                        f"{name} did not end in {self._resources.tries} tries on Slurm: {said}; the same command continues"
                    ) from None
        raise AssertionError("a job has at least one try")

    def stop(self) -> None:
        """Cancel all jobs."""
        with self._lock:
            self._is_stopped = True
            jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()

    def close(self) -> None:
        """Nothing is held."""
