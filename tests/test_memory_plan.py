"""The memory plan: counts of weights and of what autograd saves equal those of real models; a plan grows with what it plans."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from small_runs import recipe
from tiny_checkpoint import apply_lora, make_model, save_tiny

from osler.config import LoraSection, PolicyConfig
from osler.doctor.memory_fit import fit_into, largest_batch, largest_group
from osler.doctor.memory_plan import plan_memory
from osler.doctor.memory_recipe import plan_for, work_of
from osler.doctor.memory_shape import read_shape, shape_of
from osler.doctor.memory_work import ALL_LINEAR, Adapter, Workload
from osler.errors import ConfigError, PolicyError
from osler.policies.load import load_policy
from osler.policies.sources import PACKAGED_POLICIES
from osler.training.disk import plan_space
from osler.training.shared_prefix.decoder import PACK_FROM

PROMPT, IMAGE, TIMES, COMPLETION = 40, 16, 3, 12
RANK = 4
BUILT_IN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.mark.parametrize("model_type", BUILT_IN)
@pytest.mark.parametrize(("hidden", "layers"), [(32, 2), (64, 3)])
def test_weights_are_counted_exactly(model_type: str, hidden: int, layers: int) -> None:
    model = make_model(model_type, hidden=hidden, layers=layers)
    shape = shape_of(model.config)
    assert shape.total == sum(weight.numel() for weight in model.parameters())
    assert shape.vision.total == sum(weight.numel() for weight in model.model.visual.parameters())
    assert shape.layer == sum(weight.numel() for weight in model.model.language_model.layers[0].parameters())


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen3_vl"])
def test_an_untied_output_layer_is_counted(model_type: str) -> None:
    config = make_model(model_type).config
    tied = shape_of(config)
    config.tie_word_embeddings = False
    assert shape_of(config).total == tied.total + tied.embedding


def test_a_shape_is_read_from_a_folder_without_weights(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny")
    whole = read_shape(folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    assert read_shape(folder) == whole


@pytest.mark.parametrize("text", ["{", '{"model_type": "qwen9_vl"}', '{"model_type": "bert"}'])
def test_a_config_that_gives_no_shape_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(PolicyError, match="no memory plan") as caught:
        read_shape(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "down_proj"), r".*\.layers\.\d+\.mlp\.up_proj"], ids=str)
def test_an_adapter_has_the_planned_weights(tiny_folder: Path, targets: Any) -> None:
    policy = load_policy(PolicyConfig(path=str(tiny_folder), device="cpu"))
    section = LoraSection(r=RANK, target_modules=targets)
    real = sum(weight.numel() for weight in apply_lora(policy, section).parameters() if weight.requires_grad)
    config = recipe(tiny_folder, policy={"lora": {"r": RANK, "target_modules": targets}})
    plan = plan_for(config, tiny_folder)
    assert plan.trained == real
    assert plan.weights == read_shape(tiny_folder).total * 4 + real * 4


WORK = Workload(
    kind="grpo",
    rows=TIMES,
    num_generations=TIMES,
    prompt=PROMPT,
    completion=COMPLETION,
    image_tokens=IMAGE,
)
ADAPTER = Adapter(rank=RANK, targets=ALL_LINEAR)


def test_the_decoder_packs_weights_from_the_planned_length() -> None:
    short, long = replace(WORK, completion=PACK_FROM - 1), replace(WORK, completion=PACK_FROM)
    assert (short.copies_weights, long.copies_weights) == (False, True)


def test_a_tiny_plan_by_hand() -> None:
    """osler-tiny: 1,821,440 weights; each takes 4 bytes, 4 of gradient and 8 of Adam."""
    shape = read_shape(PACKAGED_POLICIES / "osler-tiny")
    plan = plan_memory(shape, Workload())
    assert (plan.parameters, plan.trained) == (1_821_440, 1_821_440)
    assert (plan.weights, plan.gradients, plan.optimizer) == (7_285_760, 7_285_760, 14_571_520)
    frozen = plan_memory(shape, Workload(freezes_vision=True))
    assert plan.trained - frozen.trained == shape.vision.total
    two = plan_memory(shape, Workload(kind="grpo", rows=4, num_generations=2, prompt=10, completion=6, image_tokens=4))
    assert two.kv_cache == 4 * 2 * 128 * (2 * 10 + 2 * (10 + 2 * 6)) * 4  # layers, keys and values, their width, tokens, bytes


BIG = Workload(kind="grpo", rows=16, num_generations=4, prompt=300, completion=100, image_tokens=200)
MORE: list[tuple[str, dict[str, Any]]] = [
    ("rows", {"rows": 32}),
    ("completion", {"completion": 200}),
    ("prompt", {"prompt": 500}),
    ("images", {"image_tokens": 300}),
    ("reference", {"has_reference": True, "scores_reference": True}),
    ("accumulation", {"accumulation": 2}),
    ("rank", {"adapter": Adapter(rank=64, targets=ALL_LINEAR)}),
]


@pytest.mark.parametrize("is_gpu", [False, True])
@pytest.mark.parametrize("base", [{}, {"checkpoints": True}, {"adapter": ADAPTER, "dtype": "bfloat16"}, {"shares_prefix": False}], ids=str)
@pytest.mark.parametrize("more", [row[1] for row in MORE], ids=[row[0] for row in MORE])
def test_more_work_never_takes_less(is_gpu: bool, base: dict[str, Any], more: dict[str, Any]) -> None:
    shape = read_shape(PACKAGED_POLICIES / "osler-tiny")
    if "adapter" in more and "adapter" not in base:
        more = {"rows": 64}
    less = replace(BIG, is_gpu=is_gpu, **base)
    assert plan_memory(shape, replace(less, **more)).peak >= plan_memory(shape, less).peak


LESS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("checkpointing", {}, {"checkpoints": True}),
    ("parts", {"checkpoints": True}, {"groups_per_forward": 1}),
    ("lora", {}, {"adapter": ADAPTER}),
    ("half", {"adapter": ADAPTER, "checks_itself": False}, {"dtype": "bfloat16"}),
    ("sharing", {"shares_prefix": False}, {"shares_prefix": True}),
    ("8-bit", {}, {"optimizer": "adamw_8bit"}),
    ("zero1", {"num_processes": 4}, {"sharding": "optimizer"}),
    ("zero2", {"num_processes": 4, "sharding": "optimizer"}, {"sharding": "gradients"}),
]


@pytest.mark.parametrize(("before", "change"), [row[1:] for row in LESS], ids=[row[0] for row in LESS])
def test_a_saving_saves(before: dict[str, Any], change: dict[str, Any]) -> None:
    shape = replace(
        read_shape(PACKAGED_POLICIES / "osler-tiny"), hidden=1024, intermediate=4096, layers=12, heads=8, head_dim=128, kv_heads=2
    )
    less = replace(BIG, is_gpu=True, **before)
    assert plan_memory(shape, replace(less, **change)).peak < plan_memory(shape, less).peak


@pytest.mark.parametrize("processes", [2, 8])
def test_zero3_shares_what_lives_through_training(processes: int) -> None:
    shape = read_shape(PACKAGED_POLICIES / "osler-tiny")
    alone = plan_memory(shape, BIG)
    shared = plan_memory(shape, replace(BIG, num_processes=processes, sharding="weights"))
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(shared, name) == getattr(alone, name) // processes
    copied = plan_memory(shape, replace(BIG, num_processes=processes))
    assert copied.gradient_buckets == 4 * alone.trained  # of DistributedDataParallel, beside the gradients
    assert (copied.weights, copied.total_peak) == (alone.weights, processes * (alone.peak + copied.gradient_buckets))
    assert shared.disk == alone.disk


@pytest.mark.parametrize("lora", [None, {"r": RANK}], ids=["full", "lora"])
def test_disk_is_what_a_training_plans(tiny_folder: Path, lora: dict[str, Any] | None) -> None:
    config = recipe(tiny_folder, policy={"lora": lora})
    policy = load_policy(PolicyConfig(path=str(tiny_folder), device="cpu"))
    model = policy.model if lora is None else apply_lora(policy, LoraSection(**lora))
    assert plan_for(config, tiny_folder).disk == plan_space(model, 2).total("resume")


SMALL_SFT = Workload(rows=2, prompt=200, completion=20)


@pytest.mark.parametrize("work", [BIG, SMALL_SFT, replace(BIG, checkpoints=True, groups_per_forward=1)], ids=["grpo", "sft", "parts"])
@pytest.mark.parametrize("memory", [200 << 20, 1 << 30, 16 << 30])
def test_the_largest_batch_is_the_largest(work: Workload, memory: int) -> None:
    shape = read_shape(PACKAGED_POLICIES / "osler-tiny")
    rows = largest_batch(shape, work, memory)
    assert rows is not None
    assert plan_memory(shape, replace(work, rows=rows)).peak <= memory
    unit = work.num_generations if work.kind == "grpo" else 1
    assert rows % unit == 0
    assert plan_memory(shape, replace(work, rows=rows + unit)).peak > memory


def test_the_largest_group_is_the_largest() -> None:
    shape, memory = read_shape(PACKAGED_POLICIES / "osler-tiny"), 2 << 30
    times = largest_group(shape, BIG, memory)
    assert times is not None
    peaks = [plan_memory(shape, replace(BIG, rows=4 * number, num_generations=number)).peak for number in (times, times + 1)]
    assert peaks[0] <= memory < peaks[1]
    assert largest_group(shape, BIG, 1 << 20) is None
    assert largest_batch(shape, BIG, 1 << 20) is None


def test_settings_make_a_training_fit() -> None:
    """Each setting lowers the peak; without the last of them it does not fit."""
    shape = replace(
        read_shape(PACKAGED_POLICIES / "osler-tiny"), hidden=1024, intermediate=4096, layers=12, heads=8, head_dim=128, kv_heads=2
    )
    whole = plan_memory(shape, BIG)
    assert fit_into(shape, BIG, whole.peak) == replace(fit_into(shape, BIG, whole.peak), settings=(), plan=whole, fits=True)
    some = fit_into(shape, BIG, whole.peak - 1)
    assert some.settings == ("--trainer.groups_per_forward=1",)
    assert some.fits
    much = fit_into(shape, BIG, 2 << 30)
    assert much.fits
    assert much.plan.peak <= 2 << 30
    none = fit_into(shape, BIG, 1 << 20)
    assert not none.fits
    assert any(setting.startswith("--policy.lora.r") for setting in none.settings)


RECIPES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("default", {}, {"rows": 4, "num_generations": 2, "completion": 6, "continues": True, "has_reference": False}),
    ("kl", {"grpo": {"beta": 0.04}}, {"has_reference": True, "scores_reference": True}),
    ("kl_lora", {"grpo": {"beta": 0.04}, "policy": {"lora": {"r": 2}}}, {"has_reference": False, "scores_reference": True}),
    (
        "accumulated",
        {"grpo": {"gradient_accumulation_steps": 3, "entropy_coef": 0.0}},
        {"accumulation": 3, "micro_batches": 3, "continues": False, "shares_update": True},
    ),
    ("scattered", {"grpo": {"gradient_accumulation_steps": 2, "entropy_coef": 0.01}}, {"shares_update": False}),
    ("checkpointing", {"grpo": {"gradient_checkpointing": True}}, {"checkpoints": True, "continues": False}),
    ("parts", {"trainer": {"groups_per_forward": 1}}, {"groups_at_once": 1, "continues": False}),
    ("trl", {"trainer": {"share_prefix": False}}, {"shares_prefix": False}),
    ("fsdp", {"grpo": {"fsdp": "full_shard"}}, {"sharding": "weights"}),
    ("zero2", {"grpo": {"deepspeed": {"zero_optimization": {"stage": 2}}}}, {"sharding": "gradients"}),
]


@pytest.mark.parametrize(("sections", "expected"), [row[1:] for row in RECIPES], ids=[row[0] for row in RECIPES])
def test_a_recipe_becomes_work(tiny_folder: Path, sections: dict[str, Any], expected: dict[str, Any]) -> None:
    _, work = work_of(recipe(tiny_folder, **sections), tiny_folder, num_processes=2)
    assert {name: getattr(work, name) for name in expected} == expected
    assert work.prompt > work.image_tokens > 0


def test_sft_has_the_batch_of_its_budget_and_the_length_of_its_targets(tiny_folder: Path) -> None:
    _, work = work_of(recipe(tiny_folder), tiny_folder, kind="sft")
    assert (work.kind, work.rows, work.num_generations) == ("sft", 2, 1)
    assert 0 < work.completion < work.prompt
    assert plan_for(recipe(tiny_folder), tiny_folder, kind="sft").rollout_peak == 0


def test_an_unknown_optimizer_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match="no memory plan for optim = 'lion_32bit'"):
        plan_for(recipe(tiny_folder, grpo={"optim": "lion_32bit"}), tiny_folder)


def test_a_plan_is_bytes(tiny_folder: Path) -> None:
    plan = plan_for(recipe(tiny_folder), tiny_folder)
    assert all(isinstance(value, int) and value >= 0 for value in asdict(plan).values())
    assert plan.peak == max(plan.rollout_peak, plan.check_peak, plan.update_peak)
    assert plan.worst_phase in ("rollout", "check", "update")


@pytest.mark.slow
def test_a_training_takes_what_is_planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Resident memory, in a process of its own: within 15 %."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import memory_plan

    assert memory_plan.compare("study_grpo", tmp_path, None)["ratio"] == pytest.approx(1.0, abs=0.15)
