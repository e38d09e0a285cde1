"""The next token of every completion of a running batch, each by the settings of its own request.

Legend: A completions, V vocabulary, N tokens of letters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from osler.config import SamplingConfig
from osler.training.shared_prefix.rollout import Decoding

_SEED_BYTES: Final = 7


@dataclass(slots=True, kw_only=True, eq=False)
class Draws:
    """How one completion is continued, and its random numbers, which depend on nothing but its request's seed and its index."""

    sampling: SamplingConfig | None  # None: greedy
    uniform_T: list[float] = field(default_factory=list)  # one number in [0, 1) for each token; empty if greedy
    seen_V: Tensor | None = None  # tokens of the prompt and the completion, where they are penalised
    num_top: int | None = None  # None: no log-probabilities
    wants_letters: bool = False
    num_drawn: int = 0

    @classmethod
    def begin(cls, sampling: SamplingConfig | None, *, seed: int, index: int, max_tokens: int, num_top: int | None, letters: bool) -> Draws:
        """Those of the completion `index` of a request."""
        uniform: list[float] = []
        if sampling is not None:
            digest = hashlib.sha256(f"{seed} {index}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:_SEED_BYTES]))
            # In single precision, so that a number times a total in double precision is less than the total.
            uniform = torch.rand(max_tokens, generator=generator, dtype=torch.float32).tolist()
        return cls(sampling=sampling, uniform_T=uniform, num_top=num_top, wants_letters=letters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The log-probability of a token, and the most likely tokens with theirs, most likely first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """The next token of each completion."""

    tokens: list[int]
    is_finite: list[bool]  # False where the policy gave no finite logit: the token means nothing
    scores: Mapping[int, Scores]  # by row, for those that want log-probabilities
    letter_logits: Mapping[int, Tensor]  # by row, [N] on the CPU, where the token is a letter and its completion wants letters


class Sampler:
    """Picks tokens as Transformers' `generate` does, with the same filters in the same order. `letters`: the ids of letter tokens."""

    def __init__(self, suppressed_ids: Sequence[int], letters: Sequence[int]) -> None:
        self.suppressed_ids, self.letters = list(suppressed_ids), list(letters)
        self._letter_set = set(letters)

    def pick(self, logits_AV: Tensor, draws: Sequence[Draws]) -> Picked:
        """The next tokens. `logits_AV` is overwritten."""
        logits_AV = logits_AV.float()
        scored = [row for row, own in enumerate(draws) if own.num_top is not None]
        logs = logits_AV[scored].log_softmax(dim=-1) if scored else None
        self._penalise(logits_AV, draws)
        logits_AV[:, self.suppressed_ids] = float("-inf")
        tokens_A = logits_AV.argmax(dim=-1)
        for rows, sampling in _groups(draws):
            tokens_A[rows] = self._draw(logits_AV[rows], sampling, [draws[row].uniform_T[draws[row].num_drawn] for row in rows])
        finite_A = logits_AV.gather(1, tokens_A[:, None])[:, 0].isfinite()
        tokens = tokens_A.tolist()
        for token, own in zip(tokens, draws, strict=True):
            own.num_drawn += 1
            if own.seen_V is not None:
                own.seen_V[token] = True
        return Picked(
            tokens=tokens,
            is_finite=finite_A.tolist(),
            scores={} if logs is None else _read_scores(logs, scored, tokens_A, draws),
            letter_logits={
                row: logits_AV[row, self.letters].cpu()
                for row, (token, own) in enumerate(zip(tokens, draws, strict=True))
                if own.wants_letters and token in self._letter_set
            },
        )

    def _penalise(self, logits_AV: Tensor, draws: Sequence[Draws]) -> None:
        """Transformers' repetition penalty (CTRL, arXiv 1909.05858), for the tokens of prompt and completion."""
        for row, own in enumerate(draws):
            if own.seen_V is not None and own.sampling is not None:
                logits_V, penalty = logits_AV[row], own.sampling.repetition_penalty
                penalised_V = torch.where(logits_V < 0, logits_V * penalty, logits_V / penalty)
                logits_AV[row] = torch.where(own.seen_V, penalised_V, logits_V)

    def _draw(self, logits_AV: Tensor, sampling: SamplingConfig, uniform: Sequence[float]) -> Tensor:
        """A token [A] for each row, by the inverse of the cumulative distribution."""
        own = sampling.model_dump(include={"temperature", "top_p", "top_k", "min_p"})
        filters = Decoding(max_new_tokens=1, stop_ids=(), pad_id=0, **own).processors(logits_AV.device)
        probs_AV = filters(torch.empty(0), logits_AV).softmax(dim=-1)
        total_AV = probs_AV.double().cumsum(dim=-1)
        uniform_A1 = torch.tensor(uniform, dtype=torch.float64, device=probs_AV.device)[:, None]
        # The first token whose cumulative probability is larger: it has a probability above 0.
        return torch.searchsorted(total_AV, uniform_A1 * total_AV[:, -1:], right=True)[:, 0].clamp(max=probs_AV.shape[1] - 1)


def _groups(draws: Sequence[Draws]) -> list[tuple[list[int], SamplingConfig]]:
    """The rows that are sampled, together with those of equal settings."""
    groups: dict[tuple[float | None, ...], tuple[list[int], SamplingConfig]] = {}
    for row, own in enumerate(draws):
        if (sampling := own.sampling) is not None:
            key = (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p)
            groups.setdefault(key, ([], sampling))[0].append(row)
    return list(groups.values())


def _read_scores(logs: Tensor, rows: Sequence[int], tokens_A: Tensor, draws: Sequence[Draws]) -> dict[int, Scores]:
    """The scores of some `rows`, whose log-probabilities are `logs`."""
    own = logs.gather(1, tokens_A[list(rows), None])[:, 0].tolist()
    most = min(max(draws[row].num_top or 0 for row in rows), logs.shape[1])
    values, ids = (part.tolist() for part in logs.topk(most, dim=-1)) if most else ([()] * len(rows), [()] * len(rows))
    return {
        row: Scores(logprob=logprob, top=tuple(zip(top_ids, top_values, strict=True))[: draws[row].num_top])
        for row, logprob, top_ids, top_values in zip(rows, own, ids, values, strict=True)
    }
