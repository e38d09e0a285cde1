"""The benchmark of the server asks as it says."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from live_server import serve

from osler.serving.scripted import ScriptedGenerator


@pytest.mark.integration
def test_clients_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import serving_http

    generator = ScriptedGenerator("<think>A bright ring.</think><answer>A</answer>", policy_name="osler-tiny")
    with serve(generator) as live:
        run = serving_http.load(live.url, "osler-tiny", 4, seconds=60, total=12, process=os.getpid())
        tally = asyncio.run(run)
    assert dict(tally.statuses) == {"200": sum(tally.statuses.values())}
    assert len(tally.whole) == sum(tally.statuses.values()) >= 12
    assert len(tally.first) == len(tally.whole) / 3
    assert tally.tokens == 19 * len(tally.whole)
    assert all(value > 0 for value in tally.memory.values())
    assert len({request.images[0].uri for request in generator.requests}) == len(tally.whole)
    assert serving_http.at(0.5, [0.1, 0.2, 0.3]) == 200.0
    assert serving_http.at(0.95, []) is None
