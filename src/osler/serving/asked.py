"""From the body of /v1/answer to a prompt, by the renderer and the readers of everything else."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from osler.context import Context
from osler.errors import ConfigError, DataError, OslerError
from osler.evaluation.question import make_prompt
from osler.images.files import MORE_PICTURES, EncodedImage
from osler.images.slices import ShownStudy
from osler.prompts import find_strategy
from osler.serving.answer_types import AnswerRequest, AskedStudy
from osler.serving.errors import ApiError
from osler.serving.pictures import read_images
from osler.serving.received_files import ReceivedFile
from osler.serving.settings import ServerSettings
from osler.serving.study_settings import StudySettings
from osler.serving.uploads import Lease, Upload, Uploads
from osler.types import ImageSource, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question that can be answered."""

    prompt: Prompt
    shown: ShownStudy | None  # what is shown of the study; None without one, and for several
    notes: tuple[str, ...]  # about the study
    upload: Upload | None  # whose images are shown
    is_kept: bool  # False for an upload that was made for this question, and is removed after it
    lease: Lease | None  # keeps the files of the upload while this exists


def check_combination(body: AnswerRequest) -> None:
    """Raise ApiError (400) for values that do not go together."""
    if sum((bool(body.images), body.study is not None, body.upload is not None)) > 1:
        raise ApiError(400, "images, study and upload exclude each other: send one of them", param="images")
    if body.look and not (body.images or body.study or body.upload):
        raise ApiError(400, "look needs an image: send one, or leave look out", param="look")
    if body.threshold is not None and not body.choices and body.votes == 1:
        raise ApiError(400, "an open answer has no confidence without votes: give votes above 1, or no threshold", param="threshold")
    if body.votes > 1 and body.top_p == 0:
        raise ApiError(400, "votes with top_p 0 are all the same: give one above 0, or leave it out", param="top_p")
    if body.votes > 1 and body.temperature == 0:
        raise ApiError(400, "votes at temperature 0 are all the same: give a temperature above 0, or leave it out", param="temperature")


def read_question(body: AnswerRequest, uploads: Uploads, settings: ServerSettings) -> Asked:
    """The prompt of a question. Blocks: call it in a thread. Raises ApiError, DataError and ConfigError."""
    upload: Upload | None = None
    lease: Lease | None = None
    try:
        shown: tuple[ShownStudy, ...] = ()
        if body.study is not None:
            upload = uploads.add(list(_decode(body.study)))
            lease = upload.lease()
            shown = _show(uploads, upload, body.study.settings or body.study_settings)
        elif body.upload is not None:
            upload = uploads.find(body.upload)
            lease = upload.lease()
            shown = _show(uploads, upload, body.study_settings)
        images: tuple[ImageSource, ...] = tuple(picture for study in shown for picture in study.pictures)
        if body.images:
            images = read_images([(image.url, f"images.{number}.url") for number, image in enumerate(body.images)], settings)
        with _naming("context"):
            context = None if body.context is None else Context(**body.context.model_dump(exclude_none=True))
        with _naming("strategy"):
            find_strategy(body.strategy)
        prompt = make_prompt(images, body.question, body.choices, strategy=body.strategy, context=context)
    except BaseException:
        if upload is not None and body.upload is None:
            with suppress(ApiError):  # others have taken its place
                uploads.remove(upload.id)
        raise
    only = shown[0] if len(shown) == 1 else None
    singles = [f"images.{number} {MORE_PICTURES}" for number, image in enumerate(images if body.images else ()) if _has_more(image)]
    notes = (*singles, *(() if upload is None else upload.notes), *(note for study in shown for note in study.notes))
    own = body.upload is not None
    return Asked(prompt=prompt, shown=only, notes=tuple(dict.fromkeys(notes)), upload=upload, is_kept=own, lease=lease)


def _has_more(image: ImageSource) -> bool:
    return isinstance(image, EncodedImage) and image.has_more()


def _show(uploads: Uploads, upload: Upload, settings: StudySettings) -> tuple[ShownStudy, ...]:
    """What a prompt shows of an upload. Raises ApiError for a setting that means nothing, and DataError for an image."""
    with _naming("study_settings", (ConfigError,)):
        settings.to_config(uploads.study)
    return uploads.shown(upload.id, settings)


def _decode(study: AskedStudy) -> Iterator[ReceivedFile]:
    for number, file in enumerate(study.files):
        try:
            content = base64.b64decode("".join(file.data.split()), validate=True)
        except (binascii.Error, ValueError):
            param = f"study.files.{number}.data"
            raise ApiError(400, f"{param} is not base64: encode the bytes of the file", param=param) from None
        yield ReceivedFile(name=file.name, stream=io.BytesIO(content))


@contextmanager
def _naming(param: str, errors: tuple[type[OslerError], ...] = (DataError, ConfigError)) -> Iterator[None]:
    """Name the parameter in errors of its value."""
    try:
        yield
    except errors as error:
        raise ApiError(400, f"{param}: {error}", param=param) from None
