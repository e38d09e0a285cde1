"""Expectations in place of samples: the advantages and log-probabilities with which TRL's loss has the gradient of the exact objective.

GRPO draws G completions of a question to estimate the mean of their rewards, its deviation, and a gradient. Where a question has K options,
parts of that estimate can be computed (docs/learning.md derives both cases):

- `expect_branches`: all completions that matter are known, one for each option, with their probabilities;
- `expect_letters`: the reasoning is sampled, and the probability of each option's letter behind it is known.

Both change what TRL's loss function reads, and nothing in it: of an update's first pass every ratio of probabilities is 1, so every loss of
TRL has the gradient of -advantage x log-probability for each token, times what the loss divides by.

Legend: B questions, G rows of each, N = B G, C tokens of a completion, O options, M outcomes of a question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

Scale = Literal["group", "batch", "none"]
"""TRL's `scale_rewards`."""

EPSILON: Final = 1e-4
"""What TRL adds to a deviation before it divides by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What TRL's loss function reads in place of its own, and what is logged."""

    logps_NC: Tensor  # with the gradient that a letter or a branch gets; the values are those of the policy
    advantages_NC: Tensor
    old_logps_NC: Tensor | None
    ref_logps_NC: Tensor | None
    rewards_B: Tensor  # expected reward of each question
    deviations_B: Tensor  # standard deviation of its reward
    kl: Tensor | None = None  # divergence from the reference for each token, beyond that which TRL finds in `logps_NC`
    num_tokens: Tensor | None = None  # of as many samples as there are rows; None where the rows are samples


def moments(weights_BM: Tensor, rewards_BM: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [B] of rewards with these probabilities. What is missing to 1 earns nothing."""
    mean_B = (weights_BM * rewards_BM).sum(dim=1)
    rest_B = (1 - weights_BM.sum(dim=1)).clamp(min=0)
    return mean_B, (weights_BM * (rewards_BM - mean_B[:, None]) ** 2).sum(dim=1) + rest_B * mean_B**2


def divisors(mean_B: Tensor, variance_B: Tensor, scale: Scale) -> Tensor:
    """What advantages are divided by [B]: the deviation of the question's reward, that of all questions together, or 1."""
    if scale == "none":
        return torch.ones_like(mean_B)
    if scale == "batch":
        total = (variance_B + (mean_B - mean_B.mean()) ** 2).mean()
        return (total.sqrt() + EPSILON).expand_as(mean_B)
    return variance_B.sqrt() + EPSILON


def penalty_slope(excess: Tensor, corrects_kl: bool) -> Tensor:
    """The factor of the gradient of a token's log-probability in that of TRL's KL penalty, where the reference's exceeds it by `excess`.

    The penalty is e^x - x - 1 and, with TRL's `use_bias_correction_kl`, that times the ratio of probabilities, which is 1.
    """
    return -excess if corrects_kl else 1 - excess.exp()


def expect_branches(
    logps_NC: Tensor,
    mask_NC: Tensor,
    *,
    rewards_N: Tensor,
    num_tokens_N: Tensor,
    copies_N: Tensor,
    num_generations: int,
    scale: Scale,
    beta: float = 0.0,
    corrects_kl: bool = True,
    old_logps_NC: Tensor | None = None,
    ref_logps_NC: Tensor | None = None,
) -> Expected:
    """For rows that begin with the answers of their question, one answer after the other, or several rows with the same answer.

    The first `num_tokens_N` tokens of a row are the answer, with 0 for a row that stands for nothing; what follows was sampled. `copies_N`
    counts the rows of the question with the same answer. A row then weighs its answer's probability divided by the copies. All other
    completions earn nothing. The penalty for leaving the reference is the expectation of TRL's own.
    """
    places_C = torch.arange(logps_NC.shape[1], device=logps_NC.device)
    is_answer_NC = places_C < num_tokens_N[:, None]
    fixed_NC = logps_NC.detach()
    weights_N = row_weights(fixed_NC, num_tokens_N, copies_N)
    weights_BG, rewards_BG = (rows.view(-1, num_generations) for rows in (weights_N, rewards_N))
    mean_B, variance_B = moments(weights_BG, rewards_BG)
    divisor_N, mean_N = (one.repeat_interleave(num_generations) for one in (divisors(mean_B, variance_B, scale), mean_B))
    # An answer takes its probability from the completions that earn nothing, so its advantage is over 0 and not over the mean.
    above_NC = torch.where(is_answer_NC, rewards_N[:, None], (rewards_N - mean_N)[:, None]) / divisor_N[:, None]
    kl = None
    if ref_logps_NC is not None and beta:
        excess_NC = ref_logps_NC - fixed_NC
        above_NC = above_NC - beta * penalty_slope(excess_NC, corrects_kl)
        spread_NC = weights_N[:, None] * mask_NC
        kl = ((excess_NC.exp() - excess_NC - 1) * spread_NC).sum() / spread_NC.sum().clamp(min=EPSILON)
        ref_logps_NC = fixed_NC  # TRL's own penalty and its gradient are then 0
    if old_logps_NC is not None:
        old_logps_NC = torch.where(is_answer_NC, fixed_NC, old_logps_NC)  # an expectation is always under the present policy
    return Expected(
        logps_NC=logps_NC,
        advantages_NC=num_generations * weights_N[:, None] * above_NC * mask_NC,
        old_logps_NC=old_logps_NC,
        ref_logps_NC=ref_logps_NC,
        rewards_B=mean_B,
        deviations_B=variance_B.sqrt(),
        kl=kl,
        num_tokens=sampled_tokens(weights_N, mask_NC, num_generations),
    )


def row_weights(logps_NC: Tensor, num_tokens_N: Tensor, copies_N: Tensor) -> Tensor:
    """The probability of each row's answer, shared by the rows with the same one [N]; 0 for a row that stands for nothing."""
    inside_NC = torch.arange(logps_NC.shape[1], device=logps_NC.device) < num_tokens_N[:, None]
    probs_N = (logps_NC * inside_NC).sum(dim=1).exp()
    return torch.where(num_tokens_N > 0, probs_N / copies_N.clamp(min=1), 0.0)


def sampled_tokens(weights_N: Tensor, mask_NC: Tensor, num_generations: int) -> Tensor:
    """The expected number of tokens of as many samples as there are rows with these weights."""
    weights_BG, lengths_BG = (rows.view(-1, num_generations) for rows in (weights_N, mask_NC.sum(dim=1)))
    return num_generations * ((weights_BG * lengths_BG).sum(dim=1) / weights_BG.sum(dim=1).clamp(min=EPSILON)).sum()


def expect_letters(
    logps_NC: Tensor,
    letter_logps_NO: Tensor,
    *,
    mask_NC: Tensor,
    place_N: Tensor,
    known_NO: Tensor,
    letter_rewards_NO: Tensor,
    rewards_N: Tensor,
    num_generations: int,
    scale: Scale,
    beta: float = 0.0,
    corrects_kl: bool = True,
    old_logps_NC: Tensor | None = None,
    ref_logps_NC: Tensor | None = None,
    ref_letter_logps_NO: Tensor | None = None,
) -> Expected:
    """For sampled completions in which the letters `known_NO` could stand at `place_N`, each with its reward; -1: nothing is known.

    What is known replaces what was sampled by its expectation, given the reasoning and that a letter follows: reasoning has the expected
    reward of its letters, each letter has the gradient of its own probability, and the deviation is that over completions and letters.
    Tokens after the letter, and completions of which nothing is known, have the reward that was sampled (`rewards_N`).
    """
    has_letter_N = place_N >= 0
    probs_NO = torch.where(known_NO, letter_logps_NO.detach(), -torch.inf).softmax(dim=1)
    probs_NO = torch.where(has_letter_N[:, None], probs_NO, 0.0)  # of rows without letters the softmax is not a number
    expected_N = torch.where(has_letter_N, (probs_NO * letter_rewards_NO).sum(dim=1), rewards_N)
    weights_NM = torch.cat([probs_NO, (~has_letter_N)[:, None].to(probs_NO.dtype)], dim=1) / num_generations
    outcomes_NM = torch.cat([letter_rewards_NO, rewards_N[:, None]], dim=1)
    mean_B, variance_B = moments(*(rows.view(len(rows) // num_generations, -1) for rows in (weights_NM, outcomes_NM)))
    divisor_N, mean_N = (one.repeat_interleave(num_generations) for one in (divisors(mean_B, variance_B, scale), mean_B))

    places_C = torch.arange(logps_NC.shape[1], device=logps_NC.device)
    is_before_NC = has_letter_N[:, None] & (places_C < place_N[:, None])
    is_letter_NC = has_letter_N[:, None] & (places_C == place_N[:, None])
    earned_NC = torch.where(is_before_NC, expected_N[:, None], rewards_N[:, None])
    advantages_NC = (earned_NC - mean_N[:, None]) / divisor_N[:, None]

    pull_NO = probs_NO * (letter_rewards_NO - mean_N[:, None]) / divisor_N[:, None]
    fixed_NC, kl = logps_NC.detach(), None
    if ref_logps_NC is not None and ref_letter_logps_NO is not None and beta:
        # Of the penalty too the letter's part is expected. TRL's own is then 0 there.
        excess_NO = torch.where(known_NO & has_letter_N[:, None], ref_letter_logps_NO - letter_logps_NO.detach(), 0.0)
        pull_NO = pull_NO - beta * probs_NO * penalty_slope(excess_NO, corrects_kl)
        kl = (probs_NO * (excess_NO.exp() - excess_NO - 1)).sum() / mask_NC.sum().clamp(min=1)
        ref_logps_NC = torch.where(is_letter_NC, fixed_NC, ref_logps_NC)
    held_NC = fixed_NC if old_logps_NC is None else old_logps_NC
    gradient_N = (pull_NO * letter_logps_NO).sum(dim=1)
    letter_N1 = held_NC.gather(1, place_N.clamp(min=0)[:, None]) + (gradient_N - gradient_N.detach())[:, None]
    return Expected(
        logps_NC=torch.where(is_letter_NC, letter_N1, logps_NC),
        advantages_NC=torch.where(is_letter_NC, 1.0, advantages_NC),
        old_logps_NC=old_logps_NC,
        ref_logps_NC=ref_logps_NC,
        rewards_B=mean_B,
        deviations_B=variance_B.sqrt(),
        kl=kl,
    )
