"""The probability of each choice's letter at the token where a completion states its answer, from the logits of decoding.

Legend: R rows of a batch, T decoding steps, N tokens of the vocabulary that stand for one letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from osler.types import LETTERS

if TYPE_CHECKING:
    import torch

_TOKEN_PREFIX: Final = "ĠĊ▁ \n>([*\"'"
"""What may precede the letter in a token: the vocabulary's characters for space and newline, and the end of "<answer>"."""

_AFTER_LETTER: Final = re.compile(r"\s*(?:[)\].:,;*<\"']|$)")
_BEFORE_LETTER: Final = " \n([*\"'"


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterTokens:
    """The tokens that stand for one letter, alone or after a space or ">": "B", " B" and ">B" all stand for B."""

    token_ids: tuple[int, ...]  # (35, 362, ..)
    letters: tuple[int, ...]  # the index of each token's letter in the alphabet: (1, 0, ..)

    @classmethod
    def of(cls, tokenizer: Any) -> LetterTokens:
        """Search the vocabulary of a tokenizer."""
        stripped = sorted((token_id, text.lstrip(_TOKEN_PREFIX)) for text, token_id in tokenizer.get_vocab().items())
        kept = [(token_id, LETTERS.index(letter)) for token_id, letter in stripped if len(letter) == 1 and letter in LETTERS]
        return cls(token_ids=tuple(token_id for token_id, _ in kept), letters=tuple(letter for _, letter in kept))


@dataclass(slots=True, kw_only=True)
class LetterRecorder:
    """A logits processor for `generate` that stores the logits of the letter tokens at every step and changes nothing."""

    letters: LetterTokens
    logits_TRN: list[torch.Tensor] = field(default_factory=list)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Store the logits of one step."""
        self.logits_TRN.append(scores[:, list(self.letters.token_ids)].float())
        return scores

    def read(self, tokenizer: Any, rows: Sequence[tuple[Sequence[int], str, int]]) -> Iterator[tuple[float, ...] | None]:
        """The probability of each choice for every row, which is (token ids, prefix of the completion, number of choices).

        The probabilities sum to 1 over the choices. None for open-ended questions and where the answer is not a single letter.
        """
        import torch

        if not self.letters.token_ids or not self.logits_TRN:
            yield from (None for _ in rows)
            return
        logits_TRN = torch.stack(self.logits_TRN).cpu()
        letters_N = torch.tensor(self.letters.letters)
        for row, (token_ids, prefix, num_choices) in enumerate(rows):
            step = find_answer(tokenizer, token_ids, prefix, self.letters)
            if step is None or num_choices == 0 or not set(range(num_choices)) <= set(self.letters.letters):
                yield None
                continue
            kept = letters_N < num_choices
            probs = torch.softmax(logits_TRN[step, row, kept].double(), dim=0)
            summed = torch.zeros(num_choices, dtype=torch.float64).index_add_(0, letters_N[kept], probs)
            yield tuple(round(prob, 6) for prob in summed.tolist())


def find_answer(tokenizer: Any, token_ids: Sequence[int], prefix: str, letters: LetterTokens) -> int | None:
    """The decoding step of the answer's letter: after the last <answer> outside <think>, or at the start of a text without tags.

    `prefix` is the text before the tokens. None where the answer is not a single letter but the text of a choice, or prose.
    """
    letter_ids = set(letters.token_ids)
    pieces = tokenizer.batch_decode([[token_id] for token_id in token_ids])
    text = prefix + "".join(pieces)
    answer = None
    start = len(prefix)
    for step, (token_id, piece) in enumerate(zip(token_ids, pieces, strict=True)):
        end = start + len(piece)
        if token_id in letter_ids and _AFTER_LETTER.match(text, end):
            head = text[: end - 1].rstrip(_BEFORE_LETTER)
            if head.endswith("<answer>") and head.rfind("<think>") <= head.rfind("</think>"):
                answer = step
            elif "<answer>" not in text and (not head or head.endswith("</think>")):
                return step
        start = end
    return answer
