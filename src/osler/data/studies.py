"""From a question about studies to one about the pictures that a prompt shows of them, by `[data.study]`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from osler.config import StudyConfig
from osler.context import Context
from osler.data.privacy.context import agreeing, header_contexts
from osler.data.privacy.private import PrivateImage, expand
from osler.errors import ConfigError, DataError
from osler.images.slices import choose_pictures
from osler.images.study import Study
from osler.images.values import find_hidden_values
from osler.types import PLACE, ImageSource, Sample

_PLACE: Final = re.compile(re.escape(PLACE))


def show_studies(samples: Sequence[Sample], config: StudyConfig) -> list[Sample]:
    """The samples with the pictures of their studies as images, and as many places in their texts where these hold places.

    Raises DataError, which names the sample, for a study that cannot be read or does not give what the settings need.
    """
    kinds = {type(source) for images in {id(sample.images): sample.images for sample in samples}.values() for source in images}
    if not any(issubclass(kind, (Study, PrivateImage)) for kind in kinds):  # large datasets are of pictures alone
        return list(samples)
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
    texts = (*(sample.context.texts if sample.context is not None else ()), sample.question)
    if (places := sum(text.count(PLACE) for text in texts)) not in (0, len(shown)):
        raise DataError(f"{sample.id} has {_count(len(shown), 'image')} and {_count(places, 'place')} {PLACE}: make them agree")
    numbers = iter([len(pictures) for pictures in shown])
    context = sample.context and sample.context.change_texts(lambda text: _repeat_places(text, numbers))  # in the order of a prompt
    if header := agreeing(said):
        context = Context(**(header | (context.values if context is not None else {})))
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

    With `context = "header"` what the headers of a DICOM study say of the patient is appended to `said`.
    """

    def show(own: ImageSource) -> tuple[ImageSource, ...]:
        if not isinstance(own, Study):
            return (own,)
        pictures = choose_pictures(own, config).pictures
        if said is not None and config.context == "header":
            said.extend(context for picture in pictures for context in header_contexts(picture))
        return pictures

    return expand(source, show)


def find_hidden(source: ImageSource, config: StudyConfig) -> tuple[str, ...]:
    """What the shown slices of a study hide, in words that name no file: see `values.find_hidden_values`; () for any other image.

    Raises DataError for a study whose slices cannot be chosen.
    """
    found: list[str] = []

    def look(own: ImageSource) -> tuple[ImageSource, ...]:
        if isinstance(own, Study):
            found.extend(find_hidden_values(choose_pictures(own, config).slices))
        return ()

    expand(source, look)
    return tuple(found)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _repeat_places(text: str, numbers: Iterator[int]) -> str:
    """The text with each place as often as its study has pictures."""
    return _PLACE.sub(lambda _: PLACE * next(numbers), text)
