"""The body of a chat request and its replies, as OpenAI's clients send and read them.

What this server cannot do is refused by name (`REFUSED`), never ignored; `HARMLESS` keys change no completion and pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from osler.serving.errors import ApiError
from osler.serving.strict import StrictModel

MAX_MESSAGES: Final = 512
MAX_STOPS: Final = 16

REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"],),
    "logit_bias": ({},),
    "prediction": (),
    "web_search_options": (),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "response_format": ({"type": "text"},),
    "best_of": (1,),
    "echo": (False,),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "ignore_eos": (False,),
    "min_tokens": (0,),
}
"""Parameters that this server does not support -> the values that ask for nothing, beside null."""

_REMEDIES: Final = {
    "presence_penalty": "use repetition_penalty",
    "frequency_penalty": "use repetition_penalty",
    "response_format": 'use {"type": "text"}; POST /v1/answer gives the answer as JSON',
}

HARMLESS: Final = frozenset(
    {"user", "metadata", "store", "service_tier", "parallel_tool_calls", "reasoning_effort", "verbosity", "safety_identifier"}
    | {"prompt_cache_key", "prompt_cache_retention", "stream_options", "chat_id", "session_id", "id", "message_id", "parent_id"}
    | {"background_tasks", "features", "variables", "filter_ids", "tool_ids", "tool_servers", "model_item", "files", "params", "options"}
)
"""Parameters of OpenAI, Open WebUI and others that name or group requests, or ask for less than this server gives."""


class ChatRequest(StrictModel):
    """A chat. Unknown parameters are refused unless they are null."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, None] = Field(init=False)

    model: Annotated[str, Field(min_length=1, max_length=512)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31)] | None = None  # -1 and 0: all tokens; as vLLM's clients send it
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, body: Any) -> Any:
        """Raise ApiError for what is not supported; leave out what changes nothing."""
        if not isinstance(body, dict):
            return body
        for name, allowed in REFUSED.items():
            if (value := body.get(name)) is not None and not any(value == one and type(value) in (type(one), float) for one in allowed):
                remedy = _REMEDIES.get(name, "leave it out")
                raise ApiError(400, f"{name} is not supported here: {remedy}", param=name, code="unsupported_parameter")
        for number, message in enumerate(messages if isinstance(messages := body.get("messages"), list) else ()):
            if isinstance(message, dict):
                _check_message(message, f"messages.{number}")
        ignored = (REFUSED.keys() | HARMLESS) - {"stream_options"}
        kept = {name: value for name, value in body.items() if name not in ignored}
        for name, value in kept.items():
            if value is not None and name not in cls.model_fields:  # nothing is ignored that may have been meant
                raise ApiError(
                    400, f"{name[:100]!r} is no parameter of this server: leave it out", param=name[:100], code="unknown_parameter"
                )
        return kept


def _check_message(message: Mapping[str, Any], where: str) -> None:
    """Raise ApiError for a turn that this server has no part for."""
    found = [(name, name) for name in ("tool_calls", "function_call", "audio", "tool_call_id") if message.get(name)]
    if (role := message.get("role")) in ("tool", "function"):
        found.append(("role", role))
    content = message.get("content")
    for number, part in enumerate(content if isinstance(content, list) else ()):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind not in ("text", "image_url"):
            found.append((f"content.{number}.type", kind))
    for name, what in found[:1]:
        param = f"{where}.{name}"
        raise ApiError(
            400, f"{param}: {what[:40]!r} is not supported here: send text and image_url", param=param, code="unsupported_parameter"
        )


Stop = Annotated[str, Field(min_length=1, max_length=200)]


class StreamOptions(BaseModel):
    """What a stream tells beside its text."""

    model_config = ConfigDict(strict=True)
    include_usage: bool | None = None


class ImageUrl(BaseModel):
    """An image as a data URL."""

    model_config = ConfigDict(strict=True)
    url: str = Field(description="data:image/png;base64,.. ; no other address is fetched")


class TextPart(BaseModel):
    """A piece of text."""

    model_config = ConfigDict(strict=True)
    type: Literal["text"]
    text: str


class ImagePart(BaseModel):
    """An image at its place in a message."""

    model_config = ConfigDict(strict=True)
    type: Literal["image_url"]
    image_url: ImageUrl


_Content = str | Annotated[list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], Field(max_length=1024)] | None


class ChatMessage(BaseModel):
    """One turn."""

    model_config = ConfigDict(strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: _Content = None


# Replies.


class TopLogprob(BaseModel):
    """One of the most likely tokens."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprobs(TopLogprob):
    """A token, and the most likely ones at its place."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    """The log-probabilities of a completion or of a piece of one."""

    content: list[TokenLogprobs]
    refusal: None = None


class AssistantMessage(BaseModel):
    """A completion."""

    role: Literal["assistant"]
    content: str
    refusal: None = None


class Choice(BaseModel):
    """One of the `n` completions."""

    index: int
    message: AssistantMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: Literal["stop", "length"]


class Usage(BaseModel):
    """Tokens, those of images included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """The reply without streaming."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage


class ChunkDelta(BaseModel):
    """A piece of a completion."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """A piece of one of the `n` completions."""

    index: int
    delta: ChunkDelta
    logprobs: ChoiceLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class ChatCompletionChunk(BaseModel):
    """One event of a stream; the last event is [DONE]."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class ModelCard(BaseModel):
    """The policy."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The policies of the server: one."""

    object: Literal["list"]
    data: list[ModelCard]
