"""Requests to an OpenAI-compatible endpoint: bounded in time and size, repeated where that may help, and without redirects.

The one place that sends requests: the engine `openai`, `osler ask --base-url` and the judge all ask here. Nothing but a key that the user
names is read from the environment: no proxy, no .netrc, no setting of `openai`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from osler.errors import ConfigError, MissingExtra
from osler.evaluation.replies import Reply, ReplyBuilder, RequestFailure, read_error, read_reply
from osler.files import read_text

if TYPE_CHECKING:
    from openai import APIError, APIStatusError, AsyncOpenAI

MAX_KEY_BYTES: Final = 4_096
MAX_WAIT: Final = 60.0
"""Seconds of the longest pause before a request is repeated, whatever the server asks for."""

PATH: Final = "/chat/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a model is served, and how long and how often it is asked."""

    url: str  # "http://localhost:8000/v1/chat/completions", from `completions_url`
    model: str  # "Qwen/Qwen2-VL-72B-Instruct", as the server calls it
    key: str | None = field(default=None, repr=False)  # from `read_key` or `key_in_environment`
    timeout: float = 60.0  # seconds for one request, from the connection to the last byte
    attempts: int = 5
    backoff: float = 1.0  # seconds before the second attempt, doubled for each further one
    max_reply_bytes: int = 1 << 20

    @property
    def host(self) -> str:
        """Where requests go: "gpu7.example.org:8000"."""
        return urlsplit(self.url).netloc

    def quote(self, said: str) -> str:
        """What the server said in one short line. Some servers repeat the key that they refuse: it is not in the line."""
        shown = said.replace(self.key or "\0", "***")[:200]  # before it is cut off
        return " ".join("".join(character if character.isprintable() else " " for character in shown).split())

    @property
    def is_local(self) -> bool:
        """Whether what is sent stays on this machine."""
        return urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")

    @property
    def sends_key_openly(self) -> bool:
        """Whether a key goes through a network without encryption."""
        return self.key is not None and urlsplit(self.url).scheme == "http" and not self.is_local


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A reply and what it took."""

    reply: Reply
    seconds: float  # of the attempt that succeeded
    first_text: float | None  # seconds until the first text of a stream; None for a whole reply
    attempts: int


def completions_url(base_url: str, option: str = "--base-url") -> str:
    """The address of the chat completions below a base URL: "http://host:8000" -> "http://host:8000/v1/chat/completions".

    A path is kept: "https://host/v1beta/openai" -> "..openai/chat/completions". Raises ConfigError, which names `option`, for anything but
    http and https, and for a user name, a query or a fragment, which could hold a key.
    """
    try:
        parts = urlsplit(base_url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or not base_url.strip().isprintable() or " " in base_url.strip():
        raise ConfigError(f"{option} is no web address: give one such as http://localhost:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigError(f"{option} holds a user name, a query or a fragment: give scheme, host and path, and the key in a file")
    path = parts.path.rstrip("/") or "/v1"
    end = "" if path.endswith(PATH) else PATH
    return f"{parts.scheme}://{parts.netloc}{path}{end}"


def read_key(path: Path) -> str:
    """The key in a file: one line of printable ASCII without spaces. Raises ConfigError and DataError, which do not show it."""
    key = read_text(path, MAX_KEY_BYTES, "give a file that holds the key on one line").strip()
    if not _is_key(key):
        raise ConfigError(f"{path} holds no key: write the key alone on one line, without quotation marks or a name before it")
    return key


def key_in_environment(name: str) -> str:
    """The key in an environment variable. Raises ConfigError, which does not show it."""
    key = os.environ.get(name, "").strip()
    if not _is_key(key):
        raise ConfigError(f"the environment variable {name} holds no key: set it, or give the key in a file")
    return key


def _is_key(text: str) -> bool:
    return bool(text) and len(text) <= MAX_KEY_BYTES and text.isascii() and text.isprintable() and " " not in text


def open_client(endpoint: Endpoint, *, extra: str = "endpoint", max_connections: int = 100) -> AsyncOpenAI:
    """A client that follows no redirect, so that a key goes to one host only. Raises MissingExtra, with `extra`, without openai."""
    try:
        import httpx2
        from openai import AsyncOpenAI
    except ImportError:
        raise MissingExtra("openai", extra) from None
    from osler.evaluation.transport import GuardedTransport

    limits = httpx2.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
    inner = httpx2.AsyncHTTPTransport(trust_env=False, limits=limits)
    transport = GuardedTransport(inner, key=endpoint.key, max_bytes=endpoint.max_reply_bytes)
    return AsyncOpenAI(
        api_key="set-by-the-transport",  # openai takes OPENAI_API_KEY otherwise, and refuses an empty key
        base_url=endpoint.url.removesuffix(PATH),
        max_retries=0,
        timeout=endpoint.timeout,
        http_client=httpx2.AsyncClient(transport=transport, timeout=endpoint.timeout, follow_redirects=False, trust_env=False),
    )


async def ask(
    client: AsyncOpenAI,
    endpoint: Endpoint,
    body: Mapping[str, Any],
    *,
    is_first: bool = False,
    on_text: Callable[[str], None] | None = None,
) -> Answered:
    """The reply to a request; `body` holds its fields but for the model. With `on_text` it is streamed, and text is passed on as it comes.

    Raises RequestFailure when the last attempt failed, for a failure that another attempt cannot mend, and for one after text was passed
    on. The first request of a call does not wait for a server that cannot be reached: its address is probably wrong.
    """
    for attempt in range(1, endpoint.attempts + 1):
        start = time.perf_counter()
        listener = None if on_text is None else _Listener(on_text=on_text, start=start)
        try:
            async with asyncio.timeout(endpoint.timeout):  # the client's own timeout bounds the wait for each piece, not for all of them
                reply = await (_ask_whole(client, endpoint, body) if listener is None else _ask_stream(client, endpoint, body, listener))
        except TimeoutError:
            failure = RequestFailure("timeout", f"no reply within {endpoint.timeout:g} s")
        except RequestFailure as error:
            failure = error
        else:
            seconds = time.perf_counter() - start
            return Answered(reply=reply, seconds=seconds, first_text=None if listener is None else listener.first_text, attempts=attempt)
        has_spoken = listener is not None and listener.first_text is not None
        if attempt == endpoint.attempts or not failure.is_repeated or has_spoken or (is_first and failure.is_lasting):
            raise failure
        pause = endpoint.backoff * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
        await asyncio.sleep(min(MAX_WAIT, pause if failure.wait is None else max(pause, failure.wait)))
    raise AssertionError("every attempt returns or raises")


@dataclass(slots=True, kw_only=True)
class _Listener:
    """Passes the text of a stream on, and keeps when it began."""

    on_text: Callable[[str], None]
    start: float
    first_text: float | None = None

    def take(self, text: str) -> None:
        if not text:
            return
        if self.first_text is None:
            self.first_text = time.perf_counter() - self.start
        self.on_text(text)


async def _ask_whole(client: AsyncOpenAI, endpoint: Endpoint, body: Mapping[str, Any]) -> Reply:
    with _Failures(endpoint):
        raw = await client.chat.completions.with_raw_response.create(**{**body, "model": endpoint.model})
        return read_reply(json.loads(raw.http_response.content))


async def _ask_stream(client: AsyncOpenAI, endpoint: Endpoint, body: Mapping[str, Any], listener: _Listener) -> Reply:
    builder = ReplyBuilder()
    streamed = {**body, "model": endpoint.model, "stream": True, "stream_options": {"include_usage": True}}
    with _Failures(endpoint):
        async with await client.chat.completions.create(**streamed) as stream:
            async for chunk in stream:
                # openai builds chunks without checking them: what the server sent as one may be a list or a text.
                listener.take(builder.add(chunk.model_dump(warnings=False) if hasattr(chunk, "model_dump") else chunk))
    return builder.finish()


class _Failures:
    """Raises what goes wrong with a request as a RequestFailure of one line that does not show the key."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if (failure := self._read(error)) is not None:
            raise RequestFailure(failure.kind, self._endpoint.quote(str(failure)), wait=failure.wait, code=failure.code) from None

    def _read(self, error: BaseException | None) -> RequestFailure | None:
        from openai import APIError

        from osler.evaluation.transport import ReplyTooLarge

        if isinstance(error, RequestFailure):
            return error
        if isinstance(error, APIError):
            return _read_api_error(error, self._endpoint)
        if isinstance(error, ReplyTooLarge):
            return RequestFailure("too_large", f"a reply above {self._endpoint.max_reply_bytes:,} bytes")
        if isinstance(error, (ValueError, RecursionError)):  # JSON that is none, also within a stream
            return RequestFailure("unparsable", "the reply is not JSON")
        return None


def _read_api_error(error: APIError, endpoint: Endpoint) -> RequestFailure:
    from httpx2 import ConnectError
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    if isinstance(error, APITimeoutError):
        return RequestFailure("timeout", f"no reply within {endpoint.timeout:g} s")
    if isinstance(error, APIConnectionError):
        kind = "connection" if isinstance(error.__cause__, ConnectError) else "cut"
        return RequestFailure(kind, str(error.__cause__ or error))
    if isinstance(error, APIStatusError):
        return _read_status(error)
    return read_error(error.body or error.message)  # in the middle of a stream


def _read_status(error: APIStatusError) -> RequestFailure:
    response = error.response
    if 300 <= response.status_code < 400:
        return RequestFailure("redirect", "the server names another address")
    try:
        value = json.loads(response.content)
    except (ValueError, RecursionError):  # the page of a proxy
        value = ""
    found = value.get("error", value) if isinstance(value, Mapping) else ""
    return read_error(found, response.status_code, wait=_retry_after(response.headers.get("Retry-After")))


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date (RFC 9110, 10.2.3); None for anything else."""
    if value is None:
        return None
    if (seconds := value.strip()).isascii() and seconds.isdigit():
        return float(seconds[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def run_now(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, in a thread of its own where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with ThreadPoolExecutor(max_workers=1) as pool:
        pool.submit(asyncio.run, work).result()


def describe_counts(counts: Mapping[str, int]) -> str:
    """ "timeout 3, http_500 1", the most frequent first; "none" without any."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))) or "none"
