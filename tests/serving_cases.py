"""Requests and readers of events for the tests of the running batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from osler.config import SamplingConfig
from osler.policies.load import Policy, load_policy
from osler.serving.batch_settings import BatchSettings
from osler.serving.batching import BatchGenerator
from osler.serving.generation import Delta, Finished, GenerationRequest, Started
from osler.types import Completion, Prompt

T = TypeVar("T")
MAX_TOKENS = 24


def to_request(prompt: Prompt, **settings: Any) -> GenerationRequest:
    """The request of a prompt."""
    values: dict[str, Any] = {"max_tokens": MAX_TOKENS, "num_choices": len(prompt.sample.choices), **settings}
    return GenerationRequest(messages=prompt.messages, images=prompt.sample.images, prefix=prompt.prefix, **values)


def sampled(**settings: Any) -> SamplingConfig:
    return SamplingConfig(**settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """All events of a request."""

    started: Started
    deltas: tuple[Delta, ...]
    finished: tuple[Finished, ...]  # in the order of their index

    @property
    def completions(self) -> list[Completion]:
        return [one.completion for one in self.finished]

    def text(self, index: int = 0) -> str:
        """The pieces of a completion, joined."""
        return "".join(delta.text for delta in self.deltas if delta.index == index)


async def collect(generator: BatchGenerator, request: GenerationRequest) -> Answer:
    """The events of a request, which come in order."""
    events = [event async for event in generator.stream(request)]
    (started,) = [event for event in events if isinstance(event, Started)]
    assert events[0] is started
    assert isinstance(events[-1], Finished)
    finished = sorted((event for event in events if isinstance(event, Finished)), key=lambda event: event.index)
    assert [one.index for one in finished] == list(range(request.num_generations))
    return Answer(started=started, deltas=tuple(event for event in events if isinstance(event, Delta)), finished=tuple(finished))


def run(policy: Policy, work: Callable[[BatchGenerator], Awaitable[T]], **settings: Any) -> T:
    """Do `work` with a generator of the policy."""

    async def main() -> T:
        async with opened(policy, **settings) as generator:
            return await work(generator)

    return asyncio.run(main())


@asynccontextmanager
async def opened(policy: Policy, **settings: Any) -> AsyncIterator[BatchGenerator]:
    """A generator that is closed at the end."""
    generator = BatchGenerator(policy, BatchSettings(**settings), policy_fingerprint="")
    try:
        yield generator
    finally:
        generator.close()


def ask_together(policy: Policy, requests: Sequence[GenerationRequest], **settings: Any) -> list[Answer]:
    """The answers to requests that are made at once."""

    async def work(generator: BatchGenerator) -> list[Answer]:
        return list(await asyncio.gather(*(collect(generator, request) for request in requests)))

    return run(policy, work, **settings)


@cache
def packaged(name: str) -> Policy:
    """A packaged policy, loaded once."""
    return load_policy(name)
