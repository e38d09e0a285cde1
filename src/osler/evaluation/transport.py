"""The HTTP transport below requests to an endpoint: it bounds what comes back, and sends nothing that the program did not ask for.

`openai` adds headers of its own: the organisation, the project and any `OPENAI_CUSTOM_HEADERS` of the environment, and what machine this
is. Here only the few that a request needs go out, and the key is the one that the caller gave, or none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import httpx2

_SENT: Final = ("host", "connection", "content-length", "content-type", "transfer-encoding")
AGENT: Final = "osler"


class ReplyTooLarge(Exception):  # noqa: N818 - counted as a failed request
    """A reply has more bytes than are read."""


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Sends requests over `inner` with fixed headers, and stops reading a reply after `max_bytes`."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, *, key: str | None, max_bytes: int) -> None:
        self._inner = inner
        self._key = key
        self._max_bytes = max_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The reply, which raises ReplyTooLarge while it is read beyond the limit."""
        headers = {name: value for name, value in request.headers.items() if name.lower() in _SENT}
        headers |= {"Accept": "application/json, text/event-stream", "Accept-Encoding": "identity", "User-Agent": AGENT}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        # A request of its own, because openai looks into the headers of the one that it made when it reads the reply.
        sent = httpx2.Request(request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions)
        response = await self._inner.handle_async_request(sent)
        response.headers.pop("content-encoding", None)  # was not asked for, and a small reply could unpack to a huge one
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _BoundedStream(response.stream, self._max_bytes)
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, max_bytes: int) -> None:
        self._inner = inner
        self._max_bytes = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._max_bytes
        async for piece in self._inner:
            left -= len(piece)
            if left < 0:
                raise ReplyTooLarge
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()
