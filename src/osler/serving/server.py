"""The uvicorn server of `osler serve`: it finishes what runs before it stops, and closes connections that ask nothing."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import uvicorn
from fastapi import FastAPI

from osler.serving.activity import Activity
from osler.serving.settings import ServerSettings

KEEP_ALIVE: Final = 75
"""Seconds that a connection stays open between two requests; clients that reuse it meet fewer closed ones than with uvicorn's 5."""

_HEAD_SECONDS: Final = 15.0  # for the head of a request
_CANCEL_SECONDS: Final = 5  # for requests that are given up to end

LOGGING: Final[dict[str, Any]] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
    "loggers": {
        name: {"handlers": ["stderr"], "level": level, "propagate": False}
        for name, level in (("uvicorn", "WARNING"), ("uvicorn.access", "INFO"), ("osler.serving", "INFO"))
    },
}
"""Lines on standard error: method, path and status of each request, and faults of the server. No body is in them."""


class Server(uvicorn.Server):
    """Serves an app of `create_app`. After a signal it answers new requests with 503 and stops when the others have ended.

    After a second one it ends those too: `on_abort` is called, which gives their clients an error. `drain_seconds` of the settings bounds
    the wait.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        log_config: dict[str, Any] | None = None,
        on_start: Callable[[], None] | None = None,
        on_abort: Callable[[], None] | None = None,
    ) -> None:
        settings: ServerSettings = app.state.settings
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http="h11",  # `_close_idle` reads its state
                log_config=log_config,
                access_log=log_config is not None,
                ws="none",
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=_CANCEL_SECONDS,
            )
        )
        self.activity: Activity = app.state.activity
        self.drain_seconds = settings.drain_seconds
        self.on_start = on_start  # called when the server listens
        self.on_abort = on_abort  # called in a thread of its own
        self._stops_at = float("inf")
        self._idle_since: dict[Any, float] = {}

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self.on_start is not None:
            self.on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a signal handler
        """Begin to stop; see the class."""
        if self.activity.is_draining:
            if self.on_abort is not None and not self.should_exit:
                threading.Thread(target=self.on_abort, name="osler-abort").start()
            self.should_exit = True
        elif number := self.activity.open_requests:
            # The lowest way to write: a signal may come in the middle of another one.
            os.write(2, f"finishing {number} requests, for up to {self.drain_seconds:.0f} s; Ctrl+C again ends them\n".encode())
        self.drain()

    def drain(self) -> None:
        """Refuse what comes and stop when what runs has ended."""
        self.activity.is_draining = True
        self._stops_at = min(self._stops_at, time.monotonic() + self.drain_seconds)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        self._close_idle()
        if self.activity.is_draining and (not self.activity.open_requests or time.monotonic() > self._stops_at):
            self.should_exit = True
        return await super().on_tick(counter)

    def _close_idle(self) -> None:
        """Close connections on which no whole head of a request arrives: uvicorn waits for it for ever."""
        now, before = time.monotonic(), self._idle_since
        connections: list[Any] = list(self.server_state.connections)
        idle = [one for one in connections if one.cycle is None or one.cycle.response_complete]
        self._idle_since = {one: before.get(one, now) for one in idle}
        for one, since in self._idle_since.items():
            if now - since > (_HEAD_SECONDS if one.cycle is None else KEEP_ALIVE + _HEAD_SECONDS):
                one.transport.close()
