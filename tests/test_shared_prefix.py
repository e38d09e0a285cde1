"""A prompt that is computed once per group changes nothing: log-probabilities, gradients, rollouts and whole trainings stay TRL's."""

import logging
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
    G,
    make_completions,
    make_sharp,
    pay,
    pay_nothing,
    pay_some,
    read_groups,
    read_prompts,
    run,
    score_plainly,
    sharpen,
    with_gradient,
)
from small_runs import solid_sample
from tiny_checkpoint import make_model, save_tiny
from torch._dynamo.utils import counters as dynamo_counters

from osler.policies.families import FAMILIES
from osler.training.shared_prefix import cpu_kernels, decoder, rollout
from osler.training.shared_prefix.attention import install
from osler.training.shared_prefix.packed_row import PromptBatch, find_obstacle, pack, prefill, score_after_cache, score_packed
from osler.training.shared_prefix.rollout import Decoding, Rollout, roll_out
from osler.training.trainer import OslerGRPOTrainer


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
        score_packed(model, prompts, *completions, model)


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
]


@pytest.mark.parametrize("draw", DRAWS, ids=["greedy", "whole", "filtered", "static", "few"])
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


def test_adapters_of_some_layers_write_too() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    model, prompts = make_sharp("qwen2_vl"), read_prompts("qwen2_vl", UNLIKE)
    adapter = LoraConfig(target_modules=r".*language_model\.layers\.1\..*(q_proj|up_proj)", init_lora_weights=False, r=4, lora_alpha=64)
    adapted = inject_adapter_in_model(adapter, model)
    decoding = Decoding(max_new_tokens=decoder.PACK_FROM + 2, stop_ids=(256,), pad_id=256, do_sample=False)
    expected = generate(adapted, prompts, decoding)
    install(adapted)
    assert roll_out(adapted, [prompts], G, decoding).completion_ids == expected


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


@pytest.mark.parametrize(("grpo", "sections", "reward"), [row[1:] for row in TRAININGS], ids=[row[0] for row in TRAININGS])
def test_a_training_is_the_same(sharp_folder: Path, grpo: dict[str, Any], sections: dict[str, Any], reward: Any) -> None:
    plain, shared = (run(sharp_folder, reward, grpo, dict(sections), share=share) for share in (False, True))
    assert_same_training(shared, plain)
    assert shared[0]._is_checked or not shared[0].keeps_groups or reward is pay_nothing


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


@pytest.mark.parametrize(("grpo", "sections"), [row[1:] for row in FAMILY_TRAININGS], ids=[row[0] for row in FAMILY_TRAININGS])
def test_a_training_of_the_other_families_is_the_same(family_folder: Path, grpo: dict[str, Any], sections: dict[str, Any]) -> None:
    def prepare(trainer: Any) -> None:
        sharpen(trainer.model)

    plain, shared = (run(family_folder, pay, grpo, dict(sections), share=share, samples=SERIES, prepare=prepare) for share in (False, True))
    assert_same_training(shared, plain)
    assert shared[0]._is_checked


def test_each_prompt_is_seen_once(sharp_folder: Path) -> None:
    """In a step the vision tower meets the image of each question once, and those of one group's completions again for the check."""
    seen: list[int] = []

    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(len(kwargs["grid_thw"]))

    def watch(trainer: Any) -> None:
        trainer.model.model.visual.register_forward_pre_hook(note, with_kwargs=True)

    grpo = {"max_steps": 1, "num_generations": 4, "per_device_train_batch_size": 8, "shuffle_dataset": False}
    run(sharp_folder, pay, grpo, {}, share=True, prepare=watch)
    assert seen == [1, 1, 4]


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
        trainer._is_checked = True
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
    assert ["SHARED PREFIXES ARE OFF" in record.message for record in caplog.records] == [True]
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


def test_kernels_are_asked_for_by_name() -> None:
    """Without them the decoder runs the model's own modules, which the rows of few tokens do anyway."""
    assert cpu_kernels.has_operators() == torch.backends.mkldnn.is_available()
    assert not cpu_kernels.has_operators(("_no_such_operator",))


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
