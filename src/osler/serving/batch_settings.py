"""How much one server does at once."""

from __future__ import annotations

from dataclasses import dataclass, fields

from osler.errors import EngineError


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """The limits of a running batch. All are positive; EngineError otherwise."""

    max_rows: int = 64  # completions that are generated at once
    max_context: int = 2048  # tokens of a prompt and its completion together; never more than the policy's positions
    max_cache_tokens: int = 65_536  # completions times the length of the longest: the memory of the KV cache, in tokens
    max_queued: int = 256  # requests that wait, being prepared or not
    max_prefill_tokens: int = 4096  # of the prompts that are computed in one pass, between two tokens of the others
    max_feature_bytes: int = 256 << 20  # image features that are kept for later requests
    max_prepared_bytes: int = 256 << 20  # image patches of requests that wait
    num_preparers: int = 1  # threads that decode images and tokenise
    is_bf16: bool = False  # computes in bfloat16 with weights of any precision, as `osler eval` does

    @classmethod
    def of(cls, *, max_rows: int, max_queued: int, max_context: int) -> BatchSettings:
        """The settings with a KV cache that holds at least one completion of the whole context."""
        max_tokens = max(cls(max_rows=max_rows).max_cache_tokens, max_context)
        return cls(max_rows=max_rows, max_queued=max_queued, max_context=max_context, max_cache_tokens=max_tokens)

    def __post_init__(self) -> None:
        """Refuse limits with which nothing runs."""
        for field in fields(self):
            if field.name != "is_bf16" and getattr(self, field.name) < 1:
                raise EngineError(f"{field.name} = {getattr(self, field.name)}: give a number from 1 on")
