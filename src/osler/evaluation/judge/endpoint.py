"""One request to an OpenAI-compatible endpoint: bounded in time and size, repeated where that may help, and without redirects.

Nothing is read from the environment: no key, no proxy, no .netrc.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from osler.errors import ConfigError, MissingExtra, first_line
from osler.files import read_text

if TYPE_CHECKING:
    from httpx2 import AsyncClient, Response

SEED: Final = 0
"""Sent with the temperature 0, so that servers which can repeat a reply do."""

MAX_REPLY_BYTES: Final = 1 << 20
MAX_KEY_BYTES: Final = 4_096
MAX_WAIT: Final = 60.0
"""Seconds of the longest pause before a request is repeated, whatever the server asks for."""

_REPEATED: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class RequestFailure(Exception):  # noqa: N818 - not an error of the user: it is counted
    """A request without a reply. `kind` is counted: "timeout", "connection", "redirect", "too_large", "unparsable", "http_429"."""

    def __init__(self, kind: str, detail: str = "", *, wait: float | None = None) -> None:
        super().__init__(detail or kind)
        self.kind = kind
        self.wait = wait  # seconds that the server asks for

    @property
    def is_repeated(self) -> bool:
        """Whether the same request may succeed later."""
        return self.kind in ("timeout", "connection") or self.kind in {f"http_{status}" for status in _REPEATED}

    @property
    def is_lasting(self) -> bool:
        """Whether every other request will fail too: a wrong address, key, model or setting."""
        return self.kind in ("connection", "redirect") or (self.kind.startswith("http_4") and not self.is_repeated)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the judge is, and how long and how often it is asked."""

    url: str  # "http://localhost:8000/v1/chat/completions", from `completions_url`
    model: str  # "Qwen/Qwen3-8B", as the server calls it
    key: str | None = field(default=None, repr=False)  # from `read_key`
    timeout: float = 60.0  # seconds for one request, from the connection to the last byte
    max_tokens: int = 512
    attempts: int = 5
    backoff: float = 1.0  # seconds before the second attempt, doubled for each further one

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise ConfigError("--model is empty: give the name under which the endpoint serves the judge")
        if not 0 < self.timeout <= 3600:
            raise ConfigError(f"--timeout {self.timeout:g}: give seconds above 0, at most 3600")
        if self.max_tokens < 1:
            raise ConfigError(f"--max-tokens {self.max_tokens}: give at least 1; 512 is enough for a judge that does not reason")

    @property
    def sends_key_openly(self) -> bool:
        """Whether a key goes through a network without encryption."""
        parts = urlsplit(self.url)
        return self.key is not None and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1")


def completions_url(base_url: str) -> str:
    """The address of the chat completions below a base URL: "http://host:8000" -> "http://host:8000/v1/chat/completions".

    A path is kept: "https://host/v1beta/openai" -> "..openai/chat/completions". Raises ConfigError for anything but http and https, and
    for a user name, a query or a fragment, which could hold a key.
    """
    try:
        parts = urlsplit(base_url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or not base_url.strip().isprintable() or " " in base_url.strip():
        raise ConfigError("--base-url is no web address: give one such as http://localhost:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigError(
            "--base-url holds a user name, a query or a fragment: give scheme, host and path, and the key with --api-key-file"
        )
    path = parts.path.rstrip("/") or "/v1"
    end = "" if path.endswith("/chat/completions") else "/chat/completions"
    return f"{parts.scheme}://{parts.netloc}{path}{end}"


def read_key(path: Path) -> str:
    """The key in a file: one line of printable ASCII without spaces. Raises ConfigError and DataError, which do not show it."""
    key = read_text(path, MAX_KEY_BYTES, "give a file that holds the key on one line").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{path} holds no key: write the key alone on one line, without quotation marks or a name before it")
    return key


def open_client(endpoint: Endpoint) -> AsyncClient:
    """A client that follows no redirect, so that a key goes to one host only. Raises MissingExtra without httpx2."""
    http = _library()
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    if endpoint.key is not None:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    client: AsyncClient = http.AsyncClient(headers=headers, timeout=endpoint.timeout, follow_redirects=False, trust_env=False)
    return client


def _library() -> ModuleType:
    try:
        import httpx2
    except ImportError:
        raise MissingExtra("httpx2", "judge") from None
    return httpx2


async def complete(client: AsyncClient, endpoint: Endpoint, messages: Sequence[Mapping[str, str]], *, is_first: bool = False) -> str:
    """The text of the reply. Raises RequestFailure when the last attempt failed, or a failure that another attempt cannot mend.

    The first request of a call does not wait for a server that cannot be reached: its address is probably wrong.
    """
    for attempt in range(1, endpoint.attempts + 1):
        try:
            return await _request(client, endpoint, messages)
        except RequestFailure as failure:
            if attempt == endpoint.attempts or not failure.is_repeated or (is_first and failure.is_lasting):
                raise
            pause = endpoint.backoff * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
            await asyncio.sleep(min(MAX_WAIT, pause if failure.wait is None else max(pause, failure.wait)))
    raise AssertionError("every attempt returns or raises")


async def _request(client: AsyncClient, endpoint: Endpoint, messages: Sequence[Mapping[str, str]]) -> str:
    http = _library()
    body = {"model": endpoint.model, "messages": list(messages), "temperature": 0, "seed": SEED, "max_tokens": endpoint.max_tokens}
    try:
        # The client's own timeout bounds the wait for each piece; a server that sends a byte now and then would never reach it.
        async with asyncio.timeout(endpoint.timeout), client.stream("POST", endpoint.url, json=body) as response:
            content = await _read_bounded(response)
    except (TimeoutError, http.TimeoutException):
        raise RequestFailure("timeout", f"no reply within {endpoint.timeout:g} s") from None
    except http.HTTPError as error:
        raise RequestFailure("connection", first_line(error)) from None
    if response.is_redirect:
        raise RequestFailure("redirect", "the server names another address")
    if response.status_code != 200:
        said = _message_of(content).replace(endpoint.key or "\0", "***")  # some servers repeat the key that they refuse
        raise RequestFailure(f"http_{response.status_code}", said, wait=_retry_after(response.headers.get("Retry-After")))
    return _text_of(content)


async def _read_bounded(response: Response) -> bytes:
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > MAX_REPLY_BYTES:
            raise RequestFailure("too_large", f"a reply above {MAX_REPLY_BYTES:,} bytes")
    return bytes(content)


def _text_of(content: bytes) -> str:
    """`choices[0].message.content`. A reply that was cut off at the length limit is no reply."""
    try:
        choice = json.loads(content)["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise RequestFailure("unparsable", "the reply is no chat completion") from None
    if not isinstance(text, str) or choice.get("finish_reason") == "length":
        raise RequestFailure("unparsable", "the reply has no text, or was cut off at --max-tokens")
    return text


def _message_of(content: bytes) -> str:
    """What the server says about a failure, on one printable line of at most 200 characters; "" where it says nothing."""
    try:
        value: Any = json.loads(content)
        found = value.get("error", value) if isinstance(value, dict) else ""
        text = found.get("message", "") if isinstance(found, dict) else found
    except (ValueError, RecursionError):
        text = ""
    return " ".join("".join(character if character.isprintable() else " " for character in str(text)[:200]).split())


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date (RFC 9110, 10.2.3); None for anything else."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
