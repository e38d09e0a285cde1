"""The scripted generator: it behaves as the running batch does, without a model."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from osler.serving.generation import Delta, Draining, Finished, GenerationRequest, QueueFull, Started
from osler.serving.scripted import ScriptedGenerator, words_of
from osler.serving.stop_texts import StopFilter
from osler.types import FinishReason

REQUEST = GenerationRequest(messages=({"role": "user", "content": "Which organ?"},), images=())
TEXT = "<think>A bright ring.</think><answer>B</answer>"

STOPS = [
    (["abc"], ["END"], "abc", False),
    (["abEND"], ["END"], "ab", True),
    (["abE", "Nc"], ["END"], "abENc", False),
    (["ab", "E", "N", "D", "x"], ["END"], "ab", True),
    (["abE"], ["END"], "abE", False),
    (["aab", "ac"], ["aac"], "aab" + "ac", False),
    (["aa", "ac"], ["aac"], "a", True),
    (["ab\n", "\ncd"], ["\n\n", "d"], "ab", True),
    (["ab"], [""], "ab", False),
    (["x</answer> y"], ["</answer>", "</think>"], "x", True),
]


@pytest.mark.parametrize(("pieces", "stops", "shown", "is_stopped"), STOPS)
def test_a_stop_text_is_never_shown(pieces: Sequence[str], stops: Sequence[str], shown: str, is_stopped: bool) -> None:
    stop_filter = StopFilter(stops)
    given = ""
    for piece in pieces:
        given += stop_filter.feed(piece)
        if stop_filter.is_stopped:
            break
    assert stop_filter.is_stopped == is_stopped
    assert given + ("" if is_stopped else stop_filter.flush()) == shown


async def _collect(generator: ScriptedGenerator, request: GenerationRequest) -> list[Started | Delta | Finished]:
    return [event async for event in generator.stream(request)]


CASES = [
    (REQUEST, TEXT, FinishReason.STOP),
    (replace(REQUEST, prefix="<think>"), f"<think>{TEXT}", FinishReason.STOP),
    (replace(REQUEST, max_tokens=4), "<think>A", FinishReason.LENGTH),
    (replace(REQUEST, stop=(" ring",)), "<think>A bright", FinishReason.STOP),
    (replace(REQUEST, num_generations=3, top_logprobs=2), TEXT, FinishReason.STOP),
]


@pytest.mark.parametrize(("request_", "text", "reason"), CASES)
def test_pieces_join_to_the_completion(request_: GenerationRequest, text: str, reason: FinishReason) -> None:
    events = asyncio.run(_collect(ScriptedGenerator(TEXT), request_))
    assert isinstance(events[0], Started)
    for index in range(request_.num_generations):
        deltas = [event for event in events if isinstance(event, Delta) and event.index == index]
        (finished,) = [event for event in events if isinstance(event, Finished) and event.index == index]
        assert "".join(delta.text for delta in deltas) == finished.completion.text == text
        assert finished.completion.finish_reason is reason
        assert tuple(one for delta in deltas for one in delta.logprobs) == finished.logprobs
        assert bool(finished.logprobs) == (request_.top_logprobs is not None)
    assert sum(isinstance(event, Finished) for event in events) == request_.num_generations


def test_the_letter_of_the_answer_has_the_probability() -> None:
    events = asyncio.run(_collect(ScriptedGenerator(lambda _: [TEXT, "Liver"]), replace(REQUEST, num_generations=2, num_choices=3)))
    probs = {event.index: event.completion.option_probabilities for event in events if isinstance(event, Finished)}
    assert probs[0] == pytest.approx((0.15, 0.7, 0.15))
    assert probs[1] is None


def test_requests_beyond_the_queue_are_refused_and_a_closed_one_leaves_its_place() -> None:
    async def run() -> None:
        generator = ScriptedGenerator(TEXT, max_running=1, max_queued=1, delay=0.001)
        first = generator.stream(REQUEST)
        assert isinstance(await anext(first), Started)
        second = asyncio.create_task(_collect(generator, REQUEST))
        await asyncio.sleep(0)
        assert (generator.load.running, generator.load.queued) == (1, 1)
        with pytest.raises(QueueFull):
            await anext(generator.stream(REQUEST))
        await first.aclose()  # type: ignore[attr-defined]
        assert len(await second) == len(words_of(TEXT)) + 2
        assert (generator.load.running, generator.load.queued) == (0, 0)

    asyncio.run(run())


def test_a_draining_generator_finishes_what_runs() -> None:
    async def run() -> None:
        generator = ScriptedGenerator(TEXT, delay=0.001)
        stream = generator.stream(REQUEST)
        await anext(stream)
        drained = asyncio.create_task(generator.drain())
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            await anext(generator.stream(REQUEST))
        assert not drained.done()
        events = [event async for event in stream]
        assert isinstance(events[-1], Finished)
        await drained

    asyncio.run(run())
