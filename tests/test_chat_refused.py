"""Chats that are refused: 400 with the name of the parameter, and no word of what was sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from chat_requests import ask, png, post, script
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
    (["hello"], None, "no JSON object"),
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
    (b"[1]", "the body is no JSON object"),
    (b"3", "the body is no JSON object"),
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
