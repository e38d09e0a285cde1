"""Run folders loaded for a report: their recipe, their training curves and the records of their evaluations."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from osler.audits.credits import read_answers, read_credits
from osler.errors import DataError
from osler.evaluation.compare import TITLES, alteration_of
from osler.evaluation.judge.summary import JudgeSummary, read_judges
from osler.evaluation.readings import MAJORITY, MAX_READERS, Part, Reading, read_readings
from osler.evaluation.records import read_records
from osler.files import read_json_lines, read_json_object
from osler.metrics import BLIND_POLICIES
from osler.prompts import READER
from osler.training.image_gain import PooledGain, pool_gains
from osler.training.kept_completions import FILE, KeptCompletion, read_kept
from osler.training.symptoms import CAUSES, WARNINGS
from osler.types import Record

TRACES: Final = ("environment.json", "metrics.jsonl", "records")
"""A folder with one of these is a run. config.json does not count, because checkpoints have it too."""

STAGES: Final[Mapping[str, str]] = {"blind": "Blind", "zero_shot": "Zero-shot", "sft": "SFT", "grpo": "GRPO"}
"""First parts of labels with their titles, in the order of rows."""

_STRATEGIES: Final[Mapping[str, str]] = {"think": "Think", "no_think": "No-Think", "think_after": "Think-After"}
"""Last parts of labels with their titles, in the order of rows."""

_READER: Final = re.compile(rf"(?:reader_(\d+)|{MAJORITY})(\.{Part.WITH_MODEL})?")
"""Labels of a reader study: "reader_1", "readers_majority.with_model"."""

_ALIASES: Final[Mapping[str, str]] = {
    "step": "step",
    "global_step": "step",
    "reward": "reward",
    "completion_length": "completion_length",
    "completions/mean_length": "completion_length",
    "kl": "kl",
    "loss": "loss",
    "train_loss": "loss",
    "frac_reward_zero_std": "zero_std",
    "entropy": "entropy",
    "enumerated/reward": "enumerated",
    "enumerated/sampled_steps": "sampled_steps",
    "partial/reward": "expected",
    "blank_image/gain": "image_gain",
    "time_s": "seconds",
}
"""Names of TRL and Osler in metrics.jsonl -> names of curves. `rewards/NAME` and `rewards/NAME/mean` become "reward: NAME"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A logged value over the steps of a run; steps that did not log it are absent."""

    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingWarning:
    """A cause of learning nothing that a training found in its own metrics."""

    step: str  # "120"
    says: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The records of one policy on one set of questions: a row of a table."""

    label: str  # "grpo"
    records: tuple[Record, ...]
    run: str = ""  # "demo"
    title: str  # "GRPO"
    blind: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # baseline without images -> sample id -> credit, 0 to 1
    blind_answers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # baseline -> id of an open question -> answer
    judges: tuple[JudgeSummary, ...] = ()  # what judges say of its open answers
    altered: Mapping[str, tuple[Record, ...]] = field(default_factory=dict)  # {"blank": ..}: records of altered questions
    split: str | None = None  # that the recipe of its run tests on; None where the run does not say

    @property
    def strategies(self) -> frozenset[str]:
        """The prompt strategies of the records; one strategy in runs that Osler wrote."""
        return frozenset(record.strategy for record in self.records)

    @property
    def is_blind(self) -> bool:
        """Whether the records come from a baseline without images."""
        return bool(self.records) and all(record.policy in BLIND_POLICIES for record in self.records)

    @property
    def is_reader(self) -> bool:
        """Whether people answered, in a reader study."""
        return self.strategies == {READER.name}

    @property
    def is_zero_shot(self) -> bool:
        """Whether the label names an untrained policy."""
        return self.stage == "zero_shot"

    @property
    def stage(self) -> str:
        """How the policy was made, as its label says: one of STAGES, "" for other labels."""
        return _split_label(self.label)[0]

    @property
    def detail(self) -> str:
        """Policy and strategy of the records, e.g. "osler-tiny, think"."""
        return "; ".join(sorted({f"{record.policy}, {record.strategy}" for record in self.records}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The content of one run folder; empty for files that the run did not write."""

    name: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    manifest: Mapping[str, Any]
    curves: Mapping[str, Curve]
    evaluations: tuple[Evaluation, ...]
    warnings: tuple[TrainingWarning, ...] = ()
    readings: Mapping[int, tuple[Reading, ...]] = field(default_factory=dict)  # number of a reader -> answers, in a reader study
    completions: tuple[KeptCompletion, ...] = ()  # of the training, the latest last
    gains: tuple[PooledGain, ...] = ()  # over blank images while it trained
    is_trained: bool = True  # whether it saved its policy

    @property
    def is_enumerated(self) -> bool:
        """Whether every logged reward is the expected one, because all answers were computed and none was drawn."""
        reward, expected, sampled = (self.curves.get(name) for name in ("reward", "enumerated", "sampled_steps"))
        if reward is None or expected is None or (sampled is not None and any(sampled.values)):
            return False
        return {*reward.steps} <= {*expected.steps}

    @property
    def last_step(self) -> float:
        """The last step of its curves; 0 without any."""
        return max((curve.steps[-1] for curve in self.curves.values()), default=0)


def load_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs of folders, in order. Raises DataError, in one line with the name of the file, for a file that cannot be read."""
    names = [folder.resolve().name for folder in folders]
    # Runs of one recipe with two seeds are often in folders of the same name; their names get the parent folder.
    parents = [folder.resolve().parent.name for folder in folders]
    names = [f"{parent}/{name}" if names.count(name) > 1 else name for parent, name in zip(parents, names, strict=True)]
    names = [str(folder) if names.count(name) > 1 else name for folder, name in zip(folders, names, strict=True)]
    return [_load_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def _load_run(folder: Path, name: str) -> Run:
    labels = sorted((folder / "records").glob("*.jsonl"), key=lambda path: (_rank(path.stem)[0], _reader_rank(path.stem), path.stem))
    lines = read_json_lines(folder / "metrics.jsonl")
    config = read_json_object(folder / "config.json")
    split = _tested_split(config)
    return Run(
        name=name,
        config=config,
        environment=read_json_object(folder / "environment.json"),
        manifest=read_json_object(folder / "manifest.json"),
        curves=_read_curves(lines),
        warnings=tuple(_read_warnings(lines)),
        evaluations=tuple(_join_altered([replace(_read_evaluation(path, name), split=split) for path in labels])),
        readings=read_readings(folder),
        completions=read_kept(folder / FILE),
        gains=pool_gains(lines),
        is_trained=(folder / "policy").is_dir(),
    )


def _tested_split(config: Mapping[str, Any]) -> str | None:
    """The split of `[data.test]`; None for a recipe without one."""
    data = config.get("data")
    test = data.get("test") if isinstance(data, dict) else None
    split = test.get("split") if isinstance(test, dict) else None
    return split if isinstance(split, str) else None


def _read_evaluation(path: Path, run: str) -> Evaluation:
    """The records of one file: for each question one plain record and one per alteration. Raises DataError for duplicates."""
    by_alteration: defaultdict[str | None, list[Record]] = defaultdict(list)
    for record in read_records(path):
        by_alteration[alteration_of(record)].append(record)
    for part in by_alteration.values():
        sample_id, count = Counter(record.sample_id for record in part).most_common(1)[0]
        if count > 1:
            raise DataError(f"{path} holds the sample {sample_id!r} more than once: delete the file and evaluate again")
    records = tuple(by_alteration.pop(None, ()))
    altered = {str(name): tuple(part) for name, part in by_alteration.items()}
    base, _, suffix = path.stem.rpartition(".")
    label = base if base and suffix in TITLES and not records else path.stem  # "grpo.blank" holds altered questions of "grpo"
    title = run if label == "eval" else label_title(label)  # "eval" is the default label
    return Evaluation(
        label=label,
        records=records,
        run=run,
        title=title,
        blind=read_credits(path),
        blind_answers=read_answers(path),
        judges=read_judges(path, records),
        altered=altered,
    )


def _join_altered(rows: Sequence[Evaluation]) -> list[Evaluation]:
    """One evaluation per label, with the plain records of one file and the altered records of all files."""
    joined: dict[str, Evaluation] = {}
    for row in rows:
        before = joined.setdefault(row.label, row)
        plain = before if before.records else row  # with what lies beside its records
        joined[row.label] = replace(plain, altered={**before.altered, **row.altered})
    return list(joined.values())


def collect_evaluations(runs: Sequence[Run]) -> list[Evaluation]:
    """The evaluations of all runs as rows: blind baselines, then untrained policies, SFT, GRPO and others.

    Equal records of one label in several runs become one row. A title names its run only where titles would be equal.
    """
    merged: dict[tuple[str, object], Evaluation] = {}
    for run in runs:
        for row in run.evaluations:
            key = (row.label, row.records or run.name)  # without records there is nothing to compare
            first = merged.setdefault(key, row)
            merged[key] = replace(first, altered={**row.altered, **first.altered})
    rows = sorted(merged.values(), key=lambda row: _rank(row.label))
    rows = _rename_repeated(rows, lambda row: f"{row.title} ({row.run})")
    return _rename_repeated(rows, lambda row: f"{row.run}: {row.label}")


def _rename_repeated(rows: Sequence[Evaluation], rename: Callable[[Evaluation], str]) -> list[Evaluation]:
    titles = Counter(row.title for row in rows)
    return [replace(row, title=rename(row)) if titles[row.title] > 1 else row for row in rows]


def label_title(label: str) -> str:
    """The title of a label: "zero_shot" -> "Zero-shot", "grpo-600-no-think" -> "GRPO 600, No-Think", "reader_1" -> "Reader 1".

    Other labels are unchanged.
    """
    if (reader := _READER.fullmatch(label)) is not None:
        return (f"Reader {reader[1]}" if reader[1] else "Readers, majority") + (" with model" if reader[2] else "")
    stage, rest, strategy = _split_label(label)
    if not stage:
        return label
    return " ".join([STAGES[stage], *(STAGES.get(part, part) for part in rest)]) + (f", {_STRATEGIES[strategy]}" if strategy else "")


def unaided_label(label: str) -> str | None:
    """The label of a reader without the model: "reader_1.with_model" -> "reader_1"; None for another label."""
    reader = _READER.fullmatch(label)
    return label.removesuffix(reader[2]) if reader is not None and reader[2] else None


def _split_label(label: str) -> tuple[str, list[str], str]:
    """Stage, middle and strategy: "grpo-600-no-think" -> ("grpo", ["600"], "no_think"); "" for an absent part."""
    key = label.replace("-", "_").lower()
    stage = next((name for name in STAGES if key == name or key.startswith(f"{name}_")), "")
    key = key.removeprefix(stage)
    strategy = max((name for name in _STRATEGIES if key.endswith(f"_{name}")), key=len, default="")
    between = [part for part in key.removesuffix(strategy).split("_") if part]
    return stage, between, strategy


def _rank(label: str) -> tuple[int, int]:
    """The place of a label's stage and strategy in the order of rows; absent ones come last, and readers after all policies."""
    if rank := _reader_rank(label):
        return len(STAGES) + 1, rank
    stage, _, strategy = _split_label(label)
    return [*STAGES, ""].index(stage), [*_STRATEGIES, ""].index(strategy)


def _reader_rank(label: str) -> int:
    """The place of a reader's label: reader 1, reader 2 .., their majority, and then the same with a model; 0 for another label."""
    reader = _READER.fullmatch(label)
    return 0 if reader is None else (int(reader[1]) if reader[1] else MAX_READERS + 1) + (2 * MAX_READERS if reader[2] else 0)


def manifest_cells(manifest: Mapping[str, Any], split: str) -> dict[str, dict[str, int]]:
    """The counts of one split by modality and question type, e.g. {"mri": {"disease_diagnosis": 12}}; {} without counts."""
    part = manifest.get(split)
    cells = part.get("cells") if isinstance(part, dict) else None
    if not isinstance(cells, dict):
        return {}
    return {modality: counts for modality, counts in cells.items() if isinstance(counts, dict)}


def environment_rows(environment: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The names and values of an environment, e.g. ("packages.torch", "2.13.0")."""
    rows = []
    for key, value in environment.items():
        if isinstance(value, dict):
            rows += environment_rows(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", " ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return rows


def _read_warnings(lines: Sequence[Mapping[str, Any]]) -> Iterator[TrainingWarning]:
    """The warnings of metrics.jsonl, the first of each cause; anything else under their key is passed over."""
    told: set[str] = set()
    for line in lines:
        found = line.get(WARNINGS)
        for one in found if isinstance(found, list) else ():
            if isinstance(one, dict) and (cause := str(one.get("cause"))) in CAUSES and cause not in told:
                told.add(cause)
                yield TrainingWarning(step=str(line.get("step", "?")), says=str(one.get("says", "")), remedy=str(one.get("remedy", "")))


def _read_curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """The curves of metrics.jsonl."""
    points: dict[str, dict[float, float]] = {}
    for number, entry in enumerate(lines, start=1):
        numbers = {key: value for key, value in entry.items() if type(value) in (int, float) and math.isfinite(value)}
        named = {name: value for key, value in numbers.items() if (name := _curve_name(key))}
        step = named.pop("step", float(number))
        for name, value in named.items():
            points.setdefault(name, {})[step] = value  # a resumed run logs a step again; the later value counts
    return {
        name: Curve(steps=tuple(sorted(logged)), values=tuple(logged[step] for step in sorted(logged))) for name, logged in points.items()
    }


def _curve_name(key: str) -> str | None:
    if key.startswith("rewards/") and not key.endswith("/std"):
        return f"reward: {key.removeprefix('rewards/').removesuffix('/mean')}"
    return _ALIASES.get(key)
