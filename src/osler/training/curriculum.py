"""Which questions a rollout of GRPO asks: a mixture of modalities, and among them those whose rewards vary most.

By default TRL's sampler asks every question once in each epoch. With `[data] mixture` or `[data] curriculum` this module chooses the
questions of each rollout in its place, when the rollout begins and all earlier rewards are known.

A group whose completions all earn the same has no advantage and teaches nothing. Where the share p of completions is right, their reward
has the variance p (1 - p), which G of them estimate as s = G / (G - 1) p (1 - p). The weight of a question is the mean of two things: s of
its groups, each counting for its completions, and what its cell expects, counting for PRIOR completions. A cell is a modality with a
question type; it expects the mean of s of all its groups and of 1/6 for PRIOR completions, which is p (1 - p) where every p is equally
likely. So a question that was never asked counts as its cell does. A completion counts for half after HALF_LIFE steps, because the policy
changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from osler.config import Config, DataConfig
from osler.data.select import NONE
from osler.errors import ConfigError, DataError
from osler.files import write_json
from osler.training.rollout_state import read_state
from osler.types import Prompt, Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

PRIOR: Final = 8
"""As many completions as the prior counts for."""

PRIOR_VARIANCE: Final = 1 / 6
"""The mean of p (1 - p) over all p from 0 to 1."""

HALF_LIFE: Final = 50
"""Steps after which a completion counts for half."""

FLOOR: Final = 0.01
"""Added to every variance, so that a question whose rewards were all equal is asked again now and then."""

DECIDED: Final = 0.05
"""A question with p at most this far from 0 or 1 counts as decided in the metrics."""

FILE: Final = "curriculum.json"
"""The state in a checkpoint."""


Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class CurriculumState(BaseModel):
    """What a curriculum has counted, one entry for each training question in their order."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    refreshed: int = Field(ge=0)  # the step of the last refresh
    asked: list[Annotated[int, Field(ge=0, lt=2**53)]]  # how often
    completions: list[Amount]  # that count at that step or were written since
    right: list[Amount]  # how many of them were right
    spread: list[Amount]  # s of their groups, times completions
    variance: list[Amount]  # estimated at the last refresh


class Curriculum:
    """The questions of the next rollout, chosen by what was asked and earned so far; the same on every process.

    Shapes: N training questions, M modalities, K cells of modality and question type.
    """

    def __init__(self, samples: Sequence[Sample], data: DataConfig, seed: int) -> None:
        self.data, self.seed = data, seed
        self.places = {sample.id: place for place, sample in enumerate(samples)}
        modalities = [str(sample.modality or NONE) for sample in samples]
        self.modalities = tuple(dict.fromkeys(modalities))
        self.modality_N = _number(modalities)
        self.cell_N = _number([(modality, sample.question_type) for modality, sample in zip(modalities, samples, strict=True)])
        self.refreshed = 0
        self.asked_N: Ints = np.zeros(len(samples), dtype=np.int64)
        self.completions_N: Floats = np.zeros(len(samples))
        self.right_N: Floats = np.zeros(len(samples))
        self.spread_N: Floats = np.zeros(len(samples))
        self.variance_N: Floats = np.full(len(samples), PRIOR_VARIANCE)

    @classmethod
    def of(cls, config: Config, prompts: Sequence[Prompt]) -> Curriculum | None:
        """The curriculum of a recipe; None where TRL's sampler chooses."""
        if config.data.mixture == "proportional" and config.data.curriculum == "none":
            return None
        return cls([prompt.sample for prompt in prompts], config.data, config.seed)

    def choose(self, num: int, step: int) -> list[int]:
        """The places of `num` different questions, at most N, for the rollout of a step."""
        if self.data.curriculum == "variance" and step - self.refreshed >= self.data.curriculum_refresh:
            self._refresh(step)
        rng = np.random.default_rng([self.seed, int(self.asked_N.sum())])
        if self.data.curriculum == "variance":  # weighted, without replacement: Efraimidis and Spirakis (2006), algorithm A
            rank_N = rng.standard_exponential(len(self.asked_N)) / (self.variance_N + FLOOR)
        else:  # each question once before any of its modality comes again
            rank_N = self.asked_N + rng.random(len(self.asked_N))
        group_N = self.modality_N if self.data.mixture != "proportional" else np.zeros_like(self.modality_N)
        order = np.argsort(rank_N, kind="stable")
        chosen = [order[group_N[order] == group][:slots] for group, slots in enumerate(self._slots(num, group_N))]
        places: list[int] = rng.permutation(np.concatenate(chosen)).tolist()
        self.asked_N[places] += 1
        return places

    def _slots(self, num: int, group_N: Ints) -> list[int]:
        """How many of the next `num` questions each group gets: always the one that is farthest behind its share of all so far."""
        sizes = np.bincount(group_N)
        exponent = {"proportional": 1.0, "balanced": 0.0, "temperature": 1 / self.data.mixture_temperature}[self.data.mixture]
        weights = (sizes / sizes.max()) ** exponent  # a large exponent leaves the largest, and nothing overflows
        shares = weights / weights.sum()
        given, slots = np.bincount(group_N, weights=self.asked_N), np.zeros_like(sizes)
        for _ in range(num):
            behind = np.where(slots < sizes, shares * (given.sum() + 1) - given, -np.inf)
            slots[behind.argmax()] += 1
            given[behind.argmax()] += 1
        counts: list[int] = slots.tolist()
        return counts

    def record(self, sample_ids: Sequence[str], rewards: Sequence[float], name: str) -> None:
        """Count the rewards of completions, from 0 to 1 each, for their questions; NaN counts as none. `name` is that of the reward.

        Raises ConfigError for another reward where the curriculum needs it.
        """
        if self.data.curriculum == "none":
            return
        self.check(sample_ids, rewards, name)
        groups: dict[str, list[float]] = {}
        for sample_id, reward in zip(sample_ids, rewards, strict=True):
            groups.setdefault(sample_id, []).extend([] if np.isnan(reward) else [reward])
        for sample_id, group in groups.items():
            num, right = len(group), sum(group)
            if num > 1:  # one completion has no variance
                self.count(sample_id, num, right / num, right * (num - right) / (num - 1) / num)

    def check(self, sample_ids: Sequence[str], rewards: Sequence[float], name: str) -> None:
        """Raise ConfigError where a curriculum needs rewards from 0 to 1 and the reward `name` gave another."""
        for sample_id, reward in zip(sample_ids, rewards, strict=True):
            if self.data.curriculum != "none" and not (np.isnan(reward) or 0 <= reward <= 1):
                raise ConfigError(
                    f'[data] curriculum = "variance" reads the first reward as right or wrong, from 0 to 1, and {name} gave {reward:g} for '
                    f'{sample_id}: name accuracy first in [rewards] names, or set curriculum = "none"'
                )

    def count(self, sample_id: str, num: int, mean: float, variance: float) -> None:
        """Count a question's mean reward and its variance for `num` completions."""
        place = self.places[sample_id]
        self.completions_N[place] += num
        self.right_N[place] += num * mean
        self.spread_N[place] += num * variance

    def _refresh(self, step: int) -> None:
        """Estimate the variances from all completions so far, and let them count less from now on."""
        completions_K, spread_K = (np.bincount(self.cell_N, weights=sums) for sums in (self.completions_N, self.spread_N))
        cell_K = (PRIOR * PRIOR_VARIANCE + spread_K) / (PRIOR + completions_K)
        self.variance_N = (PRIOR * cell_K[self.cell_N] + self.spread_N) / (PRIOR + self.completions_N)
        keep = 0.5 ** ((step - self.refreshed) / HALF_LIFE)
        self.completions_N, self.right_N, self.spread_N = self.completions_N * keep, self.right_N * keep, self.spread_N * keep
        self.refreshed = step

    def metrics(self, places: Sequence[int]) -> dict[str, float]:
        """What `metrics.jsonl` says of a rollout that asks these questions.

        `curriculum/share/<modality>` are shares of its questions. With estimates also `curriculum/variance`, the mean over all questions,
        `curriculum/variance_asked`, the mean over its own, and `curriculum/decided`, the share of those asked so far with p near 0 or 1.
        """
        counts = np.bincount(self.modality_N[list(places)], minlength=len(self.modalities))
        found = {f"curriculum/share/{name}": count / len(places) for name, count in zip(self.modalities, counts.tolist(), strict=True)}
        if self.data.curriculum == "none":
            return found
        found["curriculum/variance"] = float(self.variance_N.mean())
        found["curriculum/variance_asked"] = float(self.variance_N[list(places)].mean())
        is_known = self.completions_N > 0
        if is_known.any():
            p = self.right_N[is_known] / self.completions_N[is_known]
            found["curriculum/decided"] = float((np.abs(p - 0.5) >= 0.5 - DECIDED).mean())
        return found

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint. Raises OSError."""
        state = CurriculumState(
            refreshed=self.refreshed,
            asked=self.asked_N.tolist(),
            completions=self.completions_N.tolist(),
            right=self.right_N.tolist(),
            spread=self.spread_N.tolist(),
            variance=self.variance_N.tolist(),
        )
        write_json(folder / FILE, state.model_dump())

    def load(self, folder: Path) -> None:
        """Take back the state of a checkpoint. Raises DataError, in one line, for one that is missing, damaged or of other questions."""
        path, remedy = folder / FILE, f"delete {folder} to resume from an earlier checkpoint, or start over with --fresh"
        state = read_state(path, CurriculumState, remedy)
        columns: Mapping[str, Sequence[Any]] = state.model_dump(exclude={"refreshed"})
        for name, column in columns.items():
            if len(column) != len(self.places):
                raise DataError(f"{path} holds {name} of {len(column)} questions, and there are {len(self.places)}: {remedy}")
        self.refreshed, self.asked_N = state.refreshed, np.array(state.asked, dtype=np.int64)
        self.completions_N, self.right_N = np.array(state.completions), np.array(state.right)
        self.spread_N, self.variance_N = np.array(state.spread), np.array(state.variance)


def _number(keys: Sequence[Any]) -> Ints:
    """The number of each key, in order of first appearance."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=np.int64)
