"""`osler demo`: MedVLM-R1's protocol in small, on phantoms, as a list of the commands that a user would type.

Every row is a job (see `jobs`), so two run side by side on two cores and a killed demo continues where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from osler.audits.credits import read_credits
from osler.config import Config
from osler.evaluation.records import read_records
from osler.experiments.jobs import STATE, Job, plan_commands, run_jobs
from osler.files import read_json_lines
from osler.metrics import PairedDifference, accuracy, paired_difference
from osler.reports.make import write_report
from osler.reports.tables import UNIT, render_table
from osler.run_folder import set_aside
from osler.types import Record

STRATEGIES: Final = {"think": "Think", "no_think": "No-Think", "think_after": "Think-After"}
PAPER_QUESTIONS: Final = 600
PAPER_EPOCHS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Job):
    """One row of the closing table."""

    title: str  # "GRPO"
    strategy: str  # "think"
    questions: int  # training questions, 0 for zero-shot

    @property
    def label(self) -> str:
        """The row's name: "GRPO Think"."""
        if self.title == "blind":
            return "blind: option prior"
        name = f"{self.title} {STRATEGIES[self.strategy]}"
        return f"{name}, {self.questions} questions" if self.questions else name


def run(config: Config, out: Path, *, fresh: bool = False, overrides: Sequence[str] = ()) -> Mapping[str, Any]:
    """Run the whole protocol into the folder `out`, print the table and return what `--json` shows.

    `overrides` are the user's own, as typed; every command repeats them.
    """
    if fresh and (out / STATE).exists():
        set_aside(out.resolve())
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    jobs = plan(config, out, overrides)
    run_jobs(jobs, out, title="demo", terms=config.to_json())
    results = {job.name: read_records(job.records_file(out)) for job in jobs}
    print_results(config, out, jobs, results)
    report = out / "report.html"
    write_report([out / job.name for job in jobs], report)
    seconds = time.monotonic() - start
    print(f"\nreport: {report}   ({seconds:.0f} s)\nPhantoms are drawings and this is a research tool: not for clinical use.")  # noqa: T201
    return {"report": report, "seconds": round(seconds, 1), "rows": [summarize_row(job, config, jobs, results) for job in jobs]}


def plan(config: Config, out: Path, overrides: Sequence[str]) -> list[Row]:
    """Every row of the table, longest training first, so that two processes end at about the same time."""
    questions = config.data.train.limit or 0
    few = (f"--data.train.limit={PAPER_QUESTIONS}", f"--grpo.num_train_epochs={PAPER_EPOCHS}")
    return [
        *(_job("GRPO", "train", strategy, questions, out, overrides) for strategy in ("think_after", "think", "no_think")),
        _job("GRPO", "train", "think", PAPER_QUESTIONS, out, (*overrides, *few), folder_name="grpo-600-think"),
        *(_job("SFT", "sft", strategy, questions, out, overrides) for strategy in STRATEGIES),
        *(_job("zero-shot", None, strategy, 0, out, overrides) for strategy in STRATEGIES),
        _job("blind", None, "no_think", 0, out, ("--eval.engine=option_prior", *overrides)),
    ]


def _job(
    title: str, verb: str | None, strategy: str, questions: int, out: Path, overrides: Sequence[str], *, folder_name: str | None = None
) -> Row:
    name = folder_name or f"{title.lower()}-{strategy.replace('_', '-')}"
    commands = plan_commands("demo", out / name, [f"--prompt.strategy={strategy}", *overrides], verb=verb)
    return Row(name=name, title=title, strategy=strategy, questions=questions, commands=commands)


def print_results(config: Config, out: Path, jobs: Sequence[Row], results: Mapping[str, Sequence[Record]]) -> None:
    """Print the closing table, every lift over zero-shot with its paired interval, and the reward curves."""
    in_domain = config.data.train.modalities
    shown = sorted(jobs, key=lambda job: (job.title != "blind", list(STRATEGIES).index(job.strategy), job.questions > 0, job.title))
    blind = read_credits(shown[0].records_file(out))  # all rows answer the same questions
    render_table([(job.label, results[job.name]) for job in shown], in_domain=in_domain, blind=blind)
    for job in shown:
        if job.questions and (change := lift(job, jobs, results, in_domain)).difference.value is not None:
            low, high = (f"{100 * limit:+.1f}" for limit in (change.difference.low or 0.0, change.difference.high or 0.0))
            print(f"{job.label}: {100 * change.difference.value:+.1f} points [{low}, {high}] in-domain over zero-shot, paired")  # noqa: T201
    for job in shown:
        if job.title == "GRPO" and (rewards := _rewards(out / job.name / "metrics.jsonl")):
            print(f"reward {rewards[0]:.2f} {sparkline(rewards)} {rewards[-1]:.2f}  {job.label}")  # noqa: T201


def lift(job: Row, jobs: Sequence[Row], results: Mapping[str, Sequence[Record]], modalities: Collection[str]) -> PairedDifference:
    """A trained row against the zero-shot row of its strategy, on the modalities it was trained on."""
    zero_shot = next(other for other in jobs if other.title == "zero-shot" and other.strategy == job.strategy)
    before, after = ([record for record in results[name] if record.modality in modalities] for name in (zero_shot.name, job.name))
    return paired_difference(before, after, UNIT)


def summarize_row(job: Row, config: Config, jobs: Sequence[Row], results: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """A row of the closing table as JSON."""
    in_domain = config.data.train.modalities
    row: dict[str, Any] = {"name": job.name, "title": job.title, "strategy": job.strategy, "questions": job.questions, "accuracy": {}}
    for modality in config.data.test.modalities:
        found = accuracy([record for record in results[job.name] if record.modality == modality], UNIT)
        row["accuracy"][modality] = {**found.to_json(), "total": found.total}
    if job.questions:
        change = lift(job, jobs, results, in_domain)
        row["lift"] = {**change.difference.to_json(), "p": change.p_value}
    return row


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """A curve in one line of text, each character the mean of its share of the values, e.g. "▁▂▅▇█"."""
    marks = "▁▂▃▄▅▆▇█"
    width = min(width, len(values))
    edges = [len(values) * k // width for k in range(width + 1)] if width else []
    means = [sum(values[i:j]) / (j - i) for i, j in pairwise(edges)]
    low, high = (min(means), max(means)) if means else (0.0, 0.0)
    return "".join(marks[round((value - low) / (high - low or 1.0) * (len(marks) - 1))] for value in means)


def _rewards(path: Path) -> list[float]:
    """The mean reward of every logged step."""
    return [float(row["reward"]) for row in read_json_lines(path) if "reward" in row]
