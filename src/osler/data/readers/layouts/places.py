"""The places of images in a text, written "<image>" or, numbered, "<image 1>"."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from osler.context import Context
from osler.errors import DataError
from osler.types import PLACE, ImageSource

_PLACE: Final = re.compile(r"<image(?:here|[\s_-]*(\d{1,2}))?>", re.IGNORECASE)
_LEADING: Final = re.compile(rf"\s*(?:{_PLACE.pattern}\s*)+", re.IGNORECASE)
_AT_END: Final = re.compile(rf"{_PLACE.pattern}$", re.IGNORECASE)
_LONGEST: Final = 16  # characters of a place


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """The texts and images of a question whose places agree."""

    context: Context | None
    question: str
    images: tuple[ImageSource, ...]  # in the order of the places


def cut_end(text: str) -> tuple[str, str]:
    """The text without the places at its end, and these, so that they part no option from its question."""
    end = len(text.rstrip())
    if not text.endswith(">", 0, end):
        return text[:end], text[end:].strip()
    while match := _AT_END.search(text, max(0, end - _LONGEST), end):
        end = len(text[: match.start()].rstrip())
    return text[:end], text[end:].strip()


def lead(text: str) -> str:
    """The text with the places at its end before it, unless it has others, whose order that would change."""
    question, places = cut_end(text)
    return text if "<" in question and _PLACE.search(question) else put_back(question, places)


def put_back(question: str, places: str) -> str:
    """The question with places that stood behind its options: before it where it has no others, else behind it."""
    if not places:
        return question
    return f"{question}\n{places}" if _PLACE.search(question) else f"{places}\n{question}"


def place_images(
    images: Sequence[ImageSource],
    context: Context | None,
    question: str,
    choices: Sequence[str],
    notes: Counter[str],
    *,
    captions: Sequence[str | None] = (),
) -> Placed:
    """The images in the order of their places. Places at the beginning are left out, because images stand there anyway.

    A caption of an image is written before its place: "Prior: <image>"; where there are no places, they are made before the question.
    Raises DataError where the places are not as many as the images, for a numbered place that is missing or there twice, and for a place in
    an option.
    """
    if context is None and not any(captions) and "<" not in question and not any("<" in choice for choice in choices):
        return Placed(context=None, question=question, images=tuple(images))
    if any(_PLACE.search(choice) for choice in choices):
        raise DataError("an option holds a place of an image: options are texts")
    if any(_PLACE.search(caption or "") for caption in captions):
        raise DataError("a caption holds a place of an image: captions are texts")
    before = [place for text in (context.texts if context else ()) for place in _PLACE.finditer(text)]
    places = [*before, *_PLACE.finditer(question)]
    if not places:
        lines = [f"{caption}: {PLACE}" if caption else PLACE for caption in captions] if any(captions) else []
        return Placed(context=context, question="\n".join([*lines, question]), images=tuple(images))
    if len(places) != len(images):
        raise DataError(f"{_count(len(places), 'place')} <image> for {_count(len(images), 'image')}: make them agree")
    numbers = [int(place[1]) for place in places if place[1]]
    if numbers:
        if sorted(numbers) != list(range(1, len(images) + 1)):
            raise DataError(f"the numbered places {', '.join(place[0] for place in places)} do not name each image once")
        images = [images[number - 1] for number in numbers]
        captions = [captions[number - 1] for number in numbers] if captions else ()
    leading = _LEADING.match(question)
    if not any(captions) and not before and leading and not _PLACE.search(question, leading.end()):
        notes["<image> before or behind the question left out: images come first"] += 1
        return Placed(context=context, question=question[leading.end() :], images=tuple(images))
    notes["<image> within the text kept: the image is shown there"] += 1
    written = iter([f"{caption}: {PLACE}" if caption else PLACE for caption in captions or [None] * len(images)])
    context = context.change_texts(lambda text: _PLACE.sub(lambda _: next(written), text)) if context is not None else None
    return Placed(context=context, question=_PLACE.sub(lambda _: next(written), question), images=tuple(images))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
