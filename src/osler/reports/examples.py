"""Example cards: which records to show, and the image of each."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from osler.errors import OslerError
from osler.evaluation.records import question_of
from osler.metrics import group
from osler.reports.load_runs import Evaluation
from osler.types import Outcome, Record

if TYPE_CHECKING:
    from PIL.Image import Image

FindImage = Callable[[Record], "Image | None"]
"""The first image of a record's question; None where it is not available."""

MAX_OTHERS: Final = 4
"""The most answers of other policies on a card."""

MAX_IMAGE_SIDE: Final = 320
MAX_IMAGE_BYTES: Final = 48_000

_OUTCOME_GROUPS: Final = ((Outcome.CORRECT,), (Outcome.INCORRECT,), (Outcome.NO_ANSWER, Outcome.AMBIGUOUS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One card: a record with its image and the answers of other policies."""

    record: Record
    question: str
    image: str | None  # a data URI
    others: tuple[tuple[str, Record], ...]  # titles of other policies with their records of the same question


def pick_examples(records: Sequence[Record], *, per_outcome: int, seed: int) -> list[Record]:
    """Up to `per_outcome` correct, incorrect and unanswered (or ambiguous) records, each group spread over the modalities.

    The choice is random; it depends on the seed and not on the order of the records.
    """
    picked: list[Record] = []
    for outcomes in _OUTCOME_GROUPS:
        matching = [record for record in records if record.outcome in outcomes]
        picked += _spread(matching, per_outcome, random.Random(seed))
    return picked


def _spread(records: Iterable[Record], count: int, rng: random.Random) -> list[Record]:
    """Up to `count` records, from each modality in turn."""
    piles = [sorted(pile, key=lambda record: record.sample_id) for pile in group(records, ("modality",)).values()]
    for pile in piles:
        rng.shuffle(pile)
    turns = [record for turn in range(count) for pile in piles for record in pile[turn : turn + 1]]
    return turns[:count]


def build_examples(
    featured: Sequence[tuple[Evaluation, FindImage]], evaluations: Sequence[Evaluation], *, per_outcome: int, seed: int
) -> dict[str, list[Example]]:
    """Title -> cards of each featured evaluation, with answers of up to MAX_OTHERS others, of the same strategy where there are more."""
    by_sample = {row.title: {record.sample_id: record for record in row.records} for row in evaluations}
    cards: dict[str, list[Example]] = {}
    for row, find_image in featured:
        others = [other for other in evaluations if other.title != row.title]
        if len(others) > MAX_OTHERS:
            others = [other for other in others if other.strategies == row.strategies][:MAX_OTHERS]
        for record in pick_examples(row.records, per_outcome=per_outcome, seed=seed):
            answers = [(other.title, by_sample[other.title].get(record.sample_id)) for other in others]
            cards.setdefault(row.title, []).append(
                Example(
                    record=record,
                    question=question_of(record),
                    image=encode_image(find_image(record)),
                    others=tuple((title, answer) for title, answer in answers if answer is not None),
                )
            )
    return cards


def encode_image(image: Image | None) -> str | None:
    """The scaled image as a data URI, PNG or else JPEG, of at most MAX_IMAGE_BYTES before base64."""
    if image is None:
        return None
    small = image.convert("RGB")
    small.thumbnail((MAX_IMAGE_SIDE, MAX_IMAGE_SIDE))
    formats: list[tuple[str, dict[str, Any]]] = [("png", {"optimize": True})]
    formats += [("jpeg", {"quality": quality}) for quality in (88, 75, 55, 30)]
    for kind, options in formats:
        buffer = io.BytesIO()
        small.save(buffer, format=kind, **options)
        if buffer.tell() <= MAX_IMAGE_BYTES:
            break
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def recipe_images(config: Mapping[str, Any]) -> FindImage:
    """Finds images by sample id in the test split of a run's recipe, which is read at the first call."""

    @cache
    def load_images() -> dict[str, Callable[[], Image]]:
        from osler.config import build_config
        from osler.data.select import load_split

        if "data" not in config:
            return {}
        try:
            data = build_config({"data": config["data"]}).data
            # The config of a run that somebody else sent must not choose the code that runs here.
            samples = () if ":" in data.reader else load_split(data, "test")
        except OslerError:
            return {}  # the data are not on this machine; the page shows placeholders
        return {sample.id: sample.images[0].load for sample in samples if sample.images}

    def find(record: Record) -> Image | None:
        load = load_images().get(record.sample_id)
        try:
            return load() if load else None
        except (OslerError, OSError):
            return None

    return find
