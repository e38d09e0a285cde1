"""`osler matrix`: a policy for every domain of an axis, each tested on all of them, beside what was not trained and what never looks.

Every policy is a job (see `jobs`) that `planning` lays out: it trains, then answers the test questions of all domains in one evaluation,
whose records are the cells of its row. A killed matrix continues where it stopped.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from osler.audits.baselines import blind_credits
from osler.config import Config, load_config
from osler.errors import ConfigError, DataError
from osler.evaluation.records import read_records
from osler.experiments.jobs import STATE, run_jobs
from osler.experiments.plan import Entry, MatrixOptions, Plan, describe, plan_axis
from osler.files import write_json
from osler.metrics.matrices import Cell
from osler.policies.load import find_policy, fingerprint
from osler.prompts import find_strategy
from osler.reports.make import write_page
from osler.reports.matrices import AxisMatrices, Credits, Row, Scores, axis_to_json, build_scores, compare_all
from osler.reports.matrix_page import render_matrices, render_matrix_page
from osler.run_folder import set_aside
from osler.types import Record


def run_matrix(
    recipe: str, out: Path, options: MatrixOptions, *, overrides: Sequence[str] = (), fresh: bool = False, is_dry: bool = False
) -> Mapping[str, Any]:
    """Make every policy, test each on every domain, print the matrices, write `matrix.json` and `report.html`; return the former's content.

    `overrides` are the user's own, as typed; every command repeats them. With `is_dry` the commands are printed and nothing is written.

    Raises OslerError for whatever the user can mend, before anything is trained where that can be known.
    """
    start = time.monotonic()
    config = load_config(recipe, overrides)
    check(config, options, overrides)
    plans = [plan_axis(recipe, out, axis, options, overrides) for axis in options.axes]
    entries = [entry for plan in plans for entry in plan.entries]
    check_plans(config, plans)
    if is_dry:
        return describe(plans)
    if fresh and ((out / STATE).exists() or any((out / entry.name).exists() for entry in entries)):
        set_aside(out)
    check_policies(config, entries, out)
    out.mkdir(parents=True, exist_ok=True)
    run_jobs(_longest_first(entries), out, title="matrix", terms=config.to_json())
    found = [collect(plan, out) for plan in plans]
    render_matrices(found)
    report = out / "report.html"
    write_page(render_matrix_page(config.name, found), report)
    result = {"recipe": config.name, "axes": {part.axis: axis_to_json(part) for part in found}}
    write_json(out / "matrix.json", result)
    seconds = time.monotonic() - start
    print(f"\nreport: {report}   ({seconds:.0f} s)")  # noqa: T201
    return {"out": out, "report": report, "seconds": round(seconds, 1), **result}


def check(config: Config, options: MatrixOptions, overrides: Sequence[str] = ()) -> None:
    """Raise ConfigError for an option or a section that cannot be."""
    for name in (*options.strategies, *config.matrix.strategies):
        find_strategy(name)
    if config.prompt.eval_strategy is not None or any(part.startswith("--prompt.strategy") for part in overrides):
        raise ConfigError("a matrix trains and tests by the strategies of --strategy: name them there, and leave [prompt] alone")
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit {options.limit}: use 1 or more questions of each domain")
    if options.policies is not None and not options.policies.is_dir():
        raise ConfigError(f"--policies {options.policies} is no folder: name one that holds a run for each domain")
    if config.eval.engine == "option_prior":
        raise ConfigError("eval.engine=option_prior answers for no policy: leave it out, the matrix has a blind row of its own")
    fixed = [f"[data.{name}]" for name, part in (("train", config.data.train), ("test", config.data.test)) if "name" in part.options]
    if config.data.manifest is not None and fixed:
        raise ConfigError(f"{fixed[0]} names one file of a dataset that the manifest divides: add --{fixed[0][1:-1]}.options={{}}")


def check_plans(config: Config, plans: Sequence[Plan]) -> None:
    """Raise PolicyError for a folder that holds no policy, ConfigError where a domain's training questions do not fill one rollout."""
    for entry in (entry for plan in plans for entry in plan.entries):
        if entry.row in ("sft", "grpo") or (config.eval.engine == "hf" and entry.row != "blind"):
            find_policy(entry.given or config.policy.path)
    trained = {plan.axis: [entry.domain for entry in plan.entries if entry.row == "grpo" and entry.domain is not None] for plan in plans}
    if not any(trained.values()):
        return
    from osler.training.arguments import grpo_arguments
    from osler.training.grpo import check_group

    arguments = grpo_arguments(config, Path("unused"))
    for plan in plans:
        short: dict[str, ConfigError] = {}
        for domain in trained[plan.axis]:
            try:
                check_group(arguments, len(plan.train[domain]))
            except ConfigError as error:
                short[domain] = error
        if short:
            raise ConfigError(f"GRPO cannot train on {', '.join(short)}: {next(iter(short.values()))}")


def check_policies(config: Config, entries: Iterable[Entry], out: Path) -> None:
    """Raise ConfigError where the policies that a matrix tests and does not make have other weights than when its records were made."""
    if config.eval.engine != "hf":
        return
    prints: dict[Path | str, str] = {}
    for entry in entries:
        before = _read_fingerprint(entry, out) if entry.row in ("given", "zero_shot") else None
        if before is None:
            continue
        path = entry.given or config.policy.path
        if path not in prints:
            prints[path] = fingerprint(path)
        if prints[path] != before:
            raise ConfigError(f"{path} is not the policy that {out / entry.name} tested: --fresh starts over, or give another --out")


def _read_fingerprint(entry: Entry, out: Path) -> str | None:
    """The policy that a job's records are of, as their evaluation noted it; None without records. Raises DataError for a damaged note."""
    records = entry.records_file(out)
    terms = records.with_suffix(".terms.json")
    if not records.is_file() or not terms.is_file():
        return None
    try:
        found = json.loads(terms.read_text(encoding="utf-8"))["policy"]
    except KeyError:
        return None  # no policy answered: whoever asks one now is told so by the evaluation
    except (ValueError, TypeError):
        raise DataError(f"{terms} does not say what was tested: delete {out / entry.name}, and the same command makes it again") from None
    return str(found)


def _longest_first(entries: Sequence[Entry]) -> list[Entry]:
    """Training that generates before training that does not, and evaluations last, so that processes end at about the same time."""
    order = ("grpo", "sft")
    return sorted(entries, key=lambda entry: order.index(entry.row) if entry.row in order else len(order))


def collect(plan: Plan, out: Path) -> AxisMatrices:
    """The matrices of an axis from the records that its jobs left. Raises DataError where one is gone, or not whole."""
    records = {(entry.row, entry.strategy, entry.domain): _read(entry, plan, out) for entry in plan.entries}
    fitted: Credits = {domain: blind_credits(samples, plan.test) for domain, samples in plan.train.items()}
    kinds = dict.fromkeys((row, strategy) for row, strategy, _ in records)
    scores = [_score(plan, row, strategy, records, fitted) for row, strategy in kinds]
    num_test = Counter(getattr(sample, plan.axis) for sample in plan.test)
    return AxisMatrices(
        axis=plan.axis,
        domains=plan.domains,
        num_train={name: len(plan.train.get(name, ())) for name in plan.domains},
        num_test={name: num_test[name] for name in plan.domains},
        scores=tuple(sorted(scores, key=lambda part: ("zero_shot", "sft", "given", "grpo", "blind").index(part.row))),
        comparisons=compare_all(plan.axis, scores),
        notes=plan.notes,
    )


def _read(entry: Entry, plan: Plan, out: Path) -> tuple[Record, ...]:
    path = entry.records_file(out)
    remedy = f"delete {out / entry.name}, and the same command makes it again"
    if not path.is_file():
        raise DataError(f"{path} is gone: {remedy}")
    records = read_records(path)
    if [record.sample_id for record in records] != [sample.id for sample in plan.test]:
        raise DataError(f"{path} does not answer the {len(plan.test):,} test questions of this matrix, one by one: {remedy}")
    return records


def _score(
    plan: Plan,
    row: Row,
    strategy: str | None,
    records: Mapping[tuple[Row, str | None, str | None], Sequence[Record]],
    fitted: Credits,
) -> Scores:
    cells: dict[Cell, Sequence[Record]] = {}
    for train in plan.domains:
        found = records.get((row, strategy, None if row == "zero_shot" else train), ())
        for test in plan.domains:
            cells[train, test] = [record for record in found if getattr(record, plan.axis) == test]
    same = [entry for entry in plan.entries if (entry.row, entry.strategy) == (row, strategy)]
    given = {entry.domain: entry.given for entry in same if entry.domain is not None and entry.given is not None}
    return build_scores(row, strategy, cells, fitted, given)
