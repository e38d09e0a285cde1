"""Expectations in place of samples: the advantages and log-probabilities with which TRL's loss has the gradient of the exact objective.

GRPO draws G completions of a question to estimate the mean of their rewards, its deviation, and a gradient. Where a question has K options,
parts of that estimate can be computed (docs/learning.md derives both cases):

- `expect_branches`: all completions that matter are known, one for each option, with their probabilities;
- `expect_letters`: the reasoning is sampled, and the probability of each option's letter behind it is known.

Both change what TRL's loss function reads, and nothing in it: where the ratio of probabilities is 1, every loss of TRL has the gradient of
-advantage x log-probability for each token, times what the loss divides by. The penalty for leaving the reference is computed here too,
because TRL's has the same weight for every row.

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
class Penalty:
    """The settings of the penalty for leaving the reference."""

    ref_logps_NC: Tensor
    ref_letter_logps_NO: Tensor | None = None
    is_corrected: bool = True  # TRL's `use_bias_correction_kl`

    def of(self, ref_logps: Tensor, logps: Tensor) -> Tensor:
        """TRL's estimate for tokens, with its gradient: e^x - x - 1, if corrected times the ratio of probabilities, which is 1."""
        excess = ref_logps - logps
        kl = excess.exp() - excess - 1
        return kl * (logps - logps.detach()).exp() if self.is_corrected else kl


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What TRL's loss function reads in place of its own, and what is logged."""

    logps_NC: Tensor  # with the gradient that a letter or a branch gets; the values are those of the policy
    advantages_NC: Tensor
    old_logps_NC: Tensor | None
    penalty_NC: Tensor | None  # for each token, with its gradient; None without a reference
    rewards_B: Tensor  # expected reward of each question
    deviations_B: Tensor  # standard deviation of its reward
    num_tokens: Tensor | None = None  # of as many samples as there are rows; None where the rows are samples


def moments(weights_BM: Tensor, rewards_BM: Tensor, rest_B: Tensor | float | None = None) -> tuple[Tensor, Tensor]:
    """Mean and variance [B] of rewards with these probabilities. What is missing to 1 earns `rest_B`; None: nothing is missing."""
    if rest_B is None:
        mean_B = (weights_BM * rewards_BM).sum(dim=1)
        return mean_B, (weights_BM * (rewards_BM - mean_B[:, None]) ** 2).sum(dim=1)
    missing_B = (1 - weights_BM.sum(dim=1)).clamp(min=0)
    mean_B = (weights_BM * rewards_BM).sum(dim=1) + missing_B * rest_B
    return mean_B, (weights_BM * (rewards_BM - mean_B[:, None]) ** 2).sum(dim=1) + missing_B * (rest_B - mean_B) ** 2


def reward_outside(rewards_BG: Tensor, is_row_BG: Tensor) -> Tensor:
    """What completions earn that are no enumerated answer [B]: nothing, and never more than the worst answer."""
    return torch.where(is_row_BG, rewards_BG, torch.inf).amin(dim=1).clamp(max=0)


def divisors(mean_B: Tensor, variance_B: Tensor, scale: Scale) -> Tensor:
    """What advantages are divided by [B]: the deviation of the question's reward, that of all questions together, or 1."""
    if scale == "none":
        return torch.ones_like(mean_B)
    if scale == "batch":
        return (total_deviation(mean_B, variance_B) + EPSILON).expand_as(mean_B)
    return variance_B.sqrt() + EPSILON


def total_deviation(mean_B: Tensor, variance_B: Tensor) -> Tensor:
    """The standard deviation over all questions, which are equally likely."""
    return (variance_B + (mean_B - mean_B.mean()) ** 2).mean().sqrt()


def expect_branches(
    logps_NC: Tensor,
    mask_NC: Tensor,
    *,
    rewards_N: Tensor,
    num_tokens_N: Tensor,
    answers_N: Tensor,
    num_generations: int,
    scale: Scale,
    divides_by_length: bool = False,
    old_logps_NC: Tensor | None = None,
    penalty: Penalty | None = None,
) -> Expected:
    """For rows that begin with the answers of their question, one answer after the other, or several rows with the same answer.

    The first `num_tokens_N` tokens of a row are the answer, with 0 for a row that stands for nothing; what follows was sampled. `answers_N`
    numbers the answers of a question; a row weighs its answer's probability divided by the rows that share it. Other completions earn what
    `reward_outside` says; for a loss that divides by a completion's length they have the mean one.
    """
    places_C = torch.arange(logps_NC.shape[1], device=logps_NC.device)
    is_answer_NC = places_C < num_tokens_N[:, None]
    fixed_NC = logps_NC.detach()
    times = num_generations
    same_BGG = share_answer(num_tokens_N.view(-1, times), answers_N.view(-1, times))
    weights_N = row_weights(fixed_NC, num_tokens_N, same_BGG)
    weights_BG, rewards_BG = weights_N.view(-1, times), rewards_N.view(-1, times)
    outside_B = reward_outside(rewards_BG, num_tokens_N.view(-1, times) > 0)
    mean_B, variance_B = moments(weights_BG, rewards_BG, outside_B)
    divisor_N, mean_N, outside_N = (one.repeat_interleave(times) for one in (divisors(mean_B, variance_B, scale), mean_B, outside_B))
    share_N = torch.ones_like(weights_N)
    if divides_by_length:
        lengths_BG = mask_NC.sum(dim=1).view(-1, times)
        share_N = (lengths_BG / mean_length(weights_BG, lengths_BG)[:, None]).flatten()
    # An answer takes its probability from all other completions: above the mean, and by as much as they are below it.
    answer_N = rewards_N - mean_N + (mean_N - outside_N) * share_N
    sampled_N = rewards_N - baseline(rewards_BG, same_BGG, mean_B).flatten()
    above_NC = torch.where(is_answer_NC, answer_N[:, None], sampled_N[:, None]) / divisor_N[:, None]
    if old_logps_NC is not None:
        old_logps_NC = torch.where(is_answer_NC, fixed_NC, old_logps_NC)  # an expectation is always under the present policy
    penalty_NC = None if penalty is None else times * weights_N[:, None] * penalty.of(penalty.ref_logps_NC, logps_NC)
    return Expected(
        logps_NC=logps_NC,
        advantages_NC=times * weights_N[:, None] * above_NC * mask_NC,
        old_logps_NC=old_logps_NC,
        penalty_NC=penalty_NC,
        rewards_B=mean_B,
        deviations_B=variance_B.sqrt(),
        num_tokens=sampled_tokens(weights_N, mask_NC, times),
    )


def share_answer(num_tokens_BG: Tensor, answers_BG: Tensor) -> Tensor:
    """Which rows of a question begin with the same answer, [B, G, G] bool; a row that stands for nothing shares none."""
    is_row_BG = num_tokens_BG > 0
    return (answers_BG[:, :, None] == answers_BG[:, None]) & is_row_BG[:, :, None] & is_row_BG[:, None]


def row_weights(logps_NC: Tensor, num_tokens_N: Tensor, same_BGG: Tensor) -> Tensor:
    """The probability of each row's answer, shared by the rows with the same one [N]; 0 for a row that stands for nothing."""
    inside_NC = torch.arange(logps_NC.shape[1], device=logps_NC.device) < num_tokens_N[:, None]
    probs_N = (logps_NC * inside_NC).sum(dim=1).exp()
    return torch.where(num_tokens_N > 0, probs_N / same_BGG.sum(dim=2).flatten().clamp(min=1), 0.0)


def baseline(rewards_BG: Tensor, same_BGG: Tensor, mean_B: Tensor) -> Tensor:
    """What a sampled continuation is compared with [B, G]: the mean of the other rows with its answer; without any, of the question."""
    num_others_BG = same_BGG.sum(dim=2) - 1
    others_BG = (same_BGG * rewards_BG[:, None]).sum(dim=2) - rewards_BG
    return torch.where(num_others_BG > 0, others_BG / num_others_BG.clamp(min=1), mean_B[:, None])


def mean_length(weights_BG: Tensor, lengths_BG: Tensor) -> Tensor:
    """The mean number of tokens of the answers' rows [B]; where their weights are too small for a number, that of all of them."""
    is_tiny_B1 = weights_BG.sum(dim=1, keepdim=True) < torch.finfo(weights_BG.dtype).tiny
    weights_BG = torch.where(is_tiny_B1, (lengths_BG > 0).to(weights_BG.dtype), weights_BG)
    return (weights_BG * lengths_BG).sum(dim=1) / weights_BG.sum(dim=1)


def sampled_tokens(weights_N: Tensor, mask_NC: Tensor, num_generations: int) -> Tensor:
    """The expected number of tokens of as many samples as there are rows with these weights."""
    weights_BG, lengths_BG = (rows.view(-1, num_generations) for rows in (weights_N, mask_NC.sum(dim=1)))
    return num_generations * mean_length(weights_BG, lengths_BG).sum()


def expect_letters(
    logps_NC: Tensor,
    letter_logps_NO: Tensor,
    *,
    place_N: Tensor,
    known_NO: Tensor,
    letter_rewards_NO: Tensor,
    rewards_N: Tensor,
    num_generations: int,
    scale: Scale,
    old_logps_NC: Tensor | None = None,
    penalty: Penalty | None = None,
) -> Expected:
    """For sampled completions in which the letters `known_NO` could stand at `place_N`, each with its reward; -1: nothing is known.

    What is known replaces what was sampled by its expectation, given the reasoning and that a letter follows: reasoning has the expected
    reward of its letters, each letter has the gradient of its own probability, and the deviation is that over completions and letters.
    Tokens after the letter, and completions of which nothing is known, have the reward that was sampled (`rewards_N`).
    """
    has_letter_N = place_N >= 0
    known_NO = known_NO & has_letter_N[:, None]
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
    held_NC = logps_NC.detach() if old_logps_NC is None else old_logps_NC  # so that the letter's ratio is 1
    gradient_N = (pull_NO * letter_logps_NO).sum(dim=1)
    letter_N1 = held_NC.gather(1, place_N.clamp(min=0)[:, None]) + (gradient_N - gradient_N.detach())[:, None]
    penalty_NC = None
    if penalty is not None and penalty.ref_letter_logps_NO is not None:
        of_letters_NO = torch.where(known_NO, penalty.of(penalty.ref_letter_logps_NO, letter_logps_NO), 0.0)
        of_letter_N1 = (probs_NO * of_letters_NO).sum(dim=1, keepdim=True)
        penalty_NC = torch.where(is_letter_NC, of_letter_N1, penalty.of(penalty.ref_logps_NC, logps_NC))
    return Expected(
        logps_NC=torch.where(is_letter_NC, letter_N1, logps_NC),
        advantages_NC=torch.where(is_letter_NC, 1.0, advantages_NC),
        old_logps_NC=old_logps_NC,
        penalty_NC=penalty_NC,
        rewards_B=mean_B,
        deviations_B=variance_B.sqrt(),
    )


def given_an_answer(logps_NC: Tensor, rewards_N: Tensor, num_tokens_N: Tensor, num_generations: int, scale: Scale) -> tuple[Tensor, Tensor]:
    """A number [B] with the gradient of the expected reward given that the policy answers, divided by the deviation; and that reward [B].

    Rows are those of `expect_branches`, each a whole answer. What all answers earn, such as the reward of their format, has no gradient
    here, so the probability of the format stays as it is.
    """
    logits_BG = torch.where(num_tokens_N > 0, logps_NC.sum(dim=1), -torch.inf).view(-1, num_generations)
    probs_BG, rewards_BG = logits_BG.softmax(dim=1), rewards_N.view(-1, num_generations)
    mean_B, variance_B = moments(probs_BG.detach(), rewards_BG)
    excess_BG = (rewards_BG - mean_B[:, None]) / divisors(mean_B, variance_B, scale)[:, None]
    return (probs_BG * excess_BG).sum(dim=1), mean_B
