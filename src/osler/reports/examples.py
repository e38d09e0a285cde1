"""Example cases: which records to show, and the picture that belongs to each."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from osler.errors import OslerError
from osler.metrics import group
from osler.reports.load_runs import Evaluation
from osler.types import LETTERS, Outcome, Record

if TYPE_CHECKING:
    from PIL.Image import Image

FindImage = Callable[[Record], "Image | None"]
"""The (first) picture of a record's question, None when there is none."""

MAX_OTHERS: Final = 4
"""Answers of other policies on a card."""

MAX_IMAGE_SIDE: Final = 320
MAX_IMAGE_BYTES: Final = 48_000

_SHARES: Final = ((Outcome.CORRECT,), (Outcome.INCORRECT,), (Outcome.NO_ANSWER, Outcome.AMBIGUOUS))


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherAnswer:
    """What another policy made of the same question."""

    title: str
    answer: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One record with all that its card shows."""

    title: str  # of the policy
    record: Record
    question: str
    image: str | None  # a data URI
    others: tuple[OtherAnswer, ...]


def pick_examples(records: Sequence[Record], *, per_outcome: int, seed: int) -> list[Record]:
    """Up to `per_outcome` right, wrong and unanswered (or ambiguous) records, each kind spread over the modalities.

    The choice is random, fixed by the seed and independent of the order of the records.
    """
    picked: list[Record] = []
    for outcomes in _SHARES:
        matching = [record for record in records if record.outcome in outcomes]
        picked += _spread(matching, per_outcome, random.Random(seed))
    return picked


def _spread(records: Iterable[Record], count: int, rng: random.Random) -> list[Record]:
    """Up to `count` records, the modalities taking turns."""
    piles = [sorted(pile, key=lambda record: record.sample_id) for pile in group(records, ("modality",)).values()]
    for pile in piles:
        rng.shuffle(pile)
    turns = [record for turn in range(count) for pile in piles for record in pile[turn : turn + 1]]
    return turns[:count]


def build_examples(
    featured: Sequence[tuple[Evaluation, FindImage]], evaluations: Sequence[Evaluation], *, per_outcome: int, seed: int
) -> list[Example]:
    """The cards of the featured evaluations, with what others answered to the same question; of many, those asked in the same way."""
    answers = {(row.title, record.sample_id): record for row in evaluations for record in row.records}
    examples = []
    for row, find_image in featured:
        compared = [other for other in evaluations if other.title != row.title]
        if len(compared) > MAX_OTHERS:
            compared = [other for other in compared if other.strategies == row.strategies][:MAX_OTHERS]
        for record in pick_examples(row.records, per_outcome=per_outcome, seed=seed):
            others = [(other.title, answers.get((other.title, record.sample_id))) for other in compared]
            examples.append(
                Example(
                    title=row.title,
                    record=record,
                    question=question_of(record),
                    image=encode_image(find_image(record)),
                    others=tuple(
                        OtherAnswer(title=title, answer=found.answer or "none", outcome=found.outcome) for title, found in others if found
                    ),
                )
            )
    return examples


def question_of(record: Record) -> str:
    """The question as it was put, without the options where they stand right behind it, as in every strategy of Osler's."""
    if record.choices:
        for separator in (" ", ""):
            head, found, _ = record.prompt.partition(f"{LETTERS[0]}){separator}{record.choices[0]}")
            if found:
                return head.strip()
    return record.prompt.strip()


def encode_image(image: Image | None) -> str | None:
    """A small copy of the picture as a data URI of at most MAX_IMAGE_BYTES before its encoding; PNG where that fits, else JPEG."""
    if image is None:
        return None
    small = image.convert("RGB")
    small.thumbnail((MAX_IMAGE_SIDE, MAX_IMAGE_SIDE))
    attempts: list[tuple[str, dict[str, Any]]] = [("png", {"optimize": True})]
    attempts += [("jpeg", {"quality": quality}) for quality in (88, 75, 55, 30)]
    for kind, options in attempts:
        buffer = io.BytesIO()
        small.save(buffer, format=kind, **options)
        if buffer.tell() <= MAX_IMAGE_BYTES:
            break
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def recipe_images(config: Mapping[str, Any]) -> FindImage:
    """Find pictures among the test questions that a run's recipe selects, by sample id. They are read once, when first asked for."""
    pictures: dict[str, Callable[[], Image]] | None = None

    def find(record: Record) -> Image | None:
        nonlocal pictures
        if pictures is None:
            try:
                pictures = _read_pictures(config)
            except OslerError:
                pictures = {}  # the data are on another machine: the page shows placeholders
        try:
            return pictures[record.sample_id]() if record.sample_id in pictures else None
        except (OslerError, OSError):
            return None

    return find


def _read_pictures(config: Mapping[str, Any]) -> dict[str, Callable[[], Image]]:
    """What loads the first picture of every test question. Raises OslerError."""
    from osler.config import build_config
    from osler.data.select import load_split

    if "data" not in config:
        return {}
    samples = load_split(build_config({"data": config["data"]}).data, "test")
    return {sample.id: sample.images[0].load for sample in samples if sample.images}
