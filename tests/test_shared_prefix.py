"""A prompt that is computed once per group changes nothing: log-probabilities, gradients, rollouts and whole trainings stay TRL's."""

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import recipe, solid_sample
from tiny_checkpoint import make_model, make_processor, save_tiny
from trl.trainer.utils import add_fused_lm_head

from osler import shared_rollout
from osler.models import FAMILIES, load_policy
from osler.prompts import render
from osler.shared_prefix import Prompts, find_obstacle, install, pack, score
from osler.shared_rollout import Decoding, roll_out
from osler.shared_trainer import collate
from osler.train import build_trainer
from osler.trainer import OslerGRPOTrainer
from osler.training import grpo_arguments, quiet_upstream

G = 3
ONE = [solid_sample((40, 112))]
UNLIKE = [solid_sample((40, 112)), solid_sample((200, 56))]
PAIR = [solid_sample((0, 56), (160, 84)), solid_sample((80, 84))]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make_sharp(model_type: str) -> Any:
    """A model whose weights are large enough that a wrong position or a leak shows."""
    model = make_model(model_type)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if re.search(r"language_model.*(q_proj|k_proj)\.weight|embed_tokens", name):
                weight.mul_(3)
            elif name.endswith("bias"):
                weight.normal_(0, 0.3)
    add_fused_lm_head(model, temperature=0.8, outputs=("log_probs", "entropy"))
    return model


def read_prompts(model_type: str, samples: list[Any]) -> Prompts:
    processor = make_processor(model_type)
    messages = [render(sample, "no_think", phase="train").messages for sample in samples]
    texts = [processor.apply_chat_template(list(message), add_generation_prompt=True, tokenize=False) for message in messages]
    images = [[source.load() for source in sample.images] for sample in samples]
    inputs = processor(text=texts, images=[image for own in images for image in own])
    return collate(inputs["input_ids"], images, inputs, G, processor.tokenizer.pad_token_id, torch.device("cpu")).prompts


def make_completions(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids_NC = torch.randint(0, 250, (len(lengths), max(lengths)), generator=generator)
    return ids_NC, (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def score_plainly(model: Any, prompts: Prompts, num_images: list[int], ids_NC: torch.Tensor, mask_NC: torch.Tensor) -> Any:
    """Every completion behind its whole prompt, as TRL scores it."""
    rows = torch.arange(len(num_images)).repeat_interleave(len(ids_NC) // len(num_images))
    grids = torch.split(prompts.image_grid_thw, num_images)
    patches = torch.split(prompts.pixel_values, [int(grid.prod(1).sum()) for grid in grids])
    input_ids = torch.cat([prompts.ids_BP[rows], ids_NC], 1)
    attention_mask = torch.cat([prompts.mask_BP[rows], mask_NC], 1)
    labels = input_ids.masked_fill(attention_mask == 0, -100)
    labels[:, : -ids_NC.shape[1]] = -100
    outputs = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        mm_token_type_ids=torch.cat([prompts.types_BP[rows], torch.zeros_like(ids_NC)], 1),
        pixel_values=torch.cat([patches[row] for row in rows]),
        image_grid_thw=torch.cat([grids[row] for row in rows]),
        labels=labels,
        fused_lm_head=True,
    )
    return outputs.log_probs[:, -ids_NC.shape[1] :], outputs.entropy[:, -ids_NC.shape[1] :]


def with_gradient(model: Any, scored: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    logps, entropies = scored
    weights = torch.linspace(-1, 1, logps.numel()).view_as(logps)
    model.zero_grad()
    (logps * weights).sum().backward()
    gradient = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    return logps.detach(), entropies.detach(), gradient


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
    shared = with_gradient(model, score(model, prompts, *completions, model))
    torch.testing.assert_close(shared[0], plain[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shared[1], plain[1], rtol=1e-5, atol=1e-5)
    assert (shared[2] - plain[2]).norm() < 1e-5 * plain[2].norm()


def shift_branches(inputs: dict[str, Any]) -> None:
    inputs["position_ids"][..., -inputs["layout"].num_scored :] += 1


def forget_images(inputs: dict[str, Any]) -> None:
    inputs["position_ids"] = torch.arange(inputs["input_ids"].shape[1]).expand(3, 1, -1)


def leak_ahead(inputs: dict[str, Any]) -> None:
    inputs["layout"] = replace(inputs["layout"], mask=torch.ones_like(inputs["layout"].mask))


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
        score(model, prompts, *completions, model)


def generate(model: Any, prompts: Prompts, decoding: Decoding) -> list[list[int]]:
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
    return shared_rollout._cut(tokens[:, prompts.ids_BP.shape[1] :].tolist(), decoding.stop_ids)


DRAWS: list[dict[str, Any]] = [
    {"do_sample": False},
    {},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
]


@pytest.mark.parametrize("draw", DRAWS, ids=["greedy", "whole", "filtered"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_rollout_is_what_generate_writes(model_type: str, draw: dict[str, Any]) -> None:
    """A fifth of the vocabulary stops a completion, so that they end at different times and some leave early."""
    model, prompts = make_sharp(model_type), read_prompts(model_type, UNLIKE)
    decoding = Decoding(max_new_tokens=12, stop_ids=tuple(range(0, 256, 5)), pad_id=256, suppressed_ids=(7, 8), **draw)
    torch.manual_seed(3)
    expected = generate(model, prompts, decoding)
    install(model)
    torch.manual_seed(3)
    assert roll_out(model, prompts, G, decoding) == expected
    assert not decoding.do_sample or len({len(row) for row in expected}) > 2


def pay(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that follows from the tokens."""
    return [sum(token * 7919 % 97 for token in tokens) % 13 / 13 for tokens in completion_ids]


def pay_some(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Nothing to learn in every second group."""
    return [row // 2 % 2 * reward for row, reward in enumerate(pay(completion_ids))]


def pay_nothing(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Nothing to learn at all."""
    return [0.0] * len(completion_ids)


LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo")
TRAININGS: list[tuple[str, dict[str, Any], dict[str, Any], Any]] = [
    ("default", {}, {}, pay),
    ("beta", {"beta": 0.04}, {}, pay),
    ("accumulation", {"gradient_accumulation_steps": 2, "loss_type": "grpo"}, {}, pay),
    ("split_groups", {"gradient_accumulation_steps": 2, "num_generations": 8, "loss_type": "dr_grpo"}, {}, pay),
    ("lora", {"beta": 0.04}, {"policy": {"lora": {"r": 4}}}, pay),
    ("checkpointing", {"gradient_checkpointing": True}, {}, pay),
    ("iterations", {"num_iterations": 2}, {}, pay),
    ("truncation", {"mask_truncated_completions": True}, {}, pay),
    ("entropy_bonus", {"gradient_accumulation_steps": 2, "entropy_coef": 0.01}, {}, pay),
    ("bnpo", {"gradient_accumulation_steps": 2, "loss_type": "bnpo"}, {}, pay),
    ("filtered", {}, {"sampling": {"top_p": 0.9, "top_k": 50, "temperature": 0.8}}, pay),
    ("repetition_penalty", {}, {"sampling": {"repetition_penalty": 1.1}}, pay),
    *((f"no_advantage_{loss}", {"loss_type": loss}, {}, pay_some) for loss in LOSS_TYPES),
    ("no_advantage_at_all", {}, {}, pay_nothing),
]
SAMPLES = (*UNLIKE, *PAIR, solid_sample((120, 84)), solid_sample((250, 112)))


@pytest.fixture(scope="module")
def sharp_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("policies") / "sharp", hidden=32, layers=2)


def run(
    folder: Path,
    reward: Any,
    grpo: dict[str, Any],
    sections: dict[str, Any],
    *,
    share: bool,
    prepare: Callable[[Any], None] | None = None,
) -> Any:
    steps = {"max_steps": 2, "save_strategy": "no", "entropy_coef": 0.0, "learning_rate": 1e-4, **grpo}
    sections = {"sampling": {"max_completion_length": 8, **sections.pop("sampling", {})}, **sections}
    config = recipe(folder, grpo=steps, trainer={"share_prefix": share}, **sections)
    prompts = [render(sample, "no_think", phase="train") for sample in SAMPLES]
    written: list[list[list[int]]] = []

    def watch(completion_ids: list[list[int]], **others: Any) -> list[float]:
        written.append(completion_ids)
        rewards: list[float] = reward(completion_ids, **others)
        return rewards

    policy = load_policy(config.policy)
    policy.model.generation_config.eos_token_id += list(range(0, 256, 11))  # so that completions end at different times
    torch.manual_seed(0)
    with quiet_upstream():
        trainer = build_trainer(config, policy, prompts, [watch], grpo_arguments(config, Path("run")))
        if prepare is not None:
            prepare(trainer)
        trainer.train()
    logged = [line for line in trainer.state.log_history if "loss" in line]
    return trainer, written, logged, {name: weight.detach() for name, weight in trainer.model.named_parameters()}


@pytest.mark.parametrize(("grpo", "sections", "reward"), [row[1:] for row in TRAININGS], ids=[row[0] for row in TRAININGS])
def test_a_training_is_the_same(sharp_folder: Path, grpo: dict[str, Any], sections: dict[str, Any], reward: Any) -> None:
    plain, shared = (run(sharp_folder, reward, grpo, dict(sections), share=share) for share in (False, True))
    assert type(plain[0]) is OslerGRPOTrainer
    assert shared[0].shares_prefix
    assert shared[0]._is_checked or not shared[0].keeps_groups
    assert shared[1] == plain[1]
    assert len({len(tokens) for batch in plain[1] for tokens in batch}) > 1
    assert len(plain[2]) == 2
    for found, expected in zip(shared[2], plain[2], strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-6)
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4, abs=1e-7)
        assert found["entropy"] == pytest.approx(expected["entropy"], rel=1e-2)
    for name, weight in plain[3].items():
        torch.testing.assert_close(shared[3][name], weight, rtol=0, atol=1e-5)


def test_each_prompt_is_seen_once(sharp_folder: Path) -> None:
    """In a step the vision tower meets the images of two questions once for each pass, and those of one group again for the check."""
    seen: list[int] = []

    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(len(kwargs["grid_thw"]))

    def watch(trainer: Any) -> None:
        trainer.model.model.visual.register_forward_pre_hook(note, with_kwargs=True)

    grpo = {"max_steps": 1, "num_generations": 4, "per_device_train_batch_size": 8, "shuffle_dataset": False}
    run(sharp_folder, pay, grpo, {}, share=True, prepare=watch)
    assert seen == [2, 2, 4]


def test_a_wrong_log_probability_ends_sharing(sharp_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    def spoil(trainer: Any) -> None:
        right = trainer._score
        trainer._score = lambda *args: tuple(values + 0.01 for values in right(*args))

    plain = run(sharp_folder, pay, {}, {}, share=False)
    with caplog.at_level(logging.WARNING, logger="osler"):
        spoilt = run(sharp_folder, pay, {}, {}, share=True, prepare=spoil)
    assert not spoilt[0].shares_prefix
    assert ["SHARED PREFIXES ARE OFF" in record.message for record in caplog.records] == [True]
    assert spoilt[1] == plain[1]
    assert spoilt[2][1]["loss"] == pytest.approx(plain[2][1]["loss"], abs=1e-6)


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
