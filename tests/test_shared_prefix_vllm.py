"""vLLM beside shared prefixes: one request for all completions of a prompt, the shared update still on. vLLM itself is not run here."""

import inspect
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_prefix_cases import pay, pay_some, run
from tiny_checkpoint import save_tiny
from trl.generation import vllm_generation

pytestmark = pytest.mark.integration


@dataclass(kw_only=True)
class ScriptedVLLM:
    """Stands where TRL's VLLMGeneration does and writes completions that follow from the prompt and their number."""

    mode: str = "colocate"
    tensor_parallel_size: int = 1
    generation_kwargs: dict[str, Any] = field(default_factory=dict)
    requests: list[tuple[int, int]] = field(default_factory=list)  # prompts, and completions of each
    written: int = 0

    def sync_weights(self) -> None:
        """Nothing to send."""

    def generate(self, prompts: list[list[int]], images: Any, **_: Any) -> tuple[Any, ...]:
        """One completion of each prompt, or as many as `n` says, with a log-probability for each token."""
        assert images is None or len(images) == len(prompts)
        times = self.generation_kwargs.get("n", 1)
        self.requests.append((len(prompts), times))
        completions = []
        for prompt in prompts:
            for _ in range(times):
                self.written += 1
                completions.append([(sum(prompt) + self.written * 31 + place) % 250 for place in range(1 + self.written % 5)])
        return prompts, completions, [[[-math.log(250)] for _ in tokens] for tokens in completions], None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("policies") / "sharp", hidden=32, layers=2)


ENGINES = [
    ("own_process", {}, (2, 2)),
    ("server", {"mode": "server"}, (4, 1)),  # TRL itself takes every second prompt and asks for two
    ("several_gpus", {"tensor_parallel_size": 2}, (4, 1)),
]


# Whether the update is corrected does not depend on where the engine is.
@pytest.mark.parametrize(
    ("engine", "asked", "corrects"),
    [
        pytest.param(*row[1:], corrects, id=f"{corrects}-{row[0]}", marks=[] if corrects or row[0] == "own_process" else [pytest.mark.slow])
        for corrects in (True, False)
        for row in ENGINES
    ],
)
def test_a_training_with_vllm_is_the_same(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: dict[str, Any],
    asked: tuple[int, int],
    corrects: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    engines: list[ScriptedVLLM] = []

    def connect(trainer: Any) -> None:
        engines.append(ScriptedVLLM(**engine))
        trainer.use_vllm, trainer.vllm_generation, trainer._last_loaded_step = True, engines[-1], -1
        trainer.vllm_importance_sampling_correction = corrects

    plain, shared = (run(folder, pay, {}, {}, share=share, prepare=connect) for share in (False, True))
    assert engines[0].requests == [(4, 1)] * 2
    assert engines[1].requests == [asked] * 2
    assert engines[1].generation_kwargs == {}
    assert shared[0].shares_prefix
    assert shared[0].checked
    assert shared[1] == plain[1]
    for found, expected in zip(shared[2], plain[2], strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-6)
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4, abs=1e-7)
    for name, weight in plain[3].items():
        torch.testing.assert_close(shared[3][name], weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_groups_are_replaced_with_vllm_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """With TRL's correction for vLLM's own log-probabilities, for each token or for the whole completion."""
    monkeypatch.chdir(tmp_path)

    def connect(trainer: Any) -> None:
        trainer.use_vllm, trainer.vllm_generation, trainer._last_loaded_step = True, ScriptedVLLM(), -1
        trainer.vllm_importance_sampling_correction, trainer.vllm_importance_sampling_mode = True, mode

    trainer, _, logged, _ = run(folder, pay_some, {}, {"trainer": {"dynamic_sampling": 3}}, share=True, prepare=connect)
    assert trainer.shares_prefix
    assert sum(line["dynamic_sampling/resampled_groups"] for line in logged) > 0
    assert all(math.isfinite(line["loss"]) for line in logged)


def test_trl_lets_one_request_ask_for_several() -> None:
    """What TRL must keep: settings of its own come after n = 1, and all completions of a request are handed on, prompt after prompt."""
    source = inspect.getsource(vllm_generation.VLLMGeneration.generate)
    assert source.index('"n": 1') < source.index("generation_kwargs.update(self.generation_kwargs)")
    assert "[output.token_ids for outputs in all_outputs for output in outputs.outputs]" in source
    assert "for output in outputs.outputs" in inspect.getsource(vllm_generation.extract_logprobs)
    parameters = ["self", "prompts", "images", "num_generations", "profiler"]
    assert list(inspect.signature(vllm_generation.VLLMGeneration.generate).parameters) == parameters
