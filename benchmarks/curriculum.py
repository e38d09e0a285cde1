"""What choosing questions is worth: the demo's GRPO phase, No-Think, with every mixture and curriculum, at equal steps.

    python benchmarks/curriculum.py [--out runs/curriculum] [--seeds 0,1,2] [--steps 100] [--modalities mri,ct,oct]
    python benchmarks/curriculum.py --only default,variance data.options.num=9600 data.train.limit=9600

Run it from the root of the repository. The training questions are phantoms, 2,400 in all, with the shares of OmniMedVQA's modalities; the
test questions are 300 of each modality. Each row is two `osler` commands, and finished rows are not run again. Writes `results.json`, and
`tables.md` with a table of all seeds together: accuracy by modality, the change of their mean against the default, paired, and the share of
groups without advantage during training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from osler.data.phantom import build_samples
from osler.evaluation.compare import UNIT
from osler.evaluation.records import read_records
from osler.experiments.jobs import Job, plan_commands, run_jobs
from osler.files import read_json_lines, write_json, write_whole
from osler.metrics import accuracy, mean, paired_difference, percent
from osler.taxonomy import SPLITS, Modality, Split, parse_modality
from osler.types import Record, Sample

QUESTIONS: Final[Mapping[Modality, int]] = {  # of OmniMedVQA, open access
    Modality.CT: 15_808,
    Modality.MRI: 31_877,
    Modality.XRAY: 7_916,
    Modality.ULTRASOUND: 10_991,
    Modality.DERMOSCOPY: 6_679,
    Modality.FUNDUS: 5_398,
    Modality.OCT: 4_646,
    Modality.MICROSCOPY: 5_680,
}
NUM_TRAIN: Final = 2_400
NUM_TEST: Final = 300
DEFAULT: Final = "default"
SETTINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "zero-shot": (),
    DEFAULT: (),
    "temperature": ("--data.mixture=temperature",),
    "balanced": ("--data.mixture=balanced",),
    "variance": ("--data.curriculum=variance",),
    "balanced-variance": ("--data.mixture=balanced", "--data.curriculum=variance"),
}
"""The overrides of each row; the first trains nothing."""

NO_ADVANTAGE: Final = "frac_reward_zero_std"


def uneven(
    _root: None = None, *, split: Split | None = None, seed: int = 0, modalities: Sequence[str] = (), num: int = NUM_TRAIN
) -> list[Sample]:
    """A reader: phantoms of these modalities, `num` training questions in the shares of OmniMedVQA, and NUM_TEST of each for the others."""
    chosen = [parse_modality(name) for name in modalities] or list(Modality)
    total = sum(QUESTIONS[modality] for modality in chosen)
    return [
        sample
        for part in ((split,) if split else SPLITS)
        for modality in chosen
        for sample in build_samples(
            modality=modality,
            split=part,
            seed=seed,
            num_questions=round(num * QUESTIONS[modality] / total) if part == "train" else NUM_TEST,
        )
    ]


def plan(out: Path, seeds: Sequence[int], names: Sequence[str], modalities: Sequence[str], steps: int, own: Sequence[str]) -> Iterator[Job]:
    """One job for each seed and setting. `own` are the user's overrides."""
    shared = (
        *("--prompt.strategy=no_think", "--data.reader=benchmarks.curriculum:uneven", f"--data.options.modalities={list(modalities)}"),
        *("--data.train.modalities=[]", "--data.test.modalities=[]", f"--data.train.limit={NUM_TRAIN}", f"--grpo.max_steps={steps}"),
        *("--rewards.names=['accuracy', 'format']", "--rewards.weights=[1, 1]", "--trainer.checkpoint=none"),
    )
    for seed in seeds:
        for name in names:
            folder = f"{seed}/{name}"
            overrides = [*shared, f"--seed={seed}", f"--data.seed={seed}", *SETTINGS[name], *own]
            verb = None if name == "zero-shot" else "train"
            yield Job(name=folder, commands=plan_commands("demo", out / folder, overrides, verb=verb))


def summarize(out: Path, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """One row for each setting, all seeds together."""
    records: dict[str, list[Record]] = {}
    shares: dict[str, list[float]] = {}
    for job in jobs:
        name = job.name.partition("/")[2]
        records.setdefault(name, []).extend(read_records(job.records_file(out)))
        lines = read_json_lines(out / job.name / "metrics.jsonl")
        shares.setdefault(name, []).extend(line[NO_ADVANTAGE] for line in lines if NO_ADVANTAGE in line)
    rows = []
    for name, found in records.items():
        of_modality = {one: [record for record in found if record.modality == one] for one in dict.fromkeys(row.modality for row in found)}
        change = paired_difference(records[DEFAULT], found, UNIT).difference if name != DEFAULT and DEFAULT in records else None
        rows.append(
            {
                "setting": name,
                "accuracy": {str(one): accuracy(own, UNIT).to_json() for one, own in of_modality.items()},
                "mean": accuracy(found, UNIT).to_json(),
                "change": change.to_json() if change else None,
                "without_advantage": mean(shares[name]),
            }
        )
    return rows


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of all settings, per cent; the change is in points."""
    modalities = list(rows[0]["accuracy"])
    lines = [f"| | {' | '.join(modalities)} | mean | change | groups without advantage |", "|---" * (len(modalities) + 4) + "|"]
    for row in rows:
        change = "–"
        if row["change"] is not None:
            change = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * row["change"][key] for key in ("value", "low", "high")))
        shares = [row["accuracy"][one]["value"] for one in modalities] + [row["mean"]["value"]]
        lines.append(f"| {' | '.join([row['setting'], *map(percent, shares), change, percent(row['without_advantage'])])} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what has not been run, then write results and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/curriculum"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--modalities", default=",".join(Modality))
    parser.add_argument("--only", default=",".join(SETTINGS), help="settings, by comma")
    parser.add_argument("overrides", nargs="*", help="section.key=value, for every run")
    options = parser.parse_args(arguments)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    own = [f"--{value}" for value in options.overrides]
    jobs = list(plan(options.out, seeds, options.only.split(","), options.modalities.split(","), options.steps, own))
    run_jobs(jobs, options.out, title="curriculum")
    rows = summarize(options.out, jobs)
    write_json(options.out / "results.json", rows)
    write_whole(options.out / "tables.md", to_markdown(rows))
    sys.stdout.write(to_markdown(rows))


if __name__ == "__main__":
    main()
