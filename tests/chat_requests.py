"""Chats, and what the scripted policy of their tests says."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence
from typing import Any

import httpx
from live_server import LiveServer
from PIL import Image

from osler.errors import DataError, EngineError
from osler.serving.generation import GenerationRequest

TEXT = "<think>A bright ring.</think><answer>B</answer>"


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


def ask(text: str = "What is it?", **more: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [{"role": "user", "content": text}], "temperature": 0, **more}


def post(live: LiveServer, body: Any, **more: Any) -> httpx.Response:
    return live.http.post("/v1/chat/completions", json=body, **more)


def wait_until(is_so: Any, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
