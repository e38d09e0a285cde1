"""docs/serving.md: its code runs as it stands, against a live server."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_server import LiveServer, serve
from PIL import Image
from small_studies import save_series, values

from osler.cli.main import build_parser
from osler.serving.scripted import ScriptedGenerator

PAGE = Path(__file__).parents[1] / "docs" / "serving.md"
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
STARTS = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines() if line.startswith("osler ")]
CALLS = [(kind, block) for kind, block in BLOCKS if not block.startswith("osler ")]
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with serve(ScriptedGenerator("<think>A bright ring.</think><answer>A</answer>", policy_name="osler-tiny")) as server:
        yield server


@pytest.mark.parametrize("line", STARTS)
def test_the_command_is_one(line: str) -> None:
    options = build_parser().parse_args(shlex.split(line, comments=True)[1:])
    assert options.verb == "serve"


@pytest.mark.parametrize(("kind", "block"), CALLS, ids=range(len(CALLS)))
def test_the_code_runs(
    live: LiveServer, kind: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 48), (90, 90, 90)).save("scan.png")
    save_series(Path("ct"), values(), RescaleType="HU")
    assert ADDRESS in block
    code = block.replace(ADDRESS, live.url)
    if kind == "python":
        exec(compile(code, str(PAGE), "exec"), {})
        out = capsys.readouterr().out
    else:
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True, capture_output=True, text=True)
        out = done.stdout
    assert "bright ring" in out or out.startswith("yes 1.0 False")
    assert "error" not in out


def test_the_page_has_all_kinds_of_code() -> None:
    assert len(STARTS) == 4
    assert sorted(kind for kind, _ in CALLS) == ["python", "python", "sh", "sh"]
