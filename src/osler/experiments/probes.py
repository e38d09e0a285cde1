"""`osler eval --ablation | --circular | --reasoning`: the test questions once more, altered, beside the plain answers.

Each alteration is an evaluation of its own with its own file, LABEL.<name>.jsonl, that goes on where it stopped; the plain records of the
label are what it is compared with, question by question.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from osler.config import Config
from osler.data.answer_options import Circular, rotate_options, summarize_rotations
from osler.errors import ConfigError, DataError
from osler.evaluation.ablations import Ablation, ablate, mark
from osler.evaluation.compare import CIRCULAR, REASONING, UNIT, Alteration, compare
from osler.evaluation.engines import Engine, open_engine
from osler.evaluation.interventions import Intervention, intervene
from osler.evaluation.reasoning_rules import RuleSummary, summarize_reasoning
from osler.evaluation.records import read_records
from osler.evaluation.run import digest_prompts, fill_records, prepare
from osler.metrics import accuracy, p_value, percent, points
from osler.prompts import Format, find_strategy, render
from osler.run_folder import Run, open_run
from osler.types import Prompt, Record, Sample

_IGNORED_TERMS: Final = frozenset({"batch_size"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One alteration of the test questions."""

    name: str  # "blank", "circular", "reasoning_cut"; the records are in LABEL.<name>.jsonl
    prompts: tuple[Prompt, ...]
    left_out: Mapping[str, int]  # why questions are not asked -> how many
    num_same_target: int = 0  # swaps for an image that is not known to have another answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """The answers to altered questions, and what they changed."""

    probe: Probe
    records: tuple[Record, ...]
    found: Alteration

    @property
    def name(self) -> str:
        """The probe's, e.g. "blank"."""
        return self.probe.name


def run_probes(
    config: Config,
    out: Path,
    *,
    policy: str | None = None,
    label: str = "eval",
    fresh: bool = False,
    ablations: Sequence[Ablation] = (),
    is_circular: bool = False,
    interventions: Sequence[Intervention] = (),
) -> Mapping[str, Any]:
    """Ask the altered questions, into `records/<label>.<name>.jsonl` of the run at `out`; print what changed, return the figures.

    With `fresh` the altered questions start over; the plain records of the label stay.

    Raises OslerError for whatever the user can mend, before anything is generated where that can be known.
    """
    inquiry = prepare(config, policy, label)
    asked, strategy, samples, terms = inquiry.config, inquiry.strategy, inquiry.samples, inquiry.terms
    plain = _read_plain(Run(root=out).records / f"{label}.jsonl", terms, len(samples), is_needed=bool(interventions))
    probes = [
        *(_ablated(samples, strategy, ablation, config.seed) for ablation in ablations),
        *([_rotated(samples, strategy)] if is_circular else []),
        *(_intervened(inquiry.prompts, plain, intervention, config.seed) for intervention in interventions),
    ]
    _require_questions(probes)
    run = open_run(out, config)
    engine = functools.cache(lambda: open_engine(asked))
    results = [_ask(run, asked, probe, terms, engine, plain, label=label, fresh=fresh) for probe in probes]
    circular = next((summarize_rotations(result.records) for result in results if result.name == CIRCULAR), None)
    rules = summarize_reasoning(plain) if interventions else ()
    render_probes([result for result in results if result.name != CIRCULAR], plain, circular, rules)
    return {"run": run.root, "label": label, **describe_results(results, plain, circular, rules)}


def _read_plain(path: Path, terms: Mapping[str, Any], num_questions: int, *, is_needed: bool) -> tuple[Record, ...]:
    """The records of the label itself, () without any.

    Raises when they are needed and absent, unfinished, or another policy's or other questions'.
    """
    if not path.is_file():
        if is_needed:
            raise DataError(f"{path} does not exist: give the same command without --reasoning first, it writes the reasoning to change")
        return ()
    beside = path.with_suffix(".terms.json")
    before = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else terms
    for key in sorted({**terms, **before}.keys() - _IGNORED_TERMS):
        if before.get(key) != terms.get(key):
            raise ConfigError(f"{path} was made with other {key}: give its own recipe and --policy, or another --label")
    records = read_records(path)
    if len(records) < num_questions:
        raise DataError(
            f"{path} holds {len(records)} of {num_questions} answers: give the same command without --ablation, --circular and "
            "--reasoning first, it goes on"
        )
    return records


def _ablated(samples: Sequence[Sample], strategy: str, ablation: Ablation, seed: int) -> Probe:
    found = ablate(samples, ablation, seed=seed)
    prompts = tuple(render(sample, strategy) for sample in found.samples)
    return Probe(name=ablation.value, prompts=prompts, left_out=found.left_out, num_same_target=found.same_answer)


def _rotated(samples: Sequence[Sample], strategy: str) -> Probe:
    turned = [rotate_options(sample) for sample in samples]
    alone = sum(not turns for turns in turned)
    prompts = tuple(render(sample, strategy) for turns in turned for sample in turns)
    return Probe(name=CIRCULAR, prompts=prompts, left_out={"no options to rotate": alone} if alone else {})


def _intervened(prompts: Sequence[Prompt], plain: Sequence[Record], intervention: Intervention, seed: int) -> Probe:
    """Prompts that begin with changed reasoning. Raises ConfigError for a strategy that does not reason before it answers."""
    strategy = prompts[0].strategy
    if find_strategy(strategy).format is not Format.THINK_ANSWER:
        raise ConfigError(f"--reasoning needs a strategy that reasons before it answers, such as think, not {strategy}")
    name = f"{REASONING}{intervention}"
    found = intervene(plain, intervention, seed=seed)
    changed = [
        replace(prompt, sample=mark(prompt.sample, name), prefix=prefix)
        for prompt in prompts
        if (prefix := found.prefixes.get(prompt.sample.id)) is not None
    ]
    return Probe(name=name, prompts=tuple(changed), left_out=found.left_out)


def _require_questions(probes: Sequence[Probe]) -> None:
    """Raise DataError when no alteration leaves a question to ask; one that leaves none beside others that do has a dash in the table."""
    if not any(probe.prompts for probe in probes):
        probe = probes[0]
        reasons = ", ".join(f"{number} with {reason}" for reason, number in probe.left_out.items())
        raise DataError(f"{probe.name} leaves no question to ask ({reasons}): choose another, or other test questions")


def _ask(
    run: Run,
    config: Config,
    probe: Probe,
    terms: Mapping[str, Any],
    engine: Callable[[], Engine],
    plain: Sequence[Record],
    *,
    label: str,
    fresh: bool,
) -> ProbeResult:
    if not probe.prompts:
        return ProbeResult(probe=probe, records=(), found=compare(probe.name, plain, []))
    path = run.records / f"{label}.{probe.name}.jsonl"
    start = time.monotonic()
    own = {**terms, "questions": digest_prompts(probe.prompts)}
    records = fill_records(path, config, probe.prompts, own, engine, fresh=fresh)
    print(f"{label}.{probe.name}: {len(records)} questions in {time.monotonic() - start:.1f} s, {path}", file=sys.stderr)  # noqa: T201
    return ProbeResult(probe=probe, records=tuple(records), found=compare(probe.name, plain, records))


def render_probes(results: Sequence[ProbeResult], plain: Sequence[Record], circular: Circular | None, rules: Sequence[RuleSummary]) -> None:
    """Print what the alterations changed, in per cent with 95 % intervals."""
    if results:
        rows = [["plain", str(len(plain)), str(accuracy(plain, UNIT)), *[""] * 4]] if plain else []
        for result in results:
            found = result.found
            change = "" if found.change is None else points(found.change.difference)
            p = "" if found.change is None else p_value(found.change.p_value)
            same = "" if found.same_answer is None else str(found.same_answer)
            follows = "" if found.follows is None else str(found.follows)
            rows.append([found.name, str(found.num_questions), str(found.accuracy), change, p, same, follows])
        heads = ["", "Questions", "Accuracy", "Change", "p", "Same answer", "Follows reasoning"]
        shown = len(heads) if any(result.found.follows for result in results) else len(heads) - 1
        _print_table(heads[:shown], [row[:shown] for row in rows])
        for result in results:
            for reason, number in result.probe.left_out.items():
                _print(f"{result.name}: {number} questions left out, {reason}")
            if number := result.probe.num_same_target:
                _print(f"{result.name}: {number} questions have an image that may have the same answer; there was no other")
    if circular is not None:
        rows = [
            ["options as they are", str(circular.plain), ""],
            ["mean of all rotations", str(circular.mean), ""],
            ["right in every rotation", str(circular.consistent), percent(circular.chance)],
        ]
        _print_table((f"{circular.num_questions} questions", "Accuracy", "Guessing"), rows)
    if rules:
        _print_table(
            ("Reasoning states", "Answers read", "Agreement"),
            [[rule.rule, f"{rule.agreement.total} of {rule.num_reasonings}", str(rule.agreement)] for rule in rules],
        )


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.ASCII2, show_edge=False, pad_edge=False)
    for position, head in enumerate(heads):
        table.add_column(Text(head), justify="left" if position == 0 else "right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    _print(table)


def _print(content: object) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)  # a log file has no width to fit in
    console.print(content, markup=False)


def describe_results(
    results: Sequence[ProbeResult], plain: Sequence[Record], circular: Circular | None, rules: Sequence[RuleSummary]
) -> dict[str, Any]:
    """The figures as JSON; shares of one, None where there is nothing to measure."""
    return {
        "plain": {"questions": len(plain), **accuracy(plain, UNIT).to_json()} if plain else None,
        "probes": {result.name: _result(result) for result in results if result.name != CIRCULAR},
        "circular": None
        if circular is None
        else {
            "questions": circular.num_questions,
            "plain": circular.plain.to_json(),
            "mean": circular.mean.to_json(),
            "consistent": circular.consistent.to_json(),
            "chance": circular.chance,
        },
        "consistency": {
            rule.rule: {
                "reasonings": rule.num_reasonings,
                "stated": rule.agreement.total,
                "agreement": rule.agreement.to_json(),
                "contradictions": list(rule.contradictions),
            }
            for rule in rules
        },
    }


def _result(result: ProbeResult) -> dict[str, Any]:
    found, change = result.found, result.found.change
    return {
        "questions": found.num_questions,
        "left_out": dict(result.probe.left_out),
        "same_target": result.probe.num_same_target,
        **found.accuracy.to_json(),
        "change": None if change is None else {**change.difference.to_json(), "questions": change.num_samples, "p_value": change.p_value},
        "same_answer": None if found.same_answer is None else found.same_answer.to_json(),
        "follows_reasoning": None if found.follows is None else found.follows.to_json(),
    }
