"""A reader study in the folder of a run: prepared once from questions and settings, then opened again by the same command."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

from osler.audits.credits import credits_file, update_credits
from osler.config import Config
from osler.data.select import describe_samples, digest_content, load_split
from osler.errors import ConfigError, DataError
from osler.evaluation.ablations import Ablation, ablate
from osler.evaluation.readings import FOLDER, Part, reader_label
from osler.evaluation.records import read_records, record_to_json
from osler.evaluation.run import digest_prompts
from osler.files import locking, read_json_object, replacing, write_json, write_whole
from osler.prompts import READER, render
from osler.run_folder import Run, forgetting_unused, open_run, set_aside
from osler.serving.readers.plan import Plan, StudySettings, make_plan, read_plan, write_plan
from osler.types import Prompt, Record, Sample

TOKENS_FILE: Final = "tokens.json"
_TOKEN_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Everything that does not change while readers answer."""

    run: Run
    plan: Plan
    tokens: tuple[str, ...]  # of reader 1, reader 2 ..: the secret part of an address
    samples: tuple[Sample, ...]  # in the order of `Plan.sample_ids`
    prompts: Mapping[Part, Mapping[str, Prompt]]  # by sample id; with images as they are, or without
    model: Mapping[str, Record]  # what the policy answered, by sample id; {} without a policy

    @property
    def folder(self) -> Path:
        """Where the study keeps its files."""
        return self.run.root / FOLDER

    @property
    def policy(self) -> str | None:
        """The name of the policy whose answers are shown in the last part."""
        return next((record.policy for record in self.model.values()), None)

    def records_file(self, reader: int | None, part: Part) -> Path:
        """The records of a reader, or of the majority for None."""
        return self.run.records / f"{reader_label(reader, part)}.jsonl"

    def policy_name(self, reader: int | None, part: Part) -> str:
        """Who answered, as records name it: "reader 1", "readers, majority", "reader 1 with osler-tiny"."""
        name = "readers, majority" if reader is None else f"reader {reader}"
        return f"{name} with {self.policy}" if part is Part.WITH_MODEL else name


def prepare_study(
    config: Config,
    out: Path,
    settings: StudySettings,
    *,
    with_model: str | None = None,
    fresh: bool = False,
    on_image: Callable[[int, int], None] | None = None,
) -> Study:
    """Open the study in the run folder `out`, or make one of the test questions of a recipe.

    `with_model` names the records whose answers the last part shows: a file, or a label of the run. A new study reads every image once, so
    that no reader meets one that cannot be shown; `on_image` is told the number of questions that were read, and of all. `fresh` sets an
    existing study and its records aside.

    Raises ConfigError where the folder holds a study with other settings or questions, and DataError for questions, images or records that
    cannot be used.
    """
    samples = load_split(config.data, "test")
    plain = [render(sample, READER.name) for sample in samples]
    blind = [render(sample, READER.name) for sample in ablate(samples, Ablation.QUESTION_ONLY).samples]
    run = _open(out, config, fresh=fresh)
    with forgetting_unused(run):
        model = {} if with_model is None else _read_model(_records_of(with_model, run), plain)
        settings = replace(settings, has_model=bool(model))
        answers = digest_prompts(plain), digest_content(samples), _digest_records(model)
        terms = dict(zip(("questions", "content", "model"), answers, strict=True))
        if fresh:
            _set_aside(run)
        plan = read_plan(run.root / FOLDER)
        if plan is None:
            plan = make_plan(samples, settings, terms)
            _check_images(samples, on_image)
            write_plan(run.root / FOLDER, plan)
        else:
            _require_same(plan, settings, terms)
    study = Study(
        run=run,
        plan=plan,
        tokens=_tokens(run.root / FOLDER, settings.num_readers),
        samples=tuple(samples),
        prompts={
            Part.WITHOUT_IMAGE: {prompt.sample.id: prompt for prompt in blind},
            Part.UNAIDED: (shown := {prompt.sample.id: prompt for prompt in plain}),
            Part.WITH_MODEL: shown,
        },
        model=model,
    )
    write_json(run.manifest, {**read_json_object(run.manifest), "test": describe_samples(samples)})
    _write_credits(study, config, fresh=fresh)
    return study


def _open(out: Path, config: Config, *, fresh: bool) -> Run:
    """The run of the study; with `fresh` a run of another recipe is set aside."""
    try:
        return open_run(out, config)
    except ConfigError:
        if not fresh:
            raise
        return open_run(out, config, resume=False)


def _records_of(name: str, run: Run) -> Path:
    """The records file that `--with-model` names. Raises ConfigError."""
    if (path := Path(name)).suffix == ".jsonl" and path.is_file():
        return path
    if (path := run.records / f"{name}.jsonl").is_file():
        return path
    raise ConfigError(f"--with-model {name}: give a file of records, or a label of {run.records}, which `osler eval --label` writes")


def _read_model(path: Path, prompts: Sequence[Prompt]) -> dict[str, Record]:
    """The policy's records of the questions. Raises DataError where one is missing, altered, or has other choices."""
    records = {record.sample_id: record for record in read_records(path) if record.ablation is None and not record.rotation}
    for prompt in prompts:
        record = records.get(prompt.sample.id)
        if record is None:
            raise DataError(f"{path} has no answer to {prompt.sample.id}: evaluate the policy on the questions of the study")
        if record.choices != prompt.sample.choices:
            raise DataError(f"{path} has other choices of {prompt.sample.id}: evaluate the policy on the questions of the study")
    return {prompt.sample.id: records[prompt.sample.id] for prompt in prompts}


def _digest_records(model: Mapping[str, Record]) -> str:
    return hashlib.sha256("\n".join(map(record_to_json, model.values())).encode()).hexdigest() if model else ""


def _require_same(plan: Plan, settings: StudySettings, terms: Mapping[str, str]) -> None:
    """Raise ConfigError where an existing study differs from the one that is asked for."""
    remedy = "give the command that began it, another --out, or --fresh, which sets it aside"
    if plan.settings != settings:
        pairs = {field.name: (getattr(plan.settings, field.name), getattr(settings, field.name)) for field in fields(settings)}
        what = ", ".join(f"{name.replace('_', ' ')} {old}, not {new}" for name, (old, new) in pairs.items() if old != new)
        raise ConfigError(f"the study in this folder has {what}: {remedy}")
    names = {"questions": "questions", "content": "images or right answers", "model": "answers of the policy"}
    if changed := [names[key] for key in names if plan.terms.get(key) != terms[key]]:
        raise ConfigError(f"the study in this folder was made with other {changed[0]}: {remedy}")


def _check_images(samples: Sequence[Sample], on_image: Callable[[int, int], None] | None) -> None:
    """Read every image. Raises DataError, which names the question."""
    for number, sample in enumerate(samples, start=1):
        for image in sample.images:
            try:
                image.load()
            except (DataError, OSError) as error:
                raise DataError(f"{sample.id} cannot be shown: {error}") from None
        if on_image is not None:
            on_image(number, len(samples))


def _set_aside(run: Run) -> None:
    """Rename the folder of a study, with its records in it. Answers of people are never deleted. Raises ConfigError for one in use."""
    folder = run.root / FOLDER
    if not folder.is_dir():
        return
    with _holding(folder):  # a server that runs would write its answers into the new study
        (kept := folder / "records").mkdir(exist_ok=True)
        for path in (*run.records.glob("reader_*"), *run.records.glob("readers_majority*")):
            path.rename(kept / path.name)
        set_aside(folder)


def _tokens(folder: Path, number: int) -> tuple[str, ...]:
    """The tokens of a study: drawn once, readable for this user only."""
    path = folder / TOKENS_FILE
    known = read_json_object(path).get("readers", [])
    if isinstance(known, list) and len(known) == number and all(isinstance(token, str) and len(token) >= _TOKEN_BYTES for token in known):
        return tuple(known)
    tokens = [secrets.token_urlsafe(_TOKEN_BYTES) for _ in range(number)]
    with replacing(path) as draft:
        draft.touch(mode=0o600)
        draft.write_text(json.dumps({"readers": tokens}), encoding="utf-8")
    return tuple(tokens)


def _write_credits(study: Study, config: Config, *, fresh: bool) -> None:
    """The credits of the blind baselines beside every records file that the study will write, for the image gain of its readers."""
    parts = (Part.UNAIDED, *((Part.WITH_MODEL,) if study.model else ()))
    files = [study.records_file(reader, part) for reader in (*_numbers(study), None) for part in parts]
    update_credits(files[0], config.data, study.samples, fresh=fresh)
    content = credits_file(files[0]).read_bytes()
    for path in files[1:]:
        write_whole(credits_file(path), content)


def holding(study: Study) -> AbstractContextManager[None]:
    """Keep a second server from the same study. Raises ConfigError where one runs; systems without file locks are not checked."""
    return _holding(study.folder)


@contextmanager
def _holding(folder: Path) -> Iterator[None]:
    with locking(folder / "lock") as is_ours:
        if not is_ours:
            raise ConfigError(f"another server runs the study in {folder}: stop it first")
        yield


def _numbers(study: Study) -> range:
    return range(1, study.plan.settings.num_readers + 1)
