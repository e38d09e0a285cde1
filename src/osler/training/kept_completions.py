"""A few completions of a training, kept in its run folder as it goes, for its page. Imports no torch, so that the page can read them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from osler.errors import DataError
from osler.files import read_json_lines, write_json_lines

FILE: Final = "completions.jsonl"
MAX_PER_STEP: Final = 4
"""Completions of one step, each of another question."""

MAX_KEPT: Final = 200
"""Completions of a run; the latest stay."""

MAX_TEXT: Final = 4000
"""Characters of a prompt or a completion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCompletion:
    """A completion and what it earned. Its images are those of the sample, which the recipe's reader finds by its id."""

    step: int  # of `metrics.jsonl`, from 1: the first update that uses the completion
    sample_id: str  # "slake/10513"
    prompt: str  # the text of the user's turn
    completion: str
    target: str  # the letter of the right option, or the reference text
    rewards: Mapping[str, float | None]  # {"accuracy": 1.0}; None where a reward skips the completion
    probabilities: Mapping[str, float] = field(default_factory=dict)  # {"A": 0.7}: of each answer, where answers are enumerated


@dataclass(frozen=True, slots=True, kw_only=True)
class EnumeratedRow:
    """What a row of a rollout stands for that holds every answer of a question, however probable each is."""

    letter: str | None  # "A"; None for a row that stands for nothing
    weight: float  # the probability of the answer, shared by its rows


@dataclass(slots=True, kw_only=True)
class KeptCompletions:
    """The file of a run that trains."""

    path: Path
    every: int  # steps between completions that are kept; 0: none are
    _next: int = 0

    def is_due(self, step: int) -> bool:
        """Whether completions of this step are to be kept."""
        return bool(self.every) and step >= self._next

    def keep(self, step: int, rows: Sequence[KeptCompletion]) -> None:
        """Add completions of a step; the file is replaced as a whole, without those of this and later steps of an interrupted run."""
        self._next = step + self.every
        before = [line for line in read_json_lines(self.path) if isinstance(line.get("step"), int) and line["step"] < step]
        write_json_lines(self.path, [*before, *map(asdict, rows)][-MAX_KEPT:])


def pick(sample_ids: Sequence[str], rows: Sequence[EnumeratedRow] = (), seed: str = "") -> list[int]:
    """The places of the first completions of up to MAX_PER_STEP questions.

    With enumerated `rows` the first is an answer like any other: then a row is drawn by its weight. Equal seeds give equal places.
    """
    places: dict[str, list[int]] = {}
    for place, sample_id in enumerate(sample_ids):
        own = places.setdefault(sample_id, [])
        if not own or own[-1] == place - 1:  # a question that a rollout asks again counts once
            own.append(place)
    first = dict(list(places.items())[:MAX_PER_STEP])
    if not rows:
        return [own[0] for own in first.values()]
    return [_draw(own, [rows[place].weight for place in own], f"{seed}/{sample_id}") for sample_id, own in first.items()]


def _draw(places: Sequence[int], weights: Sequence[float], seed: str) -> int:
    if not 0 < math.fsum(weights) < math.inf:  # a policy that broke has no probabilities to draw by
        return places[0]
    return random.Random(seed).choices(places, weights)[0]


def answer_probabilities(rows: Sequence[EnumeratedRow]) -> dict[str, float]:
    """The probability of each answer, from the rows of one question: {"A": 0.7, "B": 0.2}. What is missing to 1 is no answer."""
    letters = sorted({row.letter for row in rows if row.letter is not None})
    return {letter: math.fsum(row.weight for row in rows if row.letter == letter) for letter in letters}


def read_kept(path: Path) -> tuple[KeptCompletion, ...]:
    """The completions of a run, () where it kept none. Raises DataError for a file that Osler did not write."""
    lines = read_json_lines(path)
    try:
        return tuple(_from_line(line) for line in lines[-MAX_KEPT:])
    except (KeyError, TypeError):
        raise DataError(f"{path} holds a line that is no completion: delete the file") from None


def _from_line(line: Mapping[str, Any]) -> KeptCompletion:
    kept = KeptCompletion(**line)
    texts = (kept.sample_id, kept.prompt, kept.completion, kept.target, *kept.rewards, *kept.probabilities)
    numbers = (kept.step, *(reward for reward in kept.rewards.values() if reward is not None), *kept.probabilities.values())
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(number, (int, float)) for number in numbers):
        raise TypeError
    return kept
