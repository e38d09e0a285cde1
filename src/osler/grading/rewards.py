"""Numbers for training. Osler's own rewards use the one grader; the rewards of the papers are reproduced bug for bug.

Every reward is a module-level function, so that it can be pickled, with the signature that TRL calls:
`reward(prompts, completions, **columns) -> list[float]`. Dataset columns are lists with one entry per completion; `choices`, `target`
and `strategy` are used. A completion is a string or a chat, `[{"role": "assistant", "content": "<answer>B</answer>"}]`.
A reward is never None, because TRL leaves None out of the sum: no answer gives 0.0.
"""
# ruff: noqa: ARG001 - TRL passes `prompts` by name

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from osler.errors import ConfigError
from osler.facts import Facts, Term
from osler.grading.altered_reasoning import AlteredAnswers
from osler.grading.evidence import Commonness, judge_evidence, summarise_evidence
from osler.grading.grade import grade
from osler.grading.open_reward import reward_open_answer
from osler.grading.parse import parse
from osler.prompts import Format, find_strategy
from osler.registry import Registry
from osler.taxonomy import QuestionType
from osler.types import Outcome

Column = Sequence[str]
"""A column of the dataset: one entry for each completion."""
Turns = str | Sequence[Mapping[str, Any]]
"""A completion as TRL passes it: plain text, or a list of chat turns."""

_MEDVLM_R1_ANSWER: Final = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_MED_R1_ANSWER: Final = re.compile(r"<answer>(.*?)</answer>")
_THINK_FORMAT: Final = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_NO_THINK_FORMAT: Final = re.compile(r"\s*<answer>.*?</answer>", re.DOTALL)


class RewardFunction(Protocol):
    """A function that TRL calls as in the module docstring and logs under its `__name__`."""

    __name__: str

    def __call__(self, *args: Any, **columns: Any) -> list[float]:
        """One number for each completion."""


def completion_text(completion: Turns) -> str:
    """The generated text: the completion itself, or the joined text of its chat turns."""
    if isinstance(completion, str):
        return completion
    return "".join(_turn_text(turn["content"]) for turn in completion)


def _turn_text(content: str | Sequence[Mapping[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def accuracy(
    prompts: object, completions: Sequence[Turns], *, choices: Sequence[Sequence[str]], target: Column, strategy: Column, **_columns: Any
) -> list[float]:
    """1.0 where the verdict is CORRECT, else 0.0. A sentence that only evaluation reads (`grading.lenient`) earns nothing."""
    rows = zip(completions, choices, target, strategy, strict=True)
    verdicts = (
        grade(completion_text(text), choices=options, target=gold, strategy=name, is_lenient=False) for text, options, gold, name in rows
    )
    return [float(verdict.outcome is Outcome.CORRECT) for verdict in verdicts]


def open_answer(
    prompts: Sequence[Turns | None],
    completions: Sequence[Turns],
    *,
    choices: Sequence[Sequence[str]],
    target: Column,
    strategy: Column,
    **_columns: Any,
) -> list[float]:
    """From 0 to 1: as `accuracy`, and at most 0.5 for an open answer that the rules cannot decide (`grading.open_reward`)."""
    rows = zip(prompts, completions, choices, target, strategy, strict=True)
    return [
        reward_open_answer(
            grade(completion_text(text), choices=options, target=gold, strategy=name, is_lenient=False),
            target=gold,
            prompt=completion_text(prompt or ""),
        )
        for prompt, text, options, gold, name in rows
    ]


def format(prompts: object, completions: Sequence[Turns], *, strategy: Column, **_columns: Any) -> list[float]:  # noqa: A001 - the papers' name
    """1.0 where the completion has the strict format of its strategy, else 0.0."""
    return [float(parse(completion_text(text), strategy=name).is_well_formed) for text, name in zip(completions, strategy, strict=True)]


def statements(
    prompts: object,
    completions: Sequence[Turns],
    *,
    choices: Sequence[Sequence[str]],
    target: Column,
    strategy: Column,
    sample_id: Column,
    facts: Sequence[Facts | None],
    terms: Sequence[Sequence[Term]],
    question_type: Sequence[QuestionType | None],
    log_metric: Callable[[str, float], None] | None = None,
    **_columns: Any,
) -> list[float]:
    """How much the reasoning says that is so and bears on the question, from -1 to 1 as `grading.evidence` describes.

    0.0 for a strategy without reasoning, and without facts. Logs the metrics `statements/..`, also with the weight 0.
    """
    common = Commonness(facts={name: known for name, known in zip(sample_id, facts, strict=True) if known is not None})
    rows = zip(completions, choices, target, strategy, facts, terms, question_type, strict=True)
    judged = [
        judge_evidence(completion_text(text), choices=options, target=gold, strategy=name, facts=known, terms=phrases, question_type=asked)
        if known is not None
        else None
        for text, options, gold, name, known, phrases, asked in rows
    ]
    if log_metric is not None:
        for metric, value in summarise_evidence(judged).items():
            log_metric(f"statements/{metric}", value)
    return [0.0 if evidence is None else common.reward(evidence) for evidence in judged]


def reasoning_matters(
    prompts: object,
    completions: Sequence[Turns],
    *,
    choices: Sequence[Sequence[str]],
    target: Column,
    strategy: Column,
    altered_answers: Sequence[AlteredAnswers | None] | None = None,
    **_columns: Any,
) -> list[float]:
    """Whether the answer follows from the reasoning before it.

    0.5 if the policy answers another letter behind the reasoning of another question, plus 0.5 if it answers the same letter behind its own
    reasoning in other words (`grading.altered_reasoning`); 0.0 where it does not reason and then answer in the strict format. Osler's
    trainer asks the policy and passes `altered_answers`.
    """
    if altered_answers is None:
        raise ConfigError("the reward reasoning_matters asks the policy again, which only Osler's trainer does: use `osler train`")
    rows = zip(completions, choices, target, strategy, altered_answers, strict=True)
    return [
        0.0
        if altered is None
        else _follows(grade(completion_text(text), choices=options, target=gold, strategy=name, is_lenient=False).answer, altered)
        for text, options, gold, name, altered in rows
    ]


def _follows(answer: str | None, altered: AlteredAnswers) -> float:
    return 0.5 * (altered.replaced not in (None, answer)) + 0.5 * (altered.reworded == answer)


def medvlm_r1_accuracy(prompts: object, completions: Sequence[Turns], *, target: Column, **_columns: Any) -> list[float]:
    """MedVLM-R1's accuracy, bug for bug.

    The first answer block, or nothing, must contain the target letter once and no other letter from A to J: 1.0 if it is the letter only,
    0.5 with other text, else 0.0.
    """
    return [_medvlm_r1_accuracy(completion_text(text), gold) for text, gold in zip(completions, target, strict=True)]


def _medvlm_r1_accuracy(text: str, target: str) -> float:
    block = _MEDVLM_R1_ANSWER.search(text)
    answer = block[1].strip() if block else ""
    if re.findall("[A-J]", answer.upper()) != [target]:
        return 0.0
    return 0.5 if re.sub(target, "", answer, count=1, flags=re.IGNORECASE).strip() else 1.0


def medvlm_r1_format(prompts: object, completions: Sequence[Turns], **_columns: Any) -> list[float]:
    """MedVLM-R1's format: 1.0 for a full match of think, then answer. Both may be empty and may contain further tags."""
    return [float(_THINK_FORMAT.fullmatch(completion_text(text)) is not None) for text in completions]


def med_r1_accuracy(prompts: object, completions: Sequence[Turns], *, target: Column, **_columns: Any) -> list[float]:
    """Med-R1's accuracy, bug for bug: 1.0 if the first one-line answer block, else the whole completion, is exactly the target letter."""
    return [float(_med_r1_answer(completion_text(text)) == gold) for text, gold in zip(completions, target, strict=True)]


def _med_r1_answer(text: str) -> str:
    block = _MED_R1_ANSWER.search(text)
    return (block[1] if block else text).strip()


def med_r1_format(prompts: object, completions: Sequence[Turns], *, strategy: Column, **_columns: Any) -> list[float]:
    """Med-R1's format: that of MedVLM-R1, or a full match of the answer block for strategies without reasoning."""
    patterns = (_NO_THINK_FORMAT if find_strategy(name).format is Format.ANSWER else _THINK_FORMAT for name in strategy)
    return [float(pattern.fullmatch(completion_text(text)) is not None) for pattern, text in zip(patterns, completions, strict=True)]


def _as_reward(name: str, part: Any) -> RewardFunction:
    if not callable(part):
        raise ConfigError(f"the reward {name!r} is a {type(part).__name__}, not a function")
    if not hasattr(part, "__name__"):  # an instance with `__call__`; TRL logs the reward under its __name__
        part.__name__ = name.rpartition(":")[2]
    reward: RewardFunction = part
    return reward


BUILT_IN: Final = (
    accuracy,
    open_answer,
    format,
    statements,
    reasoning_matters,
    medvlm_r1_accuracy,
    medvlm_r1_format,
    med_r1_accuracy,
    med_r1_format,
)
REWARDS: Final[Registry[RewardFunction]] = Registry(
    "reward", {reward.__name__: reward for reward in BUILT_IN}, adapt=_as_reward, takes_paths=True, remedy="use some of"
)
"""Every reward, by the name that recipes use; `register_reward` and the entry points `osler.rewards` add to it."""

register_reward = REWARDS.register


def resolve_rewards(names: Sequence[str]) -> list[RewardFunction]:
    """The reward functions of these names, in order. Raises ConfigError without names and for an unknown name."""
    if not names:
        raise ConfigError(f"no reward is named: use some of {', '.join(REWARDS)}")
    return [REWARDS.find(name) for name in names]
