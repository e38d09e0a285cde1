"""The engine that asks an endpoint, against a small real server: what is asked, what a reply means, and what failures cost."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from endpoint_cases import LONG, PROMPTS, answers, engine, texts
from PIL import Image
from scripted_endpoint import KEY, ScriptedEndpoint, letter_for, serve, text_of
from small_prompts import Noise, make_prompt

from osler.config import EndpointConfig, PolicyConfig, SamplingConfig, build_config
from osler.errors import ConfigError, DataError, EngineError
from osler.evaluation.endpoint import Endpoint
from osler.evaluation.engines import open_engine
from osler.evaluation.engines.chat_reply import letter_probabilities
from osler.evaluation.engines.openai import OpenAIEngine, RequestSettings, make_endpoint
from osler.evaluation.engines.sent_images import SentImages, encode_picture
from osler.evaluation.replies import TokenChoice
from osler.grading import grade
from osler.images.clip import Clip
from osler.types import FinishReason

pytestmark = pytest.mark.integration

pytest.importorskip("openai")


@pytest.fixture(scope="module")
def running() -> Iterator[ScriptedEndpoint]:
    with serve() as server:
        yield server


@pytest.fixture
def server(running: ScriptedEndpoint) -> ScriptedEndpoint:
    running.reset()
    return running


def picture_of(url: str) -> Image.Image:
    head, _, content = url.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


# What is asked


def test_a_question_is_asked_as_a_chat_with_its_images_in_order(server: ScriptedEndpoint) -> None:
    pictures = [Noise(seed=1), Noise(seed=2, width=84)]
    prompts = [make_prompt(0, 1, pictures), make_prompt(1, 2, [])]
    assert texts(engine(server, concurrency=1).generate(prompts, max_completion_length=9)) == answers(prompts)
    first, second = (body["messages"] for body in server.bodies)
    assert second == [{"role": "user", "content": prompts[1].text}]
    *images, text = first[0]["content"]
    assert text == {"type": "text", "text": prompts[0].text}
    for part, picture in zip(images, pictures, strict=True):
        assert picture_of(part["image_url"]["url"]).tobytes() == picture.load().tobytes()


FIELDS: list[tuple[str, dict[str, Any], SamplingConfig | None, dict[str, Any]]] = [
    ("greedy", {}, None, {"temperature": 0, "top_p": 1.0, "max_tokens": 9, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}),
    (
        "drawn",
        {},
        SamplingConfig(temperature=0.7, top_p=0.9, top_k=5, min_p=0.1, repetition_penalty=1.2, max_completion_length=77),
        {"temperature": 0.7, "top_p": 0.9, "max_tokens": 9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2},
    ),
    ("dialect of OpenAI", {"dialect": "openai"}, None, {"temperature": 0, "top_p": 1.0, "max_completion_tokens": 9}),
    (
        "more fields",
        {"dialect": "openai", "extra_body": {"temperature": 1, "reasoning_effort": "low"}},
        None,
        {"temperature": 1, "top_p": 1.0, "max_completion_tokens": 9, "reasoning_effort": "low"},
    ),
    (
        "probabilities",
        {"dialect": "openai", "option_probabilities": True},
        None,
        {"temperature": 0, "top_p": 1.0, "max_completion_tokens": 9, "logprobs": True, "top_logprobs": 20},
    ),
]


@pytest.mark.parametrize(("name", "settings", "sampling", "fields"), FIELDS, ids=[row[0] for row in FIELDS])
def test_every_sampling_parameter_is_sent(
    server: ScriptedEndpoint, name: str, settings: dict[str, Any], sampling: SamplingConfig | None, fields: dict[str, Any]
) -> None:
    engine(server, settings=RequestSettings(**settings)).generate(PROMPTS[:1], max_completion_length=9, sampling=sampling)
    (body,) = server.bodies
    assert isinstance(body.pop("seed"), int)
    assert body.pop("model") == "well"
    body.pop("messages")
    assert body == fields


@pytest.mark.parametrize("changes", [{"top_k": 5}, {"min_p": 0.1}, {"repetition_penalty": 1.1}], ids=str)
def test_what_an_endpoint_does_not_take_is_refused(server: ScriptedEndpoint, changes: dict[str, Any]) -> None:
    asked = engine(server, settings=RequestSettings(dialect="openai"))
    with pytest.raises(EngineError, match=f"has no {next(iter(changes))}"):
        asked.generate(PROMPTS, max_completion_length=9, sampling=SamplingConfig(**changes))
    assert not server.bodies


def test_a_question_draws_with_a_seed_of_its_own(server: ScriptedEndpoint) -> None:
    """Equal calls draw the same, another seed other completions, and one question alone the same as among all."""
    asked = engine(server, "seeded")
    prompts = [make_prompt(number) for number in range(8)]
    drawn: dict[str, Any] = {"max_completion_length": 9, "num_generations": 4, "sampling": SamplingConfig()}
    first, again, other = (texts(asked.generate(prompts, **drawn, seed=seed)) for seed in (0, 0, 1))
    assert [len(group) for group in first] == [4] * 8
    assert first == again != other
    (alone,) = asked.generate_each({5: prompts[5]}, **drawn, seed=0)
    assert texts([alone.completions]) == [first[5]]
    with pytest.raises(EngineError, match="all the same"):
        asked.generate(prompts, max_completion_length=9, num_generations=2)


def test_only_the_key_that_is_given_goes_out(server: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """openai would send the key, the organisation and the headers of its own environment variables."""
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "from-the-environment")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer from-the-environment\nX-Other: from-the-environment")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    engine(server).generate(PROMPTS[:1], max_completion_length=9)
    engine(server, key=KEY).generate(PROMPTS[:1], max_completion_length=9)
    without, with_key = server.headers_seen
    needed = {"host", "connection", "content-length", "content-type", "accept", "accept-encoding", "user-agent"}
    assert {name.lower() for name in without} <= needed
    assert with_key["Authorization"] == f"Bearer {KEY}"
    assert "from-the-environment" not in str(server.headers_seen)


# What a reply means


REPLIES: list[tuple[str, str, FinishReason, str, str | None]] = [
    ("reasoning_content", "<think>A bright ring.</think><answer>{letter}</answer>", FinishReason.STOP, "read", None),
    ("reasoning", "<think>A bright ring.</think><answer>{letter}</answer>", FinishReason.STOP, "read", None),
    ("lengthy", "It may be", FinishReason.LENGTH, "no_answer", None),
    ("lost_in_thought", "<think>A bright", FinishReason.LENGTH, "no_answer", None),
    ("empty", "", FinishReason.STOP, "no_answer", None),
    ("null", "", FinishReason.STOP, "no_answer", None),
    ("refusal", "", FinishReason.STOP, "no_answer", "I cannot help with A."),
    ("filtered", "", FinishReason.STOP, "no_answer", "A"),
    ("filtered_prompt", "", FinishReason.STOP, "no_answer", "The prompt was filtered"),
    ("nameless", "<answer>{letter}</answer>", FinishReason.STOP, "read", None),
]


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("model", "text", "reason", "outcome", "refusal"), REPLIES, ids=[row[0] for row in REPLIES])
def test_a_reply_becomes_a_completion(
    server: ScriptedEndpoint, model: str, text: str, reason: FinishReason, outcome: str, refusal: str | None, is_streamed: bool
) -> None:
    """A refusal that names an option is no answer."""
    pieces: list[str] = []
    listener = {"on_text": pieces.append} if is_streamed else {}
    (answered,) = engine(server, model).generate_each({0: PROMPTS[0]}, max_completion_length=9, **listener)
    (completion,), (usage,) = answered.completions, answered.usage
    expected = text.replace("{letter}", letter_for(PROMPTS[0].text))
    assert (completion.text, completion.finish_reason, usage.refusal) == (expected, reason, refusal)
    verdict = grade(completion.text, choices=("CT", "MRI"), target="A", strategy="no_think")
    assert (verdict.outcome == "no_answer") == (outcome == "no_answer")
    if is_streamed and refusal is None:
        assert "".join(pieces) == expected
        assert (usage.first_text is not None) == bool(expected)


def test_tokens_and_costs_are_those_of_the_server(server: ScriptedEndpoint) -> None:
    asked = engine(server, "counting", settings=RequestSettings(price_in=2.0, price_out=10.0))
    for listener in ({}, {"on_text": lambda text: None}):
        (answered,) = asked.generate_each({0: PROMPTS[0]}, max_completion_length=9, **listener)
        (usage,) = answered.usage
        assert (usage.prompt_tokens, usage.completion_tokens, usage.model, usage.fingerprint) == (100, 7, "counting", "fp_1")
        assert usage.cost == pytest.approx(0.00027)
        assert (answered.completions[0].num_tokens, answered.completions[0].token_ids) == (7, ())
        assert 0 < usage.seconds < LONG
    (answered,) = engine(server, settings=RequestSettings(price_in=2.0, price_out=10.0)).generate_each(
        {0: PROMPTS[0]}, max_completion_length=9
    )
    assert (answered.usage[0].cost, answered.completions[0].num_tokens) == (None, 0)


def test_option_probabilities_come_from_the_letters(server: ScriptedEndpoint) -> None:
    for wanted in (True, False):
        asked = engine(server, "logprobs", settings=RequestSettings(option_probabilities=wanted))
        ((completion,),) = asked.generate(PROMPTS[:1], max_completion_length=9)
        assert completion.option_probabilities == (pytest.approx((0.75, 0.25), abs=1e-5) if wanted else None)
    ((completion,),) = engine(server, settings=RequestSettings(option_probabilities=True)).generate(PROMPTS[:1], max_completion_length=9)
    assert completion.option_probabilities is None


def tokens(*pieces: str, top: dict[str, float] | None = None) -> list[TokenChoice]:
    return [TokenChoice(token=piece, logprob=-0.1, top=tuple((top or {}).items()) if piece.strip() in "ABCDI" else ()) for piece in pieces]


SURE = {"B": -0.001, " C": -7.0, "A": -9.0, "D": -9.5, "x": -20.0}
CERTAIN = {"B": -0.001, "A": -7.0, "x": -20.0}
UNCERTAIN = {"B": -0.3, "A": -1.5, "x": -3.0}
TWO_SPELLINGS = {"B": -1.0, " B": -1.0, "A": -1.0, "x": -30.0}
EVEN = {"B": -0.693147, "A": -0.693147}
TAGGED = ("<answer>", "B", "</answer>")
PROBABILITIES: list[tuple[str, list[TokenChoice], str, int, tuple[float, ...] | None]] = [
    ("all letters", tokens("<", "answer", ">", "B", "</answer>", top=SURE), "", 4, (0.000123, 0.998889, 0.000912, 0.000075)),
    ("a letter that cannot matter", tokens(*TAGGED, top=CERTAIN), "", 3, (0.000912, 0.999088, 0.0)),
    ("a letter that may matter", tokens(*TAGGED, top=UNCERTAIN), "", 3, None),
    ("two spellings of a letter", tokens(*TAGGED, top=TWO_SPELLINGS), "", 2, (1 / 3, 2 / 3)),
    ("no list", tokens(*TAGGED), "", 2, None),
    ("a begun answer", tokens("B", "</answer>", top=EVEN), "<answer>", 2, (0.5, 0.5)),
    ("a text", tokens("<answer>", "CT", "</answer>", top=SURE), "", 2, None),
    ("an open question", tokens(*TAGGED, top=SURE), "", 0, None),
    ("nothing", [], "", 2, None),
    ("the first word is no letter", tokens("I", " cannot", top=SURE), "", 2, None),
]


@pytest.mark.parametrize(("name", "found", "prefix", "num_choices", "probs"), PROBABILITIES, ids=[row[0] for row in PROBABILITIES])
def test_probabilities_are_known_or_none(
    name: str, found: list[TokenChoice], prefix: str, num_choices: int, probs: tuple[float, ...] | None
) -> None:
    assert letter_probabilities(found, prefix, num_choices) == (probs if probs is None else pytest.approx(probs, abs=1e-6))


# Images and prefixes


def test_large_images_are_reduced(server: ScriptedEndpoint) -> None:
    asked = OpenAIEngine(engine(server).endpoint, images=SentImages(max_side=50))
    asked.generate([make_prompt(0, 1, [Noise(seed=1, width=200, height=100), Noise(seed=2, width=50, height=20)])], max_completion_length=9)
    sent = [picture_of(part["image_url"]["url"]) for part in server.bodies[0]["messages"][0]["content"][:2]]
    assert [picture.size for picture in sent] == [(50, 25), (50, 20)]
    assert picture_of(encode_picture(Image.new("RGB", (1000, 2)), 50)).size == (50, 1)


def test_images_that_cannot_be_sent_are_one_line(server: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="own/7: noise:-1 cannot be drawn"):
        engine(server).generate([make_prompt(0), make_prompt(7, 3, [Noise(seed=-1)]), *PROMPTS], max_completion_length=9)
    clip = replace(PROMPTS[0], sample=replace(PROMPTS[0].sample, images=(Clip(sources=(Noise(seed=1), Noise(seed=2))),)))
    with pytest.raises(EngineError, match=r'own/0 shows a clip.*layout = "images"'):
        engine(server).generate([clip], max_completion_length=9)
    monkeypatch.setattr("osler.evaluation.engines.sent_images.MAX_SENT_BYTES", 1000)
    with pytest.raises(EngineError, match=r"own/0 has images of [\d,]+ bytes, and 1,000 can be sent"):
        engine(server).generate(PROMPTS, max_completion_length=9)


def test_a_begun_answer_is_continued_where_the_server_does_that(server: ScriptedEndpoint) -> None:
    begun = replace(PROMPTS[0], prefix="<think>A ring.</think><answer>")
    asked = engine(server, "continuing", settings=RequestSettings(continues_prefix=True))
    assert texts(asked.generate([begun], max_completion_length=9)) == [["<think>A ring.</think><answer>B</answer>"]]
    (body,) = server.bodies
    assert body["messages"][1] == {"role": "assistant", "content": begun.prefix}
    assert (body["continue_final_message"], body["add_generation_prompt"], text_of(body)) == (True, False, begun.text)
    with pytest.raises(EngineError, match="own/0 begins the answer"):
        engine(server, "continuing").generate([begun], max_completion_length=9)


# Settings


BAD_SETTINGS: list[tuple[dict[str, Any], str, str]] = [
    ({}, "m", "needs eval.base_url"),
    ({"base_url": "localhost:8000"}, "m", r"\[eval\] base_url is no web address"),
    ({"base_url": "http://user:secret@host/v1"}, "m", "holds a user name"),
    ({"base_url": "http://host"}, " ", "--policy is empty"),
    ({"base_url": "http://host", "api_key_env": "OSLER_TEST_NO_KEY"}, "m", "the environment variable OSLER_TEST_NO_KEY holds no key"),
    ({"base_url": "http://host", "api_key_file": "absent"}, "m", "absent cannot be read"),
    ({"base_url": "http://host", "api_key_file": "a", "api_key_env": "B"}, "m", "both set"),
]


@pytest.mark.parametrize(("settings", "model", "said"), BAD_SETTINGS, ids=[row[2] for row in BAD_SETTINGS])
def test_settings_with_which_nothing_can_be_asked(settings: dict[str, Any], model: str, said: str) -> None:
    with pytest.raises((ConfigError, DataError), match=said) as raised:
        make_endpoint(EndpointConfig(**settings), model)
    assert "secret" not in str(raised.value)


def test_keys_come_from_a_variable_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSLER_TEST_KEY", KEY)
    (tmp_path / "key").write_text(f"{KEY}\n")
    for setting in ({"api_key_env": "OSLER_TEST_KEY"}, {"api_key_file": str(tmp_path / "key")}):
        found = make_endpoint(EndpointConfig(base_url="https://host/v1", **setting), "m")
        assert (found.key, found.url, found.attempts) == (KEY, "https://host/v1/chat/completions", 6)
        assert KEY not in repr(found)


PRIVATE = [
    ({"private": True}, {"base_url": "https://host/v1"}, "would go to host: set"),
    ({"private": True}, {"base_url": "https://host/v1", "may_send_private": True}, None),
    ({"private": True}, {"base_url": "http://127.0.0.1:8000/v1"}, None),
    ({}, {"base_url": "https://host/v1"}, None),
]


@pytest.mark.parametrize(("data", "evaluation", "said"), PRIVATE, ids=["refused", "allowed", "here", "public"])
def test_private_data_stay_here_unless_they_may_leave(data: dict[str, Any], evaluation: dict[str, Any], said: str | None) -> None:
    config = build_config({"data": data, "policy": {"path": "m"}, "eval": {"engine": "openai", **evaluation}})
    if said is None:
        assert open_engine(config).policy_name == "m"
        return
    with pytest.raises(ConfigError, match=said):
        open_engine(config)


# Our own server


@pytest.mark.integration
def test_our_own_server_gives_the_records_of_this_process(tmp_path: Path) -> None:
    """Byte for byte, with probabilities and numbers of tokens: `osler eval --engine openai` and `--engine hf` on the packaged policy."""
    pytest.importorskip("osler.serving.app", reason="the extra serve is not installed")
    from contextlib import closing

    from live_server import serve as serve_live

    from osler.evaluation.run import evaluate
    from osler.serving.batching import open_generator

    values: dict[str, Any] = {"data": {"test": {"limit": 10}}, "policy": {"path": "osler-tiny", "device": "cpu"}}
    settings = {"option_probabilities": True, "max_completion_length": 64, "batch_size": 8}
    here = evaluate(build_config({**values, "eval": settings}), tmp_path / "here")
    with closing(open_generator(PolicyConfig(path="osler-tiny", device="cpu"))) as generator, serve_live(generator) as live:
        asked = {**settings, "engine": "openai", "base_url": f"{live.url}/v1"}
        there = evaluate(build_config({**values, "eval": asked}), tmp_path / "there")
        pieces: list[str] = []
        streamed = OpenAIEngine(Endpoint(url=f"{live.url}/v1/chat/completions", model="osler-tiny")).generate(
            [make_prompt(0)], max_completion_length=64, on_text=pieces.append
        )
    assert there.path.read_bytes() == here.path.read_bytes()
    assert there.usage is not None
    assert (there.usage.num_requests, there.usage.num_uncounted, len(there.usage.fingerprints)) == (10, 0, 1)
    assert "".join(pieces) == streamed[0][0].text != ""
