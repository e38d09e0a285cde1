"""`osler matrix`: train a policy on every domain of an axis and test each on all domains, beside untrained policies and a blind baseline.

Every policy is a job (see `jobs`) of the plan (see `plan`): it trains, then answers the test questions of all domains in one evaluation.
Its records are one row of the matrix. A matrix that was killed resumes; until it ends, `matrix_plan.json` lets a page show what is there.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from osler.audits.baselines import blind_credits
from osler.config import Config, load_config
from osler.errors import ConfigError, DataError
from osler.evaluation.records import read_records
from osler.experiments.jobs import STATE, run_jobs, state_of
from osler.experiments.launchers import Launching
from osler.experiments.plan import AxisPlan, MatrixOptions, PolicyJob, plan_axis
from osler.files import write_json
from osler.policies.sources import find_policy, fingerprint
from osler.prompts import find_strategy
from osler.reports.make import write_page
from osler.reports.matrices import MATRIX_FILE, AxisMatrices, MatrixReport
from osler.reports.report import render_matrix_page
from osler.reports.unfinished import PLAN_FILE, MatrixPlan, PlannedAxis, PlannedPolicy, assemble
from osler.run_folder import set_aside
from osler.training.expectation_settings import check_expectation_of_strategy
from osler.types import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixResult:
    """A finished matrix."""

    figures: MatrixReport  # the content of `matrix.json`
    report: Path  # the HTML page
    seconds: float


def plan_matrix(recipe: str, out: Path, options: MatrixOptions, *, overrides: Sequence[str] = ()) -> tuple[AxisPlan, ...]:
    """The plan of every axis; nothing is written and no policy is loaded.

    Every command repeats `overrides`, the user's own as typed. Raises OslerError for user errors that can be detected before training.
    """
    config = load_config(recipe, overrides)
    check_options(config, options, overrides)
    plans = tuple(plan_axis(recipe, out, axis, options, overrides) for axis in options.axes)
    check_plans(config, plans)
    return plans


def run_matrix(
    recipe: str,
    out: Path,
    options: MatrixOptions,
    *,
    overrides: Sequence[str] = (),
    fresh: bool = False,
    launching: Launching | None = None,
) -> MatrixResult:
    """Make every policy, test each on every domain, and write `matrix.json` and `report.html` in the folder `out`.

    Arguments and errors are those of `plan_matrix`. `fresh` sets an earlier matrix aside; without it finished jobs are not run again.
    """
    start = time.monotonic()
    config = load_config(recipe, overrides)
    plans = plan_matrix(recipe, out, options, overrides=overrides)
    jobs = [job for plan in plans for job in plan.jobs]
    if fresh and ((out / STATE).exists() or any((out / job.name).exists() for job in jobs)):
        set_aside(out)
    check_policies(config, jobs, out)
    out.mkdir(parents=True, exist_ok=True)
    longest_first = sorted(jobs, key=lambda job: {"grpo": 0, "sft": 1}.get(job.row, 2))  # so that parallel processes end together
    terms = config.to_json()
    planned = MatrixPlan(recipe=config.name, axes=tuple(describe_plan(plan, terms) for plan in plans))
    write_json(out / PLAN_FILE, planned.to_json())  # for the page of a matrix that has not ended
    run_jobs(longest_first, out, title="matrix", terms=terms, launching=launching)
    figures = MatrixReport(recipe=config.name, axes={plan.axis: collect(plan, out) for plan in plans})
    report = out / "report.html"
    write_page(render_matrix_page(figures), report)
    write_json(out / MATRIX_FILE, figures.to_json())
    (out / PLAN_FILE).unlink(missing_ok=True)
    return MatrixResult(figures=figures, report=report, seconds=time.monotonic() - start)


def check_options(config: Config, options: MatrixOptions, overrides: Sequence[str] = ()) -> None:
    """Raise ConfigError for options and sections that a matrix cannot use."""
    for name in (*options.strategies, *config.matrix.strategies):
        find_strategy(name)
    if "grpo" in options.rows:
        for name in options.strategies or config.matrix.strategies or (config.prompt.strategy,):
            check_expectation_of_strategy(config, name)
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


def check_plans(config: Config, plans: Sequence[AxisPlan]) -> None:
    """Raise PolicyError for a folder without a policy, and ConfigError for domains with fewer training questions than one rollout needs.

    ConfigError too for weights that a training could not change.
    """
    for job in (job for plan in plans for job in plan.jobs):
        if job.row in ("sft", "grpo") or (config.eval.engine == "hf" and job.row != "blind"):
            find_policy(job.given or config.policy.path)
    from osler.training.arguments import check_trained_dtype, grpo_arguments

    for section in sorted({job.row for plan in plans for job in plan.jobs if job.given is None} & {"sft", "grpo"}):
        check_trained_dtype(config, section)
    trained = [(plan, job.domain) for plan in plans for job in plan.jobs if job.row == "grpo" and job.domain is not None]
    if not trained:
        return
    from osler.training.grpo import check_group

    arguments = grpo_arguments(config, Path("unused"))
    short: dict[str, ConfigError] = {}
    for plan, domain in trained:
        try:
            check_group(arguments, len(plan.train[domain]))
        except ConfigError as error:
            short[domain] = error
    if short:
        raise ConfigError(f"GRPO cannot train on {', '.join(short)}: {next(iter(short.values()))}")


def check_policies(config: Config, jobs: Iterable[PolicyJob], out: Path) -> None:
    """Raise ConfigError when a policy that the matrix tests but does not train has changed since its records were made."""
    if config.eval.engine != "hf":
        return
    fingerprint_once = cache(fingerprint)
    for job in jobs:
        before = _read_fingerprint(job, out) if job.row in ("given", "zero_shot") else None
        path = job.given or config.policy.path
        if before is not None and before != fingerprint_once(path):
            raise ConfigError(f"{path} is not the policy that {out / job.name} tested: --fresh starts over, or give another --out")


def _read_fingerprint(job: PolicyJob, out: Path) -> str | None:
    """The fingerprint of the policy that made a job's records; None without records. Raises DataError for a damaged file."""
    records = job.records_file(out)
    terms = records.with_suffix(".terms.json")
    if not records.is_file() or not terms.is_file():
        return None
    try:
        policy = json.loads(terms.read_text(encoding="utf-8"))["policy"]
    except KeyError:
        return None  # another engine made the records; when a policy is asked now, its evaluation reports the difference
    except (ValueError, TypeError):
        raise DataError(f"{terms} does not say what was tested: delete {out / job.name}, and the same command makes it again") from None
    return str(policy)


def collect(plan: AxisPlan, out: Path) -> AxisMatrices:
    """The matrices of an axis from the records of its jobs. Raises DataError when records are missing or incomplete."""
    answered = {job.name: _read(job, plan, out) for job in plan.jobs}
    return assemble(describe_plan(plan), answered, {domain: blind_credits(samples, plan.test) for domain, samples in plan.train.items()})


def describe_plan(plan: AxisPlan, terms: str = "") -> PlannedAxis:
    """The plan as a page needs it while jobs are still to end; `terms` are those of the jobs."""
    num_test = Counter(getattr(sample, plan.axis) for sample in plan.test)
    return PlannedAxis(
        axis=plan.axis,
        domains=plan.domains,
        num_train={name: len(plan.train.get(name, ())) for name in plan.domains},
        num_test={name: num_test[name] for name in plan.domains},
        notes=plan.notes,
        policies=tuple(
            PlannedPolicy(
                name=job.name,
                records=job.records_file(Path()).as_posix(),
                row=job.row,
                strategy=job.strategy,
                domain=job.domain,
                given=str(job.given) if job.given is not None else None,
                state=state_of(job, terms),
            )
            for job in plan.jobs
        ),
    )


def _read(job: PolicyJob, plan: AxisPlan, out: Path) -> tuple[Record, ...]:
    path = job.records_file(out)
    remedy = f"delete {out / job.name}, and the same command makes it again"
    if not path.is_file():
        raise DataError(f"{path} is gone: {remedy}")
    records = read_records(path)
    if [record.sample_id for record in records] != [sample.id for sample in plan.test]:
        raise DataError(f"{path} does not answer the {len(plan.test):,} test questions of this matrix, one by one: {remedy}")
    return records
