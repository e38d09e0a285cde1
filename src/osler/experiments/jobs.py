"""Runs lists of `osler` commands as jobs, several side by side: in one process for each core, on a GPU in one for each command.

Finished jobs are skipped, and a command that several jobs have in common runs once. Every job uses the command line, so it trains and
evaluates exactly as a user would. A list that was killed resumes with the jobs that have not finished.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import queue
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tqdm import tqdm

from osler.errors import OslerError
from osler.files import read_json_object, write_json

STATE: Final = "jobs.json"
LOG_LINES: Final = 5
MARK: Final = "+ osler "
"""Begins the line of a job's log that names a command before it runs."""
MAX_WORKERS: Final = 3
ALLOCATOR: Final = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=2147483648"
"""Linux's C library keeps freed memory for the next tensors, up to 2 GiB, in large pages. By default it gives back every large tensor, and
a tenth of a training step of `osler demo` goes into fetching them again. Other systems ignore this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Commands that run one after the other in one run folder: trainings, then one evaluation."""

    name: str  # "grpo-think", the run folder
    commands: tuple[tuple[str, ...], ...]  # (("train", "demo", "--out", "runs/demo/grpo-think", ...), ("eval", ...))

    def records_file(self, out: Path) -> Path:
        """The records of the job's evaluation, which is labelled with the folder's name."""
        return out / self.name / "records" / f"{Path(self.name).name}.jsonl"


def plan_commands(
    recipe: str, folder: Path, overrides: Sequence[str], *, verb: str | None = None, policy: Path | None = None
) -> tuple[tuple[str, ...], ...]:
    """The commands of one job: training by `verb` ("sft" or "train", None for no training), then an evaluation.

    The evaluation tests the policy that was trained in `folder`; without training it tests `policy`, or the recipe's policy when None.
    """
    shared = (recipe, "--out", str(folder), *overrides)
    tested = policy if verb is None else folder / "policy"
    evaluation = ("eval", *shared, "--label", folder.name, *(("--policy", str(tested)) if tested is not None else ()))
    return (evaluation,) if verb is None else ((verb, *shared), evaluation)


def plan_warm_up(recipe: str, folder: Path, overrides: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The command of a short SFT in a folder of its own, and the override by which a training starts from its policy.

    One of `overrides` says how short, such as --sft.max_steps=30.
    """
    return ("sft", recipe, "--out", str(folder), *overrides), f"--policy.path={folder / 'policy'}"


def run_jobs(jobs: Sequence[Job], out: Path, *, title: str, terms: str = "") -> None:
    """Run the jobs that have not finished, one for each core at a time up to MAX_WORKERS, with a progress bar on standard error.

    A job has finished when its commands ran to the end under the same `terms` and its folder still exists. `terms` is everything else that
    the commands depend on, such as the content of their recipe; when it changes, all jobs run again, and each decides what it can reuse.
    Of jobs with a command in common the first runs it, and the others wait for that job.

    Raises OslerError when a job fails, and waiting jobs are not started; DataError when the file of finished jobs is damaged.
    """
    done: dict[str, list[list[str]]] = read_json_object(out / STATE)  # name -> the commands that were run, and a digest of the terms
    waiting = [job for job in jobs if done.get(job.name) != _state_of(job, terms) or not (out / job.name).is_dir()]
    if not waiting:
        tqdm.write(f"{out} holds a finished {title}; --fresh runs it again", file=sys.stderr)
        return
    cores = os.cpu_count() or 1
    has_gpu = shutil.which("nvidia-smi") is not None
    workers = 1 if has_gpu else min(MAX_WORKERS, cores)  # jobs do not share a GPU, and a command needs all of its memory
    first = {command: job for job in reversed(waiting) for command in job.commands}  # the job that runs a command
    for job in waiting:
        for command in (command for command in job.commands if first[command] is job):
            tqdm.write("  osler " + shlex.join(command), file=sys.stderr)
    write_json(out / STATE, done)  # --fresh sets a folder aside when it holds this file
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(waiting), desc=title, unit="run", dynamic_ncols=True, disable=None)
    idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
    with bar, concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for _ in range(workers):
            idle.put(_Worker(threads=max(1, cores // workers), is_kept=not has_gpu))
        futures: dict[str, concurrent.futures.Future[None]] = {}
        for job in waiting:
            others = [futures[first[command].name] for command in job.commands if first[command] is not job]
            own = Job(name=job.name, commands=tuple(command for command in job.commands if first[command] is job))
            futures[job.name] = pool.submit(_run_job, own, out, idle, others)
        names = {future: job for job, future in zip(waiting, futures.values(), strict=True)}
        try:
            for future in concurrent.futures.as_completed(names):
                future.result()
                job = names[future]
                done[job.name] = _state_of(job, terms)
                write_json(out / STATE, done)
                bar.update()
                bar.set_postfix_str(job.name)
        finally:
            pool.shutdown(cancel_futures=True)  # after a failure or an interrupt, waiting jobs are not started, and running ones end
            ended = [job for future, job in names.items() if not future.cancelled() and future.exception() is None]
            write_json(out / STATE, done | {job.name: _state_of(job, terms) for job in ended})
            while not idle.empty():
                idle.get().end()


class _Worker:
    """A process that runs one job after another (`osler.cli.in_turn`), or one command if it is not kept."""

    def __init__(self, *, threads: int, is_kept: bool) -> None:
        self.is_kept, self._threads = is_kept, threads
        self._process: subprocess.Popen[str] | None = None

    def run(self, commands: Sequence[Sequence[str]], log: Path) -> int:
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
            command = [sys.executable, "-m", "osler.cli.in_turn"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        return int(answer) if answer else self.end() or 1  # it ended in the middle of a command

    def end(self) -> int:
        """End the process after its present job; returns its exit code, 0 if there is none."""
        process, self._process = self._process, None
        if process is None:
            return 0
        with process:
            process.communicate()  # closes its input
        return process.returncode


def _run_job(job: Job, out: Path, idle: queue.LifoQueue[_Worker], others: Sequence[concurrent.futures.Future[None]]) -> None:
    """Run a job's commands one after the other, after the `others` it waits for; their output goes to `log.txt` of the job's folder."""
    for other in others:
        other.result()
    log = out / job.name / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    worker = idle.get()
    try:
        code = worker.run(job.commands, log)
    finally:
        idle.put(worker)
    if code:
        lines = log.read_text(errors="replace").splitlines()
        command = next((line.removeprefix(MARK) for line in reversed(lines) if line.startswith(MARK)), job.name)
        raise OslerError(f"`osler {command}` ended with {code}; see {log}: {' | '.join(lines[-LOG_LINES:])}")


def _state_of(job: Job, terms: str) -> list[list[str]]:
    return [*(list(command) for command in job.commands), [hashlib.sha256(terms.encode()).hexdigest()]]
