"""The graded reward of an open answer: 1 for right, 0 for wrong, and between them for what the rules cannot decide.

An undecided answer earns MAX_PARTIAL times its token F1 with the reference, so a policy whose answers are never quite right still learns
which of them are nearer. It earns nothing for what pays a policy that does not look at the image:

- for words of the prompt, so that copying the question is worth nothing;
- for more items than the reference has, for alternatives, for further sentences and for a question;
- where fewer than half of its words are in the reference, so that a list without commas is worth nothing either.

Another side, a negation, an opposite, another number and a further thing of the same kind are wrong by the rules and earn nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from osler.grading.answer_items import read_items
from osler.grading.grade import is_undecided
from osler.metrics.overlap import overlap_words
from osler.types import Outcome, Verdict

MAX_PARTIAL: Final = 0.5
"""What an undecided answer earns at most. Below 1, so that the right answer is always worth more."""

MIN_PRECISION: Final = 0.5
"""The share of the words of an undecided answer that must be in the reference."""


def reward_open_answer(verdict: Verdict, *, target: str, prompt: str) -> float:
    """The reward of a verdict, in [0, 1]; of a question with choices it is 1 or 0. `prompt` is the text that the policy was asked."""
    if verdict.outcome is Outcome.CORRECT:
        return 1.0
    if verdict.answer is None or not is_undecided(verdict.rule):
        return 0.0
    return MAX_PARTIAL * partial_credit(verdict.answer, target, prompt)


def partial_credit(answer: str, target: str, prompt: str) -> float:
    """The token F1 of an undecided answer without the words of the prompt, in [0, 1]; 0 for a list, a question and a low precision."""
    given = read_items(answer)
    is_list = len(given.items) > len(read_items(target).items) or given.has_alternatives
    if is_list or given.has_more or given.is_question:
        return 0.0
    asked = set(overlap_words(prompt))
    found, wanted = ([word for word in overlap_words(text) if word not in asked] for text in (answer, target))
    common = (Counter(found) & Counter(wanted)).total()
    if not common or common < MIN_PRECISION * len(found):
        return 0.0
    return 2 * common / (len(found) + len(wanted))
