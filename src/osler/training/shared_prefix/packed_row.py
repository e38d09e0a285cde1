"""The log-probabilities of a group's completions with their prompt computed once.

GRPO scores G completions of one prompt. Written out in full, as TRL does, the image and the prompt pass through the model G times. Here
each prompt stands once in a single packed row, its completions behind it as branches:

    [ prefix 1 | ... | prefix B | branch 1.1 | ... | branch B.G ]

A prefix is a prompt without its last token. A branch is that last token followed by a completion without its own last token, so that every
token of a branch predicts exactly one token of the completion, and nothing is padded in the linear layers. A branch attends to its prefix
and to itself; its M-RoPE positions go on where the prompt's end. The model's code is left as it is: the attention is a function in the
registry of Transformers and the layout of the row travels to it as a keyword.

Where the rollout has just read the prompts with the same weights, and kept the graph, the prompts need not be read again: `score_behind`
packs the branches alone and lets them attend to the keys and values that the rollout left. The first token of a completion is then
predicted by the prompt itself, and the gradient reaches the prompt and its images through what the rollout computed.

Legend: B groups, G generations of a group, N = B G completions, P prompt or prefix, C completion or branch, L packed row, S scored tokens,
H heads, K key-value heads, R = H / K, D head width. Names end in their dimensions: `logps_NC`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from osler.policies.load import FAMILIES, replace_image_features
from osler.training.shared_prefix.attention import ATTENTION, BranchRow, Prefixes, PromptRow, count_repeats, lay_out, lay_out_branches


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Distinct prompts, padded on the left, with the images of all of them in order."""

    ids_BP: Tensor
    mask_BP: Tensor  # 1 for a token, 0 for padding
    types_BP: Tensor | None = None  # 1 where a token stands for a piece of an image
    pixel_values: Tensor | None = None  # [patches, values of a patch]
    image_grid_thw: Tensor | None = None  # [images, 3], in patches
    features: Any = None  # of the images, where the vision tower has seen them: what the model's `get_image_features` gives

    def to(self, device: torch.device) -> Prompts:
        """The same on a device."""
        names = ("ids_BP", "mask_BP", "types_BP", "pixel_values", "image_grid_thw")
        return Prompts(**{name: value.to(device) for name in names if (value := getattr(self, name)) is not None})

    @property
    def image_inputs(self) -> dict[str, Any]:
        """What the model needs to see the images, inside `shown_to`."""
        values = {"pixel_values": self.pixel_values, "image_grid_thw": self.image_grid_thw}
        return {name: value for name, value in values.items() if value is not None}

    def shown_to(self, base: Any) -> AbstractContextManager[None]:
        """While this is open, `base` takes the features for what its vision tower makes of the images, where there are any."""
        return nullcontext() if self.features is None else replace_image_features(base, lambda *_, **__: self.features)


def find_obstacle(model: Any) -> str | None:
    """Why the groups of this model cannot share their prefix, or None."""
    family = FAMILIES.get(model.config.model_type)
    if family is None:
        return f"{model.config.model_type} is no supported family"
    text = model.config.text_config
    if text._attn_implementation not in ("sdpa", ATTENTION):
        return f"policy.attn_implementation is {text._attn_implementation}, not sdpa"
    if set(getattr(text, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return "some layers attend to a window"
    if text.attention_dropout or any(module.p > 0 for module in model.modules() if isinstance(module, torch.nn.Dropout)):
        return "dropout is on"
    return None


def find_positions(model: Any, prompts: Prompts) -> Tensor:
    """M-RoPE positions [3, B, P] of left-padded prompts, which say nothing at padding."""
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
    """The position [B] of the first token after each prompt: one more than the largest in it."""
    return positions_3BP.masked_fill(mask_BP == 0, -1).amax(dim=(0, 2)) + 1


def pack(model: Any, prompts: Prompts, completion_ids_NC: Tensor, completion_mask_NC: Tensor) -> dict[str, Any]:
    """What `model` takes to score the completions of `prompts`, G after G and padded on the right, in one packed row.

    A completion whose mask is empty takes no part. The labels are those of the branch tokens, in order.
    """
    device, num_generations = completion_ids_NC.device, len(completion_ids_NC) // len(prompts.ids_BP)
    inside_BP, inside_NC = prompts.mask_BP[:, :-1].bool(), completion_mask_NC.bool()
    last_N1 = prompts.ids_BP[:, -1:].repeat_interleave(num_generations, dim=0)
    branch_ids_NC = torch.cat([last_N1, completion_ids_NC[:, :-1]], dim=1)

    positions_3BP = find_positions(model, prompts)
    first_N = next_positions(positions_3BP, prompts.mask_BP).repeat_interleave(num_generations)
    steps_C = torch.arange(completion_ids_NC.shape[1], device=device)
    branch_positions_3NC = (first_N[:, None] + steps_C - 1).expand(3, -1, -1).clone()
    branch_positions_3NC[:, :, 0] = positions_3BP[:, :, -1].repeat_interleave(num_generations, dim=1)

    inputs: dict[str, Any] = {
        "input_ids": torch.cat([prompts.ids_BP[:, :-1][inside_BP], branch_ids_NC[inside_NC]])[None],
        "position_ids": torch.cat([positions_3BP[:, :, :-1][:, inside_BP], branch_positions_3NC[:, inside_NC]], dim=1)[:, None],
        # Nobody reads it. A mask in four dimensions is passed on as it is, and one of this width makes every other attention raise
        # where it would silently let the branches see each other.
        "attention_mask": torch.zeros(1, 1, 1, 2, device=device),
        "layout": lay_out(inside_BP.sum(dim=1), inside_NC, count_repeats(model)),
        "shift_labels": completion_ids_NC[inside_NC][None],
        **prompts.image_inputs,
    }
    if prompts.types_BP is not None:
        num_scored = inputs["layout"].num_scored
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(prompts.types_BP[:, :-1][inside_BP], (0, num_scored))[None]
    return inputs


def score(model: Any, prompts: Prompts, completion_ids_NC: Tensor, completion_mask_NC: Tensor, base: Any) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities and, where the model's head gives them, entropies [N, C] of completions; 0 at padding.

    `model` has TRL's fused head and may be wrapped (DDP, LoRA); `base` is the Transformers model in it, on which `install` was called. At
    least one token must be scored.
    """
    with prompts.shown_to(base):
        outputs = model(**pack(base, prompts, completion_ids_NC, completion_mask_NC), fused_lm_head=True)
    inside_NC = completion_mask_NC.bool()

    def unpack(values_1S: Tensor | None) -> Tensor | None:
        return None if values_1S is None else values_1S.new_zeros(inside_NC.shape).masked_scatter(inside_NC, values_1S)

    logps_NC = unpack(outputs.log_probs)
    assert logps_NC is not None
    return logps_NC, unpack(outputs.entropy)


def read_prefixes(base: Any, prompts: Prompts) -> Prefixes:
    """Read prompts once: keys, values and last hidden states, with a graph where gradients are on."""
    positions_3BP = find_positions(base, prompts)
    is_padded = not bool(prompts.mask_BP.all())
    with prompts.shown_to(base):
        outputs = base.model(
            input_ids=prompts.ids_BP,
            attention_mask=prompts.mask_BP if is_padded else None,
            position_ids=positions_3BP,
            mm_token_type_ids=prompts.types_BP,
            use_cache=True,
            layout=PromptRow(),
            **prompts.image_inputs,
        )
    return Prefixes(
        layers=tuple((layer.keys, layer.values) for layer in outputs.past_key_values.layers),
        mask_BP=prompts.mask_BP.bool() if is_padded else None,
        last_BE=outputs.last_hidden_state[:, -1],
        next_B=next_positions(positions_3BP, prompts.mask_BP),
    )


def score_behind(
    model: Any, chunks: Sequence[Prefixes], completion_ids_NC: Tensor, completion_mask_NC: Tensor, base: Any
) -> tuple[Tensor, Tensor | None]:
    """The same as `score` for completions of prompts that were read before, chunk after chunk, each prompt's G completions in a row.

    Exact where the weights have not changed since. At least one completion must have two tokens.
    """
    inside_NC, device = completion_mask_NC.bool(), completion_ids_NC.device
    branch_NC = inside_NC[:, 1:]
    num_generations = len(completion_ids_NC) // sum(map(len, chunks))
    next_B = torch.cat([chunk.next_B for chunk in chunks])
    positions_NC = next_B.repeat_interleave(num_generations)[:, None] + torch.arange(branch_NC.shape[1], device=device)
    has_first_N = inside_NC[:, 0]
    first_NE = torch.cat([chunk.last_BE for chunk in chunks]).repeat_interleave(num_generations, dim=0)
    parts, start = [], 0
    for chunk in chunks:
        end = start + len(chunk) * num_generations
        parts.append(lay_out_branches(chunk, branch_NC[start:end], count_repeats(base)))
        start = end
    outputs = model(
        input_ids=completion_ids_NC[:, :-1][branch_NC][None],
        position_ids=positions_NC[branch_NC].expand(3, 1, -1),
        attention_mask=torch.zeros(1, 1, 1, 2, device=device),  # see `pack`
        layout=BranchRow(parts=tuple(parts), first_FE=first_NE[has_first_N]),
        shift_labels=torch.cat([completion_ids_NC[has_first_N, 0], completion_ids_NC[:, 1:][branch_NC]])[None],
        fused_lm_head=True,
    )
    num_first = int(has_first_N.sum())

    def unpack(values_1S: Tensor | None) -> Tensor | None:
        if values_1S is None:
            return None
        first_N1 = values_1S.new_zeros(len(has_first_N), 1).masked_scatter(has_first_N[:, None], values_1S[0, :num_first])
        rest_NC = values_1S.new_zeros(branch_NC.shape).masked_scatter(branch_NC, values_1S[0, num_first:])
        return torch.cat([first_N1, rest_NC], dim=1)

    logps_NC = unpack(outputs.log_probs)
    assert logps_NC is not None
    return logps_NC, unpack(outputs.entropy)
