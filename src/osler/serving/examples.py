"""Drawn examples, so that a person without images can try everything: a picture, and a series as DICOM files, each with a question."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from osler.data.phantom import build_samples
from osler.data.phantom.studies import Aspect, PhantomStudy, StudyKind, ask
from osler.data.phantom.studies.files import write_study
from osler.serving.received_files import ReceivedFile
from osler.serving.upload_replies import UploadReply, describe_upload
from osler.serving.uploads import Uploads
from osler.taxonomy import Modality, QuestionType

if TYPE_CHECKING:
    from osler.types import Sample

ExampleName = Literal["picture", "series"]
EXAMPLES: Final[Mapping[ExampleName, str]] = MappingProxyType({"picture": "phantom MRI", "series": "phantom CT"})
"""Name -> what its images are called."""

_PICTURE_SIZE: Final = 336
_SERIES_SIZE: Final = 224
_NUM_SLICES: Final = 24
_SUBJECT: Final = 2  # of the picture: a lesion that is easy to see
_STUDY: Final = PhantomStudy(
    kind=StudyKind.CT_VOLUME, aspect=Aspect.SIDE, split="test", seed=0, index=1, size=_SERIES_SIZE, num_slices=_NUM_SLICES
)


class ExampleReply(UploadReply):
    """An upload with a question whose answer is known, because its images are drawn."""

    question: str
    choices: list[str]
    target: str  # the letter of the right answer
    window: str | None  # with which the question is asked


def make_example(uploads: Uploads, name: ExampleName) -> ExampleReply:
    """Keep an example as an upload. Raises MissingExtra for the series without the extra "medical"."""
    files, sample = _draw_picture() if name == "picture" else _draw_series()
    upload = uploads.add(files)
    return ExampleReply(
        **dict(describe_upload(upload, uploads)),
        question=sample.question,
        choices=list(sample.choices),
        target=sample.target,
        window=_STUDY.window if name == "series" else None,
    )


def _draw_picture() -> tuple[list[ReceivedFile], Sample]:
    samples = build_samples(
        modality=Modality.MRI,
        split="test",
        seed=0,
        num_questions=_SUBJECT + 1,
        question_types=(QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,),
        size=_PICTURE_SIZE,
    )
    stream = io.BytesIO()
    samples[_SUBJECT].images[0].load().save(stream, "PNG")
    stream.seek(0)
    return [ReceivedFile(name=f"{EXAMPLES['picture']}.png", stream=stream)], samples[_SUBJECT]


def _draw_series() -> tuple[list[ReceivedFile], Sample]:
    with tempfile.TemporaryDirectory() as folder:
        write_study(Path(folder), _STUDY, "dicom")
        files = [
            ReceivedFile(name=f"{EXAMPLES['series']}/{path.name}", stream=io.BytesIO(path.read_bytes()))
            for path in sorted(Path(folder).rglob("*.dcm"))
        ]
    return files, ask(_STUDY)
