"""GET /health and /metrics."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from osler import __version__
from osler.serving.activity import Activity
from osler.serving.generation import Generator


class Health(BaseModel):
    """The state of the server."""

    status: Literal["ok", "draining"]
    policy: str | None
    running: int
    queued: int
    version: str


def make_health(generator: Generator | None, activity: Activity) -> APIRouter:
    """The routes that operators watch."""
    router = APIRouter(tags=["health"])
    if generator is not None:
        activity.watch(generator)

    @router.get("/health")
    async def health() -> Health:
        """Whether the server answers: "draining" while it finishes what runs before it stops."""
        return Health(
            status="draining" if activity.is_draining else "ok",
            policy=None if generator is None else generator.policy_name,
            running=0 if generator is None else generator.load.running,
            queued=0 if generator is None else generator.load.queued,
            version=__version__,
        )

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """The figures of the server as Prometheus reads them."""
        return Response(generate_latest(activity.registry), media_type=CONTENT_TYPE_LATEST)

    return router
