"""The log-probabilities of a group's completions with their prompt computed once.

GRPO scores G completions of one prompt. TRL writes each of them out in full, so the image and the prompt pass through the model G times.
Here each prompt stands once in a packed row, and its completions follow as branches:

    [ prefix 1 | ... | prefix B | branch 1.1 | ... | branch B.G ]

A prefix is a prompt without its last token. A branch is that last token followed by a completion without its last token, so each token of
a branch predicts exactly one token of the completion and the linear layers see no padding. A branch attends to its prefix and to itself;
its M-RoPE positions continue those of the prompt. The model's code is unchanged: see `attention`.

After a rollout with the same weights whose autograd graph was kept, `score_after_cache` packs the branches alone and lets them attend to
the KV cache of the rollout. The prompt's last hidden state then predicts the first token of a completion, and the gradient reaches the
prompt and its images through the graph of the rollout's prefill.

Legend: B groups, G generations of a group, N = B G completions, P prompt or prefix, C completion or branch, L packed row, S scored tokens,
F completions with a first token, H query heads, K key-value heads, R = H / K, D head width, E hidden width, O options,
X other letters that are scored in the place of a token (`Letters`). Names of tensors end in their dimensions: `logps_NC`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from osler.policies.families import FAMILIES
from osler.policies.vision_features import replace_image_features
from osler.training.shared_prefix.attention import (
    ATTENTION,
    BranchLayout,
    PromptCache,
    PromptLayout,
    chunk_layout,
    pack_layout,
    query_heads_per_key,
)

HEAD_ROWS: Final = 512
"""Tokens whose logits `branch_logps` has in memory at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letters:
    """Where the answer of a completion has its letter, and the tokens that could stand there: each is scored as well."""

    place_N: Tensor  # index in the completion of the letter's token; -1 where there is none
    ids_NO: Tensor  # the token of each option's letter; -1 beyond the options of a question

    def of(self, rows: Sequence[int]) -> Letters:
        """Those of some completions."""
        return Letters(place_N=self.place_N[rows], ids_NO=self.ids_NO[rows])

    def slots(self, index_NC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which letters are scored [N, O] bool, for each of them the index of the token in its place [X], and its own id [X].

        `index_NC` holds the index among the scored tokens of each token of a completion.
        """
        known_NO = (self.place_N >= 0)[:, None] & (self.ids_NO >= 0)
        index_N = index_NC.gather(1, self.place_N.clamp(min=0)[:, None])
        return known_NO, index_N.expand_as(known_NO)[known_NO], self.ids_NO[known_NO]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBatch:
    """Distinct prompts, padded on the left, with the images of all of them in order."""

    ids_BP: Tensor
    mask_BP: Tensor  # 1 for a token, 0 for padding
    types_BP: Tensor | None = None  # 1 for an image token
    pixel_values: Tensor | None = None  # [patches, values of a patch]
    image_grid_thw: Tensor | None = None  # [images, 3], in patches
    features: Any = None  # precomputed output of the model's `get_image_features`, or None

    def to(self, device: torch.device) -> PromptBatch:
        """A copy on another device, without precomputed features."""
        names = ("ids_BP", "mask_BP", "types_BP", "pixel_values", "image_grid_thw")
        return PromptBatch(**{name: value.to(device) for name in names if (value := getattr(self, name)) is not None})

    @property
    def image_inputs(self) -> dict[str, Any]:
        """`pixel_values` and `image_grid_thw` for the model's forward pass; empty without images."""
        values = {"pixel_values": self.pixel_values, "image_grid_thw": self.image_grid_thw}
        return {name: value for name, value in values.items() if value is not None}

    def use_features(self, base: Any) -> AbstractContextManager[None]:
        """Inside the context, `base` uses the precomputed features, if there are any, in place of its vision tower."""
        return nullcontext() if self.features is None else replace_image_features(base, lambda *_, **__: self.features)


def find_obstacle(model: Any) -> str | None:
    """The reason why this model's prompts cannot be shared, or None."""
    family = FAMILIES.get(model.config.model_type)
    if family is None or not family.shares_prefix:
        return f"{model.config.model_type} is no supported family"
    text = model.config.text_config
    if text._attn_implementation not in ("sdpa", ATTENTION):
        return f"policy.attn_implementation is {text._attn_implementation}, not sdpa"
    if set(getattr(text, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return "some layers attend to a window of tokens only"
    if text.attention_dropout or any(module.p > 0 for module in model.modules() if isinstance(module, torch.nn.Dropout)):
        return "dropout is on"
    return None


def prompt_positions(model: Any, prompts: PromptBatch) -> Tensor:
    """M-RoPE positions [3, B, P] of left-padded prompts; those of padding tokens have no meaning."""
    if prompts.image_grid_thw is None:
        return (prompts.mask_BP.long().cumsum(dim=1) - 1).clamp(min=0).expand(3, -1, -1)
    positions_3BP: Tensor = model.model.get_rope_index(
        prompts.ids_BP,
        mm_token_type_ids=prompts.types_BP,
        image_grid_thw=prompts.image_grid_thw,
        attention_mask=prompts.mask_BP,
    )[0]
    return positions_3BP


def next_positions(positions_3BP: Tensor, mask_BP: Tensor) -> Tensor:
    """The M-RoPE position [B] of the first token after each prompt: one more than the largest in the prompt."""
    return positions_3BP.masked_fill(mask_BP == 0, -1).amax(dim=(0, 2)) + 1


def pack(
    model: Any, prompts: PromptBatch, completion_ids_NC: Tensor, completion_mask_NC: Tensor, letters: Letters | None = None
) -> dict[str, Any]:
    """The arguments of the model's forward pass that scores completions of `prompts` in one packed row.

    Completions stand G after G and are padded on the right; those with an empty mask are left out. `shift_labels` are the labels of the
    branch tokens, in order, and after them those of the `letters`.
    """
    device, num_generations = completion_ids_NC.device, len(completion_ids_NC) // len(prompts.ids_BP)
    inside_BP, inside_NC = prompts.mask_BP[:, :-1].bool(), completion_mask_NC.bool()
    last_N1 = prompts.ids_BP[:, -1:].repeat_interleave(num_generations, dim=0)
    branch_ids_NC = torch.cat([last_N1, completion_ids_NC[:, :-1]], dim=1)

    positions_3BP = prompt_positions(model, prompts)
    first_N = next_positions(positions_3BP, prompts.mask_BP).repeat_interleave(num_generations)
    steps_C = torch.arange(completion_ids_NC.shape[1], device=device)
    branch_positions_3NC = (first_N[:, None] + steps_C - 1).expand(3, -1, -1).clone()
    branch_positions_3NC[:, :, 0] = positions_3BP[:, :, -1].repeat_interleave(num_generations, dim=1)

    layout, labels_S = pack_layout(inside_BP.sum(dim=1), inside_NC, query_heads_per_key(model), model.dtype), completion_ids_NC[inside_NC]
    if letters is not None:
        _, again_X, letters_X = letters.slots(_count_within(inside_NC))
        layout, labels_S = replace(layout, again_X=again_X), torch.cat([labels_S, letters_X])
    inputs: dict[str, Any] = {
        "input_ids": torch.cat([prompts.ids_BP[:, :-1][inside_BP], branch_ids_NC[inside_NC]])[None],
        "position_ids": torch.cat([positions_3BP[:, :, :-1][:, inside_BP], branch_positions_3NC[:, inside_NC]], dim=1)[:, None],
        "attention_mask": _placeholder_mask(device),
        "layout": layout,
        "shift_labels": labels_S[None],
        **prompts.image_inputs,
    }
    if prompts.types_BP is not None:
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(prompts.types_BP[:, :-1][inside_BP], (0, layout.num_scored))[None]
    return inputs


def _count_within(inside: Tensor) -> Tensor:
    """The index of each true element among the true elements of `inside`, in their order; other elements have no meaning."""
    return inside.flatten().cumsum(dim=0).view_as(inside) - 1


def _placeholder_mask(device: torch.device) -> Tensor:
    """Placeholder: Transformers passes a 4-D mask through unchanged, and `attend` uses the layout instead.

    Its width makes any other attention implementation fail instead of mixing branches.
    """
    return torch.zeros(1, 1, 1, 2, device=device)


def score_packed(
    model: Any, prompts: PromptBatch, completion_ids_NC: Tensor, completion_mask_NC: Tensor, base: Any, letters: Letters | None = None
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities [N, C] and, if the model's head computes them, entropies [N, C] of completions; 0 at padding.

    With `letters` both have O more columns: the log-probability of each option's letter in the place of the answer's; 0 where there is
    none. `model` has TRL's fused head and may be wrapped (DDP, LoRA); `base` is the Transformers model inside it, on which `install` was
    called. At least one token must be scored.
    """
    with prompts.use_features(base):
        outputs = model(**pack(base, prompts, completion_ids_NC, completion_mask_NC, letters), fused_lm_head=True)
    inside_NC = completion_mask_NC.bool()
    slots = [inside_NC] if letters is None else [inside_NC, letters.slots(_count_within(inside_NC))[0]]
    logps = _spread(outputs.log_probs, slots)
    return logps, None if outputs.entropy is None else _spread(outputs.entropy, slots)


def _spread(values_1S: Tensor, slots: Sequence[Tensor]) -> Tensor:
    """The values at the true elements of the first of `slots` [N, ..], then of the next, side by side; 0 elsewhere."""
    parts = torch.split(values_1S[0], [int(inside.sum()) for inside in slots])
    spread = [values_1S.new_zeros(inside.shape).masked_scatter(inside, part) for inside, part in zip(slots, parts, strict=True)]
    return spread[0] if len(spread) == 1 else torch.cat(spread, dim=1)


def prefill(base: Any, prompts: PromptBatch) -> PromptCache:
    """Compute the KV cache and the last hidden states of prompts, with an autograd graph if gradients are enabled."""
    positions_3BP = prompt_positions(base, prompts)
    is_padded = not bool(prompts.mask_BP.all())
    with prompts.use_features(base):
        outputs = base.model(
            input_ids=prompts.ids_BP,
            attention_mask=prompts.mask_BP if is_padded else None,
            position_ids=positions_3BP,
            mm_token_type_ids=prompts.types_BP,
            use_cache=True,
            layout=PromptLayout(),
            **prompts.image_inputs,
        )
    return PromptCache(
        layers=tuple((layer.keys, layer.values) for layer in outputs.past_key_values.layers),
        mask_BP=prompts.mask_BP.bool() if is_padded else None,
        last_BE=outputs.last_hidden_state[:, -1],
        next_B=next_positions(positions_3BP, prompts.mask_BP),
    )


def score_after_cache(
    model: Any,
    caches: Sequence[PromptCache],
    completion_ids_NC: Tensor,
    completion_mask_NC: Tensor,
    base: Any,
    letters: Letters | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The same as `score_packed` for completions of cached prompts, cache after cache, the G completions of a prompt in consecutive rows.

    Exact only if the weights have not changed since the prefill. At least one completion must have two tokens.
    """
    inputs, labels_S, slots = _pack_behind(caches, completion_ids_NC, completion_mask_NC, base, letters)
    outputs = model(**inputs, shift_labels=labels_S[None], fused_lm_head=True)
    logps = _spread(outputs.log_probs, slots)
    return logps, None if outputs.entropy is None else _spread(outputs.entropy, slots)


def branch_logps(base: Any, caches: Sequence[PromptCache], ids_NC: Tensor, mask_NC: Tensor, temperature: float) -> Tensor:
    """Log-probabilities [N, C] like those of `score_after_cache`, without a gradient, of a Transformers model with all its weights."""
    with torch.no_grad():
        inputs, labels_S, slots = _pack_behind(caches, ids_NC, mask_NC, base, None)
        hidden_SE = base.model(**inputs).last_hidden_state[0]
        logps = []
        for rows_SE, labels in zip(torch.split(hidden_SE, HEAD_ROWS), torch.split(labels_S, HEAD_ROWS), strict=True):
            logs_SV = (base.lm_head(rows_SE).float() / temperature).log_softmax(dim=-1)
            logps.append(logs_SV.gather(1, labels[:, None])[:, 0])
        return _spread(torch.cat(logps)[None], slots)


def _pack_behind(
    caches: Sequence[PromptCache], completion_ids_NC: Tensor, completion_mask_NC: Tensor, base: Any, letters: Letters | None
) -> tuple[dict[str, Any], Tensor, list[Tensor]]:
    """The arguments of a forward pass over completions of cached prompts, the labels [S] of the tokens it scores, and their slots."""
    inside_NC, device = completion_mask_NC.bool(), completion_ids_NC.device
    branch_NC = inside_NC[:, 1:]
    num_generations = len(completion_ids_NC) // sum(map(len, caches))
    next_B = torch.cat([cache.next_B for cache in caches])
    positions_NC = next_B.repeat_interleave(num_generations)[:, None] + torch.arange(branch_NC.shape[1], device=device)
    has_first_N = inside_NC[:, 0]
    first_NE = torch.cat([cache.last_BE for cache in caches]).repeat_interleave(num_generations, dim=0)
    chunks, start = [], 0
    for cache in caches:
        end = start + len(cache) * num_generations
        chunks.append(chunk_layout(cache, branch_NC[start:end], query_heads_per_key(base)))
        start = end
    layout = BranchLayout(chunks=tuple(chunks), first_FE=first_NE[has_first_N])
    labels_S = torch.cat([completion_ids_NC[has_first_N, 0], completion_ids_NC[:, 1:][branch_NC]])
    slots = [has_first_N[:, None], branch_NC]
    if letters is not None:
        first_N1, rest_NC = _count_within(slots[0]), int(has_first_N.sum()) + _count_within(branch_NC)
        known_NO, again_X, letters_X = letters.slots(torch.cat([first_N1, rest_NC], dim=1))
        layout, labels_S = replace(layout, again_X=again_X), torch.cat([labels_S, letters_X])
        slots.append(known_NO)
    inputs = {
        "input_ids": completion_ids_NC[:, :-1][branch_NC][None],
        "position_ids": positions_NC[branch_NC].expand(3, 1, -1),
        "attention_mask": _placeholder_mask(device),
        "layout": layout,
    }
    return inputs, labels_S, slots


def hidden_behind(base: Any, caches: Sequence[PromptCache], texts: Sequence[Sequence[Sequence[Sequence[int]]]]) -> Tensor:
    """The hidden states [M, E] of the last tokens of M texts behind cached prompts: for each cache, each prompt's texts as token ids.

    `base` is the Transformers model, on which `install` was called. No text is empty, and each cache has at least one.
    """
    device = caches[0].next_B.device
    ids, positions, lengths, chunks = [], [], [], []
    for cache, own in zip(caches, texts, strict=True):
        times = max(map(len, own))
        rows = [row for some in own for row in (*some, *[()] * (times - len(some)))]  # equally many for each prompt
        ids_NC = torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True).to(device)
        steps_C = torch.arange(ids_NC.shape[1], device=device)
        inside_NC = steps_C < torch.tensor([[len(row)] for row in rows], device=device)
        ids.append(ids_NC[inside_NC])
        positions.append((cache.next_B.repeat_interleave(times)[:, None] + steps_C)[inside_NC])
        lengths += [len(row) for row in rows if row]
        chunks.append(chunk_layout(cache, inside_NC, query_heads_per_key(base)))
    outputs = base.model(
        input_ids=torch.cat(ids)[None],
        position_ids=torch.cat(positions).expand(3, 1, -1),
        attention_mask=_placeholder_mask(device),
        layout=BranchLayout(chunks=tuple(chunks), first_FE=caches[0].last_BE[:0]),
    )
    hidden_ME: Tensor = outputs.last_hidden_state[0, torch.tensor(lengths, device=device).cumsum(dim=0) - 1]
    return hidden_ME
