"""Parts from outside: a package with entry points, decorators, and "package.module:function" in a recipe."""

import json
import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from small_records import answer

import osler
from osler.data.readers import READERS
from osler.errors import ConfigError, DataError, EngineError
from osler.evaluation.engines import ENGINES
from osler.evaluation.run import answer_prompts
from osler.grading import REWARDS, resolve_rewards
from osler.policies.families import FAMILIES
from osler.prompts import STRATEGIES
from osler.registry import Registry
from osler.reports.examples import recipe_images

PLUGIN = Path(__file__).parent / "fixtures" / "plugin"


def run_python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A new process with the plug-in package on the path, as if it were installed."""
    path = os.pathsep.join([str(PLUGIN), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)


def run_osler(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "osler", *arguments, cwd=cwd)


@pytest.mark.slow
def test_a_recipe_uses_a_reader_a_reward_and_an_engine_of_another_package(tiny_folder: Path, tmp_path: Path) -> None:
    trained = run_osler("train", str(PLUGIN / "squares.toml"), f"--policy.path={tiny_folder}", "--out", "run", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(logged) == 2
    assert all(0 < line["rewards/brevity/mean"] < 1 for line in logged)

    tested = run_osler("eval", str(PLUGIN / "squares.toml"), f"--policy.path={tiny_folder}", "--out", "run", "--json", cwd=tmp_path)
    assert tested.returncode == 0, tested.stderr
    records = [json.loads(line) for line in (tmp_path / "run" / "records" / "eval.jsonl").read_text().splitlines()]
    assert [(record["policy"], record["outcome"]) for record in records] == [("ruler", "correct")] * 4
    assert records[0]["image_uris"] == ["square:11"]


REFUSED = [
    (['--rewards.names=["broken"]'], r"the reward 'broken' of the package osler-shapes cannot be imported: ModuleNotFoundError"),
    (['--rewards.names=["osler_shapes:absent"]'], r"the reward 'osler_shapes:absent' cannot be imported: AttributeError"),
    (['--rewards.names=["speed"]'], r"unknown reward 'speed': use some of accuracy.*brevity.*package.module:function"),
    (["--data.reader=no_such.module:read"], r"the reader 'no_such.module:read' cannot be imported: ModuleNotFoundError"),
    (["--data.reader=osler_shapes:SIZES"], r"the reader 'osler_shapes:SIZES' is a tuple"),
    (["--data.colour=red"], r"unknown option 'colour' of reader 'squares': use split, seed, number"),
    (["--data.reader=squared"], r"unknown reader 'squared': use one of phantom.*squares"),
]


IN_TURN = """
import contextlib, io, json, pathlib, sys
from osler.cli.main import main
found = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as error:
        code = main(words)
    found.append((code, error.getvalue(), pathlib.Path("run").exists()))
print(json.dumps(found))
"""
"""Every command of a list: exit code, standard error, whether there is a run then."""


@pytest.fixture(scope="module")
def refused(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, bool]]:
    """What became of each command of REFUSED, in one process, because a start takes seconds."""
    start = ["train", str(PLUGIN / "squares.toml"), f"--policy.path={tiny_folder}", "--out", "run"]
    commands = [[*start, *overrides] for overrides, _ in REFUSED]
    ended = run_python("-c", IN_TURN, json.dumps(commands), cwd=tmp_path_factory.mktemp("refused"))
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    return {row[0][0]: (code, said, has_run) for row, (code, said, has_run) in zip(REFUSED, found, strict=True)}


@pytest.mark.integration
@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[row[0][0] for row in REFUSED])
def test_what_cannot_be_used_is_one_line(refused: dict[str, tuple[int, str, bool]], overrides: list[str], message: str) -> None:
    code, said, has_run = refused[overrides[0]]
    assert code == 2
    (line,) = said.strip().splitlines()
    assert re.search(message, line)
    assert not has_run


class Counting:
    """A reward that is an instance."""

    def __call__(self, prompts: object, completions: list[Any], **columns: Any) -> list[float]:
        return [float(len(text)) for text in completions]


KINDS: list[tuple[Registry[Any], Any, Any]] = [
    (READERS, lambda root=None, *, split=None: [], 3),
    (REWARDS, Counting(), "accuracy"),
    (STRATEGIES, osler.Strategy(**{f: getattr(STRATEGIES["think"], f) for f in STRATEGIES["think"].__slots__}), "think"),
    (ENGINES, lambda config: None, 3),
    (FAMILIES, FAMILIES["qwen2_vl"], "qwen2_vl"),
]


@pytest.mark.parametrize(("registry", "part", "wrong"), KINDS, ids=[row[0].kind for row in KINDS])
def test_every_kind_is_registered_by_a_decorator(registry: Registry[Any], part: Any, wrong: Any) -> None:
    own = Registry(registry.kind, dict(registry), adapt=registry._adapt)
    assert own.register("mine")(part) is part
    assert "mine" in own
    assert list(own) == [*registry, "mine"]
    with pytest.raises(ConfigError, match=f"the {registry.kind} 'mine' is registered already"):
        own.register("mine")(part)
    with pytest.raises(ConfigError, match=f"the {registry.kind} 'wrong' is a "):
        own.register("wrong")(wrong)
    with pytest.raises(ConfigError, match=f"unknown {registry.kind} 'absent': use one of"):
        own.find("absent")
    with pytest.raises(KeyError):
        own["absent"]


@pytest.mark.parametrize("function", [lambda root: [], lambda *, split=None: [], print], ids=["no split", "no root", "built-in"])
def test_a_reader_needs_a_root_and_a_split(function: Any) -> None:
    with pytest.raises(ConfigError, match="lacks the parameters root or split"):
        READERS._adapt("mine", function)


SAMPLE = osler.Sample(
    id="mine/0", dataset="mine", images=(), question="?", choices=("a", "b"), target="A", modality=None, question_type=None
)
RESULTS: list[tuple[Any, str]] = [
    (["a sample"], r"returned a str where an osler\.Sample is expected"),
    (None, "returned a NoneType where samples are expected"),
    ([SAMPLE, SAMPLE], "returned the id 'mine/0' twice"),
]


@pytest.mark.parametrize(("result", "message"), RESULTS, ids=["text", "nothing", "twice"])
def test_a_reader_function_returns_samples(result: Any, message: str) -> None:
    reader = READERS._adapt("mine", lambda root=None, *, split=None: result)
    with pytest.raises(DataError, match=message):
        reader.read(None, split="test", seed=0)


class Silent:
    """An engine that returns no completion."""

    policy_name = "silent"

    def generate(self, prompts: Any, **settings: Any) -> list[list[osler.Completion]]:
        return [[] for _ in prompts]


def test_an_engine_answers_every_prompt() -> None:
    with pytest.raises(EngineError, match="silent must return num_generations completions for every prompt"):
        answer_prompts(Silent(), [osler.render(SAMPLE, "no_think")], max_completion_length=4)


def test_a_strategy_asks_the_question() -> None:
    with pytest.raises(ConfigError, match=r"'mute' has a template without \{Question\}"):
        STRATEGIES._adapt("mute", replace(STRATEGIES["think"], eval_template="hello"))


def test_a_reward_by_path_can_be_pickled() -> None:
    (reward,) = resolve_rewards(["osler.grading.rewards:accuracy"])
    assert pickle.loads(pickle.dumps(reward)) is reward


def test_the_config_of_a_run_chooses_no_code(tmp_path: Path) -> None:
    """A report is made of folders that others may have sent."""
    record = answer(0)
    assert recipe_images({"data": {"reader": "pathlib:Path.touch", "root": str(tmp_path / "made")}})(record) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(set(osler.__all__) - {"__version__"}))
def test_every_public_name_exists_and_is_explained(name: str) -> None:
    assert getattr(osler, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        osler.nothing  # noqa: B018


@pytest.mark.integration
def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    """Every Python block of docs/extending.md, one after the other, on a folder as the page describes it."""
    page = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 7
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "rows.csv").write_text("a.png,Is it bright?,no\na.png,Is it dark?,yes\n")
    code = "\n".join(blocks).replace('"DIR"', repr(str(tmp_path)))
    code += "\nassert earned == [0.0, 1.0], earned\nfrom osler.evaluation.run import answer_prompts\n"
    code += "records = answer_prompts(engine, prompts, max_completion_length=16)\n"
    code += "assert [record.outcome for record in records] == ['incorrect', 'correct'], records"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
