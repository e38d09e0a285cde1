"""Requests per second of the running batch of `osler serve` beside one prompt at a time.

    python benchmarks/serving.py [--policy osler-tiny] [--clients 64] [--requests 192] [--rounds 5] [--arms batch,http] [--json]
    python benchmarks/serving.py --memory 5000

Each round asks new questions, each about a phantom image of its own of 224 x 224 pixels, as PNG. `one` calls `HfEngine`, the engine of
`osler eval`, with one prompt at a time. The arms have --clients clients, each of which asks its next question when its last one is
answered: `batch` in one process with the generator, `http` with aiohttp in another process than `osler serve`. All decode the same images,
and the script asserts that they give the same completions. It prints the requests per second of each, the ratios and the latencies.

With --memory so many requests of many kinds go through one generator, some of which fail or are given up, and the script prints the
resident memory of the process every 500 requests.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import io
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import PIL.Image
import torch

from osler import read
from osler.config import SamplingConfig
from osler.errors import OslerError
from osler.evaluation.engines.hf import HfEngine
from osler.images.embedded import ImageBytes
from osler.policies.load import load_policy
from osler.prompts import render
from osler.serving.batch_settings import BatchSettings
from osler.serving.batching import BatchGenerator
from osler.serving.generation import Delta, Finished, GenerationRequest, Generator
from osler.types import Completion, Prompt, Sample

MAX_TOKENS: Final = 128
SIZE: Final = 224  # pixels of a side of an image
WARM_UP: Final = 32  # questions of a round that is not counted


def ask_questions(number: int, seed: int) -> list[Prompt]:
    """Questions about distinct images, in memory as PNG."""
    samples: dict[str, Sample] = {}
    for sample in read("phantom", split="test", modalities=["mri", "ct", "xray"], num_questions=4 * number, size=SIZE, seed=seed):
        samples.setdefault(sample.images[0].uri, sample)
    chosen = list(samples.values())[:: max(1, len(samples) // number)][:number]
    return [render(replace(sample, images=tuple(map(_encode, sample.images))), "think") for sample in chosen]


def _encode(source: Any) -> ImageBytes:
    stream = io.BytesIO()
    source.load().save(stream, "png")
    return ImageBytes.of(stream.getvalue())


def to_request(prompt: Prompt) -> GenerationRequest:
    """The request of a question, answered greedily."""
    return GenerationRequest(
        messages=prompt.messages,
        images=prompt.sample.images,
        prefix=prompt.prefix,
        max_tokens=MAX_TOKENS,
        num_choices=len(prompt.sample.choices),
    )


def ask_one_by_one(engine: HfEngine, prompts: Sequence[Prompt]) -> list[Completion]:
    """The completions of prompts, one call for each."""
    return [engine.generate([prompt], max_completion_length=MAX_TOKENS)[0][0] for prompt in prompts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What an arm gave."""

    texts: list[str]
    seconds: list[float]  # of each request


async def ask_at_once(generator: Generator, prompts: Sequence[Prompt], num_clients: int) -> Answers:
    """The completions of prompts, asked by several clients of the generator."""
    answers = Answers(texts=[""] * len(prompts), seconds=[])
    places = iter(range(len(prompts)))

    async def ask() -> None:
        for place in places:
            begin = time.perf_counter()
            async for event in generator.stream(to_request(prompts[place])):
                if isinstance(event, Finished):
                    answers.texts[place] = event.completion.text
            answers.seconds.append(time.perf_counter() - begin)

    await asyncio.gather(*(ask() for _ in range(num_clients)))
    return answers


@contextmanager
def serve(policy: str, num_clients: int) -> Iterator[str]:
    """The URL of `osler serve` in another process."""
    command = [sys.executable, "-m", "osler", "serve", "--policy", policy, "--port", "0", "--max-batch", str(num_clients)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            found = re.search(r"http://\S+", line)
            assert found is not None, f"the server did not start: {line}"
            yield found.group()
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


async def ask_over_http(url: str, prompts: Sequence[Prompt], num_clients: int) -> Answers:
    """The completions of prompts, asked by several clients of one process over HTTP."""
    import aiohttp

    bodies = [_to_body(prompt) for prompt in prompts]
    answers = Answers(texts=[""] * len(prompts), seconds=[])
    places = iter(range(len(prompts)))
    headers, connector = {"Content-Type": "application/json"}, aiohttp.TCPConnector(limit=num_clients)
    async with aiohttp.ClientSession(url, headers=headers, connector=connector, raise_for_status=True) as client:

        async def ask() -> None:
            for place in places:
                begin = time.perf_counter()
                async with client.post("/v1/answer", data=bodies[place]) as reply:
                    answers.texts[place] = (await reply.json())["completion"]
                answers.seconds.append(time.perf_counter() - begin)

        await asyncio.gather(*(ask() for _ in range(num_clients)))
    return answers


def _to_body(prompt: Prompt) -> bytes:
    (image,) = prompt.sample.images
    assert isinstance(image, ImageBytes)
    body = {
        "question": prompt.sample.question,
        "choices": list(prompt.sample.choices),
        "images": [{"url": f"data:image/png;base64,{base64.b64encode(image.content).decode()}"}],
        "max_tokens": MAX_TOKENS,
    }
    return json.dumps(body).encode()


@contextmanager
def open_arms(names: Sequence[str], policy: str, num_clients: int) -> Iterator[dict[str, Callable[[Sequence[Prompt]], Answers]]]:
    """A function of the prompts for each arm."""
    with ExitStack() as stack:
        arms: dict[str, Callable[[Sequence[Prompt]], Answers]] = {}
        if "batch" in names:
            generator = BatchGenerator(load_policy(policy), BatchSettings(max_rows=num_clients), policy_fingerprint="")
            stack.callback(generator.close)
            arms["batch"] = lambda prompts: asyncio.run(ask_at_once(generator, prompts, num_clients))
        if "http" in names:
            url = stack.enter_context(serve(policy, num_clients))
            arms["http"] = lambda prompts: asyncio.run(ask_over_http(url, prompts, num_clients))
        yield arms


def watch_memory(policy: str, num_clients: int, num_requests: int) -> dict[str, Any]:
    """The resident memory in MB of this process after every 500 requests. Few features are kept, which would grow to their limit."""
    settings = BatchSettings(max_rows=num_clients, max_feature_bytes=1 << 20)
    generator = BatchGenerator(load_policy(policy), settings, policy_fingerprint="")
    base = [replace(to_request(prompt), max_tokens=24) for prompt in ask_questions(WARM_UP, seed=0)]
    places = iter(range(num_requests))
    resident: list[float] = []

    async def ask() -> None:
        for place in places:
            with suppress(OslerError):
                async with aclosing(generator.stream(_vary(base[place % len(base)], place))) as events:
                    async for event in events:
                        if place % 8 == 7 and isinstance(event, Delta):  # the reader leaves
                            break
            if (place + 1) % 500 == 0:
                gc.collect()
                resident.append(round(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6, 1))

    async def ask_all() -> None:
        await asyncio.gather(*(ask() for _ in range(num_clients)))

    asyncio.run(ask_all())
    generator.close()
    return {"clients": num_clients, "requests": num_requests, "resident_mb": resident}


def _vary(request: GenerationRequest, place: int) -> GenerationRequest:
    """A request of one of 8 kinds, about an image of its own."""
    rng, width = random.Random(place), 96 + place % 64
    stream = io.BytesIO()
    PIL.Image.frombytes("L", (width, 100), rng.randbytes(width * 100)).save(stream, "png")
    changes: list[dict[str, Any]] = [
        {},
        {"sampling": SamplingConfig(), "num_generations": 3},
        {"top_logprobs": 3},
        {"stop": ("Technique", "bright")},
        {"streams": False},
        {"images": (ImageBytes.of(b"no image"),)},
        {"sampling": SamplingConfig(top_k=5, top_p=0.9, repetition_penalty=1.1)},
        {},
    ]
    return replace(request, **{"images": (ImageBytes.of(stream.getvalue()),), "seed": place, **changes[place % 8]})


def measure(names: Sequence[str], policy: str, num_clients: int, num_requests: int, num_rounds: int) -> dict[str, Any]:
    """The requests per second of one prompt at a time and of each arm, in turn, and their ratios."""
    engine = HfEngine(load_policy(policy), batch_size=1, option_probabilities=True)
    one: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in names}
    latencies: dict[str, list[float]] = {name: [] for name in names}
    num_tokens: list[int] = []
    with open_arms(names, policy, num_clients) as arms:
        for number in range(num_rounds + 1):
            prompts = ask_questions(num_requests if number else min(WARM_UP, num_requests), seed=number)
            gc.collect()
            begin = time.perf_counter()
            expected = ask_one_by_one(engine, prompts)
            one.append(time.perf_counter() - begin)
            num_tokens += [len(completion.token_ids) for completion in expected] if number else []
            for name, ask in arms.items():
                begin = time.perf_counter()
                answers = ask(prompts)
                times[name].append(time.perf_counter() - begin)
                latencies[name] += answers.seconds if number else []
                pairs = zip(answers.texts, (completion.text for completion in expected), strict=True)
                differing = [(ours, theirs) for ours, theirs in pairs if ours != theirs]
                assert not differing, f"{len(differing)} completions of {name} differ, e.g. {differing[0]}"
    return {
        "clients": num_clients,
        "requests": num_requests,
        "tokens": round(statistics.mean(num_tokens), 1),
        "threads": torch.get_num_threads(),
        "one_per_second": round(num_requests / statistics.median(one[1:]), 2),
        **{name: _summarise(num_requests, one[1:], times[name][1:], sorted(latencies[name])) for name in names},
    }


def _summarise(num_requests: int, one: Sequence[float], own: Sequence[float], latencies: Sequence[float]) -> dict[str, float]:
    ratios = [theirs / ours for theirs, ours in zip(one, own, strict=True)]
    return {
        "per_second": round(num_requests / statistics.median(own), 2),
        "ratio": round(statistics.median(ratios), 2),
        "lowest": round(min(ratios), 2),
        "highest": round(max(ratios), 2),
        "latency_median_s": round(statistics.median(latencies), 3),
        "latency_95_s": round(latencies[int(0.95 * len(latencies))], 3),
    }


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="osler-tiny")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=192, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arms", default="batch,http")
    parser.add_argument("--memory", type=int, metavar="N", help="print the memory of so many requests instead")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.memory:
        result = watch_memory(options.policy, options.clients, options.memory)
    else:
        result = measure(options.arms.split(","), options.policy, options.clients, options.requests, options.rounds)
    for name, value in result.items():
        print(f"{name:>15}  {value}", file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
