"""What autograd saves in each pass, layer by layer, is what the memory plan counts."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_checkpoint import make_model
from trl.trainer.utils import add_fused_lm_head

from osler.config import LoraSection
from osler.doctor import memory_activations as activations
from osler.doctor.memory_shape import shape_of
from osler.doctor.memory_work import ALL_LINEAR, Adapter, Workload
from osler.policies.families import FAMILIES
from osler.policies.patch_embedding import embed_by_product
from osler.policies.quiet import quiet_training
from osler.training.shared_prefix.attention import branch_mask, install
from osler.training.shared_prefix.packed_row import PromptBatch, prefill, score_after_cache, score_packed

PROMPT, IMAGE, TIMES, COMPLETION = 40, 16, 3, 12
RANK = 4
BUILT_IN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


class Saved:
    """The bytes of the tensors that autograd saves, without weights: each storage once."""

    def __init__(self, model: Any) -> None:
        self.others = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        self.sizes: dict[int, int] = {}
        self.kept: list[torch.Tensor] = []  # so that no address is used twice

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.others:
            self.sizes[storage.data_ptr()] = storage.nbytes()
            self.kept.append(tensor)
        return tensor

    @property
    def total(self) -> int:
        return sum(self.sizes.values())


def make_prompt(config: Any) -> PromptBatch:
    ids = torch.full((1, PROMPT), 10)
    ids[0, 4], ids[0, 5 : 5 + IMAGE], ids[0, 5 + IMAGE] = config.vision_start_token_id, config.image_token_id, config.vision_end_token_id
    vision = config.vision_config
    values = 3 * 2 * vision.patch_size**2
    return PromptBatch(
        ids_BP=ids,
        mask_BP=torch.ones_like(ids),
        types_BP=(ids == config.image_token_id).long(),
        pixel_values=torch.randn(4 * IMAGE, values),
        image_grid_thw=torch.tensor([[1, 8, 8]]),
    )


def saved_by(path: str, mode: str, model_type: str, layers: int) -> int:
    """The bytes that a pass saves."""
    base = make_model(model_type, hidden=64, layers=layers).to(torch.bfloat16 if mode == "lora_bfloat16" else torch.float32)
    add_fused_lm_head(base, outputs=("log_probs", "entropy"))
    model: Any = base
    if mode.startswith("lora"):
        base.requires_grad_(False)
        from peft import get_peft_model

        from osler.policies.lora import lora_config

        with quiet_training():
            model = get_peft_model(base, lora_config(LoraSection(r=RANK), FAMILIES[model_type]))
    install(base)
    prompts = make_prompt(base.config)
    ids = torch.full((TIMES, COMPLETION), 20)
    saved = Saved(model)
    with torch.autocast("cpu", torch.bfloat16) if mode == "autocast" else nullcontext():
        cache = prefill(base, prompts) if path == "branch" else None
        for tensor in () if cache is None else (one for layer in cache.layers for one in layer):
            saved.others.add(tensor.untyped_storage().data_ptr())
        with torch.autograd.graph.saved_tensors_hooks(saved.keep, lambda tensor: tensor):
            if path == "prefill":
                for layer in prefill(base, prompts).layers:
                    saved.others |= {tensor.untyped_storage().data_ptr() for tensor in layer}
            elif path == "branch":
                score_after_cache(model, [cache], ids, torch.ones_like(ids), base)
            elif path == "packed":
                score_packed(model, prompts, ids, torch.ones_like(ids), base)
            else:
                score_in_full(model, prompts, ids)
    for address in saved.others & saved.sizes.keys():
        del saved.sizes[address]
    return saved.total


def score_in_full(model: Any, prompts: PromptBatch, ids: torch.Tensor) -> None:
    """As TRL does, without padding."""
    rows = torch.cat([prompts.ids_BP.repeat(TIMES, 1), ids], dim=1)
    assert prompts.types_BP is not None
    types = torch.nn.functional.pad(prompts.types_BP.repeat(TIMES, 1), (0, COMPLETION))
    images = {name: value.repeat(TIMES, 1) for name, value in prompts.image_inputs.items()}
    model(input_ids=rows, attention_mask=torch.ones_like(rows), mm_token_type_ids=types, labels=rows, fused_lm_head=True, **images)


WORK = Workload(
    kind="grpo",
    rows=TIMES,
    num_generations=TIMES,
    prompt=PROMPT,
    completion=COMPLETION,
    image_tokens=IMAGE,
)
ADAPTER = Adapter(rank=RANK, targets=ALL_LINEAR)
MODES: dict[str, dict[str, Any]] = {
    "float32": {},
    "autocast": {"autocast": True},
    "lora_float32": {"adapter": ADAPTER},
    "lora_bfloat16": {"adapter": ADAPTER, "dtype": "bfloat16"},
}


PASSES = [
    *(("qwen2_vl", mode, path) for mode in MODES for path in ("prefill", "branch", "packed", "plain")),
    *(("qwen2_5_vl", mode, "packed") for mode in ("float32", "lora_bfloat16")),
    *(("qwen3_vl", mode, "packed") for mode in MODES),
]


@pytest.mark.parametrize(("model_type", "mode", "path"), PASSES)
def test_a_layer_saves_what_is_planned(model_type: str, mode: str, path: str) -> None:
    """Within 4 %: the sums of norms and of softmax are not counted, which are a few numbers of a token."""
    shape = shape_of(make_model(model_type, hidden=64, layers=2).config)
    work = replace(WORK, **MODES[mode])
    planned = {
        "prefill": lambda: activations.prefill_pass(shape, work, 1),
        "branch": lambda: activations.branch_pass(shape, work, 1),
        "packed": lambda: activations.packed_pass(shape, work, 1),
        "plain": lambda: activations.plain_pass(shape, work, TIMES, PROMPT + COMPLETION, is_padded=False, scored=0),
    }[path]()
    found = saved_by(path, mode, model_type, 3) - saved_by(path, mode, model_type, 2)
    assert planned.layer + planned.casts == pytest.approx(found, rel=0.04)


@pytest.mark.parametrize(("model_type", "path"), [("qwen2_vl", "plain"), *((name, "prefill") for name in BUILT_IN)])
def test_a_vision_block_saves_what_is_planned(model_type: str, path: str) -> None:
    """Of a trained tower, by the difference that a third block makes; within 4 %."""
    images = {"prefill": 1, "plain": TIMES}[path]

    def saved(depth: int) -> int:
        config = make_model(model_type, hidden=64).config
        config.vision_config.depth = depth
        base = type(make_model(model_type))(config)
        base.model.language_model.layers = base.model.language_model.layers[:0]
        kept = Saved(base)
        pixels = make_prompt(config)
        embed_by_product(base)
        with torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda tensor: tensor):
            assert pixels.pixel_values is not None
            assert pixels.image_grid_thw is not None
            base.model.visual(pixels.pixel_values.repeat(images, 1), pixels.image_grid_thw.repeat(images, 1))
        return kept.total

    shape = shape_of(make_model(model_type, hidden=64).config)
    block, _, _ = activations.vision_bytes(shape, WORK, 4 * IMAGE * images)
    assert block == pytest.approx(saved(3) - saved(2), rel=0.04)


@pytest.mark.parametrize("rows", [1, 6])
def test_a_mask_has_the_planned_size(rows: int) -> None:
    shape = shape_of(make_model().config)
    mask = branch_mask(torch.ones(rows, PROMPT, dtype=torch.bool), COMPLETION, shape.heads // shape.kv_heads, torch.float32)
    assert activations.branch_mask_bytes(shape, WORK, rows) == mask.untyped_storage().nbytes()
