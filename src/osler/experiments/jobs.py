"""Work as a list of `osler` commands: a process for each, several side by side, and what has ended does not run again.

A killed list continues where it stopped, and nothing here trains or evaluates by another path than the command line does.
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
from osler.files import write_json

STATE: Final = "jobs.json"
LOG_LINES: Final = 5
MAX_WORKERS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Commands that follow one another in one run folder; at most one training, then one evaluation."""

    name: str  # "grpo-think", the run folder
    commands: tuple[tuple[str, ...], ...]  # (("train", "demo", "--out", "runs/demo/grpo-think", ...), ("eval", ...))

    def records_file(self, out: Path) -> Path:
        """Where an evaluation whose label is the folder's name leaves its records."""
        return out / self.name / "records" / f"{Path(self.name).name}.jsonl"


def plan_commands(
    recipe: str, folder: Path, overrides: Sequence[str], *, verb: str | None = None, policy: Path | None = None
) -> tuple[tuple[str, ...], ...]:
    """The commands of a job's folder: training by `verb`, "sft" or "train", where there is one, then an evaluation by the folder's name.

    It asks what was trained there; without training `policy`, and without that the recipe's own.
    """
    shared = (recipe, "--out", str(folder), *overrides)
    asked = policy if verb is None else folder / "policy"
    evaluation = ("eval", *shared, "--label", folder.name, *(("--policy", str(asked)) if asked is not None else ()))
    return (evaluation,) if verb is None else ((verb, *shared), evaluation)


def run_jobs(jobs: Sequence[Job], out: Path, *, title: str, terms: str = "") -> None:
    """Run the jobs that have not ended yet, one process a core up to MAX_WORKERS, with a progress bar.

    A job has ended when the same commands did under the same terms and its folder is still there. `terms` is whatever else the commands
    depend on, such as the recipe that they name; under others they run again, and say themselves what they cannot go on with. Raises
    OslerError when one fails; those that wait never start.
    """
    done = _read_state(out)
    waiting = [job for job in jobs if done.get(job.name) != _state_of(job, terms) or not (out / job.name).is_dir()]
    if not waiting:
        print(f"{out} holds a finished {title}; --fresh runs it again", file=sys.stderr)  # noqa: T201
        return
    cores = os.cpu_count() or 1
    workers = min(MAX_WORKERS, cores) if not _has_gpu() else 1
    for job in waiting:
        for command in job.commands:
            print("  osler " + shlex.join(command), file=sys.stderr)  # noqa: T201
    write_json(out / STATE, done)  # from now on the folder is known to be ours
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(waiting), desc=title, unit="run", dynamic_ncols=True, disable=None)
    with bar, concurrent.futures.ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(_run_job, job, out, max(1, cores // workers)): job for job in waiting}
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
                job = futures[future]
                done[job.name] = _state_of(job, terms)
                write_json(out / STATE, done)
                bar.update()
                bar.set_postfix_str(job.name)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # when one fails or is interrupted, those that wait never start


def _run_job(job: Job, out: Path, threads: int) -> None:
    """Run a job's commands one after the other; their output goes to `log.txt` of the job's folder."""
    log = out / job.name / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    for command in job.commands:
        with log.open("ab") as stream:
            process = subprocess.run(
                [sys.executable, "-m", "osler", *command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=environment,
                check=False,
            )
        if process.returncode:
            tail = " | ".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
            raise OslerError(f"`osler {shlex.join(command)}` ended with {process.returncode}; see {log}: {tail}")


def _state_of(job: Job, terms: str) -> list[list[str]]:
    return [*(list(command) for command in job.commands), [hashlib.sha256(terms.encode()).hexdigest()]]


def _has_gpu() -> bool:
    """Whether jobs would share a GPU. NVIDIA's driver answers without importing torch."""
    return shutil.which("nvidia-smi") is not None


def _read_state(out: Path) -> dict[str, list[list[str]]]:
    """Which jobs ended, and the commands they ran."""
    path = out / STATE
    if not path.is_file():
        return {}
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        state = None
    if not isinstance(state, dict):
        raise OslerError(f"{path} does not say which jobs ended: delete it, finished runs are found again")
    return state
