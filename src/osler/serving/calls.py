"""Asking the policy for a client: bounded in time, counted, and given up when the client leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from osler.serving.activity import Activity
from osler.serving.errors import ApiError, as_api_error
from osler.serving.generation import Delta, Finished, GenerationRequest, Generator, Started
from osler.serving.settings import ServerSettings

_THREADS: Final = 4
"""Requests whose images are read at a time: a decoded picture may take 192 MB."""

T = TypeVar("T")
Event = Started | Delta | Finished


@dataclass(slots=True, kw_only=True)
class Result:
    """What a request gave, and when. Filled while its events pass."""

    started: Started | None = None
    finished: dict[int, Finished] = field(default_factory=dict)
    begin: float = field(default_factory=time.perf_counter)
    first_token: float | None = None  # seconds from the beginning
    total: float | None = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, those of its images included."""
        return 0 if self.started is None else self.started.prompt_tokens

    @property
    def completion_tokens(self) -> int:
        """Tokens of all completions."""
        return sum(len(event.completion.token_ids) for event in self.finished.values())


class Calls:
    """The policy, as the routes ask it."""

    def __init__(self, generator: Generator, activity: Activity, settings: ServerSettings) -> None:
        self.generator = generator
        self.activity = activity
        self.settings = settings
        self._limiter = CapacityLimiter(_THREADS)

    async def work(self, function: Callable[[], T]) -> T:
        """The result of a function that blocks, such as reading images."""
        return await to_thread.run_sync(function, limiter=self._limiter)

    async def stream(self, request: GenerationRequest, result: Result) -> AsyncGenerator[Event, None]:
        """The events of a request; `result` is filled with them. Close it to free the place of the request."""
        tokens = self.activity.tokens
        async with aclosing(self.generator.stream(request)) as events:
            async for event in events:
                if isinstance(event, Started):
                    result.started = event
                    tokens.labels("prompt").inc(event.prompt_tokens)
                    tokens.labels("image").inc(event.image_tokens)
                elif result.first_token is None:
                    result.first_token = time.perf_counter() - result.begin
                    self.activity.first_token.observe(result.first_token)
                if isinstance(event, Finished):
                    result.finished[event.index] = event
                    tokens.labels("completion").inc(len(event.completion.token_ids))
                yield event
        result.total = time.perf_counter() - result.begin

    async def collect(self, request: GenerationRequest) -> Result:
        """All completions of a request."""
        result = Result()
        async with aclosing(self.stream(request, result)) as events:
            async for _ in events:
                pass
        return result

    async def finish(self, request: Request, work: Awaitable[T]) -> T:
        """The result of `work`, which is cancelled when the client leaves or the time is out. Raises ApiError (499 and 504)."""
        return await _finish(work, request.receive, self.settings.request_seconds, self.activity)


async def _finish(work: Awaitable[T], receive: Receive, seconds: float, activity: Activity) -> T:
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_wait_until_left(receive))
    try:
        await asyncio.wait((task, leaving), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if leaving.done():
            activity.left.inc()
            raise ApiError(499, "the client left")
        raise ApiError(504, f"no answer after {seconds:.0f} s: ask for fewer tokens, or try again later", code="timeout")
    finally:
        for one in (task, leaving):
            if not one.done():
                one.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await one


async def _wait_until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


EVENTS_SCHEMA: Final = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "description": "one event",
            "properties": {"event": {"type": "string"}, "data": {"type": "string", "description": "JSON"}},
            "required": ["data"],
        }
    }
}
"""The `content` of a reply of server-sent events in an OpenAPI schema."""


class EventStream(Response):
    """A reply of server-sent events, which ends when its client leaves. `describe` makes the event of an error after the head is out."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes, None], first: bytes, describe: Callable[[ApiError], bytes], seconds: float, activity: Activity
    ) -> None:
        self.events = events
        self.first = first
        self.describe = describe
        self.seconds = seconds
        self.activity = activity
        self.status_code = 200
        self.background = None
        self.init_headers({"X-Accel-Buffering": "no"})  # a proxy would hold the tokens back

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""

        async def pump() -> None:
            await send({"type": "http.response.body", "body": self.first, "more_body": True})
            async for event in self.events:
                await send({"type": "http.response.body", "body": event, "more_body": True})

        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                await _finish(pump(), receive, self.seconds, self.activity)
            except Exception as error:
                problem = as_api_error(error)
                if problem.status_code == 499:
                    return
                await send({"type": "http.response.body", "body": self.describe(problem), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self.events.aclose()


async def open_stream(
    calls: Calls, request: Request, events: AsyncGenerator[bytes, None], describe: Callable[[ApiError], bytes]
) -> EventStream:
    """The reply that sends these events. Their first is awaited here, so an error before it still has its status."""
    try:
        first = await calls.finish(request, anext(events))
    except BaseException:
        await events.aclose()
        raise
    return EventStream(events, first, describe, calls.settings.request_seconds, calls.activity)
