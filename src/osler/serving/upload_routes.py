"""The routes of uploads: send images, look at their slices, and at the pictures that a prompt shows of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from osler.config import MAX_SHOWN_SLICES, Layout
from osler.errors import DataError
from osler.evaluation.looks import Look, alter
from osler.serving.errors import ApiError
from osler.serving.examples import ExampleName, ExampleReply, make_example
from osler.serving.received_files import ReceivedFile
from osler.serving.study_settings import StudySettings
from osler.serving.upload_replies import (
    ImageReply,
    ShownReply,
    UploadReply,
    describe_image,
    describe_shown,
    describe_upload,
    level_of,
    pick,
)
from osler.serving.uploads import Uploads
from osler.taxonomy import Plane

if TYPE_CHECKING:
    from PIL.Image import Image

_THREADS: Final = 4
"""Images that are decoded at a time: a decoded picture may take 192 MB."""

_FORM: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                    "required": ["files"],
                }
            }
        },
    }
}
_PNG: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"image/png": {}}, "description": "The picture."}}

T = TypeVar("T")
Id = Annotated[str, Path(max_length=64, description="The name of an upload.")]
Place = Annotated[int, Path(ge=0, lt=100_000)]
WindowQuery = Annotated[str | None, Query(max_length=100, description='"file", "auto", "lung", "40/400", "-160..240"')]

NumbersQuery = Annotated[str | None, Query(max_length=2000, pattern=r"^[1-9]\d{0,4}(,[1-9]\d{0,4})*$", description='"4,6,10", from 1')]
SlicesQuery = Annotated[str | None, Query(max_length=2000, pattern=r"^\d{1,5}(,\d{1,5})*$", description='"3,5,9", from 0')]


def read_settings(
    slices: Annotated[int | None, Query(ge=1, le=MAX_SHOWN_SLICES)] = None,
    choice: Literal["even", "information"] | None = None,
    slice_numbers: NumbersQuery = None,
    indices: SlicesQuery = None,
    window: WindowQuery = None,
    plane: Plane | None = None,
    layout: Layout | None = None,
) -> StudySettings:
    """The settings of a query; `slice_numbers` count from 1, the older `indices` from 0."""
    numbers, exact = (None if text is None else tuple(dict.fromkeys(map(int, text.split(",")))) for text in (slice_numbers, indices))
    try:
        return StudySettings(slices=slices, choice=choice, slice_numbers=numbers, indices=exact, window=window, plane=plane, layout=layout)
    except ValidationError as error:  # more slices than a prompt takes
        raise RequestValidationError([{**fault, "loc": ("query", *fault["loc"])} for fault in error.errors()]) from None


Asked = Annotated[StudySettings, Depends(read_settings)]


def make_uploads(uploads: Uploads) -> APIRouter:
    """The routes below /v1/uploads."""
    router = APIRouter(prefix="/v1/uploads", tags=["uploads"])
    limiter = CapacityLimiter(_THREADS)

    async def work(function: Callable[[], T]) -> T:
        return await to_thread.run_sync(function, limiter=limiter)

    @router.post("", openapi_extra=_FORM)
    async def send(request: Request) -> UploadReply:
        """Send images: pictures, DICOM files, volumes, or the files of a folder, whose names are relative paths."""
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise ApiError(415, "send the files as multipart/form-data, in fields named files")
        async with request.form(max_files=uploads.limits.max_files, max_fields=0) as form:
            files = [
                ReceivedFile(name=item.filename or "", stream=item.file)
                for name, item in form.multi_items()
                if name == "files" and isinstance(item, UploadFile)
            ]
            if not files:
                raise DataError('the upload holds no file: send at least one in a field named "files"')
            return await work(lambda: describe_upload(uploads.add(files), uploads))

    @router.post("/example")
    async def example(name: ExampleName = "picture") -> ExampleReply:
        """Keep a drawn example as an upload, with a question about it whose answer is known."""
        return await work(lambda: make_example(uploads, name))

    @router.get("/{upload_id}")
    async def tell(upload_id: Id) -> UploadReply:
        """What an upload holds."""
        return await work(lambda: describe_upload(uploads.find(upload_id), uploads))

    @router.delete("/{upload_id}", status_code=204)
    async def remove(upload_id: Id) -> None:
        """Remove an upload with its files."""
        await work(lambda: uploads.remove(upload_id))

    @router.get("/{upload_id}/{index}")
    async def tell_image(upload_id: Id, index: Place, plane: Plane | None = None) -> ImageReply:
        """One image, also in another plane."""
        return await work(lambda: describe_image(uploads.find(upload_id), uploads, index, plane))

    @router.get("/{upload_id}/{index}/slices/{number}.png", response_class=Response, responses=_PNG)
    async def show_slice(upload_id: Id, index: Place, number: Place, window: WindowQuery = None, plane: Plane | None = None) -> Response:
        """A slice as every reader of Osler renders it, before it is reduced for a prompt.

        The header X-Osler-Level has centre and width of the window: "40/400"; X-Osler-Position the place along the normal in millimetres.
        """
        return await work(partial(_render_slice, uploads, upload_id, index, number, window, plane))

    add_shown(router, uploads, work)
    return router


def add_shown(router: APIRouter, uploads: Uploads, work: Callable[..., Any]) -> None:
    """The routes that show what a prompt shows."""

    @router.get("/{upload_id}/{index}/shown")
    async def shown(upload_id: Id, index: Place, asked: Asked) -> ShownReply:
        """Which slices of an image a prompt shows by these settings, and how large."""
        reply: ShownReply = await work(lambda: _describe(uploads, upload_id, index, asked))
        return reply

    @router.get("/{upload_id}/{index}/shown/{number}.png", response_class=Response, responses=_PNG)
    async def show_picture(upload_id: Id, index: Place, number: Place, asked: Asked, look: Look | None = None) -> Response:
        """A picture of a prompt exactly as it goes to the image processor of the policy; with `look` what stands in its place."""
        reply: Response = await work(lambda: _render_shown(uploads, upload_id, index, number, asked, look))
        return reply


def _describe(uploads: Uploads, upload_id: str, index: int, asked: StudySettings) -> ShownReply:
    upload = uploads.find(upload_id)
    shown = upload.show(index, asked.to_config(uploads.study), asked.exact)
    with upload.naming():
        return describe_shown(shown, upload.hidden(index, shown))


def _render_shown(uploads: Uploads, upload_id: str, index: int, number: int, asked: StudySettings, look: Look | None) -> Response:
    upload = uploads.find(upload_id)
    pictures = upload.show(index, asked.to_config(uploads.study), asked.exact).pictures
    if number >= len(pictures):
        raise ApiError(404, f"a prompt shows {len(pictures)} pictures of it, counted from 0")
    picture = pictures[number] if look is None else alter([pictures[number]], look)[0]
    with upload.naming():
        return _as_png(picture.load())


def _render_slice(uploads: Uploads, upload_id: str, index: int, number: int, window: str | None, plane: Plane | None) -> Response:
    upload = uploads.find(upload_id)
    series = pick(upload, uploads, index, window, plane).series
    if number >= len(series.slices):
        raise ApiError(404, f"the image has no slice {number}: it has {len(series.slices)}, counted from 0")
    with upload.naming():
        reply = _as_png(series.slices[number].load())
        if (level := level_of(series.slices[number])) is not None:
            reply.headers["X-Osler-Level"] = f"{level.center:.6g}/{level.width:.6g}"
    if series.positions is not None:
        reply.headers["X-Osler-Position"] = f"{series.positions[number]:.2f}"
    return reply


def _as_png(picture: Image) -> Response:
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)  # for speed: it is read once, on this machine or near it
    return Response(stream.getvalue(), media_type="image/png")
