"""The curves of a page: a reward stands once, under the name of what it is."""

import json
from pathlib import Path
from typing import Any

import pytest

from osler.reports.figures import training_figures
from osler.reports.load_runs import load_runs


def exact(step: int, *, sampled: float = 0.0, **others: float) -> dict[str, Any]:
    return {
        "step": step,
        "time_s": step,
        "reward": step / 10,
        "enumerated/reward": step / 10,
        "enumerated/sampled_steps": sampled,
        **others,
    }


def drawn(step: int, **others: float) -> dict[str, Any]:
    return {"step": step, "time_s": step, "reward": step / 20, "rewards/accuracy/mean": 0.5, **others}


def between(step: int) -> dict[str, Any]:
    """A line of an update that uses the rollout of an earlier step."""
    return {"step": step, "time_s": step, "enumerated/reward": 0.7}


def enumerated_drawn(step: int) -> dict[str, Any]:
    """A step that was sampled, because the policy did not know the format yet."""
    return {**drawn(step), "enumerated/sampled_steps": 1.0}


# The lines of each run, and the titles of its figures about rewards.
ONCE = ["Expected reward", "Expected reward over time"]
CURVES: list[tuple[str, list[list[dict[str, Any]]], list[str]]] = [
    ("drawn", [[drawn(1), drawn(2)]], ["Reward", "Parts of the reward", "Reward over time"]),
    ("enumerated", [[exact(1), exact(2)]], ONCE),
    (
        "parts",
        [[exact(1, **{"rewards/accuracy/mean": 0.5})]],
        ["Expected reward", "Parts of the expected reward", "Expected reward over time"],
    ),
    ("updates", [[exact(1), between(2), exact(3)]], ONCE),
    ("two_enumerated", [[exact(1)], [exact(1)]], ONCE),
    ("mixed_runs", [[exact(1)], [drawn(1)]], ["Reward", "Reward over time"]),
    ("sampled_first", [[enumerated_drawn(1), exact(2)]], ["Reward", "Parts of the reward", "Reward over time", "Expected reward"]),
    ("sampled_between_lines", [[exact(5, sampled=0.2)]], ["Reward", "Reward over time", "Expected reward"]),
    ("partial", [[drawn(1, **{"partial/reward": 0.4})]], ["Reward", "Parts of the reward", "Reward over time", "Expected reward"]),
    ("no_reward", [[{"step": 1, "loss": 1.0}]], []),
]


def write_runs(folder: Path, runs: list[list[dict[str, Any]]]) -> list[Path]:
    folders = [folder / f"run{number}" for number in range(len(runs))]
    for run, lines in zip(folders, runs, strict=True):
        run.mkdir()
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folders


@pytest.mark.parametrize(("runs", "titles"), [pytest.param(*row[1:], id=row[0]) for row in CURVES])
def test_a_reward_is_drawn_once_under_its_own_name(tmp_path: Path, runs: list[list[dict[str, Any]]], titles: list[str]) -> None:
    figures = training_figures(load_runs(write_runs(tmp_path, runs)))
    assert [figure.title for figure in figures if "reward" in figure.title.lower() and "without" not in figure.title] == titles


def test_the_expected_reward_of_every_update_is_drawn_and_named_among_others(tmp_path: Path) -> None:
    (alone,) = load_runs(write_runs(tmp_path, [[exact(1), between(2), exact(3)]]))
    assert "from 0.1 at step 1 to 0.3 at step 3" in training_figures([alone])[0].description
    assert alone.curves["enumerated"].steps == (1, 2, 3)
    (tmp_path / "more").mkdir()
    figure = training_figures(load_runs(write_runs(tmp_path / "more", [[exact(1)], [drawn(1)]])))[0]
    assert figure.caption.startswith("Expected rewards: run0, where every answer is computed.")


# What the recipes of two runs pay for, and what is said of it.
PAID: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"names": ["accuracy"]}, {"names": ["accuracy"], "weights": [1.0]}, ""),
    ({"names": ["accuracy"]}, {}, ""),
    (
        {"names": ["accuracy", "format"]},
        {"names": ["accuracy", "statements"], "weights": [1, 2]},
        "run0 accuracy + format; run1 accuracy + 2 statements.",
    ),
    ({"names": ["accuracy"]}, {"names": ["accuracy"], "weights": [0.5]}, "run0 accuracy; run1 0.5 accuracy."),
    ({"names": "accuracy"}, {"names": ["format"], "weights": "x"}, ""),
]


@pytest.mark.parametrize(("first", "second", "told"), PAID)
def test_rewards_that_differ_are_not_compared(tmp_path: Path, first: dict[str, Any], second: dict[str, Any], told: str) -> None:
    folders = write_runs(tmp_path, [[drawn(1)], [drawn(1)]])
    for folder, rewards in zip(folders, (first, second), strict=True):
        (folder / "config.json").write_text(json.dumps({"rewards": rewards}))
    for figure in training_figures(load_runs(folders))[:2]:
        assert figure.caption.endswith(told)
        assert ("cannot be compared" in figure.caption) == bool(told)
