"""The judge's request to an endpoint: greedy, with a seed, and nothing but the text of the reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from osler.errors import ConfigError
from osler.evaluation.endpoint import Endpoint, ask
from osler.evaluation.replies import RequestFailure

if TYPE_CHECKING:
    from openai import AsyncOpenAI

SEED: Final = 0
"""Sent with the temperature 0, so that servers which can repeat a reply do."""

MAX_TOKENS: Final = 512
"""Of a reply; enough for a judge that does not reason."""


def check_judge(endpoint: Endpoint, max_tokens: int) -> None:
    """Raise ConfigError, which names the option of `osler judge`, for settings with which nothing can be asked."""
    if not endpoint.model.strip():
        raise ConfigError("--model is empty: give the name under which the endpoint serves the judge")
    if not 0 < endpoint.timeout <= 3600:
        raise ConfigError(f"--timeout {endpoint.timeout:g}: give seconds above 0, at most 3600")
    if max_tokens < 1:
        raise ConfigError(f"--max-tokens {max_tokens}: give at least 1; {MAX_TOKENS} is enough for a judge that does not reason")


async def complete(
    client: AsyncOpenAI, endpoint: Endpoint, messages: Sequence[Mapping[str, str]], *, max_tokens: int, is_first: bool = False
) -> str:
    """The text of the reply. Raises RequestFailure, also for a reply without text, and for one that was cut off at `max_tokens`."""
    body = {"messages": list(messages), "temperature": 0, "seed": SEED, "max_tokens": max_tokens}
    reply = (await ask(client, endpoint, body, is_first=is_first)).reply
    if not reply.text or reply.finish_reason == "length":
        raise RequestFailure("unparsable", "the reply has no text, or was cut off at --max-tokens")
    return reply.text
