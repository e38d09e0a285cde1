"""POST /v1/answer: a question in, its answer out with the rule that read it, probabilities, votes, and what it owes to the image."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, nullcontext, suppress
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from osler.config import SamplingConfig
from osler.evaluation.answer_reading import ReadAnswer, abstains, describe_look, read_answer
from osler.evaluation.looks import Look, alter
from osler.serving.answer_types import AnswerReply, AnswerRequest, LookReply, PolicyReply, ShownImages, Timings, UsageReply
from osler.serving.asked import Asked, check_combination, read_question
from osler.serving.calls import EVENTS_SCHEMA, Calls, Result, open_stream
from osler.serving.chat import GREEDY
from osler.serving.errors import ApiError
from osler.serving.generation import Delta, GenerationRequest, QueueFull, Started
from osler.serving.log import AnswerLog
from osler.serving.settings import DISCLAIMER
from osler.serving.strict import StrictRoute
from osler.serving.uploads import Uploads
from osler.types import Completion

_LONGEST_WAIT: Final = 2.0
"""Seconds between two tries of a look that found the queue full: its answer is there already."""

_REPLIES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "model": AnswerReply,
        "description": "The answer; with `stream` the events start, token, answer, look and done, or error.",
        "content": EVENTS_SCHEMA,
    }
}


def make_answer(calls: Calls, uploads: Uploads, log: AnswerLog | None) -> APIRouter:
    """The route of questions."""
    router = APIRouter(prefix="/v1", tags=["Osler"], route_class=StrictRoute)

    @router.post("/answer", response_model=None, responses=_REPLIES)
    async def answer(body: AnswerRequest, request: Request) -> Response:
        """Answer a question about images or a study; with `look` also how the answer changes with other images."""
        check_combination(body)
        if body.votes > calls.settings.max_generations:
            raise ApiError(400, f"votes are more than {calls.settings.max_generations}: ask for fewer", param="votes")
        asked = await calls.work(partial(read_question, body, uploads, calls.settings))
        asking = _Asking(body, asked, calls, uploads, log)
        if body.stream:
            return await open_stream(calls, request, asking.events(), lambda error: _event("error", error.body()))
        return JSONResponse(await calls.finish(request, asking.answer()))

    return router


class _Asking:
    """One question and its reply."""

    def __init__(self, body: AnswerRequest, asked: Asked, calls: Calls, uploads: Uploads, log: AnswerLog | None) -> None:
        self.body, self.asked, self.calls, self.uploads, self.log = body, asked, calls, uploads, log
        self.prompt = asked.prompt
        self.request = GenerationRequest(
            messages=self.prompt.messages,
            images=self.prompt.sample.images,
            prefix=self.prompt.prefix,
            num_generations=body.votes,
            max_tokens=min(body.max_tokens, calls.settings.max_tokens),
            may_clip=True,
            sampling=to_sampling(body),
            seed=body.seed,
            num_choices=len(self.prompt.sample.choices),
        )

    async def answer(self) -> dict[str, Any]:
        """The whole reply."""
        reply: dict[str, Any] = {}
        async with aclosing(self.steps()) as steps:
            async for name, value in steps:
                if name == "answer":
                    reply = value
                elif name == "look":
                    reply["look"].append(value)
        return reply

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The reply as server-sent events."""
        async with aclosing(self.steps()) as steps:
            async for name, value in steps:
                if name == "answer":
                    value = {key: part for key, part in value.items() if key != "look"}
                yield _event(name, value)
        yield _event("done", {})

    async def steps(self) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """(event, value) pairs in their order."""
        upload = self.asked.upload
        try:
            # The images are read when their turn comes, and an error then names them as their user does.
            with nullcontext() if upload is None else upload.naming():
                async with aclosing(self._steps()) as steps:
                    async for step in steps:
                        yield step
        finally:
            if upload is not None and not self.asked.is_kept:
                asyncio.get_running_loop().run_in_executor(None, _forget, self.uploads, upload.id)

    async def _steps(self) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        result = Result()
        async with aclosing(self.calls.stream(self.request, result)) as events:
            async for event in events:
                if isinstance(event, Started):
                    yield "start", {"images": self._images(result).model_dump()}
                elif isinstance(event, Delta) and event.index == 0:
                    yield "token", {"text": event.text}
        read = self._read(result)
        reply = self._reply(result, read)
        yield "answer", reply.model_dump(mode="json")
        async with aclosing(self._looks(read)) as looks:
            async for look in looks:
                reply.look.append(look)
                yield "look", look.model_dump(mode="json")
        if self.log is not None:
            images = [image.uri for image in self.prompt.sample.images] if self.body.images else None
            self.log.write("/v1/answer", {**reply.model_dump(mode="json"), "image_hashes": images})

    async def _looks(self, own: ReadAnswer) -> AsyncGenerator[LookReply, None]:
        """The same question with other images, all at a time."""
        tasks = [asyncio.ensure_future(self._look(own, look)) for look in dict.fromkeys(self.body.look)]
        try:
            for task in tasks:
                yield await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, own: ReadAnswer, look: Look) -> LookReply:
        request = replace(self.request, images=alter(self.request.images, look), streams=False)
        while True:
            try:
                result = await self.calls.collect(request)
                break
            except QueueFull as full:
                await asyncio.sleep(min(full.retry_after, _LONGEST_WAIT))
        return LookReply(**asdict(describe_look(look, self._read(result), own)))

    def _images(self, result: Result) -> ShownImages:
        assert result.started is not None
        own = self.asked.shown
        return ShownImages(
            count=len(self.request.images),
            tokens=result.started.image_tokens,
            slice_numbers=None if own is None else list(own.slice_numbers),
            slices=None if own is None else list(own.indices),
        )

    def _read(self, result: Result) -> ReadAnswer:
        return read_answer(self.prompt, _completions(result), self.calls.generator.policy_name)

    def _reply(self, result: Result, read: ReadAnswer) -> AnswerReply:
        assert result.started is not None
        assert result.total is not None
        generator = self.calls.generator
        prompt, completion = result.prompt_tokens, result.completion_tokens
        return AnswerReply(
            **asdict(read),
            abstains=abstains(read, self.body.threshold),
            threshold=self.body.threshold,
            look=[],
            images=self._images(result),
            notes=list(self.asked.notes),
            prompt=self.prompt.text,
            policy=PolicyReply(name=generator.policy_name, fingerprint=generator.policy_fingerprint),
            prompt_hash=hashlib.sha256(self.prompt.text.encode()).hexdigest(),
            usage=UsageReply(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion),
            timings=Timings(queued=result.started.queued_seconds, first_token=result.first_token, total=result.total),
            disclaimer=DISCLAIMER,
        )


def to_sampling(body: AnswerRequest) -> SamplingConfig | None:
    """How to draw the completions: greedily without votes and temperature."""
    temperature = body.temperature if body.temperature is not None else 1.0 if body.votes > 1 else 0.0
    if body.votes == 1 and (temperature < GREEDY or body.top_p == 0):
        return None
    return SamplingConfig(temperature=max(temperature, GREEDY), top_p=1.0 if body.top_p is None else body.top_p)


def _forget(uploads: Uploads, upload: str) -> None:
    with suppress(ApiError):  # others have taken its place
        uploads.remove(upload)


def _completions(result: Result) -> list[Completion]:
    return [result.finished[index].completion for index in sorted(result.finished)]


def _event(name: str, value: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(value, ensure_ascii=False, allow_nan=False)}\n\n".encode()
