"""What a matrix consists of: the questions of an axis, and a job for every policy with the commands that make and test it."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from osler.config import Config, load_config
from osler.data.readers import READERS
from osler.data.select import load_split
from osler.errors import ConfigError, DataError
from osler.experiments.jobs import Job, plan_commands
from osler.metrics import taxonomy_order
from osler.prompts import Format, find_strategy, target_completion
from osler.reports.matrices import Row
from osler.reports.published import NO_THINK_MINUS_THINK
from osler.taxonomy import AXES, Axis, parse_modality, parse_question_type
from osler.types import Sample

ROWS: Final[tuple[Row, ...]] = ("zero_shot", "sft", "grpo", "blind")
BLIND_STRATEGY: Final = "no_think"
"""How the option prior is asked; it does not read the question."""

_SELECTORS: Final[Mapping[Axis, str]] = {"modality": "modalities", "question_type": "question_types"}
_LIMITS: Final[Mapping[Axis, str]] = {"modality": "limit_per_modality", "question_type": "limit_per_question_type"}
_VERBS: Final[Mapping[Row, str]] = {"sft": "sft", "grpo": "train"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixOptions:
    """What the command line asks for."""

    axes: tuple[Axis, ...] = ("modality",)
    domains: tuple[str, ...] = ()  # those of the test questions when empty
    strategies: tuple[str, ...] = ()  # the recipe's when empty
    rows: tuple[Row, ...] = ROWS
    limit: int | None = None  # training and test questions of each domain
    policies: Path | None = None  # a folder with a run for each domain, to test instead of training


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Job):
    """One policy of a matrix."""

    row: Row
    strategy: str | None  # None for the blind baseline
    domain: str | None  # where it was trained; None for zero-shot
    given: Path | None = None  # the folder it came in; None where it is made here


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One axis: its questions, and the policies to make."""

    axis: Axis
    domains: tuple[str, ...]
    train: Mapping[str, Sequence[Sample]]  # by domain; absent where there are none
    test: Sequence[Sample]
    entries: tuple[Entry, ...]
    notes: tuple[str, ...]


def plan_axis(recipe: str, out: Path, axis: Axis, options: MatrixOptions, overrides: Sequence[str]) -> Plan:
    """The questions of an axis and a job for every policy.

    Raises DataError where no domain has test questions, none has training questions, nothing can be trained, or `--policies` holds no run.
    Given policies need no training questions.
    """
    config = load_config(recipe, overrides)
    asked = parse_domains(axis, options.domains)
    terms = [*overrides, *_axis_overrides(config, axis, options.limit)]
    if asked:
        terms.append(_select("test", axis, asked))
    test = load_split(load_config(recipe, terms).data, "test")
    found = Counter(getattr(sample, axis) for sample in test)
    domains = asked or tuple(sorted((str(name) for name in found if name is not None), key=taxonomy_order))
    if not domains:
        raise DataError(f"no test question of {config.data.reader} says its {axis.replace('_', ' ')}: choose the other --axis")
    if not asked:
        terms.append(_select("test", axis, domains))
        test = load_split(load_config(recipe, terms).data, "test")  # as the commands will: a limit draws from what is selected
    notes = [f"{found[None]:,} test questions do not say their {axis.replace('_', ' ')} and are left out."] if found[None] else []
    notes += [f"No test questions for {name}: its column is empty." for name in domains if not found[name]]
    terms_of = {name: [*terms, *_domain_overrides(config, axis, name)] for name in domains}
    train = _load_training(recipe, terms_of, notes, is_needed=options.policies is None)
    entries = _plan_entries(recipe, out, axis, config, options, terms, terms_of, train, notes)
    return Plan(axis=axis, domains=domains, train=train, test=test, entries=tuple(entries), notes=tuple(notes))


def parse_axes(text: str) -> tuple[Axis, ...]:
    """The axes of `--axis modality,question_type`. Raises ConfigError for another name."""
    names = split_names(text)
    if not names or any(name not in AXES for name in names):
        raise ConfigError(f"--axis {text!r}: use {', '.join(AXES)}, or both with a comma between")
    return tuple(axis for axis in AXES if axis in names)


def parse_rows(text: str) -> tuple[Row, ...]:
    """The rows of `--rows zero_shot,grpo`. Raises ConfigError for another name."""
    names = split_names(text)
    if not names or any(name not in ROWS for name in names):
        raise ConfigError(f"--rows {text!r}: use some of {', '.join(ROWS)}, with commas between")
    return tuple(row for row in ROWS if row in names)


def parse_domains(axis: Axis, names: Sequence[str]) -> tuple[str, ...]:
    """Domains of an axis in the taxonomy's order, each once; a dataset's own label will do. Raises ConfigError for an unknown one."""
    parse = parse_modality if axis == "modality" else parse_question_type
    try:
        return tuple(sorted({str(parse(name)) for name in names}, key=taxonomy_order))
    except DataError as error:
        raise ConfigError(f"--domains: {error}") from None


def split_names(text: str) -> tuple[str, ...]:
    """ "think, no_think" -> ("think", "no_think"), each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _select(split: str, axis: Axis, domains: Sequence[str]) -> str:
    return f"--data.{split}.{_SELECTORS[axis]}={json.dumps(list(domains))}"


def _axis_overrides(config: Config, axis: Axis, limit: int | None) -> list[str]:
    found = [f"--data.axis={axis}"] if _has_files_by_axis(config) else []
    return found if limit is None else [*found, f"--data.train.limit={limit}", f"--data.test.{_LIMITS[axis]}={limit}"]


def _domain_overrides(config: Config, axis: Axis, domain: str) -> list[str]:
    named = [f"--data.train.name={domain}"] if _has_files_by_axis(config) else []
    return [_select("train", axis, [domain]), *named]


def _has_files_by_axis(config: Config) -> bool:
    """Whether each domain has a file of its own, which the reader is told to open; a manifest has one split for all."""
    reader = READERS.get(config.data.reader)
    return reader is not None and "axis" in reader.card.options and config.data.manifest is None


def _load_training(recipe: str, terms_of: Mapping[str, Sequence[str]], notes: list[str], *, is_needed: bool) -> dict[str, list[Sample]]:
    """The training questions of the domains that have any. Raises the first domain's DataError where none has and some are needed."""
    train: dict[str, list[Sample]] = {}
    first: DataError | None = None
    for name, terms in terms_of.items():
        try:
            train[name] = load_split(load_config(recipe, terms).data, "train")
        except DataError as error:
            first = first or error
            missing = "its row is empty" if is_needed else "it has no blind baseline"
            notes.append(f"No training questions for {name}, so {missing}: {error}.")
    if is_needed and not train and first is not None:
        raise first
    return train


def _plan_entries(
    recipe: str,
    out: Path,
    axis: Axis,
    config: Config,
    options: MatrixOptions,
    terms: Sequence[str],
    terms_of: Mapping[str, Sequence[str]],
    train: Mapping[str, Sequence[Sample]],
    notes: list[str],
) -> list[Entry]:
    strategies = options.strategies or config.matrix.strategies or (config.prompt.strategy,)
    trained = [row for row in options.rows if row in _VERBS] if options.policies is None else []
    entries = []
    for strategy in strategies:
        own = f"--prompt.strategy={strategy}"
        if "zero_shot" in options.rows:
            entries.append(_entry(recipe, out, axis, "zero_shot", strategy, None, [own, *terms]))
        for row in trained:
            for domain, samples in train.items():
                if row == "sft" and (error := _find_untaught(samples, strategy, config)) is not None:
                    notes.append(f"No SFT for {domain}, {strategy}, so its row is empty: {error}.")
                    continue
                entries.append(_entry(recipe, out, axis, row, strategy, domain, [own, *terms_of[domain]]))
        if options.policies is not None:
            for domain, found in terms_of.items():
                policy = find_given(options.policies, strategy, domain)
                if policy is None:
                    notes.append(f"{options.policies} holds no run for {domain}, {strategy}: its row is empty.")
                    continue
                entries.append(_entry(recipe, out, axis, "given", strategy, domain, [own, *found], policy))
    if options.policies is not None and not any(entry.row == "given" for entry in entries):
        raise DataError(
            f"{options.policies} holds no run for any of {', '.join(terms_of)}: name its folders so, as in {next(iter(terms_of))}"
        )
    if "blind" in options.rows:
        asked = [f"--prompt.strategy={BLIND_STRATEGY}", "--eval.engine=option_prior"]
        entries += [_entry(recipe, out, axis, "blind", None, domain, [*terms_of[domain], *asked]) for domain in train]
    if not entries:
        raise DataError(notes[-1].rstrip("."))
    if (note := _explain_unpublished(axis, entries)) is not None:
        notes.append(note)
    return entries


def _explain_unpublished(axis: Axis, entries: Sequence[Entry]) -> str | None:
    """Why no published difference stands beside a policy that was asked with and without reasoning; None where there is none."""
    formats: dict[tuple[str, Path], set[Format]] = {}
    for entry in entries:
        if entry.given is not None and entry.domain is not None and entry.strategy is not None:
            formats.setdefault((entry.domain, entry.given), set()).add(find_strategy(entry.strategy).format)
    published = {train for train, _ in NO_THINK_MINUS_THINK[axis]}
    both = [domain for (domain, _), found in formats.items() if domain in published and found >= {Format.ANSWER, Format.THINK_ANSWER}]
    if not both:
        return None
    return (
        f"One policy answers with and without reasoning for {', '.join(both)}: no published difference stands beside it, "
        "because Med-R1 trained a policy for each."
    )


def _find_untaught(samples: Sequence[Sample], strategy: str, config: Config) -> DataError | None:
    """Why SFT cannot teach the strategy on these questions; None where it can. Med-R1's literal target suits any."""
    try:
        for sample in samples if config.sft_target != "med_r1_sft" else ():
            target_completion(sample, strategy)
    except DataError as error:
        return error
    return None


def find_given(policies: Path, strategy: str, domain: str) -> Path | None:
    """The run or policy of a domain, None without one: DIR/grpo-ct-no-think, DIR/ct-no-think, DIR/grpo-ct or DIR/ct, in this order."""
    ending = strategy.replace("_", "-")
    names = (f"grpo-{domain}-{ending}", f"{domain}-{ending}", f"grpo-{domain}", domain)
    return next((policies / name for name in names if (policies / name).is_dir()), None)


def _entry(
    recipe: str, out: Path, axis: Axis, row: Row, strategy: str | None, domain: str | None, terms: Sequence[str], policy: Path | None = None
) -> Entry:
    label = "-".join(part for part in (row, domain, (strategy or "").replace("_", "-")) if part)
    name = f"{axis}/{label}"
    commands = plan_commands(recipe, out / name, terms, verb=_VERBS.get(row), policy=policy)
    return Entry(name=name, commands=commands, row=row, strategy=strategy, domain=domain, given=policy)


def describe(plans: Sequence[Plan]) -> Mapping[str, Any]:
    """`--dry-run`: what would run."""
    for plan in plans:
        asked = Counter(getattr(sample, plan.axis) for sample in plan.test)
        for name in plan.domains:
            print(f"{plan.axis} {name}: {len(plan.train.get(name, ())):,} training and {asked[name]:,} test questions")  # noqa: T201
        for note in plan.notes:
            print(note, file=sys.stderr)  # noqa: T201
    commands = [["osler", *command] for plan in plans for entry in plan.entries for command in entry.commands]
    for command in commands:
        print(shlex.join(command))  # noqa: T201
    return {"commands": commands}
