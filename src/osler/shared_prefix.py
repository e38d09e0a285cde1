"""The log-probabilities of a group's completions with their prompt computed once.

GRPO scores G completions of one prompt. Written out in full, as TRL does, the image and the prompt pass through the model G times. Here
each prompt stands once in a single packed row, its completions behind it as branches:

    [ prefix 1 | ... | prefix B | branch 1.1 | ... | branch B.G ]

A prefix is a prompt without its last token. A branch is that last token followed by a completion without its own last token, so that every
token of a branch predicts exactly one token of the completion, and nothing is padded in the linear layers. A branch attends to its prefix
and to itself; its M-RoPE positions go on where the prompt's end. The model's code is left as it is: the attention is a function in the
registry of Transformers and the layout of the row travels to it as a keyword.

Legend: B groups, G generations of a group, N = B G completions, P prompt or prefix, C completion or branch, L packed row, S scored tokens,
H heads, K key-value heads, D head width. Names end in their dimensions: `logps_NC`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from osler.models import FAMILIES

ATTENTION: Final = "osler_shared_prefix"
"""The attention's name in the registry of Transformers."""
UNSCORED: Final = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Distinct prompts, padded on the left, with the images of all of them in order."""

    ids_BP: Tensor
    mask_BP: Tensor  # 1 for a token, 0 for padding
    types_BP: Tensor | None = None  # 1 where a token stands for a piece of an image
    pixel_values: Tensor | None = None  # [patches, values of a patch]
    image_grid_thw: Tensor | None = None  # [images, 3], in patches

    def to(self, device: torch.device) -> Prompts:
        """The same on a device."""
        names = ("ids_BP", "mask_BP", "types_BP", "pixel_values", "image_grid_thw")
        return Prompts(**{name: value.to(device) for name in names if (value := getattr(self, name)) is not None})

    @property
    def image_inputs(self) -> dict[str, Tensor]:
        """What the model needs to see the images."""
        values = {"pixel_values": self.pixel_values, "image_grid_thw": self.image_grid_thw}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where prefixes and branches lie in a packed row; what the attention gets instead of a mask."""

    prefix_BP: Tensor  # place of every prefix token in the row; slots beyond a prefix's end name any token
    branch_NC: Tensor  # the same of every branch token
    slot_L: Tensor  # of every token of the row, its slot in [prefix_BP, branch_NC], flattened
    mask: Tensor  # [N or 1, 1, C, P + C] bool: what a branch token attends to, in its prefix and in its branch
    num_scored: int  # branch tokens, which end the row


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


def install(model: Any) -> None:
    """Let the text decoder of a model take packed rows. What it does with any other input stays the same; the vision tower is not touched.

    The attention stays in place for good, because gradient checkpointing calls it again in the backward pass.
    """
    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.config.text_config._attn_implementation = ATTENTION
    model.model.language_model.config._attn_implementation = ATTENTION
    model.model.register_forward_hook(_keep_scored, with_kwargs=True)


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
        "layout": lay_out(inside_BP.sum(dim=1), inside_NC),
        "shift_labels": completion_ids_NC[inside_NC][None],
        **prompts.image_inputs,
    }
    if prompts.types_BP is not None:
        num_scored = inputs["layout"].num_scored
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(prompts.types_BP[:, :-1][inside_BP], (0, num_scored))[None]
    return inputs


def lay_out(lengths_B: Tensor, inside_NC: Tensor) -> Layout:
    """The layout of prefixes of these lengths and of branches that fill the true slots of `inside_NC`, row by row."""
    device, num_branches = inside_NC.device, len(inside_NC)
    width, num_prefix = int(lengths_B.max()), int(lengths_B.sum())
    inside_BP = torch.arange(width, device=device) < lengths_B[:, None]
    inside = torch.cat([inside_BP.flatten(), inside_NC.flatten()])
    slot_L = inside.nonzero()[:, 0]
    place = torch.zeros(len(inside), dtype=torch.long, device=device)
    place[slot_L] = torch.arange(len(slot_L), device=device)
    prefix_BP, branch_NC = place[: inside_BP.numel()].view_as(inside_BP), place[inside_BP.numel() :].view_as(inside_NC)
    # Prefixes of one length need one mask for all branches.
    seen_NP = inside_BP[:1] if bool(inside_BP.all()) else inside_BP.repeat_interleave(num_branches // len(inside_BP), dim=0)
    num_steps = inside_NC.shape[1]
    causal_CC = torch.ones(num_steps, num_steps, dtype=torch.bool, device=device).tril()
    seen_NCP = seen_NP[:, None].expand(-1, num_steps, -1)
    mask = torch.cat([seen_NCP, causal_CC.expand(len(seen_NP), -1, -1)], dim=2)[:, None]
    return Layout(prefix_BP=prefix_BP, branch_NC=branch_NC, slot_L=slot_L, mask=mask, num_scored=len(slot_L) - num_prefix)


def score(model: Any, prompts: Prompts, completion_ids_NC: Tensor, completion_mask_NC: Tensor, base: Any) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities and, where the model's head gives them, entropies [N, C] of completions; 0 at padding.

    `model` has TRL's fused head and may be wrapped (DDP, LoRA); `base` is the Transformers model in it, on which `install` was called. At
    least one token must be scored.
    """
    outputs = model(**pack(base, prompts, completion_ids_NC, completion_mask_NC), fused_lm_head=True)
    inside_NC = completion_mask_NC.bool()

    def unpack(values_1S: Tensor | None) -> Tensor | None:
        return None if values_1S is None else values_1S.new_zeros(inside_NC.shape).masked_scatter(inside_NC, values_1S)

    logps_NC = unpack(outputs.log_probs)
    assert logps_NC is not None
    return logps_NC, unpack(outputs.entropy)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    decoding: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The text decoder's attention: over a packed row with `layout`, of one step with `decoding`, of PyTorch without either.

    `query` is [1, H, L, D], `key` and `value` are [1, K, L, D]; returns [1, L, H, D].
    """
    if decoding is not None:
        return decoding.attend(module.layer_idx, query, scaling), None
    if layout is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return plain
    repeats = query.shape[1] // key.shape[1]
    parts = [repeat_kv(key, repeats), repeat_kv(value, repeats)] if repeats > 1 else [key, value]
    rows = [tensor[0].transpose(0, 1) for tensor in (query, *parts)]  # [L, H, D] each
    query_BHPD, key_BHPD, value_BHPD = (row[layout.prefix_BP].transpose(1, 2) for row in rows)
    query_NHCD, key_NHCD, value_NHCD = (row[layout.branch_NC].transpose(1, 2) for row in rows)
    num_generations = len(query_NHCD) // len(query_BHPD)

    def behind_prefix(prefix_BHPD: Tensor, branch_NHCD: Tensor) -> Tensor:
        spread = prefix_BHPD[:, None].expand(-1, num_generations, -1, -1, -1).flatten(0, 1)
        return torch.cat([spread, branch_NHCD], dim=2)

    # Prefixes are padded on the right here, so causality alone keeps their tokens from padding.
    prefix_out = scaled_dot_product_attention(query_BHPD, key_BHPD, value_BHPD, is_causal=True, scale=scaling)
    branch_out = scaled_dot_product_attention(
        query_NHCD,
        behind_prefix(key_BHPD, key_NHCD),
        behind_prefix(value_BHPD, value_NHCD),
        attn_mask=layout.mask,
        scale=scaling,
    )
    slots = torch.cat([out.transpose(1, 2).flatten(0, 1) for out in (prefix_out, branch_out)])
    return slots[layout.slot_L][None], None


def _keep_scored(_module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """Drop the prefixes from the last hidden states of a packed row: only branches go through the head."""
    layout = kwargs.get("layout")
    if layout is not None:
        output.last_hidden_state = output.last_hidden_state[:, -layout.num_scored :]
    return output
