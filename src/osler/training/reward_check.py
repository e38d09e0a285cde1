"""Check what reward functions return.

Without a word TRL drops the whole group of an infinite reward, and trains on nothing where all rewards are None.
"""

from __future__ import annotations

import functools
import inspect
import math
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from osler.errors import ConfigError, OslerError, first_line
from osler.grading.rewards import BUILT_IN


def checked(reward: Any) -> Any:
    """The reward function with a check of every value. A model that rewards, and a coroutine function, stay as they are.

    The function raises ConfigError, with its name and the sample's id, for another number of rewards than completions, and for a reward
    that is no finite number, None standing for "does not apply". What a user's reward raises becomes one too, with its line; lack of memory
    or space does not.
    """
    if isinstance(reward, torch.nn.Module) or inspect.iscoroutinefunction(reward) or not callable(reward):
        return reward
    name = getattr(reward, "__name__", type(reward).__name__)

    @functools.wraps(reward, updated=())
    def check(*args: Any, **columns: Any) -> list[float | None]:
        try:
            values = reward(*args, **columns)
        except (OslerError, OSError, MemoryError, torch.OutOfMemoryError):  # which have a line of their own
            raise
        except Exception as error:
            if reward in BUILT_IN:  # a bug of Osler is a traceback
                raise
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in frames if frame.filename == inspect.getsourcefile(inspect.unwrap(reward))]
            place = (own or frames)[-1]
            where = f"{Path(place.filename).name}, line {place.lineno}"
            raise ConfigError(f"the reward {name} raised {type(error).__name__}: {first_line(error)} ({where})") from error
        ids: Sequence[str] = columns["sample_id"]
        if not _is_list(values) or len(values) != len(ids):
            found = f"{len(values)} rewards" if _is_list(values) else f"a {type(values).__name__}"
            raise ConfigError(f"the reward {name} gave {found} for {len(ids)} completions: return a list with one number for each")
        return [_check_value(name, value, sample_id) for value, sample_id in zip(values, ids, strict=True)]

    return check


def require_rewards(rewards_NF: torch.Tensor, sample_ids: Sequence[str]) -> None:
    """Raise ConfigError, with the sample's id, for a completion of which all F rewards are None."""
    missing = torch.isnan(rewards_NF).all(dim=1).nonzero()[:, 0].tolist()
    if missing:
        raise ConfigError(f"every reward of a completion of {sample_ids[missing[0]]} is None: give at least one number for each completion")


def _is_list(values: Any) -> bool:
    return hasattr(values, "__len__") and hasattr(values, "__iter__") and not isinstance(values, (str, bytes, dict))


def _check_value(name: str, value: Any, sample_id: str) -> float | None:
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"the reward {name} gave {value!r} for {sample_id}: return a finite number, or None where it does not apply")
    return number
