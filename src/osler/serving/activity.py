"""What the server is doing now: its open requests, whether it is stopping, and the figures of /metrics."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from osler.serving.generation import Generator

_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Activity:
    """The state of one server, with its metrics in a registry of their own. Everything happens in one event loop, so nothing is locked.

    No label of a metric holds what a client sent.
    """

    def __init__(self) -> None:
        self.is_draining = False  # finishes what runs, refuses what comes
        self.open_requests = 0  # that hold a place
        self.pending_bytes = 0  # of bodies in memory
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("osler_requests", "Replies by route and status.", ("route", "status"), registry=registry)
        self.seconds = Histogram(
            "osler_request_seconds", "From the head of a request to the end of its reply.", ("route",), buckets=_SECONDS, registry=registry
        )
        self.first_token = Histogram(
            "osler_first_token_seconds", "From the arrival of a prompt to its first token.", buckets=_SECONDS, registry=registry
        )
        self.tokens = Counter("osler_tokens", "Tokens: of prompts, of the images in them, of completions.", ("kind",), registry=registry)
        self.left = Counter("osler_clients_left", "Requests whose client left before the end.", registry=registry)
        Gauge("osler_open_requests", "Requests that hold a place.", registry=registry).set_function(lambda: self.open_requests)

    def watch(self, generator: Generator) -> None:
        """Show what waits for a policy and what it does."""
        for name, text, read in (
            ("osler_queued", "Requests that wait for the policy.", lambda: generator.load.queued),
            ("osler_running", "Requests that the policy continues.", lambda: generator.load.running),
        ):
            Gauge(name, text, registry=self.registry).set_function(read)
