"""The plan of a matrix: the questions of each axis, and a job for every policy with the commands that train and test it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from osler.config import Config, load_config
from osler.data.readers import READERS
from osler.data.select import load_split
from osler.errors import ConfigError, DataError
from osler.experiments.jobs import Job, plan_commands
from osler.metrics import taxonomy_order
from osler.prompts import Format, find_strategy, target_completion
from osler.reports.matrices import Row
from osler.reports.published import NO_THINK_MINUS_THINK
from osler.taxonomy import Axis, parse_modality, parse_question_type
from osler.types import Sample

ROWS: Final[tuple[Row, ...]] = ("zero_shot", "sft", "grpo", "blind")
BLIND_STRATEGY: Final = "no_think"
"""The strategy of the option prior's prompts; the option prior does not read them."""

_SELECTORS: Final[Mapping[Axis, str]] = {"modality": "modalities", "question_type": "question_types"}
_VERBS: Final[Mapping[Row, str]] = {"sft": "sft", "grpo": "train"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixOptions:
    """Which policies a matrix trains and tests, on which questions."""

    axes: tuple[Axis, ...] = ("modality",)
    domains: tuple[str, ...] = ()  # empty: those of the test questions
    strategies: tuple[str, ...] = ()  # empty: the recipe's
    rows: tuple[Row, ...] = ROWS
    limit: int | None = None  # training and test questions of each domain
    policies: Path | None = None  # a folder with a run for each domain, to test instead of training


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyJob(Job):
    """The job that makes and tests one policy of a matrix."""

    row: Row
    strategy: str | None  # None for the blind baseline
    domain: str | None  # of the training questions; None for zero-shot
    given: Path | None = None  # the folder of a policy of --policies; None for a policy that the matrix makes


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisPlan:
    """The plan of one axis."""

    axis: Axis
    domains: tuple[str, ...]
    train: Mapping[str, Sequence[Sample]]  # training questions by domain; domains without any are absent
    test: Sequence[Sample]
    jobs: tuple[PolicyJob, ...]
    notes: tuple[str, ...]  # what is missing, and why


def plan_axis(recipe: str, out: Path, axis: Axis, options: MatrixOptions, overrides: Sequence[str]) -> AxisPlan:
    """Load the questions of an axis and plan a job for every policy.

    Raises DataError when no domain has test questions, no domain has training questions (policies of `--policies` need none), nothing can
    be trained, or `--policies` holds no run.
    """
    config = load_config(recipe, overrides)
    chosen = parse_domains(axis, options.domains)
    has_files = _has_files_by_axis(config)
    common = [*overrides, f"--data.axis={axis}"] if has_files else list(overrides)
    if options.limit is not None:
        common += [f"--data.train.limit={options.limit}", f"--data.test.limit_per_{axis}={options.limit}"]
    if chosen:
        common.append(_select("test", axis, chosen))
    test = load_split(load_config(recipe, common).data, "test")
    counts = Counter(getattr(sample, axis) for sample in test)
    domains = chosen or tuple(sorted((str(name) for name in counts if name is not None), key=taxonomy_order))
    if not domains:
        raise DataError(f"no test question of {config.data.reader} says its {axis.replace('_', ' ')}: choose the other --axis")
    if not chosen:
        common.append(_select("test", axis, domains))
        test = load_split(load_config(recipe, common).data, "test")  # as the commands will: a limit applies after the selection
    notes = [f"{counts[None]:,} test questions do not say their {axis.replace('_', ' ')} and are left out."] if counts[None] else []
    notes += [f"No test questions for {name}: its column is empty." for name in domains if not counts[name]]
    overrides_of = {name: [*common, _select("train", axis, [name])] for name in domains}
    if has_files:
        overrides_of = {name: [*parts, f"--data.train.name={name}"] for name, parts in overrides_of.items()}
    train = _load_training(recipe, overrides_of, notes, is_needed=options.policies is None)
    jobs = _plan_jobs(partial(_job, recipe, out, axis), config, options, common, overrides_of, train, notes)
    if (note := _explain_unpublished(axis, jobs)) is not None:
        notes.append(note)
    return AxisPlan(axis=axis, domains=domains, train=train, test=test, jobs=tuple(jobs), notes=tuple(notes))


def parse_domains(axis: Axis, names: Sequence[str]) -> tuple[str, ...]:
    """Domains of an axis in the taxonomy's order, each once; labels of datasets are accepted. Raises ConfigError for an unknown one."""
    parse = parse_modality if axis == "modality" else parse_question_type
    try:
        return tuple(sorted({str(parse(name)) for name in names}, key=taxonomy_order))
    except DataError as error:
        raise ConfigError(f"--domains: {error}") from None


def _select(split: str, axis: Axis, domains: Sequence[str]) -> str:
    return f"--data.{split}.{_SELECTORS[axis]}={json.dumps(list(domains))}"


def _has_files_by_axis(config: Config) -> bool:
    """Whether the dataset has one file for each domain of an axis; a manifest divides all questions together."""
    reader = READERS.get(config.data.reader)
    return reader is not None and "axis" in reader.card.options and config.data.manifest is None


def _load_training(recipe: str, overrides_of: Mapping[str, Sequence[str]], notes: list[str], *, is_needed: bool) -> dict[str, list[Sample]]:
    """The training questions by domain, without empty domains, which go to `notes`. Raises DataError when all are empty and needed."""
    train: dict[str, list[Sample]] = {}
    first: DataError | None = None
    for name, overrides in overrides_of.items():
        try:
            train[name] = load_split(load_config(recipe, overrides).data, "train")
        except DataError as error:
            first = first or error
            missing = "its row is empty" if is_needed else "it has no blind baseline"
            notes.append(f"No training questions for {name}, so {missing}: {error}.")
    if is_needed and not train and first is not None:
        raise first
    return train


def _plan_jobs(
    new_job: Callable[..., PolicyJob],
    config: Config,
    options: MatrixOptions,
    common: Sequence[str],
    overrides_of: Mapping[str, Sequence[str]],
    train: Mapping[str, Sequence[Sample]],
    notes: list[str],
) -> list[PolicyJob]:
    """The jobs of an axis; `notes` gets a line for each policy that cannot be made or found. Raises DataError when no job is left."""
    strategies = options.strategies or config.matrix.strategies or (config.prompt.strategy,)
    trained = [row for row in options.rows if row in _VERBS] if options.policies is None else []
    is_mixed = config.data.mixture != "proportional" or config.data.curriculum != "none"
    plain_order = ("--data.mixture=proportional", "--data.curriculum=none") if is_mixed else ()  # SFT has no rewards to choose by
    jobs = []
    for strategy in strategies:
        prompt = f"--prompt.strategy={strategy}"
        if "zero_shot" in options.rows:
            jobs.append(new_job("zero_shot", strategy, None, [prompt, *common]))
        for row in trained:
            for domain, samples in train.items():
                if row == "sft" and (error := _missing_target(samples, strategy, config)) is not None:
                    notes.append(f"No SFT for {domain}, {strategy}, so its row is empty: {error}.")
                    continue
                jobs.append(new_job(row, strategy, domain, [prompt, *overrides_of[domain], *(plain_order if row == "sft" else ())]))
        if options.policies is not None:
            for domain, overrides in overrides_of.items():
                if (policy := find_given(options.policies, strategy, domain)) is not None:
                    jobs.append(new_job("given", strategy, domain, [prompt, *overrides], policy))
                else:
                    notes.append(f"{options.policies} holds no run for {domain}, {strategy}: its row is empty.")
    if options.policies is not None and not any(job.row == "given" for job in jobs):
        domains = list(overrides_of)
        raise DataError(f"{options.policies} holds no run for any of {', '.join(domains)}: name its folders so, as in {domains[0]}")
    if "blind" in options.rows:
        blind = [f"--prompt.strategy={BLIND_STRATEGY}", "--eval.engine=option_prior"]
        jobs += [new_job("blind", None, domain, [*overrides_of[domain], *blind]) for domain in train]
    if not jobs:
        raise DataError(notes[-1].rstrip("."))
    return jobs


def _job(
    recipe: str,
    out: Path,
    axis: Axis,
    row: Row,
    strategy: str | None,
    domain: str | None,
    overrides: Sequence[str],
    policy: Path | None = None,
) -> PolicyJob:
    label = "-".join(part for part in (row, domain, (strategy or "").replace("_", "-")) if part)
    name = f"{axis}/{label}"
    commands = plan_commands(recipe, out / name, overrides, verb=_VERBS.get(row), policy=policy)
    return PolicyJob(name=name, commands=commands, row=row, strategy=strategy, domain=domain, given=policy)


def _missing_target(samples: Sequence[Sample], strategy: str, config: Config) -> DataError | None:
    """Why SFT has no target for this strategy on these questions; None when it has. The literal target of Med-R1 suits all strategies."""
    try:
        for sample in samples if config.sft_target != "med_r1_sft" else ():
            target_completion(sample, strategy)
    except DataError as error:
        return error
    return None


def find_given(policies: Path, strategy: str, domain: str) -> Path | None:
    """The folder of a domain's policy: DIR/grpo-ct-no-think, DIR/ct-no-think, DIR/grpo-ct or DIR/ct, in this order; None without one."""
    ending = strategy.replace("_", "-")
    names = (f"grpo-{domain}-{ending}", f"{domain}-{ending}", f"grpo-{domain}", domain)
    return next((policies / name for name in names if (policies / name).is_dir()), None)


def _explain_unpublished(axis: Axis, jobs: Sequence[PolicyJob]) -> str | None:
    """A note for policies that answer both with and without reasoning: published differences compare two policies. None without any."""
    formats: dict[tuple[str, Path], set[Format]] = {}
    for job in jobs:
        if job.given is not None and job.domain is not None and job.strategy is not None:
            formats.setdefault((job.domain, job.given), set()).add(find_strategy(job.strategy).format)
    published = {train for train, _ in NO_THINK_MINUS_THINK[axis]}
    both = [domain for (domain, _), used in formats.items() if domain in published and used >= {Format.ANSWER, Format.THINK_ANSWER}]
    if not both:
        return None
    return (
        f"One policy answers with and without reasoning for {', '.join(both)}: no published difference stands beside it, "
        "because Med-R1 trained a policy for each."
    )
