"""The probability of each choice's letter at the token where a completion states its answer, from the logits of decoding.

Legend: R rows of a batch, T decoding steps, N tokens of the vocabulary that stand for one letter.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from osler.policies.letters import option_probabilities
from osler.types import Completion, Prompt

if TYPE_CHECKING:
    import torch

_AFTER_LETTER: Final = re.compile(r"\s*(?:[)\].:,;*<\"']|$)")
_BEFORE_LETTER: Final = " \n([*\"'"


@dataclass(slots=True, kw_only=True)
class LetterRecorder:
    """A logits processor for `generate` that stores the logits of the letter tokens at every step and changes nothing."""

    letters: Mapping[int, int]  # token id -> letter, see `letters.find_letter_tokens`
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
        for row, (completion, prompt) in enumerate(zip(completions, prompts, strict=True)):
            step = find_answer(tokenizer, completion.token_ids, prompt.prefix, self.letters)
            probs = None if step is None else option_probabilities(logits_TRN[step, row], self.letters, len(prompt.sample.choices))
            yield None if probs is None else tuple(round(prob, 6) for prob in probs.tolist())


def find_answer(tokenizer: Any, token_ids: Sequence[int], prefix: str, letters: Collection[int]) -> int | None:
    """The decoding step of the answer's letter, see `find_letter`; `letters` are the ids of letter tokens."""
    pieces = tokenizer.batch_decode([[token_id] for token_id in token_ids])
    return find_letter(pieces, [token_id in letters for token_id in token_ids], prefix)


def find_letter(pieces: Sequence[str], is_letter: Sequence[bool], prefix: str) -> int | None:
    """The index of the token that states the answer: after the last <answer> outside <think>, or at the start of a text without tags.

    `pieces` are the texts of the tokens, `prefix` is the text before them. None where the answer is the text of a choice, or prose.
    """
    text = prefix + "".join(pieces)
    answer = None
    start = len(prefix)
    for step, (has_letter, piece) in enumerate(zip(is_letter, pieces, strict=True)):
        end = start + len(piece)
        if has_letter and _AFTER_LETTER.match(text, end):
            head = text[: end - 1].rstrip(_BEFORE_LETTER)
            if head.endswith("<answer>") and head.rfind("<think>") <= head.rfind("</think>"):
                answer = step
            elif "<answer>" not in text and (not head or head.endswith("</think>")):
                return step
        start = end
    return answer
