"""Static decoders that stay between rollouts, so that one recording of a step serves all rollouts of its shape.

A recording (`cuda_graph`) repeats kernels on fixed addresses. So all memory of a decoder stays where it is, and each rollout writes its
prompts into it. Weights stay too: an optimizer changes them in place. When they move, or when another adapter is active, steps are recorded
again.

Under autocast the linear layers compute with cast copies of float32 weights. Autocast drops its own copies at the end of a rollout, and a
recording would read freed memory. So there are copies that stay (`CastWeights`), written anew by each rollout and shared by all decoders.

Legend: see `decoder`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Final

import torch
from torch import Tensor

from osler.training.shared_prefix.attention import PromptCache, query_heads_per_key
from osler.training.shared_prefix.cuda_graph import record as record_graph
from osler.training.shared_prefix.decoder import Decoder
from osler.training.shared_prefix.decoding_cache import merged_width

Advance = Callable[[Tensor, int], Tensor]
"""Logits [A, V] of the next token after tokens [A], which have this index in their completions."""

Recorder = Callable[[Callable[[Tensor, Tensor], Tensor], int, torch.device], Advance]
"""Makes an `Advance` of a step whose index is a tensor [1], for this number of rows A on this device."""

MAX_KEPT: Final = 4
"""Shapes whose decoders are kept, those of the latest rollouts. Each has the memory of a rollout's KV cache."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What decides the shapes of all tensors of a static decoder, and the operators of its step."""

    num_groups: int
    num_generations: int
    width: int  # P, padded
    max_length: int
    splits_cache: bool | None
    num_layers: int
    heads: tuple[int, int, int]  # K, R, D
    dtypes: tuple[torch.dtype, torch.dtype]  # of the prefill's keys and of its hidden states
    autocast: torch.dtype | None  # None: off
    device: torch.device


@dataclass(slots=True)
class _Kept:
    decoder: Decoder
    advance: Advance | None = None  # None: not recorded with the present weights


class StaticDecoders:
    """The static decoders of the latest `max_kept` shapes of rollouts, with their recordings.

    `record` makes the recordings; None: CUDA graphs on a GPU, plain calls elsewhere.
    """

    def __init__(self, record: Recorder | None = None, max_kept: int = MAX_KEPT) -> None:
        self.record, self.max_kept = record, max_kept
        self.num_recordings = 0
        self._kept: dict[Shape, _Kept] = {}  # the least recently used first
        self._weights: Hashable = None  # those of the recordings
        self._casts: CastWeights | None = None

    @property
    def num_kept(self) -> int:
        """The number of shapes whose decoders are kept."""
        return len(self._kept)

    @property
    def tensors(self) -> list[Tensor]:
        """All memory that is kept, beside that of the recordings themselves."""
        casts = [] if self._casts is None else self._casts.copies
        return [*chain.from_iterable(kept.decoder.tensors for kept in self._kept.values()), *casts]

    def clear(self) -> None:
        """Free all memory."""
        self._kept, self._weights, self._casts = {}, None, None

    def begin(
        self,
        model: Any,
        caches: Sequence[PromptCache],
        num_generations: int,
        max_length: int,
        *,
        splits_cache: bool | None = None,
    ) -> Advance:
        """Begin a rollout: the function that computes its steps, valid until the next rollout. The arguments are those of `Decoder`.

        All calls are made in one mode: under autocast without gradient, else in inference mode (`precision.without_gradient`).
        """
        device = caches[0].next_B.device
        autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
        self._follow(model, autocast)
        keys = caches[0].layers[0][0]
        shape = Shape(
            num_groups=sum(map(len, caches)),
            num_generations=num_generations,
            width=merged_width(caches, static=True),
            max_length=max_length,
            splits_cache=splits_cache,
            num_layers=len(caches[0].layers),
            heads=(keys.shape[1], query_heads_per_key(model), keys.shape[3]),
            dtypes=(keys.dtype, caches[0].last_BE.dtype),
            autocast=autocast,
            device=device,
        )
        kept = self._kept.pop(shape, None)
        if kept is None:
            while len(self._kept) >= self.max_kept:
                del self._kept[next(iter(self._kept))]
            kept = _Kept(Decoder(model, caches, num_generations, max_length, static=True, splits_cache=splits_cache))
        else:
            kept.decoder.refill(model, caches)
        self._kept[shape] = kept
        if kept.advance is None:
            record = self.record or (record_graph if device.type == "cuda" else call_each_time)
            self.num_recordings += 1
            kept.advance = record(partial(_step, kept.decoder, self._casts), shape.num_groups * num_generations, device)
            self._log(shape)
        return kept.advance

    def _log(self, shape: Shape) -> None:
        what = f"{shape.num_groups} prompts of {shape.width} tokens with {shape.num_generations} completions of {shape.max_length}"
        size = sum(tensor.nbytes for tensor in self.tensors) / 1e9
        logger.info("recorded a decoding step: %s; static decoding keeps %d shapes, %.1f GB", what, self.num_kept, size)

    def _follow(self, model: Any, autocast: torch.dtype | None) -> None:
        """Copy the present weights where autocast computes with copies; drop the recordings of weights that have moved."""
        weights = autocast, find_weights(model)
        if weights == self._weights:
            if self._casts is not None:
                self._casts.refresh()
            return
        for kept in self._kept.values():
            kept.advance = None
        self._weights = self._casts = None  # frees the old copies before new ones are made
        self._casts = None if autocast is None else CastWeights(model, autocast)
        self._weights = weights


def call_each_time(step: Callable[[Tensor, Tensor], Tensor], num_rows: int, device: torch.device) -> Advance:  # noqa: ARG001
    """A `Recorder` that records nothing: the step itself."""
    return lambda tokens, place: step(tokens, torch.tensor([place], device=device))


def _step(decoder: Decoder, casts: CastWeights | None, tokens_A: Tensor, place: Tensor) -> Tensor:
    if casts is None:
        return decoder.step(tokens_A, place)
    # Without autocast's own copies: a weight that has none here is cast by every step.
    with casts.in_place(), torch.autocast(decoder.device.type, dtype=casts.dtype, cache_enabled=False):
        return decoder.step(tokens_A, place)


class CastWeights:
    """Copies in `dtype` of the float32 weights of all linear layers of a model's text decoder and head."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._places = [
            (module, name)
            for module in _decoding_modules(model)
            if isinstance(module, torch.nn.Linear)
            for name, weight in module.named_parameters(recurse=False)
            if weight.dtype == torch.float32
        ]
        self.copies = [weight.detach().to(dtype) for weight in self._weights()]

    def _weights(self) -> list[Any]:
        return [module._parameters[name] for module, name in self._places]

    def refresh(self) -> None:
        """Copy the present weights."""
        for copy, weight in zip(self.copies, self._weights(), strict=True):
            copy.copy_(weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the context, the layers compute with the copies."""
        weights = self._weights()
        try:
            self._put(self.copies)
            yield
        finally:
            self._put(weights)

    def _put(self, weights: Sequence[Any]) -> None:
        for weight, (module, name) in zip(weights, self._places, strict=True):
            module._parameters[name] = weight


def find_weights(model: Any) -> Hashable:
    """Where the weights of the text decoder and the head lie in memory, and which adapters compute with them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: list[Hashable] = []
    for module in _decoding_modules(model):
        own = chain(module.parameters(recurse=False), module.buffers(recurse=False))
        found += [(tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) for tensor in own]
        if isinstance(module, BaseTunerLayer):
            scaling = tuple(getattr(module, "scaling", {}).items())
            found.append((module.disable_adapters, tuple(module.active_adapters), tuple(module.merged_adapters), scaling))
    return tuple(found)


def _decoding_modules(model: Any) -> Iterator[torch.nn.Module]:
    yield from model.model.language_model.modules()
    yield from model.lm_head.modules()
