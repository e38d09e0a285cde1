"""`osler sft`: which tokens are scored, whose images they go with, and at which budget."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SOLID_SAMPLES, assert_same_lines, forget_after, read_lines, recipe
from tiny_checkpoint import save_tiny

from osler.config import Config
from osler.errors import ConfigError, DataError
from osler.policies.families import FAMILIES
from osler.policies.load import load_policy
from osler.policies.quiet import quiet_training
from osler.prompts import render
from osler.training.arguments import grpo_arguments
from osler.training.sft import build_trainer, matched_sft_arguments, sft_arguments, sft_target, train_sft

IGNORED = -100


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers make their output folder, here a relative one."""
    monkeypatch.chdir(tmp_path)


def make_batch(config: Config) -> tuple[Any, dict[str, torch.Tensor]]:
    """The trainer of six one-colour questions, and all of them as one batch."""
    prompts = [render(sample, config.prompt.strategy, phase="train") for sample in SOLID_SAMPLES]
    targets = [sft_target(sample, config) for sample in SOLID_SAMPLES]
    with quiet_training():
        arguments = sft_arguments(config, Path("run"), len(prompts))
        trainer = build_trainer(config, load_policy(config.policy), prompts, targets, arguments)
    return trainer, trainer.data_collator(trainer.train_dataset.__getitems__(list(range(len(prompts)))))


def test_the_prompt_is_masked_and_the_completion_scored_to_its_end(tiny_folder: Path) -> None:
    trainer, batch = make_batch(recipe(tiny_folder))
    tokenizer = trainer.processing_class.tokenizer
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        scored = labels != IGNORED
        assert tokenizer.decode(labels[scored]) == "<answer>A</answer><|im_end|>\n"
        assert labels[scored].equal(ids[scored])
        assert "Greys" in tokenizer.decode(ids[~scored])
        assert tokenizer.eos_token_id in labels[scored]


def test_the_prompt_is_grpos(tiny_folder: Path) -> None:
    """The same tokens up to where the completion begins."""
    trainer, batch = make_batch(recipe(tiny_folder))
    processor = trainer.processing_class
    for sample, ids, mask, labels in zip(SOLID_SAMPLES, batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        messages = list(render(sample, "no_think", phase="train").messages)
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        images = [source.load() for source in sample.images]
        assert ids[(labels == IGNORED) & mask.bool()].tolist() == processor(text=[text], images=images)["input_ids"][0]


def test_images_stay_with_their_rows(tiny_folder: Path) -> None:
    """Each image of the batch is encoded alone, and equals what the processor makes of that question's own image."""
    trainer, batch = make_batch(recipe(tiny_folder))
    own = [trainer.processing_class.image_processor(images=[source.load()]) for sample in SOLID_SAMPLES for source in sample.images]
    assert batch["image_grid_thw"].tolist() == [image["image_grid_thw"][0].tolist() for image in own]
    in_order = batch["pixel_values"].split(batch["image_grid_thw"].prod(dim=-1).tolist())
    for found, image in zip(in_order, own, strict=True):
        torch.testing.assert_close(found, torch.as_tensor(image["pixel_values"]))
    # A row holds as many image tokens as its own images have merged patches, so the order in which features are filled in is the rows'.
    tokens = (batch["input_ids"] == trainer.model.config.image_token_id).sum(dim=1).tolist()
    merged = iter(int(grid.prod()) // 4 for grid in batch["image_grid_thw"])
    assert tokens == [sum(next(merged) for _ in sample.images) for sample in SOLID_SAMPLES]


def test_med_r1s_baseline_scores_all_but_the_image(tiny_folder: Path) -> None:
    trainer, batch = make_batch(recipe(tiny_folder, sft_target="med_r1_sft", prompt={"strategy": "med_r1_no_think"}))
    tokenizer = trainer.processing_class.tokenizer
    vision = set(tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|image_pad|>", "<|vision_end|>"]))
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        text = tokenizer.decode(labels[labels != IGNORED])
        assert text.endswith("<|im_start|>assistant\nNone\n\n<answer> A </answer><|im_end|>\n")
        assert "<|im_start|>user\nGreys" in text
        ignored = ids[(labels == IGNORED) & mask.bool()].tolist()
        assert set(ignored) == vision


def test_med_r1s_baseline_has_its_published_settings(tiny_folder: Path) -> None:
    arguments = sft_arguments(recipe(tiny_folder, sft_target="med_r1_sft", sft={"learning_rate": 1e-5}), Path("run"), 1662)
    assert arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps == 128
    assert (arguments.learning_rate, str(arguments.lr_scheduler_type), arguments.num_train_epochs) == (2e-5, "SchedulerType.COSINE", 1)
    assert arguments.get_warmup_steps(130) == 13
    assert arguments.max_steps == -1


BUDGETS = [
    # [grpo], questions -> batch, accumulation, steps
    ({"num_generations": 8, "per_device_train_batch_size": 64, "max_steps": 200}, 1600, (8, 1, 200)),
    ({"num_generations": 8, "per_device_train_batch_size": 64, "num_train_epochs": 1}, 1600, (8, 1, 200)),
    ({"num_generations": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "num_train_epochs": 2}, 600, (1, 4, 300)),
    ({"num_generations": 4, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8, "num_train_epochs": 1}, 603, (4, 1, 150)),
    ({"num_generations": 4, "per_device_train_batch_size": 8, "num_iterations": 2, "num_train_epochs": 1}, 20, (2, 1, 20)),
    ({"num_generations": 4, "per_device_train_batch_size": 8, "steps_per_generation": 4, "num_train_epochs": 1}, 17, (2, 1, 8)),
]


@pytest.mark.parametrize(("grpo", "num_samples", "expected"), BUDGETS)
def test_the_budget_is_grpos(tiny_folder: Path, grpo: dict[str, Any], num_samples: int, expected: tuple[int, int, int]) -> None:
    config = recipe(tiny_folder).model_copy(update={"grpo": grpo})
    matched = matched_sft_arguments(config, num_samples)
    assert (matched["per_device_train_batch_size"], matched["gradient_accumulation_steps"], matched["max_steps"]) == expected


def test_a_budget_without_a_step_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    config = recipe(tiny_folder).model_copy(update={"grpo": {"num_generations": 4, "per_device_train_batch_size": 16}})
    with pytest.raises(ConfigError, match="no step of 3 questions"):
        sft_arguments(config, tmp_path, 3)
    assert sft_arguments(config.model_copy(update={"sft": {"max_steps": 5}}), tmp_path, 3).max_steps == 5


@pytest.mark.integration
def test_the_budget_is_what_trl_makes_of_it(tiny_folder: Path, tmp_path: Path) -> None:
    """GRPO's own trainer takes the number of steps that SFT is given."""
    from osler.training.grpo import train_grpo

    grpo = {"max_steps": -1, "num_train_epochs": 2, "num_iterations": 2, "save_strategy": "no"}
    config = recipe(tiny_folder, grpo=grpo, data={"reader": "phantom", "train": {"limit": 5, "modalities": ["mri"]}})
    steps = matched_sft_arguments(config, 5)["max_steps"]
    assert read_lines(train_grpo(config, tmp_path / "grpo"))[-1]["step"] == steps


OVERRIDES = [
    ({}, {"max_steps": 2, "per_device_train_batch_size": 2}),
    ({"max_steps": 7}, {"max_steps": 7}),
    ({"num_train_epochs": 5}, {"max_steps": -1, "num_train_epochs": 5}),
    ({"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}, {"per_device_train_batch_size": 3, "max_steps": 2}),
    ({"save_steps": 9}, {"save_steps": 9, "disable_tqdm": True}),
]


@pytest.mark.parametrize(("sft", "expected"), OVERRIDES)
def test_a_recipe_overrides_the_budget(tiny_folder: Path, sft: dict[str, Any], expected: dict[str, Any]) -> None:
    arguments = sft_arguments(recipe(tiny_folder, sft=sft), Path("run"), 4)
    assert {key: getattr(arguments, key) for key in expected} == expected


REFUSED = [
    ({"sft": {"learning_rat": 1}}, ConfigError, r"unknown key \[sft\] learning_rat: SFTConfig .* did you mean 'learning_rate'"),
    ({"sft": {"max_length": 100}}, ConfigError, r"--trainer.max_prompt_length=.."),
    ({"sft": {"completion_only_loss": False}}, ConfigError, r"completion_only_loss is set elsewhere in a recipe: --sft_target="),
    ({"grpo": {"per_device_train_batch_size": 1, "steps_per_generation": 2}}, ConfigError, r"1 completions a step, not whole groups of 2"),
    ({"trainer": {"max_prompt_length": 40}}, DataError, r"phantom/\S+ makes a prompt of \d+ tokens"),
]


@pytest.mark.parametrize(("sections", "error", "message"), REFUSED)
def test_mistakes_are_refused_before_anything_is_written(
    tiny_folder: Path, tmp_path: Path, sections: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train_sft(recipe(tiny_folder, **sections), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.integration
@pytest.mark.parametrize("policy", [{}, {"lora": {"r": 4}}], ids=["full", "lora"])
def test_a_run_learns_and_goes_on(tiny_folder: Path, tmp_path: Path, policy: dict[str, Any]) -> None:
    """Loss falls, the same seed gives the same numbers, and a run that was cut short ends like one that was not."""
    config = recipe(tiny_folder, policy=policy, sft={"learning_rate": 3e-2, "max_steps": 6, "save_steps": 1, "save_total_limit": 6})
    run = train_sft(config, tmp_path / "run")
    lines = read_lines(run)
    assert lines[-1]["loss"] < lines[0]["loss"]
    forget_after(run, 3)
    assert_same_lines(read_lines(train_sft(config, run.root)), lines)
    assert load_policy(str(run.root)).name == "run"


@pytest.mark.parametrize(("model_type", "policy"), [*((family, {}) for family in FAMILIES), ("qwen2_vl", {"lora": {"r": 4}})])
def test_micro_batches_add_up_to_their_batch(tmp_path: Path, model_type: str, policy: dict[str, Any]) -> None:
    """Four questions at once and one by one have one loss and gradient. Trainer adds up both where a model leaves `num_items_in_batch`."""
    folder = save_tiny(tmp_path / "tiny", model_type)
    lines = []
    for rows in (4, 1):
        sft = {"max_steps": 1, "per_device_train_batch_size": rows, "gradient_accumulation_steps": 4 // rows}
        run = train_sft(recipe(folder, policy=policy, sft=sft), tmp_path / f"rows_{rows}")
        lines.append(read_lines(run)[0])
    assert lines[0]["grad_norm"] > 0
    for key in ("loss", "grad_norm"):
        assert lines[1][key] == pytest.approx(lines[0][key], rel=1e-3)


def test_steps_match_grpos_questions(tiny_folder: Path) -> None:
    config = recipe(tiny_folder)
    grpo = grpo_arguments(config, Path("run"))
    matched = matched_sft_arguments(config, 4)
    per_step = matched["per_device_train_batch_size"] * matched["gradient_accumulation_steps"]
    assert per_step == grpo.generation_batch_size // grpo.num_generations
