"""The routes of a reader study: /study/TOKEN is the page of one reader.

No reply holds a right answer, a fact, the name of a file or of a question: a case is known by its place in the reader's order. Only the
case that is open can be seen, so that there is no way back and none ahead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field

from osler.serving.app import Part
from osler.serving.errors import ApiError
from osler.serving.readers.pictures import Pictures
from osler.serving.readers.session import Answer, Sessions

MAX_ANSWER: Final = 500
MAX_COMMENT: Final = 2000
MAX_SECONDS: Final = 7 * 86400.0

_STATIC: Final = Path(__file__).parents[1] / "static" / "study"
_ASSETS: Final = {"study.css": "text/css", "study.js": "text/javascript"}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "Cache-Control": "no-store",
    "X-Robots-Tag": "noindex",
}
"""Of every reply."""

Position = Annotated[int, Field(ge=0, le=10**6, strict=True)]


class AnswerBody(BaseModel):
    """An answer, and how long its case was visible."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    position: Position
    answer: str = Field(min_length=1, max_length=MAX_ANSWER, strict=True)
    comment: str = Field(default="", max_length=MAX_COMMENT, strict=True)
    seconds: float = Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False, strict=True)


def study_part(sessions: Sessions) -> Part:
    """The routes of a study; the token of a reader is the key, so they need no other."""
    router = APIRouter(prefix="/study", tags=["study"])
    pictures = Pictures(sessions.study)

    @router.get("/assets/{name}", response_class=Response)
    def asset(name: str) -> Response:
        """The script and the style of the page."""
        if name not in _ASSETS:
            raise ApiError(404, "there is no such file")
        return Response((_STATIC / name).read_bytes(), media_type=_ASSETS[name], headers=_HEADERS)

    @router.get("/{token}", response_class=HTMLResponse)
    def page(token: str) -> Response:
        """The page of a reader: the same for all; its script asks for the rest."""
        try:
            sessions.find(token)
        except ApiError as error:
            return HTMLResponse(_REFUSAL.format(message=error.detail), status_code=404, headers=_HEADERS)
        return HTMLResponse((_STATIC / "study.html").read_text(encoding="utf-8"), headers=_HEADERS)

    @router.get("/{token}/state")
    def state(token: str, response: Response) -> dict[str, Any]:
        """Where the reader stands."""
        response.headers.update(_HEADERS)
        return sessions.state(token)

    @router.post("/{token}/case")
    def case(token: str, response: Response) -> dict[str, Any]:
        """The open case, with the number of its pictures."""
        response.headers.update(_HEADERS)
        shown = sessions.open_case(token)
        step = sessions.case_of(token, shown["position"])
        return {**shown, "pictures": len(pictures.of(step))}

    @router.get("/{token}/pictures/{position}/{number}.png", response_class=Response)
    def picture(token: str, position: int, number: int) -> Response:
        """A picture of the open case."""
        shown = pictures.of(sessions.case_of(token, position))
        if not 0 <= number < len(shown):
            raise ApiError(404, "there is no such picture")
        return Response(shown[number], media_type="image/png", headers=_HEADERS)

    @router.post("/{token}/answers")
    def answer(token: str, body: AnswerBody, response: Response) -> dict[str, Any]:
        """Save an answer; the reply says where the reader stands then."""
        response.headers.update(_HEADERS)
        given = Answer(position=body.position, answer=body.answer, comment=body.comment, seconds=body.seconds)
        return sessions.answer(token, given)

    return Part(router=router, open_paths=("/study/",))


_REFUSAL: Final = (
    '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    "<title>Reader study</title></head><body><main><h1>Reader study</h1><p>{message}.</p></main></body></html>"
)
