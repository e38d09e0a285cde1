"""The engine that asks an OpenAI-compatible endpoint: vLLM, SGLang, Ollama, llama.cpp, a provider, or `osler serve`.

Requests run side by side, and each answer is passed on as it comes. A request that fails is repeated; a question that still has no answer
is missing, never wrong.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osler.config import Config, Dialect, EndpointConfig, SamplingConfig
from osler.errors import ConfigError, EngineError, MissingAnswers, MissingExtra
from osler.evaluation.background import Emit, gather, iterate
from osler.evaluation.endpoint import Answered, Endpoint, ask, completions_url, describe_counts, key_in_environment, open_client, read_key
from osler.evaluation.engines.answers import AnsweredQuestion
from osler.evaluation.engines.chat_reply import read_completion, refusal_of
from osler.evaluation.engines.sent_images import SentImages
from osler.evaluation.replies import Reply, RequestFailure
from osler.evaluation.usage import RequestUsage, cost_of
from osler.types import Completion, Prompt

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MAX_FAILURES_IN_A_ROW: Final = 20
"""Questions after which the rest is not asked: the endpoint is down."""

MAX_REPLY_BYTES: Final = 16 << 20
"""Of a reply with the log-probabilities of 20 tokens for each of some thousand."""

TOP_LOGPROBS: Final = 20
"""The most that endpoints give."""

_BEYOND_STANDARD: Final = ("top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSettings:
    """What requests hold beside the prompt; see `[eval]`."""

    dialect: Dialect = "open"
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    reported_model: str | None = None
    continues_prefix: bool = False
    option_probabilities: bool = False
    price_in: float | None = None
    price_out: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failed:
    sample_id: str
    failure: RequestFailure


class OpenAIEngine:
    """Asks `endpoint`, with at most `concurrency` requests at a time. `images` says how images are sent."""

    def __init__(
        self, endpoint: Endpoint, *, concurrency: int = 8, settings: RequestSettings | None = None, images: SentImages | None = None
    ) -> None:
        self.endpoint = endpoint
        self.concurrency = concurrency
        self.settings = settings or RequestSettings()
        self.images = images or SentImages()

    @property
    def policy_name(self) -> str:
        """The name of the model."""
        return self.endpoint.model

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_completion_length: int,
        num_generations: int = 1,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        on_text: Callable[[str], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`. The endpoint decides whether equal calls return equal completions. Raises what `generate_each` raises."""
        answered = self.generate_each(
            dict(enumerate(prompts)),
            max_completion_length=max_completion_length,
            num_generations=num_generations,
            sampling=sampling,
            seed=seed,
            on_text=on_text,
        )
        groups = {one.position: one.completions for one in answered}
        return [groups[position] for position in range(len(prompts))]

    def generate_each(
        self,
        questions: Mapping[int, Prompt],
        *,
        max_completion_length: int,
        num_generations: int = 1,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        on_text: Callable[[str], None] | None = None,
    ) -> Iterator[AnsweredQuestion]:
        """See `AnswersEach.generate_each`. With `on_text` replies are streamed, and the text of a reply is passed on as it comes.

        Raises EngineError where the first request shows that none can succeed, where an endpoint cannot do what is asked, and for images
        that are too large to send; DataError for an image that cannot be read; and at the end MissingAnswers for questions without answer.
        """
        if sampling is None and num_generations > 1:
            raise EngineError("greedy completions of one prompt are all the same: give sampling settings for num_generations above 1")
        fields = self._fields(max_completion_length, sampling)
        session = _Session(engine=self, fields=fields, num_generations=num_generations, seed=seed, on_text=on_text)
        failed: list[_Failed] = []
        num_answered = 0
        found: Iterator[AnsweredQuestion | _Failed] = iterate(partial(session.ask_all, questions)) if questions else iter(())
        for item in found:
            if isinstance(item, _Failed):
                failed.append(item)
            else:
                num_answered += 1
                yield item
        if num_answered < len(questions):
            raise _missing(failed, len(questions), num_answered)

    def _fields(self, max_completion_length: int, sampling: SamplingConfig | None) -> dict[str, Any]:
        """The fields of every request. Raises EngineError for a sampling parameter that the endpoint does not take."""
        settings = self.settings
        drawn = SamplingConfig() if sampling is None else sampling
        fields: dict[str, Any] = {"temperature": 0 if sampling is None else drawn.temperature, "top_p": drawn.top_p}
        if settings.dialect == "open":
            fields["max_tokens"] = max_completion_length
            # -1 and not 0, which SGLang refuses.
            extended = {"top_k": drawn.top_k or -1, "min_p": drawn.min_p or 0.0, "repetition_penalty": drawn.repetition_penalty}
        else:
            fields["max_completion_tokens"] = max_completion_length
            extended = {}
            changed = [name for name in _BEYOND_STANDARD if getattr(drawn, name) != getattr(SamplingConfig(), name)]
            if changed:
                raise EngineError(f'[eval] dialect = "openai" has no {changed[0]}: leave it out of [sampling], or set the dialect "open"')
        if settings.option_probabilities:
            fields |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return {**fields, "extra_body": {**extended, **settings.extra_body}}


class _Session:
    """The requests of one call of `generate_each`."""

    def __init__(
        self,
        *,
        engine: OpenAIEngine,
        fields: Mapping[str, Any],
        num_generations: int,
        seed: int,
        on_text: Callable[[str], None] | None,
    ) -> None:
        self.engine = engine
        self.endpoint = engine.endpoint
        self.settings = engine.settings
        self.fields = fields
        self.num_generations = num_generations
        self.seed = seed
        self.on_text = on_text
        self._in_a_row = 0
        self._places = asyncio.Semaphore(engine.concurrency)

    async def ask_all(self, questions: Mapping[int, Prompt], emit: Emit[AnsweredQuestion | _Failed]) -> None:
        """Ask every question. The first one goes alone, to find a wrong address, key or model before all others fail by it."""
        waiting = iter(questions.items())
        async with open_client(self.endpoint, max_connections=self.engine.concurrency) as client:
            await self._answer(client, *next(waiting), emit, is_first=True)
            await gather(self._work(client, waiting, emit) for _ in range(self.engine.concurrency))

    async def _work(self, client: AsyncOpenAI, waiting: Iterator[tuple[int, Prompt]], emit: Emit[AnsweredQuestion | _Failed]) -> None:
        for position, prompt in waiting:
            if self._in_a_row >= MAX_FAILURES_IN_A_ROW:
                return
            await self._answer(client, position, prompt, emit)

    async def _answer(
        self, client: AsyncOpenAI, position: int, prompt: Prompt, emit: Emit[AnsweredQuestion | _Failed], *, is_first: bool = False
    ) -> None:
        messages = await asyncio.to_thread(self._messages, prompt)
        numbers = range(self.num_generations)
        try:
            if is_first:  # one request shows whether others can succeed
                answers = [await self._request(client, prompt, messages, position, 0, is_first=True)]
                numbers = numbers[1:]
            else:
                answers = []
            answers += await gather(self._request(client, prompt, messages, position, number) for number in numbers)
        except RequestFailure as failure:
            if is_first and failure.is_lasting:
                raise self._refuse(prompt, failure) from None
            self._in_a_row += 1
            emit(_Failed(sample_id=prompt.sample.id, failure=failure))
            return
        self._in_a_row = 0
        probs = self.settings.option_probabilities
        emit(
            AnsweredQuestion(
                position=position,
                completions=[read_completion(prompt, one.reply, option_probabilities=probs) for one in answers],
                usage=tuple(self._usage(prompt, number, one) for number, one in enumerate(answers)),
            )
        )

    async def _request(
        self, client: AsyncOpenAI, prompt: Prompt, messages: list[dict[str, Any]], position: int, number: int, *, is_first: bool = False
    ) -> Answered:
        """The answer to one request. Raises RequestFailure, also for an answer of another model."""
        digest = hashlib.sha256(f"{self.seed}/{position}/{number}".encode()).digest()
        body = {**self.fields, "messages": messages, "seed": int.from_bytes(digest[:4], "big") >> 1}
        if prompt.prefix:
            continued = {"add_generation_prompt": False, "continue_final_message": True}
            body["extra_body"] = {**continued, **self.fields["extra_body"]}
        async with self._places:
            try:
                answered = await ask(client, self.endpoint, body, is_first=is_first, on_text=self.on_text)
            except RequestFailure as failure:
                if failure.code != "content_filter":
                    raise
                # Azure refuses a prompt with a status. It will refuse it again, so this is the answer.
                reply = Reply(text="", finish_reason="content_filter", refusal=str(failure))
                return Answered(reply=reply, seconds=0.0, first_text=None, attempts=1)
        expected = self.settings.reported_model or self.endpoint.model
        if answered.reply.model not in (None, expected):
            raise RequestFailure("other_model", f"it answers as {self.endpoint.quote(answered.reply.model or '')!r}")
        return answered

    def _messages(self, prompt: Prompt) -> list[dict[str, Any]]:
        """The messages of a request. Raises EngineError for a prefix that the endpoint cannot continue."""
        if prompt.prefix and not self.settings.continues_prefix:
            raise EngineError(
                f"{prompt.sample.id} begins the answer, which not every endpoint continues: with vLLM and SGLang set [eval] "
                "continues_prefix = true"
            )
        messages = self.engine.images.fill_in(prompt)
        return [*messages, {"role": "assistant", "content": prompt.prefix}] if prompt.prefix else messages

    def _usage(self, prompt: Prompt, number: int, answered: Answered) -> RequestUsage:
        reply = answered.reply
        return RequestUsage(
            sample_id=prompt.sample.id,
            number=number,
            seconds=round(answered.seconds, 4),
            attempts=answered.attempts,
            first_text=None if answered.first_text is None else round(answered.first_text, 4),
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            cost=cost_of(reply.prompt_tokens, reply.completion_tokens, self.settings.price_in, self.settings.price_out),
            model=reply.model,
            fingerprint=reply.fingerprint,
            finish_reason=reply.finish_reason,
            refusal=refusal_of(reply),
        )

    def _refuse(self, prompt: Prompt, failure: RequestFailure) -> EngineError:
        """What the first request shows of all others."""
        said = f", {failure}" if str(failure) != failure.kind else ""
        where = f"{self.endpoint.url} does not answer {prompt.sample.id} ({failure.kind}{said})"
        if failure.kind == "other_model":
            return EngineError(f"{where}: give its own name with --policy, or accept this one with [eval] reported_model")
        if failure.kind == "http_400" and self.settings.dialect == "open":
            return EngineError(f'{where}: check the question, or set [eval] dialect = "openai" where it names top_k, min_p or max_tokens')
        return EngineError(f"{where}: check [eval] base_url, --policy, the key and extra_body")


def _missing(failed: Sequence[_Failed], total: int, num_answered: int) -> MissingAnswers:
    counts = describe_counts(Counter(one.failure.kind for one in failed))
    first = failed[0]
    said = f", {first.failure}" if str(first.failure) != first.failure.kind else ""
    num_left = total - num_answered - len(failed)
    left = f"; {num_left:,} were not asked, because {MAX_FAILURES_IN_A_ROW} failed in a row" if num_left else ""
    return MissingAnswers(
        f"{total - num_answered:,} of {total:,} questions got no answer, which is not counted as wrong ({counts}; first {first.sample_id}: "
        f"{first.failure.kind}{said}{left}): the answers that came are kept, and the same command asks the others"
    )


def make_endpoint(section: EndpointConfig, model: str) -> Endpoint:
    """The endpoint that `[eval]` names. Raises ConfigError and DataError for a wrong address, key or model."""
    if section.base_url is None:
        raise ConfigError("the engine openai needs eval.base_url, such as --base-url http://localhost:8000/v1")
    if section.api_key_env is not None and section.api_key_file is not None:
        raise ConfigError("eval.api_key_env and eval.api_key_file are both set: give the key once")
    if not model.strip():
        raise ConfigError("--policy is empty: give the name under which the endpoint serves the model")
    key = None if section.api_key_file is None else read_key(Path(section.api_key_file).expanduser())
    return Endpoint(
        url=completions_url(section.base_url, "[eval] base_url"),
        model=model,
        key=key if section.api_key_env is None else key_in_environment(section.api_key_env),
        timeout=section.timeout,
        attempts=1 + section.max_retries,
        max_reply_bytes=MAX_REPLY_BYTES,
    )


def open_openai(config: Config) -> OpenAIEngine:
    """The engine that `[eval]` describes, for the model that `[policy] path` names. No request is made.

    Raises the errors of `make_endpoint`, ConfigError for a private dataset and another machine, and MissingExtra without the extra
    "endpoint".
    """
    if find_spec("openai") is None:
        raise MissingExtra("openai", "endpoint")
    section = config.eval
    endpoint = make_endpoint(section, config.policy.path)
    if config.data.private and not endpoint.is_local and not section.may_send_private:
        raise ConfigError(
            f"the dataset is private, and its images and texts would go to {endpoint.host}: set [eval] may_send_private = true if they may"
        )
    return OpenAIEngine(
        endpoint,
        concurrency=section.concurrency,
        settings=RequestSettings(
            dialect=section.dialect,
            extra_body=section.extra_body,
            reported_model=section.reported_model,
            continues_prefix=section.continues_prefix,
            option_probabilities=section.option_probabilities,
            price_in=section.price_in,
            price_out=section.price_out,
        ),
        images=SentImages(max_side=section.max_image_side),
    )
