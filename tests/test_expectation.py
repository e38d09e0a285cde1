"""Expectations in place of samples have the gradient of the exact objective, on policies small enough to know everything about."""

from typing import Any

import pytest
import torch
from torch import Tensor

from osler.config import PolicyConfig
from osler.errors import PolicyError
from osler.policies.load import load_policy
from osler.training.answer_tokens import AnswerTokens, share_rows
from osler.training.expectation import Expected, Penalty, expect_branches, expect_letters, moments, reward_outside

REWARDS = {
    "one_right": [1.0, 2.0, 1.0],
    "all_equal": [1.0, 1.0, 1.0],
    "nothing": [0.0, 0.0, 0.0],
    "graded": [0.2, -1.0, 0.7],
    "two_right": [2.0, 2.0, 1.0],
}


def surrogate(expected: Expected, mask_NC: Tensor) -> Tensor:
    """What TRL's losses have in common: -advantage x ratio for each token, here summed and divided by the rows (`dr_grpo`)."""
    old_NC = expected.logps_NC.detach() if expected.old_logps_NC is None else expected.old_logps_NC
    return -(((expected.logps_NC - old_NC).exp() * expected.advantages_NC) * mask_NC).sum() / len(mask_NC)


def gradient(value: Tensor, weights: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(value, weights, retain_graph=True)
    return found


def make_branches(*, num_rows: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Two questions of three answers with two tokens each; a fourth first token is no answer. Weights, log-probabilities, mask."""
    weights = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    first_B4 = weights.log_softmax(dim=1)
    second_B4 = (2 * weights + 3).sigmoid().log()  # the end of an answer, which is not certain
    rows_BR2 = torch.stack([first_B4[:, :3], second_B4[:, :3]], dim=2)
    empty = torch.zeros(2, num_rows - 3, 2, dtype=torch.float64)
    logps_NC = torch.cat([rows_BR2, empty], dim=1).flatten(0, 1)
    mask_NC = torch.tensor([1, 1, 1] + [0] * (num_rows - 3)).repeat(2)[:, None].expand(-1, 2)
    return weights, logps_NC, mask_NC


ANSWERS = torch.tensor([0, 1, 2, -1, -1] * 2)


@pytest.mark.parametrize("divides_by_length", [True, False])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("rewards", REWARDS.values(), ids=REWARDS)
def test_branches_have_the_gradient_of_the_expected_reward(scale: Any, rewards: list[float], divides_by_length: bool) -> None:
    weights, logps_NC, mask_NC = make_branches()
    rewards_N = torch.tensor([*rewards, 9.0, 9.0] * 2, dtype=torch.float64)
    tokens_N = mask_NC.sum(dim=1)
    expected = expect_branches(
        logps_NC,
        mask_NC,
        rewards_N=rewards_N,
        num_tokens_N=tokens_N,
        answers_N=ANSWERS,
        num_generations=5,
        scale=scale,
        divides_by_length=divides_by_length,
    )
    probs_BR = logps_NC.sum(dim=1).view(2, 5)[:, :3].exp()
    outside_B, outside = 1 - probs_BR.sum(dim=1), min(0.0, *rewards)
    reward_B = (probs_BR * torch.tensor(rewards)).sum(dim=1) + outside_B * outside
    square_B = (probs_BR * torch.tensor(rewards) ** 2).sum(dim=1) + outside_B * outside**2
    variance_B = (square_B - reward_B**2).detach()
    total = (square_B.mean() - reward_B.mean() ** 2).detach()
    divisor = {"group": variance_B.clamp(min=0).sqrt() + 1e-4, "batch": total.clamp(min=0).sqrt() + 1e-4, "none": 1}[scale]
    torch.testing.assert_close(expected.rewards_B, reward_B.detach())
    torch.testing.assert_close(expected.deviations_B**2, variance_B, atol=1e-12, rtol=1e-6)
    torch.testing.assert_close(gradient(surrogate(expected, mask_NC), weights), -gradient((reward_B / divisor).sum() / 2, weights))


def test_the_deviation_turns_probability_into_its_arcsine() -> None:
    """With one right answer of two and nothing beside them, GRPO climbs 2 arcsin sqrt p, and without the deviation p itself."""
    logit = torch.tensor([[0.7, -0.2]], dtype=torch.float64, requires_grad=True)
    logps_NC, mask_NC = logit.log_softmax(dim=1).T, torch.ones(2, 1)
    known: dict[str, Any] = {"rewards_N": torch.tensor([1.0, 0.0]), "num_tokens_N": torch.ones(2), "answers_N": torch.arange(2)}
    right = logps_NC[0, 0].exp()
    for scale, objective in (("group", 2 * right.sqrt().asin()), ("none", right)):
        expected = expect_branches(logps_NC, mask_NC, num_generations=2, scale=scale, **known)
        torch.testing.assert_close(gradient(surrogate(expected, mask_NC), logit), -gradient(objective, logit), rtol=1e-3, atol=0)


@pytest.mark.parametrize("corrects_kl", [True, False])
def test_the_penalty_is_the_mean_of_that_of_samples(corrects_kl: bool) -> None:
    """TRL's penalty of a sampled token, weighted with the probability of the sample."""
    weights, logps_NC, mask_NC = make_branches()
    ref_NC = (logps_NC - torch.linspace(0, 1, 20).view(10, 2)).detach()
    expected = expect_branches(
        logps_NC,
        mask_NC,
        rewards_N=torch.zeros(10, dtype=torch.float64),
        num_tokens_N=mask_NC.sum(dim=1),
        answers_N=ANSWERS,
        num_generations=5,
        scale="none",
        penalty=Penalty(ref_logps_NC=ref_NC, is_corrected=corrects_kl),
    )
    excess_NC = ref_NC - logps_NC
    kl_NC = excess_NC.exp() - excess_NC - 1
    if corrects_kl:
        kl_NC = kl_NC * (logps_NC - logps_NC.detach()).exp()
    probs_N1 = logps_NC.detach().sum(dim=1, keepdim=True).exp()
    wanted = (5 * probs_N1 * kl_NC * mask_NC).sum()
    assert expected.penalty_NC is not None
    found = (expected.penalty_NC * mask_NC).sum()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient(found, weights), gradient(wanted, weights))


def test_rows_of_an_answer_share_its_probability() -> None:
    """Two rows with one answer weigh as much as one with the mean of their rewards, and their ends are compared with each other."""
    logps = torch.tensor([[-0.5, -0.1], [-0.5, -2.0], [-1.2, -0.3]], dtype=torch.float64, requires_grad=True)
    expected = expect_branches(
        logps,
        torch.ones(3, 2),
        rewards_N=torch.tensor([1.0, 3.0, 0.5]),
        num_tokens_N=torch.tensor([1, 1, 1]),
        answers_N=torch.tensor([1, 1, 0]),
        num_generations=3,
        scale="none",
        old_logps_NC=torch.full((3, 2), -7.0, dtype=torch.float64),
    )
    probs = logps.detach()[:, 0].exp()
    mean = probs[0] * 2 + probs[2] * 0.5
    torch.testing.assert_close(expected.rewards_B, mean[None])
    wanted = 3 * torch.stack([probs[0] / 2 * torch.tensor([1.0, 3.0]), probs[0] / 2 * torch.tensor([-2.0, 2.0])], dim=1)
    torch.testing.assert_close(expected.advantages_NC[:2], wanted, check_dtype=False)
    torch.testing.assert_close(expected.advantages_NC[2, 1], 3 * probs[2] * (0.5 - mean))  # alone, with the question
    assert expected.old_logps_NC is not None
    torch.testing.assert_close(expected.old_logps_NC[:, 0], logps.detach()[:, 0])  # the answer's, of now
    assert (expected.old_logps_NC[:, 1] == -7).all()  # of what was sampled, those of then


@pytest.mark.parametrize("scale", ["group", "none"])
@pytest.mark.parametrize("has_moved", [False, True])
def test_letters_have_the_gradient_of_the_expected_reward(scale: Any, has_moved: bool) -> None:
    """Four rows that stand for all there is: reasonings of probability 1/2, 1/4, 1/4, three letters each, of which one was drawn."""
    reasoning = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log().requires_grad_()
    letters = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([[0.0, 1.0, 0.5], [2.0, 0.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    ref = torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64).log_softmax(dim=1)
    logps_R, logps_RO = reasoning.log_softmax(dim=0), letters.log_softmax(dim=1)
    rows, drawn = [0, 0, 1, 2], [0, 2, 1, 1]
    logps_NC = torch.stack([logps_R[rows], logps_RO[rows, drawn]], dim=1)
    mask_NC = torch.ones(4, 2)
    expected = expect_letters(
        logps_NC,
        logps_RO[rows],
        place_N=torch.ones(4, dtype=torch.long),
        known_NO=torch.ones(4, 3, dtype=torch.bool),
        letter_rewards_NO=rewards[rows],
        rewards_N=rewards[rows, drawn],
        num_generations=4,
        scale=scale,
        old_logps_NC=logps_NC.detach() - 0.3 * torch.tensor([0.0, 1.0]) if has_moved else None,
        penalty=Penalty(
            ref_logps_NC=torch.stack([logps_R[rows], ref[rows, drawn]], dim=1).detach(), ref_letter_logps_NO=ref[rows], is_corrected=True
        ),
    )
    probs_RO = (logps_R[:, None] + logps_RO).exp()
    mean = (probs_RO * rewards).sum()
    deviation = ((probs_RO * (rewards - mean) ** 2).sum().sqrt() + 1e-4).detach() if scale == "group" else 1
    kl = (probs_RO.detach() * ((ref - logps_RO).exp() - (ref - logps_RO) - 1) * (logps_RO - logps_RO.detach()).exp()).sum()
    assert expected.penalty_NC is not None
    penalty = (expected.penalty_NC[:, 1] * mask_NC[:, 1]).sum() / 4
    torch.testing.assert_close(gradient(surrogate(expected, mask_NC), reasoning), gradient(-mean / deviation, reasoning))
    torch.testing.assert_close(gradient(surrogate(expected, mask_NC), letters), gradient(-mean / deviation, letters))
    torch.testing.assert_close(gradient(penalty, letters), gradient(kl, letters))
    torch.testing.assert_close(expected.rewards_B, mean.detach()[None])
    if not has_moved:
        torch.testing.assert_close(expected.logps_NC.detach(), logps_NC.detach())


def test_what_has_no_letter_stays_as_it_was_sampled() -> None:
    logps_NC = torch.tensor([[-1.0, -0.5], [-0.3, -0.2]], requires_grad=True)
    expected = expect_letters(
        logps_NC,
        torch.zeros(2, 2),
        place_N=torch.tensor([-1, -1]),
        known_NO=torch.zeros(2, 2, dtype=torch.bool),
        letter_rewards_NO=torch.full((2, 2), 5.0),
        rewards_N=torch.tensor([1.0, 0.0]),
        num_generations=2,
        scale="none",
    )
    torch.testing.assert_close(expected.advantages_NC, torch.tensor([[0.5, 0.5], [-0.5, -0.5]]))
    torch.testing.assert_close(expected.logps_NC, logps_NC)


def test_groups_whose_letters_agree_still_teach() -> None:
    """All four drew A; sampled rewards have no deviation, expected ones do."""
    logits = torch.tensor([[0.0, 0.1], [0.5, 0.0], [1.0, 0.3], [0.2, 0.2]], requires_grad=True)
    letter_logps = logits.log_softmax(dim=1)
    expected = expect_letters(
        torch.cat([torch.zeros(4, 1), letter_logps[:, :1]], dim=1),
        letter_logps,
        place_N=torch.ones(4, dtype=torch.long),
        known_NO=torch.ones(4, 2, dtype=torch.bool),
        letter_rewards_NO=torch.tensor([[1.0, 0.0]] * 4),
        rewards_N=torch.ones(4),
        num_generations=4,
        scale="group",
    )
    assert expected.deviations_B[0] > 0.4
    found = gradient(surrogate(expected, torch.ones(4, 2)), logits)
    assert (found[:, 0] < 0).all()


@pytest.mark.parametrize(("rest", "mean", "variance"), [(0.0, 0.5, 0.75), (-1.0, 0.0, 1.5)])
def test_what_is_missing_earns_what_is_said(rest: float, mean: float, variance: float) -> None:
    found = moments(torch.tensor([[0.25, 0.25]]), torch.tensor([[2.0, 0.0]]), rest)
    assert tuple(map(float, found)) == (mean, variance)


def test_completions_outside_of_the_answers_never_earn_more_than_the_worst() -> None:
    rewards, is_row = torch.tensor([[2.0, -1.5, -9.0], [0.5, 1.0, 3.0]]), torch.tensor([[True, True, False], [True, True, True]])
    assert reward_outside(rewards, is_row).tolist() == [-1.5, 0.0]


def test_answers_of_no_probability_give_no_gradient() -> None:
    """Their probability is too small for a number."""
    logps = torch.full((2, 3), -90.0, requires_grad=True)
    expected = expect_branches(
        logps,
        torch.ones(2, 3),
        rewards_N=torch.tensor([1.0, 0.0]),
        num_tokens_N=torch.tensor([3, 3]),
        answers_N=torch.arange(2),
        num_generations=2,
        scale="group",
        divides_by_length=True,
    )
    assert gradient(surrogate(expected, torch.ones(2, 3)), logps).tolist() == [[0.0] * 3] * 2
    assert expected.num_tokens is not None
    assert float(expected.num_tokens) == 6


def test_lengths_that_depend_on_the_answer_count_as_in_samples() -> None:
    """For a loss that divides by a completion's length: probabilities .6 and .4, lengths 2 and 20, nothing outside."""
    logit = torch.tensor([[0.6, 0.4]], dtype=torch.float64).log().requires_grad_()
    logps = logit.log_softmax(dim=1)[0]
    logps_NC, mask_NC = torch.zeros(2, 20, dtype=torch.float64), (torch.arange(20) < torch.tensor([[2], [20]])).double()
    logps_NC = torch.cat([logps[:, None], logps_NC[:, 1:]], dim=1)
    expected = expect_branches(
        logps_NC,
        mask_NC,
        rewards_N=torch.tensor([1.0, 0.0], dtype=torch.float64),
        num_tokens_N=torch.ones(2, dtype=torch.long),
        answers_N=torch.arange(2),
        num_generations=2,
        scale="none",
        divides_by_length=True,
    )
    ratio_NC = (logps_NC - logps_NC.detach()).exp()
    found = -((ratio_NC * expected.advantages_NC * mask_NC).sum(dim=1) / mask_NC.sum(dim=1)).mean()
    sampled = -(torch.tensor([0.6, 0.4]) * torch.tensor([0.4, -0.6]) / torch.tensor([2, 20]) * logps).sum()
    torch.testing.assert_close(gradient(found, logit), gradient(sampled, logit), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize(
    ("probs", "rows", "shares"),
    [
        ([0.25] * 4, 8, [2, 2, 2, 2]),
        ([0.9, 0.1], 8, [6, 2]),
        ([1.0, 0.0, 0.0], 5, [3, 1, 1]),
        ([0.0, 0.0], 4, [2, 2]),
        ([0.5, 0.3, 0.2], 3, [1, 1, 1]),
        ([1e-30, 1e-31], 6, [5, 1]),
    ],
)
def test_likelier_answers_get_more_rows(probs: list[float], rows: int, shares: list[int]) -> None:
    assert share_rows(probs, rows) == shares


@pytest.fixture(scope="module")
def answers() -> AnswerTokens:
    return AnswerTokens(load_policy(PolicyConfig(device="cpu")).processor.tokenizer)


@pytest.mark.parametrize(
    ("strategy", "text", "is_whole"),
    [
        ("no_think", "<answer>C</answer><|im_end|>", True),
        ("med_r1_no_think", "<answer>C</answer><|im_end|>", True),
        ("zero_shot", "C<|im_end|>", True),
        ("think_after", "<answer>C", False),
    ],
)
def test_answers_are_enumerated(answers: AnswerTokens, strategy: str, text: str, is_whole: bool) -> None:
    begins = answers.begins(strategy, 26)
    assert len(begins) == 26
    assert answers.tokenizer.decode(begins[2]) == text
    assert answers.is_whole(strategy) == is_whole


def test_a_strategy_that_reasons_first_is_not_enumerated(answers: AnswerTokens) -> None:
    with pytest.raises(PolicyError, match="think reasons before it answers"):
        answers.begins("think", 4)


@pytest.mark.parametrize(
    ("text", "num_choices", "letter"),
    [
        ("<think>A mass.</think><answer>C</answer>", 4, "C"),
        ("<think>A mass.</think> <answer>C</answer>\n", 4, "C"),
        ("<think>Not <b> A.</think><answer> C </answer>", 4, "C"),
        ("<think>A mass.</think><answer>C</answer>", 2, None),
        ("<think>A mass.</think><answer>C) lung</answer>", 4, None),
        ("<answer>C</answer>", 4, None),
        ("<think>A</think><answer>B</answer><answer>C</answer>", 4, None),
        ("<think>A mass.</think><answer>C", 4, None),
        ("<think></think><answer>C</answer>", 4, None),
        ("", 4, None),
    ],
)
def test_the_letter_of_a_completion_is_found(answers: AnswerTokens, text: str, num_choices: int, letter: str | None) -> None:
    ids = answers.tokenizer(text, add_special_tokens=False)["input_ids"]
    found = answers.find_letter(ids, "think", num_choices)
    if letter is None:
        assert found is None
    else:
        assert found is not None
        place, options = found
        assert answers.tokenizer.decode(ids[place]).strip() == letter
        others = [[*ids[:place], token, *ids[place + 1 :]] for token in options]
        start = text.rindex(letter)
        assert [answers.tokenizer.decode(own) for own in others] == [f"{text[:start]}{own}{text[start + 1 :]}" for own in "ABCD"]
