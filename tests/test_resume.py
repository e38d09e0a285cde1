"""A run that resumes, also in the middle of a rollout, ends with exactly the weights and metrics of an uninterrupted one, or is refused."""

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import assert_same_lines, forget_after, read_lines, recipe

from osler.config import Config
from osler.errors import OslerError
from osler.policies.load import load_policy
from osler.policies.quiet import quiet_training
from osler.run_folder import Run
from osler.training.arguments import grpo_arguments
from osler.training.dataset import read_prompts
from osler.training.grpo import build_trainer, train_grpo
from osler.training.rollout_state import load_rollout

pytestmark = pytest.mark.integration

TWICE = {"num_iterations": 2}
PARTS = {"per_device_train_batch_size": 2, "steps_per_generation": 2, "gradient_accumulation_steps": 1}
CHOSEN = {
    "train": {"modalities": ["mri", "ct"], "limit": 12},
    "mixture": "balanced",
    "curriculum": "variance",
    "curriculum_refresh": 2,
}
AMID = {"grpo": PARTS, "policy": {"freeze_vision": True}}

FOUR = {
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "entropy_coef": 0.0,
    "learning_rate": 1e-4,
}
IN_TURN = {"per_device_train_batch_size": 4, "steps_per_generation": 2, "gradient_accumulation_steps": 1}
ENUMERATED = {"trainer": {"expectation": "enumerated"}}
REASONING = {
    "policy": {"path": "osler-tiny"},
    "prompt": {"strategy": "think"},
    "sampling": {"max_completion_length": 30},
    "trainer": {"expectation": "partial"},
}

# Name, sections of the recipe, the step after which the run is killed, whether completions are left then.
RUNS: list[tuple[str, dict[str, Any], int, bool]] = [
    ("lora", {"policy": {"lora": {"r": 4}}}, 3, False),
    ("reference", {"grpo": {"beta": 0.1}}, 3, False),
    ("accumulation", {"grpo": {"gradient_accumulation_steps": 2}}, 3, False),
    ("iterations_end", {"grpo": TWICE}, 2, False),
    ("iterations_trl", {"grpo": {**TWICE, "beta": 0.1}, "trainer": {"share_prefix": False}}, 3, True),
    ("iterations_frozen", {"grpo": TWICE, "policy": {"freeze_vision": True}}, 3, True),
    ("iterations_bf16_lora", {"grpo": TWICE, "policy": {"dtype": "bfloat16", "lora": {"r": 4}}}, 3, True),
    ("iterations_reference_bound", {"grpo": {**TWICE, "beta": 0.1}, "trainer": {"groups_per_forward": 1}}, 1, True),
    ("iterations_logged_late", {"grpo": {**TWICE, "logging_steps": 2}}, 3, True),
    ("iterations_accumulation", {"grpo": {"num_iterations": 3, "gradient_accumulation_steps": 2}}, 2, True),
    ("parts", {"grpo": PARTS}, 3, True),
    ("parts_trl", {"grpo": PARTS, "trainer": {"share_prefix": False}}, 3, True),
    ("parts_iterations_accumulation", {"grpo": {**PARTS, **TWICE, "beta": 0.1, "gradient_accumulation_steps": 3}}, 2, True),
    ("enumerated_iterations", {"grpo": {**TWICE, **FOUR, "beta": 0.1}, **ENUMERATED, "policy": {"path": "osler-tiny"}}, 3, True),
    ("enumerated_parts", {"grpo": {**FOUR, **IN_TURN}, **ENUMERATED, "policy": {"path": "osler-tiny", "freeze_vision": True}}, 3, True),
    (
        "looking_parts",
        {
            "data": {**CHOSEN, "mixture": "proportional", "train": {"modalities": ["mri", "ct"], "limit": 60}},
            "grpo": {**FOUR, **IN_TURN},
            **ENUMERATED,
            "rewards": {"looking": 1.0},
            "policy": {"path": "osler-tiny", "freeze_vision": True},
        },
        3,
        True,
    ),
    ("partial_iterations", {"grpo": {**TWICE, **FOUR, "beta": 0.1}, **REASONING}, 3, True),
    ("dynamic", {"trainer": {"dynamic_sampling": 1}}, 2, False),
    ("curriculum", {"data": CHOSEN}, 3, False),
    ("curriculum_iterations_trl", {"seed": 1, "data": CHOSEN, "grpo": TWICE, "trainer": {"share_prefix": False}}, 3, True),
    ("curriculum_parts", {"seed": 1, "data": {**CHOSEN, "shuffle_options": True}, "grpo": PARTS}, 2, False),
    ("curriculum_dynamic", {"data": CHOSEN, "trainer": {"dynamic_sampling": 1}}, 3, False),
    ("mixture", {"data": {**CHOSEN, "curriculum": "none", "mixture": "temperature"}}, 3, False),
    (  # rollouts begin at 0, 2 and 4, and those at 0 and 4 are watched
        "watched_iterations",
        {"grpo": {**TWICE, "max_steps": 6}, "trainer": {"watch_image_every": 3}, "policy": {"path": "osler-tiny"}},
        2,
        False,
    ),
    ("dynamic_iterations", {"trainer": {"dynamic_sampling": 2, "groups_per_forward": 1}, "grpo": {**TWICE, "beta": 0.1}}, 3, True),
]


def pay(completion_ids: list[list[int]], sample_id: list[str], **_: Any) -> list[float]:
    """A reward that follows from the tokens; half of the questions teach nothing, so that dynamic sampling replaces them."""
    rewards = [sum(token * 7919 % 97 for token in tokens) % 13 / 13 for tokens in completion_ids]
    return [reward if zlib.crc32(own.encode()) % 2 else 0.5 for own, reward in zip(sample_id, rewards, strict=True)]


def make_config(policy: Path, sections: dict[str, Any]) -> Config:
    """Two questions a rollout, two rollouts an epoch."""
    grpo = {"max_steps": 5, "save_steps": 1, "save_total_limit": 5, "learning_rate": 1e-2, **sections.get("grpo", {})}
    rewards = {"names": ["test_resume:pay"], **sections.get("rewards", {})}
    return recipe(policy, **{**sections, "grpo": grpo, "rewards": rewards})


def result(run: Run) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    return read_lines(run), load_file(run.policy / "model.safetensors")


# In `make test-integration` those that differ most; `make test-all` runs them all.
FAST: set[str] = {
    "iterations_bf16_lora",
    "curriculum_parts",
    "enumerated_iterations",
    "partial_iterations",
    "watched_iterations",
}


@pytest.mark.parametrize(
    ("sections", "step", "is_amid"),
    [pytest.param(*row[1:], id=row[0], marks=[] if row[0] in FAST else [pytest.mark.slow]) for row in RUNS],
)
def test_a_resumed_run_is_exact(tiny_folder: Path, tmp_path: Path, sections: dict[str, Any], step: int, is_amid: bool) -> None:
    config = make_config(tiny_folder, sections)
    run = train_grpo(config, tmp_path / "run")
    lines, weights = result(run)
    forget_after(run, step)
    checkpoint = run.checkpoints / f"checkpoint-{step}"
    assert (checkpoint / "rollout.json").is_file()
    assert (checkpoint / "rollout.safetensors").is_file() == is_amid
    assert (checkpoint / "curriculum.json").is_file() == (sections.get("data") is not None)
    again = result(train_grpo(config, run.root))
    assert again[0] == lines
    assert all(torch.equal(weight, weights[name]) for name, weight in again[1].items())
    assert len({line["reward"] for line in lines if "reward" in line}) > 1
    assert any("looking/reward" in line for line in lines) == ("rewards" in sections)
    assert all(line.get("dynamic_sampling/resampled_groups", 1) > 0 for line in lines)


@pytest.fixture(scope="module")
def killed(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was killed in the middle of a rollout of two groups and two micro-batches, with features of its images."""
    run = train_grpo(make_config(tiny_folder, AMID), tmp_path_factory.mktemp("runs") / "killed")
    forget_after(run, 1)
    return run


@pytest.fixture(scope="module")
def trainer(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The trainer of that run before it has read a checkpoint."""
    config, folder = make_config(tiny_folder, AMID), tmp_path_factory.mktemp("unused")
    with quiet_training():
        return build_trainer(config, load_policy(config.policy), read_prompts(config), [pay], grpo_arguments(config, folder))


def edit_state(**values: Any) -> Callable[[Path], None]:
    """Other values in `rollout.json`."""

    def edit(checkpoint: Path) -> None:
        path = checkpoint / "rollout.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return edit


def edit_tensors(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Another tensor in `rollout.safetensors`: `change` of the one that is there, None for none; `rollout.json` names what there is."""

    def edit(checkpoint: Path) -> None:
        path = checkpoint / "rollout.safetensors"
        tensors = load_file(path)
        changed = change(tensors.pop(name, None))
        tensors |= {} if changed is None else {name: changed.contiguous()}
        save_file(tensors, path)
        edit_state(tensors=sorted(tensors))(checkpoint)

    return edit


def overwrite(name: str, content: bytes | None) -> Callable[[Path], None]:
    """Another content of a file, None for no file."""

    def edit(checkpoint: Path) -> None:
        (checkpoint / name).write_bytes(content) if content is not None else (checkpoint / name).unlink()

    return edit


def rename_as_of_two(checkpoint: Path) -> None:
    """As two processes would have written it."""
    edit_state(num_processes=2)(checkpoint)
    (checkpoint / "rollout.json").rename(checkpoint / "rollout_0.json")


def widen(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor, tensor[:, :1]], dim=1)


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (overwrite("rollout.json", None), r"rollout.json cannot be read \(No such file"),
    (overwrite("rollout.json", b"{"), r"rollout.json is not JSON"),
    (overwrite("rollout.json", b"[" * 100_000), r"rollout.json is not JSON"),
    (overwrite("rollout.json", b"\xff"), r"rollout.json is not JSON"),
    (overwrite("rollout.json", b"[]"), r"rollout.json, : Input should be a valid dictionary"),
    (edit_state(micro_batches=-1), r"rollout.json, micro_batches: Input should be greater"),
    (edit_state(micro_batches="1"), r"rollout.json, micro_batches: Input should be a valid integer"),
    (edit_state(metrics={"reward": ["x"]}), r"rollout.json, metrics.reward.0: Input"),
    (edit_state(other=1), r"rollout.json, other: Extra inputs"),
    (edit_state(micro_batches=4), r"rollout.json does not fit \[grpo\] steps_per_generation"),
    (edit_state(tensors=[]), r"rollout.json does not fit \[grpo\] steps_per_generation"),
    (edit_state(num_processes=2), r"written by 2 processes, and 1 would draw other completions: start 2, or start over with --fresh"),
    (rename_as_of_two, r"written by 2 processes, and 1 would draw"),
    (overwrite("rollout.safetensors", None), r"rollout.safetensors cannot be read \(No such file"),
    (overwrite("rollout.safetensors", b""), r"rollout.safetensors cannot be read"),
    (overwrite("rollout.safetensors", b"\x08\0\0\0\0\0\0\0{}      "), r"rollout.safetensors and rollout.json differ: one of them has 0/"),
    (overwrite("rollout.safetensors", b"\xff" * 64), r"rollout.safetensors cannot be read"),
    (edit_state(tensors=["0/prompt_ids"]), r"rollout.safetensors and rollout.json differ: one of them has 0/advantages"),
    (edit_tensors("1/advantages", lambda _: None), r"has no 1/advantages"),
    (edit_tensors("2/advantages", lambda _: torch.zeros(2)), r"holds 2/advantages, which does not belong there"),
    (edit_tensors("0/num_images", lambda _: torch.zeros(2)), r"holds 0/num_images, which does not belong there"),
    (edit_tensors("0/advantages", lambda old: old[:1]), r"holds 0/advantages of the shape \[1\] and not \[2\]"),
    (edit_tensors("0/advantages", lambda old: old.long()), r"holds 0/advantages as I64"),
    (edit_tensors("0/num_items_in_batch", lambda old: old[None]), r"num_items_in_batch of the shape \[1\] and not \[\]"),
    (edit_tensors("0/completion_ids", widen), r"completion_ids of the shape \[2, \d+\]"),
    (edit_tensors("0/completion_ids", lambda old: old[0]), r"completion_ids of the shape \[\d+\]"),
    (edit_tensors("0/completion_ids", lambda old: old + 10_000), r"0/completion_ids with values outside 0 to \d+"),
    (edit_tensors("0/completion_mask", lambda old: old * 2), r"0/completion_mask with values outside 0 to 1"),
    (edit_tensors("0/old_per_token_logps", lambda old: old[:, 1:]), r"0/old_per_token_logps of the shape"),
    (edit_tensors("0/has_twin", lambda _: torch.ones(2).long()), r"holds no such image or no enumerated answers"),
    (edit_tensors("0/own_rewards", lambda _: torch.zeros(2)), r"holds only some columns of an expectation: own_rewards"),
    (edit_tensors("0/letter_ids", lambda _: torch.zeros(2, 27, dtype=torch.long)), r"holds 0/letter_ids of the shape \[2, 27\]"),
    (edit_tensors("0/group_id", lambda old: old + 2), r"0/group_id with values outside 0 to 1"),
    (edit_tensors("0/group_id", lambda _: None), r"holds group/0/ids, which does not belong there"),
    (edit_tensors("group/1/ids", lambda _: None), r"has no group/1/ids"),
    (edit_tensors("group/1/ids", lambda old: old[None]), r"holds group/1/ids of the shape"),
    (edit_tensors("group/1/types", lambda old: old[1:]), r"holds group/1/types of the shape"),
    (
        edit_tensors("group/1/image/0/grid", lambda old: old * 2),
        r"holds images of \d+ patches, which do not fit the image tokens of group/1/ids",
    ),
    (edit_tensors("group/1/image/0/grid", lambda old: old - 10_000), r"group/1/image/0/grid with values outside"),
    (edit_tensors("group/1/image/0/patches", lambda old: old[1:]), r"holds group/1/image/0/patches of the shape"),
    (edit_tensors("group/1/image/0/features/0", lambda _: None), r"has no group/1/image/0/features/0"),
    (edit_tensors("group/1/image/0/features/0", lambda old: old[:, 1:]), r"group/1/image/0/features/0 of the shape"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[row[1] for row in DAMAGES])
def test_a_damaged_rollout_is_one_line(killed: Run, trainer: Any, tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    for name in ("rollout.json", "rollout.safetensors"):
        shutil.copy(killed.checkpoints / "checkpoint-1" / name, checkpoint)
    damage(checkpoint)
    with pytest.raises(OslerError, match=message) as caught:
        load_rollout(trainer, checkpoint)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("--fresh")


def test_a_refused_checkpoint_leaves_the_run_as_it_is(killed: Run, tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(killed.root, run := tmp_path / "run")
    (run / "checkpoints/checkpoint-1/rollout.json").unlink()
    with pytest.raises(OslerError, match=r"checkpoint-1/rollout.json cannot be read"):
        train_grpo(make_config(tiny_folder, AMID), run)
    assert (run / "checkpoints/checkpoint-1/optimizer.pt").is_file()
    assert train_grpo(make_config(tiny_folder, AMID), run, fresh=True).policy.is_dir()


@pytest.mark.parametrize(
    ("share", "start"),
    [
        pytest.param(False, {**AMID}, id="to_trl", marks=pytest.mark.slow),
        pytest.param(True, {**AMID, "trainer": {"share_prefix": False}}, id="to_shared"),
    ],
)
def test_sharing_may_change_where_the_rollout_allows_it(tiny_folder: Path, tmp_path: Path, share: bool, start: dict[str, Any]) -> None:
    """The images of a shared rollout are in its groups, which TRL's path does not read."""
    run = train_grpo(make_config(tiny_folder, start), tmp_path / "run")
    lines = read_lines(run)
    forget_after(run, 1)
    changed = make_config(tiny_folder, {**AMID, "trainer": {"share_prefix": share}})
    if not share:
        with pytest.raises(OslerError, match=r"shares prompts within groups: resume it with --trainer.share_prefix=true$"):
            train_grpo(changed, run.root)
        return
    assert_same_lines(read_lines(train_grpo(changed, run.root)), lines)


def test_a_run_that_ended_sharing_resumes_without(
    killed: Run, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(killed.root, run := tmp_path / "run")
    edit_state(has_ended_sharing=True)(run / "checkpoints/checkpoint-1")
    train_grpo(make_config(tiny_folder, AMID), run)
    said = capsys.readouterr().err
    assert "prompts are not shared within groups: before the run was interrupted" in said
    assert "prompts are shared" not in said
    assert json.loads((run / "checkpoints/checkpoint-5/rollout.json").read_text())["has_ended_sharing"]


INEXACT = [
    ({"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1}, r"sync_ref_model moves the reference, .* use --fresh$"),
    ({"ignore_data_skip": True}, r"ignore_data_skip begins with the first questions again, .* use --fresh$"),
]


@pytest.mark.parametrize(("grpo", "message"), INEXACT, ids=["reference", "questions"])
def test_what_cannot_be_exact_is_refused(tiny_folder: Path, tmp_path: Path, grpo: dict[str, Any], message: str) -> None:
    config = make_config(tiny_folder, {"grpo": {**grpo, "max_steps": 2}})
    run = train_grpo(config, tmp_path / "run")
    forget_after(run, 1)
    with pytest.raises(OslerError, match=message):
        train_grpo(config, run.root)
