"""The scripted generator streams prepared texts: for tests of the server, without a model."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final

from osler.serving.generation import Delta, Draining, Finished, GenerationRequest, Load, QueueFull, Started, TokenLogprob
from osler.serving.stop_texts import StopFilter
from osler.types import LETTERS, Completion, FinishReason

Script = Callable[[GenerationRequest], str | Sequence[str]]
"""The text of every completion of a request, without its prefix; or several, which its completions take in turn. It may raise."""

_TOKEN: Final = re.compile(r"\s*\w+|\s*[^\w\s]|\s+")
_ANSWER: Final = re.compile(r"<answer>\s*([A-Z])\b")
_LOGPROB: Final = -0.5
"""Of every scripted token; further tokens are one less each."""
ANSWER_PROBABILITY: Final = 0.7
"""Of the letter that a scripted text answers with; the others share the rest."""


def words_of(text: str) -> list[str]:
    """The tokens of a scripted text: words and single signs, each with the space before it. Joined they are the text."""
    return _TOKEN.findall(text)


class ScriptedGenerator:
    """A `Generator` of prepared texts, a token (`words_of`) every `delay` seconds.

    At most `max_running` requests run and `max_queued` wait; one more is refused with QueueFull. With `num_choices` the letter inside
    <answer> has the probability ANSWER_PROBABILITY. Image tokens are 4 for each image, prompt tokens the words of the messages and those.
    `requests` holds the latest 100 requests, in order of arrival.
    """

    def __init__(
        self,
        script: Script | str,
        *,
        delay: float = 0.0,
        max_running: int = 64,
        max_queued: int = 256,
        policy_name: str = "scripted",
        policy_fingerprint: str = "0" * 64,
    ) -> None:
        self.script = script
        self.delay, self.max_running, self.max_queued = delay, max_running, max_queued
        self.policy_name, self.policy_fingerprint = policy_name, policy_fingerprint
        self.requests: list[GenerationRequest] = []
        self._running = self._queued = 0
        self._is_draining = self._is_closed = False
        self._change = asyncio.Condition()

    @property
    def load(self) -> Load:
        """What runs and what waits."""
        return Load(running=self._running, queued=self._queued, rows=self._running, is_draining=self._is_draining)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Started | Delta | Finished]:
        """See `Generator.stream`. Raises what the script raises."""
        if self._is_draining:
            raise Draining("the server is shutting down: send the request to another one")
        if self._running >= self.max_running and self._queued >= self.max_queued:
            raise QueueFull(max(1.0, self.delay * request.max_tokens))
        self.requests = [*self.requests[-99:], request]
        clock = asyncio.get_running_loop()
        arrival = clock.time()
        await self._enter()
        try:
            texts = self.script if isinstance(self.script, str) else self.script(request)
            image_tokens = 4 * len(request.images)
            words = sum(len(words_of(str(message.get("content", "")))) for message in request.messages)
            yield Started(prompt_tokens=words + image_tokens, image_tokens=image_tokens, queued_seconds=clock.time() - arrival)
            many = [texts] if isinstance(texts, str) else list(texts)
            rows = [_Row(request, index, many[index % len(many)]) for index in range(request.num_generations)]
            while rows:
                await asyncio.sleep(self.delay)
                if self._is_closed:
                    raise Draining("the server has stopped: send the request to another one")
                for event in [event for row in rows for event in row.step()]:
                    yield event
                rows = [row for row in rows if not row.is_done]
        finally:
            self._running -= 1
            async with self._change:
                self._change.notify_all()

    async def _enter(self) -> None:
        """Wait for a place."""
        self._queued += 1
        try:
            async with self._change:
                await self._change.wait_for(lambda: self._running < self.max_running)
                self._running += 1
        finally:
            self._queued -= 1

    async def drain(self) -> None:
        """See `Generator.drain`."""
        self._is_draining = True
        async with self._change:
            await self._change.wait_for(lambda: not self._running and not self._queued)

    def close(self) -> None:
        """See `Generator.close`."""
        self._is_draining = self._is_closed = True


class _Row:
    """One completion: its tokens so far."""

    def __init__(self, request: GenerationRequest, index: int, text: str) -> None:
        self.request, self.index = request, index
        self.words = words_of(text)
        self.place = 0
        self.shown, self.filter = "", StopFilter(request.stop)
        self.logprobs: list[TokenLogprob] = []
        self.waiting: list[TokenLogprob] = []  # of tokens whose text is held back
        self.is_done = False

    def step(self) -> list[Delta | Finished]:
        """The events of one more token."""
        piece = "" if self.place else self.request.prefix
        if self.place < min(len(self.words), self.request.max_tokens):
            word = self.words[self.place]
            self.place += 1
            self.waiting.append(_logprob(word, self.request.top_logprobs or 0))
            piece += self.filter.feed(word)
        reason = self._reason()
        if reason is not None and not self.filter.is_stopped:
            piece += self.filter.flush()
        events: list[Delta | Finished] = [delta for delta in ([self._delta(piece)] if piece else []) if self.request.streams]
        if reason is not None:
            self.is_done = True
            events.append(Finished(index=self.index, completion=self._complete(reason), logprobs=tuple(self.logprobs)))
        return events

    def _reason(self) -> FinishReason | None:
        if self.filter.is_stopped:
            return FinishReason.STOP
        if self.place == len(self.words):
            return FinishReason.STOP
        return FinishReason.LENGTH if self.place >= self.request.max_tokens else None

    def _delta(self, piece: str) -> Delta:
        given = tuple(self.waiting) if self.request.top_logprobs is not None else ()
        self.waiting = []
        self.logprobs += given
        self.shown += piece
        return Delta(index=self.index, text=piece, logprobs=given)

    def _complete(self, reason: FinishReason) -> Completion:
        found = _ANSWER.search(self.shown)
        letter = None if found is None else LETTERS.index(found.group(1))
        num_choices = self.request.num_choices
        return Completion(
            text=self.shown,
            token_ids=tuple(map(_token_id, self.words[: self.place])),
            finish_reason=reason,
            logprobs=None if self.request.top_logprobs is None else (_LOGPROB,) * self.place,
            option_probabilities=None if letter is None or letter >= num_choices else _probabilities(letter, num_choices),
        )


def _token_id(word: str) -> int:
    return zlib.crc32(word.encode()) % 50_000


def _logprob(word: str, num_top: int) -> TokenLogprob:
    others = [word, *(f"~{number}" for number in range(1, num_top))][:num_top]
    top = tuple((other, _token_id(other), _LOGPROB - number) for number, other in enumerate(others))
    return TokenLogprob(token=word, token_id=_token_id(word), logprob=_LOGPROB, top=top)


def _probabilities(letter: int, num_choices: int) -> tuple[float, ...]:
    if num_choices == 1:
        return (1.0,)
    rest = (1 - ANSWER_PROBABILITY) / (num_choices - 1)
    return tuple(ANSWER_PROBABILITY if choice == letter else rest for choice in range(num_choices))
