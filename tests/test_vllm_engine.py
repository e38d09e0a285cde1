"""The engine of vLLM without vLLM: what it is asked, and how its outputs are read, on objects with the fields of vLLM 0.33."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from small_prompts import Noise, make_prompt

from osler.config import PolicyConfig, SamplingConfig, build_config
from osler.errors import DataError, EngineError, MissingExtra, PolicyError
from osler.evaluation.engines import open_engine
from osler.evaluation.engines.vllm import (
    MAX_LETTER_TOKENS,
    VllmEngine,
    VllmParts,
    letter_ids,
    llm_arguments,
    normalise,
    open_vllm,
    sampling_arguments,
)
from osler.images.clip import Clip
from osler.policies.load import open_processor
from osler.policies.sources import find_policy
from osler.types import Completion, FinishReason

STOP = 256  # <|im_end|> in the tiny tokenizer, whose other tokens are bytes


@dataclass
class Logprob:
    """`vllm.logprobs.Logprob`."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    """The fields of `vllm.outputs.CompletionOutput` that have no default there, and those that are read."""

    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    """The part of `vllm.outputs.RequestOutput` that is read."""

    outputs: list[CompletionOutput]


@dataclass
class FakeLLM:
    """Takes what `LLM.generate` takes, keeps it, and answers with prepared tokens."""

    token_ids: Sequence[int]
    finish_reason: str | None = "stop"
    logprobs: list[dict[int, Logprob]] | None = None
    prompts: list[Any] = field(default_factory=list)
    params: list[dict[str, Any]] = field(default_factory=list)

    def generate(self, prompts: Sequence[Any], sampling_params: Sequence[dict[str, Any]], *, use_tqdm: bool) -> list[RequestOutput]:
        assert not use_tqdm
        self.prompts, self.params = list(prompts), list(sampling_params)
        return [
            RequestOutput(
                [
                    CompletionOutput(number, "", self.token_ids, None, self.logprobs, finish_reason=self.finish_reason)
                    for number in range(params["n"])
                ]
            )
            for params in self.params
        ]


@pytest.fixture(scope="module")
def processor(tiny_folder: Path) -> Any:
    return open_processor(PolicyConfig(path=str(tiny_folder)))


def engine(processor: Any, llm: FakeLLM, **settings: Any) -> VllmEngine:
    return VllmEngine(VllmParts(generate=llm.generate, make_params=dict, processor=processor, name="tiny"), **settings)


def encode(processor: Any, text: str) -> list[int]:
    token_ids: list[int] = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return token_ids


def test_prompts_are_those_of_the_chat_template_with_their_pictures(processor: Any) -> None:
    llm = FakeLLM([*encode(processor, "A"), STOP])
    prompts = [make_prompt(0, 1, [Noise(seed=1), Noise(seed=2, width=84)]), make_prompt(1, 2, [])]
    groups = engine(processor, llm).generate(prompts, max_completion_length=7)
    assert [[completion.text for completion in group] for group in groups] == [["A"], ["A"]]
    first, second = llm.prompts
    assert [picture.size for picture in first["multi_modal_data"]["image"]] == [(56, 56), (84, 56)]
    assert first["prompt"].count("<|image_pad|>") == 2
    assert first["prompt"] == processor.apply_chat_template(list(prompts[0].messages), add_generation_prompt=True, tokenize=False)
    assert second.keys() == {"prompt"}


@pytest.mark.parametrize(
    ("sampling", "decoding"),
    [
        (None, {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}),
        (
            SamplingConfig(temperature=0.7, top_p=0.9, top_k=5, min_p=0.1, repetition_penalty=1.2, max_completion_length=77),
            {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2},
        ),
    ],
    ids=["greedy", "drawn"],
)
def test_every_sampling_parameter_is_set(sampling: SamplingConfig | None, decoding: dict[str, Any]) -> None:
    expected = {**decoding, "n": 3, "max_tokens": 9, "seed": 5, "logit_bias": {7: -100.0}, "skip_special_tokens": True, "detokenize": True}
    assert sampling_arguments(9, 3, sampling, seed=5, suppressed=[7]) == expected
    with_letters = sampling_arguments(9, 3, sampling, seed=5, suppressed=[7], letters=[1, 2])
    assert with_letters == {**expected, "logprobs": 2, "logprob_token_ids": [1, 2]}


def test_seeds_are_of_the_call_and_the_place(processor: Any) -> None:
    llm = FakeLLM([STOP])
    seeds = []
    for seed in (0, 0, 1):
        engine(processor, llm).generate([make_prompt(0), make_prompt(1)], max_completion_length=4, sampling=SamplingConfig(), seed=seed)
        seeds.append([params["seed"] for params in llm.params])
    assert seeds[0] == seeds[1]
    assert len({*seeds[0], *seeds[2]}) == 4


ENDS: list[tuple[str, str, bool, str, FinishReason]] = [
    ("<answer>B</answer>", "stop", True, "<answer>B</answer>", FinishReason.STOP),
    ("<answer>", "length", False, "<answer>", FinishReason.LENGTH),
    ("", "stop", True, "", FinishReason.STOP),
]


@pytest.mark.parametrize(("text", "reason", "has_stop", "read", "expected"), ENDS, ids=[row[0] or "empty" for row in ENDS])
def test_outputs_become_completions(processor: Any, text: str, reason: str, has_stop: bool, read: str, expected: FinishReason) -> None:
    token_ids = [*encode(processor, text), *[STOP] * has_stop]
    ((completion,),) = engine(processor, FakeLLM(token_ids, reason)).generate([make_prompt(0)], max_completion_length=30)
    assert completion == Completion(text=read, token_ids=tuple(token_ids), finish_reason=expected)


@pytest.mark.parametrize("reason", ["abort", "error", None])
def test_an_output_that_did_not_end_is_refused(processor: Any, reason: str | None) -> None:
    with pytest.raises(EngineError, match=f"vLLM ended own/0 with {reason!r}"):
        engine(processor, FakeLLM([STOP], reason)).generate([make_prompt(0)], max_completion_length=4)


def test_option_probabilities_are_those_at_the_letter(processor: Any) -> None:
    a, b = (encode(processor, letter)[0] for letter in "AB")
    token_ids = [*encode(processor, "<answer>B</answer>"), STOP]
    logprobs = [{token: Logprob(-0.5), a: Logprob(-9.0), b: Logprob(-9.0)} for token in token_ids]
    logprobs[token_ids.index(b)] = {b: Logprob(math.log(0.6), 1, "B"), a: Logprob(math.log(0.2), 2, "A")}
    llm = FakeLLM(token_ids, logprobs=logprobs)
    ((completion,),) = engine(processor, llm, option_probabilities=True).generate([make_prompt(0)], max_completion_length=30)
    assert completion.option_probabilities == (0.25, 0.75)
    (params,) = llm.params
    assert {a, b} <= set(params["logprob_token_ids"])
    assert params["logprobs"] == len(params["logprob_token_ids"]) <= MAX_LETTER_TOKENS
    ((completion,),) = engine(processor, llm).generate([make_prompt(0)], max_completion_length=30)
    assert "logprobs" not in llm.params[0]


def test_only_the_letters_of_the_question_are_asked_for() -> None:
    letters = {10: 0, 11: 1, 12: 2, 20: 0}
    assert letter_ids(letters, 2) == [10, 11, 20]
    assert letter_ids(letters, 0) == []
    assert letter_ids({number: number % 26 for number in range(130)}, 26) == []


@pytest.mark.parametrize(
    ("logprobs", "probs"),
    [
        ([[math.log(0.2)], [math.log(0.6)]], (0.25, 0.75)),
        ([[math.log(0.1), math.log(0.1)], [math.log(0.6)]], (0.25, 0.75)),
        ([[-1000.0], [-1001.0]], (0.731059, 0.268941)),
        ([[-1.0], []], None),
    ],
    ids=str,
)
def test_letters_are_normalised(logprobs: list[list[float]], probs: tuple[float, ...] | None) -> None:
    assert normalise(logprobs) == probs


class VLLMError(Exception):
    """`vllm.exceptions.VLLMError`, which is no ValueError."""


def broken(*_: Any, **__: Any) -> Any:
    raise VLLMError("temperature must be in [0, 2], got 3.0.\nmore")


def test_what_the_engine_refuses(processor: Any) -> None:
    llm = FakeLLM([STOP])
    asked = engine(processor, llm, max_prompt_length=150)
    with pytest.raises(EngineError, match=r"own/1 takes \d+ tokens and trainer\.max_prompt_length is 150"):
        asked.generate([make_prompt(0, 1, []), make_prompt(1, 30)], max_completion_length=4)
    with pytest.raises(EngineError, match="all the same"):
        asked.generate([make_prompt(0)], max_completion_length=4, num_generations=2)
    with pytest.raises(DataError, match="own/7: noise:-1 cannot be drawn"):
        engine(processor, llm).generate([make_prompt(7, 3, [Noise(seed=-1)])], max_completion_length=4)
    clip = make_prompt(0, 1, [Clip(sources=(Noise(seed=1), Noise(seed=2)))])  # type: ignore[list-item]
    with pytest.raises(EngineError, match="own/0 shows a clip"):
        engine(processor, llm).generate([clip], max_completion_length=4)
    said = r"temperature must be in \[0, 2\], got 3\.0\.$"
    for changes, what in (({"make_params": broken}, r"settings of \[sampling\]: "), ({"generate": broken}, "vLLM does not generate: ")):
        parts = VllmParts(
            **{"generate": llm.generate, "make_params": dict, **changes}, processor=processor, name="tiny", errors=(VLLMError,)
        )
        with pytest.raises(EngineError, match=what + said):
            VllmEngine(parts).generate([make_prompt(0)], max_completion_length=4)
    assert not llm.prompts
    assert engine(processor, llm).generate([], max_completion_length=4) == []


def test_the_length_of_a_prompt_is_what_the_processor_makes_of_it(processor: Any) -> None:
    prompt = make_prompt(0, 5, [Noise(seed=1), Noise(seed=2, width=84)])
    text = processor.apply_chat_template(list(prompt.messages), add_generation_prompt=True, tokenize=False)
    inputs = processor(text=[text], images=[source.load() for source in prompt.sample.images], return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    llm = FakeLLM([STOP])
    engine(processor, llm, max_prompt_length=length).generate([prompt], max_completion_length=4)
    with pytest.raises(EngineError, match=f"takes {length} tokens"):
        engine(processor, llm, max_prompt_length=length - 1).generate([prompt], max_completion_length=4)


def test_vllm_is_opened_without_code_or_defaults_of_the_checkpoint(tiny_folder: Path) -> None:
    config = build_config({"policy": {"path": str(tiny_folder), "max_pixels": 3136}, "eval": {"max_completion_length": 100}, "seed": 3})
    assert llm_arguments(config, find_policy(tiny_folder), "bfloat16") == {
        "model": str(tiny_folder),
        "dtype": "bfloat16",
        "seed": 3,
        "trust_remote_code": False,
        "generation_config": "vllm",
        "max_model_len": 1124,
        "mm_processor_kwargs": {"max_pixels": 3136},
    }


def test_what_cannot_be_opened_is_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    import importlib.util

    with pytest.raises(PolicyError, match="no policy at"):
        open_vllm(build_config({"policy": {"path": "./nowhere"}}), "float32")
    if importlib.util.find_spec("vllm") is None:
        with pytest.raises(MissingExtra, match="vllm is not installed: pip install vllm"):
            open_engine(build_config({"policy": {"path": str(tiny_folder)}, "eval": {"engine": "vllm"}}))
