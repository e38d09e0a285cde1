"""GRPO with each prompt computed once per group: TRL's trainer, with TRL's losses and metrics, at a fraction of the arithmetic.

This trainer overrides the methods in which TRL processes prompts G times (docs/sharing.md lists them in the order of a step):

- the processor runs once per group, where TRL prepares every image 2 G times; a frozen vision tower runs once per image;
- `rollout` generates the completions and `update` scores them, those of the reference included;
- the update continues from the rollout's prefill when the weights are unchanged and its autograd graph is kept;
- groups stay together when a rollout is split into micro-batches, in the order in which TRL's shuffle first meets them.

Batches that do not consist of whole groups, and settings that shared prompts do not support, use TRL's own code. The first update of
each kind is compared with TRL's log-probabilities, and TRL's code is used for the rest of the run if they differ.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import torch
from trl.models import unwrap_model_for_generation

from osler.errors import ConfigError, PolicyError
from osler.policies.vision_features import FeatureStore, FrozenVision, fingerprint_processor, has_same_tower, is_frozen
from osler.training.rollout_state import RolloutSizes, RolloutState, read_batches
from osler.training.shared_prefix import sharded_weights
from osler.training.shared_prefix.attention import PromptCache, attention_dtype, groups_within, install, query_heads_per_key
from osler.training.shared_prefix.dynamic_sampling import find_equal, replace_groups
from osler.training.shared_prefix.groups import Groups, collect, gather_groups, group_tensors, is_grouped, read_groups
from osler.training.shared_prefix.packed_row import find_obstacle, hidden_behind, prefill
from osler.training.shared_prefix.rollout import Decoding, Rollout, decode
from osler.training.shared_prefix.sharded_weights import UnshardedCopy
from osler.training.shared_prefix.static_decoders import StaticDecoders
from osler.training.shared_prefix.step import GenerationStep
from osler.training.shared_prefix.update import RECORDED, SharedUpdate
from osler.training.tensor_file import TensorFile

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
"""Arguments of `generate` that TRL passes and the shared rollout supports, or requires at their default."""


class SharedPrefixGRPOTrainer(SharedUpdate):
    """Osler's GRPO trainer: shared prompts where the model and the settings allow it, else TRL's own code."""

    processing_class: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        model = kwargs.get("model", args[0] if args else None)
        if isinstance(model, torch.nn.Module) and any(weight.is_meta for weight in model.parameters()):
            raise PolicyError("the policy has weights on the meta device: load them onto the CPU or a GPU before training")
        super().__init__(*args, **kwargs)
        self.vision: FrozenVision | None = None
        self.decoders = StaticDecoders()
        self._unsharded: UnshardedCopy | None = None  # for the rollout, when weights are sharded by FSDP
        models = [self._base(model) for model in (self.model, self.ref_model) if model is not None]
        obstacle = self._find_obstacle() or next(filter(None, map(find_obstacle, models)), None)
        self.shares_prefix = obstacle is None
        if obstacle is not None:
            self.log_once(f"prompts are not shared within groups: {obstacle}")
            if self.sharing.dynamic_sampling:
                raise ConfigError(f"[trainer] dynamic_sampling needs shared prefixes, and there are none because {obstacle}: set it to 0")
            return
        for model in models:
            install(model)
        if sharded_weights.is_sharded(self):
            self._is_lockstep = True
            if self.sharing.vision_cache is not None:
                raise ConfigError("[trainer] vision_cache needs the whole vision tower on every process, and weights are sharded: drop it")
            self._unsharded = UnshardedCopy(models[0], self.accelerator.device) if self.is_fsdp_enabled else None
        elif is_frozen(models[0]):
            folder = self.sharing.vision_cache
            store = FeatureStore(folder, self.sharing.vision_cache_bytes) if folder is not None else None
            # The same weights give other features in mixed precision.
            settings = f"{fingerprint_processor(self.processing_class)} {self.accelerator.mixed_precision}"
            self.vision = FrozenVision(models[0], store, settings)
        self._has_one_tower = self.vision is not None and (len(models) == 1 or has_same_tower(*models))

    def _find_obstacle(self) -> str | None:
        if (obstacle := sharded_weights.find_obstacle(self)) is not None:
            return obstacle
        if self.tools or self.environment_factories is not None or self.rollout_func is not None:
            return "completions are written with tools"
        if self.args.per_device_train_batch_size * self.args.steps_per_generation % self.num_generations:
            return f"a group of {self.num_generations} completions lies on several processes"
        return "experts are balanced" if self.aux_loss_enabled else None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's training; the memory of static decoding is free when it ends."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.decoders.clear()

    @property
    def shares_rollout(self) -> bool:
        """Whether the shared rollout samples from the same distribution as TRL's."""
        if self.use_vllm or self.use_transformers_continuous_batching:
            return False
        is_plain = self.repetition_penalty in (None, 1.0) and self.generation_kwargs.get("cache_implementation") is None
        return is_plain and self.pad_to_multiple_of is None and self.generation_kwargs.keys() <= ROLLOUT_SETTINGS

    def _keeps_graph(self, generation: GenerationStep) -> bool:
        """Whether the update can continue from the rollout's prefill: it is the only update, so the weights are unchanged."""
        is_only = self.args.steps_per_generation == 1 and self.num_iterations == 1
        fits = not generation.bound or len(generation.groups.members) <= generation.bound
        return is_only and fits and not self.args.gradient_checkpointing and not sharded_weights.is_sharded(self)

    def _bound(self, groups: Groups) -> int:
        """How many groups one forward pass holds: the setting, or on a GPU as many as free memory has room for; 0: no bound."""
        device = self.accelerator.device
        if self.sharing.groups_per_forward or device.type != "cuda":
            return self.sharing.groups_per_forward
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return groups_within(
            torch.cuda.mem_get_info(device)[0] + unused,
            num_generations=groups.num_generations,
            repeats=query_heads_per_key(self._base(self.model)),
            prompt=max(len(group.ids_P) for group in groups.members),
            completion=self.max_completion_length,
            itemsize=attention_dtype(device, self._precision).itemsize,
        )

    @property
    def keeps_groups(self) -> bool:
        """Whether groups may be kept together in micro-batches: not when terms of the loss are means over the tokens of a micro-batch."""
        is_whole = self.args.steps_per_generation == 1
        return is_whole or (self.loss_type != "bnpo" and not self._entropy_bonus_enabled and self.top_entropy_quantile == 1.0)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        after = self._buffered_inputs
        if not self.model.training or after is before or "group_id" not in after[0] or not self.keeps_groups:
            return inputs
        self._buffered_inputs = gather_groups(after)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        if not self.shares_prefix or not self.model.training:
            return super()._generate_and_score_completions(inputs)
        output = self._roll_out_groups(inputs)
        return self._resample(output) if self.sharing.dynamic_sampling and self.generation is not None else output

    def _roll_out_groups(self, inputs: Any) -> Any:
        """TRL's rollout of a batch with every prompt computed once; sets `generation`."""
        processor = self.processing_class
        self.generation = None
        self.processing_class = GroupProcessor(processor, lambda: None if self.generation is None else self.generation.groups)
        try:
            output = super()._generate_and_score_completions(inputs)
            if self.generation is None or self.generation.rows is None:
                return output
            output["group_id"] = torch.tensor(self.generation.rows.group_ids)
            for name in ("pixel_values", "image_grid_thw", "num_images"):  # `groups` holds them
                output.pop(name, None)
            rollout = self.generation.rollout
            if rollout is not None and self.skips_zeros and rollout.logps_NT is not None:
                output |= dict(zip(RECORDED, (rollout.logps_NT, rollout.entropies_NT), strict=True))
            return output
        finally:
            self.processing_class = processor
            if self.generation is not None:
                self.generation.end_rollout()

    def _resample(self, output: dict[str, Any]) -> dict[str, Any]:
        """Replace groups without advantage by other questions, for at most `dynamic_sampling` rounds.

        The logged metrics stay those of the questions of the batch, so that resampling does not improve them.
        """
        generation, metrics = self.generation, {name: list(values) for name, values in self._metrics["train"].items()}
        assert generation is not None
        times, num_resampled = self.num_generations, 0
        equal = find_equal(output["advantages"], times)
        for number in range(self.sharing.dynamic_sampling):
            if not equal:
                break
            draw = random.Random(f"{self.args.seed} {self._step} {number}")
            questions = [self.train_dataset[draw.randrange(len(self.train_dataset))] for _ in equal]
            fresh = self._roll_out_groups([row for row in questions for _ in range(times)])
            assert self.generation is not None
            num_resampled += len(equal)
            useful = [group for group in range(len(questions)) if group not in find_equal(fresh["advantages"], times)]
            if useful:
                places = dict(zip(equal, useful, strict=False))
                output = replace_groups(output, fresh, places, times, self._tokenizer.pad_token_id)
                generation.groups.replace(self.generation.groups, places)
                equal = equal[len(useful) :]
        self.generation = generation
        metrics["num_tokens"] = self._metrics["train"]["num_tokens"]
        self._metrics["train"] = defaultdict(list, metrics)
        self._metrics["train"]["dynamic_sampling/resampled_groups"].append(float(num_resampled))
        self._metrics["train"]["dynamic_sampling/groups_without_advantage"].append(len(equal) / len(generation.groups.members))
        return output

    def rollout_tensors(self) -> dict[str, torch.Tensor]:
        """What remains of the rollout, for a checkpoint, with its groups."""
        return super().rollout_tensors() | ({} if self.generation is None else group_tensors(self.generation.groups))

    def restore_rollout(self, file: TensorFile, state: RolloutState) -> None:
        """Take back what `rollout_tensors` gave. Raises DataError for a file of other tensors."""
        sizes = RolloutSizes.of(self, self._base(self.model).config)
        if file.has("0/group_id"):
            groups = read_groups(file, sizes, self.num_generations, self._tokenizer.pad_token_id, self.accelerator.device)
            self.generation = GenerationStep(groups=groups, bound=self.sharing.groups_per_forward or state.group_bound)
        self._buffered_inputs = read_batches(file, sizes, self.accelerator.device)

    def _tokenize_prompts(self, prompts: Any) -> Any:
        times = self.num_generations
        if not self.shares_prefix or not self.model.training or not is_grouped(prompts, times):
            return super()._tokenize_prompts(prompts)
        ids, images, fields = super()._tokenize_prompts(prompts[::times])
        groups = collect(ids, images, fields, times, self._tokenizer.pad_token_id, self.accelerator.device)
        bound = self._bound(groups)
        if self.vision is not None and images is not None:
            with self.accelerator.autocast():
                groups.encode_images(self.vision, bound)
        self.generation = GenerationStep(groups=groups, bound=bound)
        self.generation.begin_rollout(len(prompts))
        rows = [row // times for row in range(len(prompts))]
        if not self.shares_rollout:
            fields = {name: [fields[name][row] for row in rows] for name in fields.keys() & {"mm_token_type_ids"}}
            fields |= groups.images_of(rows)
        return [ids[row] for row in rows], [images[row] for row in rows] if images is not None else None, fields

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> Any:
        plain = prompt_ids, images, multimodal_fields, num_generations, has_tool_images
        generation = self.generation
        if generation is None or generation.rows is None:
            return super()._generate_single_turn(*plain)
        if self.use_vllm:
            return self._generate_with_vllm(*plain)
        if not self.shares_rollout:
            return super()._generate_single_turn(*plain)
        groups = generation.groups
        keeps_graph = self._keeps_graph(generation)
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
        chunks = groups.chunks(1 if self.sharing.dynamic_sampling else max(generation.bound, 1))
        with self._unwrapped_policy() as model, self.accelerator.autocast():
            with torch.set_grad_enabled(keeps_graph):
                caches = tuple(prefill(model, groups.prompts(chunk)) for chunk in chunks)
            generation.rollout = self._write(model, caches, decoding)
        prefills = list(zip(caches, chunks, strict=True))
        groups.graph = prefills if keeps_graph else []
        generation.prefills = prefills if self._asks_again else ()
        return generation.rollout.completion_ids, None

    def _write(self, model: Any, caches: tuple[PromptCache, ...], decoding: Decoding) -> Rollout:
        """The completions of a rollout, behind its cached prompts."""
        return decode(
            model, caches, self.num_generations, decoding, scores=self.skips_zeros or self.uses_rollout_logps, decoders=self.decoders
        )

    def _letter_logits(self, inputs: Any, prompts: Any, begins: Sequence[tuple[int, str]]) -> torch.Tensor:
        generation = self.generation
        if generation is None or generation.rows is None:
            return super()._letter_logits(inputs, prompts, begins)
        ids = self._tokenizer([text for _, text in begins], add_special_tokens=False)["input_ids"]
        places: defaultdict[int, list[int]] = defaultdict(list)  # of each group, its places in `begins`
        for place, (row, _) in enumerate(begins):
            places[generation.rows.group_ids[row]].append(place)
        size = generation.bound
        logits, order = [], []
        with self._unwrapped_policy() as model, torch.no_grad(), self.accelerator.autocast():
            if not generation.prefills:  # another engine wrote the completions
                chunks = generation.groups.chunks(max(size, 1))
                generation.prefills = [(prefill(model, generation.groups.prompts(chunk)), chunk) for chunk in chunks]
            asked = [(cache, chunk) for cache, chunk in generation.prefills if places.keys() & set(chunk)]
            for part in [[pair] for pair in asked] if size else [asked]:
                texts = [[[ids[place] for place in places[group]] for group in chunk] for _, chunk in part]
                hidden = hidden_behind(model, [cache for cache, _ in part], texts)
                logits.append(model.lm_head(hidden)[:, list(self._letters)].float())
                order += [place for _, chunk in part for group in chunk for place in places[group]]
        return torch.cat(logits)[torch.tensor(order).argsort()]

    @contextmanager
    def _unwrapped_policy(self) -> Iterator[Any]:
        """The Transformers model with all its weights on this process and gradient checkpointing off."""
        options = self.args.gradient_checkpointing_kwargs
        with (
            unwrap_model_for_generation(self.model_wrapped, self.accelerator, gradient_checkpointing_kwargs=options) as model,
            nullcontext(self._base(model)) if self._unsharded is None else self._unsharded.full_weights(self._base(model)) as base,
        ):
            yield base

    def _generate_with_vllm(self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool) -> Any:
        """TRL's vLLM path. In colocate mode each prompt is sent once with n = G, where TRL sends G copies with n = 1.

        TRL already does so in server mode. With tensor parallelism, processes gather each other's prompts, one for each completion.
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


class GroupProcessor:
    """Stands in for the processor during a rollout: TRL's second call for the same prompts returns the result of the first."""

    def __init__(self, processor: Any, groups: Callable[[], Groups | None]) -> None:
        self._processor = processor
        self._groups = groups  # the groups of the rollout, None before `_tokenize_prompts`
        self._rendered: tuple[Any, str] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The processor's output for the prompts of this rollout; before they are known, that of the processor itself."""
        groups = self._groups()
        return self._processor(*args, **kwargs) if groups is None else groups.repeat()

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """The rendered prompt; a prompt that comes G times in a row is rendered once."""
        if kwargs.get("tokenize", True) or self._groups() is None:
            return self._processor.apply_chat_template(conversation, *args, **kwargs)
        if self._rendered is None or self._rendered[0] != conversation:
            self._rendered = conversation, self._processor.apply_chat_template(conversation, *args, **kwargs)
        return self._rendered[1]
