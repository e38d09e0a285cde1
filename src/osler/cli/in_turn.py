"""Several `osler` commands in one process: `python -m osler.cli.in_turn '[["train", ..], ["eval", ..]]'`.

To import PyTorch and TRL takes as long as an evaluation of `osler demo`, so the commands of a job share it.
"""

from __future__ import annotations

import gc
import json
import shlex
import sys
from collections.abc import Sequence

from osler.cli.main import main
from osler.experiments.jobs import MARK


def run_in_turn(commands: Sequence[Sequence[str]]) -> int:
    """Run commands until one fails; returns its exit code, or 0."""
    for command in commands:
        print(MARK + shlex.join(command), flush=True)
        code = main(command)
        if code:
            return code
        gc.collect()  # a trainer and its model refer to each other
    return 0


if __name__ == "__main__":
    sys.exit(run_in_turn(json.loads(sys.argv[1])))
