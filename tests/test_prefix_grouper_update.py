"""PrefixGrouper computes what TRL computes, so that the benchmark compares times of equal results. Skipped where it is not installed."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_prefix_cases import ONE, UNLIKE, make_completions, make_sharp, read_prompts, score_plainly, with_gradient

from osler.policies.quiet import quiet_training

pytest.importorskip("prefix_grouper")


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize(
    ("samples", "lengths"), [(ONE, [5, 5, 5]), (ONE, [2, 6, 1]), (UNLIKE, [4, 7, 1, 3, 3, 5])], ids=["equal", "ragged", "two_groups"]
)
def test_log_probabilities_and_gradients_are_the_same(model_type: str, samples: list[Any], lengths: list[int]) -> None:
    from prefix_grouper_update import import_prefix_grouper, keep_completions, score_grouped

    model, prompts, completions = make_sharp(model_type), read_prompts(model_type, samples), make_completions(lengths)
    plain = with_gradient(model, score_plainly(model, prompts, [len(sample.images) for sample in samples], *completions))
    model.model.register_forward_hook(keep_completions, with_kwargs=True)
    grouped = with_gradient(model, score_grouped(import_prefix_grouper(), model, model, prompts, *completions))
    for found, expected in zip(grouped[:2], plain[:2], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (grouped[2] - plain[2]).norm() < 1e-5 * plain[2].norm()


@pytest.mark.slow
def test_steps_of_all_trainers_are_compared_and_measured() -> None:
    import grpo_update
    from grpo_step import Shape

    shape = Shape(size=56, prompt=40, completion=4, groups=2, num_generations=2)
    with quiet_training():
        # asserts that completions, losses, scores and gradients are equal
        times, differences = grpo_update.measure_times(shape, 1, time.perf_counter)
        memory = grpo_update.measure_memory("PrefixGrouper", shape)
    assert times.keys() == grpo_update.TRAINERS.keys()
    assert all(0 < own["update"][0] < own["step"][0] for own in times.values())
    assert max(differences.values()) <= grpo_update.TOLERANCE
    assert memory is None or memory["step"] >= memory["update"]
