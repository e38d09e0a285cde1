"""Jobs on this machine: in one process for each core, which runs one job after another; on a GPU in one process for each command."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from osler.experiments.launchers.launcher import Commands

MAX_WORKERS: Final = 3
ALLOCATOR: Final = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=2147483648"
"""Linux's C library keeps freed memory for the next tensors, up to 2 GiB, in large pages. By default it gives back every large tensor, and
a tenth of a training step of `osler demo` goes into fetching them again. Other systems ignore this."""

TIMED_OUT: Final = 124
"""The exit code of a job that was stopped after its time, as of the command `timeout`."""


class Worker:
    """A process that runs one job after another (`osler.cli.in_turn`), or one command if it is not kept. It ends with this process."""

    def __init__(self, *, threads: int, is_kept: bool, folder: str | None = None) -> None:
        self.is_kept, self._threads, self._folder = is_kept, threads, folder
        self._process: subprocess.Popen[str] | None = None

    def run(self, commands: Commands, log: Path) -> int:
        """Run commands until one fails; returns its exit code, or 0. Their output is appended to `log`."""
        for part in [commands] if self.is_kept else [[command] for command in commands]:
            code = self._ask({"commands": part, "log": str(log)})
            if not self.is_kept:
                self.end()
            if code:
                return code
        return 0

    def _ask(self, job: Mapping[str, object]) -> int:
        if self._process is None or self._process.poll() is not None:
            environment = {"GLIBC_TUNABLES": ALLOCATOR, **os.environ, "OMP_NUM_THREADS": str(self._threads)}
            command = [sys.executable, "-m", "osler.cli.in_turn", str(os.getpid())]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=self._folder
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        return int(answer) if answer else self.end() or 1  # it ended in the middle of a command

    def end(self) -> int:
        """End the process after its present job; returns its exit code, 0 if there is none."""
        process, self._process = self._process, None
        if process is None:
            return 0
        with process:
            process.communicate()  # closes its input
        return process.returncode

    def stop(self) -> None:
        """End the process now, in the middle of a command."""
        if (process := self._process) is not None:
            process.terminate()


def run_on_node(commands: Commands, log: str, threads: int, folder: str, hours: float | None = None) -> int:
    """A job on a node of a cluster: in a process of its own, which ends with this one. Returns the first exit code above 0.

    Relative paths in its commands start at `folder`. After `hours` the process is stopped, and the exit code is TIMED_OUT.
    """
    if not Path(folder).is_dir():
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{folder} is not on this node: launch from a folder on the shared storage\n")
        return 1
    worker = Worker(threads=threads, is_kept=True, folder=folder)
    timer = None if hours is None else threading.Timer(hours * 3600, worker.stop)
    try:
        if timer is not None:
            timer.start()
        code = worker.run(commands, Path(log))
        if timer is not None and not timer.is_alive() and code:
            with Path(log).open("a", encoding="utf-8") as file:
                file.write(f"stopped after --job-hours {hours:g}; raise it, and the same command continues\n")
            return TIMED_OUT
        return code
    finally:
        if timer is not None:
            timer.cancel()
        worker.stop()
        worker.end()


class LocalLauncher:
    """Implements `Launcher` on this machine. An interrupt of the terminal reaches its processes by itself."""

    def __init__(self) -> None:
        cores = os.cpu_count() or 1
        has_gpu = shutil.which("nvidia-smi") is not None
        self.num_at_once = 1 if has_gpu else min(MAX_WORKERS, cores)  # jobs do not share a GPU, and a command needs all of its memory
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()
        for _ in range(self.num_at_once):
            self._idle.put(Worker(threads=max(1, cores // self.num_at_once), is_kept=not has_gpu))

    def run(self, name: str, commands: Commands, log: Path) -> int:  # noqa: ARG002
        """See `Launcher`."""
        worker = self._idle.get()
        try:
            return worker.run(commands, log)
        finally:
            self._idle.put(worker)

    def stop(self) -> None:
        """Nothing: running jobs end, because a job that has begun is not lost."""

    def close(self) -> None:
        """End the processes."""
        while not self._idle.empty():
            self._idle.get().end()
