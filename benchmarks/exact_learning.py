"""What expectations in place of samples bring: the demo's questions, three strategies, sampled and exact, as in docs/learning.md.

    python benchmarks/exact_learning.py [--out runs/exact_learning] [--seeds 0,1,2] [--strategies no_think] [--only sampled,exact]

Each row is a list of `osler` commands, as in `osler demo`; finished rows are not run again. Writes `results.json`, the tables of
docs/learning.md as Markdown, and the curves of right answers over steps. Seconds mean something only with nothing else on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from true_reasoning import Groups, pool, read_groups, summarize

from osler.config import load_config
from osler.evaluation.compare import UNIT
from osler.evaluation.truth import truth_difference
from osler.experiments.demo import EXACT, WARM_UP
from osler.experiments.jobs import Job, plan_commands, plan_warm_up, run_jobs
from osler.files import read_json_lines, write_json, write_whole
from osler.metrics import DASH, Estimate, paired_difference, percent, points
from osler.reports.figures import PALETTE
from osler.types import Record

STRATEGIES: Final = {"no_think": "No-Think", "think": "Think", "think_after": "Think-After"}
REASONING: Final = ("think", "think_after")
"""These begin with the demo's 66 steps of SFT, unless they are SFT or untrained."""
IN_DOMAIN, OUT_OF_DOMAIN = ("mri",), ("ct", "xray")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to train."""

    title: str
    colour: str
    verb: str | None = "train"
    overrides: tuple[str, ...] = ()
    is_exact: bool = False
    strategies: tuple[str, ...] = tuple(STRATEGIES)


SETTINGS: Final[Mapping[str, Setting]] = {
    "zero-shot": Setting(title="zero-shot", colour="#000000", verb=None),
    "sft": Setting(title="SFT (log p)", colour=PALETTE[6], verb="sft"),
    "sampled": Setting(title="GRPO, sampled", colour=PALETTE[1]),
    "exact": Setting(title="GRPO, exact (arcsine)", colour=PALETTE[0], is_exact=True),
    "exact-p": Setting(
        title="Dr. GRPO, exact (p)",
        colour=PALETTE[2],
        is_exact=True,
        overrides=("--grpo.scale_rewards=none",),
        strategies=("no_think",),
    ),
    "exact-long": Setting(
        title="GRPO, exact, 3 times the questions",
        colour=PALETTE[3],
        is_exact=True,
        overrides=("--data.train.limit=7200",),
        strategies=("no_think",),
    ),
    "exact-seconds": Setting(
        title="GRPO, exact, as many seconds",  # 118 steps take as long as 100 sampled ones, see docs/learning.md
        colour=PALETTE[3],
        is_exact=True,
        overrides=("--data.train.limit=2832",),
        strategies=("no_think",),
    ),
    "sampled-fast": Setting(
        title="GRPO, sampled, learning rate 2e-4", colour=PALETTE[5], overrides=("--grpo.learning_rate=2e-4",), strategies=("no_think",)
    ),
    "exact-fast": Setting(
        title="GRPO, exact, learning rate 2e-4",
        colour=PALETTE[4],
        is_exact=True,
        overrides=("--grpo.learning_rate=2e-4",),
        strategies=("no_think",),
    ),
    "exact-short": Setting(
        title="GRPO, exact, learning rate 2e-4, 40 steps",
        colour=PALETTE[7],
        is_exact=True,
        overrides=("--grpo.learning_rate=2e-4", "--data.train.limit=960"),
        strategies=("no_think",),
    ),
    "exact-brief": Setting(
        title="GRPO, exact, learning rate 2e-4, 50 steps",
        colour=PALETTE[7],
        is_exact=True,
        overrides=("--grpo.learning_rate=2e-4", "--data.train.limit=1200"),
        strategies=("think",),
    ),
    "exact-half": Setting(
        title="GRPO, exact letters, 4 completions",
        colour=PALETTE[4],
        is_exact=True,
        overrides=("--grpo.num_generations=4", "--grpo.per_device_train_batch_size=96"),
        strategies=("think",),
    ),
}


UNDRAWN: Final = ("sampled-fast", "exact-fast", "exact-short", "exact-seconds", "exact-brief")
SMOOTHED: Final = 15


def plan(out: Path, seeds: Sequence[int], names: Sequence[str], strategies: Sequence[str], own: Sequence[str]) -> Iterator[Job]:
    """One job for each seed, setting and strategy, in an order in which seed 0 comes first. `own` are the user's overrides."""
    for seed in seeds:
        for name, setting in ((name, setting) for name, setting in SETTINGS.items() if name in names):
            for strategy in (strategy for strategy in strategies if strategy in setting.strategies):
                folder = f"{seed}/{name}-{strategy}"
                shared: tuple[str, ...] = (f"--prompt.strategy={strategy}", f"--data.seed={seed}", f"--seed={seed}", *own)
                commands: list[tuple[str, ...]] = []
                if setting.verb == "train" and strategy in REASONING:
                    first, start = plan_warm_up("demo", out / f"{seed}/warm-up-of-{name}-{strategy}", (*shared, WARM_UP))
                    commands.append(first)
                    shared = (*shared, start)
                exact = (EXACT,) if setting.is_exact else ()
                commands += plan_commands("demo", out / folder, [*shared, *setting.overrides, *exact], verb=setting.verb)
                yield Job(name=folder, commands=tuple(commands))


def read_seconds(out: Path, jobs: Sequence[Job]) -> dict[tuple[str, str], float]:
    """(setting, strategy) -> the mean over seeds of the seconds of training, without the SFT before it."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for job in jobs:
        setting, _, strategy = job.name.partition("/")[2].rpartition("-")
        steps = read_json_lines(out / job.name / "metrics.jsonl")
        if steps:
            seconds.setdefault((setting, strategy), []).append(max(float(step["time_s"]) for step in steps))
    return {key: statistics.mean(values) for key, values in seconds.items()}


def compare(groups: Groups, strategy: str, setting: str, other: str) -> dict[str, Estimate | None]:
    """`setting` minus `other`, paired, images as units: accuracy in and out of the domain, and true reasonings in it."""
    before, after = groups.get((other, strategy), []), groups.get((setting, strategy), [])

    def of(records: Sequence[Record], modalities: Sequence[str]) -> list[Record]:
        return [record for record in records if record.modality in modalities]

    truth = truth_difference(of(before, IN_DOMAIN), of(after, IN_DOMAIN))
    return {
        "in_domain": paired_difference(of(before, IN_DOMAIN), of(after, IN_DOMAIN), UNIT).difference,
        "out_of_domain": paired_difference(of(before, OUT_OF_DOMAIN), of(after, OUT_OF_DOMAIN), UNIT).difference,
        "true_reasonings": None if truth is None else truth.true_reasonings.difference,
    }


def to_markdown(groups: Groups, strategy: str, seconds: Mapping[tuple[str, str], float]) -> str:
    """The table of one strategy, per cent; differences are from the sampled GRPO, in points, paired."""
    heads = ("", "s", "MRI", "minus sampled", "CT", "X-ray", "CT and X-ray minus sampled", "true reasonings", "minus sampled")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in summarize(groups, strategy):
        name = row["setting"]
        changes = compare(groups, strategy, name, "sampled")
        truth = row["truth"]["in_domain"]
        accuracies = [percent(row["accuracy"][modality]["value"]) for modality in ("mri", "ct", "xray")]
        differences = ["–" if name == "sampled" else _points(changes[part]) for part in ("in_domain", "out_of_domain", "true_reasonings")]
        cells = [
            *(SETTINGS[name].title, f"{seconds[name, strategy]:.0f}" if (name, strategy) in seconds else "–"),
            *(accuracies[0], differences[0], *accuracies[1:], differences[1]),
            *("–" if truth is None else percent(truth["true_reasonings"]["value"]), differences[2]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _points(change: Estimate | None) -> str:
    return DASH if change is None else points(change)


def draw(out: Path, jobs: Sequence[Job], path: Path) -> None:
    """Right answers over steps of training, the mean over seeds and the last SMOOTHED steps, of each setting with the recipe's rate."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(STRATEGIES), figsize=(11, 3.8), sharey=True)
    for panel, (strategy, title) in zip(axes, STRATEGIES.items(), strict=True):
        for name, setting in ((name, setting) for name, setting in SETTINGS.items() if name not in UNDRAWN):
            own = [job for job in jobs if job.name.partition("/")[2] == f"{name}-{strategy}"]
            logs = [[step for step in read_json_lines(out / job.name / "metrics.jsonl") if "rewards/accuracy/mean" in step] for job in own]
            logs = [steps for steps in logs if steps]
            if not logs:
                continue
            steps = [*zip(*logs, strict=False)]
            rewards = [100 * statistics.mean(float(one["rewards/accuracy/mean"]) for one in same) for same in steps]
            smooth = [statistics.mean(rewards[max(0, end - SMOOTHED) : end]) for end in range(1, len(rewards) + 1)]
            panel.plot(range(1, len(rewards) + 1), smooth, color=setting.colour, label=setting.title, linewidth=1.6)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("training step")
        panel.grid(color="#e3e7ea")
    axes[0].set_ylabel("right answers in training, %")
    handles = {label: handle for panel in axes for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=3, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what has not been run, then write results, tables and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/exact_learning"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--only", default=",".join(SETTINGS), help="settings, by comma")
    parser.add_argument("--read", action="store_true", help="run nothing, read what is there")
    parser.add_argument("overrides", nargs="*", help="section.key=value, for every run")
    options = parser.parse_args(arguments)
    seeds, overrides = [int(seed) for seed in options.seeds.split(",")], [f"--{value}" for value in options.overrides]
    jobs = list(plan(options.out, seeds, options.only.split(","), options.strategies.split(","), overrides))
    if not options.read:
        run_jobs(jobs, options.out, title="exact learning", terms=load_config("demo", []).to_json())
    by_seed = read_groups(options.out, jobs)
    pooled, seconds = pool(by_seed.values()), read_seconds(options.out, jobs)
    tables = []
    for strategy, title in STRATEGIES.items():
        tables.append(f"## {title}\n\n{to_markdown(pooled, strategy, seconds)}\n")
        for seed, groups in by_seed.items():
            own = read_seconds(options.out, [job for job in jobs if job.name.startswith(f"{seed}/")])
            tables.append(f"### {title}, seed {seed}\n\n{to_markdown(groups, strategy, own)}\n")
    write_json(options.out / "results.json", {strategy: summarize(pooled, strategy) for strategy in STRATEGIES})
    write_whole(options.out / "tables.md", "\n".join(tables))
    draw(options.out, jobs, options.out / "learning_steps.png")
    sys.stdout.write("\n".join(table for table in tables if table.startswith("## ")))


if __name__ == "__main__":
    main()
