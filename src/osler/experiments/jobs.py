"""Runs lists of `osler` commands as jobs: one process for each job, on a GPU for each command; several jobs side by side.

Finished jobs are skipped. Every job uses the command line, so it trains and evaluates exactly as a user would. A list that was killed
resumes with the jobs that have not finished.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
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
    """Run the jobs that have not finished, one process for each core up to MAX_WORKERS, with a progress bar on standard error.

    A job has finished when its commands ran to the end under the same `terms` and its folder still exists. `terms` is everything else that
    the commands depend on, such as the content of their recipe; when it changes, all jobs run again, and each decides what it can reuse.

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
    for job in waiting:
        for command in job.commands:
            tqdm.write("  osler " + shlex.join(command), file=sys.stderr)
    write_json(out / STATE, done)  # --fresh sets a folder aside when it holds this file
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(waiting), desc=title, unit="run", dynamic_ncols=True, disable=None)
    with bar, concurrent.futures.ThreadPoolExecutor(workers) as pool:
        threads = max(1, cores // workers)
        futures = {pool.submit(_run_job, job, out, threads, in_one_process=not has_gpu): job for job in waiting}
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
                job = futures[future]
                done[job.name] = _state_of(job, terms)
                write_json(out / STATE, done)
                bar.update()
                bar.set_postfix_str(job.name)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after a failure or an interrupt, waiting jobs are not started


def _run_job(job: Job, out: Path, threads: int, *, in_one_process: bool) -> None:
    """Run a job's commands one after the other; their output goes to `log.txt` of the job's folder."""
    log = out / job.name / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    for commands in [job.commands] if in_one_process else [(command,) for command in job.commands]:
        with log.open("ab") as stream:
            process = subprocess.run(
                [sys.executable, "-m", "osler.cli.in_turn", json.dumps(commands)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=environment,
                check=False,
            )
        if process.returncode:
            lines = log.read_text(errors="replace").splitlines()
            command = next((line.removeprefix(MARK) for line in reversed(lines) if line.startswith(MARK)), job.name)
            raise OslerError(f"`osler {command}` ended with {process.returncode}; see {log}: {' | '.join(lines[-LOG_LINES:])}")


def _state_of(job: Job, terms: str) -> list[list[str]]:
    return [*(list(command) for command in job.commands), [hashlib.sha256(terms.encode()).hexdigest()]]
