"""The engine that generates with Transformers in this process, for evaluation and for `ask`.

A thread prepares the next batch while the model generates for the current one. Every sampling parameter is set in each call, so defaults of
a checkpoint or of a version of Transformers never apply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from osler.config import SamplingConfig
from osler.errors import DataError, EngineError
from osler.evaluation.engines.features import FeatureCache
from osler.evaluation.engines.options import LetterRecorder
from osler.evaluation.engines.streaming import TextStream
from osler.policies.image_tokens import check_study_tokens
from osler.policies.letters import find_letter_tokens
from osler.policies.load import Policy
from osler.policies.precision import spare_core, without_gradient
from osler.types import Completion, FinishReason, ImageSource, Prompt

if TYPE_CHECKING:
    from PIL.Image import Image

CACHED_IMAGES: Final = 64
"""Decoded images in memory, because neighbouring questions are often about the same image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Prompts that are generated for together."""

    positions: tuple[int, ...]  # indices of the prompts in the call
    images: tuple[ImageSource, ...]  # of all prompts, in order
    inputs: dict[str, Any]  # of the model, left-padded, on the CPU


class HfEngine:
    """Generates in batches of prompts of similar length.

    `option_probabilities` adds the probability of each choice to the completions. `max_prompt_length` in tokens; None for no limit.
    `is_bf16` computes in bfloat16 with weights of any precision, as mixed-precision training does.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        batch_size: int = 32,
        max_prompt_length: int | None = None,
        option_probabilities: bool = False,
        is_bf16: bool = False,
    ) -> None:
        self.policy = policy
        self.is_bf16 = is_bf16
        self.letters = find_letter_tokens(policy.tokenizer) if option_probabilities else None
        self.batch_size = batch_size
        self.max_prompt_length = max_prompt_length
        self._load_cached: Any = lru_cache(maxsize=CACHED_IMAGES)(lambda source: source.load())

    @property
    def policy_name(self) -> str:
        """The name of the policy."""
        return self.policy.name

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_completion_length: int,
        num_generations: int = 1,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        on_text: Callable[[str], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`. `on_text` gets the text of the only completion of the only prompt as it comes, without the prefix.

        Raises EngineError for a prompt that is too long and for several greedy completions, and ConfigError where the processor cannot keep
        `[data.study] max_tokens`.
        """
        import torch

        if on_text is not None and (len(prompts), num_generations) != (1, 1):
            raise EngineError("the text of one completion can be passed on as it comes, not that of several")
        check_study_tokens(prompts, self.policy.processor)
        settings = self._settings(max_completion_length, num_generations, sampling)
        groups: dict[int, list[Completion]] = {}
        features = FeatureCache(self.policy.model)
        devices = [self.policy.device] if self.policy.device.type == "cuda" else []
        mixed = torch.autocast(self.policy.device.type, dtype=torch.bfloat16, enabled=self.is_bf16)
        with torch.random.fork_rng(devices=devices), mixed, without_gradient(self.policy.model), spare_core(self.policy.device):
            torch.manual_seed(seed)
            for batch in self._prepare(prompts):
                inputs = {name: tensor.to(self.policy.device) for name, tensor in batch.inputs.items()}
                recorder = LetterRecorder(letters=self.letters) if self.letters is not None else None
                stream = None if on_text is None else TextStream(self.policy.tokenizer, settings.eos_token_id, on_text)
                with features.use_for(batch.images):
                    tokens = self.policy.model.generate(
                        **inputs,
                        generation_config=settings,
                        logits_processor=[recorder] if recorder is not None else None,
                        streamer=stream,
                    )
                completions = self._read(tokens[:, inputs["input_ids"].shape[1] :].tolist(), settings.eos_token_id)
                if recorder is not None:
                    repeated = [prompts[position] for position in batch.positions for _ in range(num_generations)]
                    pairs = zip(completions, recorder.read(self.policy.tokenizer, completions, repeated), strict=True)
                    completions = [replace(completion, option_probabilities=probs) for completion, probs in pairs]
                for row, position in enumerate(batch.positions):
                    group = completions[row * num_generations : (row + 1) * num_generations]
                    groups[position] = [replace(completion, text=prompts[position].prefix + completion.text) for completion in group]
        return [groups[position] for position in range(len(prompts))]

    def _settings(self, max_completion_length: int, num_generations: int, sampling: SamplingConfig | None) -> Any:
        """All generation parameters, so that no default applies."""
        from transformers import GenerationConfig

        model = self.policy.model
        decoding: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0}
        if sampling is not None:
            decoding = {"do_sample": True, **sampling.model_dump(exclude={"max_completion_length"}), "min_p": sampling.min_p or 0.0}
        elif num_generations > 1:
            raise EngineError("greedy completions of one prompt are all the same: give sampling settings for num_generations above 1")
        return GenerationConfig(
            **decoding,
            max_new_tokens=max_completion_length,
            num_return_sequences=num_generations,
            eos_token_id=model.generation_config.eos_token_id,
            pad_token_id=self.policy.tokenizer.pad_token_id,
            suppress_tokens=[model.config.image_token_id],  # a generated image token would need an image
            use_cache=True,
        )

    def _prepare(self, prompts: Sequence[Prompt]) -> Iterator[_Batch]:
        """Batches of similar text length; the next one is prepared while the current one is used."""
        lengths = [len(prompt.text) + len(prompt.prefix) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda position: (lengths[position], position))
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        with ThreadPoolExecutor(max_workers=1) as pool:
            prepared = [pool.submit(self._encode, prompts, positions) for positions in batches[:1]]
            for positions in batches[1:]:
                prepared.append(pool.submit(self._encode, prompts, positions))
                yield prepared.pop(0).result()
            yield from (batch.result() for batch in prepared)

    def _encode(self, prompts: Sequence[Prompt], positions: Sequence[int]) -> _Batch:
        processor = self.policy.processor
        chosen = [prompts[position] for position in positions]
        texts = [
            processor.apply_chat_template(list(prompt.messages), add_generation_prompt=True, tokenize=False) + prompt.prefix
            for prompt in chosen
        ]
        images = [image for prompt in chosen for image in self._load(prompt)]
        inputs = dict(processor(text=texts, images=images or None, padding=True, return_tensors="pt"))
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        for prompt, length in zip(chosen, lengths, strict=True):
            if self.max_prompt_length is not None and length > self.max_prompt_length:
                raise EngineError(
                    f"{prompt.sample.id} takes {length} tokens and trainer.max_prompt_length is {self.max_prompt_length}: "
                    "raise it, lower policy.max_pixels, or show fewer data.study.slices"
                )
        sources = tuple(source for prompt in chosen for source in prompt.sample.images)
        return _Batch(positions=tuple(positions), images=sources, inputs=inputs)

    def _load(self, prompt: Prompt) -> list[Image]:
        try:
            return [self._load_cached(source) for source in prompt.sample.images]
        except DataError as error:
            raise DataError(f"{prompt.sample.id}: {error}") from None

    def _read(self, rows: Sequence[Sequence[int]], stops: Sequence[int]) -> list[Completion]:
        """Cut every row after its first stop token, which `token_ids` keeps."""
        cut = []
        for row in rows:
            end = next((position for position, token in enumerate(row) if token in stops), None)
            cut.append((row if end is None else row[: end + 1], FinishReason.LENGTH if end is None else FinishReason.STOP))
        texts = self.policy.tokenizer.batch_decode([row for row, _ in cut], skip_special_tokens=True)
        return [Completion(text=text, token_ids=tuple(row), finish_reason=reason) for text, (row, reason) in zip(texts, cut, strict=True)]
