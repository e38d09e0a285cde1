"""A rollout of groups is what Transformers' `generate` writes, token for token."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_prefix_cases import (
    UNLIKE,
    G,
    make_completions,
    make_sharp,
    read_groups,
    read_prompts,
)
from torch._dynamo.utils import counters as dynamo_counters
from torch.utils._python_dispatch import TorchDispatchMode

from osler.policies.families import FAMILIES
from osler.training.shared_prefix import decoder, rollout
from osler.training.shared_prefix.attention import install
from osler.training.shared_prefix.decoding_cache import merge_caches
from osler.training.shared_prefix.packed_row import PromptBatch, prefill, score_after_cache, score_packed
from osler.training.shared_prefix.rollout import Decoding, Rollout, _decode, roll_out, without_gradient


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def generate(model: Any, prompts: PromptBatch, decoding: Decoding) -> list[list[int]]:
    """Transformers' own completions, cut at their stop token."""
    rows = torch.arange(len(prompts.ids_BP)).repeat_interleave(G)
    grid = prompts.image_grid_thw
    assert grid is not None
    assert prompts.pixel_values is not None
    patches = torch.split(prompts.pixel_values, grid.prod(1).tolist())
    drawn = {"temperature": decoding.temperature, "top_k": decoding.top_k, "top_p": decoding.top_p, "min_p": decoding.min_p}
    tokens = model.generate(
        input_ids=prompts.ids_BP[rows],
        attention_mask=prompts.mask_BP[rows],
        mm_token_type_ids=prompts.types_BP[rows],
        pixel_values=torch.cat([patches[row] for row in rows]),
        image_grid_thw=grid[rows],
        max_new_tokens=decoding.max_new_tokens,
        eos_token_id=list(decoding.stop_ids),
        pad_token_id=decoding.pad_id,
        suppress_tokens=list(decoding.suppressed_ids),
        do_sample=decoding.do_sample,
        **(drawn if decoding.do_sample else {}),
    )
    return rollout._cut(tokens[:, prompts.ids_BP.shape[1] :].tolist(), decoding.stop_ids)


def assert_scores_of(model: Any, prompts: PromptBatch, rollout: Rollout, decoding: Decoding) -> None:
    """What a rollout knows of its tokens is what scoring them says; `make_sharp` scores at a temperature of 0.8."""
    if decoding.temperature != 0.8:
        return
    rows = [torch.tensor(tokens) for tokens in rollout.completion_ids]
    ids_NC, mask_NC = (torch.nn.utils.rnn.pad_sequence(own, batch_first=True) for own in (rows, [torch.ones_like(row) for row in rows]))
    logps_NC, entropies_NC = score_packed(model, prompts, ids_NC, mask_NC, model)
    assert rollout.logps_NT is not None
    assert rollout.entropies_NT is not None
    torch.testing.assert_close(rollout.logps_NT * mask_NC, logps_NC.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rollout.entropies_NT * mask_NC, entropies_NC, rtol=1e-5, atol=1e-5)


DRAWS: list[dict[str, Any]] = [
    {"do_sample": False},
    {},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
    {"is_static": True},
    {"max_new_tokens": decoder.PACK_FROM - 1},
    {"splits_cache": True},
    {"splits_cache": True, "is_static": True},
]


@pytest.mark.parametrize("draw", DRAWS, ids=["greedy", "whole", "filtered", "static", "few", "split", "split_static"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_rollout_is_what_generate_writes(model_type: str, draw: dict[str, Any]) -> None:
    """A fifth of the vocabulary stops a completion, so that they end at different times and some leave early."""
    model, groups = make_sharp(model_type), read_groups(model_type, UNLIKE)
    prompts = groups.prompts([0, 1])
    own = {"max_new_tokens": decoder.PACK_FROM + 10, **draw}
    decoding = Decoding(stop_ids=tuple(range(0, 256, 5)), pad_id=256, suppressed_ids=(7, 8), **own)
    torch.manual_seed(3)
    expected = generate(model, prompts, decoding)
    install(model)
    torch.manual_seed(3)
    found = roll_out(model, [prompts], G, decoding, scores=True)
    assert found.completion_ids == expected
    torch.manual_seed(3)
    shorter = replace(decoding, max_new_tokens=min(12, decoding.max_new_tokens))
    apart = roll_out(model, [groups.prompts([0]), groups.prompts([1])], G, shorter, keeps_graph=True)
    assert apart.completion_ids == [tokens[:12] for tokens in expected]
    assert [cache.last_BE.requires_grad for cache in (*found.caches, *apart.caches)] == [False, True, True]
    assert_scores_of(model, prompts, found, decoding)
    assert not decoding.do_sample or len({len(row) for row in expected}) > 2


@pytest.mark.parametrize("model_type", FAMILIES)
def test_each_prompt_keeps_its_own_positions(model_type: str) -> None:
    """Transformers keeps the M-RoPE offset of the last prompt on the model; the cache of an earlier one must not use it."""
    model, groups = make_sharp(model_type), read_groups(model_type, UNLIKE)
    first, second = groups.prompts([0]), groups.prompts([1])
    install(model)
    ids_NC, mask_NC = make_completions([5, 7, 2])
    greedy = Decoding(max_new_tokens=2, stop_ids=(256,), pad_id=256, do_sample=False)
    scores, logits, offsets = [], [], []
    with torch.no_grad():
        cache = prefill(model, first)
        for prompts in (first, second):
            generate(model, prompts, greedy)
            offsets.append(int(model.model.rope_deltas[0]))
            scores.append(score_after_cache(model, [cache], ids_NC, mask_NC, model)[0])
            logits.append(decoder.Decoder(model, [cache], G, 4).step(ids_NC[:, 0], 0))
    torch.testing.assert_close(*scores, rtol=0, atol=0)
    torch.testing.assert_close(*logits, rtol=0, atol=0)
    assert int(cache.next_B) == first.ids_BP.shape[1] + offsets[0]
    assert offsets[0] != offsets[1]


@pytest.mark.integration
@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_static_step_is_one_graph(model_type: str) -> None:
    """The same logits as a step of its own shape; the tracer stops at whatever asks the host, and a second graph would depend on the step.

    In bfloat16, as on a GPU, where no weights are packed.
    """
    model, prompts = make_sharp(model_type).to(torch.bfloat16), read_prompts(model_type, UNLIKE)
    install(model)
    torch.compiler.reset()
    dynamo_counters["stats"].clear()
    tokens_TA = torch.randint(0, 250, (5, len(UNLIKE) * G), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        read = prefill(model, replace(prompts, pixel_values=prompts.pixel_values.to(torch.bfloat16)))
        dynamic, static = (decoder.Decoder(model, [read], G, len(tokens_TA), static=is_static) for is_static in (False, True))
        step = torch.compile(static.step, fullgraph=True, backend="eager")
        for place, tokens_A in enumerate(tokens_TA):
            expected = dynamic.step(tokens_A, place)
            torch.testing.assert_close(step(tokens_A, torch.tensor([place])), expected, rtol=2e-2, atol=2e-2)
    assert dynamo_counters["stats"]["unique_graphs"] == 1


class CastCounter(TorchDispatchMode):
    """Counts how often each tensor of two dimensions is cast to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.casts: Counter[int] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        values = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.dtype)]
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.to.dtype) and torch.bfloat16 in values:
            self.casts[args[0].data_ptr()] += 1
        return function(*args, **kwargs)


@pytest.mark.parametrize("is_frozen", [True, False])
def test_mixed_precision_casts_each_weight_once(is_frozen: bool) -> None:
    model, prompts = make_sharp("qwen2_vl"), read_prompts("qwen2_vl", UNLIKE)
    model.requires_grad_(not is_frozen)
    install(model)
    decoding = Decoding(max_new_tokens=decoder.PACK_FROM - 1, stop_ids=(256,), pad_id=256, do_sample=False)
    weights = {weight.data_ptr() for layer in model.model.language_model.layers for weight in layer.parameters() if weight.ndim == 2}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        caches = (prefill(model, prompts),)
        with CastCounter() as counter, without_gradient(model):
            _decode(model, caches, G, decoding, scores=False)
    casts = {counter.casts[weight] for weight in weights}
    assert casts == ({1} if is_frozen else {0})  # the prefill has cast weights that are trained
    assert all(weight.requires_grad != is_frozen for weight in model.parameters())
    read = merge_caches(caches, 4)[1]
    assert {buffer.dtype for layer in read for buffer in layer} == {caches[0].layers[0][0].dtype}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert {buffer.dtype for layer in merge_caches(caches, 4)[1] for buffer in layer} == {torch.bfloat16}


def test_adapters_of_some_layers_write_too() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    model, prompts = make_sharp("qwen2_vl"), read_prompts("qwen2_vl", UNLIKE)
    adapter = LoraConfig(target_modules=r".*language_model\.layers\.1\..*(q_proj|up_proj)", init_lora_weights=False, r=4, lora_alpha=64)
    adapted = inject_adapter_in_model(adapter, model)
    decoding = Decoding(max_new_tokens=decoder.PACK_FROM + 2, stop_ids=(256,), pad_id=256, do_sample=False)
    expected = generate(adapted, prompts, decoding)
    install(adapted)
    assert roll_out(adapted, [prompts], G, decoding).completion_ids == expected
