"""GRPO on TRL's trainer: what TRL must keep for Osler to work, and what one step does to a policy."""

import inspect
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SOLID_SAMPLES, recipe
from transformers import PrinterCallback
from trl import GRPOTrainer

from osler.config import Config
from osler.policies.load import load_policy
from osler.policies.quiet import quiet_training
from osler.prompts import render
from osler.training.arguments import grpo_arguments
from osler.training.grpo import build_trainer
from osler.training.trainer import EpochSampler, OslerGRPOTrainer, format_completion


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers make their output folder, here a relative one."""
    monkeypatch.chdir(tmp_path)


TRL_METHODS = [
    ("_tokenize_prompts", ["prompts"]),
    ("_generate_single_turn", ["prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images"]),
    ("_generate_and_score_completions", ["inputs"]),
    ("_prepare_inputs", ["generation_batch"]),
    ("_compute_loss", ["model", "inputs"]),
    ("_calculate_rewards", ["inputs", "prompts", "completions", "completion_ids_list"]),
    ("_get_train_sampler", ["dataset"]),
    (
        "_get_per_token_logps_and_entropies",
        [
            "model",
            "input_ids",
            "attention_mask",
            "logits_to_keep",
            "batch_size",
            "compute_entropy",
            "compute_aux_loss",
            "pixel_values",
            "image_grid_thw",
            "num_images",
            "pixel_attention_mask",
            "spatial_shapes",
            "num_tiles",
            "image_sizes",
            "token_type_ids",
            "mm_token_type_ids",
            "image_position_ids",
        ],
    ),
    ("_save_rng_state", ["output_dir"]),
    ("_load_rng_state", ["checkpoint"]),
    ("_load_optimizer_and_scheduler", ["checkpoint"]),
    ("_send_telemetry", []),
    ("create_model_card", ["model_name", "dataset_name", "tags"]),
]


@pytest.mark.parametrize(("method", "parameters"), TRL_METHODS, ids=[name for name, _ in TRL_METHODS])
def test_trl_keeps_its_methods(method: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(GRPOTrainer, method)).parameters) == ["self", *parameters]


def spread(completions: list[list[dict[str, Any]]], **_: Any) -> list[float]:
    """A reward that differs within a group, whatever a random policy writes."""
    return [float(index) for index in range(len(completions))]


def make_trainer(config: Config, reward: Callable[..., list[float]] = spread, samples: tuple[Any, ...] = SOLID_SAMPLES) -> OslerGRPOTrainer:
    prompts = [render(sample, config.prompt.strategy, phase="train") for sample in samples]
    return build_trainer(config, load_policy(config.policy), prompts, [reward], grpo_arguments(config, Path("run")))


def run_steps(trainer: OslerGRPOTrainer) -> dict[str, Any]:
    with quiet_training():
        trainer.train()
    return next(line for line in trainer.state.log_history if "loss" in line)


def watch_images(model: Any, tokenizer: Any, found: Callable[[str, torch.Tensor], None]) -> None:
    """Report the question and the image features [image tokens, width] of every row that enters the language model."""
    rows: list[torch.Tensor] = []

    def keep_ids(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        rows[:] = kwargs["input_ids"]

    def read_features(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        embeddings = kwargs["inputs_embeds"]
        if embeddings.shape[1] == 1:  # a decoding step
            return
        for ids, features in zip(rows, embeddings, strict=True):
            question = tokenizer.decode(ids).partition("Greys ")[2].partition(" end?")[0]
            found(question, features[ids == model.config.image_token_id].detach().clone())

    model.model.register_forward_pre_hook(keep_ids, with_kwargs=True)
    model.model.language_model.register_forward_pre_hook(read_features, with_kwargs=True)


@pytest.mark.integration
def test_images_stay_with_their_rows(tiny_folder: Path) -> None:
    """Six questions about greys and sizes of their own, one with two images; in rollout, reference and update each row sees its own.

    On TRL's own path, where every row can be told apart; `test_shared_prefix` shows that the shared one does the same.
    """
    grpo = {"gradient_accumulation_steps": 3, "max_steps": 1, "beta": 0.1, "save_strategy": "no"}
    with quiet_training():
        trainer = make_trainer(recipe(tiny_folder, grpo=grpo, trainer={"share_prefix": False}))
    processor = trainer.processing_class
    alone: dict[str, torch.Tensor] = {}
    seen: Counter[str] = Counter()

    def check(kind: str) -> Callable[[str, torch.Tensor], None]:
        def compare(question: str, features: torch.Tensor) -> None:
            seen["update" if torch.is_grad_enabled() else kind] += 1
            torch.testing.assert_close(features, alone[question], rtol=1e-4, atol=1e-4)

        return compare

    policy = load_policy(str(tiny_folder))
    watch_images(policy.model, processor.tokenizer, alone.__setitem__)
    for sample in SOLID_SAMPLES:
        messages = render(sample, "no_think", phase="train").messages
        text = processor.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        images = [source.load() for source in sample.images]
        policy.model(**processor(text=[text], images=images, return_tensors="pt"))
    first_tokens = torch.stack([features[0] for features in alone.values()])
    assert torch.pdist(first_tokens).min() > 0.1  # else a mixed-up image could pass
    watch_images(trainer.model, processor.tokenizer, check("rollout"))
    watch_images(trainer.ref_model, processor.tokenizer, check("reference"))
    run_steps(trainer)
    assert seen == {"rollout": 12, "reference": 12, "update": 12}


@pytest.fixture(scope="module")
def greedy_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny policy with sampling defaults that would make a group equal."""
    folder = tmp_path_factory.mktemp("greedy") / "tiny"
    shutil.copytree(tiny_folder, folder)
    file = folder / "generation_config.json"
    defaults = {
        "do_sample": True,
        "temperature": 0.01,
        "top_k": 1,
        "top_p": 0.001,
        "min_p": 0.9,
        "repetition_penalty": 1.5,
        "typical_p": 0.1,
    }
    file.write_text(json.dumps({**json.loads(file.read_text()), **defaults}))
    return folder


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({}, {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0}),
        (
            {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1},
            {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1},
        ),
    ],
    ids=["defaults", "given"],
)
def test_a_checkpoint_never_decides_sampling(greedy_folder: Path, sampling: dict[str, Any], expected: dict[str, Any]) -> None:
    """What `generate` ends up with, after Transformers fills what is None from the model's own generation config."""
    with quiet_training():
        trainer = make_trainer(recipe(greedy_folder, sampling={"max_completion_length": 6, **sampling}))
    effective, _ = trainer.model._prepare_generation_config(trainer.generation_config)
    assert effective.do_sample
    assert effective.max_new_tokens == 6
    assert {name: getattr(effective, name) for name in expected} == expected
    assert effective.typical_p in (None, 1.0)


@pytest.mark.integration
def test_completions_of_a_group_differ(greedy_folder: Path) -> None:
    groups: list[set[str]] = []

    def watch(completions: list[list[dict[str, Any]]], **_: Any) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        groups.extend({*texts[start : start + 2]} for start in range(0, len(texts), 2))
        return spread(completions)

    with quiet_training():
        trainer = make_trainer(recipe(greedy_folder, grpo={"max_steps": 1, "save_strategy": "no"}), watch)
    run_steps(trainer)
    assert [len(group) for group in groups] == [2, 2]


@pytest.mark.integration
def test_completions_are_written_without_dropout(tiny_folder: Path) -> None:
    """TRL leaves it on; with nine of ten inputs of the adapter missing, the completions of a group that is drawn greedily would differ."""
    written: list[str] = []

    def watch(completions: list[list[dict[str, Any]]], **_: Any) -> list[float]:
        written.extend(completion[0]["content"] for completion in completions)
        return spread(completions)

    config = recipe(
        tiny_folder,
        policy={"lora": {"r": 8, "alpha": 512, "dropout": 0.9}},
        sampling={"max_completion_length": 6, "top_k": 1},
        grpo={"max_steps": 1, "save_strategy": "no", "num_generations": 4, "per_device_train_batch_size": 4},
    )
    with quiet_training():
        trainer = make_trainer(config, watch)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.5)
    modes: list[bool] = []
    trainer.model.get_base_model().model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    run_steps(trainer)
    assert len({*written}) == 1
    assert [mode for mode, _ in itertools.groupby(modes)] == [False, True]


def is_any(name: str) -> bool:
    return True


def is_adapter(name: str) -> bool:
    return "lora_" in name


def is_vision(name: str) -> bool:
    return ".visual." in name


STEPS = [
    ("full", {}, {}, is_any),
    ("frozen_vision", {"freeze_vision": True}, {}, lambda name: not is_vision(name)),
    ("lora", {"lora": {"r": 4}}, {}, is_adapter),
    ("lora_checkpointing", {"lora": {"r": 4}}, {"gradient_checkpointing": True}, is_adapter),
    ("bf16_lora", {"dtype": "bfloat16", "lora": {"r": 4}}, {}, is_adapter),
    ("bf16_arithmetic", {}, {"bf16": True}, is_any),
    ("checkpointing", {}, {"gradient_checkpointing": True}, is_any),
]


@pytest.mark.integration
@pytest.mark.parametrize(("policy", "grpo", "may_change"), [row[1:] for row in STEPS], ids=[row[0] for row in STEPS])
def test_a_step_changes_what_is_trained(
    tiny_folder: Path, policy: dict[str, Any], grpo: dict[str, Any], may_change: Callable[[str], bool]
) -> None:
    with quiet_training():
        trainer = make_trainer(recipe(tiny_folder, policy=policy, grpo={"max_steps": 1, "save_strategy": "no", **grpo}))
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    logged = run_steps(trainer)
    changed = {name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, before[name])}
    assert logged["grad_norm"] > 0
    assert {name for name in before if not may_change(name)}.isdisjoint(changed)
    # The last norm of the vision tower and LoRA's second factor move at once; the first factor only when the second has left zero.
    moved = {name for name in before if may_change(name) and (not is_adapter(name) or "lora_B" in name)}
    assert len(changed & moved) > 0.8 * len(moved)
    assert {weight.dtype for name, weight in trainer.model.named_parameters() if not is_adapter(name)} == {
        getattr(torch, policy.get("dtype", "float32"))
    }


@pytest.mark.integration
def test_checkpointing_changes_no_gradient(tiny_folder: Path) -> None:
    logged = []
    for checkpointing in (False, True):
        with quiet_training():
            grpo = {"max_steps": 1, "save_strategy": "no", "gradient_checkpointing": checkpointing}
            logged.append(run_steps(make_trainer(recipe(tiny_folder, grpo=grpo))))
    assert logged[0]["grad_norm"] == pytest.approx(logged[1]["grad_norm"], rel=1e-5)


def test_the_order_of_questions_follows_from_seed_and_epoch() -> None:
    def order(seed: int, *epochs: int) -> list[list[int]]:
        sampler = EpochSampler(range(8), mini_repeat_count=2, batch_size=2, repeat_count=1, shuffle=True, seed=seed)
        orders = []
        for epoch in epochs:
            sampler.set_epoch(epoch)
            orders.append(list(sampler))
        return orders

    first, second = order(0, 0, 1)
    assert order(0, 1) == [second]  # a run that goes on in its second epoch
    assert first != second
    assert order(1, 0) != [first]
    assert sorted(first) == sorted([*range(8)] * 2)


@pytest.mark.integration
def test_completions_are_printed_every_n_steps(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grpo = {"max_steps": 3, "save_strategy": "no"}
    with quiet_training():
        trainer = make_trainer(recipe(tiny_folder, grpo=grpo, trainer={"print_completions_every": 2}))
    trainer.remove_callback(PrinterCallback)
    run_steps(trainer)
    printed = capsys.readouterr()
    assert [line.split(",")[0] for line in printed.err.splitlines() if line.startswith("step ")] == ["step 1", "step 3"]
    assert "earned: spread 0" in printed.err
    assert printed.out == ""


def test_a_printed_completion_is_for_people() -> None:
    prompt = [{"role": "user", "content": [{"type": "image", "image": object()}, {"type": "text", "text": "x" * 300 + " Which?"}]}]
    text = format_completion(
        7, "slake/1", prompt, [{"role": "assistant", "content": "<answer>B</answer>"}], {"accuracy": 1.0, "format": 0.5}
    )
    assert text.splitlines()[0] == "step 7, slake/1"
    assert len(text.splitlines()[1]) < 220
    assert text.splitlines()[2:] == ["  wrote: '<answer>B</answer>'", "  earned: accuracy 1, format 0.5"]
