"""A real server in a thread of its own, for real clients."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import httpx
from fastapi import FastAPI

from osler.serving.app import Part, create_app
from osler.serving.generation import Generator
from osler.serving.server import Server
from osler.serving.settings import ServerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveServer:
    """A running server; `server.drain()` asks it to stop."""

    url: str  # "http://127.0.0.1:41234"
    http: httpx.Client  # of this server
    app: FastAPI
    server: Server
    thread: threading.Thread


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serve(generator: Generator | None, parts: Sequence[Part] = (), settings: ServerSettings | None = None) -> Iterator[LiveServer]:
    """Serve on a free port of this machine until the end of the block."""
    app = create_app(replace(settings or ServerSettings(), port=free_port()), generator, parts)
    server = Server(app)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        with httpx.Client(base_url=app.state.settings.url, timeout=30, trust_env=False) as http:
            yield LiveServer(url=app.state.settings.url, http=http, app=app, server=server, thread=thread)
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive(), "the server did not stop"
