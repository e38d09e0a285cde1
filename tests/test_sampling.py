"""Tokens are those of `torch.multinomial`, and so is the state of the generator behind them."""

import pytest
import torch

from osler.training.shared_prefix import sampling


@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize("rows", [range(24), (0, 3, 4, 23), (7,)], ids=len)
def test_tokens_and_stream_are_those_of_multinomial(rows: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, *, one_by_one: bool) -> None:
    if one_by_one and not sampling.draws_one_by_one():
        pytest.skip("this CPU draws exponential numbers with MKL")
    monkeypatch.setattr(sampling, "draws_one_by_one", lambda: one_by_one)
    rows_A = torch.tensor(rows)
    torch.manual_seed(1)
    for sharpness in (0.0, 1.0, 10.0) * 20:
        probs_NV = (torch.randn(24, 301) * sharpness).softmax(dim=-1)
        probs_NV[:, :100] = 0.0  # tokens that are never generated
        state = torch.random.get_rng_state()
        expected_N = torch.multinomial(probs_NV, num_samples=1)[:, 0]
        after = torch.random.get_rng_state()
        torch.random.set_rng_state(state)
        assert torch.equal(sampling.draw_tokens(probs_NV[rows_A], rows_A, 24)[rows_A], expected_N[rows_A])
        assert torch.equal(torch.random.get_rng_state(), after)
