"""Prompts for the tests of the engine `openai`, and engines for the scripted endpoint."""

from __future__ import annotations

from typing import Any

from scripted_endpoint import ScriptedEndpoint, letter_for
from small_prompts import make_prompt

from osler.evaluation.endpoint import Endpoint
from osler.evaluation.engines.openai import OpenAIEngine, RequestSettings
from osler.types import Completion, Prompt

PROMPTS = [make_prompt(number, 1 + number % 3) for number in range(3)]
LONG = 30.0
"""Seconds within which a loaded machine answers; a row that waits for a time-out has a shorter one and a server that never answers."""


def engine(server: ScriptedEndpoint, model: str = "well", *, concurrency: int = 4, settings: RequestSettings | None = None, **changes: Any):
    values: dict[str, Any] = {"url": server.url, "model": model, "backoff": 0.001, "timeout": LONG, "attempts": 2, **changes}
    return OpenAIEngine(Endpoint(**values), concurrency=concurrency, settings=settings)


def texts(groups: list[list[Completion]]) -> list[list[str]]:
    return [[completion.text for completion in group] for group in groups]


def answers(prompts: list[Prompt]) -> list[list[str]]:
    return [[f"<answer>{letter_for(prompt.text)}</answer>"] for prompt in prompts]
