"""`[trainer] expectation`: which kind suits a strategy, and the settings with which it cannot be computed. Loads no model and no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from osler.config import Config
from osler.data.donors import find_contradicting
from osler.errors import ConfigError
from osler.grading.rewards import RewardFunction, reasoning_matters
from osler.prompts import Format, find_strategy
from osler.types import Prompt


def find_expectation(config: Config, strategy: str) -> Literal["sampled", "enumerated", "partial"]:
    """The kind of expectation for a strategy: of "exact", partial where it reasons first, else enumerated."""
    kind = config.trainer.expectation
    if kind != "exact":
        return kind
    return "partial" if _reasons_first(strategy) else "enumerated"


def _reasons_first(strategy: str) -> bool:
    return find_strategy(strategy).format is Format.THINK_ANSWER


def _reasons(strategy: str) -> bool:
    return find_strategy(strategy).format in (Format.THINK_ANSWER, Format.ANSWER_THINK)


def check_expectation_of_strategy(config: Config, strategy: str) -> None:
    """Raise ConfigError, with the remedy, for an expectation that a strategy or other settings of the recipe do not admit."""
    kind, sampling = find_expectation(config, strategy), config.sampling
    is_filtered = (sampling.top_p, sampling.top_k, sampling.min_p or 0, sampling.repetition_penalty) != (1, 0, 0, 1)
    obstacles = (
        (not config.trainer.share_prefix, "it needs shared prompts: set share_prefix = true"),
        (kind == "enumerated" and _reasons_first(strategy), f'{strategy} reasons before it answers: use expectation = "partial"'),
        (kind == "partial" and not _reasons_first(strategy), f'{strategy} answers first: use expectation = "enumerated"'),
        (is_filtered, "it is over all that the policy may write: set [sampling] top_p = 1, top_k = 0 and repetition_penalty = 1"),
        (config.trainer.dynamic_sampling > 0, "no group is without advantage then: set dynamic_sampling = 0"),
    )
    if kind != "sampled":
        _refuse(config, obstacles)
    if config.rewards.looking and (kind != "enumerated" or _reasons(strategy)):
        raise ConfigError(
            f"[rewards] looking = {config.rewards.looking:g} compares all answers to a question with two images: set [trainer] "
            'expectation = "enumerated" and a [prompt] strategy without reasoning, such as no_think, or looking = 0'
        )


def check_expectation(config: Config, arguments: Any, prompts: Sequence[Prompt], rewards: Sequence[RewardFunction]) -> None:
    """The same with TRL's `arguments`, the questions and the rewards of a training."""
    check_expectation_of_strategy(config, config.prompt.strategy)
    kind, times = find_expectation(config, config.prompt.strategy), arguments.num_generations
    if kind == "sampled":
        return
    enumerates = kind == "enumerated"
    if config.rewards.looking and not any(find_contradicting([prompt.sample for prompt in prompts], seed=config.seed)):
        raise ConfigError(
            f"[rewards] looking = {config.rewards.looking:g} needs, for some training question, the image of another case with another "
            "answer to the same question: train on such questions, or set looking = 0"
        )
    most = max(prompts, key=lambda prompt: len(prompt.sample.choices)).sample
    is_after = find_strategy(config.prompt.strategy).format is Format.ANSWER_THINK
    wanted = len(most.choices) * (2 if is_after else 1)  # what is said after an answer is compared among its rows
    in_parts = arguments.steps_per_generation > 1 or arguments.world_size > 1
    _refuse(
        config,
        (
            (not all(prompt.sample.choices for prompt in prompts), "some questions have no options: set [data.train] has_choices = true"),
            (
                enumerates and wanted > times,
                f"the {len(most.choices)} options of {most.id} need {wanted} rows of a group: set [grpo] num_generations = {wanted} and "
                "per_device_train_batch_size to a multiple",
            ),
            (
                arguments.per_device_train_batch_size % times != 0,
                f"a group lies in several batches: set [grpo] per_device_train_batch_size to a multiple of {times}",
            ),
            (enumerates and arguments.use_vllm, "nothing is left for vLLM to write: set [grpo] use_vllm = false"),
            (
                arguments.multi_objective_aggregation != "sum_then_normalize",
                'set [grpo] multi_objective_aggregation = "sum_then_normalize"',
            ),
            (arguments.importance_sampling_level != "token", 'set [grpo] importance_sampling_level = "token"'),
            (arguments.scale_rewards == "batch" and in_parts, 'a batch is not in one place: set [grpo] scale_rewards = "group" or "none"'),
            (arguments.mask_truncated_completions, "set [grpo] mask_truncated_completions = false"),
            (arguments.off_policy_mask_threshold is not None, "leave out [grpo] off_policy_mask_threshold"),
            (arguments.top_entropy_quantile < 1, "set [grpo] top_entropy_quantile = 1"),
            (enumerates and bool(arguments.entropy_coef or arguments.use_adaptive_entropy), "set [grpo] entropy_coef = 0"),
            (reasoning_matters in rewards, "reasoning_matters asks the policy again about what it wrote: drop that reward"),
        ),
    )


def _refuse(config: Config, obstacles: Sequence[tuple[bool, str]]) -> None:
    for is_there, what in obstacles:
        if is_there:
            raise ConfigError(f'[trainer] expectation = "{config.trainer.expectation}": {what}, or set it to "sampled"')
