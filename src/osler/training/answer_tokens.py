"""The tokens of answers: those of every answer that a question admits, and the place of the letter in a completion that was written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from osler.errors import PolicyError
from osler.grading.parse import parse
from osler.policies.letters import find_letter_tokens
from osler.prompts import Format, find_strategy
from osler.types import LETTERS

TAG: Final = "answer"
ANSWER_FIRST: Final = (Format.ANSWER, Format.ANSWER_THINK, Format.FREE)
"""Formats whose completions begin with the answer."""


class AnswerTokens:
    """The answers of a policy as its tokenizer writes them."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._alternatives = _find_alternatives(tokenizer)
        self._begins: dict[tuple[str, int], list[list[int]]] = {}

    def begins(self, strategy: str, num_choices: int) -> list[list[int]]:
        """For each option the tokens with which a completion of this strategy answers it.

        Without reasoning they are the whole completion with its end; before reasoning they end with the letter. Raises PolicyError for a
        strategy that reasons first, and where two options have the same tokens.
        """
        key = strategy, num_choices
        if key not in self._begins:
            self._begins[key] = self._write(strategy, num_choices)
        return self._begins[key]

    def is_whole(self, strategy: str) -> bool:
        """Whether the answer is the whole completion."""
        return find_strategy(strategy).format is not Format.ANSWER_THINK

    def _write(self, strategy: str, num_choices: int) -> list[list[int]]:
        spec = find_strategy(strategy)
        if spec.format not in ANSWER_FIRST:
            raise PolicyError(f"the strategy {strategy} reasons before it answers, so its answers cannot be enumerated")
        begins = []
        for letter in LETTERS[:num_choices]:
            text = letter if spec.format is Format.FREE else f"<{TAG}>{letter}</{TAG}>"
            if spec.format is Format.ANSWER_THINK:
                ids = self._encode(f"{text}{spec.separator}<think>")
                begins.append(ids[: self._place_of(ids, letter) + 1])
            else:
                begins.append([*self._encode(text), self.tokenizer.eos_token_id])
        if len({*map(tuple, begins)}) < num_choices:
            raise PolicyError("the tokenizer writes two options with the same tokens, so they cannot be enumerated")
        return begins

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _place_of(self, ids: Sequence[int], letter: str) -> int:
        """The index of the last token with which the text is written up to the letter."""
        for place in range(len(ids)):
            if self.tokenizer.decode(ids[: place + 1]).startswith(f"<{TAG}>{letter}"):
                return place
        raise PolicyError(f"the tokenizer does not write <{TAG}>{letter}: answers cannot be enumerated")

    def find_letter(self, ids: Sequence[int], strategy: str, num_choices: int) -> tuple[int, list[int]] | None:
        """The index of the token that is the answer's letter, and the tokens of all options in its place.

        None where a completion has not the strict format of its strategy, or another answer than one letter of the options.
        """
        for place in range(len(ids) - 1, -1, -1):
            own = self._alternatives.get(ids[place])
            if own is None or ids[place] not in own[:num_choices] or -1 in own[:num_choices]:
                continue
            before, behind = (self.tokenizer.decode(part, skip_special_tokens=True) for part in (ids[:place], ids[place + 1 :]))
            if before.rstrip().removesuffix(">").endswith(f"<{TAG}") and behind.lstrip().startswith(f"</{TAG}"):
                text = self.tokenizer.decode(ids, skip_special_tokens=True)
                return (place, own[:num_choices]) if parse(text, strategy=strategy).is_well_formed else None
        return None


def _find_alternatives(tokenizer: Any) -> dict[int, list[int]]:
    """For each token that stands for a letter, those that stand for A, B, .. with the same characters before it; -1 for none."""
    vocabulary = tokenizer.get_vocab()
    texts = {token_id: text for text, token_id in vocabulary.items()}
    return {
        token_id: [vocabulary.get(texts[token_id][:-1] + letter, -1) for letter in LETTERS] for token_id in find_letter_tokens(tokenizer)
    }


def share_rows(probs: Sequence[float], num_rows: int) -> list[int]:
    """How many of `num_rows` rows each answer gets: one, and of the others its share by probability, by largest remainder.

    `num_rows` is at least the number of answers.
    """
    total, others = sum(probs), num_rows - len(probs)
    shares = [others * prob / total if total > 0 else others / len(probs) for prob in probs]
    rows = [int(share) for share in shares]
    order = sorted(range(len(probs)), key=lambda option: rows[option] - shares[option])
    for option in order[: others - sum(rows)]:
        rows[option] += 1
    return [1 + own for own in rows]
