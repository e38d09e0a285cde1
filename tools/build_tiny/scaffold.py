"""How an option becomes its letter, taught one layer at a time. Only the training needs it: nothing of it is left in the policy.

Left to the last layer's loss alone, letters form late or never, depending on the seed. The way there has three steps, each of which has a
signal only once the others work: the first layer tells each option its letter, the second tells the answer's position its word, and the
third looks from there to the option of that word. Taught each by itself, all three form within two hundred steps.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.build_tiny.fast import FastPath, Row

NAMED: Final = 1  # the layer after which an option's word carries its letter
KNOWN: Final = 3  # the layer after which the answer's position carries its word; the next one's first head looks the option up
MAX_CHOICES: Final = 4


class Scaffold(nn.Module):
    """The three auxiliary losses. B rows, Q queries, O options, D width, H the width of a head."""

    def __init__(self, path: FastPath) -> None:
        super().__init__()
        config = path.language.config
        self._path = (path,)  # in a tuple, so that the policy's parameters are not this module's
        self._head_width = config.hidden_size // config.num_attention_heads
        self.probe = nn.Linear(config.hidden_size, MAX_CHOICES)

    def loss(self, rows: Sequence[Row], states: tuple[Tensor, ...]) -> Tensor:
        """The sum of the three mean cross-entropies; 0 for rows without options."""
        path = self._path[0]
        options = [(index, place, letter) for index, row in enumerate(rows) for letter, place in enumerate(row.options)]
        queries = [(index, query) for index, row in enumerate(rows) for query in row.queries]
        if not options or not queries:
            return torch.zeros(())
        row_O, at_O, letter_O = torch.tensor(options).T
        named = states[NAMED][row_O, at_O]
        row_Q = torch.tensor([index for index, _ in queries])
        at_Q, option_Q, word_Q = torch.tensor([(query.at, query.option, query.word) for _, query in queries]).T
        known = path.head(path.language.norm(states[KNOWN][row_Q, at_Q]))
        look = self._look([rows[index].options for index, _ in queries], row_Q, at_Q, states[KNOWN])
        return (
            F.cross_entropy(self.probe(F.rms_norm(named, named.shape[-1:])), letter_O)
            + F.cross_entropy(known, word_Q)
            + F.cross_entropy(look, option_Q)
        )

    def _look(self, options: Sequence[tuple[int, ...]], row_Q: Tensor, at_Q: Tensor, states: Tensor) -> Tensor:
        """Where the first head of the layer after KNOWN would look, positions left aside: (Q, MAX_CHOICES), -inf for no option."""
        layer: Any = self._path[0].language.layers[KNOWN]
        places = torch.tensor([[*own, *[-1] * (MAX_CHOICES - len(own))] for own in options])
        query_QD = layer.input_layernorm(states[row_Q, at_Q])
        key_QOD = layer.input_layernorm(states[row_Q[:, None], places.clamp(min=0)])
        query_QH, key_QOH = (
            F.linear(inputs, projection.weight[: self._head_width], projection.bias[: self._head_width])
            for inputs, projection in ((query_QD, layer.self_attn.q_proj), (key_QOD, layer.self_attn.k_proj))
        )
        scores = torch.einsum("qh,qoh->qo", query_QH, key_QOH) / self._head_width**0.5
        allowed: Tensor = scores.masked_fill(places < 0, float("-inf"))
        return allowed


def find_options(tokens: Sequence[int], letters: Sequence[int], brackets: Collection[int]) -> tuple[int, ...]:
    r"""The positions of the words in "A) x\nB) y\n..": two after each letter that a bracket follows, in order."""
    places: list[int] = []
    for position in range(len(tokens) - 2):
        if len(places) == len(letters):
            break
        if tokens[position] == letters[len(places)] and tokens[position + 1] in brackets:
            places.append(position + 2)
    return tuple(places)
