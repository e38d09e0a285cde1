"""The running batch: prompts join between two tokens, completions leave when they end. One thread uses it.

Each completion has its own positions. Transformers keeps those of its last forward pass on the model (`rope_deltas`, version 5.23), so two
prompts with images that decode in turn would continue at each other's positions; here every step is told the position of every token.

Legend: B prompts, T tokens of all of them, M image tokens of them, A completions, L positions, D head width, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from osler.errors import EngineError, OslerError
from osler.policies.letters import find_letter_tokens
from osler.policies.load import Policy
from osler.policies.patches import embed_linearly
from osler.policies.vision_features import ImageFeatures, split_features
from osler.serving.batch_settings import BatchSettings
from osler.serving.detokenise import Detokeniser
from osler.serving.generation import Delta, Finished, GenerationFailed, GenerationRequest
from osler.serving.image_cache import ImageCache, KnownImage, own_memory
from osler.serving.prepare import PreparedImage, PreparedPrompt
from osler.serving.rows import CompletionRow, Vocabulary
from osler.serving.sampler import Draws, Picked, Sampler
from osler.serving.slots import PromptPass, Shape, SlotCache
from osler.training.shared_prefix import cpu_kernels
from osler.training.shared_prefix.decoder import Extras, StepModel
from osler.training.shared_prefix.packed_row import find_obstacle

Event = Delta | Finished | Exception
"""What happens to a request; an exception ends it."""

logger = logging.getLogger(__name__)


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

    It is made and used in one mode: under autocast without gradient, else in inference mode (`precision.without_gradient`).
    """

    def __init__(self, policy: Policy, settings: BatchSettings, images: ImageCache) -> None:
        if (obstacle := find_obstacle(policy.model)) is not None:
            raise EngineError(f"{policy.name} cannot be served: {obstacle}")
        embed_linearly(policy.model)
        self.policy, self.settings, self.images = policy, settings, images
        letters = find_letter_tokens(policy.tokenizer)
        self.vocabulary = Vocabulary(
            detokeniser=Detokeniser(policy.tokenizer),
            stop_ids=frozenset(policy.model.generation_config.eos_token_id),
            letters=letters,
        )
        # A generated image token would need an image.
        self.sampler = Sampler([policy.model.config.image_token_id], list(letters))
        # The weights never change, so they are packed once.
        self.model = StepModel(policy.model, packs=cpu_kernels.fits(policy.model))
        self.cache = SlotCache(Shape.of(policy.model), settings.max_rows, settings.max_cache_tokens)
        positions_1L = torch.arange(settings.max_context + 1, device=policy.device)[None]
        tables_1LD = self.model.rotations(positions_1L, self.model.embed(positions_1L[:, :1]))
        self.rotations = tables_1LD[0][0, :, None].contiguous(), tables_1LD[1][0, :, None].contiguous()  # [L, 1, D] of each position
        self._slots: list[_Slot] = []  # in the order of the cache

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
        features = self._encode(members)
        start = len(self._slots)
        counts = [member.num_rows for member in members]
        try:
            self.cache.add([len(member.prompt) for member in members for _ in range(member.num_rows)])
            logits_BV = self._read_prompts(members, features, start)
            logits_AV = logits_BV.repeat_interleave(torch.tensor(counts, device=logits_BV.device), dim=0)
            rows = [slot for member in members for slot in self._begin(member)]
            picked = self.sampler.pick(logits_AV, [slot.row.draws for slot in rows])
        except Exception:
            self.cache.cut(start)
            raise
        self._slots += rows
        return self._take(picked, start)

    def step(self) -> list[tuple[Member, Event]]:
        """One token of every completion."""
        rows = [slot.row for slot in self._slots]
        both = torch.tensor([[row.token_ids[-1] for row in rows], [row.position for row in rows]], device=self.policy.device)
        cos_L1D, sin_L1D = self.rotations
        begun = self.cache.begin()
        logits_AV = self.model.step(both[0], (cos_L1D[both[1]], sin_L1D[both[1]]), self.cache, begun)
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

    def _read_prompts(self, members: Sequence[Member], features: Mapping[str, ImageFeatures], start: int) -> Tensor:
        """The logits [B, V] of the first token after each prompt, whose keys and values are then in the slots from `start` on."""
        prompts, device = [member.prompt for member in members], self.policy.device
        attention = PromptPass(self.cache, start, list(map(len, prompts)), [member.num_rows for member in members])
        ids_T = torch.cat([prompt.ids_P for prompt in prompts]).to(device)
        image_M = (ids_T == self.policy.model.config.image_token_id).nonzero()[:, 0]
        hidden_TE = self.model.embed(ids_T)
        deepstack_ME: tuple[Tensor, ...] = ()
        if images := [features[image.key] for prompt in prompts for image in prompt.images]:
            pooled_ME = torch.cat([image.pooled_TE for image in images]).to(hidden_TE.dtype)
            hidden_TE = hidden_TE.index_copy(0, image_M, pooled_ME)
            deepstack_ME = tuple(torch.cat(own) for own in zip(*(image.deepstack_TE for image in images), strict=True))
        positions_31T = torch.cat([prompt.positions_3P for prompt in prompts], dim=1)[:, None].to(device)
        cos_1TD, sin_1TD = self.model.rotations(positions_31T, hidden_TE)
        extras = Extras(last_B=attention.last_B, image_M=image_M, deepstack_ME=deepstack_ME)
        hidden_BE = self.model.run(hidden_TE, (cos_1TD[0, :, None], sin_1TD[0, :, None]), attention, None, extras)
        return self.model.logits(hidden_BE)

    def _encode(self, members: Sequence[Member]) -> dict[str, ImageFeatures]:
        """The features of all images of some prompts, by content; those that are not known yet are computed in one pass."""
        images = {image.key: image for member in members for image in member.prompt.images}
        features: dict[str, ImageFeatures] = {}
        for key, image in images.items():
            if image.features is not None:
                features[key] = image.features
            elif (known := self.images.find(key)) is not None:  # since it was prepared
                features[key] = known.features
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

    def _begin(self, member: Member) -> Iterator[_Slot]:
        """The completions of a prompt before their first token."""
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
            # Text goes on one behind the largest position of the prompt.
            position = int(member.prompt.positions_3P.max()) + 1
            yield _Slot(member=member, row=CompletionRow(request, index, draws, self.vocabulary, position))

    def _seen(self, prompt: PreparedPrompt) -> Tensor:
        seen_V = torch.zeros(self.policy.model.lm_head.out_features, dtype=torch.bool, device=self.policy.device)
        seen_V[prompt.ids_P.to(seen_V.device)] = True
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
                events.append((slot.member, to_failure(error, "generated this completion")))
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


def to_failure(error: Exception, what: str) -> Exception:
    """The error that a caller sees: a user's mistake as it is, anything else without its details, which the log has."""
    if isinstance(error, OslerError):
        return error
    logger.error("a fault while the server %s", what, exc_info=error)
    failure = GenerationFailed(f"the server failed while it {what}: see its log")
    failure.__cause__ = error
    return failure


def max_positions(policy: Policy) -> int:
    """The largest context of a policy, in tokens."""
    text: Any = policy.model.config.text_config
    return int(text.max_position_embeddings)
