"""How the server listens and what it admits. The command line fills it; every bound of a request stands here."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from osler.config import StudyConfig
from osler.errors import ConfigError

MiB: Final = 1024**2
DISCLAIMER: Final = "Research tool, not for clinical use."
LOCAL_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""The Host headers of a server that only this machine reaches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The settings of a server. Raises ConfigError for an address of other machines without a key, and for a key that cannot be sent."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = field(default=None, repr=False)  # None: no key is asked for
    allowed_hosts: tuple[str, ...] = ()  # names of this server beside LOCAL_NAMES: ("gpu7.example.org",)
    cors_origins: tuple[str, ...] = ()  # origins whose pages may call the server: ("https://chat.example.org",)
    log_dir: Path | None = None  # None: nothing is stored
    max_body_bytes: int = 64 * MiB  # of one request, images included
    max_pending_bytes: int = 512 * MiB  # of all bodies that are held at a time
    max_requests: int = 256  # that are answered at a time, waiting ones included
    body_seconds: float = 30.0  # for the body to arrive, and one second more for every 128 KiB of it
    request_seconds: float = 600.0  # for an answer, the time in the queue included
    drain_seconds: float = 600.0  # for what runs when the server is asked to stop
    max_images: int = 64  # of one request
    max_pixels: int = 64_000_000  # of all images of one request
    max_text: int = 65_536  # characters of a chat; the command line makes it 32 for each token of the context
    max_tokens: int = 4096  # that a request may ask for
    default_tokens: int = 1024  # where a chat request names no number
    max_generations: int = 16  # `n`, and the votes of an answer
    study: StudyConfig = field(default_factory=StudyConfig)  # what a prompt shows of a study where a request does not say it

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if self.api_key is not None and not (8 <= len(self.api_key) <= 1024 and self.api_key.isascii() and self.api_key.isprintable()):
            raise ConfigError("the API key must have 8 to 1024 printable ASCII characters: make another, such as `openssl rand -hex 16`")
        if self.api_key is None and not self.is_local:
            raise ConfigError(f"{self.host} is reached from other machines: give --api-key-file, or listen on 127.0.0.1")

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def hosts(self) -> frozenset[str] | None:
        """The names that a Host header may hold, in lower case and without a port; None for every name.

        A page of another site can make a browser call 127.0.0.1 under a name of its own (DNS rebinding), and a local server has no key.
        """
        if not self.is_local and not self.allowed_hosts:
            return None
        own = f"[{self.host}]" if ":" in self.host else self.host
        return LOCAL_NAMES | {own.lower(), *(name.lower() for name in self.allowed_hosts)}

    @property
    def url(self) -> str:
        """The address of the server: "http://127.0.0.1:8000"."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
