"""A small OpenAI-compatible server that misbehaves on demand: what it does depends on the model that a request names.

A model that is well answers `<answer>LETTER</answer>` with the letter that `letter_for` gives for the question.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-secret-of-the-tests"
COMPRESSED = gzip.compress(b" " * (4 << 20), compresslevel=1)


class ScriptedEndpoint(ThreadingHTTPServer):
    """Answers on a free port of this machine, and keeps what it was asked."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.headers_seen: list[dict[str, str]] = []
        self.times: list[float] = []  # of the requests, in seconds of a steady clock
        self.tries: Counter[str] = Counter()  # by question
        self.closing = threading.Event()
        self.is_well = threading.Event()  # set: models that fail for some questions answer all
        self.meeting = threading.Barrier(4)
        self.epoch = 0  # a test: requests that hang over from the one before do not count
        self.num_now = 0
        self.most_now = 0
        self.lock = threading.Lock()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def url(self) -> str:
        return f"{self.base_url}/chat/completions"

    def reset(self) -> None:
        """Forget what was asked, between tests that share the server."""
        self.bodies, self.headers_seen, self.times = [], [], []
        self.tries.clear()
        self.is_well.clear()
        self.meeting.reset()
        with self.lock:
            self.epoch += 1
            self.num_now = self.most_now = 0


@contextmanager
def serve() -> Iterator[ScriptedEndpoint]:
    server = ScriptedEndpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.meeting.abort()
        server.shutdown()
        server.server_close()


def letter_for(question: str) -> str:
    """The letter that a model which is well answers: one of the first two, by the text."""
    return "AB"[hashlib.sha256(question.encode()).digest()[0] % 2]


def text_of(body: dict[str, Any]) -> str:
    """The text of the user's turn."""
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content if part["type"] == "text")


def is_unlucky(question: str) -> bool:
    """Whether a model that fails for some questions fails for this one: about a third."""
    return hashlib.sha256(question.encode()).digest()[1] % 3 == 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedEndpoint

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.question = text_of(self.body)
        server = self.server
        with server.lock:
            server.bodies.append(self.body)
            server.headers_seen.append(dict(self.headers))
            server.times.append(time.monotonic())
            server.tries[self.question] += 1
            self.tries = server.tries[self.question]
            self.number = len(server.bodies)
            epoch = server.epoch
            server.num_now += 1
            server.most_now = max(server.most_now, server.num_now)
        try:
            getattr(self, f"_{self.body['model']}")()
        finally:
            with server.lock:
                server.num_now -= epoch == server.epoch

    # Well

    def _well(self) -> None:
        self._say(self._answer())

    def _counting(self) -> None:
        """Says what it took."""
        usage = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
        self._say(self._answer(), usage=usage, system_fingerprint="fp_1" if self.number % 4 else "fp_2")

    def _seeded(self) -> None:
        """Answers by its seed, as a server does that repeats what it drew."""
        self._say(f"<answer>{'AB'[self.body['seed'] % 2]}</answer>")

    def _continuing(self) -> None:
        """Continues a begun answer, and says only the continuation."""
        begun = self.body["messages"][-1]["content"] if self.body.get("continue_final_message") else ""
        self._say("B</answer>" if begun.endswith("<answer>") else self._answer())

    def _meeting(self) -> None:
        """Answers when four requests are here at a time; the first one goes alone."""
        if self.number > 1:
            self.server.meeting.wait(20)
        self._say(self._answer())

    def _reasoning_content(self) -> None:
        self._say(self._answer(), message={"reasoning_content": "A bright ring."})

    def _reasoning(self) -> None:
        self._say(self._answer(), message={"reasoning": "A bright ring."})

    def _lengthy(self) -> None:
        self._say("It may be", finish_reason="length")

    def _lost_in_thought(self) -> None:
        self._say(None, finish_reason="length", message={"reasoning": "A bright"})

    def _logprobs(self) -> None:
        """Sure of A to three quarters, with the tokens of the answer."""
        top = [("A", -0.287682), ("B", -1.386294), ("the", -12.0)]
        tokens = [("<answer>", []), ("A", top), ("</answer>", [])]
        content = [
            {"token": token, "logprob": -0.287682 if token == "A" else -0.01, "bytes": None,
             "top_logprobs": [{"token": one, "logprob": logprob, "bytes": None} for one, logprob in best]}
            for token, best in tokens
        ]  # fmt: skip
        self._say("<answer>A</answer>", logprobs={"content": content} if self.body.get("logprobs") else None)

    def _rude(self) -> None:
        """Tries to control a terminal."""
        self._say("\x1b[31m red\n<answer>A</answer>")

    # Nothing to say

    def _empty(self) -> None:
        self._say("")

    def _null(self) -> None:
        self._say(None)

    def _refusal(self) -> None:
        self._say(None, message={"refusal": "I cannot help with A."})

    def _filtered(self) -> None:
        self._say("A", finish_reason="content_filter")

    def _filtered_prompt(self) -> None:
        self._fail(400, {"message": "The prompt was filtered", "code": "content_filter"})

    # Failures

    def _busy(self) -> None:
        if self.tries == 1 and self.number > 1:
            self._fail(429, {"message": "slow down"}, {"Retry-After": "1"})
        else:
            self._well()

    def _starting(self) -> None:
        """Not ready at first."""
        if self.number <= 2:
            self._fail(503, {"message": "loading"}, {"Retry-After": "0"})
        else:
            self._well()

    def _broken(self) -> None:
        self._send(500, b"oops")

    def _some_fail(self) -> None:
        if is_unlucky(self.question) and not self.server.is_well.is_set():
            self._send(500, b"oops")
        else:
            self._well()

    def _too_long(self) -> None:
        if self.number > 1 and is_unlucky(self.question):
            self._fail(400, {"message": "This model's maximum context length is 9 tokens"})
        else:
            self._well()

    def _refusing(self) -> None:
        self._fail(401, {"message": f"no such key: {self.headers.get('Authorization', '').removeprefix('Bearer ')}" + "." * 300})

    def _refusing_late(self) -> None:
        """Repeats the key where a line is cut off."""
        self._fail(401, {"message": "x" * 190 + self.headers.get("Authorization", "")})

    def _old(self) -> None:
        self._fail(400, {"message": "Unrecognized request argument supplied: top_k"})

    def _moved(self) -> None:
        self._send(307, b"", {"Location": self.server.url.replace("127.0.0.1", "localhost")})

    def _cut(self) -> None:
        """Ends in the middle of a reply."""
        whole = json.dumps(self._body(self._answer())).encode()
        content = whole[: len(whole) // 2]
        if self.body.get("stream"):
            content = self._event({"choices": [{"index": 0, "delta": {"content": "<answer>"}, "finish_reason": None}]})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" if self.body.get("stream") else "application/json")
        self.send_header("Content-Length", "10000")
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True

    def _unfinished(self) -> None:
        self._say(self._answer(), finish_reason=None)

    def _calling(self) -> None:
        self._say(self._answer(), finish_reason="tool_calls")

    def _page(self) -> None:
        self._send(200, b"<html>It works</html>", {"Content-Type": "text/html"})

    def _nothing(self) -> None:
        self._send(200, b"")

    def _half_json(self) -> None:
        content = b'data: {"choices\n\n' if self.body.get("stream") else b'{"choices'
        self._send(200, content, {"Content-Type": "text/event-stream" if self.body.get("stream") else "application/json"})

    def _other_json(self) -> None:
        self._send(200, b'data: {"choices": "A"}\n\n' if self.body.get("stream") else b'{"choices": "A"}', self._kind())

    def _list(self) -> None:
        self._send(200, b"data: [1]\n\n" if self.body.get("stream") else b"[1]", self._kind())

    def _error_200(self) -> None:
        error = {"error": {"message": "upstream is overloaded", "code": 502}}
        self._send(200, self._event(error) if self.body.get("stream") else json.dumps(error).encode(), self._kind())

    def _other_model(self) -> None:
        self._say(self._answer(), model="llama-7b")

    def _naming_key(self) -> None:
        """Another model, whose name is long and holds the key."""
        self._say(self._answer(), model=f"llama {self.headers.get('Authorization', '')} " + "x" * 5000)

    def _changing(self) -> None:
        """Another model from the third request on."""
        self._say(self._answer(), model="changing" if self.number < 3 else "llama-7b")

    def _nameless(self) -> None:
        self._say(self._answer(), model=None)

    def _hanging(self) -> None:
        self.server.closing.wait(30)
        self.close_connection = True

    def _dripping(self) -> None:
        """A byte now and then, which keeps a client waiting that bounds only the time between two."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", "100000")
        self.end_headers()
        try:
            while not self.server.closing.wait(0.02):
                self.wfile.write(b" ")
                self.wfile.flush()
        except OSError:
            pass
        self.close_connection = True

    def _huge(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        try:
            for _ in range(1000):
                self.wfile.write(b" " * 65_536)
        except OSError:
            pass
        self.close_connection = True

    def _huge_error(self) -> None:
        self.send_response(400)
        self.end_headers()
        try:
            for _ in range(1000):
                self.wfile.write(b" " * 65_536)
        except OSError:
            pass
        self.close_connection = True

    def _compressed(self) -> None:
        """A small body that unpacks to 4 MB, although the client asked for none."""
        self._send(200, COMPRESSED, {"Content-Type": "application/json", "Content-Encoding": "gzip"})

    # Replies

    def _answer(self) -> str:
        return f"<answer>{letter_for(self.question)}</answer>"

    def _body(self, content: str | None, finish_reason: str | None = "stop", **others: Any) -> dict[str, Any]:
        message = {"role": "assistant", "content": content, **others.pop("message", {})}
        choice = {"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": others.pop("logprobs", None)}
        return {"id": "1", "object": "chat.completion", "created": 1, "model": self.body["model"], "choices": [choice], **others}

    def _say(self, content: str | None, finish_reason: str | None = "stop", **others: Any) -> None:
        whole = self._body(content, finish_reason, **others)
        if not self.body.get("stream"):
            self._send(200, json.dumps(whole).encode(), self._kind())
            return
        (choice,) = whole.pop("choices")
        usage = whole.pop("usage", None)
        message = choice["message"]
        text = message.pop("content") or ""
        deltas = [{**message}, *({"content": text[start : start + 5]} for start in range(0, len(text), 5))]
        events = [{**whole, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        end = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"], "logprobs": choice["logprobs"]}
        events.append({**whole, "choices": [end]})
        if usage is not None and self.body.get("stream_options", {}).get("include_usage"):
            events.append({**whole, "choices": [], "usage": usage})
        self._send(200, b"".join(map(self._event, events)) + b"data: [DONE]\n\n", self._kind())

    @staticmethod
    def _event(value: dict[str, Any]) -> bytes:
        return f"data: {json.dumps(value)}\n\n".encode()

    def _kind(self) -> dict[str, str]:
        return {"Content-Type": "text/event-stream" if self.body.get("stream") else "application/json"}

    def _fail(self, status: int, error: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps({"error": error}).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        try:
            self.wfile.write(content)
        except OSError:  # the client has left
            self.close_connection = True
