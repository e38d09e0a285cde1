"""What the answers of a rollout look like, as numbers for `metrics.jsonl`: read or not, right or not, which letters, how many repeated.

TRL logs rewards, lengths, entropy and the KL divergence. These numbers say why a reward is what it is, whichever reward a recipe names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from osler.grading import grade
from osler.types import LETTERS, Outcome

PARSED: Final = "answers/parsed"
CORRECT: Final = "answers/correct"
LETTER: Final = "answers/letter_"
TARGET: Final = "answers/target_"
IDENTICAL: Final = "completions/identical"
QUESTIONS: Final = "blank_image/questions"
SAME: Final = "blank_image/same_answers"
ACCURACY: Final = "blank_image/accuracy"
BLANK_ACCURACY: Final = "blank_image/accuracy_blank"
GAIN: Final = "blank_image/gain"
BOTH: Final = "blank_image/accuracy_both"
ASKED: Final = "blank_image/asked"
DIFFERENT: Final = "blank_image/different"

HELD_OUT: Final = 48
"""Test questions of which some are asked with blank images while a training runs; as many are judged together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One completion of a rollout, small enough to be gathered from all processes."""

    text: str  # the whole completion
    answer: str | None  # "B", the text of an open answer, or None where no answer was read
    is_correct: bool
    target: str | None  # the right letter; None for an open question


def read_answers(rows: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> list[Answered]:
    """The answers of completions, read as rewards read them; `rows` are those of the dataset, one for each completion."""
    return [_read(row, text) for row, text in zip(rows, texts, strict=True)]


def _read(row: Mapping[str, Any], text: str) -> Answered:
    choices, target = row["choices"], row["target"]
    verdict = grade(text, choices=choices, target=target, strategy=row["strategy"], is_lenient=False)
    return Answered(
        text=text, answer=verdict.answer, is_correct=verdict.outcome is Outcome.CORRECT, target=target if len(choices) > 0 else None
    )


def describe_answers(answered: Sequence[Answered], num_generations: int) -> dict[str, float]:
    """The numbers of a rollout in which each question has `num_generations` completions in a row, by their names in `metrics.jsonl`.

    `answers/parsed` and `answers/correct` are shares of all completions; `answers/letter_A` is the share of A among the letters that were
    read, `answers/target_A` among the right ones of multiple-choice questions; `completions/identical` is the share of a question's
    completions, after its first, that repeat an earlier one, in the mean over questions.
    """
    count = len(answered)
    if count == 0:
        return {}
    figures = {
        PARSED: sum(one.answer is not None for one in answered) / count,
        CORRECT: sum(one.is_correct for one in answered) / count,
    }
    closed = [one for one in answered if one.target is not None]
    letters = Counter(one.answer for one in closed if one.answer is not None and one.answer in LETTERS)
    targets = Counter(one.target for one in closed if one.target is not None)
    for name, counts in ((LETTER, letters), (TARGET, targets)):
        figures |= {f"{name}{letter}": counts[letter] / counts.total() for letter in sorted({*letters, *targets}) if counts}
    if num_generations > 1:
        groups = [answered[start : start + num_generations] for start in range(0, count, num_generations)]
        repeated = [(len(group) - len({one.text for one in group})) / max(len(group) - 1, 1) for group in groups]
        figures[IDENTICAL] = sum(repeated) / len(repeated)
    return figures


def describe_blank(pairs: Sequence[tuple[Answered, Answered]], num_different: int | None = None) -> dict[str, float]:
    """The numbers of `metrics.jsonl`. A question whose plain answer was not read is left out; {} where that is all of them.

    `num_different` questions are asked in turn, after which they come again; None: it is not known.
    """
    read = [(plain, blank) for plain, blank in pairs if plain.answer is not None]
    if not read:
        return {}
    return {
        ASKED: float(len(pairs)),
        **({} if num_different is None else {DIFFERENT: float(num_different)}),
        QUESTIONS: float(len(read)),
        SAME: sum(plain.answer == blank.answer for plain, blank in read) / len(read),
        ACCURACY: sum(plain.is_correct for plain, _ in read) / len(read),
        BOTH: sum(plain.is_correct and blank.is_correct for plain, blank in read) / len(read),
        BLANK_ACCURACY: sum(blank.is_correct for _, blank in read) / len(read),
        GAIN: sum(plain.is_correct - blank.is_correct for plain, blank in read) / len(read),
    }
