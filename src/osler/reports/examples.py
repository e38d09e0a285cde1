"""Example cards: which records to show, with their image and their marked reasoning."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal

from osler.errors import OslerError
from osler.evaluation.records import question_of
from osler.evaluation.truth import reasoning_state
from osler.metrics import group
from osler.metrics.truth import ReasoningState
from osler.reports.load_runs import Evaluation
from osler.reports.marks import MarkedPart, correct_reasoning, mark_reasoning
from osler.types import Outcome, Record

if TYPE_CHECKING:
    from PIL.Image import Image

FindImage = Callable[[Record], "Image | None"]
"""The first image of a record's question; None where it is not available."""

FindById = Callable[[str], "Image | None"]
"""The same by the id of a sample."""

MAX_OTHERS: Final = 4
"""The most answers of other policies on a card."""

MAX_IMAGE_SIDE: Final = 320
MAX_IMAGE_BYTES: Final = 48_000

RIGHT: Final = "Right"
FALSE_REASON: Final = "Right for a false reason"
WRONG: Final = "Wrong"
NO_ANSWER: Final = "No answer, or more than one"
GROUPS: Final = (RIGHT, FALSE_REASON, WRONG, NO_ANSWER)
"""The groups of example cards, in the order of the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One card: a record with its image and the answers of other policies."""

    record: Record
    question: str
    image: str | None  # a data URI
    reasoning: tuple[MarkedPart, ...]
    corrections: tuple[tuple[str, str], ...]  # false statements in the words of the reasoning, each with what is known instead
    state: ReasoningState | None  # whether the reasoning is true
    others: tuple[tuple[str, Record], ...]  # titles of other policies with their records of the same question


Examples = Mapping[str, Mapping[str, Sequence[Example]]]
"""Title of a policy -> group -> cards."""


def pick_examples(records: Sequence[Record], *, per_group: int, seed: int) -> dict[str, list[Record]]:
    """Group -> up to `per_group` records, spread over the modalities; groups without records are absent.

    The choice is random; it depends on the seed and not on the order of the records.
    """
    matching: dict[str, list[Record]] = {name: [] for name in GROUPS}
    for record in records:
        matching[example_group(record)].append(record)
    return {name: _spread(part, per_group, random.Random(seed)) for name, part in matching.items() if part}


def example_group(record: Record) -> str:
    """The group of a record: right, right for a false reason, wrong, or without one answer."""
    if record.outcome == Outcome.CORRECT:
        return FALSE_REASON if reasoning_state(record) == "false" else RIGHT
    return WRONG if record.outcome == Outcome.INCORRECT else NO_ANSWER


def _spread(records: Iterable[Record], count: int, rng: random.Random) -> list[Record]:
    """Up to `count` records, from each modality in turn."""
    piles = [sorted(pile, key=lambda record: record.sample_id) for pile in group(records, ("modality",)).values()]
    for pile in piles:
        rng.shuffle(pile)
    turns = [record for turn in range(count) for pile in piles for record in pile[turn : turn + 1]]
    return turns[:count]


def build_examples(
    featured: Sequence[tuple[Evaluation, FindImage]], evaluations: Sequence[Evaluation], *, per_group: int, seed: int
) -> dict[str, dict[str, list[Example]]]:
    """Title -> group -> cards of each featured evaluation.

    A card has the answers of up to MAX_OTHERS other evaluations, those of the same strategy where there are more.
    """
    by_sample = {row.title: {record.sample_id: record for record in row.records} for row in evaluations}
    cards: dict[str, dict[str, list[Example]]] = {}
    for row, find_image in featured:
        others = [other for other in evaluations if other.title != row.title]
        if len(others) > MAX_OTHERS:
            others = [other for other in others if other.strategies == row.strategies][:MAX_OTHERS]
        groups = pick_examples(row.records, per_group=per_group, seed=seed)
        if groups:
            shown = [(other.title, by_sample[other.title]) for other in others]
            cards[row.title] = {name: [build_example(record, find_image, shown) for record in part] for name, part in groups.items()}
    return cards


def build_example(record: Record, find_image: FindImage, others: Iterable[tuple[str, Mapping[str, Record]]] = ()) -> Example:
    """The card of a record; `others` are titles with records by sample id."""
    return Example(
        record=record,
        question=question_of(record),
        image=encode_image(find_image(record)),
        reasoning=mark_reasoning(record),
        corrections=correct_reasoning(record),
        state=reasoning_state(record),
        others=tuple((title, answers[record.sample_id]) for title, answers in others if record.sample_id in answers),
    )


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
    """Finds images in the test split of a run's recipe, which is read at the first call."""
    find = split_images(config, "test")
    return lambda record: find(record.sample_id)


def split_images(config: Mapping[str, Any], split: Literal["train", "test"]) -> FindById:
    """Finds the first image by sample id in a split of a run's recipe, which is read at the first call."""

    @cache
    def load_images() -> dict[str, Callable[[], Image]]:
        from osler.config import build_config
        from osler.data.select import load_split

        if "data" not in config:
            return {}
        try:
            data = build_config({"data": config["data"]}).data
            # The config of a run that somebody else sent must not choose the code that runs here.
            samples = () if ":" in data.reader else load_split(data, split)
        except OslerError:
            return {}  # the data are not on this machine; the page shows placeholders
        return {sample.id: sample.images[0].load for sample in samples if sample.images}

    def find(sample_id: str) -> Image | None:
        load = load_images().get(sample_id)
        try:
            return load() if load else None
        except (OslerError, OSError):
            return None

    return find
