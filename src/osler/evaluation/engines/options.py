"""The probability of each choice's letter at the token where a completion states its answer, from the logits of decoding.

Legend: R rows of a batch, T decoding steps, N tokens of the vocabulary that stand for one letter.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from osler.types import LETTERS, Completion, Prompt

if TYPE_CHECKING:
    import torch

_TOKEN_PREFIX: Final = "ĠĊ▁ \n>([*\"'"
"""What may precede the letter in a token: the vocabulary's characters for space and newline, and the end of "<answer>"."""

_AFTER_LETTER: Final = re.compile(r"\s*(?:[)\].:,;*<\"']|$)")
_BEFORE_LETTER: Final = " \n([*\"'"


def find_letter_tokens(tokenizer: Any) -> dict[int, int]:
    """The tokens that stand for one letter, alone or after a space or ">" ("B", " B", ">B"): token id -> letter, 1 for B."""
    stripped = sorted((token_id, text.lstrip(_TOKEN_PREFIX)) for text, token_id in tokenizer.get_vocab().items())
    return {token_id: LETTERS.index(letter) for token_id, letter in stripped if len(letter) == 1 and letter in LETTERS}


@dataclass(slots=True, kw_only=True)
class LetterRecorder:
    """A logits processor for `generate` that stores the logits of the letter tokens at every step and changes nothing."""

    letters: Mapping[int, int]  # token id -> letter, see `find_letter_tokens`
    logits_TRN: list[torch.Tensor] = field(default_factory=list)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Store the logits of one step."""
        self.logits_TRN.append(scores[:, list(self.letters)].float())
        return scores

    def read(self, tokenizer: Any, completions: Sequence[Completion], prompts: Sequence[Prompt]) -> Iterator[tuple[float, ...] | None]:
        """The probability of each choice, for every completion and its prompt; they sum to 1 over the choices.

        None for open-ended questions and where the answer is not a single letter.
        """
        import torch

        if not self.letters or not self.logits_TRN:
            yield from (None for _ in completions)
            return
        logits_TRN = torch.stack(self.logits_TRN).cpu()
        letters_N = torch.tensor(list(self.letters.values()))
        for row, (completion, prompt) in enumerate(zip(completions, prompts, strict=True)):
            step = find_answer(tokenizer, completion.token_ids, prompt.prefix, self.letters)
            num_choices = len(prompt.sample.choices)
            if step is None or num_choices == 0 or not set(range(num_choices)) <= set(self.letters.values()):
                yield None
                continue
            kept = letters_N < num_choices
            probs = torch.softmax(logits_TRN[step, row, kept].double(), dim=0)
            summed = torch.zeros(num_choices, dtype=torch.float64).index_add_(0, letters_N[kept], probs)
            yield tuple(round(prob, 6) for prob in summed.tolist())


def find_answer(tokenizer: Any, token_ids: Sequence[int], prefix: str, letters: Collection[int]) -> int | None:
    """The decoding step of the answer's letter: after the last <answer> outside <think>, or at the start of a text without tags.

    `prefix` is the text before the tokens, `letters` the ids of letter tokens. None where the answer is the text of a choice, or prose.
    """
    pieces = tokenizer.batch_decode([[token_id] for token_id in token_ids])
    text = prefix + "".join(pieces)
    answer = None
    start = len(prefix)
    for step, (token_id, piece) in enumerate(zip(token_ids, pieces, strict=True)):
        end = start + len(piece)
        if token_id in letters and _AFTER_LETTER.match(text, end):
            head = text[: end - 1].rstrip(_BEFORE_LETTER)
            if head.endswith("<answer>") and head.rfind("<think>") <= head.rfind("</think>"):
                answer = step
            elif "<answer>" not in text and (not head or head.endswith("</think>")):
                return step
        start = end
    return answer
