"""TRL's trainer with an update that computes each prompt once: by PrefixGrouper, or as Osler's packed row. The rollout is TRL's in both.

PrefixGrouper (https://github.com/johncaged/PrefixGrouper, MIT, arXiv 2506.05433) is used as its README says, with transformers 5:

- `register_attention` adds its attention to Transformers. Inside, it calls another registered attention for the prompts and for the
  completions, with a mask of padding that only FlashAttention makes causal. So `attend` below is registered too: PyTorch's attention with
  causal masks.
- Its example for Qwen2.5-VL is a changed copy of a file of transformers 4. With the registered attention no file is changed, and only the
  M-RoPE positions of a row are left to compute by hand.
- `split_output(include_prefix_last=1)` is applied to hidden states, so that TRL's head computes the logits of completions and no others.
- The last token of a completion predicts nothing and is left out; the image goes through the vision tower once for each group.

Legend: see `osler.training.shared_prefix.packed_row`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface
from trl import GRPOTrainer

from osler.policies.lora import base_of
from osler.training.shared_prefix.attention import branch_mask, install, query_heads_per_key
from osler.training.shared_prefix.groups import Scores
from osler.training.shared_prefix.packed_row import PromptBatch, next_positions, prompt_positions, score_packed

VERSION: Final = "0.0.1.post1"
ATTENTION: Final = "prefix_grouper_attention"
"""The name under which PrefixGrouper registers its attention."""
INNER: Final = "prefix_grouper_sdpa"
"""The name of `attend`, which PrefixGrouper's attention calls."""


def import_prefix_grouper() -> Any:
    """The package, with its attention registered. Raises ImportError with one line if it is not installed."""
    try:
        import prefix_grouper
        from prefix_grouper.utils.register_transformers import register_attention
    except ImportError:
        raise ImportError(f"PrefixGrouper is not installed: pip install --no-deps prefix-grouper=={VERSION}") from None
    register_attention()
    AttentionInterface.register(INNER, attend)
    return prefix_grouper


def attend(
    _module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _padding: Tensor,
    scaling: float | None = None,
    *,
    prefix_mask: Tensor | None,
    suffix_mask: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention [N, C, H, D] of prompts over themselves, or of completions over their prompt and themselves.

    `query` is [N, H, C, D], `key` and `value` are [N, K, P + C, D]; without `prefix_mask`, no prompt is padded. The R = H / K query heads
    of a key-value head are stacked along the sequence, which on a CPU is faster than repeated keys: `suffix_mask` is [.., R C, P + C].
    """
    num_rows, num_heads, num_steps, width = query.shape
    repeats = num_heads // key.shape[1]
    if num_steps == key.shape[2]:  # prompts
        is_causal = prefix_mask is None
        keys, values = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        out = scaled_dot_product_attention(query, keys, values, attn_mask=prefix_mask, is_causal=is_causal, scale=scaling)
    else:
        stacked = query.reshape(num_rows, -1, repeats * num_steps, width)
        out = scaled_dot_product_attention(stacked, key, value, attn_mask=suffix_mask, scale=scaling).view_as(query)
    return out.transpose(1, 2), None


class GroupedUpdateTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer, whose log-probabilities with gradient come from `score`: each group with its prompt and images once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._group_ids: Tensor | None = None  # of the rows of the current loss

    def score(self, model: Any, base: Any, prompts: PromptBatch, ids_NC: Tensor, mask_NC: Tensor) -> Scores:
        """Log-probabilities and entropies of completions, G after G for each prompt; 0 at padding."""
        raise NotImplementedError

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        output["group_id"] = torch.arange(len(output["completion_ids"])) // self.num_generations  # TRL shuffles it with the rows
        return output

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        self._group_ids = inputs["group_id"]
        loss: Tensor = super()._compute_loss(model, inputs)
        return loss

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, **kwargs: Any
    ) -> Any:
        if not torch.is_grad_enabled() or self._group_ids is None:
            return super()._get_per_token_logps_and_entropies(model, input_ids, attention_mask, logits_to_keep, **kwargs)
        rows = self._group_ids.argsort(stable=True)
        ids, mask = input_ids[rows], attention_mask[rows]
        first = rows[:: self.num_generations]
        types = kwargs["mm_token_type_ids"][first, :-logits_to_keep]
        prompts = PromptBatch(
            ids_BP=ids[:: self.num_generations, :-logits_to_keep],
            mask_BP=mask[:: self.num_generations, :-logits_to_keep],
            types_BP=types,
            **images_of(first.tolist(), **kwargs),
        )
        base = base_of(self.accelerator.unwrap_model(model))
        scores = self.score(model, base, prompts, ids[:, -logits_to_keep:], mask[:, -logits_to_keep:])
        back = rows.argsort()
        return *(score[back] for score in scores if score is not None), None


def images_of(rows: list[int], *, pixel_values: Tensor, image_grid_thw: Tensor, num_images: list[int], **_: Any) -> dict[str, Tensor]:
    """The patches and grids of the images of these rows of TRL's batch."""
    grids = torch.split(image_grid_thw, num_images)
    patches = torch.split(pixel_values, [int(grid.prod(dim=1).sum()) for grid in grids])
    return {"pixel_values": torch.cat([patches[row] for row in rows]), "image_grid_thw": torch.cat([grids[row] for row in rows])}


class PrefixGrouperTrainer(GroupedUpdateTrainer):
    """The update by PrefixGrouper."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._package = import_prefix_grouper()
        base_of(self.model).model.register_forward_hook(keep_completions, with_kwargs=True)

    def score(self, model: Any, base: Any, prompts: PromptBatch, ids_NC: Tensor, mask_NC: Tensor) -> Scores:
        """The scores of `score_grouped`."""
        return score_grouped(self._package, model, base, prompts, ids_NC, mask_NC)


class PackedRowTrainer(GroupedUpdateTrainer):
    """The update as Osler's packed row."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        install(base_of(self.model))

    def score(self, model: Any, base: Any, prompts: PromptBatch, ids_NC: Tensor, mask_NC: Tensor) -> Scores:
        """The scores of `score_packed`."""
        return score_packed(model, prompts, ids_NC, mask_NC, base)


def keep_completions(_module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """Forward hook: of a grouped row, keep the hidden states [N, C, E] that predict a token of a completion."""
    if (grouper := kwargs.get("prefix_grouper")) is not None:
        output.last_hidden_state = grouper.split_output(output.last_hidden_state, include_prefix_last=1)[2]
    return output


def score_grouped(package: Any, model: Any, base: Any, prompts: PromptBatch, ids_NC: Tensor, mask_NC: Tensor) -> Scores:
    """Log-probabilities and entropies [N, C] by PrefixGrouper; 0 at padding. At least one completion must have two tokens."""
    times = len(ids_NC) // len(prompts.ids_BP)
    inputs_NC, inside_NC = ids_NC[:, :-1], mask_NC[:, 1:]  # a token is an input if it has a successor
    grouper = package.PrefixGrouper.from_ungrouped_masks(prompts.mask_BP, inside_NC, times, device=ids_NC.device, padding_mode="right")
    positions_3BP = prompt_positions(base, prompts)
    next_N = next_positions(positions_3BP, prompts.mask_BP).repeat_interleave(times)
    positions_NC = next_N[:, None] + torch.arange(inputs_NC.shape[1], device=ids_NC.device)

    def concat(of_prompts: Tensor, of_completions: Tensor) -> Tensor:
        joined: Tensor = grouper.concat_input(of_prompts, prompts.mask_BP, of_completions, inside_NC)
        return joined

    width = grouper.suffix_x_shape[1]
    with grouped_attention(base):
        outputs = model(
            input_ids=concat(prompts.ids_BP, inputs_NC),
            position_ids=concat(positions_3BP.permute(1, 2, 0), positions_NC[..., None].expand(-1, -1, 3)).permute(2, 0, 1),
            prefix_grouper=grouper,
            prefix_grouper_attn_func=INNER,
            prefix_mask=make_prefix_mask(grouper.ungrouped_prefix_mask),
            suffix_mask=make_suffix_mask(grouper.ungrouped_prefix_mask, width, query_heads_per_key(base), base.dtype, times),
            shift_labels=ids_NC.masked_fill(mask_NC == 0, -100)[:, : width + 1],
            fused_lm_head=True,
            **prompts.image_inputs,
        )
    missing = ids_NC.shape[1] - width - 1
    return pad(outputs.log_probs, (0, missing)), pad(outputs.entropy, (0, missing))


@contextmanager
def grouped_attention(base: Any) -> Iterator[None]:
    """Inside the context, the text decoder of `base` uses PrefixGrouper's attention, which other forward passes cannot do without it."""
    config = base.model.language_model.config
    plain, config._attn_implementation = config._attn_implementation, ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = plain


def make_prefix_mask(inside_BP: Tensor) -> Tensor | None:
    """[B, 1, P, P] bool, true where a prompt's token attends; None when no prompt is padded. Padding sees itself, or it would be nan."""
    if bool(inside_BP.all()):
        return None
    square = torch.ones(inside_BP.shape[1], inside_BP.shape[1], dtype=torch.bool, device=inside_BP.device)
    return ((square.tril() & inside_BP[:, None]) | torch.eye(len(square), dtype=torch.bool, device=square.device))[:, None]


def make_suffix_mask(inside_BP: Tensor, num_steps: int, repeats: int, dtype: torch.dtype, times: int) -> Tensor:
    """[N or 1, 1, R C, P + C], the mask of completions for all layers: made once, as Osler does."""
    visible_NP = inside_BP[:1] if bool(inside_BP.all()) else inside_BP.repeat_interleave(times, dim=0)
    return branch_mask(visible_NP, num_steps, repeats, dtype)
