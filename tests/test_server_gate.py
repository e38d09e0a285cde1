"""Who may call the server, what happens when it is full, and how it stops."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator

import httpx
import openai
import pytest
from chat_requests import TEXT, ask, post, script, wait_until
from live_server import LiveServer, serve

from osler.serving.scripted import ScriptedGenerator
from osler.serving.settings import ServerSettings

pytestmark = pytest.mark.integration

KEY = "a-key-for-tests"


@pytest.fixture(scope="module")
def generator() -> ScriptedGenerator:
    return ScriptedGenerator(script, delay=0.002, policy_fingerprint="ab" * 32)


@pytest.fixture(scope="module")
def live(generator: ScriptedGenerator) -> Iterator[LiveServer]:
    with serve(generator) as server:
        yield server


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
    answer = guarded.http.get("/v1/models", headers={"Origin": origin})
    assert (answer.status_code == 200) == is_allowed
    assert not is_allowed or "Retry-After" in answer.headers["access-control-expose-headers"]
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
