"""Call a function in another process while this one goes on; where that fails, for whatever reason, it is called here.

The process is this module, run by the same Python, and not a fork or a spawned copy of the caller: a fork of a process with threads can
hang, and a spawned one runs the caller's script again.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")


def count_cores() -> int:
    """Cores for this process; of a training in several on this machine, its share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    others = os.environ.get("LOCAL_WORLD_SIZE", "1")  # torchrun's
    return cores // max(1, int(others)) if others.isdecimal() else cores


@contextmanager
def calling(function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Iterator[Callable[[], Result]]:
    """Begin to call a function of a module in another process, which does not outlive the `with` block.

    The value waits for what the function returns; its arguments and its result are pickled. An error in the other process is raised by
    calling the function again here.
    """
    with _starting(pickle.dumps((function, args, kwargs, __file__))) as process:

        def result() -> Result:
            content = b"" if process is None or process.stdout is None else process.stdout.read()
            if process is None or process.wait() != 0 or not content:
                return function(*args, **kwargs)
            returned: Result = pickle.loads(content)  # written by this module
            return returned

        yield result


@contextmanager
def calling_here(function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Iterator[Callable[[], Result]]:
    """The same in this process: the function is called when its result is asked for."""
    yield partial(function, *args, **kwargs)


@contextmanager
def _starting(call: bytes) -> Iterator[subprocess.Popen[bytes] | None]:
    """A process that has got its call; None where none can be started."""
    command = [sys.executable, "-P", "-m", __spec__.name]  # -P: no module is taken from the current folder
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        yield None
        return
    with process:
        assert process.stdin is not None
        try:
            with suppress(OSError):  # it has ended already
                process.stdin.write(call)
                process.stdin.close()
            yield process
        finally:
            process.kill()


def _answer() -> None:
    """Make the call that standard input holds, and write what it returns to standard output."""
    import gc

    gc.disable()  # one call, and the process ends
    function, args, kwargs, own_file = pickle.loads(sys.stdin.buffer.read())  # written by this module
    if own_file != __file__:
        sys.exit(1)  # another installation of Osler
    with suppress(BrokenPipeError), os.fdopen(os.dup(1), "wb") as stream:
        os.dup2(2, 1)  # nothing that is printed gets into the answer
        pickle.dump(function(*args, **kwargs), stream, protocol=5)


if __name__ == "__main__":
    _answer()
