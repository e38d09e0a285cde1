"""Work in pieces on several processes, in order, with few pieces under way.

A piece is a picklable argument of a function of a module. Processes are spawned, so that a program with threads is safe. Results do not
depend on their number, because pieces do not. Ctrl-C stops after the pieces that are under way.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from types import TracebackType
from typing import Final, TypeVar

from osler.errors import DataError

T = TypeVar("T")
Piece = TypeVar("Piece")

_AHEAD: Final = 2  # pieces under way for each process


def count_cores() -> int:
    """The cores that this process may use."""
    with suppress(AttributeError):  # only Linux tells
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers:
    """`num` processes, which start with the first piece, or with 1 this process; a context manager that ends them."""

    def __init__(self, num: int = 1) -> None:
        self.num = num
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def map(self, function: Callable[[Piece], T], pieces: Iterable[Piece]) -> Iterator[T]:
        """`function` of each piece, in order. Raises what it raises, and DataError where a process was killed."""
        if self.num == 1:
            yield from map(function, pieces)
            return
        pool, under_way = self._start(), deque[Future[T]]()
        try:
            for piece in pieces:
                under_way.append(pool.submit(function, piece))
                if len(under_way) >= _AHEAD * self.num:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        except BrokenProcessPool:
            raise DataError("a process was killed, perhaps for lack of memory: use fewer --workers") from None
        finally:
            for future in under_way:
                future.cancel()

    def _start(self) -> ProcessPoolExecutor:
        import multiprocessing

        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.num, mp_context=multiprocessing.get_context("spawn"), initializer=_ignore_interrupts)
        return self._pool


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process; the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
