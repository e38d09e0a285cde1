"""What is published: a finished run, its evaluations and those of other runs beside them, and what its weights are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from osler.config import Config, build_config
from osler.errors import ConfigError, OslerError, PolicyError
from osler.files import read_json_object
from osler.policies.sources import PACKAGED_POLICIES, find_policy, fingerprint
from osler.reports.load_runs import TRACES, Evaluation, Run, collect_evaluations, load_runs
from osler.reports.page import unfinished_evaluations
from osler.run_folder import Run as Folder

MAX_BASES: Final = 16
"""Runs that start from one another, at most; a longer chain is a circle."""

MAX_BESIDE: Final = 200
"""Folders beside a run in which its evaluations are looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """Where the training of a policy began."""

    name: str  # "osler-tiny", "Qwen/Qwen2-VL-2B-Instruct"; of a folder that is no run only its last part
    hub_id: str | None  # None for a packaged policy and a local folder
    stages: tuple[str, ...]  # names of the runs between the base and this one, the first of them first; () for none
    folders: tuple[Path, ...] = ()  # of these runs

    @property
    def is_packaged(self) -> bool:
        """Whether the base is one of Osler's packaged policies."""
        return (PACKAGED_POLICIES / self.name / "config.json").is_file()


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What the files of a policy say of it."""

    model_type: str  # "qwen2_vl"
    dtype: str  # "float32"
    num_parameters: int  # a weight that two layers share is counted once


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """A run with a trained policy."""

    folder: Folder
    config: Config
    run: Run
    runs: tuple[Run, ...]  # this run, then those that it is compared with
    folders: Mapping[str, Path]  # of all of them, by name
    evaluations: tuple[Evaluation, ...]  # of this run and of those that it is compared with, as rows of tables
    own: tuple[Evaluation, ...]  # those of the published policy
    policy: str  # the fingerprint of its files
    weights: Weights
    base: Base

    @property
    def strategy(self) -> str:
        """The strategy of evaluations."""
        return self.config.prompt.eval_strategy or self.config.prompt.strategy

    @property
    def method(self) -> str:
        """How the policy was trained: "GRPO" or "SFT"; "training" where no step was logged."""
        if not self.run.curves:
            return "training"
        return "GRPO" if "reward" in self.run.curves else "SFT"


def open_finished(root: Path, others: Sequence[Path] = ()) -> FinishedRun:
    """The run in `root`, with the evaluations of `others` beside its own.

    Raises OslerError for a folder that is no run, a training that has not ended, and an evaluation that has not answered all its questions.
    """
    folder = Folder(root=root)
    _check_is_run(folder)
    if not folder.policy.is_dir():
        if not folder.metrics.is_file():
            raise OslerError(f"the run in {root} trained nothing: publish a run of osler train or osler sft, and name this one by --with")
        raise OslerError(f"the run in {root} has no trained policy: the command that started it continues it, then publish")
    try:
        config = build_config(read_json_object(folder.config))
    except ConfigError as error:
        raise ConfigError(f"{folder.config} is not as this version of Osler writes it: {error}") from None
    for other in others:
        if not any((other / name).exists() for name in TRACES):
            raise OslerError(f"{other} is no run: give --with a folder that osler train, sft or eval wrote")
    runs = load_runs([root, *others])
    for line in [line for run in runs for line in unfinished_evaluations(run)]:
        raise OslerError(line)
    evaluations = tuple(row for row in collect_evaluations(runs) if row.records)
    policy = fingerprint(root)
    folders = {run.name: path for run, path in zip(runs, (root, *others), strict=True)}
    own = tuple(row for row in evaluations if not row.is_blind and _is_of(row, folders, policy, runs[0].name))
    return FinishedRun(
        folder=folder,
        config=config,
        run=runs[0],
        runs=tuple(runs),
        folders=folders,
        evaluations=evaluations,
        own=own,
        policy=policy,
        weights=read_weights(folder.policy),
        base=find_base(config.policy.path),
    )


def _check_is_run(folder: Folder) -> None:
    """Raise OslerError for a folder that is no run: for one within a run, such as its policy, the message names the run."""
    root = folder.root
    above = [*list(root.parents)[:2], *list(root.resolve().parents)[:2]]
    around = next((one for one in above if (one / "policy").is_dir() and (one / "config.json").is_file()), None)
    is_model = "model_type" in read_json_object(folder.config)
    if around is not None and root.is_dir() and (is_model or not folder.config.is_file()):
        raise OslerError(f"{root} is a part of a run: publish the run, {around}")
    if is_model:
        raise OslerError(
            f"{root} is a policy without its run, so nothing is known about its training: publish a run of osler train or osler sft"
        )
    if not folder.config.is_file():
        inside = sorted(path.parent.name for path in root.glob("*/config.json")) if root.is_dir() else []
        remedy = (
            f"name one of the runs in it, such as {root / inside[0]}" if inside else "name a folder that osler train or osler sft wrote"
        )
        raise OslerError(f"{root} is no run: {remedy}")


def find_evaluations(finished: FinishedRun) -> tuple[Path, ...]:
    """Folders beside the run that hold evaluations of its policy, at most MAX_BESIDE of them looked at."""
    given = finished.folder.root
    root = given.resolve()
    near = given.parent if given.name not in ("", "..") else root.parent
    return tuple(
        near / folder.parent.name
        for folder in sorted(root.parent.glob("*/records"))[:MAX_BESIDE]
        if folder.parent != root and any(_names_policy(file, finished.policy) for file in sorted(folder.glob("*.terms.json")))
    )


def _names_policy(terms: Path, policy: str) -> bool:
    try:
        return read_json_object(terms).get("policy") == policy
    except OslerError:
        return False


def _is_of(row: Evaluation, folders: Mapping[str, Path], policy: str, name: str) -> bool:
    """Whether the answers of a row are those of the files with the fingerprint `policy`.

    The terms beside the records hold that fingerprint. Records without terms, of an older version, are held to the name of the run.
    """
    terms = read_json_object(folders[row.run] / "records" / f"{row.label}.terms.json")
    if not terms:
        return row.run == name and all(record.policy == folders[name].resolve().name for record in row.records)
    return terms.get("policy") == policy


def find_base(path: str) -> Base:
    """The hub id or packaged policy that training began with: a policy that is itself the result of a run began with that of the run."""
    stages: list[str] = []
    folders: list[Path] = []
    for _ in range(MAX_BASES):
        try:
            source = find_policy(path)
        except PolicyError:  # its folder is no longer there
            return Base(name=Path(path).name, hub_id=None, stages=tuple(stages), folders=tuple(folders))
        if not source.is_local:
            return Base(name=source.name, hub_id=source.path, stages=tuple(stages), folders=tuple(folders))
        folder = (source.adapter or Path(source.path)).parent
        recipe = read_json_object(folder / "config.json")
        start = recipe.get("policy", {}).get("path") if isinstance(recipe.get("policy"), dict) else None
        if not isinstance(start, str):
            return Base(name=source.name, hub_id=None, stages=tuple(stages), folders=tuple(folders))
        stages.insert(0, source.name)
        folders.insert(0, folder)
        path = start
    raise PolicyError(f"{path} starts from itself: name the base in the file of --author")


def read_weights(folder: Path) -> Weights:
    """What the config and the headers of the safetensors files in `folder` say. Raises PolicyError for files that cannot be read."""
    from safetensors import SafetensorError, safe_open

    config = read_json_object(folder / "config.json")
    total = 0
    try:
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="np") as weights:
                total += sum(_product(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise PolicyError(f"the weights in {folder} cannot be read ({error}): train the run again") from None
    if not total:
        raise PolicyError(f"{folder} holds no safetensors files: the training did not finish")
    dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    return Weights(model_type=str(config.get("model_type")), dtype=str(dtype), num_parameters=total)


def _product(shape: Sequence[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


_OF_ENDPOINTS: Final = ("base_url", "api_key_env", "api_key_file", "extra_body", "script")
"""Keys of `[eval]` that name a host, a file or a key of its author; `extra_body` may hold a key."""


def public_recipe(config: Config, base: str) -> dict[str, Any]:
    """The recipe of a run without the paths of a machine, which may name people: the values of its config, section by section.

    `[data] root`, `manifest` and `key_file` are left out, and of `[eval]` how an endpoint is reached. `[policy] path` is the name of the
    base, and any other absolute path is hidden.
    """
    values = config.to_values()
    for key in ("root", "manifest", "key_file"):
        values["data"].pop(key, None)
    for key in _OF_ENDPOINTS:
        values["eval"].pop(key, None)
    for section in (values["data"], values["data"]["train"], values["data"]["test"]):
        section["options"] = {key: value for key, value in section["options"].items() if key != "images"}
    values["policy"]["path"] = base
    hidden: dict[str, Any] = _without_paths(values)
    return hidden


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_paths(part) for part in value]
    if isinstance(value, str) and (value.startswith(("/", "~", "\\", "./", "../")) or value[1:3] == ":\\"):
        return "a path"
    return value
