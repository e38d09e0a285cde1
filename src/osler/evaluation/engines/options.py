"""How likely each option's letter was where a completion wrote its answer, read from the logits that decoding has anyway.

Legend: R rows of a batch, T steps of decoding, N tokens of the vocabulary that are an option letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from osler.types import LETTERS

if TYPE_CHECKING:
    import torch

_AROUND: Final = "ĠĊ▁ \n>([*\"'"
"""What a token may hold in front of its letter: the vocabularies' signs for a blank and a new line, and the end of "<answer>"."""

_ENDS_LETTER: Final = re.compile(r"\s*(?:[)\].:,;*<\"']|$)")
_BEFORE_LETTER: Final = " \n([*\"'"


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterTokens:
    """The tokens that are one option letter, alone or behind a blank or ">": "B", " B" and ">B" are all a B."""

    token_ids: tuple[int, ...]  # (35, 362, ..)
    letters: tuple[int, ...]  # the place of each one's letter in the alphabet: (1, 0, ..)

    @classmethod
    def of(cls, tokenizer: Any) -> LetterTokens:
        """Look through a tokenizer's vocabulary."""
        found = sorted((token_id, text.lstrip(_AROUND)) for text, token_id in tokenizer.get_vocab().items())
        kept = [(token_id, LETTERS.index(letter)) for token_id, letter in found if len(letter) == 1 and letter in LETTERS]
        return cls(token_ids=tuple(token_id for token_id, _ in kept), letters=tuple(letter for _, letter in kept))


@dataclass(slots=True, kw_only=True)
class LetterRecorder:
    """Keeps the letters' logits of every step; given to `generate` as a processor of logits, which it leaves as they are."""

    letters: LetterTokens
    logits_TRN: list[torch.Tensor] = field(default_factory=list)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Copy the letters' logits of one step."""
        self.logits_TRN.append(scores[:, list(self.letters.token_ids)].float())
        return scores

    def read(self, tokenizer: Any, rows: Sequence[tuple[Sequence[int], str, int]]) -> Iterator[tuple[float, ...] | None]:
        """For every row, of (its tokens, the text that they continue, its number of choices), the probability of each choice.

        They sum to 1: what the policy gave to other tokens is left out. None where no single letter was written as the answer, and for
        open-ended questions.
        """
        import torch

        if not self.letters.token_ids or not self.logits_TRN:
            yield from (None for _ in rows)
            return
        logits_TRN = torch.stack(self.logits_TRN).cpu()
        letters_N = torch.tensor(self.letters.letters)
        for row, (token_ids, before, num_choices) in enumerate(rows):
            step = find_answer(tokenizer, token_ids, before, self.letters)
            is_known = set(range(num_choices)) <= set(self.letters.letters)
            if step is None or num_choices == 0 or not is_known:
                yield None
                continue
            kept = letters_N < num_choices
            shares = torch.softmax(logits_TRN[step, row, kept].double(), dim=0)
            summed = torch.zeros(num_choices, dtype=torch.float64).index_add_(0, letters_N[kept], shares)
            yield tuple(round(share, 6) for share in summed.tolist())


def find_answer(tokenizer: Any, token_ids: Sequence[int], before: str, letters: LetterTokens) -> int | None:
    """The step that wrote the answer's letter: the last straight behind an <answer> outside <think>, else the one that opens the statement.

    `before` is the text that the tokens continue. None where the answer is no lone letter but an option's text, or prose.
    """
    places = set(letters.token_ids)
    pieces = tokenizer.batch_decode([[token_id] for token_id in token_ids])
    text = before + "".join(pieces)
    found = None
    start = len(before)
    for step, (token_id, piece) in enumerate(zip(token_ids, pieces, strict=True)):
        end = start + len(piece)
        if token_id in places and _ENDS_LETTER.match(text, end):
            head = text[: end - 1].rstrip(_BEFORE_LETTER)
            if head.endswith("<answer>") and head.rfind("<think>") <= head.rfind("</think>"):
                found = step
            elif "<answer>" not in text and (not head or head.endswith("</think>")):
                return step
        start = end
    return found
