"""What goes wrong between the engine `openai` and an endpoint is counted, repeated and never a wrong answer; and requests at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from endpoint_cases import PROMPTS, answers, engine, texts
from scripted_endpoint import KEY, ScriptedEndpoint, is_unlucky, serve
from small_prompts import make_prompt

from osler.config import SamplingConfig
from osler.errors import EngineError, MissingAnswers
from osler.evaluation.engines.openai import MAX_FAILURES_IN_A_ROW, RequestSettings
from osler.types import Completion

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


# Failures


FAILURES: list[tuple[str, dict[str, Any], str, int]] = [
    # model, changes of the endpoint, kind, requests for each question
    ("broken", {}, "http_500", 2),
    ("cut", {}, "cut", 2),
    ("unfinished", {}, "cut", 2),
    ("error_200", {}, "error", 2),
    ("calling", {}, "unparsable", 1),
    ("half_json", {}, "unparsable", 1),
    ("other_json", {}, "unparsable", 1),
    ("list", {}, "unparsable", 1),
    ("compressed", {"max_reply_bytes": 1 << 20}, "unparsable", 1),
    ("page", {}, "", 0),
    ("nothing", {}, "", 0),
    ("huge", {"max_reply_bytes": 1 << 20}, "too_large", 1),
    ("dripping", {"timeout": 0.4, "attempts": 1}, "timeout", 0),  # 0: a loaded server may read a request after the client has left
    ("hanging", {"timeout": 0.4, "attempts": 1}, "timeout", 0),
]


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("model", "changes", "kind", "tries"), FAILURES, ids=[row[0] for row in FAILURES])
def test_a_failure_is_no_answer(
    server: ScriptedEndpoint, model: str, changes: dict[str, Any], kind: str, tries: int, is_streamed: bool
) -> None:
    """What is no stream of events is an empty one to openai: only the missing finish_reason tells."""
    kind, tries = (kind, tries) if kind else ("cut", 2) if is_streamed else ("unparsable", 1)
    if is_streamed and model in ("cut", "unfinished"):
        tries = 1  # text was passed on, so it is not asked again
    listener = {"on_text": lambda text: None} if is_streamed else {}
    answered = engine(server, model, **changes).generate_each(dict(enumerate(PROMPTS)), max_completion_length=9, **listener)
    with pytest.raises(
        MissingAnswers, match=rf"3 of 3 questions got no answer, which is not counted as wrong \({kind} 3; first own/0"
    ) as raised:
        list(answered)
    assert raised.value.exit_code == 1
    assert "\n" not in str(raised.value)
    assert not tries or set(server.tries.values()) == {tries}


def test_some_answers_come_and_some_are_missing(server: ScriptedEndpoint) -> None:
    prompts = [make_prompt(number) for number in range(30)]
    lucky = {number for number, prompt in enumerate(prompts) if not is_unlucky(prompt.text)}
    assert 0 in lucky
    assert len(lucky) < 30
    answered = engine(server, "some_fail").generate_each(dict(enumerate(prompts)), max_completion_length=9)
    assert {next(answered).position for _ in lucky} == lucky
    with pytest.raises(MissingAnswers, match=f"{30 - len(lucky)} of 30 questions"):
        next(answered)
    with pytest.raises(MissingAnswers, match=r"http_400 \d+; first own/\d+: http_400, This model's maximum context length"):
        engine(server, "too_long").generate(prompts, max_completion_length=9)


REFUSED = [
    # model, changes, what the line says
    ("refusing", {"key": KEY}, r"http_401, no such key: \*\*\*\."),
    ("refusing_late", {"key": KEY}, "http_401, x{190}Bearer"),
    ("moved", {"key": KEY}, "redirect, the server names another address"),
    ("old", {}, r'http_400, Unrecognized request argument supplied: top_k\): .*set \[eval\] dialect = "openai"'),
    ("other_model", {}, "other_model, it answers as 'llama-7b'.*reported_model"),
    ("naming_key", {"key": KEY}, r"other_model, it answers as 'llama Bearer \*\*\* x{10,200}'"),
    ("huge_error", {"max_reply_bytes": 1 << 20}, None),
    ("well", {"url": "http://127.0.0.1:1/v1/chat/completions"}, r"connection, .*check \[eval\] base_url"),
]


@pytest.mark.parametrize(("model", "changes", "said"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_can_never_succeed_is_one_line_without_the_key(
    server: ScriptedEndpoint, model: str, changes: dict[str, Any], said: str | None
) -> None:
    asked = engine(server, model, **changes)
    with pytest.raises(EngineError if said else MissingAnswers, match=said or "too_large 3") as raised:
        asked.generate(PROMPTS, max_completion_length=9)
    assert "\n" not in str(raised.value)
    assert KEY[:6] not in str(raised.value) + repr(asked.endpoint)
    assert len(server.bodies) == (0 if "url" in changes else 1 if said else 3)


def test_a_busy_server_is_waited_for_as_it_asks(server: ScriptedEndpoint) -> None:
    assert texts(engine(server, "busy", concurrency=1).generate(PROMPTS[:2], max_completion_length=9)) == answers(PROMPTS[:2])
    _, second, third = server.times
    assert third - second >= 0.99  # Retry-After: 1
    assert server.tries[PROMPTS[1].text] == 2


def test_a_server_that_starts_is_waited_for(server: ScriptedEndpoint) -> None:
    assert texts(engine(server, "starting", attempts=3).generate(PROMPTS, max_completion_length=9)) == answers(PROMPTS)


def test_an_endpoint_that_is_down_is_left(server: ScriptedEndpoint) -> None:
    prompts = [make_prompt(number) for number in range(60)]
    with pytest.raises(MissingAnswers, match=f"60 of 60.*were not asked, because {MAX_FAILURES_IN_A_ROW} failed in a row"):
        engine(server, "broken", attempts=1, concurrency=2).generate(prompts, max_completion_length=9)
    assert MAX_FAILURES_IN_A_ROW <= len(server.bodies) <= MAX_FAILURES_IN_A_ROW + 1


def test_another_model_in_the_middle_is_noticed(server: ScriptedEndpoint) -> None:
    with pytest.raises(MissingAnswers, match=r"1 of 3 .*other_model 1; .*answers as 'llama-7b'"):
        engine(server, "changing", concurrency=1).generate(PROMPTS, max_completion_length=9)
    accepted = RequestSettings(reported_model="llama-7b")
    assert texts(engine(server, "other_model", settings=accepted).generate(PROMPTS, max_completion_length=9)) == answers(PROMPTS)


# At a time


def test_requests_run_side_by_side_up_to_the_limit(server: ScriptedEndpoint) -> None:
    """The server answers when four requests are there, and there are never five."""
    prompts = [make_prompt(number) for number in range(9)]
    assert texts(engine(server, "meeting").generate(prompts, max_completion_length=9)) == answers(prompts)
    assert server.most_now == 4


def test_votes_count_in_the_limit(server: ScriptedEndpoint) -> None:
    drawn: dict[str, Any] = {"num_generations": 8, "sampling": SamplingConfig()}
    groups = engine(server, concurrency=3).generate(PROMPTS, max_completion_length=9, **drawn)
    assert [len(group) for group in groups] == [8] * 3
    assert server.most_now <= 3


def test_leaving_early_ends_the_requests(server: ScriptedEndpoint) -> None:
    answered = engine(server).generate_each({number: make_prompt(number) for number in range(500)}, max_completion_length=9)
    assert next(answered).position == 0
    answered.close()  # type: ignore[attr-defined]
    assert "osler requests" not in {thread.name for thread in threading.enumerate()}
    assert len(server.bodies) < 500


def test_an_endpoint_can_be_asked_from_a_notebook(server: ScriptedEndpoint) -> None:
    async def cell() -> list[list[Completion]]:
        return engine(server).generate(PROMPTS, max_completion_length=9)

    assert texts(asyncio.run(cell())) == answers(PROMPTS)


def test_no_question_is_no_request(server: ScriptedEndpoint) -> None:
    assert engine(server).generate([], max_completion_length=9) == []
    assert not server.bodies
