"""Which way to train still looks at the image, where the text of the options gives the answer of some training questions away.

    python benchmarks/shortcuts.py [--out runs/shortcuts] [--seeds 0,1,2] [--strengths 0,0.5,0.9] [--only sft,sampled,exact]

Run it from the root of the repository. The demo's recipe, No-Think, with `--data.options.shortcut` for training. The test
questions are MRI phantoms, and each policy answers them five times: clean, clean with a swapped and with a blank image, and with the
shortcut on the right and on a wrong option. Finished rows are not run again. Writes `results.json`, the table of docs/learning.md as
Markdown, and its plot.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from osler.config import load_config
from osler.data.phantom import build_samples
from osler.data.phantom.shortcut import QUALIFIER
from osler.evaluation.compare import UNIT
from osler.evaluation.records import read_records
from osler.experiments.jobs import Job, plan_commands, run_jobs
from osler.files import write_json, write_whole
from osler.metrics import DASH, Estimate, accuracy, cluster, is_correct, paired_difference, percent, points
from osler.metrics.clusters import clustered_mean, clustered_proportion
from osler.metrics.estimates import NO_ESTIMATE, Z
from osler.metrics.paired import by_sample
from osler.reports.figures import PALETTE
from osler.taxonomy import Modality, Split
from osler.types import LETTERS, Record, Sample

NUM_TEST: Final = 600
ZERO_SHOT, BASE = "zero-shot", "exact"
SWAPPED, BLANK = "swap_within", "blank"
MARKS: Final = ("right", "wrong")
SETS: Final = ("clean", SWAPPED, BLANK, *MARKS)
"""How the test questions are asked."""
Answers = Mapping[str, Sequence[Record]]
"""The records of one row by how the questions were asked, all seeds together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to train."""

    title: str
    colour: str
    verb: str | None = "train"
    overrides: tuple[str, ...] = ()


EXACT: Final = ("--trainer.expectation=enumerated",)
SETTINGS: Final[Mapping[str, Setting]] = {
    ZERO_SHOT: Setting(title="zero-shot", colour="#000000", verb=None),
    "sft": Setting(title="SFT", colour=PALETTE[6], verb="sft"),
    "sampled": Setting(title="GRPO, sampled", colour=PALETTE[1]),
    BASE: Setting(title="GRPO, exact", colour=PALETTE[0], overrides=EXACT),
    "looking": Setting(title="GRPO, exact, looking 1", colour=PALETTE[2], overrides=(*EXACT, "--rewards.looking=1")),
}


def marked(
    _root: None = None, *, split: Split | None = None, seed: int = 0, mark: Literal["right", "wrong"] = "right", num: int = NUM_TEST
) -> list[Sample]:
    """A reader: MRI questions of the phantom, each with the shortcut's qualifier on its right option or on one wrong option."""
    clean = build_samples(modality=Modality.MRI, split=split or "test", seed=seed, num_questions=num)
    rng = np.random.default_rng(seed)
    found = []
    for sample in clean:
        right = LETTERS.index(sample.target)
        place = (right + rng.integers(1, len(sample.choices))) % len(sample.choices) if mark == "wrong" else right
        choices = tuple(f"{choice}{QUALIFIER}" if number == place else choice for number, choice in enumerate(sample.choices))
        found.append(replace(sample, choices=choices))
    return found


def plan(out: Path, seeds: Sequence[int], names: Sequence[str], strengths: Sequence[float], own: Sequence[str]) -> Iterator[Job]:
    """One job for each seed, strength and setting, the strongest shortcut first. `own` are the user's overrides."""
    for seed in seeds:
        for strength in sorted(strengths, reverse=True):
            for name in names:
                if name == ZERO_SHOT and strength != max(strengths):
                    continue  # it is not trained
                setting, folder = SETTINGS[name], f"{seed}/{strength:g}/{name}"
                shared = (
                    *("--prompt.strategy=no_think", f"--seed={seed}", f"--data.seed={seed}", "--trainer.checkpoint=none"),
                    *("--data.test.modalities=['mri']", f"--data.test.limit_per_modality={NUM_TEST}", *setting.overrides, *own),
                )
                trained = plan_commands("demo", out / folder, [*shared, f"--data.options.shortcut={strength}"], verb=setting.verb)
                commands = [*trained, (*trained[-1], "--ablation", f"{BLANK},{SWAPPED}")]
                policy = trained[-1][trained[-1].index("--policy") :] if setting.verb else ()
                for mark in MARKS:
                    reader = ("--data.reader=benchmarks.shortcuts:marked", f"--data.options.mark={mark}")
                    commands.append(("eval", "demo", "--out", str(out / folder / mark), *shared, *reader, "--label", mark, *policy))
                yield Job(name=folder, commands=tuple(commands))


def read_answers(out: Path, job: Job) -> dict[str, Sequence[Record]]:
    """The records of one job by how the questions were asked."""
    clean = job.records_file(out)
    altered = {name: read_records(clean.with_name(f"{clean.stem}.{name}.jsonl")) for name in (SWAPPED, BLANK)}
    return {
        "clean": read_records(clean),
        **altered,
        **{mark: read_records(out / job.name / mark / f"records/{mark}.jsonl") for mark in MARKS},
    }


def pool(out: Path, jobs: Sequence[Job]) -> dict[tuple[float, str], dict[str, list[Record]]]:
    """(strength, setting) -> its records, all seeds together."""
    pooled: dict[tuple[float, str], dict[str, list[Record]]] = {}
    for job in jobs:
        _, strength, name = job.name.split("/")
        row = pooled.setdefault((float(strength), name), {})
        for asked, records in read_answers(out, job).items():
            row.setdefault(asked, []).extend(records)
    return pooled


def is_misled(record: Record) -> bool:
    """Whether the answer is the option with the qualifier; an answer may be a letter that the question does not have."""
    chosen = [choice for letter, choice in zip(LETTERS, record.choices, strict=False) if letter == record.answer]
    return any(choice.endswith(QUALIFIER) for choice in chosen)


def change_of_gain(before: Answers, after: Answers, over: str) -> Estimate:
    """How much more accuracy the image brings after than before, against the altered image `over`: paired, patients as units."""
    asked = [by_sample(records) for row in (before, after) for records in (row["clean"], row[over])]
    shared = [name for name in asked[2] if all(name in records for records in asked)]
    right = [[is_correct(records[name]) for records in asked] for name in shared]
    changes = [float((late - late_over) - (early - early_over)) for early, early_over, late, late_over in right]
    found = clustered_mean(changes, cluster([asked[2][name] for name in shared], UNIT))
    if found is None:
        return NO_ESTIMATE
    half = Z * sqrt(found.covariance(found))
    return Estimate(value=found.value, low=found.value - half, high=found.value + half)


def summarize(pooled: Mapping[tuple[float, str], Answers]) -> list[dict[str, Any]]:
    """One row for each shortcut and setting, all seeds together; changes are from exact GRPO under the same shortcut."""
    rows = []
    for (strength, name), own in sorted(pooled.items(), key=lambda item: (item[0][0], list(SETTINGS).index(item[0][1]))):
        other = pooled.get((strength, BASE)) if name not in (BASE, ZERO_SHOT) else None
        misled = [is_misled(record) for record in own["wrong"]]
        estimates = {
            "accuracy": accuracy(own["clean"], UNIT),
            "gain_swapped": paired_difference(own[SWAPPED], own["clean"], UNIT).difference,
            "gain_blank": paired_difference(own[BLANK], own["clean"], UNIT).difference,
            "right": accuracy(own["right"], UNIT),
            "wrong": accuracy(own["wrong"], UNIT),
            "misled": clustered_proportion(own["wrong"], misled, UNIT),
            "change_of_accuracy": None if other is None else paired_difference(other["clean"], own["clean"], UNIT).difference,
            "change_of_gain": None if other is None else change_of_gain(other, own, SWAPPED),
        }
        rows.append(
            {
                "shortcut": strength,
                "setting": name,
                "questions": len(own["clean"]),
                **{key: None if one is None else one.to_json() for key, one in estimates.items()},
            }
        )
    return rows


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table, per cent; gains and changes are in points."""
    heads = (
        "shortcut",
        "",
        "clean",
        "minus exact",
        "image gain, swapped",
        "minus exact",
        "image gain, blank",
        "marked right",
        "marked wrong",
    )
    lines = [f"| {' | '.join((*heads, 'takes the marked wrong option'))} |", "|---" * (len(heads) + 1) + "|"]
    for row in rows:
        cells = [
            f"{row['shortcut']:g}" if row["setting"] != ZERO_SHOT else "–",
            *(SETTINGS[row["setting"]].title, percent(row["accuracy"]["value"]), _points(row["change_of_accuracy"])),
            *(_points(row["gain_swapped"]), _points(row["change_of_gain"]), _points(row["gain_blank"])),
            *(percent(row[key]["value"]) for key in ("right", "wrong", "misled")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _points(change: Mapping[str, float] | None) -> str:
    return DASH if change is None else points(Estimate(value=change["value"], low=change["low"], high=change["high"]))


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Image gain over the strength of the shortcut, one line for each way to train, with intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6))
    for number, (name, setting) in enumerate((name, one) for name, one in SETTINGS.items() if any(row["setting"] == name for row in rows)):
        gains = [
            (row["shortcut"], *(100 * row["gain_swapped"][key] for key in ("value", "low", "high")))
            for row in rows
            if row["setting"] == name
        ]
        if setting.verb is None:
            axes.axhline(gains[0][1], color=setting.colour, linestyle=":", linewidth=1, label=setting.title)
            continue
        places = [100 * gain[0] + 1.2 * number for gain in gains]  # side by side, so that no interval hides another
        values = [gain[1] for gain in gains]
        around = [[gain[1] - gain[2] for gain in gains], [gain[3] - gain[1] for gain in gains]]
        axes.errorbar(
            places, values, yerr=around, color=setting.colour, label=setting.title, marker="o", markersize=4, capsize=3, linewidth=1.6
        )
    axes.set_xlabel("training questions with the shortcut, %")
    axes.set_xlim(-5, 105)
    axes.set_ylabel("image gain on clean questions, points")
    axes.grid(color="#e3e7ea")
    axes.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what has not been run, then write results, the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/shortcuts"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--strengths", default="0,0.5,0.9", help="shares of the training questions with the shortcut, by comma")
    parser.add_argument("--only", default=",".join(SETTINGS), help="settings, by comma")
    parser.add_argument("--read", action="store_true", help="run nothing, read what is there")
    parser.add_argument("overrides", nargs="*", help="section.key=value, for every run")
    options = parser.parse_args(arguments)
    seeds, strengths = [int(seed) for seed in options.seeds.split(",")], [float(share) for share in options.strengths.split(",")]
    jobs = list(plan(options.out, seeds, options.only.split(","), strengths, [f"--{value}" for value in options.overrides]))
    if options.read:
        jobs = [job for job in jobs if (options.out / job.name / f"{MARKS[-1]}/records/{MARKS[-1]}.jsonl").is_file()]
    else:
        run_jobs(jobs, options.out, title="shortcuts", terms=load_config("demo", []).to_json())
    rows = summarize(pool(options.out, jobs))
    write_json(options.out / "results.json", rows)
    write_whole(options.out / "tables.md", to_markdown(rows))
    draw(rows, options.out / "shortcuts.png")
    sys.stdout.write(to_markdown(rows))


if __name__ == "__main__":
    main()
