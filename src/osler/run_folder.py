"""The folder of a run: its recipe, its environment and its results.

::

    config.json        the recipe, with all defaults filled in
    environment.json   versions, platform, command line, start time
    manifest.json      number of questions per modality and question type
    metrics.jsonl      training metrics, one line per logged step
    completions.jsonl  a few completions of the training with their rewards
    checkpoints/       TRL's checkpoints
    policy/            the trained policy
    adapter/           its LoRA adapter, which is merged into policy/
    records/           evaluations, one JSONL file per label; in records/usage/ what the answers of an endpoint took
    report.html
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from osler import __version__
from osler.config import HIDDEN, Config, build_config
from osler.errors import ConfigError, OslerError
from osler.files import create_whole, write_json

IMMATERIAL: Final = frozenset(
    {"name", "policy.device", "data.strict", "data.key_file"}
    | {f"{section}.{key}" for section in ("grpo", "sft") for key in ("logging_steps", "save_steps", "save_total_limit", "disable_tqdm")}
    | {f"trainer.{key}" for key in ("max_prompt_length", "watch_image_every", "report_to", "checkpoint")}
    | {f"trainer.{key}_completions_every" for key in ("print", "keep")}
    | {f"trainer.{key}" for key in ("share_prefix", "groups_per_forward", "static_decoding", "vision_cache", "vision_cache_gb")}
)
"""Keys that may change when a run resumes, because they change no result."""

IMMATERIAL_SECTIONS: Final = ("eval.", "matrix.")
"""Sections that may change too: an evaluation checks its own settings, and each run of a matrix has its strategy in `[prompt]`."""

PARTS: Final = frozenset(
    {"config.json", "environment.json", "manifest.json", "metrics.jsonl", "checkpoints", "policy", "records", "report.html"}
    | {"completions.jsonl", "lock", "log.txt", "tensorboard", "reference", "adapter", "shards", "slurm"}
)
"""What an existing folder may contain to become a run; a folder with any other file or folder is rejected."""

FINISHED_JOBS: Final = "jobs.json"
"""In a folder of several runs: the jobs that have ended, with the commands that were run."""

PACKAGES: Final = ("torch", "transformers", "trl", "peft", "numpy", "pillow")


@dataclass(init=False)
class Run:
    """The paths of one run (see the module). A folder with `config` is a run; only `config` and `environment` exist from the start."""

    root: Path  # runs/demo

    def __init__(self, *, root: Path) -> None:
        self.root = root
        self.is_new = False  # whether `open_run` of this process created it
        self.config = root / "config.json"
        self.environment = root / "environment.json"
        self.manifest = root / "manifest.json"
        self.metrics = root / "metrics.jsonl"
        self.lock = root / "lock"  # held by the process that trains
        self.completions = root / "completions.jsonl"
        self.checkpoints = root / "checkpoints"
        self.policy = root / "policy"
        self.adapter = root / "adapter"
        self.records = root / "records"


def open_run(root: str | Path, config: Config, *, resume: bool = True) -> Run:
    """Open the run at `root` if it has the same config, else create it; environment.json records the command line of this process.

    Without `resume` an existing run is renamed to "<root>.1", "<root>.2" .. and a new one is created.

    Raises ConfigError if the existing run has another config, and OslerError if the folder holds other files or cannot be created.
    """
    run = Run(root=Path(root))
    _check_key_file(run.root, config)
    if run.root.exists() and not run.root.is_dir():
        raise OslerError(f"{run.root} is a file: give --out a folder")
    if run.config.is_file() and resume:
        _require_same_config(run, config)
        return run
    if run.config.is_file():
        set_aside(run.root)
    elif run.root.exists() and (others := {path.name for path in run.root.iterdir()} - PARTS):
        raise OslerError(f"{run.root} holds other files ({min(others)}) and no run: give --out a new folder")
    try:
        run.root.mkdir(parents=True, exist_ok=True)
        write_json(run.environment, _describe_environment(config))
        create_whole(run.config, config.to_json() + "\n")  # last, because this file makes the folder a run
        run.is_new = True
    except FileExistsError:
        _require_same_config(run, config)  # another process has created the run in the meantime
    except OSError as error:
        raise OslerError(f"cannot make a run at {run.root}: {error.strerror}; give another --out") from None
    return run


@contextmanager
def forgetting_unused(run: Run) -> Iterator[None]:
    """Undo the creation of a run when the block raises before there is any result, so that a corrected command is not refused."""
    try:
        yield
    except BaseException:
        files = [run.metrics, *run.records.glob("*.jsonl"), *run.checkpoints.glob("*/*"), *run.policy.glob("*"), *run.adapter.glob("*")]
        if run.is_new and not any(file.is_file() and file.stat().st_size for file in files):
            for path in (run.config, run.environment, run.manifest, run.metrics, run.completions, run.lock):
                path.unlink(missing_ok=True)
            for folder in (run.checkpoints, run.records, run.root / "reference"):
                shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # it holds files of others, such as a log
                run.root.rmdir()
        raise


def _check_key_file(root: Path, config: Config) -> None:
    """Raise ConfigError where the key of a private dataset would lie in the run, and be passed on with it."""
    if config.data.key_file is not None and Path(config.data.key_file).expanduser().resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"[data] key_file lies inside the run {root}: keep it elsewhere, because who has it can undo the names")


def _private_paths(config: Config) -> list[str]:
    """The paths of a private dataset, which may name patients."""
    data = config.data
    given = (data.root, data.key_file, *(options.get("images") for options in (data.options, data.train.options, data.test.options)))
    return [str(path) for path in given if path] if data.private else []


def _describe_environment(config: Config) -> dict[str, Any]:
    """The content of environment.json, without user name, host name, home folder and the paths of a private dataset."""
    home = str(Path.home())
    program, *arguments = sys.argv or [""]
    for path in _private_paths(config):
        arguments = [part.replace(path, HIDDEN) for part in arguments]
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(program).name, *(part if len(home) < 2 else part.replace(home, "~") for part in arguments)],
        "seed": config.seed,
        "python": platform.python_version(),
        "packages": {"osler": __version__, **{name: _version(name) for name in PACKAGES}},
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "commit": _commit(),
    }


def first_difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """(key, value before, value after) of the first key, e.g. "grpo.beta", that differs and may not change; None if there is none.

    The value of an absent key is None. Keys that may change are IMMATERIAL and IMMATERIAL_SECTIONS.
    """
    old, new = dict(_flatten(before)), dict(_flatten(after))
    for key in [*new, *(key for key in old if key not in new)]:
        if key not in IMMATERIAL and not key.startswith(IMMATERIAL_SECTIONS) and old.get(key) != new.get(key):
            return key, old.get(key), new.get(key)
    return None


def _require_same_config(run: Run, config: Config) -> None:
    try:
        before = json.loads(run.config.read_text(encoding="utf-8"))
        # An older run lacks the keys that later versions of Osler added: they get their defaults.
        completed = build_config({**before}).model_dump(mode="json")
        difference = first_difference(completed, config.to_values())
    except (ValueError, TypeError, AttributeError, ConfigError):
        raise OslerError(f"{run.config} is not a run's config: give another --out, or --fresh to start over") from None
    if difference is not None:
        key, old, new = difference
        remedy = "or repeat its settings (osler train --fresh starts over)" if run.policy.is_dir() else "or --fresh to start over"
        raise ConfigError(f"the run in {run.root} has {key} = {old!r}, this recipe {new!r}: give another --out, {remedy}")


def set_aside(root: Path) -> None:
    """Rename a folder to the first of "<root>.1", "<root>.2" .. that does not exist."""
    number = 1
    while (target := root.with_name(f"{root.name}.{number}")).exists():
        number += 1
    root.rename(target)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that Osler runs from, with "-dirty" if files are modified; None for an installed package."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
