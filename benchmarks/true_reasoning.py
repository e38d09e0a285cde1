"""What keeps reasoning true: every setting of docs/reasoning.md, trained and tested on the demo's questions or on SLAKE's.

    python benchmarks/true_reasoning.py [--out runs/true_reasoning] [--seeds 0,1,2] [--only grpo,grpo-statements]
    python benchmarks/true_reasoning.py --recipe slake --strategies think --seeds 0 data.root=DIR

Each row is a list of `osler` commands, as in `osler demo`; finished rows are not run again. Writes `results.json`, the tables of
docs/reasoning.md as Markdown, and its two plots.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from osler.config import load_config
from osler.evaluation.compare import UNIT
from osler.evaluation.records import read_records
from osler.evaluation.truth import measure_truth, truth_difference
from osler.experiments.demo import WARM_UP
from osler.experiments.jobs import Job, plan_commands, plan_warm_up, run_jobs
from osler.files import read_json_lines, write_json, write_whole
from osler.metrics import accuracy, mean, percent
from osler.reports.figures import PALETTE, moving_average
from osler.types import Record

STRATEGIES: Final = {"think": "Think", "think_after": "Think-After"}
ONLY_THINK: Final = ("think",)
"""`reasoning_matters` needs it, because an answer before the reasoning cannot follow it; the KL coefficients have it to save time."""

SHARED: Final[Mapping[str, tuple[str, ...]]] = {  # overrides of every command, by recipe
    "demo": (),
    "slake": ("--data.rationales=facts", "--sampling.max_completion_length=80", "--eval.max_completion_length=80", "--grpo.beta=0.04"),
}
WARM_UPS: Final[Mapping[str, str]] = {"demo": WARM_UP, "slake": "--sft.max_steps=200"}  # 66 steps, and 200 of 8 questions

LOGGED: Final = {"rewards/accuracy/mean": "right answers", "statements/true_reasonings": "true reasonings"}
LINES: Final = {"o": "-", "^": "--", "s": ":", "D": "-", "X": "-"}  # of the settings with that marker
MAX_RIGHT_FOR_FALSE_REASON: Final = 0.2  # of the right answers
_LOGGED: Final = "--rewards.names=['accuracy', 'format', 'statements']"
ANSWER_ALONE: Final = (_LOGGED, "--rewards.weights=[1, 1, 0]")  # weight 0: logged in every step, without effect
STATEMENTS: Final = (_LOGGED, "--rewards.weights=[1, 1, 2]")
MATTERS: Final = ("--rewards.names=['accuracy', 'format', 'statements', 'reasoning_matters']", "--rewards.weights=[1, 1, 0, 2]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to train: the command, the overrides, and whether a short SFT comes first."""

    title: str
    colour: str
    marker: str = "o"  # of the scatter plot; the line style follows
    verb: str | None  # "train", "sft", None for no training
    overrides: tuple[str, ...] = ()
    warm_up: bool = False
    strategies: tuple[str, ...] = tuple(STRATEGIES)


SETTINGS: Final[Mapping[str, Setting]] = {  # one colour for each way to train, one marker for each KL coefficient
    "zero-shot": Setting(title="zero-shot", colour="#000000", marker="X", verb=None),
    "sft": Setting(title="SFT", colour=PALETTE[6], marker="D", verb="sft"),
    "grpo": Setting(title="GRPO, answer reward alone", colour=PALETTE[1], verb="train", overrides=ANSWER_ALONE),
    "grpo-kl-0": Setting(
        title="GRPO, answer reward alone, beta 0",
        colour=PALETTE[1],
        marker="^",
        verb="train",
        overrides=(*ANSWER_ALONE, "--grpo.beta=0.0"),
        strategies=ONLY_THINK,
    ),
    "grpo-kl-0.2": Setting(
        title="GRPO, answer reward alone, beta 0.2",
        colour=PALETTE[1],
        marker="s",
        verb="train",
        overrides=(*ANSWER_ALONE, "--grpo.beta=0.2"),
        strategies=ONLY_THINK,
    ),
    "grpo-matters": Setting(title="GRPO, reasoning_matters", colour=PALETTE[3], verb="train", overrides=MATTERS, strategies=ONLY_THINK),
    "grpo-statements": Setting(title="GRPO, statements", colour=PALETTE[2], verb="train", overrides=STATEMENTS),
    "sft-grpo": Setting(
        title="SFT first, GRPO, answer reward alone", colour=PALETTE[5], verb="train", overrides=ANSWER_ALONE, warm_up=True
    ),
    "sft-grpo-statements": Setting(
        title="SFT first, GRPO, statements", colour=PALETTE[0], verb="train", overrides=STATEMENTS, warm_up=True
    ),
}
"""Beta is the recipe's, 0.04 in the demo, where a title names no other."""


def plan(
    recipe: str, out: Path, seeds: Sequence[int], names: Sequence[str], strategies: Sequence[str], own: Sequence[str]
) -> Iterator[Job]:
    """One job for each seed, setting and strategy, in an order in which seed 0 comes first. `own` are the user's overrides."""
    for seed in seeds:
        for name, setting in ((name, setting) for name, setting in SETTINGS.items() if name in names):
            for strategy in (strategy for strategy in strategies if strategy in setting.strategies):
                folder = f"{seed}/{name}-{strategy}"
                shared = (f"--prompt.strategy={strategy}", f"--data.seed={seed}", *SHARED[recipe], *own)
                commands: list[tuple[str, ...]] = []
                if setting.warm_up:
                    folder_of_warm_up = out / f"{seed}/warm-up-of-{name}-{strategy}"
                    first, start = plan_warm_up(recipe, folder_of_warm_up, (*shared, WARM_UPS[recipe]))
                    commands.append(first)
                    shared = (*shared, start)
                commands += plan_commands(recipe, out / folder, [*shared, *setting.overrides], verb=setting.verb)
                yield Job(name=folder, commands=tuple(commands))


Groups = Mapping[tuple[str, str], list[Record]]
"""(setting, strategy) -> the records of one seed or of all; a sample's id holds its seed, so no two are of one question."""


def read_groups(out: Path, jobs: Sequence[Job]) -> dict[int, Groups]:
    """The records of finished jobs, by seed."""
    groups: dict[int, dict[tuple[str, str], list[Record]]] = {}
    for job in jobs:
        seed, _, name = job.name.partition("/")
        if job.records_file(out).exists():
            groups.setdefault(int(seed), {})[_split_name(name)] = list(read_records(job.records_file(out)))
    return dict(groups)


def pool(groups: Iterable[Groups]) -> Groups:
    """The records of several seeds together."""
    pooled: dict[tuple[str, str], list[Record]] = {}
    for one in groups:
        for key, records in one.items():
            pooled.setdefault(key, []).extend(records)
    return pooled


def _split_name(name: str) -> tuple[str, str]:
    """ "grpo-statements-think_after" -> ("grpo-statements", "think_after")."""
    setting, _, strategy = name.rpartition("-")
    return setting, strategy


def summarize(groups: Groups, strategy: str) -> list[dict[str, Any]]:
    """One row for each setting: accuracy by domain, truth in and out of the domain, and the paired changes from zero-shot."""
    before = groups.get(("zero-shot", strategy), [])
    rows = []
    for (setting, of_strategy), records in groups.items():
        if of_strategy != strategy:
            continue
        shares = {name: accuracy(_of(records, name), UNIT).to_json() for name in ("mri", "ct", "xray")}
        truths = {"in_domain": _truth(_of(records, "mri")), "out_of_domain": _truth(_of(records, "ct", "xray"))}
        change = None if setting == "zero-shot" else truth_difference(_of(before, "mri"), _of(records, "mri"))
        rows.append({"setting": setting, "accuracy": shares, "truth": truths, "change": change.to_json() if change else None})
    return rows


def _of(records: Sequence[Record], *modalities: str) -> list[Record]:
    return [record for record in records if record.modality in modalities]


def _truth(records: Sequence[Record]) -> dict[str, Any] | None:
    truth = measure_truth(records)
    return None if truth is None else truth.to_json()


def meets(row: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether accuracy on MRI rises with an interval above zero and truth does not fall below zero-shot's, without the signs of decay."""
    own, first = row["truth"]["in_domain"], before["truth"]["in_domain"]
    return bool(
        row["change"]["accuracy"]["low"] > 0
        and own["true_reasonings"]["value"] >= first["true_reasonings"]["value"]
        and own["right_for_false_reason"]["value"] <= MAX_RIGHT_FOR_FALSE_REASON
        and 2 * own["distinct_reasonings"] >= first["distinct_reasonings"]
    )


def count_meeting(seeds: Mapping[int, Mapping[str, Sequence[Mapping[str, Any]]]], strategy: str) -> dict[str, str]:
    """Setting -> "2 of 3": the seeds in which it meets all four conditions of `meets`."""
    met: dict[str, list[bool]] = {}
    for results in seeds.values():
        rows = {row["setting"]: row for row in results[strategy]}
        for name, row in rows.items():
            if row["change"] is not None:
                met.setdefault(name, []).append(meets(row, rows["zero-shot"]))
    return {name: f"{sum(answers)} of {len(answers)}" for name, answers in met.items()}


def to_markdown(rows: Sequence[Mapping[str, Any]], met: Mapping[str, str]) -> str:
    """The table of one strategy, per cent; the changes are in points, paired with zero-shot."""
    heads = (
        *("", "accuracy MRI", "change", "CT", "X-ray", "true reasonings MRI", "change", "CT and X-ray"),
        *("right, false reason", "right, no reason", "distinct", "checked", "seeds that hold"),
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        inside, outside = row["truth"]["in_domain"], row["truth"]["out_of_domain"]
        accuracies = [_percent(row["accuracy"][name]) for name in ("mri", "ct", "xray")]
        cells = [
            *(SETTINGS[row["setting"]].title, accuracies[0], _change(row, "accuracy"), *accuracies[1:]),
            *(_percent(inside["true_reasonings"]), _change(row, "true_reasonings"), _percent(outside["true_reasonings"])),
            *(_percent(inside["right_for_false_reason"]), _percent(inside["right_for_no_reason"])),
            *(str(inside["distinct_reasonings"]), str(inside["checked_statements"]), met.get(row["setting"], "–")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(share: Mapping[str, float | None]) -> str:
    return percent(share["value"])


def _change(row: Mapping[str, Any], name: str) -> str:
    if row["change"] is None or (part := row["change"][name])["value"] is None:
        return "–"
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * part[key] for key in ("value", "low", "high")))


def read_curves(out: Path, jobs: Sequence[Job]) -> dict[tuple[str, str], dict[str, list[float]]]:
    """(setting, strategy) -> the logged measures of every step, as the mean over seeds."""
    runs: dict[tuple[str, str], list[list[dict[str, Any]]]] = {}
    for job in jobs:
        steps = [step for step in read_json_lines(out / job.name / "metrics.jsonl") if all(name in step for name in LOGGED)]
        if steps:
            runs.setdefault(_split_name(job.name.partition("/")[2]), []).append(steps)
    return {
        key: {name: [float(mean([step[name] for step in steps]) or 0.0) for steps in zip(*logs, strict=False)] for name in LOGGED}
        for key, logs in runs.items()
    }


def draw(results: Mapping[str, Any], curves: Mapping[tuple[str, str], Mapping[str, Sequence[float]]], folder: Path) -> None:
    """The two plots: accuracy and truth over training steps, and truth against accuracy for all settings."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    strategies = [strategy for strategy in STRATEGIES if results[strategy]]
    figure, axes = plt.subplots(len(strategies), len(LOGGED), figsize=(9, 1.4 + 2.7 * len(strategies)), sharex=True, squeeze=False)
    for panels, strategy in zip(axes, strategies, strict=True):
        for panel, (name, title) in zip(panels, LOGGED.items(), strict=True):
            for (setting, of_strategy), curve in curves.items():
                if of_strategy == strategy:
                    own = SETTINGS[setting]
                    values = [100 * value for value in moving_average(curve[name])]
                    panel.plot(values, color=own.colour, linestyle=LINES[own.marker], label=own.title, linewidth=1.4)
            panel.set_title(f"{STRATEGIES[strategy]}: {title}, %", fontsize=9)
            panel.set_ylim(0, 100)
    for panel in axes[-1]:
        panel.set_xlabel("training step")
    _finish(figure, axes, folder / "reasoning_steps.png")

    figure, axes = plt.subplots(1, len(strategies), figsize=(1 + 4.3 * len(strategies), 4.8), sharex=True, sharey=True, squeeze=False)
    for panel, strategy in zip(axes[0], strategies, strict=True):
        for result in results[strategy]:
            own = SETTINGS[result["setting"]]
            share, truth = result["accuracy"]["mri"]["value"], result["truth"]["in_domain"]["true_reasonings"]["value"]
            panel.scatter(100 * share, 100 * truth, color=own.colour, marker=own.marker, s=52, label=own.title, zorder=2)
        panel.set_title(STRATEGIES[strategy], fontsize=9)
        panel.set_xlabel("accuracy on MRI, %")
    axes[0][0].set_ylabel("true reasonings on MRI, %")
    _finish(figure, axes, folder / "reasoning_truth.png")


def _finish(figure: Any, axes: Any, path: Path) -> None:
    """A grid behind the data, one legend below the panels, and the file."""
    import matplotlib.pyplot as plt

    for panel in axes.flat:
        panel.grid(color="#e3e7ea")
        panel.set_axisbelow(True)
    handles = {label: handle for panel in axes.flat for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=2, fontsize=8, frameon=False)
    rows = -(-len(handles) // 2)
    figure.tight_layout(rect=(0, (0.1 + 0.19 * rows) / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what has not been run, then write results, tables and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=tuple(SHARED), default="demo")
    parser.add_argument("--out", type=Path, default=Path("runs/true_reasoning"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--only", default=",".join(SETTINGS), help="settings, by comma")
    parser.add_argument("--read", action="store_true", help="run nothing, read what is there")
    parser.add_argument("overrides", nargs="*", help="section.key=value, for every run")
    options = parser.parse_args(arguments)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    own = [f"--{value}" for value in options.overrides]
    jobs = list(plan(options.recipe, options.out, seeds, options.only.split(","), options.strategies.split(","), own))
    if not options.read:
        run_jobs(jobs, options.out, title="true reasoning", terms=load_config(options.recipe, []).to_json())
    groups = read_groups(options.out, jobs)
    pooled = pool(groups.values())
    by_seed = {seed: {strategy: summarize(own, strategy) for strategy in STRATEGIES} for seed, own in groups.items()}
    results: dict[str, Any] = {strategy: summarize(pooled, strategy) for strategy in STRATEGIES}
    write_json(options.out / "results.json", {**results, "seeds": by_seed})
    tables = []
    for strategy, title in STRATEGIES.items():
        tables.append(f"## {title}\n\n{to_markdown(results[strategy], count_meeting(by_seed, strategy))}\n")
    for seed, rows in by_seed.items():
        for strategy, title in STRATEGIES.items():
            met = count_meeting({seed: rows}, strategy)
            tables.append(f"## {title}, seed {seed}\n\n{to_markdown(rows[strategy], met)}\n")
    write_whole(options.out / "tables.md", "\n".join(tables))
    draw(results, read_curves(options.out, jobs), options.out)
    sys.stdout.write("\n".join(tables[: len(STRATEGIES)]))


if __name__ == "__main__":
    main()
