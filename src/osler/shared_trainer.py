"""GRPO with each prompt computed once per group: TRL's losses and metrics, at a fraction of the arithmetic.

Between TRL's own steps this trainer

- runs the processor once per group, where TRL prepares every image 2G times;
- writes the completions with `shared_rollout` and scores them with `shared_prefix`, the reference's log-probabilities included;
- keeps groups together where a rollout is cut into micro-batches, in the order in which TRL's shuffle first meets them;
- scores completions whose advantage is zero without a gradient, because theirs is zero.

Whatever is not made of whole groups, and whatever the shared computation does not cover, goes TRL's way. The first update compares one
group with TRL's own log-probabilities and returns to TRL for the rest of the run if they differ.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import pad, split_tensor_dict

from osler.shared_prefix import Prompts, find_obstacle, install, score
from osler.shared_rollout import Decoding, roll_out
from osler.trainer import OslerGRPOTrainer

TOLERANCE: Final[Mapping[torch.dtype, float]] = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}
"""How far log-probabilities may lie from TRL's: the largest difference in float32, the mean one below it, where rounding alone makes a rare
token's differ by tenths."""
ROLLOUT_SETTINGS: Final = {
    "max_new_tokens",
    "do_sample",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "cache_implementation",
    "suppress_tokens",
}
"""What TRL passes to `generate`, all of which the shared rollout knows or finds at its default."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessedGroups:
    """What the processor made of each group's prompt, once."""

    prompts: Prompts
    images: tuple[tuple[Tensor, Tensor], ...]  # patches and grids of each prompt's images; empty where no prompt has any
    num_generations: int

    def repeat(self) -> dict[str, Tensor]:
        """The processor's output for `num_generations` copies of every prompt, but with the images of each prompt only once.

        TRL only hands images on, to methods that are replaced here; copies of large ones would cost more than the text.
        """
        prompts, times = self.prompts, self.num_generations
        rows = {"input_ids": prompts.ids_BP, "attention_mask": prompts.mask_BP, "mm_token_type_ids": prompts.types_BP}
        return {
            **{name: tensor.repeat_interleave(times, dim=0) for name, tensor in rows.items() if tensor is not None},
            **prompts.image_inputs,
        }

    def images_of(self, groups: Sequence[int]) -> dict[str, Tensor]:
        """The images of these groups' prompts, as the model takes them; nothing where they have none."""
        images = [self.images[group] for group in groups] if self.images else []
        grid = torch.cat([own for _, own in images]) if images else torch.empty(0)
        return {"pixel_values": torch.cat([patches for patches, _ in images]), "image_grid_thw": grid} if len(grid) else {}

    def full_images_of(self, groups: Sequence[int]) -> dict[str, Any]:
        """The same with the number of images of each group, as TRL takes them."""
        return {**self.images_of(groups), "num_images": [len(self.images[group][1]) for group in groups]} if self.images else {}


class GroupProcessor:
    """A processor that gives TRL's second call for the same prompts the result of the first."""

    def __init__(self, processor: Any, trainer: SharedPrefixGRPOTrainer) -> None:
        self._processor = processor
        self._trainer = trainer
        self._rendered: tuple[Any, str] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The processor's, or what it gave for the prompts of this rollout."""
        groups = self._trainer.groups
        return self._processor(*args, **kwargs) if groups is None else groups.repeat()

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """The processor's, which renders a prompt that comes G times in a row once."""
        if kwargs.get("tokenize", True) or self._trainer.groups is None:
            return self._processor.apply_chat_template(conversation, *args, **kwargs)
        if self._rendered is None or self._rendered[0] != conversation:
            self._rendered = conversation, self._processor.apply_chat_template(conversation, *args, **kwargs)
        return self._rendered[1]


class SharedPrefixGRPOTrainer(OslerGRPOTrainer):
    """Osler's GRPO trainer with shared prefixes where model and settings allow, else without."""

    processing_class: Any
    _buffered_inputs: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.groups: ProcessedGroups | None = None  # of the last rollout
        # Of the tensors at hand: the group of each row, where they belong to `groups`; how many consecutive rows have one prompt, below 2
        # where nothing is shared; the advantages, during an update.
        self._row_groups: list[int] | None = None
        self._block = 0
        self._advantages: Tensor | None = None
        self._is_checked = False
        models = [self._base(model) for model in (self.model, self.ref_model) if model is not None]
        obstacle = self._find_obstacle() or next(filter(None, map(find_obstacle, models)), None)
        self.shares_prefix = obstacle is None
        if obstacle is not None:
            logger.info("prompts are not shared within groups: %s", obstacle)
            return
        for model in models:
            install(model)

    def _find_obstacle(self) -> str | None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return "weights are sharded"
        if self.tools or self.environment_factories is not None or self.rollout_func is not None:
            return "completions are written with tools"
        return "experts are balanced" if self.aux_loss_enabled else None

    @property
    def shares_rollout(self) -> bool:
        """Whether the shared rollout draws what TRL's would."""
        if self.use_vllm or self.use_transformers_continuous_batching:
            return False
        is_plain = self.repetition_penalty in (None, 1.0) and self.generation_kwargs.get("cache_implementation") is None
        return is_plain and self.pad_to_multiple_of is None and self.generation_kwargs.keys() <= ROLLOUT_SETTINGS

    @property
    def keeps_groups(self) -> bool:
        """Whether the loss allows any split into micro-batches: some terms are means over the tokens of each."""
        is_whole = self.args.steps_per_generation == 1
        return is_whole or (self.loss_type != "bnpo" and not self._entropy_bonus_enabled and self.top_entropy_quantile == 1.0)

    def _base(self, model: Any) -> Any:
        model = self.accelerator.unwrap_model(model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        if not self.shares_prefix or not self.model.training:
            return super()._generate_and_score_completions(inputs)
        processor = self.processing_class
        self.processing_class, self.groups = GroupProcessor(processor, self), None
        try:
            output = super()._generate_and_score_completions(inputs)
            if self._row_groups is not None:
                output["group_id"] = torch.tensor(self._row_groups)
                for name in ("pixel_values", "image_grid_thw", "num_images"):  # `groups` holds them
                    output.pop(name, None)
            return output
        finally:
            self.processing_class, self._row_groups, self._block = processor, None, 0

    def _tokenize_prompts(self, prompts: Any) -> Any:
        times = self.num_generations
        if not self.shares_prefix or not self.model.training or not is_grouped(prompts, times):
            return super()._tokenize_prompts(prompts)
        rows = [row // times for row in range(len(prompts))]
        ids, images, fields = super()._tokenize_prompts(prompts[::times])
        self._row_groups, self._block = rows, times
        self.groups = collate(ids, images, fields, times, self._tokenizer.pad_token_id, self.accelerator.device)
        if not self.shares_rollout:
            fields = {name: [fields[name][row] for row in rows] for name in fields.keys() & {"mm_token_type_ids"}}
            fields |= self.groups.images_of(rows)
        return [ids[row] for row in rows], [images[row] for row in rows] if images is not None else None, fields

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> Any:
        if self._row_groups is None or self.groups is None or not self.shares_rollout:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, has_tool_images)
        decoding = Decoding(
            max_new_tokens=self.max_completion_length,
            stop_ids=tuple(self.eos_token_ids),
            pad_id=self._tokenizer.pad_token_id,
            suppressed_ids=tuple(self.generation_kwargs.get("suppress_tokens") or ()),
            temperature=self.temperature,
            top_k=self.top_k or 0,
            top_p=self.top_p,
            min_p=self.min_p,
        )
        with (
            unwrap_model_for_generation(
                self.model_wrapped, self.accelerator, gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs
            ) as model,
            self.accelerator.autocast(),
        ):
            return roll_out(self._base(model), self.groups.prompts, self.groups.num_generations, decoding), None

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        fresh = self._buffered_inputs
        if not self.model.training or fresh is before or "group_id" not in fresh[0] or not self.keeps_groups:
            return inputs
        self._buffered_inputs = gather_groups(fresh)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        groups_N = inputs.get("group_id")
        if groups_N is not None:
            block = gcd(len(groups_N), self.num_generations)
            groups_BG = groups_N.view(-1, block)
            is_whole = self.shares_prefix and bool((groups_BG == groups_BG[:, :1]).all())
            self._row_groups, self._block, self._advantages = groups_N.tolist(), block if is_whole else 0, inputs["advantages"]
        try:
            loss: Tensor = super()._compute_loss(model, inputs)
            return loss
        finally:
            self._row_groups, self._block, self._advantages = None, 0, None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        mm_token_type_ids: Tensor | None = None,
        **images: Any,
    ) -> Any:
        def ask_trl(num_rows: int) -> Any:
            own = self.groups.full_images_of(self._row_groups[:num_rows]) if self.groups and self._row_groups else images
            return super(SharedPrefixGRPOTrainer, self)._get_per_token_logps_and_entropies(
                model,
                input_ids[:num_rows],
                attention_mask[:num_rows],
                logits_to_keep,
                batch_size=batch_size,
                compute_entropy=compute_entropy,
                compute_aux_loss=compute_aux_loss,
                mm_token_type_ids=None if mm_token_type_ids is None else mm_token_type_ids[:num_rows],
                **own,
            )

        if self._block < 2 or not bool(attention_mask[:, -logits_to_keep:].any()):
            return ask_trl(len(input_ids))
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "mm_token_type_ids": mm_token_type_ids}
        if torch.is_grad_enabled():
            scored = self._score_alive(model, batch, logits_to_keep)
            mask_GC = attention_mask[: self._block, -logits_to_keep:].bool()
            if not self._is_checked and bool(mask_GC.any()):
                with torch.no_grad():
                    plain_GC = ask_trl(self._block)[0]
                if not self._check(plain_GC[mask_GC], scored[0][: self._block][mask_GC]):
                    return ask_trl(len(input_ids))
        else:
            num_rows = max((batch_size or len(input_ids)) // self._block, 1) * self._block
            parts = [range(start, min(start + num_rows, len(input_ids))) for start in range(0, len(input_ids), num_rows)]
            scored = join([self._score(model, batch, list(rows), logits_to_keep) for rows in parts])
        return scored[0], scored[1] if compute_entropy else None, None

    def _score_alive(self, model: Any, batch: dict[str, Any], num_steps: int) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities and entropies [N, C], those of blocks whose advantages are all zero without a gradient.

        Exact: where beta and the entropy bonus are zero, every loss multiplies a row's log-probabilities by its advantage.
        """
        rows_BG = torch.arange(len(batch["input_ids"])).view(-1, self._block)
        is_alive_B = torch.ones(len(rows_BG), dtype=torch.bool)
        is_plain = self.beta == 0.0 and not self._entropy_bonus_enabled
        if is_plain and self._advantages is not None and self.accelerator.num_processes == 1:  # else processes would wait for each other
            is_scored_B = batch["attention_mask"][:, -num_steps:].any(dim=1).view(rows_BG.shape).any(dim=1)
            is_alive_B = (self._advantages.view(rows_BG.shape) != 0).any(dim=1) & is_scored_B
            if not bool(is_alive_B.any()):  # a loss needs a gradient, if only of zeros
                is_alive_B[is_scored_B.int().argmax()] = True
            is_alive_B = is_alive_B.cpu()
        alive, ended = rows_BG[is_alive_B].flatten(), rows_BG[~is_alive_B].flatten()
        scored = self._score(model, batch, alive.tolist(), num_steps)
        if not len(ended):
            return scored
        with torch.no_grad():
            constant = self._score(model, batch, ended.tolist(), num_steps)
        order = torch.cat([alive, ended]).argsort().to(scored[0].device)
        logps, entropies = join([scored, constant])
        return logps[order], None if entropies is None else entropies[order]

    def _score(self, model: Any, batch: dict[str, Any], rows: list[int], num_steps: int) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities and entropies of these rows, blocks with one prompt each."""
        assert self.groups is not None
        assert self._row_groups is not None
        leaders = rows[:: self._block]
        mask_NC = batch["attention_mask"][rows, -num_steps:]
        if not bool(mask_NC.any()):
            return mask_NC.new_zeros(mask_NC.shape, dtype=torch.float32), mask_NC.new_zeros(mask_NC.shape, dtype=torch.float32)
        prompts = Prompts(
            ids_BP=batch["input_ids"][leaders, :-num_steps],
            mask_BP=batch["attention_mask"][leaders, :-num_steps],
            types_BP=None if (types := batch.get("mm_token_type_ids")) is None else types[leaders, :-num_steps],
            **self.groups.images_of([self._row_groups[row] for row in leaders]),
        )
        with self.accelerator.autocast():
            return score(model, prompts, batch["input_ids"][rows, -num_steps:], mask_NC, self._base(model))

    def _check(self, plain_S: Tensor, shared_S: Tensor) -> bool:
        """Whether one group's log-probabilities are TRL's; if not, TRL's way is taken from now on."""
        self._is_checked = True
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else self.model.dtype
        difference = (plain_S - shared_S.detach()).abs().float()
        found = float(difference.max() if dtype == torch.float32 else difference.mean())
        if found <= TOLERANCE[dtype]:
            logger.info("prompts are shared within groups: log-probabilities differ by %.1e from TRL's own", found)
            return True
        self.shares_prefix, self._block = False, 0
        logger.warning(
            "SHARED PREFIXES ARE OFF: log-probabilities differ by %.1e from TRL's own and %.0e is allowed. The run goes on without them; "
            "set [trainer] share_prefix = false and report this",
            found,
            TOLERANCE[dtype],
        )
        return False


def is_grouped(prompts: Sequence[Any], num_generations: int) -> bool:
    """Whether every prompt, images included, comes `num_generations` times in a row."""
    return len(prompts) % num_generations == 0 and all(prompt == prompts[row - row % num_generations] for row, prompt in enumerate(prompts))


def collate(
    ids: Sequence[Sequence[int]],
    images: Sequence[Any] | None,
    fields: Mapping[str, Any],
    num_generations: int,
    pad_id: int,
    device: torch.device,
) -> ProcessedGroups:
    """Prompts as the processor gives them without padding, padded on the left; `images` only says how many each prompt has."""
    rows = [torch.tensor(row) for row in ids]
    types = fields.get("mm_token_type_ids")
    found = {name: torch.as_tensor(np.asarray(fields[name])) for name in ("pixel_values", "image_grid_thw") if name in fields}
    prompts = Prompts(
        ids_BP=pad(rows, padding_value=pad_id, padding_side="left"),
        mask_BP=pad([torch.ones_like(row) for row in rows], padding_value=0, padding_side="left"),
        types_BP=None if types is None else pad([torch.tensor(row) for row in types], padding_value=0, padding_side="left"),
        **found,
    ).to(device)
    split: tuple[tuple[Tensor, Tensor], ...] = ()
    if images is not None and prompts.pixel_values is not None and prompts.image_grid_thw is not None:
        grids = torch.split(prompts.image_grid_thw, [len(own or ()) for own in images])
        patches = torch.split(prompts.pixel_values, [int(grid.prod(dim=1).sum()) for grid in grids])
        split = tuple(zip(patches, grids, strict=True))
    return ProcessedGroups(prompts=prompts, images=split, num_generations=num_generations)


def gather_groups(batches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows in as many micro-batches of the same size, groups together, in the order in which they first appear."""
    rows = {name: value for name, value in batches[0].items() if value is not None and value.ndim}
    merged = {name: torch.cat([batch[name] for batch in batches]) for name in rows}
    members: dict[int, list[int]] = {}
    for row, group in enumerate(merged["group_id"].tolist()):
        members.setdefault(group, []).append(row)
    order = torch.tensor([row for own in members.values() for row in own])
    ordered = {name: value[order.to(value.device)] for name, value in merged.items()}
    split: list[dict[str, Any]] = split_tensor_dict({**batches[0], **ordered}, len(batches))
    return split


def join(parts: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities and entropies of all parts."""
    entropies = [entropy for _, entropy in parts if entropy is not None]
    return torch.cat([logps for logps, _ in parts]), torch.cat(entropies) if entropies else None
