"""What every engine keeps to, whatever is behind it: see `Engine.generate`. vLLM's rows run where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted_endpoint import serve
from small_prompts import Noise, make_prompt

from osler.config import Config, SamplingConfig, build_config
from osler.errors import DataError, EngineError
from osler.evaluation.engines import Engine, open_engine
from osler.evaluation.engines.answers import AnswersEach
from osler.types import Completion, FinishReason, Prompt

PROMPTS = [make_prompt(0, 1), make_prompt(1, 9), make_prompt(2, 4, [Noise(seed=1), Noise(seed=2, width=84)]), make_prompt(3, 2, [])]
NAMES = ("scripted", "hf", "openai", "vllm")
LOADING = ("hf", "openai", "vllm")
"""Engines that read images."""


@pytest.fixture(scope="module")
def open_one(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Engine]]:
    folder = tmp_path_factory.mktemp("script")
    (folder / "tiny.jsonl").write_text("".join(f'{{"sample_id": "own/{number}", "completion": "A"}}\n' for number in range(4)))
    opened: dict[str, Engine] = {}
    with serve() as server:
        settings: dict[str, dict[str, Any]] = {
            "scripted": {"script": str(folder / "tiny.jsonl")},
            "openai": {"base_url": server.base_url, "max_retries": 0, "timeout": 30, "continues_prefix": True},
        }

        def config_of(name: str) -> Config:
            path = "seeded" if name == "openai" else str(tiny_folder)
            return build_config({"policy": {"path": path, "device": "auto"}, "eval": {"engine": name, **settings.get(name, {})}})

        def open_once(name: str) -> Engine:
            if name == "openai":
                pytest.importorskip("openai")
            if name == "vllm" and (importlib.util.find_spec("vllm") is None or not torch.cuda.is_available()):
                pytest.skip("vLLM is not installed, or there is no GPU for it")
            if name not in opened:
                opened[name] = open_engine(config_of(name))
            return opened[name]

        yield open_once


def texts(groups: list[list[Completion]]) -> list[list[str]]:
    return [[completion.text for completion in group] for group in groups]


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_has_a_group_in_order(open_one: Callable[[str], Engine], name: str) -> None:
    engine = open_one(name)
    together = engine.generate(PROMPTS, max_completion_length=6)
    assert [len(group) for group in together] == [1] * len(PROMPTS)
    if name != "openai":  # whose answers depend on the seed of the place
        assert texts(together) == [texts(engine.generate([prompt], max_completion_length=6))[0] for prompt in PROMPTS]
    for (completion,) in together:
        assert completion.finish_reason in tuple(FinishReason)
        assert 0 <= completion.num_tokens <= 6
        assert completion.token_ids == () or completion.num_tokens == len(completion.token_ids)
    assert engine.generate([], max_completion_length=6) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_name_stays(open_one: Callable[[str], Engine], name: str) -> None:
    engine = open_one(name)
    before = engine.policy_name
    engine.generate(PROMPTS[:1], max_completion_length=2)
    assert engine.policy_name == before == {"openai": "seeded"}.get(name, "tiny")


@pytest.mark.parametrize("name", NAMES)
def test_equal_calls_draw_equal_groups_and_leave_the_random_state(open_one: Callable[[str], Engine], name: str) -> None:
    engine = open_one(name)
    state = torch.random.get_rng_state()
    values: dict[str, Any] = {"max_completion_length": 8, "num_generations": 3, "sampling": SamplingConfig()}
    first, again, other = (texts(engine.generate(PROMPTS, **values, seed=seed)) for seed in (0, 0, 1))
    assert [len(group) for group in first] == [3] * len(PROMPTS)
    assert first == again
    assert name == "scripted" or first != other
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", NAMES)
def test_a_completion_begins_with_the_prefix(open_one: Callable[[str], Engine], name: str) -> None:
    begun = replace(PROMPTS[0], prefix="<think>A ring.</think>")
    ((completion,),) = open_one(name).generate([begun], max_completion_length=4)
    assert completion.text.startswith(begun.prefix)
    assert completion.num_tokens <= 4


REFUSED: list[tuple[str, Callable[[], list[Prompt]], dict[str, Any], type[Exception], str]] = [
    ("an image that cannot be read", lambda: [PROMPTS[0], make_prompt(7, 3, [Noise(seed=-1)])], {}, DataError, "own/7: noise:-1 cannot"),
    ("several greedy completions", lambda: PROMPTS, {"num_generations": 2}, EngineError, "all the same"),
]


@pytest.mark.parametrize("name", LOADING)
@pytest.mark.parametrize(("case", "prompts", "values", "error", "said"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_cannot_be_answered_is_one_line(
    open_one: Callable[[str], Engine],
    name: str,
    case: str,
    prompts: Callable[[], list[Prompt]],
    values: dict[str, Any],
    error: type[Exception],
    said: str,
) -> None:
    with pytest.raises(error, match=said) as raised:
        open_one(name).generate(prompts(), max_completion_length=4, **values)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "is_each"), [("scripted", False), ("hf", False), ("openai", True)])
def test_only_endpoints_answer_each_question_on_its_own(open_one: Callable[[str], Engine], name: str, is_each: bool) -> None:
    """The answers of `hf` depend on the batch in the last digit, so it resumes by chunks."""
    assert isinstance(open_one(name), AnswersEach) == is_each
