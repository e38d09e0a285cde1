"""The questions of a rollout: shares of modalities, questions whose rewards vary, and the order of TRL where nothing is asked for."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import read_lines, recipe
from trl.trainer.utils import RepeatSampler

from osler.config import build_config
from osler.data.phantom import build_samples
from osler.errors import ConfigError, DataError
from osler.policies.load import load_policy
from osler.policies.quiet import quiet_training
from osler.prompts import render
from osler.taxonomy import Modality
from osler.training.arguments import grpo_arguments
from osler.training.curriculum import FILE, HALF_LIFE, PRIOR_VARIANCE, Curriculum
from osler.training.dataset import read_prompts
from osler.training.grpo import build_trainer, check_mixture, train_grpo
from osler.training.sft import train_sft
from osler.training.trainer import EpochSampler
from osler.types import Prompt, Sample

SIZES = {Modality.CT: 80, Modality.MRI: 20, Modality.XRAY: 5}
BATCH = 10


def samples(sizes: dict[Modality, int] | None = None) -> list[Sample]:
    sizes = SIZES if sizes is None else sizes
    return [one for name, num in sizes.items() for one in build_samples(modality=name, split="train", seed=0, num_questions=num)]


def curriculum(asked: Sequence[Sample] | None = None, seed: int = 0, **data: Any) -> Curriculum:
    return Curriculum(samples() if asked is None else asked, build_config({"data": data}).data, seed)


def simulate(found: Curriculum, p_N: Sequence[float], num_rollouts: int, first: int = 0, group: int = 8) -> list[list[int]]:
    """The questions of rollouts whose completions are right with the probability of their question."""
    ids, asked = list(found.places), []
    for step in range(first, first + num_rollouts):
        asked.append(found.choose(BATCH, step))
        rng = np.random.default_rng([7, step])
        for place in asked[-1]:
            found.record([ids[place]] * group, (rng.random(group) < p_N[place]).astype(float).tolist(), "accuracy")
    return asked


SHARES: list[tuple[dict[str, Any], list[float]]] = [
    ({"mixture": "balanced"}, [1 / 3, 1 / 3, 1 / 3]),
    ({"mixture": "temperature", "mixture_temperature": 1}, [80 / 105, 20 / 105, 5 / 105]),
    ({"mixture": "temperature", "mixture_temperature": 2}, [80**0.5 / 15.652, 20**0.5 / 15.652, 5**0.5 / 15.652]),
    ({"mixture": "temperature", "mixture_temperature": 1e9}, [1 / 3, 1 / 3, 1 / 3]),
    ({"mixture": "temperature", "mixture_temperature": 0.5}, [6400 / 6825, 400 / 6825, 25 / 6825]),
    ({"mixture": "balanced", "curriculum": "variance"}, [1 / 3, 1 / 3, 1 / 3]),
]


@pytest.mark.parametrize(("data", "shares"), SHARES, ids=lambda row: str(row) if isinstance(row, dict) else "")
def test_modalities_get_their_shares_after_every_rollout(data: dict[str, Any], shares: list[float]) -> None:
    found = curriculum(**data)
    asked = simulate(found, [0.5] * 105, 30)
    for number in range(1, 31):
        counts = np.bincount(found.modality_N[[place for rollout in asked[:number] for place in rollout]], minlength=3)
        assert np.abs(counts - BATCH * number * np.array(shares)).max() <= 1
    assert all(len(set(rollout)) == BATCH for rollout in asked)
    assert sum(found.metrics(asked[0])[f"curriculum/share/{name}"] for name in SIZES) == pytest.approx(1)
    if "curriculum" not in data:  # every question of a modality once before any of them again
        assert all(np.ptp(found.asked_N[found.modality_N == group]) <= 1 for group in range(3))


def test_a_small_modality_gives_no_question_twice_in_a_rollout() -> None:
    found = curriculum(samples({Modality.CT: 20, Modality.MRI: 2}), mixture="balanced")
    assert [np.bincount(found.modality_N[found.choose(BATCH, step)]).tolist() for step in range(2)] == [[8, 2], [8, 2]]


@pytest.mark.parametrize("data", [{"mixture": "balanced"}, {"curriculum": "variance"}], ids=str)
def test_the_seed_decides(data: dict[str, Any]) -> None:
    runs = [simulate(curriculum(seed=seed, **data), [0.5] * 105, 8) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    assert len({tuple(sorted(rollout)) for rollout in runs[0]}) == 8


def test_the_estimate_by_hand() -> None:
    """Four completions of which two are right have s = 1/3, and with two right ones their cell expects (8/6 + 4/3) / 14."""
    found = curriculum(samples({Modality.CT: 10}), curriculum="variance", curriculum_refresh=2)
    first, same_cell = (list(found.places)[place] for place in (0, 5))
    found.record([first] * 4, [1.0, 0.0, 1.0, 0.0], "accuracy")
    found.record([same_cell] * 3, [1.0, float("nan"), 1.0], "accuracy")
    found.record([list(found.places)[1]] * 2, [float("nan"), 1.0], "accuracy")  # one completion has no variance
    found.choose(5, 1)
    assert found.variance_N.tolist() == [PRIOR_VARIANCE] * 10
    found.choose(5, 2)
    cell = (8 / 6 + 4 / 3) / 14
    assert found.variance_N[[0, 5, 1]] == pytest.approx([(8 * cell + 4 / 3) / 12, 8 * cell / 10, PRIOR_VARIANCE])
    assert found.metrics([0])["curriculum/decided"] == 0.5
    found.choose(5, 2 + HALF_LIFE)
    assert found.completions_N[0] == pytest.approx(4 * 0.5 ** (2 / HALF_LIFE + 1))


@pytest.mark.parametrize(("mixture", "share"), [("proportional", 0.75), ("balanced", 0.65)])
def test_questions_that_vary_are_asked_more_often(mixture: str, share: float) -> None:
    """Half of the questions are always or never right, the others half of the time. A mixture asks the few of a small modality often."""
    p_N = [(0.0, 0.5, 1.0, 0.5)[place % 4] for place in range(105)]
    asked = simulate(curriculum(curriculum="variance", mixture=mixture, curriculum_refresh=5), p_N, 60)
    late = [p_N[place] for rollout in asked[30:] for place in rollout]
    assert late.count(0.5) / len(late) > share
    assert len({place for rollout in asked for place in rollout}) > 95


def test_a_state_continues_exactly(tmp_path: Path) -> None:
    data = {"curriculum": "variance", "mixture": "temperature", "curriculum_refresh": 3}
    whole, begun, again = (curriculum(**data) for _ in range(3))
    p_N = [place / 104 for place in range(105)]
    asked = simulate(whole, p_N, 20)
    assert simulate(begun, p_N, 7) == asked[:7]
    begun.save(tmp_path)
    again.load(tmp_path)
    assert simulate(again, p_N, 13, first=7) == asked[7:]


DAMAGES: list[tuple[Callable[[dict[str, Any]], dict[str, Any] | None], str]] = [
    (lambda _: None, r"cannot be read \(No such file"),
    (lambda state: {**state, "asked": state["asked"][1:]}, "holds asked of 104 questions, and there are 105"),
    (lambda state: {**state, "right": [-1.0] * 105}, "right.0: Input should be greater"),
    (lambda state: {**state, "spread": [float("nan")] * 105}, "spread.0: Input should be a finite number"),
    (lambda state: {**state, "asked": ["x"] * 105}, "asked.0: Input should be a valid integer"),
    (lambda state: {**state, "asked": [10**400] * 105}, "asked.0: Input should be less"),
    (lambda state: {**state, "refreshed": -1}, "refreshed: Input should be greater"),
    (lambda state: {**state, "other": 1}, "other: Extra inputs"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[row[1] for row in DAMAGES])
def test_a_damaged_state_is_one_line(tmp_path: Path, damage: Callable[[dict[str, Any]], dict[str, Any] | None], message: str) -> None:
    found = curriculum(curriculum="variance")
    found.save(tmp_path)
    damaged = damage(json.loads((tmp_path / FILE).read_text()))
    (tmp_path / FILE).write_text(json.dumps(damaged)) if damaged is not None else (tmp_path / FILE).unlink()
    with pytest.raises(DataError, match=message) as caught:
        found.load(tmp_path)
    assert str(caught.value).endswith("--fresh")
    assert "\n" not in str(caught.value)


def test_another_reward_than_right_or_wrong_is_refused() -> None:
    found = curriculum(curriculum="variance")
    with pytest.raises(ConfigError, match=r"statements gave -0.5 for phantom/train/ct/0/0/.*: name accuracy first"):
        found.record([next(iter(found.places))], [-0.5], "statements")
    curriculum(mixture="balanced").record(["unknown"], [-0.5], "statements")  # which needs no rewards


def unlabelled() -> list[Prompt]:
    one = build_samples(modality=Modality.CT, split="train", seed=0, num_questions=1)[0]
    return [render(Sample(**{**{name: getattr(one, name) for name in one.__slots__}, "modality": None}), "no_think", phase="train")]


def test_refused_in_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    config = recipe(tiny_folder, data={"mixture": "balanced"})
    with pytest.raises(ConfigError, match=r'^\[data\] mixture = "balanced" needs modalities, and no question has one'):
        check_mixture(config, unlabelled())
    with pytest.raises(ConfigError, match=r"^\[data\] mixture and curriculum choose GRPO's questions: add --data.mixture=proportional"):
        train_sft(config, tmp_path / "run")


ASKED: list[list[str]] = []


def collect(sample_id: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that notes which questions it is for."""
    ASKED.append(list(sample_id))
    return [len(set(tokens)) % 2 for tokens in completion_ids]


@pytest.mark.integration
@pytest.mark.parametrize("share_prefix", [True, False])
def test_a_training_asks_whole_groups_of_its_mixture(tiny_folder: Path, tmp_path: Path, share_prefix: bool) -> None:
    ASKED.clear()
    data = {"train": {"modalities": ["mri", "ct"], "limit": 6}, "mixture": "balanced", "curriculum": "variance", "curriculum_refresh": 1}
    sections = {"rewards": {"names": ["test_curriculum:collect"]}, "trainer": {"share_prefix": share_prefix}, "grpo": {"max_steps": 4}}
    run = train_grpo(recipe(tiny_folder, data=data, **sections), tmp_path / "run")
    assert len(ASKED) == 4
    assert all(ids[::2] == ids[1::2] and {"ct", "mri"} == {sample_id.split("/")[2] for sample_id in ids} for ids in ASKED)
    lines = [line for line in read_lines(run) if "reward" in line]
    assert all(line["curriculum/share/ct"] == line["curriculum/share/mri"] == 0.5 for line in lines)
    assert [0 < line["curriculum/variance"] <= 0.25 and 0 <= line.get("curriculum/decided", 0) <= 1 for line in lines] == [True] * 4
    assert lines[0]["curriculum/variance"] == pytest.approx(PRIOR_VARIANCE)
    assert lines[1]["curriculum/variance"] != lines[0]["curriculum/variance"]


def test_by_default_the_order_is_that_of_trl(tiny_folder: Path, tmp_path: Path) -> None:
    config = recipe(tiny_folder)
    with quiet_training():
        trainer = build_trainer(config, load_policy(config.policy), read_prompts(config), [collect], grpo_arguments(config, tmp_path))
    sampler = trainer._get_train_sampler()
    assert trainer.curriculum is None
    assert type(sampler) is EpochSampler
    assert list(sampler) == list(RepeatSampler(range(4), mini_repeat_count=2, batch_size=2, repeat_count=1, seed=config.seed))
