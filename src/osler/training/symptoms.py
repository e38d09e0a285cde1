"""The rules by which a training that learns nothing is found out: eight causes, each with what was measured and a setting to type.

`osler train` applies them to its metrics while it runs (`watching`), `osler doctor` to a short trial before. A rule is a pure function of
`RolloutFigures`; a number that was not measured is None and raises no alarm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from osler.config import Config
from osler.metrics.gain import MIN_CHANGED
from osler.prompts import Format, find_strategy

Cause = Literal[
    "equal_rewards",
    "unread_answers",
    "cut_completions",
    "exploding_kl",
    "identical_completions",
    "entropy_collapse",
    "one_letter",
    "blind_answers",
]
CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)

WARNINGS: Final = "warnings"
"""The key of a line of `metrics.jsonl` that holds the causes found at its step, each with `cause`, `says` and `remedy`."""

MAX_EQUAL_GROUPS: Final = 0.95
"""Share of questions whose completions all earn the same: their advantages are 0, and a twentieth of the batch is too little to learn from.
The demo without reasoning comes to 0.88 when it has learnt what it can."""

MIN_PARSED: Final = 0.25
"""Share of completions with an answer: below it most groups of 8 hold no two answers to compare."""

MAX_CUT: Final = 0.5
"""Share of completions that reach the limit of tokens: with more, most of what is written never comes to its answer."""

MAX_KL: Final = 2.0
"""Nats per token from the reference, in the median of some steps. In the demo that is 0.12 at most, where single steps reach 2;
learning rates that destroy a policy lead to 4 and more."""

MAX_IDENTICAL: Final = 0.98
"""Share of a question's completions that repeat an earlier one: nothing is compared where all are the same. Answers of a letter repeat each
other anyhow: the demo without reasoning begins at 0.73 and comes to 0.97."""

MIN_ENTROPY: Final = 0.01
"""Nats per token. A policy of which one token in fifty is a choice between two even ones has this much."""

MIN_ENTROPY_KEPT: Final = 0.05
"""Share of the entropy of the first steps, below which a policy does not explore any more. One that learns to answer with a letter, as that
of the demo, comes down to an eighth of it."""

MAX_ONE_LETTER: Final = 0.9
"""Share of one letter among the answers."""

MAX_TARGET_LETTER: Final = 0.6
"""Share of the same letter among the right answers, up to which such answers are a habit and not knowledge."""

MIN_COMPARED: Final = 40
"""Questions answered with a blank image before it is judged: with fewer, 9 of 10 equal answers are no finding."""

SELDOM: Final = 0.05
"""Share of right answers below which a choice of questions does not help: the policy must first learn to answer."""

SOLVED: Final = 0.9
"""Share of right answers from which equal rewards, equal completions and a low entropy mean that the questions are learnt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlankImage:
    """The same questions answered greedily with their images and with blank ones."""

    num_questions: int  # with a read answer to the plain question
    same: float  # share of answers that the blank image did not change
    accuracy: float
    blank_accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutFigures:
    """What is known of some rollouts; shares are from 0 to 1, and None was not measured."""

    equal_groups: float | None = None  # of questions whose completions all earn the same
    reward: float | None = None
    parsed: float | None = None
    correct: float | None = None
    cut: float | None = None
    kl: float | None = None  # nats per token
    entropy: float | None = None  # nats per token
    first_entropy: float | None = None  # in the first steps of the run
    identical: float | None = None
    letters: Mapping[str, float] = field(default_factory=dict)  # "A" -> share of the read letters
    targets: Mapping[str, float] = field(default_factory=dict)
    blank: BlankImage | None = None

    @property
    def is_solved(self) -> bool:
        """Whether nearly all answers are right."""
        return self.correct is not None and self.correct >= SOLVED


@dataclass(frozen=True, slots=True, kw_only=True)
class Symptom:
    """A cause that was found."""

    cause: Cause
    says: str  # what was measured, against which threshold
    remedy: str  # a setting to type: "--sampling.max_completion_length=512"

    @property
    def line(self) -> str:
        """One line for a person."""
        return f"{self.cause}: {self.says}; try {self.remedy}"


def find_symptoms(figures: RolloutFigures, config: Config) -> list[Symptom]:
    """The symptoms of rollouts of this recipe, at most one of each cause, in the order in which to treat them."""
    return [symptom for rule in RULES if (symptom := rule(figures, config)) is not None]


def judge_cut(figures: RolloutFigures, config: Config) -> Symptom | None:
    """Completions that are cut before they end."""
    if figures.cut is None or figures.cut <= MAX_CUT:
        return None
    limit = config.sampling.max_completion_length
    says = f"{figures.cut:.0%} of the completions are cut after {limit} tokens, more than {MAX_CUT:.0%}"
    return Symptom(cause="cut_completions", says=says, remedy=f"--sampling.max_completion_length={2 * limit}")


def judge_parsed(figures: RolloutFigures, config: Config) -> Symptom | None:
    """Completions without an answer."""
    if figures.parsed is None or figures.parsed >= MIN_PARSED:
        return None
    says = f"{figures.parsed:.0%} of the completions have an answer that can be read, fewer than {MIN_PARSED:.0%}"
    if config.sampling.temperature > 1:
        remedy = "--sampling.temperature=1.0"
    elif judge_cut(figures, config) is not None:
        remedy = f"--sampling.max_completion_length={2 * config.sampling.max_completion_length}"
    else:
        says, remedy = says + _make_policy(config), f"--policy.path={_sft_folder(config)}/policy"
    return Symptom(cause="unread_answers", says=says, remedy=remedy)


def judge_equal(figures: RolloutFigures, config: Config) -> Symptom | None:
    """Groups whose completions all earn the same, though the questions are not learnt."""
    if figures.equal_groups is None or figures.equal_groups < MAX_EQUAL_GROUPS or figures.is_solved:
        return None
    earned = "" if figures.reward is None else f" (mean reward {figures.reward:.3g})"
    says = f"all completions earn the same for {figures.equal_groups:.0%} of the questions{earned}, {MAX_EQUAL_GROUPS:.0%} or more"
    if not {"accuracy", "open_answer"} & {*config.rewards.names}:
        names = [*config.rewards.names, "accuracy"]
        remedy = f'--rewards.names="{names}"' + (f' --rewards.weights="{[*config.rewards.weights, 1.0]}"' if config.rewards.weights else "")
    elif config.data.curriculum == "none" and (figures.correct is None or figures.correct >= SELDOM):
        remedy = "--data.curriculum=variance"
    else:
        says, remedy = says + _make_policy(config), f"--policy.path={_sft_folder(config)}/policy"
    return Symptom(cause="equal_rewards", says=says, remedy=remedy)


def judge_identical(figures: RolloutFigures, config: Config) -> Symptom | None:
    """Completions of a group that repeat each other, though the questions are not learnt."""
    if figures.identical is None or figures.identical < MAX_IDENTICAL or figures.is_solved:
        return None
    says = f"{figures.identical:.0%} of a question's completions repeat an earlier one, {MAX_IDENTICAL:.0%} or more"
    return Symptom(cause="identical_completions", says=says, remedy=_draw_wider(config))


def judge_entropy(figures: RolloutFigures, config: Config) -> Symptom | None:
    """A policy that does not choose any more, though the questions are not learnt."""
    if figures.entropy is None or figures.is_solved:
        return None
    if figures.entropy < MIN_ENTROPY:
        says = f"the entropy is {figures.entropy:.2g} nats per token, below {MIN_ENTROPY:g}"
    elif figures.first_entropy is not None and figures.entropy < MIN_ENTROPY_KEPT * figures.first_entropy:
        says = (
            f"the entropy fell from {figures.first_entropy:.2g} to {figures.entropy:.2g} nats per token, below {MIN_ENTROPY_KEPT:.0%} of it"
        )
    else:
        return None
    remedy = _draw_wider(config) if config.sampling.temperature < 1 else _hold_back(config)
    return Symptom(cause="entropy_collapse", says=says, remedy=remedy)


def judge_kl(figures: RolloutFigures, config: Config) -> Symptom | None:
    """A policy far from its reference."""
    if figures.kl is None or figures.kl <= MAX_KL:  # infinite ones too; NaN is logged as None
        return None
    says = f"the KL divergence from the reference is {figures.kl:.3g} nats per token, above {MAX_KL:g}"
    return Symptom(cause="exploding_kl", says=says, remedy=_learn_slower(config))


def judge_letters(figures: RolloutFigures, config: Config) -> Symptom | None:
    """One letter whatever is asked."""
    if not figures.letters:
        return None
    letter, share = max(figures.letters.items(), key=lambda pair: pair[1])
    right = figures.targets.get(letter, 0.0)
    if share < MAX_ONE_LETTER or right > MAX_TARGET_LETTER:
        return None
    says = f"{share:.0%} of the answers are {letter}, {MAX_ONE_LETTER:.0%} or more, and it is right for {right:.0%} of the questions"
    remedy = "--data.shuffle_options=true" if not config.data.shuffle_options else _hold_back(config)
    return Symptom(cause="one_letter", says=says, remedy=remedy)


def judge_blank(figures: RolloutFigures, config: Config) -> Symptom | None:
    """Answers that the image does not change."""
    blank = figures.blank
    if blank is None or blank.num_questions < MIN_COMPARED or 1 - blank.same > MIN_CHANGED:
        return None
    says = (
        f"a blank image leaves {blank.same:.0%} of {blank.num_questions} answers as they are, {1 - MIN_CHANGED:.0%} or more "
        f"(accuracy {blank.accuracy:.0%}, blank {blank.blank_accuracy:.0%})"
    )
    if config.policy.freeze_vision:
        remedy = "--policy.freeze_vision=false"
    elif find_strategy(config.prompt.strategy).format in (Format.ANSWER, Format.FREE) and not config.rewards.looking:
        remedy = "--trainer.expectation=enumerated --rewards.looking=0.5"
    else:
        remedy = "--data.distractors=redrawn"
    return Symptom(cause="blind_answers", says=says, remedy=remedy)


RULES: Final[tuple[Callable[[RolloutFigures, Config], Symptom | None], ...]] = (
    judge_kl,
    judge_cut,
    judge_parsed,
    judge_equal,
    judge_identical,
    judge_entropy,
    judge_letters,
    judge_blank,
)
"""Causes stand before their consequences: what is cut is not read, and what is not read earns nothing."""


def _sft_folder(config: Config) -> str:
    return f"runs/{config.name}-sft"


def _make_policy(config: Config) -> str:
    """How the policy of a remedy is made, which need not exist yet."""
    return f"; first make a policy that knows the format: `osler sft` with the same recipe and --out {_sft_folder(config)}"


def _draw_wider(config: Config) -> str:
    """The setting that holds samples together most, released."""
    sampling = config.sampling
    if sampling.top_k == 1:
        return "--sampling.top_k=0"
    if sampling.temperature < 1:
        return "--sampling.temperature=1.0"
    if sampling.top_p < 1:
        return "--sampling.top_p=1.0"
    return f"--sampling.temperature={sampling.temperature + 0.3:.1f}"


def _hold_back(config: Config) -> str:
    """A penalty for leaving the reference, else a bonus for entropy, else smaller steps."""
    if not config.grpo.get("beta"):
        return "--grpo.beta=0.04"
    return "--grpo.entropy_coef=0.01" if not config.grpo.get("entropy_coef") else _learn_slower(config)


def _learn_slower(config: Config) -> str:
    rate = config.grpo.get("learning_rate", DEFAULT_LEARNING_RATE)
    return f"--grpo.learning_rate={float(rate) / 10:.1e}" if isinstance(rate, (int, float)) and math.isfinite(rate) else "--grpo.beta=0.1"


DEFAULT_LEARNING_RATE: Final = 1e-6
"""TRL's, of GRPOConfig."""
