"""The running batch gives each request what it gets alone, from `osler eval` and from training; one that fails does so alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from PIL import Image
from serving_cases import MAX_TOKENS, Answer, ask_together, collect, packaged, run, sampled, to_request
from shared_prefix_cases import sharpen
from small_runs import SolidImage, solid_sample
from tiny_checkpoint import save_tiny
from trl.trainer.utils import add_fused_lm_head

from osler import read
from osler.config import PolicyConfig, SamplingConfig
from osler.errors import DataError, EngineError
from osler.evaluation.engines.hf import HfEngine
from osler.images.embedded import ImageBytes
from osler.policies.families import FAMILIES
from osler.policies.load import Policy, load_policy
from osler.prompts import render
from osler.serving.batching import BatchGenerator
from osler.serving.generation import Delta, Draining, GenerationFailed, GenerationRequest, QueueFull, Started
from osler.training.shared_prefix.attention import install
from osler.training.shared_prefix.packed_row import PromptBatch, score_packed
from osler.training.shared_prefix.self_check import MEAN_IN_HALF
from osler.types import Completion, Prompt, Sample

TEXT_ONLY = replace(solid_sample((40, 56)), images=(), question="Is the sky blue?")
CASES = {
    "picture": solid_sample((40, 112)),
    "two_images": solid_sample((0, 56), (160, 84)),
    "text": TEXT_ONLY,
    "wide": replace(solid_sample((90, 84)), question="What does this picture show, if anything at all? " * 4),
}


def study_of(layout: str) -> Sample:
    (sample,) = read("phantom_study", split="test", kinds=["ct_volume"], num_questions=1, num_slices=6, layout=layout)
    return sample


@pytest.fixture(scope="module", params=FAMILIES)
def family_policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    policy = load_policy(save_tiny(tmp_path_factory.mktemp("families") / request.param, request.param))
    sharpen(policy.model)
    return policy


@pytest.fixture
def tiny(tiny_folder: Path) -> Policy:
    policy = load_policy(tiny_folder)
    sharpen(policy.model)
    return policy


def ask_hf(policy: Policy, prompt: Prompt, max_tokens: int = MAX_TOKENS, sampling: SamplingConfig | None = None) -> Completion:
    engine = HfEngine(policy, batch_size=1, option_probabilities=True)
    ((completion,),) = engine.generate([prompt], max_completion_length=max_tokens, sampling=sampling)
    return completion


def score_as_training(policy: Policy, prompt: Prompt, completion: Completion) -> list[float]:
    """The log-probabilities of training's forward pass: the packed row, with TRL's head."""
    inputs = HfEngine(policy)._encode([prompt], [0]).inputs
    names = {"ids_BP": "input_ids", "mask_BP": "attention_mask", "types_BP": "mm_token_type_ids"}
    fields = {field: inputs[name] for field, name in names.items()}
    images = {name: inputs[name] for name in ("pixel_values", "image_grid_thw") if name in inputs}
    ids_NC = torch.tensor([completion.token_ids])
    with torch.no_grad():
        logps_NC, _ = score_packed(policy.model, PromptBatch(**fields, **images), ids_NC, torch.ones_like(ids_NC), policy.model)
    return logps_NC[0].tolist()


def assert_same(found: Completion, expected: Completion) -> None:
    assert found.text == expected.text
    assert found.token_ids == expected.token_ids
    assert found.finish_reason is expected.finish_reason
    if expected.option_probabilities is None:
        assert found.option_probabilities is None
    else:
        assert found.option_probabilities == pytest.approx(expected.option_probabilities, abs=1e-5)


def assert_one_policy(policy: Policy, twin: Policy, prompts: list[Prompt]) -> None:
    """The running batch, `osler eval` and training agree on prompts that are asked together; `twin` is another copy of the policy."""
    answers = ask_together(policy, [to_request(prompt, top_logprobs=0) for prompt in prompts])
    install(twin.model)
    add_fused_lm_head(twin.model, temperature=1.0, outputs=("log_probs",))
    for prompt, answer in zip(prompts, answers, strict=True):
        (completion,) = answer.completions
        assert_same(completion, ask_hf(policy, prompt))
        assert answer.text() == completion.text
        assert completion.logprobs == pytest.approx(score_as_training(twin, prompt, completion), abs=1e-4)


@pytest.mark.integration
@pytest.mark.parametrize("prefix", ["", "<think>x</think><answer>"])
def test_training_evaluation_and_server_are_one_policy(family_policy: Policy, prefix: str, tmp_path: Path) -> None:
    family_policy.model.save_pretrained(tmp_path / "twin")
    family_policy.processor.save_pretrained(tmp_path / "twin")
    prompts = [replace(render(sample, "no_think"), prefix=prefix) for sample in CASES.values()]
    assert_one_policy(family_policy, load_policy(tmp_path / "twin"), prompts)


@pytest.mark.integration
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_half_precision_changes_no_more_than_rounding(dtype: Any, tiny_folder: Path) -> None:
    """Weights in bfloat16, or in float32 under autocast, against training's scores in float32."""
    policy, exact = load_policy(PolicyConfig(path=str(tiny_folder), dtype=dtype)), load_policy(tiny_folder)
    prompts = [render(sample, "no_think") for sample in CASES.values()]
    answers = ask_together(policy, [to_request(prompt, top_logprobs=0) for prompt in prompts], is_bf16=dtype == "float32")
    install(exact.model)
    add_fused_lm_head(exact.model, temperature=1.0, outputs=("log_probs",))
    for prompt, answer in zip(prompts, answers, strict=True):
        (completion,) = answer.completions
        found, expected = torch.tensor(completion.logprobs), torch.tensor(score_as_training(exact, prompt, completion))
        assert 0 < (found - expected).abs().mean() < MEAN_IN_HALF


@pytest.mark.integration
@pytest.mark.parametrize("layout", ["images", "montage", "video"])
def test_a_study_is_answered_as_in_training_and_evaluation(layout: str) -> None:
    name = "osler-tiny-study"
    questions = [study_of(layout), read("phantom_study", split="test", kinds=["follow_up"], num_questions=1)[0]]
    assert_one_policy(packaged(name), load_policy(name), [render(sample, "think") for sample in questions])


FILTERS = [{"temperature": 0.7, "top_k": 1}, {"top_p": 1e-6, "repetition_penalty": 1.4}, {"min_p": 1.0, "repetition_penalty": 0.6}]


@pytest.mark.integration
@pytest.mark.parametrize("settings", FILTERS)
def test_filters_that_leave_one_token_leave_that_of_transformers(tiny: Policy, settings: dict[str, Any]) -> None:
    prompts = [render(sample, "no_think") for sample in CASES.values()]
    found = ask_together(tiny, [to_request(prompt, sampling=sampled(**settings), seed=3) for prompt in prompts])
    for prompt, answer in zip(prompts, found, strict=True):
        assert_same(answer.completions[0], ask_hf(tiny, prompt, sampling=sampled(**settings)))


def test_requests_that_decode_in_turn_keep_their_own_positions(tiny: Policy) -> None:
    """The second request begins when the first has a few tokens; the prompts have images of unlike size and so unlike positions."""
    first, second = (to_request(render(solid_sample(square), "no_think")) for square in ((40, 112), (200, 56)))

    async def interleaved(generator: BatchGenerator) -> tuple[str, Answer]:
        text = ""
        later: asyncio.Task[Answer] | None = None
        async for event in generator.stream(first):
            if isinstance(event, Delta):
                text += event.text
                later = later or asyncio.create_task(collect(generator, second))
        assert later is not None
        return text, await later

    text, answer = run(tiny, interleaved)
    alone = [ask_together(tiny, [request])[0] for request in (first, second)]
    assert [text, answer.text()] == [one.text() for one in alone]


def test_a_draw_depends_on_its_seed_and_its_index_alone(tiny: Policy) -> None:
    prompts = [render(sample, "no_think") for sample in CASES.values()]
    asked = to_request(prompts[0], sampling=sampled(temperature=1.5), seed=7, num_generations=4, num_choices=0)
    others = [to_request(prompt, sampling=sampled(), num_generations=2, seed=seed) for prompt in prompts for seed in (7, 8)]
    (alone,) = ask_together(tiny, [asked])
    among, *_ = ask_together(tiny, [asked, *others], num_preparers=2)
    (fewer,) = ask_together(tiny, [replace(asked, num_generations=2)])
    (unlike,) = ask_together(tiny, [replace(asked, seed=8)])
    tokens = [completion.token_ids for completion in alone.completions]
    assert tokens == [completion.token_ids for completion in among.completions]
    assert tokens[:2] == [completion.token_ids for completion in fewer.completions]
    assert len({*tokens, *(completion.token_ids for completion in unlike.completions)}) == 8


def test_rows_wait_for_a_place_and_take_those_of_others(tiny: Policy) -> None:
    """With three rows the requests take turns; each gets what it gets alone."""
    prompts = [render(sample, "no_think") for sample in CASES.values()]
    requests = [
        to_request(prompt, sampling=sampled(), seed=seed, num_generations=1 + seed % 3, max_tokens=5 + 4 * seed)
        for seed in range(3)
        for prompt in prompts
    ]
    found = ask_together(tiny, requests, max_rows=3, num_preparers=2, max_prefill_tokens=64, max_cache_tokens=2048)
    expected = ask_together(tiny, requests)
    assert [answer.completions for answer in found] == [answer.completions for answer in expected]


STOPS: list[Callable[[str], tuple[str, ...]]] = [lambda text: (text[5:8],), lambda text: (text[-2:], "never"), lambda text: (text[3],)]


@pytest.mark.parametrize("choose", STOPS)
def test_a_stop_text_ends_a_completion_before_it(choose: Callable[[str], tuple[str, ...]]) -> None:
    prompt = render(read("phantom", split="test", num_questions=1)[0], "think")
    (whole,) = ask_together(packaged("osler-tiny"), [to_request(prompt, max_tokens=64)])
    stops = choose(whole.text())
    (cut,) = ask_together(packaged("osler-tiny"), [to_request(prompt, max_tokens=64, stop=stops, top_logprobs=2)])
    expected = whole.text()[: whole.text().index(stops[0])]
    assert cut.text() == cut.completions[0].text == expected
    assert cut.completions[0].finish_reason == "stop"
    assert len(cut.completions[0].token_ids) < len(whole.completions[0].token_ids)
    # The tokens that begin before the stop text, and no token of it.
    shown = "".join(one.token for one in cut.finished[0].logprobs)
    assert shown.startswith(expected)
    assert len(shown) - len(cut.finished[0].logprobs[-1].token) < len(expected)
    assert cut.finished[0].logprobs == tuple(one for delta in cut.deltas for one in delta.logprobs)


def test_log_probabilities_come_with_the_pieces_of_text() -> None:
    prompt = render(read("phantom", split="test", num_questions=1)[0], "think")
    (answer,) = ask_together(packaged("osler-tiny"), [to_request(prompt, max_tokens=64, top_logprobs=3)])
    (finished,) = answer.finished
    assert tuple(one for delta in answer.deltas for one in delta.logprobs) == finished.logprobs
    assert "".join(one.token for one in finished.logprobs) == answer.text()
    assert finished.completion.logprobs is not None
    assert len(finished.completion.logprobs) == len(finished.completion.token_ids) == len(finished.logprobs) + 1  # the stop token
    for one in finished.logprobs:
        assert one.top[0] == (one.token, one.token_id, one.logprob)  # greedy: the most likely one
        assert [value for *_, value in one.top] == sorted((value for *_, value in one.top), reverse=True)


def test_a_request_without_pieces_gets_the_same_end() -> None:
    prompt = render(read("phantom", split="test", num_questions=1)[0], "think")
    pieces, whole = ask_together(packaged("osler-tiny"), [to_request(prompt, streams=streams, top_logprobs=1) for streams in (True, False)])
    assert whole.deltas == ()
    assert whole.completions[0].text == pieces.completions[0].text
    assert [one.token for one in whole.finished[0].logprobs] == [one.token for one in pieces.finished[0].logprobs]
    assert whole.started.image_tokens == 16
    assert whole.started.prompt_tokens > 16


def test_an_image_is_encoded_once(tiny: Policy) -> None:
    """For several completions, for several requests, and for a later one."""
    encoded: list[int] = []
    tiny.model.model.visual.register_forward_pre_hook(lambda _, args, kwargs: encoded.append(len(kwargs["grid_thw"])), with_kwargs=True)
    prompt = render(solid_sample((40, 112)), "no_think")
    drawn = to_request(prompt, sampling=sampled(), num_generations=3)
    other = replace(drawn, images=(SolidImage(grey=41, size=112),))

    async def work(generator: BatchGenerator) -> None:
        await asyncio.gather(collect(generator, drawn), collect(generator, to_request(prompt)), collect(generator, replace(drawn, seed=2)))
        await collect(generator, drawn)
        await collect(generator, other)

    run(tiny, work)
    assert sum(encoded) == 2


class Strip:
    """A picture of one row that is no file."""

    uri = "strip"

    def load(self) -> PIL.Image.Image:
        return PIL.Image.new("RGB", (201, 1))


WRONG: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("broken_image", {"images": (ImageBytes.of(b"\x89PNG nothing"),)}, DataError, "image"),
    ("long_strip", {"images": (Strip(),)}, DataError, "too narrow"),
    ("missing_image", {"images": ()}, EngineError, "1 places for 0 images"),
    ("image_token_in_text", {"prefix": "<|image_pad|>"}, EngineError, "2 places for 1 images"),
    ("too_long", {"max_tokens": 2000}, EngineError, "shorten the question"),
    ("many_rows", {"num_generations": 65, "sampling": sampled()}, EngineError, "more than this server has room for"),
    ("greedy_votes", {"num_generations": 2}, EngineError, "greedy completions"),
    ("no_tokens", {"max_tokens": 0}, EngineError, "from 1 on"),
    ("many_top", {"top_logprobs": 99}, EngineError, "at most"),
]


@pytest.mark.parametrize(("fields", "error", "words"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_request_fails_alone(tiny: Policy, fields: dict[str, Any], error: type[Exception], words: str) -> None:
    good = to_request(render(solid_sample((40, 112)), "no_think"), max_tokens=8)

    async def work(generator: BatchGenerator) -> None:
        right = asyncio.create_task(collect(generator, good))
        with pytest.raises(error, match=words):
            await collect(generator, replace(good, **fields))
        first = await right
        assert first.completions == (await collect(generator, good)).completions

    run(tiny, work)


@pytest.mark.parametrize("is_prefill", [True, False])
def test_a_fault_of_the_model_ends_what_it_computed_and_no_more(
    tiny_folder: Path, is_prefill: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """In bfloat16 the batch calls the model's own layers, so that a hook can fail in one, for a prompt or for a token."""
    policy = load_policy(PolicyConfig(path=str(tiny_folder), dtype="bfloat16"))
    faults = [True]

    def fail_once(_module: Any, args: tuple[Any, ...]) -> None:
        if (len(args[0]) > 1) == is_prefill and faults and faults.pop():
            raise RuntimeError("a bit has flipped")

    policy.model.model.language_model.layers[0].mlp.down_proj.register_forward_pre_hook(fail_once)
    request = to_request(render(solid_sample((40, 112)), "no_think"), max_tokens=8)

    async def work(generator: BatchGenerator) -> Answer:
        with pytest.raises(GenerationFailed, match="see its log") as caught:
            await collect(generator, request)
        assert "flipped" not in str(caught.value)
        return await collect(generator, request)

    answer = run(policy, work)
    assert "a bit has flipped" in caplog.text
    assert answer.completions == ask_together(policy, [request])[0].completions


def test_weights_that_overflow_are_an_error_of_the_request(tiny: Policy) -> None:
    with torch.no_grad():
        tiny.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(EngineError, match="no finite probability"):
        ask_together(tiny, [to_request(render(TEXT_ONLY, "no_think"))])


def long_request() -> GenerationRequest:
    """A request that does not end by itself where the policy has no stop token."""
    return to_request(render(TEXT_ONLY, "no_think"), max_tokens=1500, sampling=sampled(temperature=5.0), num_choices=0)


def test_a_reader_that_leaves_frees_its_place_and_the_queue_is_bounded(tiny: Policy) -> None:
    tiny.model.generation_config.eos_token_id = [-1]
    request = long_request()

    async def work(generator: BatchGenerator) -> None:
        first = generator.stream(request)
        assert isinstance(await anext(first), Started)
        assert (generator.load.running, generator.load.queued) == (1, 0)
        waiting = asyncio.create_task(collect(generator, replace(request, max_tokens=4)))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull) as caught:
            await anext(generator.stream(request))
        assert 1 <= caught.value.retry_after <= 60
        await first.aclose()
        assert len((await waiting).completions[0].token_ids) == 4
        assert (generator.load.running, generator.load.queued) == (0, 0)

    run(tiny, work, max_rows=1, max_queued=1)


def test_a_reader_that_leaves_the_queue_is_forgotten(tiny: Policy) -> None:
    tiny.model.generation_config.eos_token_id = [-1]
    request = long_request()

    async def work(generator: BatchGenerator) -> None:
        first = generator.stream(request)
        await anext(first)
        for _ in range(5):
            task = asyncio.create_task(collect(generator, request))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert generator.load.queued == 0
        await first.aclose()
        assert len((await collect(generator, replace(request, max_tokens=3))).completions[0].token_ids) == 3

    run(tiny, work, max_rows=1, max_queued=1)


def test_a_reader_that_leaves_makes_room_for_the_images_of_others(tiny: Policy) -> None:
    tiny.model.generation_config.eos_token_id = [-1]
    request = to_request(render(solid_sample((40, 112)), "no_think"), max_tokens=4)

    async def work(generator: BatchGenerator) -> None:
        running = generator.stream(long_request())
        await anext(running)
        leaving = asyncio.create_task(collect(generator, request))  # whose patches are all that may be kept
        while not generator._ready:
            await asyncio.sleep(0.001)
        waiting = asyncio.create_task(collect(generator, request))
        await asyncio.sleep(0.01)
        leaving.cancel()
        await asyncio.wait([leaving])
        await running.aclose()
        assert len((await asyncio.wait_for(waiting, 60)).completions[0].token_ids) == 4

    run(tiny, work, max_rows=1, max_prepared_bytes=1)


@dataclass(frozen=True, slots=True)
class SlowImage:
    """An image that is read when it may be."""

    begun: threading.Event = field(default_factory=threading.Event)
    may_end: threading.Event = field(default_factory=threading.Event)
    uri: str = "slow"

    def load(self) -> Image.Image:
        self.begun.set()
        self.may_end.wait()
        return Image.new("RGB", (112, 112))


def test_closing_ends_requests_that_are_not_prepared(tiny: Policy) -> None:
    request = to_request(render(solid_sample((40, 112)), "no_think"), max_tokens=4)

    async def work(generator: BatchGenerator) -> None:
        source = SlowImage()
        tasks = [asyncio.create_task(collect(generator, replace(request, images=(source,)))) for _ in range(3)]
        await asyncio.to_thread(source.begun.wait)
        with generator._changed:  # as `close` does, before the thread of the model looks
            generator._is_closed = True
        source.may_end.set()
        for _ in range(1000):
            if not generator._num_preparing:
                break
            await asyncio.sleep(0.001)
        generator.close()
        for task in tasks:
            with pytest.raises(Draining, match="has stopped"):
                await asyncio.wait_for(task, 60)

    run(tiny, work)


def test_draining_finishes_what_runs_and_closing_ends_it(tiny: Policy) -> None:
    tiny.model.generation_config.eos_token_id = [-1]
    request = replace(long_request(), max_tokens=30)

    async def work(generator: BatchGenerator) -> None:
        running = asyncio.create_task(collect(generator, request))
        while not generator.load.running:
            await asyncio.sleep(0.001)
        drained = asyncio.create_task(generator.drain())
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            await anext(generator.stream(request))
        await drained
        assert len((await running).completions[0].token_ids) == 30

    run(tiny, work)

    async def close(generator: BatchGenerator) -> None:
        stream = generator.stream(long_request())
        await anext(stream)
        waiting = asyncio.create_task(collect(generator, request))
        await asyncio.sleep(0.01)
        generator.close()
        for events in (stream, waiting):
            with pytest.raises(Draining, match="has stopped"):
                await events if isinstance(events, asyncio.Task) else [event async for event in events]

    run(tiny, close, max_rows=1)


def test_an_idle_generator_drains_at_once(tiny: Policy) -> None:
    async def work(generator: BatchGenerator) -> None:
        await asyncio.wait_for(generator.drain(), 5)
        assert generator.load.is_draining

    run(tiny, work)
