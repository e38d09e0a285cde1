"""One training sequence: its tokens, its labels, and the positions that the auxiliary losses use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

IGNORE_INDEX: Final = -100  # a label without loss: the default of torch.nn.functional.cross_entropy
MAX_CHOICES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A position at which the model predicts the letter of an option."""

    position: int
    option: int  # index into the row's option_positions
    option_token: int  # the token of that option


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRow:
    """One sequence. `labels[t]` is the token to predict at position t, or IGNORE_INDEX."""

    tokens: list[int]
    labels: list[int]
    option_positions: tuple[int, ...] = ()  # where the option tokens stand, in the order of their letters
    queries: tuple[Query, ...] = ()
