"""What the policy answers behind altered reasoning, for the reward `reasoning_matters`: one more token for each alteration.

Legend: N texts, V letter tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from osler.grading.altered_reasoning import AlteredAnswers, alter
from osler.policies.letters import option_probabilities
from osler.types import LETTERS

NextLogits = Callable[[Sequence[tuple[int, str]]], Tensor]
"""Logits [N, V] of the letter tokens behind the prompt of a row and the beginning of a completion: [(0, "<think>..<answer>"), ..]."""


def ask_again(
    rows: Sequence[Mapping[str, Any]], texts: Sequence[str], next_logits: NextLogits, letters: Mapping[int, int], seed: str
) -> list[AlteredAnswers | None]:
    """The policy's most likely letters behind the altered reasoning of each completion; None where `alter` gives None.

    `rows` are those of the dataset, `letters` those of `find_letter_tokens`.
    """
    names = ("choices", "target", "strategy", "sample_id", "question_type")
    altered = alter(texts, **{name: [row[name] for row in rows] for name in names}, seed=seed)
    # Equal texts behind the same prompt are asked once; the order of the options is part of the prompt.
    asked: dict[tuple[str, tuple[str, ...], str], int] = {}
    for row, own in enumerate(altered):
        for text in (own.replaced, own.reworded) if own is not None else ():
            if text is not None:
                asked.setdefault((rows[row]["sample_id"], tuple(rows[row]["choices"]), text), row)
    found: dict[tuple[str, tuple[str, ...], str], str | None] = {}
    if asked:
        logits_NV = next_logits([(row, text) for (_, _, text), row in asked.items()])
        for (key, row), logits_V in zip(asked.items(), logits_NV, strict=True):
            probs = option_probabilities(logits_V, letters, len(rows[row]["choices"]))
            found[key] = None if probs is None else LETTERS[int(probs.argmax())]

    def answer(row: int, text: str | None) -> str | None:
        return None if text is None else found[rows[row]["sample_id"], tuple(rows[row]["choices"]), text]

    return [
        None if own is None else AlteredAnswers(replaced=answer(row, own.replaced), reworded=answer(row, own.reworded))
        for row, own in enumerate(altered)
    ]
