"""The five types that travel through Osler, in the order in which a question meets them.

A reader makes a Sample, `prompts.render` a Prompt, an engine a Completion, `scoring.grade` a Verdict, `evaluate` a Record.
A verdict is a fact about one completion, a reward a number made from it for training, a metric a number over many records.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from osler.taxonomy import Modality, QuestionType

if TYPE_CHECKING:
    from PIL.Image import Image

LETTERS: Final = string.ascii_uppercase
"""Option letters in order; a sample has at most 26 choices."""


@runtime_checkable
class ImageSource(Protocol):
    """Where an image comes from. `load` opens it only when it is needed; the source itself is small and picklable."""

    @property
    def uri(self) -> str:
        """A stable name without machine paths, e.g. "imgs/xmlab1/source.jpg" or "phantom:mri/test/17?seed=0"."""

    def load(self) -> Image:
        """The RGB picture. Raises DataError in one line when there is none."""


@runtime_checkable
class HasDigest(Protocol):
    """An image source that identifies its content without decoding it."""

    def digest(self) -> str:
        """The SHA-256, in hexadecimal, of what decides every pixel: bytes of a file, name of a phantom. Raises DataError or OSError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question about one or more images."""

    id: str  # "slake/10513": dataset and row
    dataset: str  # "slake"
    images: tuple[ImageSource, ...]
    question: str  # "Which organ is enlarged?", without options
    choices: tuple[str, ...]  # ("Liver", "Spleen"), without letters; empty means open-ended
    target: str  # the letter "B" where there are choices, else the reference text
    modality: Modality | None
    question_type: QuestionType | None
    subject_id: str | None = None  # patient or case
    context: str | None = None  # patient context, shown before the question
    rationale: str | None = None  # reference findings, for SFT only; None in real data
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def target_text(self) -> str:
        """The text of the right answer, e.g. "Spleen"."""
        return self.choices[LETTERS.index(self.target)] if self.choices else self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A sample as a model sees it: chat-template input, images first."""

    sample: Sample
    strategy: str  # "think"
    messages: tuple[dict[str, Any], ...]  # ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ..}]},)
    prefix: str = ""  # how the completion has to begin: "<think>A bright ring.</think><answer>"

    @property
    def text(self) -> str:
        """The text of the user's turn."""
        content = self.messages[-1]["content"]
        return "".join(part["text"] for part in content if part["type"] == "text")


class FinishReason(StrEnum):
    """Why generation ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a policy wrote."""

    text: str  # "<answer>B</answer>", special tokens removed; begins with the prompt's prefix
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[float, ...] | None = None  # natural logarithm, one per token
    option_probabilities: tuple[float, ...] | None = None  # of each letter where the answer's was written, sum 1; None where none was


class Outcome(StrEnum):
    """What grading found."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    NO_ANSWER = "no_answer"
    AMBIGUOUS = "ambiguous"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A fact about one completion."""

    outcome: Outcome
    answer: str | None  # the letter that was read, or the text of an open answer; None for NO_ANSWER and AMBIGUOUS
    reasoning: str | None  # the text inside <think>
    is_well_formed: bool  # the strategy's strict format
    rule: str  # the rule that decided, e.g. "answer_tag.letter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One graded completion as one flat JSON line."""

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
    ablation: str | None = None  # what was taken from the question, e.g. "blank"; None for the question itself
    own_image_uris: tuple[str, ...] | None = None  # under an ablation the question's own images, `image_uris` being those shown
    rotation: int | None = None  # by how many places the options were rotated; None where nobody rotates them
    option_probabilities: tuple[float, ...] | None = None  # the completion's, one for each choice
    vote_share: float | None = None  # of the completions that gave this answer; None where one was asked for
