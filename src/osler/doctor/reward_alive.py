"""Is the reward alive: a short trial of the training itself, judged by the rules that watch trainings.

The trial makes N rollouts with a learning rate of 0, so that all of them are of the policy as it starts, and then a few updates at the
learning rate of the recipe, which is not warmed up: what explodes or collapses does so at once. It is the trainer of the recipe, with its
rewards, sampling and sharing, so what would stop the training stops the trial. Nothing is kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osler.config import Config
from osler.doctor.findings import Finding, ok
from osler.training.symptoms import MIN_COMPARED, RolloutFigures, Symptom, find_symptoms
from osler.training.watching import Watch
from osler.types import Prompt

if TYPE_CHECKING:
    from osler.grading.rewards import RewardFunction
    from osler.policies.load import Policy

ROLLOUTS: Final = 6
"""Rollouts by default: eight questions of each are also asked with blank images, so that 48 are compared."""

UPDATES: Final = 3
"""Updates behind them. The first shows in the KL divergence and the entropy of the second."""

OF_UPDATES: Final = frozenset({"exploding_kl", "entropy_collapse"})
"""Causes that updates bring about; the others are judged before them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a trial showed."""

    before: RolloutFigures  # of the policy as it starts
    after: RolloutFigures  # behind a few updates
    symptoms: tuple[Symptom, ...]
    num_rollouts: int


def trial_config(config: Config, rollouts: int, steps_per_rollout: int = 1) -> Config:
    """The recipe of a trial: so many rollouts and a few updates, each step logged, nothing saved, and a constant learning rate."""
    grpo = {key: value for key, value in config.grpo.items() if key not in ("warmup_ratio", "lr_scheduler_kwargs")}
    grpo |= {"max_steps": (rollouts + UPDATES) * steps_per_rollout, "logging_steps": 1, "lr_scheduler_type": "constant", "warmup_steps": 0}
    own = {"checkpoint": "none", "print_completions_every": 0, "report_to": (), "watch_image_every": 1}
    return config.model_copy(update={"grpo": grpo, "trainer": config.trainer.model_copy(update=own)})


def run_trial(
    config: Config,
    prompts: Sequence[Prompt],
    policy: Policy,
    rewards: Sequence[RewardFunction],
    *,
    rollouts: int = ROLLOUTS,
) -> Trial:
    """Train for a few steps in a temporary folder. Raises what a training raises. The weights of `policy` change."""
    from osler.doctor.trial_callbacks import FrozenPolicy, Recorder
    from osler.policies.quiet import quiet_training
    from osler.run_folder import Run
    from osler.training.arguments import grpo_arguments
    from osler.training.callbacks import closing_bars, use_own_bar
    from osler.training.checkpoints import name_reference
    from osler.training.grpo import build_trainer
    from osler.training.memory import explaining_lack_of_memory

    with tempfile.TemporaryDirectory(prefix="osler-doctor-") as folder:
        out = Path(folder)
        steps = steps_of_rollout(grpo_arguments(trial_config(config, rollouts), out))
        trial = trial_config(config, rollouts, steps)
        arguments = grpo_arguments(trial, out)
        if arguments.beta and config.policy.lora is None:
            name_reference(policy, trial, Run(root=out))
        lines: list[dict[str, Any]] = []
        with quiet_training():
            trainer = build_trainer(trial, policy, prompts, rewards, arguments)
            use_own_bar(trainer)
            trainer.add_callback(FrozenPolicy(rollouts * steps))
            trainer.add_callback(Recorder(lines))
            with explaining_lack_of_memory(trainer, config), closing_bars(trainer):
                trainer.train()
    return judge_trial(lines, config, num_frozen=rollouts * steps)


def steps_of_rollout(arguments: Any) -> int:
    """How many optimizer steps use one rollout."""
    return int(max(1, arguments.steps_per_generation * arguments.num_iterations // arguments.gradient_accumulation_steps))


def judge_trial(lines: Sequence[Mapping[str, Any]], config: Config, *, num_frozen: int) -> Trial:
    """What the lines of a trial say, of which `num_frozen` were logged before the first update.

    The next one is of the same weights still, so what updates bring about is judged on the lines behind it.
    """
    before, after = Watch(config, window=num_frozen), Watch(config, window=max(1, len(lines) - num_frozen - 1))
    before.resume(lines[:num_frozen])
    after.resume(lines)
    found = find_symptoms(before.figures(), config)
    causes = {symptom.cause for symptom in found}
    later = [one for one in find_symptoms(after.figures(), config) if one.cause in OF_UPDATES - causes]
    num_rollouts = sum("reward" in line for line in lines[:num_frozen])
    return Trial(before=before.figures(), after=after.figures(), symptoms=(*found, *later), num_rollouts=num_rollouts)


def describe_trial(trial: Trial) -> Iterator[Finding]:
    """The findings: what was measured, then each symptom as a warning."""
    before, blank = trial.before, trial.before.blank
    shares = [
        ("answers that can be read", before.parsed),
        ("right", before.correct),
        ("questions whose completions earn different rewards", None if before.equal_groups is None else 1 - before.equal_groups),
        ("completions cut", before.cut),
        ("repeated", before.identical),
    ]
    text = ", ".join(f"{name} {share:.0%}" for name, share in shares if share is not None)
    yield ok("reward", f"{trial.num_rollouts} rollouts: mean reward {_number(before.reward)}; {text}")
    if before.letters:
        letters = ", ".join(f"{letter} {share:.0%} ({before.targets.get(letter, 0):.0%})" for letter, share in before.letters.items())
        yield ok("letters", f"share of the answers (of the right ones): {letters}")
    if blank is not None:
        says = f"of {blank.num_questions} answers a blank image leaves {blank.same:.0%}; accuracy {blank.accuracy:.0%}, "
        says += f"blank {blank.blank_accuracy:.0%}" + ("" if blank.num_questions >= MIN_COMPARED else "; too few to judge")
        yield ok("image", says)
    else:
        yield Finding(check="image", level="skipped", says="no answer to a question with an image could be compared with a blank one")
    yield ok("updates", f"after {UPDATES} updates: KL {_number(trial.after.kl)}, entropy {_number(trial.after.entropy)} nats per token")
    for symptom in trial.symptoms:
        yield Finding(check=symptom.cause, level="warning", says=symptom.says, remedy=symptom.remedy)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
