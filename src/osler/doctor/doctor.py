"""`osler doctor`: what is there, what fits, and whether the reward is alive, before hours are spent.

Each check stands alone: what it raises becomes a finding, and the checks that need its result are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from osler.config import Config
from osler.doctor.checks import ImageChoice, check_device, check_disk, check_images, check_installed
from osler.doctor.findings import Finding, isolated, ok
from osler.doctor.memory_check import Machine, check_memory, free_memory
from osler.doctor.memory_plan import MemoryPlan
from osler.doctor.reward_alive import ROLLOUTS, Trial, describe_trial, run_trial
from osler.errors import ConfigError, DataError, PolicyError
from osler.types import Prompt

if TYPE_CHECKING:
    from osler.policies.load import Policy
    from osler.training.grpo import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `osler doctor` looks at."""

    images: ImageChoice = "sample"
    rollouts: int = ROLLOUTS  # 0: the reward is not tried
    memory: int | None = None  # bytes of the device of the training; None: of this one
    num_processes: int = 1  # of the training


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Everything that was found."""

    findings: tuple[Finding, ...]
    trial: Trial | None = None  # None where no rollout was made
    memory: MemoryPlan | None = None  # None where there is no plan

    @property
    def would_fail(self) -> bool:
        """Whether a run would stop with an error."""
        return any(finding.level == "failure" for finding in self.findings)


class Known:
    """What the checks of a recipe found so far, each for those behind it; None is unknown."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.prompts: list[Prompt] | None = None
        self.settings: Settings | None = None
        self.policy: Policy | None = None
        self.memory: MemoryPlan | None = None
        self.trial: Trial | None = None


def examine(config: Config | None, out: Path, options: Options) -> Diagnosis:
    """Examine a machine, and a recipe if there is one; `out` is where its run would be written. Writes nothing there."""
    findings = isolated("installed", check_installed)
    findings += isolated("device", lambda: check_device("auto" if config is None else config.policy.device))
    findings += isolated("disk", lambda: check_disk(out))
    if config is None:
        return Diagnosis(findings=tuple(findings))
    known = Known(config)
    checks: tuple[tuple[str, Callable[[], Iterable[Finding]]], ...] = (
        ("questions", lambda: check_questions(known)),
        ("settings", lambda: check_recipe(known, out)),
        ("images", lambda: check_readable(known, options.images)),
        ("memory", lambda: plan_for_machine(known, options)),
        ("policy", lambda: check_policy(known)),
        ("reward", lambda: check_reward(known, findings, options)),
    )
    for name, check in checks:
        findings += isolated(name, check)
    return Diagnosis(findings=tuple(findings), trial=known.trial, memory=known.memory)


def check_questions(known: Known) -> Iterator[Finding]:
    """Whether the training questions can be read and rendered."""
    from osler.training.dataset import read_prompts

    prompts = read_prompts(known.config)
    known.prompts = prompts
    with_images = sum(bool(prompt.sample.images) for prompt in prompts)
    yield ok("questions", f"{len(prompts)} for training, {with_images} with images")


def check_recipe(known: Known, out: Path) -> Iterator[Finding]:
    """What `osler train` checks of the recipe before it loads the policy."""
    from osler.training.grpo import check_settings

    known.settings = settings = check_settings(known.config, known.prompts, out)
    times, names = settings.arguments.num_generations, ", ".join(known.config.rewards.names)
    yield ok(
        "settings", f"{settings.arguments.generation_batch_size // times} questions a rollout, {times} completions each; rewards {names}"
    )


def check_readable(known: Known, choice: ImageChoice) -> Iterator[Finding]:
    """Whether the images of the training questions can be read."""
    if known.prompts is not None:
        yield from check_images(known.prompts, known.config, choice)


def plan_for_machine(known: Known, options: Options) -> Iterator[Finding]:
    """Whether the training fits into the memory; a policy that cannot be read is the next check's."""
    if known.prompts is None or known.settings is None:
        return
    memory = options.memory if options.memory is not None else free_memory(known.config.policy.device)
    try:
        for found in check_memory(known.config, known.prompts, Machine(memory=memory, num_processes=options.num_processes)):
            if isinstance(found, MemoryPlan):
                known.memory = found
            else:
                yield found
    except PolicyError as error:
        yield _skipped("memory", f"no plan: {error}")


def check_policy(known: Known) -> Iterator[Finding]:
    """Whether the policy loads, and every prompt fits."""
    from osler.training.checkpoints import load_for_training

    if known.prompts is None or known.settings is None:
        yield _skipped("policy", "not loaded, because questions or settings are wrong")
        return
    try:
        policy = load_for_training(known.config, known.prompts, known.settings.arguments)
    except (DataError, ConfigError) as error:  # the policy has been loaded then
        yield Finding(check="prompts", level="failure", says=str(error))
        return
    known.policy = policy
    weights = list(policy.model.parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    yield ok(
        "policy",
        f"{policy.name}, {sum(weight.numel() for weight in weights):,} weights, {trained:,} trained, {known.config.policy.dtype}",
    )
    yield ok("prompts", f"none of {len(known.prompts)} is longer than {known.config.trainer.max_prompt_length} tokens")


def check_reward(known: Known, findings: Sequence[Finding], options: Options) -> Iterator[Finding]:
    """Whether the reward is alive."""
    if not options.rollouts:
        yield _skipped("reward", "not tried: --no-rollouts")
        return
    if (
        known.policy is None
        or known.prompts is None
        or known.settings is None
        or any(one.level == "failure" for one in findings if one.check != "installed")
    ):
        yield _skipped("reward", "not tried, because a run would fail before")
        return
    known.trial = run_trial(known.config, known.prompts, known.policy, known.settings.rewards, rollouts=options.rollouts)
    yield from describe_trial(known.trial)


def _skipped(check: str, says: str) -> Finding:
    return Finding(check=check, level="skipped", says=says)
