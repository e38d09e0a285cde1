"""Engines generate completions for prompts. `Engine` is the interface; `ScriptedEngine` is its implementation for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from osler.audits.baselines import OptionPrior
from osler.config import Config, SamplingConfig
from osler.data.select import load_split
from osler.errors import ConfigError
from osler.evaluation.engines.scripted import ScriptedEngine
from osler.registry import Registry
from osler.types import Completion, Prompt

__all__ = ["ENGINES", "Engine", "eval_dtype", "open_engine"]


class Engine(Protocol):
    """The interface that evaluation uses; any object with these two members is an engine.

    Evaluation calls `generate` with chunks of prompts, in the same chunks again when it resumes. `ScriptedEngine` is the shortest example.
    """

    @property
    def policy_name(self) -> str:
        """The name of the policy in records, e.g. "osler-tiny"; equal for all calls."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_completion_length: int,
        num_generations: int = 1,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
    ) -> list[list[Completion]]:
        """Generate `num_generations` completions for every prompt.

        `prompts`: the input of the chat template is `prompt.messages`; its images are `prompt.sample.images`, in order, which `load()`
        reads. Each completion continues `prompt.prefix`, which may be empty. There may be no prompts, prompts without images and prompts
        of any length; the engine forms its own batches.
        `max_completion_length`: the most tokens that a completion may have, without the prefix.
        `sampling`: None means greedy decoding, where `num_generations` is 1. Otherwise every field applies except
        `sampling.max_completion_length`, which is ignored; defaults of the checkpoint never apply.
        `seed`: seeds the sampling. Equal calls return equal completions, and the global random state is unchanged.

        Returns one list per prompt, in order, each of `num_generations` completions. `text` begins with `prompt.prefix` and has no special
        tokens; `token_ids` are the generated tokens up to and including the stop token, () where they are unknown; `finish_reason` is
        LENGTH where generation reached the limit, else STOP. `logprobs` and `option_probabilities` may be None.

        Raises EngineError, with the sample id in one line, for a prompt that cannot be processed, e.g. one that is too long, and DataError
        for an image that cannot be read. It never drops a prompt or returns a shorter list.
        """


OpenEngine = Callable[[Config], Engine]


def eval_dtype(config: Config) -> Literal["float32", "bfloat16"]:
    """The arithmetic of the engines `hf` and `vllm`: `[eval] dtype`; for "auto" that of training, as far as this machine trains in it."""
    if config.eval.dtype != "auto":
        return config.eval.dtype
    if config.policy.dtype == "bfloat16" or not config.grpo.get("bf16"):
        return config.policy.dtype
    from osler.policies.load import find_device

    return "bfloat16" if find_device(config.policy.device).type == "cuda" else "float32"


def _open_hf(config: Config) -> Engine:
    from osler.evaluation.engines.hf import HfEngine
    from osler.policies.load import load_policy

    dtype = eval_dtype(config)
    policy = config.policy.model_copy(update={"dtype": "float32"}) if dtype == "float32" else config.policy
    return HfEngine(
        load_policy(policy),
        is_bf16=dtype == "bfloat16",
        batch_size=config.eval.batch_size,
        max_prompt_length=config.trainer.max_prompt_length,
        option_probabilities=config.eval.option_probabilities,
    )


def _open_openai(config: Config) -> Engine:
    from osler.evaluation.engines.openai import open_openai

    return open_openai(config)


def _open_vllm(config: Config) -> Engine:
    from osler.evaluation.engines.vllm import open_vllm

    return open_vllm(config, eval_dtype(config))


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


def _as_engine(name: str, part: Any) -> OpenEngine:
    if not callable(part):
        raise ConfigError(f"the engine {name!r} is a {type(part).__name__}: register a function that takes a Config and returns an engine")
    opened: OpenEngine = part
    return opened


_BUILT_IN: Final[Mapping[str, OpenEngine]] = {
    "hf": _open_hf,
    "openai": _open_openai,
    "vllm": _open_vllm,
    "scripted": _open_scripted,
    "option_prior": _open_option_prior,
}
ENGINES: Final[Registry[OpenEngine]] = Registry("engine", _BUILT_IN, adapt=_as_engine)
"""Functions that open an engine, by the value of `[eval] engine`; `register_engine` and the entry points `osler.engines` add to it."""

register_engine = ENGINES.register


def open_engine(config: Config) -> Engine:
    """The engine that `[eval] engine` names, with the policy of `[policy]` where it uses one.

    Raises ConfigError for an unknown engine and the scripted engine without a script, and the errors of loading a policy or reading data.
    """
    return ENGINES.find(config.eval.engine)(config)
