"""The gate before every route: host, origin, key, content type, and the size and speed of a body. One ASGI middleware.

It reads the whole body, so a route never waits for a slow client, and a body holds no place of the policy before it is complete.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from osler.serving.activity import Activity
from osler.serving.errors import ApiError, as_api_error
from osler.serving.generation import Draining, QueueFull
from osler.serving.settings import ServerSettings

WATCHED: Final = ("/health", "/metrics")
"""Routes that answer while the server is full or stops."""

_BYTES_PER_SECOND: Final = 128 * 1024  # of a body, after `body_seconds`
_DISCARDED: Final = 256 * 1024**2  # bytes of a refused body that are read, because a client sees the reply only after it has sent its body
_DISCARD_SECONDS: Final = 10.0
_CHANGING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_CONTENT_TYPES: Final = ("application/json", "multipart/form-data")


@dataclass(slots=True, kw_only=True)
class _Exchange:
    """One request and its reply."""

    scope: Scope
    receive: Receive
    send: Send
    headers: Headers
    status: int = 500
    has_begun: bool = False  # whether the head of the reply is out
    held: int = 0  # bytes of the body that count as pending
    is_received: bool = False  # whether the whole body has arrived


class _TooSlow(ApiError):  # noqa: N818 - a reply
    def __init__(self) -> None:
        super().__init__(408, "the body did not arrive in time: send it faster, or less of it", headers={"Connection": "close"})


class Gate:
    """Refuses what must not reach a route, and counts what passes.

    `open_paths` need no key: whole paths, and beginnings that end with "/". They must not show anything of value.
    """

    def __init__(self, app: ASGIApp, *, settings: ServerSettings, activity: Activity, open_paths: tuple[str, ...] = ()) -> None:
        self.app = app
        self.settings = settings
        self.activity = activity
        self.open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope=scope, receive=receive, send=send, headers=Headers(scope=scope))
        start = time.perf_counter()
        try:
            await self._serve(exchange)
        finally:
            self.activity.pending_bytes -= exchange.held
            route = getattr(scope.get("route"), "path", "other")
            self.activity.requests.labels(route, exchange.status).inc()
            self.activity.seconds.labels(route).observe(time.perf_counter() - start)

    async def _serve(self, exchange: _Exchange) -> None:
        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status, exchange.has_begun = message["status"], True
                headers = MutableHeaders(raw=message["headers"])
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Cache-Control", "no-store")
                message["headers"] = headers.raw
            await exchange.send(message)

        try:
            self._check(exchange)
            body = await self._read_body(exchange)
            self._check_place(exchange.scope["path"])
        except (ApiError, QueueFull, Draining) as error:
            if not (exchange.is_received or isinstance(error, _TooSlow)):
                await _discard(exchange)
            await as_api_error(error).response()(exchange.scope, exchange.receive, send)
            return
        except ConnectionError:  # the client left before its body was complete
            self.activity.left.inc()
            exchange.status = 499
            return
        is_counted = exchange.scope["path"] not in WATCHED
        self.activity.open_requests += is_counted
        try:
            await self.app(exchange.scope, _replay(body, exchange.receive), send)
        except Exception as error:
            problem = as_api_error(error)
            if exchange.has_begun:
                raise RuntimeError("a reply broke off") from None  # the server closes the connection
            await problem.response()(exchange.scope, exchange.receive, send)
        finally:
            self.activity.open_requests -= is_counted

    def _check(self, exchange: _Exchange) -> None:
        """Everything that the head of a request tells. Raises ApiError, QueueFull and Draining."""
        headers, path, method = exchange.headers, exchange.scope["path"], exchange.scope["method"]
        check_host(headers.get("host", ""), self.settings)
        check_origin(headers, self.settings)
        if not self._is_open(path):
            check_key(headers, self.settings.api_key)
        self._check_place(path)
        if method in _CHANGING:
            check_content_type(headers)
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdecimal() or len(length) > 15 or int(length) > self.settings.max_body_bytes:
            raise _too_large(self.settings)

    def _check_place(self, path: str) -> None:
        """Raises QueueFull and Draining. A request holds a place once its body is there."""
        if path in WATCHED:
            return
        if self.activity.is_draining:
            raise Draining
        if self.activity.open_requests >= self.settings.max_requests:
            raise QueueFull(retry_after=1)

    def _is_open(self, path: str) -> bool:
        return any(path.startswith(known) if known.endswith("/") and known != "/" else path == known for known in self.open_paths)

    async def _read_body(self, exchange: _Exchange) -> bytes:
        """The whole body. Raises ApiError for one that is too large or too slow, QueueFull, and ConnectionError where the client leaves."""
        chunks: list[bytes] = []
        start, total, is_more = time.monotonic(), 0, True
        while is_more:
            left = start + self.settings.body_seconds + total / _BYTES_PER_SECOND - time.monotonic()
            try:
                message = await asyncio.wait_for(exchange.receive(), max(left, 0))
            except TimeoutError:
                raise _TooSlow from None
            if message["type"] == "http.disconnect":
                raise ConnectionError
            chunk = message.get("body", b"")
            is_more = message.get("more_body", False)
            exchange.is_received = not is_more
            total += len(chunk)
            if total > self.settings.max_body_bytes:
                raise _too_large(self.settings)
            if self.activity.pending_bytes + len(chunk) > self.settings.max_pending_bytes:
                raise QueueFull(retry_after=5)
            exchange.held += len(chunk)
            self.activity.pending_bytes += len(chunk)
            chunks.append(chunk)
        return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, and then what the server says."""
    rest = [body]

    async def replayed() -> Message:
        if rest:
            return {"type": "http.request", "body": rest.pop(), "more_body": False}
        return await receive()

    return replayed


async def _discard(exchange: _Exchange) -> None:
    """Read on for a while: a reply to a client that is still sending is lost with the connection."""
    if exchange.headers.get("expect", "").lower() == "100-continue" and not exchange.held:
        return  # it waits for leave to send
    left = _DISCARDED

    async def read() -> None:
        nonlocal left
        while left > 0:
            message = await exchange.receive()
            left -= len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return

    try:
        await asyncio.wait_for(read(), _DISCARD_SECONDS)
    except TimeoutError:
        return


def _too_large(settings: ServerSettings) -> ApiError:
    return ApiError(413, f"the body has more than {settings.max_body_bytes // 1024**2} MiB: send less", code="body_too_large")


def check_host(host: str, settings: ServerSettings) -> None:
    """Raise ApiError (403) for a Host header that does not name this server."""
    name = host.lower()
    if not name.endswith("]"):
        name = name.rpartition(":")[0] if ":" in name else name
    if (known := settings.hosts) is not None and name not in known:
        raise ApiError(403, "the Host header names another server: call it as 127.0.0.1 or localhost, or start it with --allow-host NAME")


def check_origin(headers: Mapping[str, str], settings: ServerSettings) -> None:
    """Raise ApiError (403) for a request that a page of another site makes a browser send."""
    origin = headers.get("origin")
    if origin is None or origin in settings.cors_origins or "*" in settings.cors_origins:
        return
    if origin.rpartition("://")[2].lower() != headers.get("host", "").lower():
        raise ApiError(403, "a page of another site calls this server: start it with --cors-origin and the address of that page")


def check_key(headers: Mapping[str, str], key: str | None) -> None:
    """Raise ApiError (401) without the key in "Authorization: Bearer KEY"."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if key is not None and not (scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode())):
        raise ApiError(
            401,
            "the API key is missing or wrong: send it as Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


def check_content_type(headers: Mapping[str, str]) -> None:
    """Raise ApiError (415) for a body of a type that a page of another site may send without asking."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    if has_body and kind not in _CONTENT_TYPES:
        raise ApiError(415, f"the content type is {kind[:100]!r}: send {' or '.join(_CONTENT_TYPES)}")
