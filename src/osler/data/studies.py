"""From a question about studies to one about the pictures that a prompt shows of them, by `[data.study]`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from osler.config import StudyConfig
from osler.context import Context
from osler.data.privacy.context import header_context
from osler.data.privacy.private import PrivateImage, expand
from osler.errors import ConfigError, DataError
from osler.images.slices import choose_pictures
from osler.images.study import Study
from osler.types import PLACE, ImageSource, Sample

_PLACE: Final = re.compile(re.escape(PLACE))


def show_studies(samples: Sequence[Sample], config: StudyConfig) -> list[Sample]:
    """The samples with the pictures of their studies as images, and as many places in their texts where these hold places.

    Raises DataError, which names the sample, for a study that cannot be read or does not give what the settings need.
    """
    return [show_study(sample, config) for sample in samples]


def show_study(sample: Sample, config: StudyConfig) -> Sample:
    """One sample; itself where it has no study. See `show_studies`."""
    if not any(is_study_source(source) for source in sample.images):
        return sample
    said: list[Context] = []
    try:
        shown = [pictures_of(source, config, said) for source in sample.images]
    except (DataError, ConfigError) as error:
        raise DataError(f"{sample.id}: {error}") from None
    numbers = iter([len(pictures) for pictures in shown])
    context = sample.context and sample.context.change_texts(lambda text: _repeat_places(text, numbers))  # in the order of a prompt
    for header in said:
        context = header if context is None else replace(context, **(header.values | context.values))
    return replace(
        sample,
        images=tuple(picture for pictures in shown for picture in pictures),
        context=context,
        question=_repeat_places(sample.question, numbers),
    )


def is_study_source(source: ImageSource) -> bool:
    """Whether an image is a study, under its own name or a keyed one."""
    return isinstance(source.source if isinstance(source, PrivateImage) else source, Study)


def pictures_of(source: ImageSource, config: StudyConfig, said: list[Context] | None = None) -> tuple[ImageSource, ...]:
    """The pictures that a prompt shows of an image: those of a study, else itself. Raises DataError as `choose_pictures` does.

    With `context = "header"` what the header of a DICOM study says of the patient is appended to `said`.
    """

    def show(own: ImageSource) -> tuple[ImageSource, ...]:
        if not isinstance(own, Study):
            return (own,)
        pictures = choose_pictures(own, config).pictures
        if said is not None and config.context == "header" and (context := header_context(pictures[0])) is not None:
            said.append(context)
        return pictures

    return expand(source, show)


def _repeat_places(text: str, numbers: Iterator[int]) -> str:
    """The text with each place as often as its study has pictures."""
    return _PLACE.sub(lambda _: PLACE * next(numbers), text)
