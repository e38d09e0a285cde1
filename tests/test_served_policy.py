"""A served policy answers as `osler.ask` and the engine of `osler eval` do: the same prompt, the same pixels, the same grader."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import closing

import pytest
from live_server import LiveServer, serve

import osler
from osler.config import PolicyConfig
from osler.evaluation.engines.hf import HfEngine
from osler.evaluation.question import make_prompt
from osler.evaluation.votes import grade_completion
from osler.images.embedded import ImageBytes
from osler.policies.load import Policy, load_policy
from osler.serving.batching import open_generator
from osler.types import ImageSource, Prompt, Sample

pytestmark = pytest.mark.integration

QUESTIONS = osler.read("phantom", split="test", modalities=["mri", "ct"], num_questions=4)


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with closing(open_generator(PolicyConfig(path="osler-tiny"))) as generator, serve(generator) as server:
        yield server


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy("osler-tiny")


def as_png(source: ImageSource) -> ImageBytes:
    stream = io.BytesIO()
    source.load().save(stream, "PNG")
    return ImageBytes.of(stream.getvalue())


def as_url(image: ImageBytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image.content).decode()


def prompt_of(sample: Sample, image: ImageBytes, strategy: str) -> Prompt:
    return make_prompt([image], sample.question, sample.choices, strategy=strategy)


@pytest.mark.parametrize("strategy", ["think", "no_think"])
@pytest.mark.parametrize("sample", QUESTIONS, ids=lambda sample: sample.id)
def test_an_answer_is_that_of_an_evaluation(live: LiveServer, policy: Policy, sample: Sample, strategy: str) -> None:
    image = as_png(sample.images[0])
    prompt = prompt_of(sample, image, strategy)
    ((completion,),) = HfEngine(policy, option_probabilities=True).generate([prompt], max_completion_length=128)
    record = grade_completion(prompt, completion, policy.name)
    body = {"question": sample.question, "choices": list(sample.choices), "images": [{"url": as_url(image)}], "strategy": strategy}
    reply = live.http.post("/v1/answer", json={**body, "max_tokens": 128, "look": ["blank"]}).json()
    assert (reply["completion"], reply["answer"], reply["rule"], reply["reasoning"]) == (
        record.completion,
        record.answer,
        record.rule,
        record.reasoning,
    )
    assert (reply["prompt"], reply["finish_reason"]) == (record.prompt, record.finish_reason)
    assert record.option_probabilities is not None
    assert [choice["probability"] for choice in reply["choices"]] == pytest.approx(list(record.option_probabilities), abs=1e-4)
    assert reply["usage"]["completion_tokens"] == record.num_tokens
    assert reply["images"]["tokens"] > 0
    assert reply["look"][0]["image"] == "blank"

    parts = [{"type": "image_url", "image_url": {"url": as_url(image)}}, {"type": "text", "text": prompt.text}]
    chat = {"model": "osler-tiny", "messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": 128}
    (choice,) = live.http.post("/v1/chat/completions", json={**chat, "logprobs": True}).json()["choices"]
    assert choice["message"]["content"] == record.completion
    assert "".join(token["token"] for token in choice["logprobs"]["content"]) == record.completion
    streamed = live.http.post("/v1/chat/completions", json={**chat, "stream": True}).text
    events = [json.loads(line[6:]) for line in streamed.split("\n") if line.startswith("data: {")]
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == record.completion


def chat_body(text: str, **more: object) -> dict[str, object]:
    return {"model": "osler-tiny", "messages": [{"role": "user", "content": text}], "temperature": 0, **more}


def test_a_limit_gives_way_to_the_context(live: LiveServer) -> None:
    """Clients send 4096 and more to a policy of 2048 tokens."""
    reply = live.http.post("/v1/chat/completions", json=chat_body("Hi", max_tokens=1_000_000, stop=["C"])).json()
    assert reply["choices"][0]["finish_reason"] in ("stop", "length")
    assert reply["usage"]["total_tokens"] <= 2048


def test_a_prompt_that_is_too_long(live: LiveServer) -> None:
    reply = live.http.post("/v1/chat/completions", json=chat_body("word " * 10_000))
    assert reply.status_code == 400
    assert "more than the 2048 of this server" in reply.json()["error"]["message"]


@pytest.mark.parametrize("text", ["<image>", "<think>", "</s>", "<|", "|>", "\0\t\r\n", "é" * 50, "🩻" * 20, "<answer>B</answer>"])
def test_any_text_passes(live: LiveServer, text: str) -> None:
    reply = live.http.post("/v1/chat/completions", json=chat_body(text, max_tokens=3))
    assert reply.status_code == 200, reply.text


def test_a_damaged_image_is_the_request_s_fault(live: LiveServer) -> None:
    content = as_png(QUESTIONS[0].images[0]).content
    url = "data:image/png;base64," + base64.b64encode(content[: len(content) // 2]).decode()
    for path, body in (
        ("/v1/answer", {"question": "What?", "images": [{"url": url}]}),
        (
            "/v1/chat/completions",
            {"model": "osler-tiny", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]},
        ),
    ):
        reply = live.http.post(path, json=body)
        assert reply.status_code == 400
        assert "damaged or cut short" in reply.json()["error"]["message"]
