"""From completions to an answer, by the grader, and in words to what another image changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from osler.evaluation.looks import Look
from osler.evaluation.votes import fold_vote, grade_completion, grade_group
from osler.metrics.confidence import ConfidenceSource, confidence_of
from osler.text import fold_answer
from osler.types import LETTERS, Completion, Prompt, answer_text

NO_SUCH_OPTION: Final = "no_such_option"
"""The rule of a reply where the letter that the completions name is none of the choices: there is no answer then."""

_BEGINNINGS: Final = {
    Look.BLANK: "With the image blanked",
    Look.SWAPPED: "With an image of something else",
    Look.MIRRORED: "With the image mirrored",
}

_NOTHING_TO_COMPARE: Final = "; with the image itself it gave no answer to compare with"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceShare:
    """One of the choices."""

    letter: str
    text: str
    probability: float | None  # at the token of the answer, all choices together 1; with votes the mean; None where it is not known
    votes: float  # share of the completions with this answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadAnswer:
    """What the completions of a question say."""

    answer: str | None
    answer_text: str | None
    reasoning: str | None
    completion: str
    rule: str
    is_well_formed: bool
    finish_reason: str
    choices: tuple[ChoiceShare, ...]
    vote_share: float | None  # None for a single completion
    confidence: float | None  # the share of votes, or the probability of the answer


@dataclass(frozen=True, slots=True, kw_only=True)
class LookChange:
    """The answer with another image, beside that with the image itself."""

    image: Look
    answer: str | None
    answer_text: str | None
    reasoning: str | None
    choices: tuple[ChoiceShare, ...]
    changed: bool
    gain: float | None  # probability of the answer with the image, less that of the same answer with this one
    sentence: str


def read_answer(prompt: Prompt, completions: Sequence[Completion], policy: str) -> ReadAnswer:
    """The answer of the completions of one prompt: of the only one, or the most frequent one."""
    record = grade_group(prompt, completions, policy)
    choices = prompt.sample.choices
    probabilities = _mean_probabilities(completions)
    answers = [fold_vote(grade_completion(prompt, one, policy)) for one in completions]
    # The rule of an open answer ends with how it compares with a reference, and there is none.
    rule = record.rule if choices or record.answer is None else record.rule.rpartition(".")[0]
    if choices and record.answer is not None and record.answer not in LETTERS[: len(choices)]:
        record, rule = replace(record, answer=None), NO_SUCH_OPTION
    source: ConfidenceSource = "vote_share" if len(completions) > 1 else "option_probabilities"
    return ReadAnswer(
        answer=record.answer,
        answer_text=answer_text(record.answer, choices),
        reasoning=record.reasoning,
        completion=record.completion,
        rule=rule,
        is_well_formed=record.is_well_formed,
        finish_reason=record.finish_reason,
        choices=tuple(
            ChoiceShare(
                letter=letter,
                text=text,
                probability=None if probabilities is None else probabilities[place],
                votes=answers.count(letter) / len(answers),
            )
            for place, (letter, text) in enumerate(zip(LETTERS, choices, strict=False))
        ),
        vote_share=record.vote_share,
        confidence=confidence_of(record, source),
    )


def abstains(read: ReadAnswer, threshold: float | None) -> bool:
    """Whether there is no answer, or one that is not as sure as the threshold asks."""
    return read.answer is None or (threshold is not None and (read.confidence is None or read.confidence < threshold))


def _mean_probabilities(completions: Sequence[Completion]) -> list[float] | None:
    """The mean over the completions that have any."""
    rows = [one.option_probabilities for one in completions if one.option_probabilities is not None]
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)] if rows else None


def describe_look(look: Look, other: ReadAnswer, own: ReadAnswer) -> LookChange:
    """The answer with another image, `other`, beside that with the image itself."""
    before, after = _probability(own.choices, own.answer), _probability(other.choices, own.answer)
    changed = _folded(other.answer, own) != _folded(own.answer, own)
    now = _name(other.answer, other.answer_text)
    if other.answer is None:
        said = "it gives no answer that can be read"
    elif not changed:
        said = f"it still answers {now}"
    else:
        said = f"it answers {now}" + (_NOTHING_TO_COMPARE if own.answer is None else f" in place of {_name(own.answer, own.answer_text)}")
    if before is not None and after is not None:
        said += f"; the probability of {own.answer} goes from {before:.2f} to {after:.2f}"
    return LookChange(
        image=look,
        answer=other.answer,
        answer_text=other.answer_text,
        reasoning=other.reasoning,
        choices=other.choices,
        changed=changed,
        gain=None if before is None or after is None else before - after,
        sentence=f"{_BEGINNINGS[look]} {said}.",
    )


def _folded(answer: str | None, own: ReadAnswer) -> object:
    return answer if answer is None or own.choices else fold_answer(answer)


def _probability(choices: Sequence[ChoiceShare], letter: str | None) -> float | None:
    return next((choice.probability for choice in choices if choice.letter == letter), None)


def _name(answer: str | None, text: str | None) -> str:
    """ "B (Liver)", or an open answer in quotes."""
    return f'"{answer}"' if answer == text else f"{answer} ({text})" if text is not None else str(answer)
