"""The app of a server: the gate, the errors' shape, and the routes of every part."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware

from osler import __version__
from osler.serving.activity import Activity
from osler.serving.answer import make_answer
from osler.serving.calls import Calls
from osler.serving.chat import make_chat
from osler.serving.errors import REFUSALS, add_error_handlers
from osler.serving.generation import Generator
from osler.serving.health import make_health
from osler.serving.limits import Gate
from osler.serving.log import AnswerLog
from osler.serving.page import OPEN_PATHS, make_page
from osler.serving.settings import DISCLAIMER, ServerSettings
from osler.serving.upload_routes import make_uploads
from osler.serving.uploads import Uploads


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some routes of a server."""

    router: APIRouter
    open_paths: tuple[str, ...] = ()  # that need no API key: a whole path, or a beginning that ends with "/": ("/", "/static/")
    life: AbstractContextManager[Any] | AbstractAsyncContextManager[Any] | None = None  # is open while the server runs


def create_app(settings: ServerSettings, generator: Generator | None, parts: Sequence[Part] = ()) -> FastAPI:
    """The app of a server: `parts` are served beside those of Osler; without a generator no route that asks the policy is there."""
    activity = Activity()
    own = [*_own_parts(settings, generator, activity), *parts]

    @asynccontextmanager
    async def live(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for part in own:
                if isinstance(part.life, AbstractContextManager):
                    stack.enter_context(part.life)
                elif part.life is not None:
                    await stack.enter_async_context(part.life)
            yield

    app = FastAPI(
        title="Osler", version=__version__, description=DISCLAIMER, lifespan=live, responses=dict(REFUSALS), docs_url=None, redoc_url=None
    )
    app.state.activity = activity
    app.state.settings = settings
    add_error_handlers(app)
    open_paths = tuple(path for part in own for path in part.open_paths)
    app.add_middleware(Gate, settings=settings, activity=activity, open_paths=open_paths)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "X-Osler-Level", "X-Osler-Position"],
        )
    for part in own:
        app.include_router(part.router)
    app.openapi = partial(_describe, app)  # type: ignore[method-assign]
    return app


def _describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI schema, without FastAPI's own status for wrong bodies, and with the key where one is asked for."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for operation in (operation for path in schema["paths"].values() for operation in path.values()):
            operation["responses"].pop("422", None)
        if app.state.settings.api_key is not None:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"key": []}]
        app.openapi_schema = schema
    return app.openapi_schema


def _own_parts(settings: ServerSettings, generator: Generator | None, activity: Activity) -> list[Part]:
    """The one list of the parts that every server has."""
    parts = [Part(router=make_health(generator, activity), open_paths=("/health",))]
    if generator is not None:
        log = None if settings.log_dir is None else AnswerLog(settings.log_dir)
        calls = Calls(generator, activity, settings)
        uploads = Uploads(study=settings.study)
        parts += [
            Part(router=make_chat(calls, log), life=None if log is None else closing(log)),
            Part(router=make_uploads(uploads), life=uploads.life()),
            Part(router=make_answer(calls, uploads, log)),
            Part(router=make_page(settings, generator, uploads), open_paths=OPEN_PATHS),
        ]
    return parts
