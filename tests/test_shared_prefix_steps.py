"""Whole trainings with shared prompts end as TRL's: the same completions, losses and weights."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_prefix_cases import (
    pay,
    pay_nothing,
    pay_some,
    run,
    sharpen,
)
from small_runs import solid_sample
from tiny_checkpoint import save_tiny

from osler.training.shared_prefix import cpu_kernels
from osler.training.trainer import OslerGRPOTrainer

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


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
    ("no_advantage_iterations", {"num_iterations": 2}, {}, pay_some),
    ("no_advantage_checkpointing", {"gradient_checkpointing": True}, {}, pay_some),
    ("sequence_level", {"importance_sampling_level": "sequence"}, {}, pay),
    ("iterations_beta", {"num_iterations": 2, "gradient_accumulation_steps": 2, "beta": 0.04, "loss_type": "grpo"}, {}, pay),
    ("iterations_lora", {"num_iterations": 2, "beta": 0.04}, {"policy": {"lora": {"r": 4}}}, pay),
    ("together", {}, {"trainer": {"groups_per_forward": 2}}, pay_some),
    *(
        (f"parts_{name}", grpo, {"trainer": {"groups_per_forward": 1}, **sections}, reward)
        for name, grpo, sections, reward in (
            ("grpo", {"loss_type": "grpo"}, {}, pay),
            ("some", {"beta": 0.04}, {}, pay_some),
            ("entropy_bonus", {"entropy_coef": 0.01}, {}, pay),
            ("checkpointing", {"gradient_checkpointing": True}, {}, pay),
            ("iterations", {"num_iterations": 2}, {}, pay),
            ("frozen_lora", {}, {"policy": {"freeze_vision": True, "lora": {"r": 4}}}, pay),
        )
    ),
    ("static", {}, {"trainer": {"static_decoding": True}}, pay),
    ("frozen", {}, {"policy": {"freeze_vision": True}}, pay),
    ("frozen_beta", {"beta": 0.04}, {"policy": {"freeze_vision": True}}, pay),
    ("frozen_checkpointing", {"gradient_checkpointing": True}, {"policy": {"freeze_vision": True}}, pay),
    ("kept_on_disk", {}, {"policy": {"freeze_vision": True}, "trainer": {"vision_cache": "features"}}, pay),
]


@pytest.fixture(scope="module")
def sharp_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("policies") / "sharp", hidden=32, layers=2)


def assert_same_training(shared: Any, plain: Any) -> None:
    """Completions, losses and weights of two trainings, the first with shared prefixes and the second TRL's."""
    assert type(plain[0]) is OslerGRPOTrainer
    assert shared[0].shares_prefix
    assert shared[1] == plain[1]
    assert len({len(tokens) for batch in plain[1] for tokens in batch}) > 1
    assert len(plain[2]) == plain[0].args.max_steps
    for found, expected in zip(shared[2], plain[2], strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-6)
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4, abs=1e-7)
        assert found["entropy"] == pytest.approx(expected["entropy"], rel=1e-2)
    for name, weight in plain[3].items():
        torch.testing.assert_close(shared[3][name], weight, rtol=0, atol=1e-5)


# In `make test-integration` every setting once; how they act together, and one loss after the other, in `make test-all`.
SLOW = {
    "frozen",
    "iterations",
    "no_advantage_dr_grpo",
    "static",
    "entropy_bonus",
    "beta",
    "bnpo",
    "parts_some",
    "parts_grpo",
    "parts_checkpointing",
    "parts_entropy_bonus",
    "parts_frozen_lora",
    "parts_iterations",
    "iterations_beta",
    "iterations_lora",
    "frozen_beta",
    "frozen_checkpointing",
    "together",
    "no_advantage_checkpointing",
    "no_advantage_dapo",
    "no_advantage_sapo",
    "no_advantage_vespo",
    "no_advantage_cispo",
    "no_advantage_bnpo",
    "no_advantage_luspo",
    "no_advantage_at_all",
    "split_groups",
    "kept_on_disk",
    "filtered",
}


@pytest.mark.parametrize(
    ("grpo", "sections", "reward"),
    [pytest.param(*row[1:], id=row[0], marks=[pytest.mark.slow] if row[0] in SLOW else []) for row in TRAININGS],
)
def test_a_training_is_the_same(sharp_folder: Path, grpo: dict[str, Any], sections: dict[str, Any], reward: Any) -> None:
    plain, shared = (run(sharp_folder, reward, grpo, dict(sections), share=share) for share in (False, True))
    assert_same_training(shared, plain)
    assert shared[0].checked or not shared[0].keeps_groups or reward is pay_nothing


# Two or three images a prompt, none of one size with its neighbour.
SERIES = [
    solid_sample((0, 56), (160, 84)),
    solid_sample((40, 112), (90, 56), (200, 84)),
    solid_sample((120, 84), (20, 112)),
    solid_sample((250, 56), (60, 112)),
]
FAMILY_TRAININGS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("default", {}, {}),
    ("reference", {"beta": 0.04, "num_iterations": 2, "gradient_accumulation_steps": 2, "loss_type": "grpo"}, {}),
    ("frozen_lora", {"beta": 0.04}, {"policy": {"freeze_vision": True, "lora": {"r": 4}}, "trainer": {"groups_per_forward": 2}}),
]


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def family_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("policies") / request.param, request.param)


@pytest.mark.parametrize(
    ("grpo", "sections"),
    [pytest.param(*row[1:], id=row[0], marks=[] if row[0] == "reference" else [pytest.mark.slow]) for row in FAMILY_TRAININGS],
)
def test_a_training_of_the_other_families_is_the_same(family_folder: Path, grpo: dict[str, Any], sections: dict[str, Any]) -> None:
    def prepare(trainer: Any) -> None:
        sharpen(trainer.model)

    plain, shared = (run(family_folder, pay, grpo, dict(sections), share=share, samples=SERIES, prepare=prepare) for share in (False, True))
    assert_same_training(shared, plain)
    assert shared[0].checked


def test_each_prompt_is_seen_once(sharp_folder: Path) -> None:
    """In a step the vision tower meets the image of each question once, and those of two groups' completions again for the check."""
    seen: list[int] = []

    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(len(kwargs["grid_thw"]))

    def watch(trainer: Any) -> None:
        trainer.model.model.visual.register_forward_pre_hook(note, with_kwargs=True)

    grpo = {"max_steps": 1, "num_generations": 4, "per_device_train_batch_size": 8, "shuffle_dataset": False}
    run(sharp_folder, pay, grpo, {}, share=True, prepare=watch)
    assert seen == [1, 1, 8]


@pytest.mark.parametrize(
    ("limit", "is_frozen", "passes"),
    [
        (0, False, [1, 1, 1]),
        (1, False, [1] * 9),
        (2, False, [2, 1, 2, 1, 2, 1]),
        (3, False, [3]),
        (0, True, [3]),
        (2, True, [2, 1]),
    ],
)
def test_no_pass_holds_more_groups_than_allowed(sharp_folder: Path, limit: int, is_frozen: bool, passes: list[int]) -> None:
    """Prompts that each pass through the vision tower reads: of the rollout and, where its graph was too large, of the update, twice."""
    seen: list[int] = []

    def watch(trainer: Any) -> None:
        trainer.checks_itself = False
        trainer.model.model.visual.register_forward_pre_hook(
            lambda _module, _args, inputs: seen.append(len(inputs["grid_thw"])), with_kwargs=True
        )

    grpo = {"max_steps": 1, "num_generations": 4, "per_device_train_batch_size": 12, "shuffle_dataset": False}
    samples = [solid_sample((grey, 56)) for grey in (0, 90, 200)]
    sections = {"trainer": {"groups_per_forward": limit}, "policy": {"freeze_vision": is_frozen}}
    run(sharp_folder, pay, grpo, sections, share=True, samples=samples, prepare=watch)
    assert seen == passes


def test_a_wrong_log_probability_ends_sharing(sharp_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    def spoil(trainer: Any) -> None:
        right = trainer._score_update
        trainer._score_update = lambda *args: tuple(values + 0.01 for values in right(*args))

    plain = run(sharp_folder, pay, {}, {}, share=False)
    with caplog.at_level(logging.WARNING, logger="osler"):
        spoilt = run(sharp_folder, pay, {}, {}, share=True, prepare=spoil)
    assert not spoilt[0].shares_prefix
    own = [record for record in caplog.records if record.name.startswith("osler")]
    assert ["SHARED PREFIXES ARE OFF" in record.message for record in own] == [True]
    assert spoilt[1] == plain[1]
    assert spoilt[2][1]["loss"] == pytest.approx(plain[2][1]["loss"], abs=1e-6)


LIVES: list[tuple[dict[str, Any], list[bool]]] = [
    ({}, [False, False]),
    ({"num_iterations": 2}, [True, False]),
    ({"gradient_accumulation_steps": 2}, [True, False, True, False]),
]


@pytest.mark.parametrize(("grpo", "lives"), LIVES, ids=["default", "iterations", "accumulation"])
def test_the_state_of_a_step_ends_with_its_last_update(sharp_folder: Path, grpo: dict[str, Any], lives: list[bool]) -> None:
    is_alive: list[bool] = []

    def watch(trainer: Any) -> None:
        compute = trainer._compute_loss

        def note(*args: Any) -> Any:
            loss = compute(*args)
            assert trainer.generation is None or trainer.generation.rows is None
            is_alive.append(trainer.generation is not None)
            return loss

        trainer._compute_loss = note

    trainer, *_ = run(sharp_folder, pay, grpo, {}, share=True, prepare=watch)
    assert is_alive == lives
    assert trainer.generation is None


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("transposes", [True, False])
def test_packed_weights_compute_the_same(transposes: bool, has_bias: bool) -> None:
    if not transposes and not cpu_kernels.has_operators():
        pytest.skip("this build of PyTorch has no oneDNN")
    torch.manual_seed(0)
    layers = [torch.nn.Linear(24, 40, bias=has_bias), torch.nn.Linear(24, 16, bias=has_bias)]
    rows, norm, other = torch.randn(5, 24), torch.rand(24) + 0.5, torch.randn(5, 40)
    with torch.inference_mode():
        both = cpu_kernels.linear(rows, cpu_kernels.pack(*layers, norm=norm, transposes=transposes))
        torch.testing.assert_close(both, torch.cat([layer(rows * norm) for layer in layers], dim=-1))
        packed, expected = cpu_kernels.pack(layers[0], transposes=transposes), layers[0](rows)
        torch.testing.assert_close(cpu_kernels.linear(rows, packed, "swish"), torch.nn.functional.silu(expected))
        torch.testing.assert_close(cpu_kernels.linear_onto(rows, other, packed, "add"), expected + other)
        torch.testing.assert_close(cpu_kernels.linear_onto(rows, other, packed, "mul"), expected * other)


def test_kernels_are_asked_for_by_name() -> None:
    """Without them the decoder runs the model's own modules, which the rows of few tokens do anyway."""
    assert cpu_kernels.has_operators() == torch.backends.mkldnn.is_available()
    assert not cpu_kernels.has_operators(("_no_such_operator",))
