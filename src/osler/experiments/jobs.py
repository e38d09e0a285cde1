"""Runs lists of `osler` commands as jobs, several side by side, on this machine or on the nodes of a cluster (`launchers`).

Finished jobs are skipped, and a command that several jobs have in common runs once. Every job uses the command line, so it trains and
evaluates exactly as a user would. A list that was killed resumes with the jobs that have not finished.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from osler.errors import OslerError
from osler.experiments.launchers import Launcher, Launching
from osler.files import read_json_lines, read_json_object, write_json
from osler.run_folder import FINISHED_JOBS

Future = concurrent.futures.Future[None]

STATE: Final = FINISHED_JOBS
LOG_LINES: Final = 5
MARK: Final = "+ osler "
"""Begins the line of a job's log that names a command before it runs."""
MAX_SHOWN: Final = 3
"""Running jobs of which the bar says how far they are."""
EVERY: Final = 2.0
"""Seconds between two looks at how far the running jobs are."""


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


def run_jobs(jobs: Sequence[Job], out: Path, *, title: str, terms: str = "", launching: Launching | None = None) -> None:
    """Run the jobs that have not finished, as many at once as the launcher admits, with one progress bar on standard error.

    A job has finished when its commands ran to the end under the same `terms` and its folder still exists. `terms` is everything else that
    the commands depend on, such as the content of their recipe; when it changes, all jobs run again, and each decides what it can reuse.
    Of jobs with a command in common the first runs it, and the others wait for that job. `launching` says where jobs run: by default on
    this machine, one for each core.

    Raises OslerError when a job fails, and waiting jobs are not started; DataError when the file of finished jobs is damaged.
    """
    done: dict[str, list[list[str]]] = read_json_object(out / STATE)  # name -> the commands that were run, and a digest of the terms
    waiting = [job for job in jobs if done.get(job.name) != state_of(job, terms) or not (out / job.name).is_dir()]
    if not waiting:
        tqdm.write(f"{out} holds a finished {title}; --fresh runs it again", file=sys.stderr)
        return
    launcher = (launching or Launching()).open()
    first = {command: job for job in reversed(waiting) for command in job.commands}  # the job that runs a command
    for job in waiting:
        for command in (command for command in job.commands if first[command] is job):
            tqdm.write("  osler " + shlex.join(command), file=sys.stderr)
    write_json(out / STATE, done)  # --fresh sets a folder aside when it holds this file
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(waiting), desc=title, unit="run", dynamic_ncols=True, disable=None)
    with bar, concurrent.futures.ThreadPoolExecutor(min(launcher.num_at_once, len(waiting))) as pool:
        futures: dict[str, concurrent.futures.Future[None]] = {}
        for job in waiting:
            others = [futures[first[command].name] for command in job.commands if first[command] is not job]
            own = Job(name=job.name, commands=tuple(command for command in job.commands if first[command] is job))
            futures[job.name] = pool.submit(_run_job, own, out, launcher, others)
        names = {future: job for job, future in zip(waiting, futures.values(), strict=True)}
        try:
            for future in _as_they_end(names, out, bar):
                future.result()
                done[names[future].name] = state_of(names[future], terms)
                write_json(out / STATE, done)
                bar.update()
        finally:
            if not all(future.done() for future in names):  # a failure or an interrupt: waiting jobs are not started
                launcher.stop()
            pool.shutdown(cancel_futures=True)
            ended = [job for future, job in names.items() if not future.cancelled() and future.exception() is None]
            write_json(out / STATE, done | {job.name: state_of(job, terms) for job in ended})
            launcher.close()


def _as_they_end(names: Mapping[Future, Job], out: Path, bar: Any) -> Iterator[Future]:
    """The futures as they end; in between `bar` says how far the running jobs are."""
    waiting: set[Future] = set(names)
    while waiting:
        ended, waiting = concurrent.futures.wait(waiting, EVERY, concurrent.futures.FIRST_COMPLETED)
        yield from ended
        running = [job for future, job in names.items() if future.running()][:MAX_SHOWN]
        bar.set_postfix_str(", ".join(said for job in running if (said := _progress(out / job.name))))


def _progress(folder: Path) -> str:
    """How far a running job is, by its files: "grpo-think: step 40", "sft: 256 answers"; "" before there is anything."""
    try:
        steps = [row["step"] for row in read_json_lines(folder / "metrics.jsonl") if isinstance(row.get("step"), int | float)]
        records = folder / "records" / f"{folder.name}.jsonl"
        answers = records.read_bytes().count(b"\n") if records.exists() else 0
    except (OSError, OslerError):
        return ""
    said = f"{answers} answers" if answers else f"step {steps[-1]:g}" if steps else ""
    return f"{folder.name}: {said}" if said else ""


def _run_job(job: Job, out: Path, launcher: Launcher, others: Sequence[Future]) -> None:
    """Run a job's commands one after the other, after the `others` it waits for; their output goes to `log.txt` of the job's folder."""
    for other in others:
        other.result()
    log = out / job.name / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    if code := launcher.run(job.name, job.commands, log):
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        command = next((line.removeprefix(MARK) for line in reversed(lines) if line.startswith(MARK)), job.name)
        raise OslerError(f"`osler {command}` ended with {code}; see {log}: {' | '.join(lines[-LOG_LINES:])}")


def state_of(job: Job, terms: str) -> list[list[str]]:
    """What the file of finished jobs holds of one: its commands, and a digest of the terms."""
    return [*(list(command) for command in job.commands), [hashlib.sha256(terms.encode()).hexdigest()]]
