"""`osler doctor`: what is there, what fits, and whether the reward is alive, before hours are spent.

Each check stands alone: what it raises becomes a finding, and the checks that need its result are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osler.config import Config
from osler.doctor.checks import ImageChoice, check_device, check_disk, check_images, check_installed
from osler.doctor.findings import Finding, isolated, ok
from osler.doctor.reward_alive import ROLLOUTS, Trial, describe_trial, run_trial
from osler.types import Prompt

if TYPE_CHECKING:
    from osler.policies.load import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `osler doctor` looks at."""

    images: ImageChoice = "sample"
    rollouts: int = ROLLOUTS  # 0: the reward is not tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Everything that was found."""

    findings: tuple[Finding, ...]
    trial: Trial | None = None  # None where no rollout was made

    @property
    def would_fail(self) -> bool:
        """Whether a run would stop with an error."""
        return any(finding.level == "failure" for finding in self.findings)


class Patient:
    """What the checks of a recipe found so far, each for those behind it; None is unknown."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.prompts: list[Prompt] | None = None
        self.arguments: Any = None
        self.rewards: Any = None
        self.policy: Policy | None = None
        self.trial: Trial | None = None


def examine(config: Config | None, out: Path, options: Options) -> Diagnosis:
    """Examine a machine, and a recipe if there is one; `out` is where its run would be written. Writes nothing there."""
    findings = isolated("installed", check_installed)
    findings += isolated("device", lambda: check_device("auto" if config is None else config.policy.device))
    findings += isolated("disk", lambda: check_disk(out))
    if config is None:
        return Diagnosis(findings=tuple(findings))
    patient = Patient(config)
    findings += isolated("questions", lambda: check_questions(patient))
    findings += isolated("settings", lambda: check_settings(patient, out))
    if patient.prompts is not None:
        prompts = patient.prompts
        findings += isolated("images", lambda: check_images(prompts, config, options.images))
    findings += isolated("policy", lambda: check_policy(patient))
    findings += isolated("reward", lambda: check_reward(patient, findings, options))
    return Diagnosis(findings=tuple(findings), trial=patient.trial)


def check_questions(patient: Patient) -> Iterator[Finding]:
    """Whether the training questions can be read and rendered."""
    from osler.training.dataset import read_prompts

    prompts = read_prompts(patient.config)
    patient.prompts = prompts
    with_images = sum(bool(prompt.sample.images) for prompt in prompts)
    yield ok("questions", f"{len(prompts)} for training, {with_images} with images")


def check_settings(patient: Patient, out: Path) -> Iterator[Finding]:
    """What `osler train` checks of the recipe before it loads the policy."""
    from osler.grading.rewards import resolve_rewards
    from osler.training.arguments import check_reporters, check_trained_dtype, grpo_arguments
    from osler.training.expectation_settings import check_expectation
    from osler.training.grpo import check_group, check_mixture, check_rewards, check_sharing

    config = patient.config
    check_trained_dtype(config, "grpo")
    rewards = resolve_rewards(config.rewards.names)
    check_reporters(config.trainer.report_to)
    arguments = grpo_arguments(config, out)
    check_sharing(config, arguments)
    if patient.prompts is not None:
        check_rewards(rewards, patient.prompts)
        check_mixture(config, patient.prompts)
        check_group(arguments, len(patient.prompts))
        check_expectation(config, arguments, patient.prompts, rewards)
    patient.rewards, patient.arguments = rewards, arguments
    questions = arguments.generation_batch_size // arguments.num_generations
    yield ok(
        "settings",
        f"{questions} questions a rollout, {arguments.num_generations} completions each; rewards {', '.join(config.rewards.names)}",
    )


def check_policy(patient: Patient) -> Iterator[Finding]:
    """Whether the policy loads, and every prompt fits."""
    from osler.training.checkpoints import load_for_training

    if patient.prompts is None or patient.arguments is None:
        yield _skipped("policy", "not loaded, because questions or settings are wrong")
        return
    policy = load_for_training(patient.config, patient.prompts, patient.arguments)
    patient.policy = policy
    weights = list(policy.model.parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    yield ok(
        "policy",
        f"{policy.name}, {sum(weight.numel() for weight in weights):,} weights, {trained:,} trained, {patient.config.policy.dtype}",
    )
    yield ok("prompts", f"none of {len(patient.prompts)} is longer than {patient.config.trainer.max_prompt_length} tokens")


def check_reward(patient: Patient, findings: Sequence[Finding], options: Options) -> Iterator[Finding]:
    """Whether the reward is alive."""
    if not options.rollouts:
        yield _skipped("reward", "not tried: --no-rollouts")
        return
    if patient.policy is None or patient.prompts is None or any(one.level == "failure" for one in findings if one.check != "installed"):
        yield _skipped("reward", "not tried, because a run would fail before")
        return
    patient.trial = run_trial(patient.config, patient.prompts, patient.policy, patient.rewards, rollouts=options.rollouts)
    yield from describe_trial(patient.trial)


def _skipped(check: str, says: str) -> Finding:
    return Finding(check=check, level="skipped", says=says)
