"""Auxiliary losses on hidden states that teach the model to answer an option by its letter. The head is discarded after training.

With the loss of the last layer alone this is learnt late or never, depending on the seed. It needs three steps, and each step has a
gradient only once the others work: the first layer writes the letter of each option into the position of the option, the third layer writes
the token of the answer into the position of the query, and the attention of the fourth layer finds the option with that token. With one
loss for each step, all three are learnt within two hundred updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.build_tiny.batched_model import BatchedModel
from tools.build_tiny.rows import MAX_CHOICES, TrainingRow

LETTER_LAYER: Final = 1  # after this layer the state of an option token encodes the option's letter
ANSWER_LAYER: Final = 3  # after this layer the state of a query encodes the answer's token; the next layer attends to that option


class AuxiliaryHead(nn.Module):
    """A linear classifier of letters, and the three losses. B rows, Q queries, O options, D hidden size, H size of an attention head."""

    def __init__(self, model: BatchedModel) -> None:
        super().__init__()
        config = model.language.config
        self._model = (model,)  # in a tuple, so that the policy's parameters are not this module's
        self._head_size = config.hidden_size // config.num_attention_heads
        self.letter_classifier = nn.Linear(config.hidden_size, MAX_CHOICES)

    def loss(self, rows: Sequence[TrainingRow], hidden_states: tuple[Tensor, ...]) -> Tensor:
        """The sum of the three mean cross-entropies; 0 for rows without options. `hidden_states`: (B, L, D) for each layer."""
        model = self._model[0]
        options = [(index, position, letter) for index, row in enumerate(rows) for letter, position in enumerate(row.option_positions)]
        queries = [(index, query) for index, row in enumerate(rows) for query in row.queries]
        if not options or not queries:
            return torch.zeros(())
        row_O, position_O, letter_O = torch.tensor(options).T
        option_OD = hidden_states[LETTER_LAYER][row_O, position_O]
        row_Q = torch.tensor([index for index, _ in queries])
        position_Q, option_Q, token_Q = torch.tensor([(query.position, query.option, query.option_token) for _, query in queries]).T
        answer_QV = model.head(model.language.norm(hidden_states[ANSWER_LAYER][row_Q, position_Q]))
        scores_QO = self._attention_scores(
            [rows[index].option_positions for index, _ in queries], row_Q, position_Q, hidden_states[ANSWER_LAYER]
        )
        return (
            F.cross_entropy(self.letter_classifier(F.rms_norm(option_OD, option_OD.shape[-1:])), letter_O)
            + F.cross_entropy(answer_QV, token_Q)
            + F.cross_entropy(scores_QO, option_Q)
        )

    def _attention_scores(self, options: Sequence[tuple[int, ...]], row_Q: Tensor, position_Q: Tensor, states: Tensor) -> Tensor:
        """Attention scores (Q, MAX_CHOICES) of each query for its row's options, -inf where a row has fewer options.

        They are those of the first head of the layer after ANSWER_LAYER, without the rotary position embedding.
        """
        layer: Any = self._model[0].language.layers[ANSWER_LAYER]
        position_QO = torch.tensor([[*positions, *[-1] * (MAX_CHOICES - len(positions))] for positions in options])
        query_QD = layer.input_layernorm(states[row_Q, position_Q])
        key_QOD = layer.input_layernorm(states[row_Q[:, None], position_QO.clamp(min=0)])
        query_QH, key_QOH = (
            F.linear(inputs, projection.weight[: self._head_size], projection.bias[: self._head_size])
            for inputs, projection in ((query_QD, layer.self_attn.q_proj), (key_QOD, layer.self_attn.k_proj))
        )
        scores_QO = torch.einsum("qh,qoh->qo", query_QH, key_QOH) / self._head_size**0.5
        masked_QO: Tensor = scores_QO.masked_fill(position_QO < 0, float("-inf"))
        return masked_QO
