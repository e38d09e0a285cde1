"""The page at `/`: its files, served as they lie in the package, and what it needs to know of the server.

The page is plain HTML, CSS and ES modules. It loads nothing from anywhere else, and its Content-Security-Policy forbids it to.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Response
from pydantic import BaseModel

from osler import __version__
from osler.prompts import STRATEGIES, Format
from osler.serving.answer_types import MAX_CHOICES
from osler.serving.errors import ApiError
from osler.serving.generation import Generator
from osler.serving.settings import DISCLAIMER, ServerSettings
from osler.serving.uploads import Uploads

OPEN_PATHS: Final = ("/", "/static/")
"""Paths that need no API key: they hold nothing of anybody."""

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of the page: no script or style but its own files, no other host."""

_HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_NAME: Final = re.compile(r"[a-z_]+\.(?:css|js|svg)")


class StrategyReply(BaseModel):
    """A way to ask."""

    name: str
    format: Format
    takes_open_questions: bool
    takes_context: bool


class StudyDefaults(BaseModel):
    """What a prompt shows of a study unless a request says otherwise."""

    slices: int
    choice: str
    layout: str
    window: str | None


class AboutReply(BaseModel):
    """What the page needs to know of the server."""

    version: str
    policy: str | None
    fingerprint: str | None
    strategies: list[StrategyReply]
    study: StudyDefaults
    max_choices: int
    max_votes: int
    max_tokens: int
    max_bytes: int  # of one request
    keeps_answers: bool  # whether questions and answers are written to a file, without images
    disclaimer: str


def make_page(settings: ServerSettings, generator: Generator | None, uploads: Uploads) -> APIRouter:
    """The routes of the page."""
    router = APIRouter(tags=["page"])

    @router.get("/", response_class=Response, include_in_schema=False)
    def page() -> Response:
        return _serve("index.html")

    @router.get("/static/{name}", response_class=Response, include_in_schema=False)
    def static(name: str) -> Response:
        if not _NAME.fullmatch(name) or name not in list_files():
            raise ApiError(404, "there is no such file: open the page at /")
        return _serve(name)

    @router.get("/v1/about")
    def about() -> AboutReply:
        """What the page needs to know of the server."""
        study = uploads.study
        return AboutReply(
            version=__version__,
            policy=None if generator is None else generator.policy_name,
            fingerprint=None if generator is None else generator.policy_fingerprint,
            strategies=[
                StrategyReply(
                    name=strategy.name,
                    format=strategy.format,
                    takes_open_questions=strategy.open_template is not None,
                    takes_context=strategy.context_layout is not None,
                )
                for strategy in (STRATEGIES.find(name) for name in STRATEGIES)
            ],
            study=StudyDefaults(slices=study.slices, choice=study.choice, layout=study.layout, window=study.window),
            max_choices=MAX_CHOICES,
            max_votes=settings.max_generations,
            max_tokens=settings.max_tokens,
            max_bytes=settings.max_body_bytes,
            keeps_answers=settings.log_dir is not None,
            disclaimer=DISCLAIMER,
        )

    return router


@cache
def list_files() -> frozenset[str]:
    """The names of the files of the page."""
    return frozenset(file.name for file in files("osler.serving").joinpath("static").iterdir() if file.is_file())


@cache
def _read(name: str) -> bytes:
    return files("osler.serving").joinpath("static", name).read_bytes()


def _serve(name: str) -> Response:
    return Response(_read(name), media_type=_TYPES[name[name.rindex(".") :]], headers=_HEADERS)
