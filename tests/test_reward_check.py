"""What reward functions may return, and what is said of everything else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import recipe

from osler.errors import ConfigError
from osler.training.grpo import train_grpo
from osler.training.reward_check import checked, require_rewards

IDS = ["a/1", "a/1"]


def gives(values: Any) -> Any:
    """A reward function that returns `values`."""

    def reward(**_: Any) -> Any:
        return values

    return checked(reward)


GOOD = [
    ([1, 0.5], [1.0, 0.5]),
    ([True, None], [1.0, None]),
    (np.array([0.25, 2.0]), [0.25, 2.0]),
    (torch.tensor([0.25, -1.0]), [0.25, -1.0]),
    ((np.float32(0.5), 1), [0.5, 1.0]),
]
BAD = [
    ([1.0, float("inf")], r"the reward reward gave inf for a/1: return a finite number"),
    ([float("nan"), 1.0], r"gave nan for a/1"),
    (["1", 1.0], r"gave '1' for a/1"),
    ([[1], 1.0], r"gave \[1\] for a/1"),
    ([1.0], r"gave 1 rewards for 2 completions"),
    (None, r"gave a NoneType for 2 completions"),
    (1.0, r"gave a float for 2 completions"),
    ("ab", r"gave a str for 2 completions"),
]


@pytest.mark.parametrize(("values", "expected"), GOOD, ids=str)
def test_numbers_and_none_pass(values: Any, expected: list[float | None]) -> None:
    assert gives(values)(sample_id=IDS) == expected


@pytest.mark.parametrize(("values", "message"), BAD, ids=str)
def test_other_values_are_refused_by_name_and_sample(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gives(values)(sample_id=IDS)


RAISED = [
    (KeyError("age"), r"^the reward reward raised KeyError: 'age' \(test_reward_check.py, line \d+\)$"),
    (ValueError("a\nb"), r"^the reward reward raised ValueError: a \("),
    (ConfigError("needs a judge"), r"^needs a judge$"),
]


@pytest.mark.parametrize(("error", "message"), RAISED, ids=str)
def test_what_a_reward_raises_is_said_with_its_line(error: Exception, message: str) -> None:
    def reward(**_: Any) -> Any:
        raise error

    with pytest.raises(ConfigError, match=message):
        checked(reward)(sample_id=IDS)


def test_a_completion_needs_one_reward() -> None:
    nan = float("nan")
    require_rewards(torch.tensor([[1.0, nan], [nan, 0.0]]), IDS)
    with pytest.raises(ConfigError, match="every reward of a completion of b/2 is None"):
        require_rewards(torch.tensor([[1.0, nan], [nan, nan]]), ["a/1", "b/2"])


def test_names_and_coroutines_are_kept() -> None:
    async def later(**_: Any) -> list[float]:
        return [1.0]

    def speed(**_: Any) -> list[float]:
        """A reward."""
        return [1.0, 1.0]

    assert checked(later) is later
    assert checked(speed).__name__ == "speed"


def infinite(completions: list[Any], **_: Any) -> list[float]:
    """A reward function with a division by zero."""
    return [float("inf"), *[0.0] * (len(completions) - 1)]


def silent(completions: list[Any], **_: Any) -> list[None]:
    """A reward function that never applies."""
    return [None] * len(completions)


@pytest.mark.integration
@pytest.mark.parametrize(("name", "message"), [("infinite", r"the reward infinite gave inf for phantom/"), ("silent", r"is None: give")])
@pytest.mark.filterwarnings("ignore:All reward functions returned None")
def test_a_training_stops_at_a_bad_reward(tiny_folder: Path, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_grpo(recipe(tiny_folder, rewards={"names": [f"test_reward_check:{name}"]}), tmp_path / "run")
    assert not list(tmp_path.iterdir())
