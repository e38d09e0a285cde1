"""What an OpenAI-compatible endpoint says in reply to a chat request: whole, or in the pieces of a stream.

The fields are those of the chat completions API. Reasoning that a server gives apart has the name `reasoning_content` (SGLang, llama.cpp,
DeepSeek) or `reasoning` (vLLM, Ollama, OpenRouter).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

ENDS: Final = ("stop", "length", "content_filter")
"""The finish reasons of a reply in words. Any other one, such as a call of a tool, is no reply to a question."""


class RequestFailure(Exception):  # noqa: N818 - not an error of the user: it is counted
    """A request without a reply. `kind` is counted, e.g. "timeout", "connection", "redirect", "too_large", "unparsable", "cut", "http_429".

    "cut": it ends without a finish reason. "error": the server reports an error in place of a reply, with status 200.
    """

    def __init__(self, kind: str, detail: str = "", *, wait: float | None = None, code: str | None = None) -> None:
        super().__init__(detail or kind)
        self.kind = kind
        self.wait = wait  # seconds that the server asks for
        self.code = code  # of the server's error: "content_filter"

    @property
    def is_repeated(self) -> bool:
        """Whether the same request may succeed later."""
        return self.kind in ("timeout", "connection", "cut", "error") or self.kind in {f"http_{status}" for status in _REPEATED}

    @property
    def is_lasting(self) -> bool:
        """Whether every other request will fail too: a wrong address, key, model or setting."""
        return self.kind in ("connection", "redirect", "other_model") or (self.kind.startswith("http_4") and not self.is_repeated)


_REPEATED: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenChoice:
    """A generated token and the most likely ones in its place, with natural log-probabilities."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One finished reply."""

    text: str  # "" where it has none
    finish_reason: str  # one of ENDS
    reasoning: str | None = None  # in a field of its own
    refusal: str | None = None  # why the model does not answer, in a field of its own
    model: str | None = None  # as the server calls it
    fingerprint: str | None = None  # of the server's configuration
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens: tuple[TokenChoice, ...] | None = None  # None where no log-probabilities are given


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class _Message(_Part):
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Usage(_Part):
    prompt_tokens: int | None = Field(default=None, ge=0)
    completion_tokens: int | None = Field(default=None, ge=0)


class _Choice(_Part):
    index: int = 0
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class _Body(_Part):
    choices: list[_Choice]
    model: str | None = None
    system_fingerprint: str | None = None
    usage: _Usage | None = None


class _Top(_Part):
    token: str
    logprob: float = Field(allow_inf_nan=False)


class _Token(_Top):
    top_logprobs: list[_Top] = Field(default_factory=list)


_TOKENS: Final = TypeAdapter(list[_Token])


@dataclass(slots=True, kw_only=True)
class ReplyBuilder:
    """Puts a reply together from its pieces; a whole reply is one piece."""

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    finish_reason: str | None = None
    model: str | None = None
    fingerprint: str | None = None
    usage: _Usage | None = None
    tokens: list[TokenChoice] = field(default_factory=list)
    has_tokens: bool = False

    def add(self, value: Any) -> str:
        """Take a piece, and return what it adds: reasoning as <think>..</think>, then the text.

        Raises RequestFailure for what is no piece of a reply.
        """
        if isinstance(value, Mapping) and value.get("error"):
            raise read_error(value["error"])
        try:
            body = _Body.model_validate(value)
        except ValidationError:
            raise RequestFailure("unparsable", "the reply is no chat completion") from None
        self.model = body.model or self.model
        self.fingerprint = body.system_fingerprint or self.fingerprint
        self.usage = body.usage or self.usage
        added = ""
        for choice in body.choices:
            message = choice.message or choice.delta
            if choice.index != 0 or message is None:
                continue
            thought = message.reasoning_content or message.reasoning or ""
            text = message.content or ""
            added += "<think>" * bool(thought and not self.reasoning) + thought
            added += "</think>" * bool(text and not self.text and (self.reasoning or thought)) + text
            self.reasoning += thought
            self.text += text
            self.refusal += message.refusal or ""
            self.finish_reason = choice.finish_reason or self.finish_reason
            self._add_tokens(choice.logprobs)
        return added

    def _add_tokens(self, logprobs: Any) -> None:
        """Take log-probabilities; those in another form than the API's are left out."""
        content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
        if content is None:
            return
        try:
            found = _TOKENS.validate_python(content)
        except ValidationError:
            return
        self.has_tokens = True
        self.tokens += [
            TokenChoice(token=one.token, logprob=one.logprob, top=tuple((top.token, top.logprob) for top in one.top_logprobs))
            for one in found
        ]

    def finish(self) -> Reply:
        """The reply. Raises RequestFailure where it has no finish reason, or another one than a text has."""
        if self.finish_reason is None:
            raise RequestFailure("cut", "the reply ends without a finish_reason")
        if self.finish_reason not in ENDS:
            raise RequestFailure("unparsable", f"the reply ends with the finish_reason {self.finish_reason[:40]!r}")
        usage = self.usage or _Usage()
        return Reply(
            text=self.text,
            finish_reason=self.finish_reason,
            reasoning=self.reasoning or None,
            refusal=self.refusal or None,
            model=self.model,
            fingerprint=self.fingerprint,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            tokens=tuple(self.tokens) if self.has_tokens else None,
        )


def read_reply(value: Any) -> Reply:
    """A whole reply. Raises RequestFailure for what is none, and for one without a finish reason."""
    builder = ReplyBuilder()
    builder.add(value)
    return builder.finish()


def read_error(found: Any, status: int | None = None, *, wait: float | None = None) -> RequestFailure:
    """The failure of an error as the API reports it: `{"message": .., "code": ..}`, or a text."""
    fields = found if isinstance(found, Mapping) else {"message": found}
    code = fields.get("code")
    return RequestFailure(
        "error" if status is None else f"http_{status}",
        str(fields.get("message") or ""),
        wait=wait,
        code=code if isinstance(code, str) else None,
    )
