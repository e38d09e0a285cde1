"""Jobs of `osler` commands in one process: `python -m osler.cli.in_turn PARENT` reads them from standard input until it is closed.

To import PyTorch and TRL takes as long as an evaluation of `osler demo`, and to draw its pictures longer, so jobs share both. A line of the
input is a job, {"commands": [["train", ..], ["eval", ..]], "log": "runs/demo/grpo/log.txt"}. What its commands print is appended to the
log, and the line of the answer is the exit code of the first command that failed, or 0. A command that raises ends the process.
"""

from __future__ import annotations

import gc
import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from osler.cli.main import main
from osler.experiments.jobs import MARK

PARENT_EVERY: Final = 0.25
"""Seconds between two looks at whether the parent lives."""


def run_in_turn(commands: Sequence[Sequence[str]]) -> int:
    """Run commands until one fails; returns its exit code, or 0."""
    for command in commands:
        print(MARK + shlex.join(command), flush=True)
        code = main(command)
        if code:
            return code
        gc.collect()  # a trainer and its model refer to each other
    return 0


def serve(parent: int) -> None:
    """Run the jobs of standard input and answer each, as long as the process `parent` lives. What the commands read from there is empty."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    answers, jobs = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(0))
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    for line in jobs:
        job = json.loads(line)
        with printing_to(Path(job["log"])):
            code = run_in_turn(job["commands"])
        print(code, file=answers, flush=True)


def _end_with(parent: int) -> None:
    """End this process when its parent has died: what resumes the job elsewhere would write into the same run folder."""
    while os.getppid() == parent:
        time.sleep(PARENT_EVERY)
    os._exit(1)


@contextmanager
def printing_to(log: Path) -> Iterator[None]:
    """Append what this process prints to a file, native code included. After an error it stays so, for the traceback."""
    kept = [os.dup(stream) for stream in (1, 2)]
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    yield
    for stream, old in zip((1, 2), kept, strict=True):
        (sys.stdout, sys.stderr)[stream - 1].flush()
        os.dup2(old, stream)
        os.close(old)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # between two jobs; a command says itself that it was interrupted
        serve(int(sys.argv[1]))
