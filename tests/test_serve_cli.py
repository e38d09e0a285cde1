"""`osler serve` as a process: what it prints, its mistakes in one line, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from chat_requests import png
from live_server import free_port

from osler.cli.main import main

KEY = "0123456789abcdef"


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["serve", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "examples:\n  osler serve" in text
    assert "not for clinical use" in text


MISTAKES = [
    (["--readers", "2"], "--readers is for a reader study"),
    (["--host", "0.0.0.0"], "--api-key-file"),
    (["--host", "192.0.2.7", "--api-key", KEY], "cannot listen on http://192.0.2.7:8000"),
    (["--host", "no.such.host.invalid", "--api-key", KEY], "is no address of this machine"),
    (["--cors-origin", "chat.example.org"], "--cors-origin chat.example.org is no site: give one such as https://chat.example.org"),
    (["--cors-origin", "https://chat.example.org/page"], "is no site"),
    (["--api-key", "short"], "8 to 1024"),
    (["--api-key-file", "/no/such/file"], "/no/such/file"),
    (["--port", "70000"], "0 to 65535"),
    (["--max-batch", "0"], "--max-batch 0"),
    (["--max-queue", "-1"], "--max-queue -1"),
    (["--timeout", "nan"], "--timeout nan"),
    (["--timeout", "inf"], "--timeout inf"),
    (["--max-pixels", "0", "--port", "0"], "max_pixels"),
    (["--policy", "/no/such/policy", "--port", "0"], "/no/such/policy"),
    (["--policy", "no-such-policy-anywhere", "--port", "0"], "no-such-policy-anywhere"),
    (["--device", "warp", "--port", "0"], "warp"),
    (["--policy.path", "osler-tiny"], "--policy.path sets a recipe"),
    (["--study", "no-such-recipe", "--port", "0"], "no-such-recipe"),
    (["--log-dir", "/proc/no/such", "--port", "0"], "--log-dir"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES)
def test_a_mistake_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert error.startswith("osler: ")
    assert KEY not in error


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as other:
        port = other.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert f"cannot listen on http://127.0.0.1:{port} (Address already in use): give another --port" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client", "multipart"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["serve"]) == 2
    assert "osler[serve]" in capsys.readouterr().err


@dataclass(slots=True, kw_only=True)
class Process:
    """A running `osler serve`."""

    url: str
    said: str  # its first line
    popen: subprocess.Popen[str]

    def stop(self, number: signal.Signals) -> tuple[int, str, str]:
        """(exit code, the rest of standard output, standard error) after a signal."""
        self.popen.send_signal(number)
        out, err = self.popen.communicate(timeout=60)
        return self.popen.returncode, out, err


@contextmanager
def running(*arguments: str) -> Iterator[Process]:
    command = [sys.executable, "-m", "osler", "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}) as popen:
        stream = popen.stderr if "--json" in arguments else popen.stdout
        assert stream is not None
        try:
            said = next((line for line in stream if "answers at" in line), "")
            yield Process(url=said.partition("answers at ")[2].split(" ")[0], said=said, popen=popen)
        finally:
            popen.kill()


def ask(text: str = "Which organ is shown?", **more: Any) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": png((112, 112))}}, {"type": "text", "text": text}]
    return {"model": "osler-tiny", "messages": [{"role": "user", "content": parts}], **more}


@pytest.mark.integration
def test_a_server_says_where_it_is_and_finishes_what_runs(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(KEY + "\n")
    with running("--api-key-file", str(key), "--json") as process:
        assert process.said.startswith("osler-tiny answers at http://127.0.0.1:")
        assert "Research tool, not for clinical use." in process.said
        replies: list[httpx.Response] = []
        headers = {"Authorization": f"Bearer {KEY}"}
        body = ask(logprobs=True, max_tokens=48, temperature=1, seed=1, min_p=0, stop=["no such text"], n=2)

        def run() -> None:
            with suppress(httpx.TransportError):  # nobody listens any more
                while True:
                    replies.append(httpx.post(process.url + "/v1/chat/completions", json=body, headers=headers, timeout=60))

        with openai.OpenAI(base_url=process.url + "/v1", api_key=KEY) as client:
            assert client.models.list().data[0].id == "osler-tiny"
        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        while httpx.get(process.url + "/health", timeout=60).json()["running"] == 0:
            time.sleep(0.01)
        code, out, err = process.stop(signal.SIGTERM)
        for thread in threads:
            thread.join()
    assert code == 0
    assert {reply.status_code for reply in replies} <= {200, 503}
    assert 200 in {reply.status_code for reply in replies}
    assert json.loads(out)["policy"] == "osler-tiny"
    assert '"POST /v1/chat/completions HTTP/1.1" 200' in err
    assert "Which organ" not in out + err
    assert "base64" not in err
    assert "Traceback" not in err


@pytest.mark.integration
def test_kill_loses_only_what_was_in_flight(tmp_path: Path) -> None:
    with running("--log-dir", str(tmp_path)) as process:
        answered: list[int] = []

        def run(first: int) -> None:
            for number in range(first, first + 1000):
                body = {"question": f"Question {number}?", "choices": ["Liver", "Spleen"], "max_tokens": 8}
                try:
                    reply = httpx.post(process.url + "/v1/answer", json=body, timeout=30)
                except httpx.HTTPError:
                    return
                if reply.status_code == 200:
                    answered.append(number)

        threads = [threading.Thread(target=run, args=(1000 * number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        while len(answered) < 8:
            time.sleep(0.01)
        process.popen.kill()
        for thread in threads:
            thread.join()
    lines = (tmp_path / "answers.jsonl").read_text().split("\n")
    assert lines.pop() == ""
    logged = {int(json.loads(line)["prompt"].split("\n")[0].removeprefix("Question ").removesuffix("?")) for line in lines}
    assert set(answered) <= logged
    assert len(logged) <= len(answered) + len(threads)
