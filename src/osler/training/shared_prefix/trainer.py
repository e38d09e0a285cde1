"""GRPO with each prompt computed once per group: TRL's losses and metrics, at a fraction of the arithmetic.

Between TRL's own steps this trainer

- runs the processor once per group, where TRL prepares every image 2G times, and a frozen vision tower once per image;
- writes the completions with `rollout` and scores them with `update`, the reference's log-probabilities included;
- lets the update go on from the prompts that the rollout read, where the weights are the same and the graph may be kept;
- takes from the rollout the log-probabilities of the old policy, and of completions whose advantage is zero, because their gradient is;
- keeps groups together where a rollout is cut into micro-batches, in the order in which TRL's shuffle first meets them.

Whatever is not made of whole groups, and whatever the shared computation does not cover, goes TRL's way. The first update compares one
group with TRL's own log-probabilities and returns to TRL for the rest of the run if they differ.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import torch
from trl.models import unwrap_model_for_generation

from osler.errors import ConfigError, PolicyError
from osler.policies.vision_features import FeatureStore, FrozenVision, fingerprint_processor, has_same_tower, is_frozen
from osler.training.shared_prefix import sharded_weights
from osler.training.shared_prefix.attention import install
from osler.training.shared_prefix.dynamic_sampling import find_equal, replace_groups
from osler.training.shared_prefix.groups import GroupProcessor, collect, gather_groups, is_grouped
from osler.training.shared_prefix.packed_row import find_obstacle
from osler.training.shared_prefix.rollout import Decoding, roll_out
from osler.training.shared_prefix.sharded_weights import WholeCopy
from osler.training.shared_prefix.update import RECORDED, SharedUpdate

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


class SharedPrefixGRPOTrainer(SharedUpdate):
    """Osler's GRPO trainer with shared prefixes where model and settings allow, else without."""

    processing_class: Any
    _buffered_inputs: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        model = kwargs.get("model", args[0] if args else None)
        if isinstance(model, torch.nn.Module) and any(weight.is_meta for weight in model.parameters()):
            raise PolicyError("the policy has weights on the meta device: load them onto the CPU or a GPU before training")
        super().__init__(*args, **kwargs)
        self.vision: FrozenVision | None = None
        self._copy: WholeCopy | None = None  # to roll out where weights are sharded
        models = [self._base(model) for model in (self.model, self.ref_model) if model is not None]
        obstacle = self._find_obstacle() or next(filter(None, map(find_obstacle, models)), None)
        self.shares_prefix = obstacle is None
        if obstacle is not None:
            self._tell(f"prompts are not shared within groups: {obstacle}")
            if self.sharing.dynamic_sampling:
                raise ConfigError(f"[trainer] dynamic_sampling needs shared prefixes, and there are none because {obstacle}: set it to 0")
            return
        for model in models:
            install(model)
        if sharded_weights.is_sharded(self):
            self._must_agree = True
            if self.sharing.vision_cache is not None:
                raise ConfigError("[trainer] vision_cache needs the whole vision tower on every process, and weights are sharded: drop it")
            self._copy = WholeCopy(models[0], self.accelerator.device) if self.is_fsdp_enabled else None
        elif is_frozen(models[0]):
            folder = self.sharing.vision_cache
            store = FeatureStore(folder, self.sharing.vision_cache_bytes) if folder is not None else None
            # The same weights give other features in mixed precision.
            seen_by = f"{fingerprint_processor(self.processing_class)} {self.accelerator.mixed_precision}"
            self.vision = FrozenVision(models[0], store, seen_by)
        self._has_one_tower = self.vision is not None and (len(models) == 1 or has_same_tower(*models))

    def _find_obstacle(self) -> str | None:
        if (obstacle := sharded_weights.find_obstacle(self)) is not None:
            return obstacle
        if self.tools or self.environment_factories is not None or self.rollout_func is not None:
            return "completions are written with tools"
        if self.args.per_device_train_batch_size * self.args.steps_per_generation % self.num_generations:
            return f"a group of {self.num_generations} completions lies on several processes"
        return "experts are balanced" if self.aux_loss_enabled else None

    @property
    def shares_rollout(self) -> bool:
        """Whether the shared rollout draws what TRL's would."""
        if self.use_vllm or self.use_transformers_continuous_batching:
            return False
        is_plain = self.repetition_penalty in (None, 1.0) and self.generation_kwargs.get("cache_implementation") is None
        return is_plain and self.pad_to_multiple_of is None and self.generation_kwargs.keys() <= ROLLOUT_SETTINGS

    @property
    def keeps_graph(self) -> bool:
        """Whether an update may go on from the prompts that its rollout read: it is the only one, and the weights are still the same."""
        is_only = self.args.steps_per_generation == 1 and self.num_iterations == 1
        limit = self.sharing.groups_per_forward
        fits = not limit or self.groups is None or len(self.groups.members) <= limit
        return is_only and fits and not self.args.gradient_checkpointing and not sharded_weights.is_sharded(self)

    @property
    def keeps_groups(self) -> bool:
        """Whether the loss allows any split into micro-batches: some terms are means over the tokens of each."""
        is_whole = self.args.steps_per_generation == 1
        return is_whole or (self.loss_type != "bnpo" and not self._entropy_bonus_enabled and self.top_entropy_quantile == 1.0)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        if not self.shares_prefix or not self.model.training:
            return super()._generate_and_score_completions(inputs)
        output = self._roll_out_groups(inputs)
        return self._resample(output) if self.sharing.dynamic_sampling and "group_id" in output else output

    def _resample(self, output: dict[str, Any]) -> dict[str, Any]:
        """A rollout with other questions in the places of those whose completions all earned the same, as far as the rounds allow.

        The metrics stay those of the questions that were first asked, so that they are no better for it.
        """
        groups, metrics = self.groups, {name: list(values) for name, values in self._metrics["train"].items()}
        assert groups is not None
        times, num_fresh = self.num_generations, 0
        equal = find_equal(output["advantages"], times)
        for number in range(self.sharing.dynamic_sampling):
            if not equal:
                break
            draw = random.Random(f"{self.args.seed} {self._step} {number}")
            asked = [self.train_dataset[draw.randrange(len(self.train_dataset))] for _ in equal]
            fresh = self._roll_out_groups([row for row in asked for _ in range(times)])
            num_fresh += len(equal)
            found = [group for group in range(len(asked)) if group not in find_equal(fresh["advantages"], times)]
            if found:
                places = dict(zip(equal, found, strict=False))
                output = replace_groups(output, fresh, places, times, self._tokenizer.pad_token_id)
                groups.replace(self.groups, places)
                equal = equal[len(found) :]
        self.groups = groups
        metrics["num_tokens"] = self._metrics["train"]["num_tokens"]
        self._metrics["train"] = defaultdict(list, metrics)
        self._metrics["train"]["dynamic_sampling/resampled_groups"].append(float(num_fresh))
        self._metrics["train"]["dynamic_sampling/groups_without_advantage"].append(len(equal) / len(groups.members))
        return output

    def _roll_out_groups(self, inputs: Any) -> Any:
        """TRL's rollout of a batch, every prompt of it computed once."""
        processor = self.processing_class
        self.processing_class, self.groups = GroupProcessor(processor, self), None
        try:
            output = super()._generate_and_score_completions(inputs)
            if self._row_groups is not None:
                output["group_id"] = torch.tensor(self._row_groups)
                for name in ("pixel_values", "image_grid_thw", "num_images"):  # `groups` holds them
                    output.pop(name, None)
            if self._rollout is not None and self.skips_zeros and self._rollout.logps_NT is not None:
                output |= dict(zip(RECORDED, (self._rollout.logps_NT, self._rollout.entropies_NT), strict=True))
            return output
        finally:
            self.processing_class, self._row_groups, self._block, self._rollout = processor, None, 0, None

    def _tokenize_prompts(self, prompts: Any) -> Any:
        times = self.num_generations
        if not self.shares_prefix or not self.model.training or not is_grouped(prompts, times):
            return super()._tokenize_prompts(prompts)
        rows = [row // times for row in range(len(prompts))]
        ids, images, fields = super()._tokenize_prompts(prompts[::times])
        self._row_groups, self._block = rows, times
        self.groups = collect(ids, images, fields, times, self._tokenizer.pad_token_id, self.accelerator.device)
        if self.vision is not None and images is not None:
            with self.accelerator.autocast():
                self.groups.see(self.vision, self.sharing.groups_per_forward)
        if not self.shares_rollout:
            fields = {name: [fields[name][row] for row in rows] for name in fields.keys() & {"mm_token_type_ids"}}
            fields |= self.groups.images_of(rows)
        return [ids[row] for row in rows], [images[row] for row in rows] if images is not None else None, fields

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> Any:
        plain = prompt_ids, images, multimodal_fields, num_generations, has_tool_images
        if self._row_groups is None or self.groups is None:
            return super()._generate_single_turn(*plain)
        if self.use_vllm:
            return self._ask_vllm(*plain)
        if not self.shares_rollout:
            return super()._generate_single_turn(*plain)
        decoding = Decoding(
            max_new_tokens=self.max_completion_length,
            stop_ids=tuple(self.eos_token_ids),
            pad_id=self._tokenizer.pad_token_id,
            suppressed_ids=tuple(self.generation_kwargs.get("suppress_tokens") or ()),
            temperature=self.temperature,
            top_k=self.top_k or 0,
            top_p=self.top_p,
            min_p=self.min_p,
            is_static=self.sharing.static_decoding,
        )
        chunks = self.groups.chunks(1 if self.sharing.dynamic_sampling else max(self.sharing.groups_per_forward, 1))
        with self._whole_policy() as model, self.accelerator.autocast():
            self._rollout = roll_out(
                model,
                [self.groups.prompts(chunk) for chunk in chunks],
                self.groups.num_generations,
                decoding,
                keeps_graph=self.keeps_graph,
                scores=self.skips_zeros or self.wants_old,
            )
        if self.keeps_graph:
            self.groups.graph = list(zip(self._rollout.chunks, chunks, strict=True))
        return self._rollout.completion_ids, None

    @contextmanager
    def _whole_policy(self) -> Iterator[Any]:
        """The Transformers model with all its weights on this process, without gradient checkpoints."""
        options = self.args.gradient_checkpointing_kwargs
        with (
            unwrap_model_for_generation(self.model_wrapped, self.accelerator, gradient_checkpointing_kwargs=options) as model,
            nullcontext(self._base(model)) if self._copy is None else self._copy.filled(self._base(model)) as base,
        ):
            yield base

    def _ask_vllm(self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool) -> Any:
        """TRL's way, but a process of its own asks for G completions of each prompt where TRL asks for one of each of G copies.

        A server is asked so by TRL; processes that share a model gather each other's prompts, one for each completion.
        """
        vllm = self.vllm_generation
        if vllm.mode != "colocate" or vllm.tensor_parallel_size > 1:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, has_tool_images)
        settings = vllm.generation_kwargs
        vllm.generation_kwargs = {**settings, "n": num_generations}
        own = images[::num_generations] if images is not None else None
        try:
            return super()._generate_single_turn(prompt_ids[::num_generations], own, multimodal_fields, num_generations, has_tool_images)
        finally:
            vllm.generation_kwargs = settings

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        fresh = self._buffered_inputs
        if not self.model.training or fresh is before or "group_id" not in fresh[0] or not self.keeps_groups:
            return inputs
        self._buffered_inputs = gather_groups(fresh)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]
