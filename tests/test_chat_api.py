"""/v1/models and /v1/chat/completions, asked by the clients that people use: openai, curl, Open WebUI, lmms-eval."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import openai
import pytest
from live_server import LiveServer, serve
from PIL import Image

from osler.errors import DataError, EngineError
from osler.serving.generation import GenerationRequest
from osler.serving.scripted import ScriptedGenerator
from osler.serving.settings import ServerSettings

TEXT = "<think>A bright ring.</think><answer>B</answer>"
KEY = "a-key-for-tests"


def png(size: tuple[int, int] = (32, 24), colour: tuple[int, int, int] = (10, 200, 30)) -> str:
    """A picture as a data URL."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def script(request: GenerationRequest) -> Sequence[str]:
    """A text that depends on what is asked."""
    asked = request.messages[-1]["content"]
    said = asked if isinstance(asked, str) else "".join(part.get("text", "") for part in asked)
    if said == "too long":
        raise EngineError("the prompt takes 9000 tokens, more than 2048: send less")
    if said == "bad image":
        raise DataError("image sha256/0 is damaged or cut short: fetch it again")
    if said == "bug":
        raise RuntimeError("something about Mrs Miller")
    if said == "slow":
        return ["word " * 200]
    return [TEXT, "<answer>A</answer>"]


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


def ask(text: str = "What is it?", **more: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [{"role": "user", "content": text}], "temperature": 0, **more}


def post(live: LiveServer, body: Any, **more: Any) -> httpx.Response:
    return live.http.post("/v1/chat/completions", json=body, **more)


# The clients.


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


# What is refused.

PICTURE = {"type": "image_url", "image_url": {"url": png()}}


def with_parts(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"model": "scripted", "messages": [{"role": role, "content": list(parts)}]}


def with_url(url: str) -> dict[str, Any]:
    return with_parts({"type": "image_url", "image_url": {"url": url}})


REFUSED = [
    (ask(tools=[{"type": "function", "function": {"name": "x"}}]), "tools", "not supported"),
    (ask(tool_choice="required"), "tool_choice", "not supported"),
    (ask(audio={"voice": "x"}), "audio", "not supported"),
    (ask(modalities=["text", "audio"]), "modalities", "not supported"),
    (ask(logit_bias={"5": 1}), "logit_bias", "not supported"),
    (ask(presence_penalty=0.5), "presence_penalty", "repetition_penalty"),
    (ask(response_format={"type": "json_object"}), "response_format", "/v1/answer"),
    (ask(response_format={"type": "json_schema", "json_schema": {"name": "x"}}), "response_format", "/v1/answer"),
    (ask(temprature=1), "temprature", "no parameter"),
    (ask(temperature="1"), "temperature", "number"),
    (ask(temperature=True), "temperature", "number"),
    (ask(temperature=3), "temperature", "less than or equal to 2"),
    (ask(temperature=-1), "temperature", "greater than or equal to 0"),
    (ask(top_p=1.5), "top_p", "1"),
    (ask(n=0), "n", "1"),
    (ask(n=17), "n", "16"),
    (ask(n=2.0), "n", "integer"),
    (ask(n=True), "n", "integer"),
    (ask(max_tokens=0), "max_tokens", "1"),
    (ask(max_tokens="5"), "max_tokens", "integer"),
    (ask(stop=[""]), "stop.0", "at least 1"),
    (ask(stop=["x"] * 17), "stop", "16"),
    (ask(top_logprobs=2), "top_logprobs", "logprobs"),
    (ask(top_logprobs=21, logprobs=True), "top_logprobs", "20"),
    (ask(seed=2**63), "seed", "less than"),
    (ask(seed=1.5), "seed", "integer"),
    (ask(stream="yes"), "stream", "boolean"),
    (ask(stream=1), "stream", "boolean"),
    ({"messages": [{"role": "user", "content": "x"}]}, "model", "required"),
    ({"model": "scripted"}, "messages", "required"),
    ({"model": "scripted", "messages": []}, "messages", "at least 1"),
    ({"model": "scripted", "messages": "hello"}, "messages", "list"),
    ({"model": "scripted", "messages": [{"role": "user", "content": " "}]}, "messages", "empty"),
    ({"model": "scripted", "messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role", "user"),
    (
        {"model": "scripted", "messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]},
        "messages.0.tool_call_id",
        "not supported",
    ),
    ({"model": "scripted", "messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages.0.tool_calls", "not supported"),
    (["hello"], None, "dictionary"),
    (with_parts({"type": "input_audio", "input_audio": {}}), "messages.0.content.0.type", "not supported"),
    (with_parts({"type": "file", "file": {"file_id": "x"}}), "messages.0.content.0.type", "not supported"),
    (with_parts(PICTURE, role="system"), "messages.0.content", "user"),
    (with_parts({"type": "text", "text": "<|im_st"}, {"type": "text", "text": "art|>"}), "messages.0.content", "chat token"),
    (ask("x <|im_end|> y"), "messages.0.content", "chat token"),
    (ask("x" * 65_537), "messages.0.content", "65,536"),
    (with_url("https://example.org/x.png"), "messages.0.content.0.image_url.url", "no address is fetched"),
    (with_url("http://127.0.0.1:1/x.png"), "messages.0.content.0.image_url.url", "no address is fetched"),
    (with_url("file:///etc/passwd"), "messages.0.content.0.image_url.url", "no address is fetched"),
    (with_url("/etc/passwd"), "messages.0.content.0.image_url.url", "no address is fetched"),
    (with_url("data:image/png,rawbytes"), "messages.0.content.0.image_url.url", "no address is fetched"),
    (with_url("data:image/png;base64,!!!!"), "messages.0.content.0.image_url.url", "no base64"),
    (with_url("data:image/png;base64,"), "messages.0.content.0.image_url.url", "empty"),
    (with_url("data:image/png;base64,aGVsbG8="), "messages.0.content.0.image_url.url", "not an image"),
    (with_parts(*[PICTURE] * 65), "messages.0.content.64.image_url.url", "64"),
    (ask("too long"), None, "more than 2048"),
    (ask("bad image"), None, "damaged"),
]


@pytest.mark.parametrize(("body", "param", "said"), REFUSED)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_what_is_refused_names_the_parameter(live: LiveServer, body: Any, param: str | None, said: str, is_streamed: bool) -> None:
    if is_streamed and isinstance(body, dict) and "stream" not in body:
        body = {**body, "stream": True}
    reply = post(live, body)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert said in error["message"]
    assert "\n" not in error["message"]


RAW = [
    (b'{"model": "scripted", "temperature": NaN}', "NaN"),
    (b'{"model": "scripted", "temperature": -Infinity}', "-Infinity"),
    (b'{"model": "scripted", "temperature": 1e999, "messages": [{"role": "user", "content": "x"}]}', "finite"),
    (b'{"model": "scripted", "messages": [{"role": "user", "content": "\\ud800"}]}', "surrogate"),
    (b'{"model": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
    (b'{"n": ' + b"9" * 5000 + b"}", "not JSON"),
    (b"{", "not JSON"),
    (b"\xff\xfe{\x00}\x00", "not JSON"),
    (b"", "required"),
]


@pytest.mark.parametrize(("body", "said"), RAW)
def test_what_is_no_json_is_refused(live: LiveServer, body: bytes, said: str) -> None:
    reply = live.http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400, reply.text
    assert said in reply.json()["error"]["message"]


def test_an_emoji_in_two_escapes_passes(live: LiveServer, generator: ScriptedGenerator) -> None:
    body = json.dumps(ask("fine 🩻"), ensure_ascii=True)
    assert live.http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}).status_code == 200
    assert generator.requests[-1].messages[0]["content"] == [{"type": "text", "text": "fine 🩻"}]


def test_another_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(**{**ask(), "model": "gpt-4o"})
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_fault_of_the_server_tells_the_client_nothing(live: LiveServer, is_streamed: bool) -> None:
    reply = post(live, ask("bug", stream=is_streamed))
    assert reply.status_code == 500
    assert "Miller" not in reply.text
    assert reply.json()["error"]["type"] == "server_error"


# Keys, hosts, origins.


def test_a_key_is_asked_for(generator: ScriptedGenerator) -> None:
    with serve(ScriptedGenerator(TEXT), settings=ServerSettings(api_key=KEY)) as live:
        for given in ("", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", "Bearer ключ"):
            reply = live.http.get("/v1/models", headers={"Authorization": given.encode()})
            assert reply.status_code == 401
            assert reply.json()["error"]["code"] == "invalid_api_key"
        with openai.OpenAI(base_url=live.url + "/v1", api_key=KEY) as client:
            assert client.chat.completions.create(**ask()).choices[0].message.content == TEXT
        with openai.OpenAI(base_url=live.url + "/v1", api_key="wrong-key") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()
        assert live.http.get("/health").status_code == 200
        assert live.http.get("/metrics").status_code == 401


HEADS = [
    ({"Host": "evil.example:8000"}, 403),
    ({"Host": "127.0.0.1.evil.example"}, 403),
    ({"Host": "LOCALHOST:1"}, 200),
    ({"Host": "[::1]:8000"}, 200),
    ({"Host": "gpu7.example"}, 200),
    ({"Origin": "https://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "http://localhost:5", "Host": "localhost:5"}, 200),
    ({"Origin": "http://localhost:6", "Host": "localhost:5"}, 403),
    ({"Origin": "https://chat.example"}, 200),
    ({"Content-Type": "text/plain"}, 415),
    ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ({"Content-Type": "application/json; charset=utf-8"}, 200),
]


@pytest.fixture(scope="module")
def guarded() -> Iterator[LiveServer]:
    settings = ServerSettings(allowed_hosts=("gpu7.example",), cors_origins=("https://chat.example",))
    with serve(ScriptedGenerator(TEXT), settings=settings) as server:
        yield server


@pytest.mark.parametrize(("headers", "status"), HEADS)
def test_hosts_origins_and_content_types(guarded: LiveServer, headers: dict[str, str], status: int) -> None:
    content = json.dumps(ask())
    reply = guarded.http.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json", **headers})
    assert reply.status_code == status, reply.text
    assert status == 200 or reply.json()["error"]["message"]


@pytest.mark.parametrize(("origin", "is_allowed"), [("https://chat.example", True), ("https://evil.example", False)])
def test_cors_is_closed_but_for_named_origins(guarded: LiveServer, live: LiveServer, origin: str, is_allowed: bool) -> None:
    asking = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    reply = guarded.http.options("/v1/chat/completions", headers=asking)
    assert (reply.headers.get("access-control-allow-origin") == origin) == is_allowed
    closed = live.http.options("/v1/chat/completions", headers=asking)
    assert closed.status_code == 403
    assert "access-control-allow-origin" not in closed.headers


# Places.


def test_a_full_queue_answers_429(live: LiveServer) -> None:
    with serve(ScriptedGenerator("word " * 50, delay=0.02, max_running=1, max_queued=1)) as busy:
        statuses: list[int] = []

        def run() -> None:
            reply = post(busy, ask())
            statuses.append(reply.status_code)
            assert reply.status_code == 200 or float(reply.headers["Retry-After"]) >= 1

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200, 200, 429, 429]


def wait_until(is_so: Any, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("is_queued", [False, True])
def test_a_client_that_leaves_frees_its_place(is_streamed: bool, is_queued: bool) -> None:
    generator = ScriptedGenerator("word " * 1000, delay=0.02, max_running=0 if is_queued else 1, max_queued=1)
    with serve(generator) as busy:
        wanted = (lambda: generator.load.queued == 1) if is_queued else (lambda: generator.load.running == 1)

        async def run() -> None:
            async with httpx.AsyncClient() as client:
                task = asyncio.ensure_future(client.post(busy.url + "/v1/chat/completions", json=ask(stream=is_streamed)))
                await asyncio.to_thread(wait_until, wanted)
                task.cancel()

        asyncio.run(run())
        wait_until(lambda: generator.load.running == generator.load.queued == 0)
        wait_until(lambda: busy.app.state.activity.open_requests == 0)
        metrics = busy.http.get("/metrics").text
        assert "osler_clients_left_total 1.0" in metrics


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_that_takes_too_long_is_given_up(is_streamed: bool) -> None:
    generator = ScriptedGenerator("word " * 1000, delay=0.02)
    with serve(generator, settings=ServerSettings(request_seconds=0.2)) as slow:
        reply = post(slow, ask(stream=is_streamed))
        wait_until(lambda: generator.load.running == 0)
        if is_streamed:
            assert reply.status_code == 200
            error = json.loads(reply.text.strip().rpartition("data: ")[2])["error"]
            with (
                openai.OpenAI(base_url=slow.url + "/v1", api_key="none") as client,
                pytest.raises(openai.APIError, match="no answer after"),
            ):
                list(client.chat.completions.create(**ask(stream=True)))
        else:
            assert reply.status_code == 504
            error = reply.json()["error"]
        assert error["code"] == "timeout"


def test_a_server_that_stops_finishes_what_runs() -> None:
    generator = ScriptedGenerator("word " * 30, delay=0.02)
    with serve(generator) as live:
        replies: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: replies.append(post(live, ask())))
        thread.start()
        wait_until(lambda: generator.load.running == 1)
        live.server.drain()
        refused = post(live, ask())
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "draining"
        assert refused.headers["Retry-After"]
        assert live.http.get("/health").json()["status"] == "draining"
        thread.join()
        assert replies[0].status_code == 200
        assert replies[0].json()["choices"][0]["message"]["content"] == "word " * 30
        live.thread.join(5)
        assert not live.thread.is_alive()


def test_health_and_metrics(live: LiveServer) -> None:
    post(live, ask())
    health = live.http.get("/health").json()
    assert health["status"] == "ok"
    assert health["policy"] == "scripted"
    assert health["running"] == health["queued"] == 0
    metrics = live.http.get("/metrics").text
    assert 'osler_requests_total{route="/v1/chat/completions",status="200"}' in metrics
    assert "osler_first_token_seconds_count" in metrics
    assert 'osler_tokens_total{kind="completion"}' in metrics
