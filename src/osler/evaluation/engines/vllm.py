"""The engine that generates with vLLM in this process, on a GPU, for large evaluations without a server.

Written to the offline interface of vLLM 0.33 (`LLM.generate`, `SamplingParams`, `CompletionOutput`). The chat template and the image
processor are those of the engine `hf`, and every sampling parameter is set. vLLM batches by itself; greedy answers may differ from those of
`hf` where two tokens are nearly equally likely.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from osler.config import Config, SamplingConfig
from osler.errors import DataError, EngineError, MissingExtra, PolicyError, first_line
from osler.evaluation.engines.options import find_answer
from osler.images.clip import Clip
from osler.policies.image_tokens import check_study_tokens, count_image_tokens
from osler.policies.letters import find_letter_tokens
from osler.policies.sources import Source, find_policy
from osler.types import Completion, FinishReason, Prompt

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_LETTER_TOKENS: Final = 128
"""Tokens whose log-probabilities vLLM gives at each step (MAX_LOGPROB_TOKEN_IDS)."""

SUPPRESSED: Final = -100.0
"""The lowest bias of a token that vLLM takes; it is never generated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmParts:
    """What the engine uses of a policy and of vLLM."""

    generate: Callable[..., Sequence[Any]]  # `LLM.generate`
    make_params: Callable[..., Any]  # `SamplingParams`
    processor: Any
    name: str  # of the policy
    errors: tuple[type[Exception], ...] = (ValueError, RuntimeError)  # of vLLM for what it does not take


class VllmEngine:
    """Generates for all prompts of a call at once. `max_prompt_length` in tokens; None for no limit."""

    def __init__(self, parts: VllmParts, *, max_prompt_length: int | None = None, option_probabilities: bool = False) -> None:
        self.parts = parts
        self.max_prompt_length = max_prompt_length
        self.letters = find_letter_tokens(parts.processor.tokenizer) if option_probabilities else {}

    @property
    def policy_name(self) -> str:
        """The name of the policy."""
        return self.parts.name

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_completion_length: int,
        num_generations: int = 1,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
    ) -> list[list[Completion]]:
        """See `Engine.generate`. Raises EngineError for a prompt that is too long, for a clip and for several greedy completions."""
        if sampling is None and num_generations > 1:
            raise EngineError("greedy completions of one prompt are all the same: give sampling settings for num_generations above 1")
        if not prompts:
            return []
        check_study_tokens(prompts, self.parts.processor)
        inputs = [self._input(prompt) for prompt in prompts]
        params = []
        for position, prompt in enumerate(prompts):
            letters = letter_ids(self.letters, len(prompt.sample.choices))
            asked = sampling_arguments(
                max_completion_length,
                num_generations,
                sampling,
                seed=_seed_of(seed, position),
                suppressed=[self.parts.processor.image_token_id],
                letters=letters,
            )
            params.append(self._make_params(asked))
        try:
            outputs = self.parts.generate(inputs, params, use_tqdm=False)
        except self.parts.errors as error:
            raise EngineError(f"vLLM does not generate: {first_line(error)}") from error
        return [
            [read_output(prompt, one, self.parts.processor.tokenizer, self.letters) for one in output.outputs]
            for prompt, output in zip(prompts, outputs, strict=True)
        ]

    def _make_params(self, arguments: Mapping[str, Any]) -> Any:
        try:
            return self.parts.make_params(**arguments)
        except self.parts.errors as error:
            raise EngineError(f"vLLM does not take the settings of [sampling]: {first_line(error)}") from error

    def _input(self, prompt: Prompt) -> dict[str, Any]:
        """The prompt as vLLM's TextPrompt: the text of the chat template, and the pictures of its image tokens in order."""
        if any(isinstance(source, Clip) for source in prompt.sample.images):
            raise EngineError(f'{prompt.sample.id} shows a clip, which the engine vllm does not take: set [data.study] layout = "images"')
        processor = self.parts.processor
        text = processor.apply_chat_template(list(prompt.messages), add_generation_prompt=True, tokenize=False) + prompt.prefix
        self._check_length(prompt, text)
        pictures = _load(prompt)
        return {"prompt": text, "multi_modal_data": {"image": pictures}} if pictures else {"prompt": text}

    def _check_length(self, prompt: Prompt, text: str) -> None:
        if self.max_prompt_length is None:
            return
        images = prompt.sample.images
        length = len(self.parts.processor.tokenizer(text)["input_ids"]) - len(images)  # each has one token in the text
        length += sum(count_image_tokens(source, self.parts.processor) for source in images)
        if length > self.max_prompt_length:
            raise EngineError(
                f"{prompt.sample.id} takes {length} tokens and trainer.max_prompt_length is {self.max_prompt_length}: "
                "raise it, lower policy.max_pixels, or show fewer data.study.slices"
            )


def _load(prompt: Prompt) -> list[Image]:
    try:
        return [source.load() for source in prompt.sample.images]
    except DataError as error:
        raise DataError(f"{prompt.sample.id}: {error}") from None


def _seed_of(seed: int, position: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{position}".encode()).digest()[:4], "big")


def sampling_arguments(
    max_completion_length: int,
    num_generations: int,
    sampling: SamplingConfig | None,
    *,
    seed: int,
    suppressed: Sequence[int],
    letters: Sequence[int] = (),
) -> dict[str, Any]:
    """The arguments of vLLM's SamplingParams for one prompt: every parameter, so that no default of the checkpoint applies.

    `suppressed` tokens are not generated. `letters` are the tokens whose log-probabilities are wanted at every step.
    """
    decoding: dict[str, Any] = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    if sampling is not None:
        decoding = {**sampling.model_dump(exclude={"max_completion_length"}), "min_p": sampling.min_p or 0.0}
    return {
        **decoding,
        "n": num_generations,
        "max_tokens": max_completion_length,
        "seed": seed,
        "logit_bias": dict.fromkeys(suppressed, SUPPRESSED),
        "skip_special_tokens": True,
        "detokenize": True,
        **({"logprobs": len(letters), "logprob_token_ids": list(letters)} if letters else {}),
    }


def letter_ids(letters: Mapping[int, int], num_choices: int) -> list[int]:
    """The tokens of the letters of a question; [] for an open question, and where there are more than vLLM gives."""
    found = [token_id for token_id, letter in letters.items() if letter < num_choices]
    return found if len(found) <= MAX_LETTER_TOKENS else []


def read_output(prompt: Prompt, output: Any, tokenizer: Any, letters: Mapping[int, int]) -> Completion:
    """The completion of a CompletionOutput; its tokens are decoded as those of the engine `hf`.

    Raises EngineError for an output that neither stopped nor reached the limit, such as one that was aborted.
    """
    if output.finish_reason not in tuple(FinishReason):
        raise EngineError(
            f"vLLM ended {prompt.sample.id} with {output.finish_reason!r}: look into its log, and give the same command again"
        )
    token_ids = tuple(output.token_ids)
    return Completion(
        text=prompt.prefix + tokenizer.decode(list(token_ids), skip_special_tokens=True),
        token_ids=token_ids,
        finish_reason=FinishReason(output.finish_reason),
        option_probabilities=_read_probabilities(prompt, output, tokenizer, letters),
    )


def _read_probabilities(prompt: Prompt, output: Any, tokenizer: Any, letters: Mapping[int, int]) -> tuple[float, ...] | None:
    """From the log-probabilities at the letter of the answer: a list with a mapping, token id -> Logprob, for each token."""
    num_choices = len(prompt.sample.choices)
    if not output.logprobs or not num_choices:
        return None
    step = find_answer(tokenizer, output.token_ids, prompt.prefix, letters)
    if step is None:
        return None
    rows: list[list[float]] = [[] for _ in range(num_choices)]
    for token_id, found in output.logprobs[step].items():
        if (letter := letters.get(token_id)) is not None and letter < num_choices:
            rows[letter].append(found.logprob)
    return normalise(rows)


def normalise(logprobs: Sequence[Sequence[float]]) -> tuple[float, ...] | None:
    """The probability of each choice, sum 1, from the log-probabilities of the tokens of its letter; None where a letter has none."""
    import numpy as np

    if not all(logprobs):
        return None
    masses = np.array([np.logaddexp.reduce(np.array(row, dtype=np.float64)) for row in logprobs])
    return tuple(round(float(prob), 6) for prob in np.exp(masses - np.logaddexp.reduce(masses)))


def llm_arguments(config: Config, source: Source, dtype: str) -> dict[str, Any]:
    """The arguments of vLLM's LLM for a policy: no code of the checkpoint, and none of its sampling defaults."""
    sizes = {key: value for key in ("min_pixels", "max_pixels") if (value := getattr(config.policy, key)) is not None}
    return {
        "model": source.path,
        "dtype": dtype,
        "seed": config.seed,
        "trust_remote_code": False,
        "generation_config": "vllm",  # its neutral values; the stop tokens of the checkpoint still count
        "max_model_len": config.trainer.max_prompt_length + config.eval.max_completion_length,
        **({"mm_processor_kwargs": sizes} if sizes else {}),
    }


def open_vllm(config: Config, dtype: str) -> VllmEngine:
    """The engine with the policy of `[policy]`. Raises MissingExtra without vLLM, and PolicyError for an adapter that is not merged."""
    from osler.policies.load import open_processor

    source = find_policy(config.policy.path)
    if source.adapter is not None:
        raise PolicyError(f"{config.policy.path} is an adapter, which the engine vllm does not load: merge it into a full policy first")
    try:
        vllm, exceptions = import_module("vllm"), import_module("vllm.exceptions")
    except ImportError:
        raise MissingExtra("vllm", None) from None
    processor = open_processor(config.policy)
    errors = (exceptions.VLLMError, ValueError, RuntimeError, OSError)  # the first is no ValueError, whatever its members are called
    try:
        llm = vllm.LLM(**llm_arguments(config, source, dtype))
    except errors as error:
        raise EngineError(f"vLLM cannot load {source.name}: {first_line(error)}") from error
    return VllmEngine(
        VllmParts(generate=llm.generate, make_params=vllm.SamplingParams, processor=processor, name=source.name, errors=errors),
        max_prompt_length=config.trainer.max_prompt_length,
        option_probabilities=config.eval.option_probabilities,
    )
