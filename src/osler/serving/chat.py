"""/v1/models and /v1/chat/completions: the policy for the clients of OpenAI's API."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from osler.config import SamplingConfig
from osler.serving.calls import EVENTS_SCHEMA, Calls, EventStream, Result, open_stream
from osler.serving.chat_messages import ChatPrompt, to_prompt
from osler.serving.chat_types import ChatCompletion, ChatRequest, ModelCard, ModelList
from osler.serving.errors import ApiError
from osler.serving.generation import Delta, Finished, GenerationRequest, Started, TokenLogprob
from osler.serving.log import AnswerLog
from osler.serving.settings import ServerSettings
from osler.serving.strict import StrictRoute

GREEDY: Final = 1e-5
"""Temperatures below are greedy decoding: a division by them overflows."""

_LEAST_LOGPROB: Final = -9999.0  # stands for minus infinity, which JSON does not have
_REPLIES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "model": ChatCompletion,
        "description": "The completions; with `stream` events of ChatCompletionChunk, the last one [DONE].",
        "content": EVENTS_SCHEMA,
    }
}


def make_chat(calls: Calls, log: AnswerLog | None) -> APIRouter:
    """The routes of OpenAI's API."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=StrictRoute)
    generator, settings, created = calls.generator, calls.settings, int(time.time())
    card = {"id": generator.policy_name, "object": "model", "created": created, "owned_by": "osler"}

    @router.get("/models", response_model=ModelList)
    async def list_models() -> Response:
        """The policy of this server."""
        return JSONResponse({"object": "list", "data": [card]})

    @router.get("/models/{model:path}", response_model=ModelCard)
    async def show_model(model: str) -> Response:
        """The policy by its name."""
        check_model(model, generator.policy_name)
        return JSONResponse(card)

    @router.post("/chat/completions", response_model=None, responses=_REPLIES)
    async def complete(body: ChatRequest, request: Request) -> Response:
        """Continue a chat about images, which are data URLs."""
        check_model(body.model, generator.policy_name)
        prompt = await calls.finish(request, calls.work(partial(to_prompt, body.messages, settings)))
        chat = _Chat(body, prompt, calls, log)
        return await chat.stream(request) if body.stream else await chat.answer(request)

    return router


def check_model(name: str, known: str) -> None:
    """Raise ApiError (404) for another policy than that of the server."""
    if name != known:
        raise ApiError(404, f"there is no model {name[:100]!r}: this server has {known!r}", param="model", code="model_not_found")


def to_sampling(body: ChatRequest) -> SamplingConfig | None:
    """How to draw the completions; None for greedy decoding. What a request leaves out is OpenAI's default: temperature 1, no filter."""
    temperature = 1.0 if body.temperature is None else body.temperature
    is_greedy = temperature < GREEDY or body.top_p == 0 or body.top_k == 1
    penalty = body.repetition_penalty or 1.0
    if is_greedy:
        return SamplingConfig(top_k=1, repetition_penalty=penalty) if penalty != 1 else None
    return SamplingConfig(
        temperature=temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=max(body.top_k or 0, 0),
        min_p=body.min_p or None,
        repetition_penalty=penalty,
    )


class _Chat:
    """One chat request and its reply."""

    def __init__(self, body: ChatRequest, prompt: ChatPrompt, calls: Calls, log: AnswerLog | None) -> None:
        self.body, self.prompt, self.calls, self.log = body, prompt, calls, log
        self.number = body.n or 1
        self.request = self._make_request(calls.settings)
        self.is_copied = self.number > self.request.num_generations  # greedy completions of one prompt are equal
        self.frame = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": calls.generator.policy_name,
            "system_fingerprint": f"fp_{calls.generator.policy_fingerprint[:12]}",
        }

    def _make_request(self, settings: ServerSettings) -> GenerationRequest:
        body = self.body
        if self.number > settings.max_generations:
            raise ApiError(400, f"n is more than {settings.max_generations}: ask for fewer completions", param="n")
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
        sampling = to_sampling(body)
        asked = body.max_completion_tokens or body.max_tokens or settings.default_tokens
        stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
        return GenerationRequest(
            messages=self.prompt.messages,
            images=self.prompt.images,
            num_generations=1 if sampling is None else self.number,
            max_tokens=min(asked, settings.max_tokens),  # it is an upper limit; "length" says that it was reached
            may_clip=True,
            sampling=sampling,
            seed=secrets.randbits(31) if body.seed is None else body.seed % 2**63,
            stop=tuple(stop),
            top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            streams=bool(body.stream),
        )

    async def answer(self, request: Request) -> Response:
        """All completions in one object."""
        result = await self.calls.finish(request, self.calls.collect(self.request))
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": event.completion.text, "refusal": None},
                "logprobs": self._logprobs(event.logprobs),
                "finish_reason": str(event.completion.finish_reason),
            }
            for index, event in enumerate(self._completions(result))
        ]
        self._write_log(result)
        return JSONResponse({**self.frame, "object": "chat.completion", "choices": choices, "usage": self._usage(result)})

    async def stream(self, request: Request) -> EventStream:
        """The completions as events."""
        return await open_stream(self.calls, request, self._events(), lambda error: _event(error.body()))

    async def _events(self) -> AsyncGenerator[bytes, None]:
        result = Result()
        async with aclosing(self.calls.stream(self.request, result)) as events:
            async for event in events:
                if isinstance(event, Started):
                    for index in range(self.number):
                        yield self._chunk(index, {"role": "assistant", "content": ""})
                elif isinstance(event, Delta):
                    for index in self._indices(event):
                        yield self._chunk(index, {"content": event.text}, logprobs=self._logprobs(event.logprobs))
                else:
                    for index in self._indices(event):
                        yield self._chunk(index, {}, reason=str(event.completion.finish_reason))
        self._write_log(result)
        if self._has_usage:
            yield self._event([], usage=self._usage(result))
        yield b"data: [DONE]\n\n"

    @property
    def _has_usage(self) -> bool:
        return bool(self.body.stream_options and self.body.stream_options.include_usage)

    def _indices(self, event: Delta | Finished) -> Iterable[int]:
        return range(self.number) if self.is_copied else (event.index,)

    def _completions(self, result: Result) -> list[Finished]:
        return [result.finished[0 if self.is_copied else index] for index in range(self.number)]

    def _chunk(self, index: int, delta: dict[str, str], *, logprobs: dict[str, Any] | None = None, reason: str | None = None) -> bytes:
        return self._event([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}])

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
        given = {"usage": usage} if self._has_usage else {}
        return _event({**self.frame, "object": "chat.completion.chunk", "choices": choices, **given})

    def _usage(self, result: Result) -> dict[str, int]:
        prompt = result.prompt_tokens
        completion = sum(len(event.completion.token_ids) for event in self._completions(result))
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _logprobs(self, tokens: tuple[TokenLogprob, ...]) -> dict[str, Any] | None:
        if not self.body.logprobs:
            return None
        return {
            "content": [
                {**_token(one.token, one.logprob), "top_logprobs": [_token(text, logprob) for text, _, logprob in one.top]}
                for one in tokens
            ],
            "refusal": None,
        }

    def _write_log(self, result: Result) -> None:
        if self.log is not None:
            self.log.write(
                "/v1/chat/completions",
                {
                    "policy": self.calls.generator.policy_name,
                    "fingerprint": self.calls.generator.policy_fingerprint,
                    "messages": self.prompt.text,
                    "images": [image.uri for image in self.prompt.images],
                    "completions": [event.completion.text for event in self._completions(result)],
                    "usage": self._usage(result),
                    "seconds": result.total,
                },
            )


def _token(text: str, logprob: float) -> dict[str, Any]:
    # A token may be a part of a character, whose bytes the text does not tell.
    content = None if "�" in text else list(text.encode())
    return {"token": text, "logprob": max(logprob, _LEAST_LOGPROB), "bytes": content}


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n\n"
