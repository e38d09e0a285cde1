"""`osler eval --ablation | --circular | --reasoning`: evaluate altered test questions and compare them with the plain answers.

Each alteration is an evaluation of its own, with its own file LABEL.<name>.jsonl, and resumes like any other. Its records are compared,
question by question, with the plain records of the label.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from osler.config import Config
from osler.data.option_order import rotate_options
from osler.errors import ConfigError, DataError
from osler.evaluation.ablations import Ablation, ablate, mark
from osler.evaluation.compare import CIRCULAR, REASONING, Alteration, compare
from osler.evaluation.context_changes import ContextChange, change_context
from osler.evaluation.engines import Engine, open_engine
from osler.evaluation.interventions import Intervention, intervene
from osler.evaluation.reasoning_rules import RuleSummary, summarize_reasoning
from osler.evaluation.records import read_records
from osler.evaluation.reliance import Reliance, judge_reliance
from osler.evaluation.run import EvaluationTask, changed_term, digest_prompts, evaluate, fill_records, name_term, prepare
from osler.metrics import Circular, summarize_rotations
from osler.prompts import Format, find_strategy, render
from osler.run_folder import Run, forgetting_unused, open_run
from osler.types import Prompt, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The test questions under one alteration, e.g. all questions with blank images."""

    name: str  # "blank", "circular", "reasoning_cut"; the records are in LABEL.<name>.jsonl
    prompts: tuple[Prompt, ...]
    left_out: Mapping[str, int]  # why questions are left out -> number of questions
    num_same_target: int = 0  # questions with the image or context of another one that may have the same answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """The answers to altered questions, and what the alteration changed."""

    probe: Probe
    path: Path  # the records file; absent when the probe has no questions
    records: tuple[Record, ...]
    alteration: Alteration
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResults:
    """All probes of one label."""

    run: Path  # the run folder
    label: str
    plain: tuple[Record, ...]  # answers to the unaltered questions; empty where these were not evaluated
    probes: tuple[ProbeResult, ...]  # without the rotations
    circular: Circular | None  # what the rotations changed
    rules: tuple[RuleSummary, ...]  # whether answers agree with the reasoning before them
    reliance: Reliance | None = None  # what the answers follow; None where no context was changed
    not_asked: Mapping[str, str] = field(default_factory=dict)  # changes of the context that were left out -> why


def run_probes(
    config: Config,
    out: Path,
    *,
    policy: str | None = None,
    label: str = "eval",
    fresh: bool = False,
    ablations: Sequence[Ablation] = (),
    context_changes: Sequence[ContextChange] = (),
    is_circular: bool = False,
    interventions: Sequence[Intervention] = (),
    on_result: Callable[[ProbeResult], None] | None = None,
) -> ProbeResults:
    """Evaluate altered test questions, write `records/<label>.<name>.jsonl` in the run folder `out`, and compare with the plain records.

    Interventions change the reasoning of plain records, which are made first where the label has none. Changes of the context are left out,
    with a reason, where no question has one or the strategy does not show it, unless nothing else is asked: then that is an error.
    `on_result` is called after each evaluation. `fresh` starts the altered questions over, and keeps the plain records.

    Raises OslerError for user errors, before anything is generated wherever they can be detected that early.
    """
    task = prepare(config, policy, label)
    path = Run(root=out).records / f"{label}.jsonl"
    if interventions and not path.is_file():
        evaluate(config, out, policy=policy, label=label)
    plain = _read_plain(path, task.terms, len(task.samples))
    reason = _no_context(task) if context_changes else None
    if reason is not None and not (ablations or is_circular or interventions):
        remedy = "use data with one, and a strategy that shows it, such as think"
        raise ConfigError(f"--ablation {','.join(context_changes)} changes the patient context, but {reason}: {remedy}")
    probes = [
        *(_ablated(task, ablation) for ablation in ablations),
        *(_with_changed_context(task, change) for change in context_changes if reason is None),
        *([_rotated(task)] if is_circular else []),
        *(_intervened(task.prompts, plain, intervention, config.seed) for intervention in interventions),
    ]
    if not any(probe.prompts for probe in probes):  # one probe without questions beside others is a dash in the table
        reasons = ", ".join(f"{number} with {reason}" for reason, number in probes[0].left_out.items())
        raise DataError(f"{probes[0].name} leaves no question to ask ({reasons}): choose another, or other test questions")
    run = open_run(out, config)
    engine = functools.cache(lambda: open_engine(task.config))
    results = []
    with forgetting_unused(run):
        for probe in probes:
            path = run.records / f"{label}.{probe.name}.jsonl"
            results.append(_run_probe(probe, path, task, engine, plain, fresh=fresh))
            if probe.prompts and on_result is not None:
                on_result(results[-1])
    return ProbeResults(
        run=run.root,
        label=label,
        plain=plain,
        probes=tuple(result for result in results if result.probe.name != CIRCULAR),
        circular=next((summarize_rotations(result.records) for result in results if result.probe.name == CIRCULAR), None),
        rules=tuple(summarize_reasoning(plain)) if interventions else (),
        reliance=judge_reliance(plain, {result.probe.name: result.records for result in results}),
        not_asked={} if reason is None else dict.fromkeys(context_changes, reason),
    )


def _read_plain(path: Path, terms: Mapping[str, Any], num_questions: int) -> tuple[Record, ...]:
    """The plain records of the label, () without a file.

    Raises DataError when they are incomplete, ConfigError when they are of another policy or other questions.
    """
    if not path.is_file():
        return ()
    if (key := changed_term(path, terms, ignored="batch_size")) is not None:
        remedy = "give its own recipe and --policy, another --label, or first the plain command with --fresh"
        raise ConfigError(f"{path} was made with other {name_term(key)}: {remedy}")
    records = read_records(path)
    if len(records) < num_questions:
        raise DataError(
            f"{path} holds {len(records)} of {num_questions} answers: give the same command without --ablation, --circular and "
            "--reasoning first, it resumes"
        )
    return records


def _ablated(task: EvaluationTask, ablation: Ablation) -> Probe:
    ablated = ablate(task.samples, ablation, seed=task.config.seed)
    prompts = tuple(render(sample, task.strategy) for sample in ablated.samples)
    return Probe(name=ablation.value, prompts=prompts, left_out=ablated.left_out, num_same_target=ablated.num_same_target)


def _no_context(task: EvaluationTask) -> str | None:
    """Why no change of the context can be asked; None where it can."""
    if find_strategy(task.strategy).context_layout is None:
        return f"the strategy {task.strategy} does not show it"
    return None if any(sample.context for sample in task.samples) else "no test question has one"


def _with_changed_context(task: EvaluationTask, change: ContextChange) -> Probe:
    changed = change_context(task.samples, change, seed=task.config.seed)
    prompts = tuple(render(sample, task.strategy) for sample in changed.samples)
    return Probe(name=change.value, prompts=prompts, left_out=changed.left_out, num_same_target=changed.num_same_target)


def _rotated(task: EvaluationTask) -> Probe:
    rotations = [rotate_options(sample) for sample in task.samples]
    num_without = sum(not samples for samples in rotations)
    prompts = tuple(render(sample, task.strategy) for samples in rotations for sample in samples)
    return Probe(name=CIRCULAR, prompts=prompts, left_out={"no options to rotate": num_without} if num_without else {})


def _intervened(prompts: Sequence[Prompt], plain: Sequence[Record], intervention: Intervention, seed: int) -> Probe:
    """Prompts that start with changed reasoning. Raises ConfigError for a strategy that does not reason before it answers."""
    strategy = prompts[0].strategy
    if find_strategy(strategy).format is not Format.THINK_ANSWER:
        raise ConfigError(f"--reasoning needs a strategy that reasons before it answers, such as think, not {strategy}")
    name = f"{REASONING}{intervention}"
    intervened = intervene(plain, intervention, seed=seed)
    changed = [
        replace(prompt, sample=mark(prompt.sample, name), prefix=intervened.prefixes[prompt.sample.id])
        for prompt in prompts
        if prompt.sample.id in intervened.prefixes
    ]
    return Probe(name=name, prompts=tuple(changed), left_out=intervened.left_out)


def _run_probe(
    probe: Probe, path: Path, task: EvaluationTask, engine: Callable[[], Engine], plain: Sequence[Record], *, fresh: bool
) -> ProbeResult:
    start = time.monotonic()
    terms = {**task.terms, "questions": digest_prompts(probe.prompts)}
    records = fill_records(path, task.config, probe.prompts, terms, engine, fresh=fresh) if probe.prompts else []
    seconds = time.monotonic() - start
    alteration = compare(probe.name, plain, records)
    return ProbeResult(probe=probe, path=path, records=tuple(records), alteration=alteration, seconds=seconds)
