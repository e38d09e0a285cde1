"""The running batch: prompts join between two tokens, completions leave when they end. One thread uses it.

Each completion has its own positions. Transformers keeps those of its last forward pass on the model (`rope_deltas`, version 5.23), so two
prompts with images that decode in turn would continue at each other's positions; here every step is told the position of every token.

Legend: B prompts, P prompt, A completions, L tokens of a slot, D head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from osler.errors import EngineError
from osler.policies.letters import find_letter_tokens
from osler.policies.load import Policy
from osler.policies.vision_features import ImageFeatures, join_features, split_features
from osler.serving.batch_settings import BatchSettings
from osler.serving.detokenise import Detokeniser
from osler.serving.generation import Delta, Finished, GenerationFailed, GenerationRequest
from osler.serving.image_cache import ImageCache, KnownImage, own_memory
from osler.serving.prepare import PreparedImage, PreparedPrompt
from osler.serving.rows import CompletionRow, Vocabulary
from osler.serving.sampler import Draws, Picked, Sampler
from osler.serving.slots import SlotCache
from osler.training.shared_prefix import cpu_kernels
from osler.training.shared_prefix.attention import PromptCache, install
from osler.training.shared_prefix.decoder import StepModel
from osler.training.shared_prefix.packed_row import PromptBatch, find_obstacle, prefill

_LIKE_LENGTH: Final = 1.5
"""Prompts are computed together if the longest is at most so many times as long as the shortest."""

Event = Delta | Finished | Exception
"""What happens to a request; an exception ends it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Member:
    """A request that joins."""

    request: GenerationRequest
    prompt: PreparedPrompt

    @property
    def num_rows(self) -> int:
        """Its completions."""
        return self.request.num_generations

    @property
    def length(self) -> int:
        """Tokens of its prompt and a completion, at most."""
        return len(self.prompt) + self.request.max_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slot:
    """A completion and the request that it belongs to."""

    member: Member
    row: CompletionRow


class RunningBatch:
    """The completions that are generated now. Raises EngineError for a policy that it cannot run.

    All calls are made in one mode: under autocast without gradient, else in inference mode (`precision.without_gradient`).
    """

    def __init__(self, policy: Policy, settings: BatchSettings, images: ImageCache) -> None:
        if (obstacle := find_obstacle(policy.model)) is not None:
            raise EngineError(f"{policy.name} cannot be served: {obstacle}")
        install(policy.model)
        self.policy, self.settings, self.images = policy, settings, images
        letters = find_letter_tokens(policy.tokenizer)
        self.vocabulary = Vocabulary(
            tokenizer=policy.tokenizer,
            detokeniser=Detokeniser(policy.tokenizer),
            stop_ids=frozenset(policy.model.generation_config.eos_token_id),
            letters=letters,
        )
        # A generated image token would need an image.
        self.sampler = Sampler([policy.model.config.image_token_id], list(letters))
        self.cache = SlotCache(settings.max_rows, settings.max_cache_tokens)
        self._slots: list[_Slot] = []  # in the order of the cache
        self._step_model: StepModel | None = None
        self._rotations: tuple[Tensor, Tensor] | None = None  # cosine and signed sine [L, 1, D] of positions

    @property
    def num_rows(self) -> int:
        """The completions that are generated."""
        return len(self._slots)

    @property
    def members(self) -> set[Member]:
        """The requests whose completions are generated."""
        return {slot.member for slot in self._slots}

    def has_room(self, member: Member, others: Sequence[Member] = ()) -> bool:
        """Whether a request may join now, together with `others` that have been admitted but have not joined yet."""
        members = [*others, member]
        rows = self.num_rows + sum(one.num_rows for one in members)
        longest = max(one.length for one in (*members, *(slot.member for slot in self._slots)))
        return rows <= self.settings.max_rows and rows * longest <= self.settings.max_cache_tokens

    def join(self, members: Sequence[Member]) -> list[tuple[Member, Event]]:
        """Compute prompts and the first token of each of their completions. After an exception none of them has joined."""
        events: list[tuple[Member, Event]] = []
        try:
            features = self._encode(members)
            for part in _alike(members, self.settings.max_prefill_tokens):
                events += self._join_alike(part, features)
        except Exception:
            self.drop(members)
            raise
        return events

    def _join_alike(self, part: Sequence[Member], features: Mapping[str, ImageFeatures]) -> list[tuple[Member, Event]]:
        """The same for prompts of similar length."""
        images = [features[image.key] for member in part for image in member.prompt.images]
        cache = prefill(self.policy.model, self._batch(part, images))
        counts = [member.num_rows for member in part]
        logits_AV = self.policy.model.lm_head(cache.last_BE).repeat_interleave(torch.tensor(counts, device=cache.last_BE.device), dim=0)
        rows = self._begin(part, cache)
        picked = self.sampler.pick(logits_AV, [slot.row.draws for slot in rows])
        self.cache.add(cache, counts)
        start = len(self._slots)
        self._slots += rows
        return self._take(picked, start)

    def step(self) -> list[tuple[Member, Event]]:
        """One token of every completion."""
        if self._step_model is None or self._rotations is None:
            self._read_model()
        assert self._step_model is not None
        assert self._rotations is not None
        rows = [slot.row for slot in self._slots]
        both = torch.tensor([[row.token_ids[-1] for row in rows], [row.position for row in rows]], device=self.policy.device)
        cos_L1D, sin_L1D = self._rotations
        begun = self.cache.begin()
        logits_AV = self._step_model.step(both[0], (cos_L1D[both[1]], sin_L1D[both[1]]), self.cache, begun)
        for row in rows:
            row.position += 1
        return self._take(self.sampler.pick(logits_AV, [row.draws for row in rows]), 0)

    def drop(self, members: Sequence[Member]) -> None:
        """End requests without further events."""
        gone = set(members)
        self._remove([place for place, slot in enumerate(self._slots) if slot.member in gone])

    def clear(self) -> list[Member]:
        """End all requests, whatever state a failed step left. Returns them."""
        members = list(self.members)
        self._slots = []
        self.cache.clear()
        return members

    def _read_model(self) -> None:
        """The weights as steps use them: packed once, as they never change."""
        model = self.policy.model
        self._step_model = StepModel(model, packs=cpu_kernels.fits(model))
        positions_1L = torch.arange(self.settings.max_context + 1, device=self.policy.device)[None]
        like = self._step_model.text.embed_tokens(positions_1L[:, :1])
        cos_1LD, sin_1LD = self._step_model.rotations(positions_1L, like)
        self._rotations = cos_1LD[0, :, None].contiguous(), sin_1LD[0, :, None].contiguous()

    def _encode(self, members: Sequence[Member]) -> dict[str, ImageFeatures]:
        """The features of all images of some prompts, by content; those that are not known yet are computed in one pass."""
        images = {image.key: image for member in members for image in member.prompt.images}
        features = {key: image.features for key, image in images.items() if image.features is not None}
        missing = [image for key, image in images.items() if key not in features]
        if not missing:
            return features
        output = self.policy.model.model.get_image_features(*self._patches(missing), return_dict=True)
        for image, own in zip(missing, split_features(output), strict=True):
            features[image.key] = own_memory(own)
            self.images.keep(image.key, KnownImage(grid=image.grid, features=features[image.key]))
        return features

    def _patches(self, images: Sequence[PreparedImage]) -> tuple[Tensor, Tensor]:
        device = self.policy.device
        patches = torch.cat([image.patches for image in images if image.patches is not None])
        return patches.to(device), torch.tensor([image.grid for image in images], device=device)

    def _batch(self, members: Sequence[Member], features: Sequence[ImageFeatures]) -> PromptBatch:
        """The prompts of requests as one batch, padded on the left."""
        prompts, device = [member.prompt for member in members], self.policy.device
        ids = [torch.tensor(prompt.ids) for prompt in prompts]
        pad_id = self.policy.tokenizer.pad_token_id
        positions_BP3 = _pad([prompt.positions_3P.T for prompt in prompts])
        images = [image for prompt in prompts for image in prompt.images]
        return PromptBatch(
            ids_BP=_pad(ids, pad_id).to(device),
            mask_BP=_pad([torch.ones(len(own), dtype=torch.long) for own in ids]).to(device),
            types_BP=_pad([prompt.types_P for prompt in prompts]).to(device),
            positions_3BP=positions_BP3.permute(2, 0, 1).to(device),
            # The features stand for the patches.
            pixel_values=torch.empty(0, device=device) if images else None,
            image_grid_thw=torch.tensor([image.grid for image in images], device=device) if images else None,
            features=join_features(features) if images else None,
        )

    def _begin(self, members: Sequence[Member], cache: PromptCache) -> list[_Slot]:
        """The completions of prompts before their first token."""
        slots = []
        for member, position in zip(members, cache.next_B.tolist(), strict=True):
            request = member.request
            for index in range(request.num_generations):
                draws = Draws.begin(
                    request.sampling,
                    seed=request.seed,
                    index=index,
                    max_tokens=request.max_tokens,
                    num_top=request.top_logprobs,
                    letters=request.num_choices > 0,
                )
                if request.sampling is not None and request.sampling.repetition_penalty != 1.0:
                    draws.seen_V = self._seen(member.prompt)
                # The position of the first token; a step adds one to it for each that follows.
                slots.append(_Slot(member=member, row=CompletionRow(request, index, draws, self.vocabulary, position)))
        return slots

    def _seen(self, prompt: PreparedPrompt) -> Tensor:
        seen_V = torch.zeros(self.policy.model.lm_head.out_features, dtype=torch.bool, device=self.policy.device)
        seen_V[list(set(prompt.ids))] = True
        return seen_V

    def _take(self, picked: Picked, start: int) -> list[tuple[Member, Event]]:
        """Give their tokens to the completions from `start` on; those that end leave. A fault of one request ends that one alone."""
        events: list[tuple[Member, Event]] = []
        failed: set[Member] = set()
        for place, slot in enumerate(self._slots[start:]):
            if slot.member in failed:
                continue
            try:
                if not picked.is_finite[place]:
                    raise EngineError("the policy gave no finite probability: its weights or its precision (is_bf16) do not fit")
                own = slot.row.take(picked.tokens[place], picked.scores.get(place), picked.letter_logits.get(place))
            except Exception as error:
                failed.add(slot.member)
                events.append((slot.member, _as_failure(error)))
            else:
                events += [(slot.member, event) for event in own]
        self._remove([place for place, slot in enumerate(self._slots) if slot.row.is_done or slot.member in failed])
        return events

    def _remove(self, places: Sequence[int]) -> None:
        """Free the slots of completions."""
        if not places:
            return
        for source, hole in self.cache.remove(places):
            self._slots[hole] = self._slots[source]
        del self._slots[len(self.cache) :]


def _as_failure(error: Exception) -> Exception:
    if isinstance(error, EngineError):
        return error
    failure = GenerationFailed("the server failed while it generated this completion: see its log")
    failure.__cause__ = error
    return failure


def _pad(rows: Sequence[Tensor], value: float = 0) -> Tensor:
    """Rows [P, ..] of one batch, padded on the left."""
    padded: Tensor = pad_sequence(list(rows), batch_first=True, padding_value=value, padding_side="left")
    return padded


def _alike(members: Sequence[Member], max_tokens: int) -> list[list[Member]]:
    """Requests with prompts of similar length together, of at most `max_tokens` tokens with their padding, or one prompt."""
    parts: list[list[Member]] = []
    for member in sorted(members, key=lambda one: len(one.prompt)):
        part = parts[-1] if parts else []
        length = len(member.prompt)
        if part and length * (len(part) + 1) <= max_tokens and length <= _LIKE_LENGTH * len(part[0].prompt):
            part.append(member)
        else:
            parts.append([member])
    return parts


def max_positions(policy: Policy) -> int:
    """The largest context of a policy, in tokens."""
    text: Any = policy.model.config.text_config
    return int(text.max_position_embeddings)
