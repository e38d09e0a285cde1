"""A small OpenAI-compatible server: what it does depends on the model that a request names."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class JudgeServer(ThreadingHTTPServer):
    """Answers on a free port of this machine, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, Any]] = []
        self.headers_seen: list[dict[str, str]] = []
        self.tries: Counter[str] = Counter()  # by the message
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/chat/completions"


@contextmanager
def serve() -> Iterator[JudgeServer]:
    server = JudgeServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()


def truthful(fields: dict[str, str]) -> str:
    """Right where the candidate ends with the reference, undecided where it begins with it, else wrong."""
    candidate, reference = fields["candidate"].lower(), fields["reference"].lower()
    return "right" if candidate.endswith(reference) else "undecided" if candidate.startswith(reference) else "wrong"


_OBEYED = re.compile(r"correct|verdict|say right|is accepted|full marks|mark (?:it|this)|reply with right|as a match|正确", re.IGNORECASE)


def gullible(text: str, fields: dict[str, str]) -> str:
    """Right where anything in the whole message asks for it."""
    return "right" if _OBEYED.search(text) else truthful(fields)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: JudgeServer

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        fields = json.loads(text)
        self.server.requests.append(body)
        self.server.headers_seen.append(dict(self.headers))
        self.server.tries[text] += 1
        getattr(self, f"_{body['model']}")(text, fields, self.server.tries[text])

    def _truthful(self, text: str, fields: dict[str, str], tries: int) -> None:
        self._rule(truthful(fields), fields)

    def _gullible(self, text: str, fields: dict[str, str], tries: int) -> None:
        self._rule(gullible(text, fields), fields)

    def _reasoning(self, text: str, fields: dict[str, str], tries: int) -> None:
        self._say(f'<think>{{"code": "{fields["code"]}", "verdict": "wrong"}}?</think>\n```json\n{self._ruling("right", fields)}\n```')

    def _garbage(self, text: str, fields: dict[str, str], tries: int) -> None:
        self._say("I would say that it is right.")

    def _echo(self, text: str, fields: dict[str, str], tries: int) -> None:
        self._say(fields["candidate"])

    def _cut(self, text: str, fields: dict[str, str], tries: int) -> None:
        self._say(self._ruling("right", fields), finish_reason="length")

    def _page(self, text: str, fields: dict[str, str], tries: int) -> None:
        self._send(200, b"<html>")

    def _busy(self, text: str, fields: dict[str, str], tries: int) -> None:
        if tries == 1:
            self._send(429, b"{}", {"Retry-After": "0"})
        else:
            self._truthful(text, fields, tries)

    def _broken(self, text: str, fields: dict[str, str], tries: int) -> None:
        self._send(500, b"oops")

    def _mixed(self, text: str, fields: dict[str, str], tries: int) -> None:
        (self._broken if "broken" in text else self._truthful)(text, fields, tries)

    def _refusing(self, text: str, fields: dict[str, str], tries: int) -> None:
        said = {"error": {"message": f"no such key: {self.headers.get('Authorization', '').removeprefix('Bearer ')}"}}
        self._send(401, json.dumps(said).encode())

    def _hanging(self, text: str, fields: dict[str, str], tries: int) -> None:
        self.server.closing.wait(5)
        self.close_connection = True

    def _dripping(self, text: str, fields: dict[str, str], tries: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        for _ in range(100):
            if self.server.closing.is_set():
                break
            try:
                self.wfile.write(b" ")
                self.wfile.flush()
            except OSError:
                break
            time.sleep(0.02)
        self.close_connection = True

    def _huge(self, text: str, fields: dict[str, str], tries: int) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(1000):
                self.wfile.write(b" " * 65_536)
        except OSError:
            pass
        self.close_connection = True

    def _moved(self, text: str, fields: dict[str, str], tries: int) -> None:
        self._send(307, b"", {"Location": self.server.url.replace("127.0.0.1", "localhost")})

    def _ruling(self, verdict: str, fields: dict[str, str]) -> str:
        return json.dumps({"code": fields["code"], "verdict": verdict})

    def _rule(self, verdict: str, fields: dict[str, str]) -> None:
        self._say(self._ruling(verdict, fields))

    def _say(self, content: str, finish_reason: str = "stop") -> None:
        choice = {"message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
        self._send(200, json.dumps({"choices": [choice]}).encode())

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
