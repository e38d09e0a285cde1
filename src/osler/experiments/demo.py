"""`osler demo`: the protocol of MedVLM-R1 at small scale, on phantoms, as a list of commands that a user could type.

Every row of its table is a job (see `jobs`), so two jobs run side by side on two cores, and a demo that was killed resumes.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osler.config import Config
from osler.errors import ConfigError
from osler.evaluation.compare import UNIT
from osler.evaluation.records import read_records
from osler.experiments.jobs import STATE, Job, plan_commands, plan_warm_up, run_jobs
from osler.experiments.launchers import Launching
from osler.metrics import PairedDifference, paired_difference
from osler.reports.make import write_report
from osler.run_folder import set_aside
from osler.types import Record

STRATEGIES: Final = {"think": "Think", "no_think": "No-Think", "think_after": "Think-After"}
EXACT: Final = "--trainer.expectation=exact"
"""The override with which letters are not drawn (docs/learning.md)."""
WARM_UP: Final = "--data.train.limit=1584"
"""66 steps of SFT before GRPO: the usual start of reasoning models, which shows the policy what findings look like."""
ANSWER_ALONE: Final = ("--rewards.names=['accuracy', 'format']", "--rewards.weights=[1, 1]")
"""The rewards of the papers, without what keeps reasoning true: the reward for true statements, and SFT before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow(Job):
    """The job behind one row of the demo's table."""

    title: str  # "GRPO"
    strategy: str  # "think"
    questions: int  # training questions, 0 without training

    @property
    def label(self) -> str:
        """The row's name: "GRPO Think, 3200 questions"."""
        if self.title == "blind":
            return "blind: option prior"
        title, _, remark = self.title.partition(", ")
        name = f"{title} {STRATEGIES[self.strategy]}" + (f", {remark}" if remark else "")
        return f"{name}, {self.questions} questions" if self.questions else name


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """A finished demo."""

    rows: tuple[TableRow, ...]
    records: Mapping[str, Sequence[Record]]  # by the row's `name`
    report: Path  # the HTML page
    seconds: float


def run_demo(
    config: Config, out: Path, *, fresh: bool = False, overrides: Sequence[str] = (), launching: Launching | None = None
) -> DemoResult:
    """Run the whole protocol in the folder `out` and write its HTML report; finished rows are not run again.

    Every command repeats `overrides`, the user's own as typed. `fresh` sets an earlier demo aside. Raises OslerError when a command fails,
    and ConfigError for a setting that not all rows admit.
    """
    if config.rewards.looking:
        raise ConfigError(
            "the demo also asks policies that reason, for which [rewards] looking has no meaning: use `osler train demo` for it"
        )
    if fresh and (out / STATE).exists():
        set_aside(out.resolve())
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    rows = plan_demo(config, out, overrides)
    run_jobs(rows, out, title="demo", terms=config.to_json(), launching=launching)
    records = {row.name: read_records(row.records_file(out)) for row in rows}
    report = out / "report.html"
    write_report([out / row.name for row in rows], report)
    return DemoResult(rows=tuple(rows), records=records, report=report, seconds=time.monotonic() - start)


def plan_demo(config: Config, out: Path, overrides: Sequence[str]) -> list[TableRow]:
    """Every row of the table, longest training first, so that parallel processes end at about the same time."""
    questions = config.data.train.limit or 0
    alone = (*ANSWER_ALONE, *overrides)
    return [
        *(_warm_row(strategy, questions, out, overrides) for strategy in ("think_after", "think")),
        _row("GRPO, answer reward alone", "train", "think", questions, out, alone, folder_name="grpo-answer-alone-think"),
        *(_warm_row(strategy, questions, out, overrides, is_exact=True) for strategy in ("think_after", "think")),
        _row("GRPO", "train", "no_think", questions, out, overrides),
        _row("GRPO, exact", "train", "no_think", questions, out, (EXACT, *overrides), folder_name="grpo-exact-no-think"),
        *(_row("SFT", "sft", strategy, questions, out, overrides) for strategy in STRATEGIES),
        *(_row("zero-shot", None, strategy, 0, out, overrides) for strategy in STRATEGIES),
        _row("blind", None, "no_think", 0, out, ("--eval.engine=option_prior", *overrides)),
    ]


def _row(
    title: str, verb: str | None, strategy: str, questions: int, out: Path, overrides: Sequence[str], *, folder_name: str | None = None
) -> TableRow:
    name = folder_name or f"{title.lower()}-{strategy.replace('_', '-')}"
    commands = plan_commands("demo", out / name, [f"--prompt.strategy={strategy}", *overrides], verb=verb)
    return TableRow(name=name, title=title, strategy=strategy, questions=questions, commands=commands)


def _warm_row(strategy: str, questions: int, out: Path, overrides: Sequence[str], *, is_exact: bool = False) -> TableRow:
    """A short SFT, which the rows of a strategy share, then GRPO from its policy."""
    ending = strategy.replace("_", "-")
    name, warm_up = f"grpo-after-sft-{'exact-' if is_exact else ''}{ending}", f"warm-up-{ending}"
    own = (f"--prompt.strategy={strategy}", *overrides)
    first, start = plan_warm_up("demo", out / warm_up, (*own, WARM_UP))
    exact = (EXACT,) if is_exact else ()
    return TableRow(
        name=name,
        title="GRPO after SFT, exact" if is_exact else "GRPO after SFT",
        strategy=strategy,
        questions=questions,
        commands=(first, *plan_commands("demo", out / name, (*own, start, *exact), verb="train")),
    )


def lift(row: TableRow, rows: Sequence[TableRow], records: Mapping[str, Sequence[Record]], modalities: Collection[str]) -> PairedDifference:
    """A trained row minus the zero-shot row of the same strategy, on the questions of `modalities`."""
    zero_shot = next(other for other in rows if other.title == "zero-shot" and other.strategy == row.strategy)
    before, after = ([record for record in records[name] if record.modality in modalities] for name in (zero_shot.name, row.name))
    return paired_difference(before, after, UNIT)
