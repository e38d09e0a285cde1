"""Lists of jobs as text: a line is a job, `NAME: COMMAND && COMMAND ..`, each command as typed after `osler`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from osler.errors import ConfigError
from osler.experiments.jobs import Job

MAX_JOBS: Final = 100_000
RUN_VERBS: Final = ("train", "sft", "eval")
"""Verbs that write a run folder: by default that of the job."""

_NAME: Final = re.compile(r"\w[\w.-]*")


def read_jobs(path: Path, out: Path) -> list[Job]:
    """The jobs of a text file. Commands of RUN_VERBS without `--out` get `out`/NAME.

    Raises ConfigError, with the number of the line, for a line that is no job, a name that no folder can have or that comes twice, and a
    file without jobs.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the list {path}: {error}") from None
    jobs: dict[str, Job] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, text = line.partition(":")
        name = name.strip()
        if not colon or not _NAME.fullmatch(name):
            raise ConfigError(f"{path}, line {number}: begin with a name and a colon, as in seed0: train demo --seed 0")
        if name in jobs:
            raise ConfigError(f"{path}, line {number}: there is a job {name} already; give each its own name")
        try:
            commands = tuple(_with_folder(command, out / name) for command in _split(shlex.split(text)))
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from None
        jobs[name] = Job(name=name, commands=commands)
    if not jobs or len(jobs) > MAX_JOBS:
        raise ConfigError(f"{path} has {len(jobs):,} jobs: write 1 to {MAX_JOBS:,}, one a line")
    return list(jobs.values())


def _split(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The commands between "&&"; the word `osler` before one is dropped. Raises ValueError for an empty one."""
    command: list[str] = []
    for word in [*words, "&&"]:
        if word != "&&":
            command.append(word)
            continue
        own = command[1:] if command[:1] == ["osler"] else command
        if not own:
            raise ValueError("a command is empty: write COMMAND && COMMAND")
        if own[0] in ("jobs", "serve"):
            raise ValueError(f"`osler {own[0]}` is no job")
        yield tuple(own)
        command = []


def _with_folder(command: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    if command[0] not in RUN_VERBS or any(word == "--out" or word.startswith("--out=") for word in command):
        return command
    return (*command, "--out", str(folder))
