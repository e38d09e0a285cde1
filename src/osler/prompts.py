"""The one prompt renderer: STRATEGIES says how a question is asked, `render` asks it, `target_completion` writes the answer SFT teaches.

Training, evaluation and serving all render here, so a policy is never asked in words that it was not trained on. Osler's own strategies use
one wording for both phases. The papers' strategies keep their published strings to the character, and those differ between phases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Literal

from osler.errors import ConfigError, DataError
from osler.types import LETTERS, Prompt, Sample

Phase = Literal["train", "eval"]


class Format(StrEnum):
    """What a well-formed completion holds, and in which order. `scoring` owns the patterns."""

    THINK_ANSWER = "think_answer"  # <think>..</think><answer>B</answer>
    ANSWER = "answer"  # <answer>B</answer>
    ANSWER_THINK = "answer_think"  # <answer>B</answer><think>..</think>
    FREE = "free"  # B

    @property
    def has_think(self) -> bool:
        """Whether a completion carries reasoning, so that an SFT target needs a rationale."""
        return self in (Format.THINK_ANSWER, Format.ANSWER_THINK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """How a question is asked and what shape of completion is expected. "{Question}" in a template stands for the question block."""

    name: str  # "think"
    description: str
    train_template: str
    eval_template: str
    open_template: str | None  # for samples without choices; None where the source never asked such a question
    layout: Callable[[str, tuple[str, ...]], str]  # (question, choices) -> question block
    format: Format
    separator: str = ""  # between the blocks of an SFT target
    shows_context: bool = True  # whether the patient's context has a place in the prompt


_PLACEHOLDER: Final = "{Question}"


def layout_lines(question: str, choices: tuple[str, ...]) -> str:
    r"""Each option on its own line (ours and MedVLM-R1's): "Which organ?\nA) Liver\nB) Spleen"."""
    return "\n".join([question, *(f"{letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))])


def layout_inline(question: str, choices: tuple[str, ...]) -> str:
    """Options behind the question (Med-R1's): "Which organ? A)Liver, B)Spleen"."""
    return f"{question} " + ", ".join(f"{letter}){choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def _ours(name: str, description: str, instruction: str, shape: Format) -> Strategy:
    """One of Osler's strategies; `instruction` holds "{answer}" where the kind of answer is named."""
    closed, open_ended = (f"{_PLACEHOLDER}\n{instruction.replace('{answer}', answer)}" for answer in ("the letter", "a short answer"))
    return Strategy(
        name=name,
        description=description,
        train_template=closed,
        eval_template=closed,
        open_template=open_ended,
        layout=layout_lines,
        format=shape,
    )


def _papers(
    name: str, description: str, train: str, evaluation: str, layout: Callable[[str, tuple[str, ...]], str], shape: Format
) -> Strategy:
    """A strategy whose two templates are protocol constants."""
    return Strategy(
        name=name,
        description=description,
        train_template=train,
        eval_template=evaluation,
        open_template=None,
        layout=layout,
        format=shape,
        separator="\n",
        shows_context=False,
    )


# MedVLM-R1 (arXiv 2502.19634). The blanks at line ends and the indentation are part of the protocol.
_MEDVLM_R1_TRAIN: Final = (
    "\n        {Question} \n        Your task: \n"
    "        1. Think through the question step by step, enclose your reasoning process in <think>...</think> tags. \n"
    "        2. Then provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags.\n"
    "        3. No extra information or text outside of these tags.\n        "
)
_MEDVLM_R1_EVAL: Final = (
    "\n    {Question} \n    Your task: \n"
    "    1. Think through the question step by step, enclose your reasoning process in <think>...</think> tags. \n"
    "    2. Then provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags.\n"
    "    3. No extra information or text outside of these tags.\n    "
)
_MEDVLM_R1_ZERO_SHOT: Final = "\n    {Question} \n    Your task: provide the correct single-letter choice (A, B, C, D,...).\n    "

# Med-R1 (arXiv 2503.13939).
_MED_R1_THINK_TRAIN: Final = (
    "{Question} Your task: 1. Think through the question step by step, enclose your reasoning process in <think>...</think> tags. "
    "2. Then provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags. "
    "3. No extra information or text outside of these tags."
)
_MED_R1_THINK_EVAL: Final = (
    "{Question} Think through the question step by step in <think>...</think> tags. "
    "Then provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags."
)
_MED_R1_NO_THINK_TRAIN: Final = (
    "{Question} Your task: 1. Provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags. "
    "2. No extra information or text outside of this tag."
)
_MED_R1_NO_THINK_EVAL: Final = "{Question} Provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags."
_MED_R1_ZERO_SHOT: Final = "{Question} Provide the correct single-letter choice (A, B, C, D,...)."

STRATEGIES: Final[Mapping[str, Strategy]] = MappingProxyType(
    {
        strategy.name: strategy
        for strategy in (
            _ours(
                "think",
                "reason first, then answer",
                "Think inside <think> </think>, then give {answer} inside <answer> </answer>.",
                Format.THINK_ANSWER,
            ),
            _ours("no_think", "answer only", "Give only {answer} inside <answer> </answer>.", Format.ANSWER),
            _ours(
                "think_after",
                "answer first, then explain",
                "Give {answer} inside <answer> </answer>, then explain inside <think> </think>.",
                Format.ANSWER_THINK,
            ),
            _ours("zero_shot", "answer without tags, for an untrained policy", "Give only {answer}.", Format.FREE),
            _papers("medvlm_r1", "MedVLM-R1's prompts", _MEDVLM_R1_TRAIN, _MEDVLM_R1_EVAL, layout_lines, Format.THINK_ANSWER),
            _papers(
                "medvlm_r1_zero_shot",
                "MedVLM-R1's prompt for its untrained baseline",
                _MEDVLM_R1_ZERO_SHOT,
                _MEDVLM_R1_ZERO_SHOT,
                layout_lines,
                Format.FREE,
            ),
            _papers("med_r1_think", "Med-R1's Think prompts", _MED_R1_THINK_TRAIN, _MED_R1_THINK_EVAL, layout_inline, Format.THINK_ANSWER),
            _papers(
                "med_r1_no_think", "Med-R1's No-Think prompts", _MED_R1_NO_THINK_TRAIN, _MED_R1_NO_THINK_EVAL, layout_inline, Format.ANSWER
            ),
            _papers(
                "med_r1_zero_shot",
                "Med-R1's prompt for its untrained baseline",
                _MED_R1_ZERO_SHOT,
                _MED_R1_ZERO_SHOT,
                layout_inline,
                Format.FREE,
            ),
        )
    }
)
"""Every way to ask, by name."""


def find_strategy(name: str) -> Strategy:
    """The strategy of that name. Raises ConfigError, which lists the known names."""
    if (strategy := STRATEGIES.get(name)) is None:
        raise ConfigError(f"unknown strategy {name!r}: use one of {', '.join(STRATEGIES)}")
    return strategy


def render(sample: Sample, strategy: str, *, phase: Phase = "eval") -> Prompt:
    """The sample as one user turn: an image part for each image, then one text part.

    The patient's context comes before the question in Osler's strategies; the papers' prompts have no place for it and leave it out.

    Raises ConfigError for an unknown strategy, and DataError for an open-ended sample where the strategy knows only letters, for more
    than 26 choices, and for text that holds a chat token such as "<|im_end|>", which a processor would obey instead of read.
    """
    text = _render_text(sample, find_strategy(strategy), phase)
    content: list[dict[str, Any]] = [*({"type": "image"} for _ in sample.images), {"type": "text", "text": text}]
    return Prompt(sample=sample, strategy=strategy, messages=({"role": "user", "content": content},))


def _render_text(sample: Sample, strategy: Strategy, phase: Phase) -> str:
    if len(sample.choices) > len(LETTERS):
        raise DataError(f"{sample.id} has {len(sample.choices)} choices: keep at most {len(LETTERS)}, one for each letter")
    if sample.choices:
        template = strategy.train_template if phase == "train" else strategy.eval_template
        block = strategy.layout(sample.question, sample.choices)
    elif strategy.open_template is None:
        raise DataError(f"{sample.id} is open-ended and {strategy.name} asks for a letter: use think, no_think, think_after or zero_shot")
    else:
        template, block = strategy.open_template, sample.question
    if strategy.shows_context and sample.context:
        block = f"Patient: {sample.context}\n{block}"
    if "<|" in block and "|>" in block:
        raise DataError(f"{sample.id} holds a chat token (<|..|>) in its text: remove it, a processor would obey it")
    return template.replace(_PLACEHOLDER, block)


def target_completion(sample: Sample, strategy: str) -> str:
    """What SFT teaches, well-formed for the strategy: "<think>A bright ring.</think><answer>B</answer>".

    Raises ConfigError for an unknown strategy, and DataError where reasoning is needed and the sample has no rationale, or where
    the text holds the tags themselves.
    """
    known = find_strategy(strategy)
    if known.format is Format.FREE:
        return sample.target
    answer = f"<answer>{_without_tags(sample.id, sample.target)}</answer>"
    if not known.format.has_think:
        return answer
    if not (sample.rationale and sample.rationale.strip()):
        raise DataError(f"{sample.id} has no rationale and {strategy} teaches reasoning: use no_think, or add rationales to the data")
    think = f"<think>{_without_tags(sample.id, sample.rationale.strip())}</think>"
    return known.separator.join((think, answer) if known.format is Format.THINK_ANSWER else (answer, think))


def _without_tags(sample_id: str, text: str) -> str:
    if any(tag in text for tag in ("<think>", "</think>", "<answer>", "</answer>")):
        raise DataError(f"{sample_id} holds <think> or <answer> tags in its target or rationale: remove them")
    return text
