"""Errors of the HTTP API in OpenAI's shape: {"error": {"message", "type", "param", "code"}}, one line that names the remedy.

Routes raise `ApiError`, or what they meet: an OslerError is the request's fault (400), `QueueFull` is 429, `Draining` 503. No error repeats
an image or a question.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from osler.errors import DataError, OslerError
from osler.evaluation.question import QuestionError, reword
from osler.serving.generation import Draining, GenerationFailed, QueueFull

log = logging.getLogger("osler.serving")

DRAIN_RETRY: Final = 10
"""Seconds after which a client may ask a server that is stopping, or the one that takes its place."""

_MAX_MESSAGE: Final = 500
_MAX_PARAM: Final = 100
_TYPE_NAMES: Final = frozenset({"str", "int", "float", "bool", "list", "dict", "none"})
_TYPES: Final = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """The body of every reply with a status of 400 or more."""

    error: ErrorBody


class ApiError(HTTPException):
    """A request that cannot be answered: the status, and what the body says."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, detail=" ".join(message.split())[:_MAX_MESSAGE], headers=dict(headers or {}))
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        status = self.status_code
        kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The reply."""
        return JSONResponse(self.body(), status_code=self.status_code, headers=self.headers)


def as_api_error(error: Exception) -> ApiError:
    """The reply to an exception. One that is not expected is a fault of the server: it is logged, and the client learns its type only."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFull):
        return ApiError(429, str(error), code="queue_full", headers={"Retry-After": str(max(1, round(error.retry_after)))})
    if isinstance(error, Draining):
        return ApiError(503, "the server is stopping: try again", code="draining", headers={"Retry-After": str(DRAIN_RETRY)})
    if isinstance(error, GenerationFailed):
        return ApiError(500, str(error), code="internal_error")
    if isinstance(error, OslerError):
        part = error.part if isinstance(error, QuestionError) else None
        code = DataError.__name__ if part is not None else type(error).__name__
        return ApiError(400, reword(str(error)), param=part, code=code)
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, f"{str(error.detail).lower()}: see /openapi.json for the routes", headers=error.headers)
    # Without its message, which may hold what a client sent.
    log.error("a request failed: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
    return ApiError(500, f"the server failed ({type(error).__name__}): its log says more", code="internal_error")


def as_bad_request(error: RequestValidationError) -> ApiError:
    """The first fault of a body or a query in one line; `param` is the path of the value: "messages.0.content"."""
    fault = max(
        error.errors(), key=lambda one: (len(one["loc"]), not one["type"].endswith("_type"))
    )  # of a union, the member that fits best
    where = _path_of(fault["loc"][1:])[:_MAX_PARAM] or None  # a key that is not known is as long as its client likes
    if fault["type"] == "model_attributes_type" and where is None:
        return ApiError(400, "the body is no JSON object: send one such as {..}", code=fault["type"])
    message = fault["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{where}: {message}" if where else message, param=where, code=fault["type"])


def _path_of(location: Sequence[int | str]) -> str:
    """Pydantic's location without the members and tags of unions: "messages.0.content.0.image_url.url"."""
    parts: list[str] = []
    for part in map(str, location):
        if part.replace("_", "").isalnum() and part not in _TYPE_NAMES and not (parts and part == parts[-1] and not part.isdigit()):
            parts.append(part)
    return ".".join(parts)


def add_error_handlers(app: FastAPI) -> None:
    """Give every error that routes expect its shape; the gate does so with the others."""

    async def answer(_: Request, error: Exception) -> JSONResponse:
        return as_api_error(error).response()

    async def refuse(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return as_bad_request(error).response()

    for kind in (HTTPException, OslerError, QueueFull, Draining, GenerationFailed):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(RequestValidationError, refuse)


REFUSALS: Final[Mapping[int | str, dict[str, Any]]] = {
    status: {"model": ErrorReply, "description": text}
    for status, text in (
        (400, "The request is wrong: the message says what to change."),
        (401, "The API key is missing or wrong."),
        (403, "The request comes from a page of another site, or under another host name."),
        (404, "There is no such thing."),
        (408, "The body did not arrive in time."),
        (413, "The body is too large."),
        (415, "The body is not of the content type of the route."),
        (429, "Too many requests at a time: Retry-After says when to try again."),
        (503, "The server is stopping."),
        (504, "The answer took too long."),
    )
}
"""The replies of every route in the OpenAPI schema."""
