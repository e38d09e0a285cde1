"""What the server asks of a policy, and what it gets back: the interface between the API and the running batch.

`Generator` is the seam. `batching.BatchGenerator` implements it with a policy; `ScriptedGenerator` with prepared texts, for tests.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from osler.config import SamplingConfig
from osler.types import Completion, ImageSource


class QueueFull(Exception):  # noqa: N818 - a state of the server, answered with status 429
    """No place is left for a request; `retry_after` says in how many seconds one is likely."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the queue is full: try again in {retry_after:.0f} s")
        self.retry_after = retry_after


class Draining(Exception):  # noqa: N818 - answered with status 503
    """The server finishes what runs and takes no more requests."""


class GenerationFailed(Exception):  # noqa: N818 - answered with status 500
    """A fault of the server ended a request; the log has its cause. Other requests go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt and how to continue it. Its completions share the prompt."""

    messages: tuple[Mapping[str, Any], ...]  # of the chat template, as `Prompt.messages`
    images: tuple[ImageSource, ...]  # in the order of the image parts of the messages
    prefix: str = ""  # forced beginning of every completion
    num_generations: int = 1
    max_tokens: int = 256  # of a completion, without the prefix
    may_clip: bool = False  # `max_tokens` gives way where prompt and completion would be longer than the context; otherwise EngineError
    sampling: SamplingConfig | None = None  # None: greedy; otherwise every field applies but `max_completion_length`
    seed: int = 0  # equal requests with one seed give equal completions, whatever else is in the batch (up to rounding)
    stop: tuple[str, ...] = ()  # texts that end a completion; they are not part of it
    top_logprobs: int | None = None  # None: no log-probabilities; N: those of the N most likely tokens beside the generated one
    num_choices: int = 0  # letters whose probability at the answer is wanted; 0: none
    streams: bool = True  # False: no Delta, only Started and Finished, which costs less


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token and its natural log-probability under the policy at temperature 1, before any filter."""

    token: str
    token_id: int
    logprob: float
    top: tuple[tuple[str, int, float], ...] = ()  # token, id, log-probability of the most likely ones, most likely first


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A piece of one completion. Pieces are whole characters, joined they are its text, and no piece holds a part of a stop text."""

    index: int  # which completion of the request, from 0
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()  # of the tokens that begin in this piece; joined they are those of `Finished`


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The end of one completion."""

    index: int
    completion: Completion  # its text begins with the prefix; `option_probabilities` with `num_choices`, where it has an answer
    logprobs: tuple[TokenLogprob, ...] = ()  # of the tokens of its text: no stop token, none of a stop text; () without `top_logprobs`


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The first event of a request: its prompt is computed."""

    prompt_tokens: int  # image tokens included
    image_tokens: int
    queued_seconds: float  # from arrival to the prefill


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a generator is doing now."""

    running: int  # requests whose completions are generated
    queued: int  # requests that wait or are prepared
    rows: int = 0  # completions in the running batch
    is_draining: bool = False


class Generator(Protocol):
    """Continues prompts for many callers at once. It is used from one asyncio loop."""

    @property
    def policy_name(self) -> str:
        """The policy's name in records: "osler-tiny"."""

    @property
    def policy_fingerprint(self) -> str:
        """What identifies the policy's files: the same value as in the terms of an evaluation."""

    @property
    def load(self) -> Load:
        """What runs and what waits."""

    def stream(self, request: GenerationRequest) -> AsyncGenerator[Started | Delta | Finished]:
        """The events of a request: Started, then Delta and Finished of its completions, mixed; it ends after the last Finished.

        Closing the iterator frees the request's place at once. Raises QueueFull, Draining, EngineError for settings that cannot be met and
        a prompt that is too long, and DataError for an image that cannot be read, all before the first event; later GenerationFailed,
        and Draining where the generator is closed.
        """

    async def drain(self) -> None:
        """Refuse new requests (Draining) and return when those that were accepted have ended."""

    def close(self) -> None:
        """Stop at once and free all memory; requests that run end with Draining. A second call does nothing."""
