"""Requests per second of the running batch of `osler serve` beside one prompt at a time.

    python benchmarks/serving.py [--policy osler-tiny] [--clients 64] [--requests 192] [--rounds 3] [--json]
    python benchmarks/serving.py --profile build/serving.prof

Each round asks new questions, every one about a phantom image of its own of 224 x 224 pixels, as PNG. `one` calls `HfEngine`, the engine of
`osler eval`, with one prompt at a time; `batch` has as many clients as --clients, each of which asks its next question when its last one is
answered, in one process with the generator. Both decode the same images, and the script asserts that they give the same completions.
It prints the requests per second of both, their ratio and the latencies of `batch`.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import io
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from osler import read
from osler.evaluation.engines.hf import HfEngine
from osler.images.embedded import ImageBytes
from osler.policies.load import load_policy
from osler.prompts import render
from osler.serving.batch_settings import BatchSettings
from osler.serving.batching import BatchGenerator
from osler.serving.generation import Finished, GenerationRequest, Generator, Started
from osler.types import Completion, Prompt

MAX_TOKENS: Final = 128
SIZE: Final = 224  # pixels of a side of an image


def ask_questions(number: int, seed: int) -> list[Prompt]:
    """Questions about distinct images, in memory as PNG."""
    samples = {}
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


async def ask_at_once(generator: Generator, prompts: Sequence[Prompt], num_clients: int) -> tuple[list[Completion], dict[str, list[float]]]:
    """The completions of prompts, asked by several clients, and the seconds of each request."""
    completions: list[Completion | None] = [None] * len(prompts)
    seconds: dict[str, list[float]] = {"started": [], "total": []}
    places = iter(range(len(prompts)))

    async def ask() -> None:
        for place in places:
            begin = time.perf_counter()
            async for event in generator.stream(to_request(prompts[place])):
                if isinstance(event, Started):
                    seconds["started"].append(time.perf_counter() - begin)
                if isinstance(event, Finished):
                    completions[place] = event.completion
            seconds["total"].append(time.perf_counter() - begin)

    await asyncio.gather(*(ask() for _ in range(num_clients)))
    return [completion for completion in completions if completion is not None], seconds


def measure(policy_path: str, num_clients: int, num_requests: int, num_rounds: int, profile: Path | None = None) -> dict[str, Any]:
    """The requests per second of both, in turn, and their ratio."""
    engine = HfEngine(load_policy(policy_path), batch_size=1, option_probabilities=True)
    generator = BatchGenerator(load_policy(policy_path), BatchSettings(max_rows=num_clients), policy_fingerprint="")
    rounds = []
    for number in range(num_rounds + 1):
        is_warm_up = number == 0
        prompts = ask_questions(16 if is_warm_up else num_requests, seed=number)
        gc.collect()
        begin = time.perf_counter()
        one = ask_one_by_one(engine, prompts)
        middle = time.perf_counter()
        with _profiled(None if is_warm_up else profile):
            batch, seconds = asyncio.run(ask_at_once(generator, prompts, num_clients))
        end = time.perf_counter()
        differing = [(ours.text, theirs.text) for ours, theirs in zip(batch, one, strict=True) if ours.token_ids != theirs.token_ids]
        assert not differing, f"{len(differing)} completions differ, e.g. {differing[0]}"
        if not is_warm_up:
            rounds.append((middle - begin, end - middle, one, seconds))
    generator.close()
    return _summarise(rounds, num_clients, num_requests)


def _summarise(rounds: Sequence[Any], num_clients: int, num_requests: int) -> dict[str, Any]:
    totals = sorted(second for *_, seconds in rounds for second in seconds["total"])
    ratios = [one / batch for one, batch, *_ in rounds]
    return {
        "clients": num_clients,
        "requests": num_requests,
        "tokens": round(statistics.mean(len(completion.token_ids) for *_, own, _ in rounds for completion in own), 1),
        "one_per_second": round(num_requests / statistics.median(one for one, *_ in rounds), 2),
        "batch_per_second": round(num_requests / statistics.median(batch for _, batch, *_ in rounds), 2),
        "ratio": round(statistics.median(ratios), 2),
        "lowest": round(min(ratios), 2),
        "highest": round(max(ratios), 2),
        "latency_median_s": round(statistics.median(totals), 3),
        "latency_95_s": round(totals[int(0.95 * len(totals))], 3),
        "threads": torch.get_num_threads(),
    }


@contextmanager
def _profiled(path: Path | None) -> Iterator[None]:
    """Write a profile of this thread, the event loop's."""
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with cProfile.Profile() as profile:
        yield
    profile.dump_stats(path)


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="osler-tiny")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=192, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", type=Path, help="file for a profile of the event loop")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    result = measure(options.policy, options.clients, options.requests, options.rounds, options.profile)
    for name, value in result.items():
        print(f"{name:>18}  {value}", file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
