import getpass
import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from osler.config import build_config
from osler.errors import ConfigError, OslerError
from osler.files import write_whole
from osler.run_folder import Run, first_difference, open_run
from osler.training.checkpoints import holding


def test_a_run_appears_with_its_config_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = build_config({"seed": 7})
    home = str(Path.home())
    monkeypatch.setattr(sys, "argv", [f"{home}/bin/osler", "train", f"--data.root={home}/data"])
    run = open_run(tmp_path / "deep" / "run", config)
    assert sorted(path.name for path in run.root.iterdir()) == ["config.json", "environment.json"]
    assert build_config(json.loads(run.config.read_text())) == config
    environment = json.loads(run.environment.read_text())
    assert environment["seed"] == 7
    assert environment["command"] == ["osler", "train", "--data.root=~/data"]
    assert environment["packages"]["torch"]
    assert socket.gethostname() not in run.environment.read_text()
    assert getpass.getuser() not in json.dumps({**environment, "commit": None, "platform": None}).split("root=")[0]


def test_an_existing_run_is_opened_again(tmp_path: Path) -> None:
    config = build_config({})
    run = open_run(tmp_path / "run", config)
    before = run.environment.read_text()
    write_whole(run.metrics, "{}\n")
    assert open_run(tmp_path / "run", config) == run
    assert run.environment.read_text() == before


CHANGES: list[tuple[dict[str, Any], str | None]] = [
    ({"seed": 1}, "seed"),
    ({"data": {"test": {"limit": 5}}}, "data.test.limit"),
    ({"policy": {"lora": {"r": 4}}}, "policy.lora"),
    ({"grpo": {"beta": 0.04}}, "grpo.beta"),
    ({"data": {"train": {"modalities": ["ct"]}}}, "data.train.modalities"),
    ({"name": "other"}, None),
    ({"grpo": {"save_steps": 7}}, None),
    ({"trainer": {"report_to": ["tensorboard"]}}, None),
    ({"policy": {"device": "cpu"}}, None),
]


@pytest.mark.parametrize(("values", "key"), CHANGES, ids=lambda value: str(value))
def test_a_run_goes_on_with_the_same_config_only(tmp_path: Path, values: dict[str, Any], key: str | None) -> None:
    open_run(tmp_path / "run", build_config({}))
    if key is None:
        open_run(tmp_path / "run", build_config(values))
        return
    with pytest.raises(OslerError, match=f"has {key}.*--fresh") as caught:
        open_run(tmp_path / "run", build_config(values))
    assert "\n" not in str(caught.value)


def test_fresh_sets_the_old_run_aside(tmp_path: Path) -> None:
    for seed in range(3):
        run = open_run(tmp_path / "run", build_config({"seed": seed}), resume=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.1", "run.2"]
    assert json.loads(run.config.read_text())["seed"] == 2


BAD_FOLDERS: list[tuple[str, dict[str, str], str]] = [
    ("another folder", {"run/thesis.tex": "x"}, "holds other files"),
    ("a file", {"run": "x"}, "is a file"),
    ("a broken config", {"run/config.json": "{"}, "not a run's config"),
    ("a list for a config", {"run/config.json": "[]"}, "not a run's config"),
]


@pytest.mark.parametrize(("name", "files", "message"), BAD_FOLDERS, ids=[row[0] for row in BAD_FOLDERS])
def test_other_folders_are_refused(tmp_path: Path, name: str, files: dict[str, str], message: str) -> None:
    for file, content in files.items():
        write_whole(tmp_path / file, content)
    with pytest.raises(OslerError, match=message):
        open_run(tmp_path / "run", build_config({}))
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(files)


@pytest.mark.parametrize("leftover", [(), ("log.txt",), ("environment.json",), ("records/eval.jsonl",)], ids=str)
def test_a_folder_without_a_config_becomes_a_run(tmp_path: Path, leftover: tuple[str, ...]) -> None:
    (tmp_path / "run").mkdir()
    for name in leftover:
        write_whole(tmp_path / "run" / name, "")
    assert open_run(tmp_path / "run", build_config({})).config.is_file()


def test_first_difference_sees_removed_keys() -> None:
    assert first_difference({"grpo": {"beta": 1}}, {"grpo": {}}) == ("grpo.beta", 1, None)
    assert first_difference({"grpo": {"save_steps": 1}}, {"grpo": {}}) is None


def test_two_trainings_do_not_share_a_run(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", build_config({}))
    with holding(run), pytest.raises(ConfigError, match="another training writes to"), holding(run, wait=0):
        pass
    with holding(run, wait=0):
        pass
    run.policy.mkdir()
    with pytest.raises(ConfigError, match="has ended"), holding(run, wait=0):
        pass
    assert open_run(run.root, build_config({})).root == run.root


def test_paths(tmp_path: Path) -> None:
    run = Run(root=tmp_path)
    names = [path.name for path in (run.manifest, run.metrics, run.checkpoints, run.policy, run.records)]
    assert names == ["manifest.json", "metrics.jsonl", "checkpoints", "policy", "records"]
