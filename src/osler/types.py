"""The five main types in pipeline order: Sample, Prompt, Completion, Verdict, Record.

A reader makes a Sample, `prompts.render` a Prompt, an engine a Completion, `grading.grade` a Verdict, `evaluate` a Record.
A verdict is a fact about one completion, a reward is a number made from it for training, a metric is a number over many records.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from osler.context import Context, to_context
from osler.facts import Facts, Statement, Term
from osler.taxonomy import Modality, QuestionType

if TYPE_CHECKING:
    from PIL.Image import Image

LETTERS: Final = string.ascii_uppercase
"""Option letters in order; a sample has at most 26 choices."""


def answer_text(answer: str | None, choices: Sequence[str]) -> str | None:
    """The text of the choice that a letter names, or the open answer; None without an answer that can be read."""
    if answer is None or not choices:
        return answer
    index = LETTERS.find(answer)
    return choices[index] if 0 <= index < len(choices) else None


PLACE: Final = "<image>"
"""The place of an image within a question or a context; without places the images come first."""


@runtime_checkable
class ImageSource(Protocol):
    """An image that `load` reads when it is needed. The source itself is small and picklable."""

    @property
    def uri(self) -> str:
        """A stable name without machine paths, e.g. "imgs/xmlab1/source.jpg" or "phantom:mri/test/17?seed=0"."""

    def load(self) -> Image:
        """The image in mode RGB. Raises DataError where it cannot be read."""


@runtime_checkable
class HasDigest(Protocol):
    """An image source that knows a hash of its content without decoding it."""

    def digest(self) -> str:
        """Hexadecimal SHA-256 of what determines the pixels: the bytes of a file or the name of a phantom. Raises DataError or OSError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question about one or more images."""

    id: str  # "slake/10513": dataset and row
    dataset: str  # "slake"
    images: tuple[ImageSource, ...]
    question: str  # "Which organ is enlarged?", without choices; PLACE where an image stands within it
    choices: tuple[str, ...]  # ("Liver", "Spleen"), without letters; empty means open-ended
    target: str  # the letter "B"; the reference text of an open-ended sample
    modality: Modality | None
    question_type: QuestionType | None
    subject_id: str | None = None  # patient or case
    context: Context | None = None  # shown before the question; a text stands for Context(text=..); PLACE as in the question
    rationale: str | None = None  # reference findings, for SFT only; None in real data
    facts: Facts | None = None  # what is known about the images; None where nothing is
    terms: tuple[Term, ...] = field(default=(), repr=False)  # phrases of the dataset that state a value
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take a text as a context. Raises DataError for another type."""
        if self.context is not None:
            object.__setattr__(self, "context", to_context(self.context))

    @property
    def target_text(self) -> str:
        """The text of the right answer, e.g. "Spleen"."""
        return self.choices[LETTERS.index(self.target)] if self.choices else self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A sample as input of a chat template; images come first, or at their places in the text."""

    sample: Sample
    strategy: str  # "think"
    messages: tuple[dict[str, Any], ...]  # ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ..}]},)
    prefix: str = ""  # forced beginning of the completion: "<think>A bright ring.</think><answer>"

    @property
    def text(self) -> str:
        """The text of the user turn, with PLACE for each image unless all of them come first."""
        place = PLACE if self.has_places else ""
        return "".join(part["text"] if part["type"] == "text" else place for part in self.messages[-1]["content"])

    @property
    def has_places(self) -> bool:
        """Whether an image stands within the text."""
        return any(part["type"] == "image" for part in self.messages[-1]["content"][len(self.sample.images) :])


class FinishReason(StrEnum):
    """Why generation ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The text that a policy generated for one prompt."""

    text: str  # "<answer>B</answer>", special tokens removed; begins with the prompt's prefix
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[float, ...] | None = None  # natural logarithm, one per token
    option_probabilities: tuple[float, ...] | None = None  # one per letter at the token of the answer, sum 1; None without an answer
    num_generated: int | None = None  # tokens that were generated, where their ids are not known; None: as many as `token_ids`

    @property
    def num_tokens(self) -> int:
        """Tokens that were generated, without the prefix; 0 where the engine does not know."""
        return len(self.token_ids) if self.num_generated is None else self.num_generated


class Outcome(StrEnum):
    """The result of grading."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    NO_ANSWER = "no_answer"
    AMBIGUOUS = "ambiguous"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A fact about one completion."""

    outcome: Outcome
    answer: str | None  # the parsed letter, or the text of an open answer; None for NO_ANSWER and AMBIGUOUS
    reasoning: str | None  # the text inside <think>
    is_well_formed: bool  # whether the completion has the strict format of its strategy
    rule: str  # the rule that decided, e.g. "answer_tag.letter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One graded completion: one line of a records file."""

    sample_id: str
    dataset: str
    modality: str | None
    question_type: str | None
    subject_id: str | None
    image_uris: tuple[str, ...]
    strategy: str
    policy: str
    prompt: str
    completion: str
    num_tokens: int
    finish_reason: str
    choices: tuple[str, ...]
    target: str
    answer: str | None
    reasoning: str | None
    is_well_formed: bool
    outcome: str
    rule: str
    ablation: str | None = None  # how the question was changed, e.g. "blank"; None for the unchanged question
    own_image_uris: tuple[str, ...] | None = None  # with an ablation: the sample's own images, where `image_uris` are the shown ones
    context_changes: tuple[str, ...] | None = None  # with a change of the context: the fields that differ from the patient's, ("age",)
    rotation: int | None = None  # by how many places the choices were rotated; None without rotations
    option_probabilities: tuple[float, ...] | None = None  # those of the completion, one per choice
    vote_share: float | None = None  # share of the completions with this answer; None where only one was generated
    statements: tuple[Statement, ...] | None = None  # what the reasoning states; None without reasoning, or where nothing is known
    facts: Facts | None = None  # what is known about the sample's own images
