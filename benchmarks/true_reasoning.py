"""What keeps reasoning true: every setting of docs/reasoning.md, trained and tested on the demo's questions, over several seeds.

    python benchmarks/true_reasoning.py [--out runs/true_reasoning] [--seeds 0,1,2] [--only grpo,grpo-statements]

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
from osler.experiments.jobs import Job, plan_commands, plan_warm_up, run_jobs
from osler.files import read_json_lines, write_json, write_whole
from osler.metrics import accuracy, mean, percent
from osler.reports.figures import PALETTE, moving_average
from osler.types import Record

STRATEGIES: Final = ("think", "think_after")
MATTERS_STRATEGIES: Final = ("think",)  # an answer before the reasoning cannot follow it
WARM_UP_QUESTIONS: Final = 640  # 20 steps of SFT

LOGGED_REWARDS: Final = ("accuracy", "statements")
_LOGGED: Final = "--rewards.names=['accuracy', 'format', 'statements']"
ANSWER_ALONE: Final = (_LOGGED, "--rewards.weights=[1, 1, 0]")  # weight 0: logged in every step, without effect
STATEMENTS: Final = (_LOGGED, "--rewards.weights=[1, 1, 1]")
MATTERS: Final = ("--rewards.names=['accuracy', 'format', 'statements', 'reasoning_matters']", "--rewards.weights=[1, 1, 0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to train: the command, the overrides, and whether a short SFT comes first."""

    title: str
    verb: str | None  # "train", "sft", None for no training
    overrides: tuple[str, ...] = ()
    warm_up: bool = False
    strategies: tuple[str, ...] = STRATEGIES


SETTINGS: Final[Mapping[str, Setting]] = {
    "zero-shot": Setting(title="zero-shot", verb=None),
    "sft": Setting(title="SFT", verb="sft"),
    "grpo": Setting(title="GRPO, answer reward alone", verb="train", overrides=ANSWER_ALONE),
    "grpo-kl-0.04": Setting(title="GRPO, beta 0.04", verb="train", overrides=(*ANSWER_ALONE, "--grpo.beta=0.04")),
    "grpo-kl-0.2": Setting(title="GRPO, beta 0.2", verb="train", overrides=(*ANSWER_ALONE, "--grpo.beta=0.2")),
    "grpo-matters": Setting(title="GRPO, reasoning_matters", verb="train", overrides=MATTERS, strategies=MATTERS_STRATEGIES),
    "grpo-statements": Setting(title="GRPO, statements", verb="train", overrides=STATEMENTS),
    "grpo-statements-kl-0.04": Setting(title="GRPO, statements, beta 0.04", verb="train", overrides=(*STATEMENTS, "--grpo.beta=0.04")),
    "sft-grpo": Setting(title="SFT of 20 steps, then GRPO", verb="train", overrides=ANSWER_ALONE, warm_up=True),
    "sft-grpo-statements": Setting(title="SFT of 20 steps, then GRPO, statements", verb="train", overrides=STATEMENTS, warm_up=True),
}


def plan(out: Path, seeds: Sequence[int], names: Sequence[str], overrides: Sequence[str]) -> Iterator[Job]:
    """One job for each seed, setting and strategy, in an order in which seed 0 comes first."""
    for seed in seeds:
        for name in names:
            setting = SETTINGS[name]
            for strategy in setting.strategies:
                folder = f"{seed}/{name}-{strategy}"
                shared = (f"--prompt.strategy={strategy}", f"--data.seed={seed}", *overrides)
                commands: list[tuple[str, ...]] = []
                if setting.warm_up:
                    first, start = plan_warm_up("demo", out / f"{seed}/warm-up-of-{name}-{strategy}", shared, WARM_UP_QUESTIONS)
                    commands.append(first)
                    shared = (*shared, start)
                commands += plan_commands("demo", out / folder, [*shared, *setting.overrides], verb=setting.verb)
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


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of one strategy, per cent; the changes are in points, paired with zero-shot."""
    heads = (
        *("", "accuracy MRI", "change", "CT", "X-ray", "true reasonings MRI", "change", "CT and X-ray"),
        *("right, false reason", "right, no reason", "distinct"),
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        inside, outside = row["truth"]["in_domain"], row["truth"]["out_of_domain"]
        cells = [
            SETTINGS[row["setting"]].title,
            *(
                _percent(row["accuracy"]["mri"]),
                _change(row, "accuracy"),
                _percent(row["accuracy"]["ct"]),
                _percent(row["accuracy"]["xray"]),
            ),
            *(_percent(inside["true_reasonings"]), _change(row, "true_reasonings"), _percent(outside["true_reasonings"])),
            *(_percent(inside["right_for_false_reason"]), _percent(inside["right_for_no_reason"]), str(inside["distinct_reasonings"])),
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
    """(setting, strategy) -> the logged rewards of every step, as the mean over seeds."""
    runs: dict[tuple[str, str], list[list[dict[str, Any]]]] = {}
    for job in jobs:
        steps = [step for step in read_json_lines(out / job.name / "metrics.jsonl") if f"rewards/{LOGGED_REWARDS[0]}/mean" in step]
        if steps:
            runs.setdefault(_split_name(job.name.partition("/")[2]), []).append(steps)
    curves = {}
    for key, logs in runs.items():
        length = min(map(len, logs))
        curves[key] = {
            name: [float(mean([log[step][f"rewards/{name}/mean"] for log in logs]) or 0.0) for step in range(length)]
            for name in LOGGED_REWARDS
        }
    return curves


def draw(results: Mapping[str, Any], curves: Mapping[tuple[str, str], Mapping[str, Sequence[float]]], folder: Path) -> None:
    """The two plots: rewards over training steps, and truth against accuracy for all settings."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    colours = dict(zip(SETTINGS, [*PALETTE, "#000000", "#8c564b"], strict=False))
    figure, axes = plt.subplots(len(STRATEGIES), 2, figsize=(9, 6.5), sharex=True, sharey="col")
    for row, strategy in enumerate(STRATEGIES):
        for column, (name, title) in enumerate(
            zip(LOGGED_REWARDS, ("right answers (reward accuracy)", "truth (reward statements)"), strict=True)
        ):
            panel = axes[row][column]
            for (setting, of_strategy), curve in curves.items():
                if of_strategy == strategy:
                    panel.plot(moving_average(curve[name]), color=colours[setting], label=SETTINGS[setting].title, linewidth=1.4)
            panel.set_title(f"{strategy}: {title}", fontsize=9)
            panel.grid(color="#e3e7ea")
    for panel in axes[-1]:
        panel.set_xlabel("training step")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(folder / "reasoning_steps.png", dpi=120)
    plt.close(figure)

    figure, panels = plt.subplots(1, len(STRATEGIES), figsize=(9, 4.4), sharex=True, sharey=True)
    for panel, strategy in zip(panels, STRATEGIES, strict=True):
        for result in results[strategy]:
            share, truth = result["accuracy"]["mri"]["value"], result["truth"]["in_domain"]["true_reasonings"]["value"]
            panel.scatter(100 * share, 100 * truth, color=colours[result["setting"]], s=48, label=SETTINGS[result["setting"]].title)
        panel.set_title(strategy, fontsize=9)
        panel.set_xlabel("accuracy on MRI, %")
        panel.grid(color="#e3e7ea")
    panels[0].set_ylabel("true reasonings on MRI, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.2, 1, 1))
    figure.savefig(folder / "reasoning_truth.png", dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what has not been run, then write results, tables and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/true_reasoning"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default=",".join(SETTINGS), help="settings, by comma")
    parser.add_argument("--read", action="store_true", help="run nothing, read what is there")
    parser.add_argument("overrides", nargs="*", help="section.key=value, for every run")
    options = parser.parse_args(arguments)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    jobs = list(plan(options.out, seeds, options.only.split(","), [f"--{value}" for value in options.overrides]))
    if not options.read:
        run_jobs(jobs, options.out, title="true reasoning", terms=load_config("demo", []).to_json())
    groups = read_groups(options.out, jobs)
    pooled = pool(groups.values())
    results: dict[str, Any] = {strategy: summarize(pooled, strategy) for strategy in STRATEGIES}
    results["seeds"] = {seed: {strategy: summarize(own, strategy) for strategy in STRATEGIES} for seed, own in groups.items()}
    write_json(options.out / "results.json", results)
    tables = [f"## {strategy}\n\n{to_markdown(results[strategy])}\n" for strategy in STRATEGIES]
    for seed in groups:
        tables += [f"## {strategy}, seed {seed}\n\n{to_markdown(results['seeds'][seed][strategy])}\n" for strategy in STRATEGIES]
    write_whole(options.out / "tables.md", "\n".join(tables))
    draw(results, read_curves(options.out, jobs), options.out)
    sys.stdout.write("\n".join(tables[: len(STRATEGIES)]))


if __name__ == "__main__":
    main()
