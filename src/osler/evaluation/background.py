"""What a coroutine finds, as an iterator of a program that is not asynchronous."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Emit = Callable[[Item], None]


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


class _Background(Generic[Item]):
    """Runs one coroutine in a thread of its own, so that it also works where a loop runs already, as in a notebook."""

    def __init__(self, work: Callable[[Emit[Item]], Coroutine[Any, Any, None]]) -> None:
        self.found: queue.SimpleQueue[Item | _End] = queue.SimpleQueue()
        self._work = work
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="osler requests", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._main())
        except BaseException as raised:  # the thread that reads raises it again
            error = raised
        finally:
            self._is_ready.set()
            self.found.put(_End(error))

    async def _main(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._is_ready.set()
        await self._work(self.found.put)

    def stop(self) -> None:
        """Cancel what still runs, and wait until its connections are closed."""
        self._is_ready.wait()
        if self._thread.is_alive() and self._loop is not None and self._task is not None:
            with suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()


async def gather(works: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """The results of coroutines that run side by side, in their order. The first error cancels the others and is raised alone."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def iterate(work: Callable[[Emit[Item]], Coroutine[Any, Any, None]]) -> Iterator[Item]:
    """What `work(emit)` emits, as it comes. An error of the coroutine is raised at the end; leaving the iterator early cancels it."""
    background = _Background(work)
    try:
        while not isinstance(item := background.found.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        background.stop()
