"""Engines turn prompts into completions. The seam is one method, `generate`; its fake, the scripted engine, ships with the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

from osler.audits import OptionPrior
from osler.config import Config, SamplingConfig
from osler.data.select import load_split
from osler.errors import ConfigError
from osler.evaluation.engines.scripted import ScriptedEngine
from osler.types import Completion, Prompt

__all__ = ["ENGINES", "Engine", "open_engine"]


class Engine(Protocol):
    """Something that answers prompts."""

    @property
    def policy_name(self) -> str:
        """Who answers, as records say it, e.g. "osler-tiny"."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_completion_length: int,
        num_generations: int = 1,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
    ) -> list[list[Completion]]:
        """For every prompt, in order, a group of `num_generations` completions of at most `max_completion_length` tokens.

        Greedy without `sampling`; its own `max_completion_length` is not looked at. The same call gives the same completions.
        Raises EngineError when a prompt cannot be asked, with its sample's id, and DataError for an image that cannot be read.
        """


def _open_hf(config: Config) -> Engine:
    from osler.evaluation.engines.hf import HfEngine
    from osler.policies.load import load_policy

    return HfEngine(
        load_policy(config.policy),
        batch_size=config.eval.batch_size,
        max_prompt_length=config.trainer.max_prompt_length,
        option_probabilities=config.eval.option_probabilities,
    )


def _open_scripted(config: Config) -> Engine:
    if config.eval.script is None:
        raise ConfigError("the scripted engine needs eval.script: a JSONL file with sample_id and completion on every line")
    return ScriptedEngine.from_jsonl(Path(config.eval.script))


def _open_option_prior(config: Config) -> Engine:
    prior = OptionPrior.fit(load_split(config.data, "train"))

    def answer(prompt: Prompt) -> str:
        letter = prior.pick(prompt.sample, seed=config.seed)
        return f"<answer>{letter}</answer>" if letter else ""

    return ScriptedEngine(answer, policy_name="option prior")


ENGINES: Final[Mapping[str, Callable[[Config], Engine]]] = MappingProxyType(
    {"hf": _open_hf, "scripted": _open_scripted, "option_prior": _open_option_prior}
)
"""By the name that `[eval] engine` gives."""


def open_engine(config: Config) -> Engine:
    """The engine of `[eval]`, with the policy of `[policy]` where it needs one. Raises ConfigError and what loading a policy raises."""
    return ENGINES[config.eval.engine](config)
