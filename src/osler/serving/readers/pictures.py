"""The pictures of a case as PNG: what the prompt of a policy shows, pixel by pixel, without names or headers."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from osler.images.clip import part_frames
from osler.serving.readers.plan import Step
from osler.serving.readers.study import Study

if TYPE_CHECKING:
    from PIL.Image import Image

NUM_KEPT: Final = 16
"""Cases whose pictures are kept in memory."""


class Pictures:
    """The pictures of the cases of a study, those of the last ones from memory."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._kept = lru_cache(maxsize=NUM_KEPT)(self._encode)

    def of(self, step: Step) -> tuple[bytes, ...]:
        """The pictures of a step in their order; () in the part without images. Raises DataError for one that cannot be read any more."""
        return self._kept(Step(part=step.part, case=step.case))

    def _encode(self, step: Step) -> tuple[bytes, ...]:
        sample = self._study.prompts[step.part][self._study.plan.sample_ids[step.case]].sample
        return tuple(encode(frame) for image in sample.images for frame in part_frames(image.load()))


def encode(picture: Image) -> bytes:
    """The picture as PNG, without what its file said beside the pixels."""
    clean = picture.convert("RGB")
    clean.info.clear()  # text chunks, a profile or an EXIF block would be written too
    buffer = io.BytesIO()
    clean.save(buffer, format="png")
    return buffer.getvalue()
