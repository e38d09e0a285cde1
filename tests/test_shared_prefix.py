"""Log-probabilities and gradients of packed rows are those of the model, and what cannot be packed is named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_prefix_cases import (
    ONE,
    PAIR,
    UNLIKE,
    make_completions,
    make_sharp,
    read_groups,
    read_prompts,
    score_plainly,
    with_gradient,
)
from tiny_checkpoint import make_model

from osler.policies.families import FAMILIES
from osler.training.shared_prefix.attention import install
from osler.training.shared_prefix.packed_row import find_obstacle, pack, prefill, score_after_cache, score_packed


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


BATCHES = [
    ("equal", ONE, [5, 5, 5]),
    ("ragged", ONE, [2, 6, 1]),
    ("two_groups", UNLIKE, [4, 7, 1, 3, 3, 5]),
    ("two_images", PAIR, [4, 4, 4, 2, 6, 1]),
    ("empty_completion", UNLIKE, [4, 0, 3, 5, 2, 0]),
]


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize(("samples", "lengths"), [row[1:] for row in BATCHES], ids=[row[0] for row in BATCHES])
def test_log_probabilities_and_gradients_are_the_same(model_type: str, samples: list[Any], lengths: list[int]) -> None:
    model, prompts, completions = make_sharp(model_type), read_prompts(model_type, samples), make_completions(lengths)
    plain = with_gradient(model, score_plainly(model, prompts, [len(sample.images) for sample in samples], *completions))
    install(model)
    shared = with_gradient(model, score_packed(model, prompts, *completions, model))
    assert_same_scores(shared, plain)


def assert_same_scores(found: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    """Log-probabilities, entropies and the gradient."""
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-5)
    assert (found[2] - expected[2]).norm() < 1e-5 * expected[2].norm()


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize(("samples", "lengths"), [row[1:] for row in BATCHES], ids=[row[0] for row in BATCHES])
def test_an_update_goes_on_from_what_was_read(model_type: str, samples: list[Any], lengths: list[int], together: int) -> None:
    """The prompts are read before, one by one or together, and padded where their lengths differ; the gradient reaches their images."""
    model, groups, completions = make_sharp(model_type), read_groups(model_type, samples), make_completions(lengths)
    counts = [len(sample.images) for sample in samples]
    plain = with_gradient(model, score_plainly(model, groups.prompts(range(len(samples))), counts, *completions))
    install(model)
    read = [prefill(model, groups.prompts(chunk)) for chunk in groups.chunks(together)]
    assert_same_scores(with_gradient(model, score_after_cache(model, read, *completions, model)), plain)


def shift_branches(inputs: dict[str, Any]) -> None:
    inputs["position_ids"][..., -inputs["layout"].num_scored :] += 1


def forget_images(inputs: dict[str, Any]) -> None:
    inputs["position_ids"] = torch.arange(inputs["input_ids"].shape[1]).expand(3, 1, -1)


def leak_ahead(inputs: dict[str, Any]) -> None:
    inputs["layout"] = replace(inputs["layout"], mask=torch.zeros_like(inputs["layout"].mask))


def swap_branches(inputs: dict[str, Any]) -> None:
    layout = inputs["layout"]
    inputs["layout"] = replace(layout, branch_NC=layout.branch_NC.flip(0))


MUTANTS = [shift_branches, forget_images, leak_ahead, swap_branches]


@pytest.mark.parametrize("mutate", MUTANTS)
def test_a_wrong_row_is_seen(mutate: Callable[[dict[str, Any]], None]) -> None:
    model, prompts, completions = make_sharp("qwen2_vl"), read_prompts("qwen2_vl", UNLIKE), make_completions([4, 4, 4, 4, 4, 4])
    install(model)
    inputs = pack(model, prompts, *completions)
    with torch.no_grad():
        right = model(**inputs, fused_lm_head=True).log_probs
        mutate(inputs)
        wrong = model(**inputs, fused_lm_head=True).log_probs
    assert (right - wrong).abs().max() > 0.01


def test_another_attention_refuses_a_packed_row() -> None:
    model, prompts, completions = make_sharp("qwen2_vl"), read_prompts("qwen2_vl", ONE), make_completions([4, 4, 4])
    with pytest.raises(RuntimeError, match="must match the size"):
        score_packed(model, prompts, *completions, model)


def attend_eagerly(model: Any) -> None:
    model.config.text_config._attn_implementation = "eager"


def attend_to_a_window(model: Any) -> None:
    model.config.text_config.layer_types = ["full_attention", "sliding_attention"]


def drop_out(model: Any) -> None:
    model.config.text_config.attention_dropout = 0.1


def become_another(model: Any) -> None:
    model.config.model_type = "other_vl"


OBSTACLES = [
    (attend_eagerly, "eager, not sdpa"),
    (attend_to_a_window, "a window"),
    (drop_out, "dropout"),
    (become_another, "no supported family"),
]


@pytest.mark.parametrize(("change", "reason"), OBSTACLES)
def test_an_obstacle_is_named(change: Callable[[Any], None], reason: str) -> None:
    model = make_model("qwen2_vl")
    assert find_obstacle(model) is None
    change(model)
    assert reason in str(find_obstacle(model))


def test_the_attention_is_not_saved(tmp_path: Path) -> None:
    model = make_model("qwen2_vl")
    install(model)
    model.save_pretrained(tmp_path / "saved")
    assert "osler" not in (tmp_path / "saved" / "config.json").read_text()
