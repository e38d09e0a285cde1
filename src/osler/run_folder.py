"""A run: one folder that says what was asked, on what it ran, and what came out.

::

    config.json        the resolved recipe
    environment.json   versions, platform, command, start
    manifest.json      how many questions of which modality and type
    metrics.jsonl      one line per training step
    checkpoints/ policy/ records/ report.html
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from osler import __version__
from osler.config import Config, build_config
from osler.errors import ConfigError, OslerError
from osler.files import create_whole, write_json

IMMATERIAL: Final = frozenset(
    {"name", "policy.device", "trainer.max_prompt_length", "trainer.print_completions_every", "trainer.report_to", "trainer.share_prefix"}
    | {f"{section}.{key}" for section in ("grpo", "sft") for key in ("logging_steps", "save_steps", "save_total_limit", "disable_tqdm")}
    | {f"trainer.{key}" for key in ("groups_per_forward", "static_decoding", "vision_cache", "vision_cache_gb")}
)
"""Dotted keys that may change when a run goes on: no number depends on them."""

IMMATERIAL_SECTIONS: Final = ("eval.", "matrix.")
"""Records keep their own terms, and every run of a matrix has its one strategy in `[prompt]`."""

PARTS: Final = frozenset(
    {"config.json", "environment.json", "manifest.json", "metrics.jsonl", "checkpoints", "policy", "records", "report.html"}
    | {"log.txt", "tensorboard", "reference"}
)
"""What a run's folder may hold before it is one; anything else is somebody else's folder."""

PACKAGES: Final = ("torch", "transformers", "trl", "peft", "numpy", "pillow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The paths of one run. Only `config` and `environment` exist from the start."""

    root: Path  # runs/demo

    @property
    def config(self) -> Path:
        """The resolved recipe."""
        return self.root / "config.json"

    @property
    def environment(self) -> Path:
        """What it ran on."""
        return self.root / "environment.json"

    @property
    def manifest(self) -> Path:
        """How many questions of which modality and type, per split."""
        return self.root / "manifest.json"

    @property
    def metrics(self) -> Path:
        """Training metrics, one JSON object per line."""
        return self.root / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The trainer's folder."""
        return self.root / "checkpoints"

    @property
    def policy(self) -> Path:
        """The trained policy, an ordinary model folder."""
        return self.root / "policy"

    @property
    def records(self) -> Path:
        """Evaluations, one JSONL file per label."""
        return self.root / "records"

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.root / "report.html"


def open_run(root: str | Path, config: Config, *, resume: bool = True, command: Sequence[str] | None = None) -> Run:
    """The run at `root`: the existing one when its config says the same, else a new one; it exists from the moment its config.json does.

    Without `resume` an existing run is set aside as "<root>.1", "<root>.2" ..; nothing is deleted. `command` is the command line to keep,
    by default that of this process.

    Raises ConfigError when the existing run was started with another config, and OslerError when the folder holds something else.
    """
    run = Run(root=Path(root))
    if run.root.exists():
        _require_run_folder(run)
        if run.config.is_file() and not resume:
            set_aside(run.root)
        elif run.config.is_file():
            _require_same_config(run, config)
            return run
    return _create(run, config, sys.argv if command is None else command)


def describe_environment(*, seed: int, command: Sequence[str]) -> dict[str, Any]:
    """What a number depends on besides the config: versions, platform, seed, command. No user, host or home folder."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _without_home(command),
        "seed": seed,
        "python": platform.python_version(),
        "packages": {"osler": __version__, **{name: _version(name) for name in PACKAGES}},
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "commit": _commit(),
    }


def first_difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first dotted key whose value differs and matters, with both values (None where absent), or None when the configs agree."""
    old, new = dict(_flatten(before)), dict(_flatten(after))
    for key in [*new, *(key for key in old if key not in new)]:
        if key not in IMMATERIAL and not key.startswith(IMMATERIAL_SECTIONS) and old.get(key) != new.get(key):
            return key, old.get(key), new.get(key)
    return None


def _require_run_folder(run: Run) -> None:
    if not run.root.is_dir():
        raise OslerError(f"{run.root} is a file: give --out a folder")
    if not run.config.is_file() and (others := {path.name for path in run.root.iterdir()} - PARTS):
        raise OslerError(f"{run.root} holds other files ({min(others)}) and no run: give --out a new folder")


def _require_same_config(run: Run, config: Config) -> None:
    try:
        before = json.loads(run.config.read_text(encoding="utf-8"))
        # A key that a later version of Osler added has its default in an older run.
        known = json.loads(build_config({**before}).to_json())
        found = first_difference(known, json.loads(config.to_json()))
    except (ValueError, TypeError, AttributeError, ConfigError):
        raise OslerError(f"{run.config} is not a run's config: give another --out, or --fresh to start over") from None
    if found is not None:
        key, old, new = found
        raise ConfigError(f"the run in {run.root} has {key} = {old!r}, this recipe {new!r}: give another --out, or --fresh to start over")


def set_aside(root: Path) -> None:
    """Rename a folder to "<root>.1", "<root>.2" .., whichever is free."""
    number = 1
    while (target := root.with_name(f"{root.name}.{number}")).exists():
        number += 1
    root.rename(target)


def _create(run: Run, config: Config, command: Sequence[str]) -> Run:
    """Write the environment, then the config: with that file the run exists."""
    try:
        run.root.mkdir(parents=True, exist_ok=True)
        write_json(run.environment, describe_environment(seed=config.seed, command=command))
        create_whole(run.config, config.to_json() + "\n")
    except FileExistsError:
        _require_same_config(run, config)  # another process was faster
    except OSError as error:
        raise OslerError(f"cannot make a run at {run.root}: {error.strerror}; give another --out") from None
    return run


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _without_home(command: Sequence[str]) -> list[str]:
    home = str(Path.home())
    program, *arguments = command or [""]
    return [Path(program).name, *(argument if len(home) < 2 else argument.replace(home, "~") for argument in arguments)]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that Osler runs from, with "-dirty" where files were changed; None for an installed package."""
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
