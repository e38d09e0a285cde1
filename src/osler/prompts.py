"""The one prompt renderer: STRATEGIES has the wordings, `render` makes prompts, `target_completion` makes the targets of SFT.

Training and evaluation both render here, so a policy is always evaluated with the wording of its training. Osler's own strategies use one
wording for both phases. The strategies of the papers keep the published strings to the character; those differ between phases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, Literal

from osler.context import ADULT, Context, years_of
from osler.errors import ConfigError, DataError
from osler.registry import Registry
from osler.types import LETTERS, PLACE, Prompt, Sample

Phase = Literal["train", "eval"]
Layout = Callable[[str, tuple[str, ...]], str]
"""(question, choices) -> question block."""

ContextLayout = Callable[[Context], str]
"""The patient context -> the text before the question block, which starts on a line of its own; "" shows nothing."""


class Format(StrEnum):
    """The parts of a well-formed completion in their order. `grading.parse` checks them."""

    THINK_ANSWER = "think_answer"  # <think>..</think><answer>B</answer>
    ANSWER = "answer"  # <answer>B</answer>
    ANSWER_THINK = "answer_think"  # <answer>B</answer><think>..</think>
    FREE = "free"  # B


_FIELD_TITLES: Final = (("indication", "Indication"), ("history", "History"), ("prior_findings", "Prior findings"), ("laterality", "Side"))
_SENTENCE_ENDS: Final = (".", "!", "?", "。", "！", "？")


def layout_context(context: Context) -> str:
    """The known fields in one line: "Patient: 63-year-old man. Indication: cough. History: diabetes. Side: left."

    Free text comes last; where nothing else is known it stays as it is: "Patient: 67-year-old man, cough".
    """
    known = context.values
    if known.keys() == {"text"}:
        return f"Patient: {known['text']}"
    person = _describe_person(context.age, context.sex)
    parts = [f"Patient: {person}"] if person else []
    parts += [f"{title}: {known[name].strip()}" for name, title in _FIELD_TITLES if name in known]
    parts += [known["text"].strip()] if "text" in known else []
    return " ".join(part if part.endswith(_SENTENCE_ENDS) else f"{part}." for part in parts)


def _describe_person(age: str | None, sex: str | None) -> str:
    """ "63-year-old man", "3-month-old girl", "man (60-69 years)", "63 years old", "male patient"; "" where neither is known."""
    if age is None:
        return "" if sex is None else "patient of another sex" if sex == "other" else f"{sex} patient"
    is_plain = age[0].isdigit() and age.rstrip("s").endswith((" year", " month", " week", " day")) and "-" not in age
    if sex is None or sex == "other":
        return (f"{age} old" if is_plain else age) + (", sex other" if sex else "")
    years = years_of(age)
    is_child = years is not None and years < ADULT
    noun = {"male": "boy" if is_child else "man", "female": "girl" if is_child else "woman"}[sex]
    return f"{age.rstrip('s').replace(' ', '-')}-old {noun}" if is_plain else f"{noun} ({age})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """The wording of a prompt and the format of its completion. "{Question}" in a template is replaced by the question block."""

    name: str  # "think"
    train_template: str
    eval_template: str
    open_template: str | None  # for samples without choices; None where the source has no such prompt
    layout: Layout
    format: Format
    separator: str = ""  # between the parts of an SFT target
    context_layout: ContextLayout | None = layout_context  # None where the prompt has no place for the patient context


PLACEHOLDER: Final = "{Question}"
"""Stands for the question block in a template."""
_CONTEXT_STARTS: Final = ("Patient: ", *(f"{title}: " for _, title in _FIELD_TITLES))  # of the line of `layout_context`


def layout_lines(question: str, choices: tuple[str, ...]) -> str:
    r"""Each option on its own line (Osler and MedVLM-R1): "Which organ?\nA) Liver\nB) Spleen"."""
    return "\n".join([question, *(f"{letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))])


def layout_inline(question: str, choices: tuple[str, ...]) -> str:
    """All options on the line of the question (Med-R1): "Which organ? A)Liver, B)Spleen"."""
    return f"{question} " + ", ".join(f"{letter}){choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def _osler_strategy(name: str, shape: Format, instruction: str) -> Strategy:
    """One of Osler's strategies. In `instruction`, "{answer}" is replaced by "the letter" or "a short answer"."""
    closed, open_ended = (f"{PLACEHOLDER}\n{instruction.replace('{answer}', answer)}" for answer in ("the letter", "a short answer"))
    return Strategy(name=name, train_template=closed, eval_template=closed, open_template=open_ended, layout=layout_lines, format=shape)


def _paper_strategy(name: str, shape: Format, layout: Layout, train: str, evaluation: str) -> Strategy:
    """A strategy of a paper, with its published templates."""
    return Strategy(
        name=name,
        train_template=train,
        eval_template=evaluation,
        open_template=None,
        layout=layout,
        format=shape,
        separator="\n",
        context_layout=None,
    )


# MedVLM-R1 (arXiv 2502.19634). Spaces at line ends and the indentation are part of the protocol.
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

BUILT_IN: Final = (
    _osler_strategy("think", Format.THINK_ANSWER, "Think inside <think> </think>, then give {answer} inside <answer> </answer>."),
    _osler_strategy("no_think", Format.ANSWER, "Give only {answer} inside <answer> </answer>."),
    _osler_strategy("think_after", Format.ANSWER_THINK, "Give {answer} inside <answer> </answer>, then explain inside <think> </think>."),
    _osler_strategy("zero_shot", Format.FREE, "Give only {answer}."),  # for an untrained policy, like the other two zero-shot prompts
    _paper_strategy("medvlm_r1", Format.THINK_ANSWER, layout_lines, _MEDVLM_R1_TRAIN, _MEDVLM_R1_EVAL),
    _paper_strategy("medvlm_r1_zero_shot", Format.FREE, layout_lines, _MEDVLM_R1_ZERO_SHOT, _MEDVLM_R1_ZERO_SHOT),
    _paper_strategy("med_r1_think", Format.THINK_ANSWER, layout_inline, _MED_R1_THINK_TRAIN, _MED_R1_THINK_EVAL),
    _paper_strategy("med_r1_no_think", Format.ANSWER, layout_inline, _MED_R1_NO_THINK_TRAIN, _MED_R1_NO_THINK_EVAL),
    _paper_strategy("med_r1_zero_shot", Format.FREE, layout_inline, _MED_R1_ZERO_SHOT, _MED_R1_ZERO_SHOT),
)

READER: Final = Strategy(
    name="reader",
    train_template=PLACEHOLDER,
    eval_template=PLACEHOLDER,
    open_template=PLACEHOLDER,
    layout=layout_lines,
    format=Format.ANSWER,
)
"""Of answers that people gave in a reader study: they see the question without an instruction, and the form writes their completion."""


def _as_strategy(name: str, part: Any) -> Strategy:
    if not isinstance(part, Strategy):
        raise ConfigError(f"the strategy {name!r} is a {type(part).__name__}: register an osler.Strategy")
    if not all(PLACEHOLDER in text for text in (part.train_template, part.eval_template, part.open_template or PLACEHOLDER)):
        raise ConfigError(f"the strategy {name!r} has a template without {PLACEHOLDER}: the question would not be asked")
    return replace(part, name=name)


STRATEGIES: Final[Registry[Strategy]] = Registry(
    "strategy", {strategy.name: strategy for strategy in (*BUILT_IN, READER)}, adapt=_as_strategy
)
"""Every strategy, by name; `register_strategy` and the entry points `osler.strategies` add to it."""

register_strategy = STRATEGIES.register


def find_strategy(name: str) -> Strategy:
    """The strategy of that name. Raises ConfigError, which lists the known names."""
    return STRATEGIES.find(name)


def render(sample: Sample, strategy: str, *, phase: Phase = "eval") -> Prompt:
    """The sample as one user turn: an image part for each image, then one text part; or the images at their places in the text.

    Osler's strategies put the patient context before the question; the prompts of the papers have no place for it and omit it.
    Raises ConfigError for an unknown strategy, and DataError for an open-ended sample where the strategy asks for a letter, for more
    than 26 choices, and for text with a chat token such as "<|im_end|>", which a processor would interpret as a control token.
    """
    text = _render_text(sample, find_strategy(strategy), phase)
    pieces = text.split(PLACE)
    if len(pieces) == 1:
        content: list[dict[str, Any]] = [*({"type": "image"} for _ in sample.images), {"type": "text", "text": text}]
    elif len(pieces) - 1 == len(sample.images):
        content = [part for piece in pieces for part in ({"type": "image"}, {"type": "text", "text": piece}) if part.get("text") != ""][1:]
    else:
        raise DataError(
            f"{sample.id} has {len(sample.images)} images and {len(pieces) - 1} places {PLACE} in the prompt of {strategy}: make them agree"
        )
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
    if strategy.context_layout is not None and sample.context is not None and (line := strategy.context_layout(sample.context)):
        block = f"{line}\n{block}"
    if has_chat_token(block):
        raise DataError(f"{sample.id} contains a chat token (<|..|>): remove it, because a processor interprets it as a control token")
    return template.replace(PLACEHOLDER, block)


def has_chat_token(text: str) -> bool:
    """Whether a text contains something like "<|im_end|>", which a processor interprets as a control token."""
    return "<|" in text and "|>" in text


def without_context(block: str) -> str:
    """A question block without the patient context before it: of a block with a context only the last line is left."""
    return block.rpartition("\n")[2] if block.startswith(_CONTEXT_STARTS) else block


def target_completion(sample: Sample, strategy: str) -> str:
    """The SFT target of a sample, well-formed for the strategy: "<think>A bright ring.</think><answer>B</answer>".

    Raises ConfigError for an unknown strategy, and DataError for a strategy with reasoning where the sample has no rationale, and for
    tags in the target or rationale.
    """
    spec = find_strategy(strategy)
    if spec.format is Format.FREE:
        return sample.target
    answer = f"<answer>{_without_tags(sample.id, sample.target)}</answer>"
    if spec.format is Format.ANSWER:
        return answer
    if not (sample.rationale and sample.rationale.strip()):
        raise DataError(
            f"{sample.id} has no rationale and {strategy} trains reasoning: use no_think, add rationales to the data, or let "
            '[data] rationales = "facts" write them from its annotation'
        )
    think = f"<think>{_without_tags(sample.id, sample.rationale.strip())}</think>"
    return spec.separator.join((think, answer) if spec.format is Format.THINK_ANSWER else (answer, think))


def _without_tags(sample_id: str, text: str) -> str:
    if any(tag in text for tag in ("<think>", "</think>", "<answer>", "</answer>")):
        raise DataError(f"{sample_id} contains <think> or <answer> tags in its target or rationale: remove them")
    return text
