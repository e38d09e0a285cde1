"""/v1/models and /v1/chat/completions, asked by the clients that people use: openai, curl, Open WebUI, lmms-eval."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from chat_requests import TEXT, ask, png, post, script
from live_server import LiveServer, serve

from osler.serving.scripted import ScriptedGenerator


@pytest.fixture(scope="module")
def generator() -> ScriptedGenerator:
    return ScriptedGenerator(script, delay=0.002, policy_fingerprint="ab" * 32)


@pytest.fixture(scope="module")
def live(generator: ScriptedGenerator) -> Iterator[LiveServer]:
    with serve(generator) as server:
        yield server


@pytest.fixture(scope="module")
def client(live: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0) as one:
        yield one


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["scripted"]
    assert client.models.retrieve("scripted").owned_by == "osler"
    with pytest.raises(openai.NotFoundError, match="scripted"):
        client.models.retrieve("gpt-4o")


def test_a_chat_with_images_is_answered(client: openai.OpenAI, generator: ScriptedGenerator) -> None:
    reply = client.chat.completions.create(
        model="scripted",
        messages=[
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": png(), "detail": "high"}}, {"type": "text", "text": "One?"}],
            },
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": [{"type": "text", "text": "And "}, {"type": "image_url", "image_url": {"url": png((8, 8))}}]},
        ],
        temperature=0,
        max_completion_tokens=64,
    )
    (choice,) = reply.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (TEXT, "assistant", "stop")
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.completion_tokens == 19
    assert reply.system_fingerprint == "fp_abababababab"
    sent = generator.requests[-1]
    assert [message["role"] for message in sent.messages] == ["system", "user", "assistant", "user"]
    assert sent.messages[1]["content"] == [{"type": "image"}, {"type": "text", "text": "One?"}]
    assert sent.messages[3]["content"] == [{"type": "text", "text": "And "}, {"type": "image"}]
    assert [image.load().size for image in sent.images] == [(32, 24), (8, 8)]
    assert (sent.max_tokens, sent.sampling, sent.prefix) == (64, None, "")


def test_a_stream_gives_the_same_text(client: openai.OpenAI) -> None:
    with client.chat.completions.create(**ask(stream=True, stream_options={"include_usage": True})) as stream:
        chunks = list(stream)
    *pieces, last, usage = chunks
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == TEXT
    assert len(pieces) > 10
    assert last.choices[0].finish_reason == "stop"
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 19
    assert {chunk.id for chunk in chunks} == {usage.id}
    without = list(client.chat.completions.create(**ask(stream=True)))
    assert all(chunk.choices and chunk.usage is None for chunk in without)


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_several_completions(client: openai.OpenAI, temperature: float) -> None:
    """Greedy ones are equal, and computed once."""
    texts = [TEXT, "<answer>A</answer>"] if temperature else [TEXT, TEXT]
    reply = client.chat.completions.create(**ask(n=2, temperature=temperature))
    assert [choice.message.content for choice in reply.choices] == texts
    streamed = ["", ""]
    for chunk in client.chat.completions.create(**ask(n=2, temperature=temperature, stream=True)):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


@pytest.mark.parametrize("is_streamed", [False, True])
def test_log_probabilities(client: openai.OpenAI, is_streamed: bool) -> None:
    body = ask(logprobs=True, top_logprobs=2)
    if is_streamed:
        chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**body, stream=True)]
        tokens = [token for chunk in chunks if chunk.logprobs is not None for token in chunk.logprobs.content or ()]
    else:
        found = client.chat.completions.create(**body).choices[0].logprobs
        assert found is not None
        assert found.content is not None
        tokens = found.content
    assert "".join(token.token for token in tokens) == TEXT
    assert all(bytes(token.bytes or ()).decode() == token.token and len(token.top_logprobs) == 2 for token in tokens)


def test_the_async_and_the_raw_client(live: LiveServer) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=live.url + "/v1", api_key="none") as one:
            replies = await asyncio.gather(*(one.chat.completions.create(**ask()) for _ in range(8)))
            assert {reply.choices[0].message.content for reply in replies} == {TEXT}
            stream = await one.chat.completions.create(**ask(stream=True))
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == TEXT
            raw = await one.chat.completions.with_raw_response.create(**ask())
            assert raw.headers["content-type"] == "application/json"
            assert raw.parse().choices[0].message.content == TEXT

    asyncio.run(run())


def test_the_helper_for_streams_of_openai(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(**ask()) as stream:
        stream.until_done()
        assert stream.get_final_completion().choices[0].message.content == TEXT


def test_the_events_as_bytes(live: LiveServer) -> None:
    """What curl shows, and what Open WebUI parses line by line."""
    reply = post(live, ask(stream=True))
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    lines = [line for line in reply.text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    assert all(json.loads(line[6:])["object"] == "chat.completion.chunk" for line in lines[:-1])


CALLS = {
    "lmms-eval": ask(max_tokens=1024),
    "lmms-eval, reasoning models": ask(
        max_completion_tokens=4096, reasoning_effort="medium", response_format={"type": "text"}, temperature=None
    ),
    "Open WebUI": ask(stream=True, stream_options={"include_usage": True}, user={"id": "1", "name": "x"}, metadata={"task": "chat"}),
    "Open WebUI, title": ask(stream=False, max_completion_tokens=1000, chat_id="1", session_id="2"),
    "vLLM": ask(top_k=-1, min_p=0.0, repetition_penalty=1.0, temperature=0.7, min_tokens=0),
    "nulls": ask(tools=None, stop=None, n=None, seed=None, logit_bias=None, response_format=None, anything_new=None, functions=None),
    "nothing asked": ask(
        tools=[], tool_choice="auto", logit_bias={}, presence_penalty=0, frequency_penalty=0.0, store=False, modalities=["text"]
    ),
    "other keys of a message": {
        "model": "scripted",
        "messages": [
            {"role": "developer", "content": "Be brief.", "name": "operator"},
            {"role": "assistant", "content": "Hello.", "refusal": None, "tool_calls": None, "annotations": [], "reasoning_content": "Hm."},
            {"role": "assistant", "content": None},
            {"role": "user", "content": "Hm?", "name": "me", "timestamp": 12},
        ],
    },
    "large max_tokens": ask(max_tokens=100_000),
}


@pytest.mark.parametrize("body", CALLS.values(), ids=CALLS)
def test_what_clients_send_passes(live: LiveServer, body: dict[str, Any]) -> None:
    reply = post(live, body)
    assert reply.status_code == 200, reply.text


def test_a_developer_is_the_system(live: LiveServer, generator: ScriptedGenerator) -> None:
    assert post(live, CALLS["other keys of a message"]).status_code == 200
    assert generator.requests[-1].messages[0] == {"role": "system", "content": "Be brief."}


SAMPLING = [
    ({"temperature": 0}, None),
    ({"temperature": 1e-9}, None),
    ({"top_p": 0, "temperature": 1}, None),
    ({"top_k": 1, "temperature": 1}, None),
    ({"temperature": None}, {"temperature": 1.0, "top_p": 1.0, "top_k": 0}),
    ({"temperature": 2, "top_p": 0.5, "top_k": 5, "min_p": 0.1}, {"temperature": 2.0, "top_p": 0.5, "top_k": 5, "min_p": 0.1}),
    ({"temperature": 0, "repetition_penalty": 1.2}, {"top_k": 1, "repetition_penalty": 1.2}),
]


@pytest.mark.parametrize(("values", "expected"), SAMPLING)
def test_sampling(live: LiveServer, generator: ScriptedGenerator, values: dict[str, Any], expected: dict[str, Any] | None) -> None:
    assert post(live, ask(**values)).status_code == 200
    sampling = generator.requests[-1].sampling
    assert (sampling if expected is None else sampling and sampling.model_dump(include=set(expected))) == expected


def test_a_seed_repeats_and_none_does_not(live: LiveServer, generator: ScriptedGenerator) -> None:
    seeds = []
    for seed in (7, 7, None, None, -3):
        post(live, ask(seed=seed))
        seeds.append(generator.requests[-1].seed)
    assert seeds[:2] == [7, 7]
    assert len(set(seeds)) == 4
    assert min(seeds) >= 0


@pytest.mark.parametrize("stop", ["ring", ["ring", "zzz"]])
def test_a_stop_text(client: openai.OpenAI, stop: str | list[str]) -> None:
    reply = client.chat.completions.create(**ask(stop=stop))
    assert reply.choices[0].message.content == "<think>A bright "


def test_the_length_is_told(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(**ask(max_tokens=3))
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("<think>", "length")
