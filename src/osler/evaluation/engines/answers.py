"""The interface of engines that answer each question on its own, so that an answer is kept as soon as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from osler.config import SamplingConfig
from osler.evaluation.usage import RequestUsage
from osler.types import Completion, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredQuestion:
    """The completions of one question, and what each of them took."""

    position: int  # the key of the question
    completions: list[Completion]
    usage: tuple[RequestUsage, ...] = ()  # () where the engine does not measure it


@runtime_checkable
class AnswersEach(Protocol):
    """An `Engine` whose answers do not depend on what else is asked. Evaluation then resumes question by question, not chunk by chunk."""

    @property
    def policy_name(self) -> str:
        """See `Engine.policy_name`."""

    def generate_each(
        self,
        questions: Mapping[int, Prompt],
        *,
        max_completion_length: int,
        num_generations: int = 1,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
    ) -> Iterator[AnsweredQuestion]:
        """Answer every question, in the order in which answers come; the arguments are those of `Engine.generate`.

        The key of a question is its place in the whole evaluation: `seed` and key together seed its sampling, so a question draws the same
        in a call of its own. Leaving the iterator early cancels what still runs. Raises MissingAnswers at its end for questions without an
        answer, and the errors of `Engine.generate`.
        """
