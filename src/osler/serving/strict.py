"""JSON bodies as they are: no NaN, no text for a number, no unknown key; whatever is wrong is one 400 that names the parameter."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, model_validator
from starlette.concurrency import run_in_threadpool

from osler.serving.errors import ApiError

_SMALL: Final = 1 << 16
"""Bytes of a body that are parsed in the event loop; a larger one would hold it up."""

_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


_MAX_VALUES: Final = 250_000
"""Values of a body. A value takes up to a hundred bytes of memory, whose text may have three."""

_MAX_KEYS: Final = 200
"""Keys of an object; each wrong one takes time to refuse."""


class StrictModel(BaseModel):
    """A part of a body. The values have their types already: true, "5", NaN and Infinity are no numbers."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _bound(cls, body: Any) -> Any:
        if isinstance(body, dict) and len(body) > _MAX_KEYS:
            raise ApiError(400, f"an object has more than {_MAX_KEYS} keys: send those that are documented", code="json_invalid")
        return body


class StrictRoute(APIRoute):
    """A route whose JSON body is read by `parse_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See FastAPI."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            body = await self.body()
            self._json = parse_json(body) if len(body) <= _SMALL else await run_in_threadpool(parse_json, body)
        return self._json


def parse_json(body: bytes) -> Any:
    """The value of a JSON body. Raises ApiError (400) for what is not JSON, NaN and Infinity included, and for half a surrogate pair."""
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > _MAX_VALUES:
        raise ApiError(400, f"the body has more than {_MAX_VALUES:,} values: send less", code="json_invalid")
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
        if _SURROGATE.search(body):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ApiError(400, "the JSON is nested too deeply: send a flat body", code="json_invalid") from None
    except UnicodeEncodeError:
        raise ApiError(400, "a text holds half a surrogate pair: send whole characters", code="json_invalid") from None
    except ValueError as error:
        # Its words may repeat the body.
        where = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise ApiError(400, f"the body is not JSON in UTF-8{where}: check it", code="json_invalid") from None
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ApiError(400, f"{name} is not JSON: send a number or null", code="json_invalid")
