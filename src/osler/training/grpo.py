"""`osler train`: GRPO on the questions of a recipe.

In each step the policy generates G completions for each of a few questions, rewards score them, and an update increases the probability of
completions with a higher reward than the mean of their group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osler.config import Config
from osler.data.select import load_split
from osler.errors import ConfigError
from osler.grading.rewards import reasoning_matters, resolve_rewards, statements
from osler.prompts import Format, find_strategy, render
from osler.run_folder import Run
from osler.training.arguments import check_reporters, check_trained_dtype, grpo_arguments
from osler.training.checkpoints import finished_run, load_for_training, start_run, train_and_save
from osler.training.dataset import build_dataset, option_shuffler, read_prompts
from osler.training.expectation_settings import check_expectation, find_expectation
from osler.training.rollout_figures import HELD_OUT
from osler.types import Prompt

if TYPE_CHECKING:
    from osler.grading.rewards import RewardFunction
    from osler.policies.load import Policy
    from osler.training.trainer import OslerGRPOTrainer


def train_grpo(config: Config, out: Path, *, fresh: bool = False) -> Run:
    """Train a policy with GRPO and save it in the run folder `out`; an interrupted run of the same recipe resumes, unless `fresh`.

    The recipe, the questions, the policy and the length of every prompt are checked before anything is written. Returns the run's paths;
    the trained policy is in `run.policy`. Raises OslerError for user errors.
    """
    prompts = read_prompts(config)
    if not fresh and (finished := finished_run(out, config, prompts)) is not None:
        return finished
    settings = check_settings(config, prompts, out)
    rewards, arguments = settings.rewards, settings.arguments
    policy = load_for_training(config, prompts, arguments)

    needs_reference = bool(arguments.beta) and config.policy.lora is None
    run = start_run(out, config, policy, prompts, arguments, fresh=fresh, needs_reference=needs_reference)
    held_out = read_held_out(config) if config.trainer.watch_image_every else None
    train_and_save(
        lambda: build_trainer(config, policy, prompts, rewards, arguments, kept=run.completions, held_out=held_out), policy, run, config
    )
    return run


def read_held_out(config: Config) -> Any | None:
    """Up to HELD_OUT test questions with images, evenly spaced, in the wording of training; None where the recipe has none."""
    samples = [sample for sample in load_split(config.data, "test") if sample.images]
    chosen = samples[:: max(1, len(samples) // HELD_OUT)][:HELD_OUT]
    return build_dataset([render(sample, config.prompt.strategy, phase="train") for sample in chosen]) if chosen else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a recipe sets, checked."""

    rewards: list[RewardFunction]
    arguments: Any  # TRL's GRPOConfig


def check_settings(config: Config, prompts: Sequence[Prompt] | None, out: Path) -> Settings:
    """Everything of a recipe that can be wrong before its policy is loaded; None for prompts that are not known. Raises ConfigError."""
    check_trained_dtype(config, "grpo")
    rewards = resolve_rewards(config.rewards.names)
    check_reporters(config.trainer.report_to)
    arguments = grpo_arguments(config, out)
    check_sharing(config, arguments)
    if prompts is not None:
        check_rewards(rewards, prompts)
        check_mixture(config, prompts)
        check_group(arguments, len(prompts))
        check_expectation(config, arguments, prompts, rewards)
    return Settings(rewards=rewards, arguments=arguments)


def build_trainer(
    config: Config,
    policy: Policy,
    prompts: Sequence[Prompt],
    rewards: Sequence[RewardFunction],
    arguments: Any,
    *,
    kept: Path | None = None,
    held_out: Any | None = None,
) -> OslerGRPOTrainer:
    """The trainer of a recipe, with a new LoRA adapter when `[policy.lora]` is set; TRL's own path without `share_prefix`.

    A few completions are kept in the file `kept`. With `[trainer] watch_image_every` the questions of the dataset `held_out` are watched.
    """
    from osler.policies.lora import lora_config
    from osler.training.curriculum import Curriculum
    from osler.training.kept_completions import KeptCompletions
    from osler.training.shared_prefix.expected import Expectation, ExpectedGRPOTrainer
    from osler.training.shared_prefix.looking import Looking, LookingGRPOTrainer, Twins
    from osler.training.shared_prefix.trainer import SharedPrefixGRPOTrainer
    from osler.training.shared_prefix.update import Sharing
    from osler.training.trainer import OslerGRPOTrainer

    shuffler = option_shuffler(config, arguments)
    own = config.trainer
    trainer_class: Callable[..., OslerGRPOTrainer] = OslerGRPOTrainer
    if own.share_prefix:
        sharing = Sharing(
            groups_per_forward=own.groups_per_forward,
            static_decoding=own.static_decoding,
            vision_cache=Path(own.vision_cache) if own.vision_cache is not None else None,
            vision_cache_bytes=int(own.vision_cache_gb * 1e9),
            dynamic_sampling=own.dynamic_sampling,
        )
        trainer_class = partial(SharedPrefixGRPOTrainer, sharing=sharing)
        kind = find_expectation(config, config.prompt.strategy)
        if kind != "sampled":
            expectation = Expectation(kind=kind, min_mass=own.min_enumerated_mass)
            trainer_class = partial(ExpectedGRPOTrainer, sharing=sharing, expectation=expectation)
            if config.rewards.looking:
                looking = Looking(weight=config.rewards.looking, twins=Twins([prompt.sample for prompt in prompts], config.seed))
                trainer_class = partial(LookingGRPOTrainer, sharing=sharing, expectation=expectation, looking=looking)
    return trainer_class(
        model=policy.model,
        reward_funcs=list(rewards),
        args=arguments,
        train_dataset=build_dataset(prompts, shuffler=shuffler),
        callbacks=None if shuffler is None else [shuffler],
        processing_class=policy.processor,
        peft_config=lora_config(config.policy.lora, policy.family) if config.policy.lora is not None else None,
        print_completions_every=config.trainer.print_completions_every,
        watch_image_every=config.trainer.watch_image_every,
        held_out=held_out,
        # The text of a private question stays in its dataset.
        kept=None if kept is None or config.data.private else KeptCompletions(path=kept, every=config.trainer.keep_completions_every),
        curriculum=Curriculum.of(config, prompts),
    )


def check_rewards(rewards: Sequence[RewardFunction], prompts: Sequence[Prompt]) -> None:
    """Raise ConfigError for rewards that would be 0 for every completion of these questions.

    A recipe for several strategies may name `statements` beside other rewards: for those without reasoning it is 0 and changes nothing.
    """
    formats = {find_strategy(prompt.strategy).format for prompt in prompts}
    if statements in rewards and all(prompt.sample.facts is None for prompt in prompts):
        raise ConfigError(
            "the reward statements compares with facts, and no question of [data.train] has any: name others, "
            "such as --rewards.names=\"['accuracy', 'format']\""
        )
    if list(rewards) == [statements] and not formats & {Format.THINK_ANSWER, Format.ANSWER_THINK}:
        raise ConfigError("the reward statements reads reasoning: set [prompt] strategy to think or think_after, or drop it")
    if reasoning_matters in rewards and Format.THINK_ANSWER not in formats:
        raise ConfigError("the reward reasoning_matters needs reasoning before the answer: set [prompt] strategy to think, or drop it")


def check_mixture(config: Config, prompts: Sequence[Prompt]) -> None:
    """Raise ConfigError for a mixture of modalities where no question has one."""
    if config.data.mixture != "proportional" and all(prompt.sample.modality is None for prompt in prompts):
        raise ConfigError(f'[data] mixture = "{config.data.mixture}" needs modalities, and no question has one: set it to "proportional"')


def check_group(arguments: Any, num_prompts: int) -> None:
    """Raise ConfigError when there are fewer questions than one rollout needs: TRL would make no step."""
    wanted = arguments.generation_batch_size // arguments.num_generations
    if num_prompts < wanted:
        raise ConfigError(
            f"[data.train] gives {num_prompts} questions and one rollout takes {wanted}: select more, or give [grpo] a smaller batch"
        )


def check_sharing(config: Config, arguments: Any) -> None:
    """Raise ConfigError for `[trainer]` settings about shared prompts that contradict other settings."""
    own = config.trainer
    if config.data.study.layout == "video" and arguments.use_vllm:
        raise ConfigError('[data.study] layout = "video" is not passed on to vLLM: use "images" or "montage", or [grpo] use_vllm = false')
    if own.vision_cache is not None and not config.policy.freeze_vision and config.policy.lora is None:
        raise ConfigError("[trainer] vision_cache keeps what a frozen vision tower computes: set [policy] freeze_vision = true, or drop it")
    for key in ("vision_cache", "dynamic_sampling", "static_decoding"):
        if getattr(own, key) and not own.share_prefix:
            raise ConfigError(f"[trainer] {key} works with shared prefixes only: set share_prefix = true, or drop it")
    if not own.dynamic_sampling:
        return
    if arguments.scale_rewards not in ("group", "none") or arguments.multi_objective_aggregation != "sum_then_normalize":
        raise ConfigError(
            "[trainer] dynamic_sampling replaces single groups, whose advantages must not depend on others: set [grpo] scale_rewards to "
            '"group" or "none" and multi_objective_aggregation to "sum_then_normalize"'
        )
    if arguments.world_size > 1:
        raise ConfigError(f"[trainer] dynamic_sampling runs in one process and this is one of {arguments.world_size}: set it to 0")
