"""The tokens of a vocabulary that stand for an option's letter, and the probabilities of the options from their logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from osler.types import LETTERS

if TYPE_CHECKING:
    import torch

_TOKEN_PREFIX: Final = "ĠĊ▁ \n>([*\"'"
"""What may precede the letter in a token: the vocabulary's characters for space and newline, and the end of "<answer>"."""


def find_letter_tokens(tokenizer: Any) -> dict[int, int]:
    """The tokens that stand for one letter, alone or after a space or ">" ("B", " B", ">B"): token id -> letter, 1 for B."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    return {token_id: letter for text, token_id in vocabulary if (letter := letter_of(text)) is not None}


def letter_of(token: str) -> int | None:
    """The letter that the text of a token stands for, 1 for "B", " B" and ">B"; None for any other token."""
    letter = token.lstrip(_TOKEN_PREFIX)
    return LETTERS.index(letter) if len(letter) == 1 and letter in LETTERS else None


def option_probabilities(logits_N: torch.Tensor, letters: Mapping[int, int], num_choices: int) -> torch.Tensor | None:
    """The probability of each choice [num_choices], float64, with sum 1, from the logits of the letter tokens, in the order of `letters`.

    None without choices, and where a choice's letter has no token.
    """
    import torch

    if num_choices == 0 or not set(range(num_choices)) <= set(letters.values()):
        return None
    letters_N = torch.tensor(list(letters.values()), device=logits_N.device)
    kept = letters_N < num_choices
    probs = torch.softmax(logits_N[kept].double(), dim=0)
    return torch.zeros(num_choices, dtype=torch.float64, device=logits_N.device).index_add_(0, letters_N[kept], probs)
