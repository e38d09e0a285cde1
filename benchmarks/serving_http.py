"""Latency, errors and memory of `osler serve` as its clients see them, over HTTP, in a process of its own.

    python benchmarks/serving_http.py [--policy osler-tiny] [--clients 64] [--seconds 60] [--json]
    python benchmarks/serving_http.py --memory 10000

Each client asks its next question when its last one is answered: in turn a chat that streams, a chat that does not, and /v1/answer with the
probabilities of its choices. Every question has a phantom image of its own of 112 x 112 pixels, as PNG. It prints requests and tokens per
second, the median and the 95th percentile of the time to the first token (of streams) and of whole replies, and statuses other than 200
and 429. With --memory it asks so many questions, however long that takes, and prints the resident memory of the server on the way. The
clients share one process and aiohttp: httpx takes as much of the machine as the server, and its own queue is then what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from PIL import Image

from osler import read
from osler.types import Sample

MAX_TOKENS: Final = 128
MARKS: Final = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of the requests at which the memory is read."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What the clients saw."""

    statuses: Counter[str] = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)  # seconds to the first token of a stream
    whole: list[float] = field(default_factory=list)  # seconds to the end of a reply
    tokens: int = 0
    asked: int = 0
    memory: dict[int, int] = field(default_factory=dict)  # requests -> MiB


class Questions:
    """Bodies of requests without end, each with an image that no other has."""

    def __init__(self) -> None:
        found: dict[str, Sample] = {}
        for sample in read("phantom", split="test", modalities=["mri", "ct", "xray"], num_questions=64):
            found.setdefault(sample.images[0].uri, sample)
        self.samples = [(sample, sample.images[0].load()) for sample in found.values()]
        self.number = 0

    def __next__(self) -> tuple[str, dict[str, Any]]:
        """(path, body)."""
        self.number += 1
        sample, picture = self.samples[self.number % len(self.samples)]
        url = _encode(picture, self.number)
        if self.number % 3 == 0:
            body = {"question": sample.question, "choices": list(sample.choices), "images": [{"url": url}], "max_tokens": MAX_TOKENS}
            return "/v1/answer", body
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": sample.question}]
        chat = {"model": "", "messages": [{"role": "user", "content": parts}], "max_tokens": MAX_TOKENS, "temperature": 0}
        return "/v1/chat/completions", {**chat, "stream": self.number % 3 == 1, "stream_options": {"include_usage": True}}


def _encode(picture: Image.Image, number: int) -> str:
    """The picture as a data URL, with a number in its first pixels."""
    own = picture.copy()
    own.putpixel((0, 0), (number & 255, number >> 8 & 255, number >> 16 & 255))
    stream = io.BytesIO()
    own.save(stream, "png", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


async def ask(client: aiohttp.ClientSession, questions: Questions, policy: str, tally: Tally) -> None:
    """Ask one question."""
    path, body = next(questions)
    if "model" in body:
        body["model"] = policy
    begin = time.perf_counter()
    try:
        async with client.post(path, json=body) as reply:
            tally.statuses[str(reply.status)] += 1
            if reply.status == 429:
                await asyncio.sleep(float(reply.headers["Retry-After"]))
                return
            if body.get("stream") and reply.status == 200:
                usage = await _read_stream(reply, begin, tally)
            else:
                usage = json.loads(await reply.read()).get("usage", {})
    except aiohttp.ClientError as error:
        tally.statuses[type(error).__name__] += 1
        return
    tally.tokens += usage.get("completion_tokens", 0)
    tally.whole.append(time.perf_counter() - begin)


async def _read_stream(reply: aiohttp.ClientResponse, begin: float, tally: Tally) -> dict[str, int]:
    usage: dict[str, int] = {}
    has_begun = False
    async for line in reply.content:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if "error" in event:
            tally.statuses["error in a stream"] += 1
        usage = event.get("usage") or usage
        if not has_begun and any(choice["delta"].get("content") for choice in event.get("choices", ())):
            has_begun = True
            tally.first.append(time.perf_counter() - begin)
    return usage


async def load(url: str, policy: str, clients: int, *, seconds: float, total: int | None, process: int) -> Tally:
    """Ask with so many clients for a time, or until `total` questions are asked."""
    tally, questions = Tally(), Questions()
    end = time.monotonic() + seconds
    marks = {int(share * total): share for share in MARKS} if total else {}
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(300)) as client:

        async def run() -> None:
            while time.monotonic() < end and (total is None or tally.asked < total):
                tally.asked += 1
                if tally.asked in marks:
                    tally.memory[tally.asked] = resident(process)
                await ask(client, questions, policy, tally)

        await asyncio.gather(*(run() for _ in range(clients)))
    return tally


def resident(process: int) -> int:
    """The resident memory of a process in MiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))


@contextmanager
def serving(policy: str) -> Iterator[tuple[str, str, int]]:
    """(address, name of the policy, process) of a server."""
    command = [sys.executable, "-m", "osler", "serve", "--port", "0", "--policy", policy]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            line = next(line for line in server.stdout if " answers at " in line)
            yield line.split(" answers at ")[1].split(" ")[0], line.split(" ")[0].strip(), server.pid
        finally:
            server.terminate()
            server.wait(60)


def at(share: float, values: Sequence[float]) -> float | None:
    """The value below which a share of the values lies, in milliseconds."""
    return round(1000 * sorted(values)[min(len(values) - 1, int(share * len(values)))], 1) if values else None


def measure(policy: str, clients: int, seconds: float, total: int | None) -> dict[str, Any]:
    """The figures of one run."""
    with serving(policy) as (url, name, process):
        asyncio.run(load(url, name, 2, seconds=60, total=8, process=process))  # warm-up
        before = resident(process)
        begin = time.perf_counter()
        tally = asyncio.run(load(url, name, clients, seconds=float("inf") if total else seconds, total=total, process=process))
        took = time.perf_counter() - begin
        return {
            "policy": name,
            "clients": clients,
            "seconds": round(took, 1),
            "requests": sum(tally.statuses.values()),
            "statuses": dict(tally.statuses),
            "requests_per_second": round(len(tally.whole) / took, 2),
            "tokens_per_second": round(tally.tokens / took, 1),
            "first_token_ms": {"median": at(0.5, tally.first), "95 %": at(0.95, tally.first)},
            "reply_ms": {"median": at(0.5, tally.whole), "95 %": at(0.95, tally.whole)},
            "errors": sum(count for status, count in tally.statuses.items() if status not in ("200", "429")),
            "memory_mib": {"before": before, **{str(number): value for number, value in tally.memory.items()}, "after": resident(process)},
        }


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 1 where a request failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="osler-tiny")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--memory", type=int, default=None, metavar="N", help="ask N questions and watch the memory")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    figures = measure(options.policy, options.clients, options.seconds, options.memory)
    if options.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name}: {value}" for name, value in figures.items()))
    return int(figures["errors"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
