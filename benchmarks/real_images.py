"""Does a policy look at real images? SLAKE, VQA-RAD and BCCD: accuracy by question type against blind answers, on unseen images.

    python -m benchmarks.real_images --data FOLDER [--out runs/real_images] [--seeds 0,1,2]

FOLDER holds `slake/` and `vqa_rad/` as their recipes want them, and may hold `bccd/` with counts.csv and images/. All English questions
that have choices are asked, distractors redrawn, options shuffled. The images of all three are divided as `osler split` does it: near
duplicates, turned copies and images of one case stay together, 30 % are for testing. `osler-tiny` is continued on the training images
(`tools.build_tiny.real_images`), and from there trained by SFT, by sampled and by exact GRPO, in equally many steps, for each seed.
Another policy goes the same way with grey images, SFT at its end: with the priors that `osler audit` fits it is what the image gain is
measured against. Finished jobs are not run again; another FOLDER needs another --out. Writes `results.json` and `tables.md`.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osler.audits.baselines import blind_credits
from osler.config import load_config
from osler.data.readers import slake, vqa_rad
from osler.data.readers.make_choices import arrange
from osler.data.select import load_split
from osler.data.splits.make import SplitOptions, split_dataset
from osler.evaluation.ablations import SyntheticImage
from osler.evaluation.compare import UNIT
from osler.evaluation.records import read_records
from osler.experiments.jobs import Job, plan_commands, run_jobs
from osler.files import read_json_object, write_json, write_whole
from osler.images.files import ImageFile
from osler.metrics import Estimate, accuracy, image_gain, paired_difference, percent, points, record_credits
from osler.taxonomy import Modality, QuestionType
from osler.text import fold_words
from osler.types import Record, Sample
from tools.build_tiny.real_images import build_on_images

if TYPE_CHECKING:
    from PIL.Image import Image

READER: Final = "benchmarks.real_images:read"
RECIPE: Final = "slake"
FOLDS: Final = "folds.json"
GREY: Final = "--data.options.grey=true"
SIDE: Final = 112
"""Pixels: the size at which `osler-tiny` sees an image."""
TEST_SHARE: Final = 0.3
ABLATIONS: Final = "blank,swap_within,swap_across"
MIN_SHOWN: Final = 50
"""Kinds with fewer questions are in `results.json` only."""

QUESTIONS_PER_STEP: Final = 24
SHARED: Final = (
    *("--data.train.modalities=[]", "--data.test.modalities=[]", "--data.test.split=test", "--data.options={}"),
    *("--data.distractors=redrawn", "--data.shuffle_options=true", "--prompt.strategy=no_think", "--trainer.checkpoint=none"),
    *(f"--sft.per_device_train_batch_size={QUESTIONS_PER_STEP}", f"--grpo.per_device_train_batch_size={8 * QUESTIONS_PER_STEP}"),
    *(f"--trainer.groups_per_forward={QUESTIONS_PER_STEP}", "--sft.warmup_steps=20", "--grpo.warmup_steps=10", "--eval.batch_size=100"),
    *("--sft.learning_rate=2e-4", "--sft.adam_beta2=0.98", "--grpo.adam_beta2=0.98", "--sft.weight_decay=0.0", "--grpo.weight_decay=0.0"),
)
TITLES: Final = {
    "tiny": "osler-tiny, no real image",
    "zero-shot": "continued, zero-shot",
    "blind": "the same on grey images, SFT",
    "sft": "SFT",
    "sampled": "GRPO, sampled",
    "exact": "GRPO, exact",
}
UNTRAINED: Final = ("tiny", "zero-shot")
COMPARED: Final = ("zero-shot", "sft", "sampled", "exact")

KINDS: Final[Mapping[str, tuple[str, ...]]] = {  # of question -> content types of SLAKE and VQA-RAD
    "modality": ("modality",),
    "plane": ("plane",),
    "organ": ("organ",),
    "position": ("position", "pos"),
    "abnormality": ("abnormality", "abn", "pres", "prse"),
    "size": ("size",),
    "quantity": ("quantity", "count"),
    "colour, shape": ("color", "shape"),
    "knowledge": ("kg",),
    "cell counts": ("cells",),
}
OTHER: Final = "others"
ALL: Final = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallImage:
    """A real image at the size at which the policy sees it, decoded once in a process."""

    source: ImageFile

    @property
    def uri(self) -> str:
        """The name of the image itself."""
        return self.source.uri

    def load(self) -> Image:
        """The RGB image, SIDE by SIDE pixels."""
        return _shrink(self.source)


@cache
def _shrink(source: ImageFile) -> Image:
    from PIL.Image import Resampling

    return source.load().resize((SIDE, SIDE), Resampling.BICUBIC, reducing_gap=3.0)


def read(root: Path, *, split: str | None = None, seed: int = 0, folds: str | None = None, grey: bool = False) -> list[Sample]:
    """A reader: the questions of all three datasets; `folds` is a file that names the split of each, and `grey` hides the images."""
    samples = [*slake.read(root / "slake", seed=seed).samples, *vqa_rad.read(root / "vqa_rad", seed=seed).samples]
    samples += read_cells(root / "bccd", seed)
    if folds is None:
        return [sample for sample in samples if sample.choices]
    split_of = read_json_object(Path(folds))
    shown = [_show(sample, grey=grey) for sample in samples if split_of.get(sample.id) == split]
    return [replace(sample, metadata={**sample.metadata, "split": split}) for sample in shown]


def _show(sample: Sample, *, grey: bool) -> Sample:
    small = tuple(SmallImage(source=image) for image in sample.images if isinstance(image, ImageFile))
    return replace(sample, images=tuple(SyntheticImage(source=image) for image in small) if grey else small)


def read_cells(root: Path, seed: int) -> Iterator[Sample]:
    """Whether a blood smear shows more cells of a kind than half of the smears do, which no text tells."""
    if not root.is_dir():
        return
    with (root / "counts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for kind, name in (("RBC", "red blood cells"), ("Platelets", "platelets")):
        middle = sorted(int(row[kind]) for row in rows)[len(rows) // 2]
        for row in rows:
            number = f"bccd/{kind.lower()}/{Path(row['image']).stem}"
            closed = arrange(("Yes", "No"), "Yes" if int(row[kind]) >= middle else "No", random.Random(f"{seed}/{number}"))
            yield Sample(
                id=number,
                dataset="bccd",
                images=(ImageFile(root=root, path=row["image"]),),
                question=f"Does this image show {middle} or more {name}?",
                choices=closed.choices,
                target=closed.target,
                modality=Modality.MICROSCOPY,
                question_type=QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
                subject_id=Path(row["image"]).stem,
                metadata={"content_type": "cells"},
            )


def divide(data: Path, out: Path) -> tuple[str, ...]:
    """Divide the images once, and give the overrides that read them."""
    folds = out / FOLDS
    source = (f"--data.reader={READER}", f"--data.root={data}", "--data.seed=0")
    if not folds.exists():
        config = load_config(RECIPE, [*source, "--data.options={}"])
        report = split_dataset(config.data, SplitOptions(fractions={"train": 1 - TEST_SHARE, "test": TEST_SHARE}))
        write_json(folds, {entry.id: entry.split for entry in report.manifest.samples})
    return (*source, *SHARED, f"--data.options.folds={folds}")


def build(out: Path, source: Sequence[str]) -> None:
    """The two policies that the trainings begin with: one has seen the training images, the other grey in their place."""
    for name, overrides in {"seen": source, "grey": (*source, GREY)}.items():
        if not (out / name).exists():
            unfinished = out / f"{name}.part"
            build_on_images(unfinished, load_split(load_config(RECIPE, overrides).data, "train"), seed=0)
            unfinished.rename(out / name)


def plan(out: Path, seeds: Sequence[int], source: Sequence[str], steps: int, own: Sequence[str]) -> Iterator[Job]:
    """All jobs. `own` are the user's overrides."""
    seen, grey = (f"--policy.path={out / name}" for name in ("seen", "grey"))
    length = (f"--sft.max_steps={steps}", f"--grpo.max_steps={steps}", *own)
    untrained = {"tiny": (), "zero-shot": (seen,)}
    trained = {
        "sampled": ("train", (seen,)),
        "exact": ("train", (seen, "--trainer.expectation=enumerated")),
        "sft": ("sft", (seen,)),
        "blind": ("sft", (grey, GREY)),
    }
    for seed in seeds:
        for name, (verb, overrides) in trained.items():
            yield _job(out, f"{seed}/{name}", verb, (*source, f"--seed={seed}", *length, *overrides))
    for name, overrides in untrained.items():
        yield _job(out, f"0/{name}", None, (*source, *length, *overrides))


def _job(out: Path, name: str, verb: str | None, overrides: Sequence[str]) -> Job:
    commands = plan_commands(RECIPE, out / name, overrides, verb=verb)
    if Path(name).name in COMPARED:
        commands += ((*commands[-1], "--ablation", ABLATIONS),)
    return Job(name=name, commands=commands)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """All answers of all seeds; the ids of questions hold the seed, and an image of several seeds is still one."""

    records: Mapping[str, Sequence[Record]]  # setting, or setting and alteration ("exact.blank") -> records
    priors: Mapping[str, Mapping[str, float]]  # blind baseline -> question -> credit
    kinds: Mapping[str, str]  # question -> kind


def read_answers(out: Path, seeds: Sequence[int], source: Sequence[str]) -> Answers:
    """What all jobs wrote, and the blind baselines, fitted on the training questions; untrained policies answer the same for every seed."""
    data = load_config(RECIPE, source).data
    train, test = load_split(data, "train"), load_split(data, "test")
    records: defaultdict[str, list[Record]] = defaultdict(list)
    for seed in seeds:
        for name in TITLES:
            folder = out / ("0" if name in UNTRAINED else str(seed)) / name / "records"
            for path in sorted(folder.glob("*.jsonl")):
                own = [replace(record, sample_id=f"{seed}/{record.sample_id}") for record in read_records(path)]
                records[path.name.removesuffix(".jsonl")] += own
    priors = {
        baseline: {f"{seed}/{name}": value for seed in seeds for name, value in credit.items()}
        for baseline, credit in blind_credits(train, test).items()
    }
    kinds = {f"{seed}/{sample.id}": find_kind(str(sample.metadata["content_type"])) for seed in seeds for sample in test}
    return Answers(records=dict(records), priors=priors, kinds=kinds)


def find_kind(content_type: str) -> str:
    """The kind of a question by its content type; OTHER for one that names several."""
    folded = fold_words(content_type)
    return next((kind for kind, names in KINDS.items() if folded in names), OTHER)


def summarize(answers: Answers) -> list[dict[str, Any]]:
    """One row for each dataset and kind of question, beginning with all."""
    rows = []
    groups: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for record in answers.records["zero-shot"]:
        kind = answers.kinds[record.sample_id]
        for key in ((ALL, ALL), (record.dataset, ALL), (record.dataset, kind)):
            groups[key].add(record.sample_id)
    order = [ALL, *KINDS, OTHER]
    for (dataset, kind), ids in sorted(groups.items(), key=lambda group: (group[0][0] != ALL, group[0][0], order.index(group[0][1]))):
        rows.append(_summarize_group(answers, dataset, kind, ids))
    return rows


def _summarize_group(answers: Answers, dataset: str, kind: str, ids: set[str]) -> dict[str, Any]:
    chosen = {name: [record for record in own if record.sample_id in ids] for name, own in answers.records.items()}
    blind = {name: {key: value for key, value in own.items() if key in ids} for name, own in answers.priors.items()}
    blind[TITLES["blind"]] = record_credits(chosen["blind"])
    row: dict[str, Any] = {"dataset": dataset, "kind": kind, "num_questions": len({name.partition("/")[2] for name in ids})}
    row["tiny"] = {"accuracy": accuracy(chosen["tiny"], UNIT).to_json()}
    for name in COMPARED:
        gain = image_gain(chosen[name], blind, UNIT)
        row |= {"num_images": gain.num_clusters, "baseline": gain.baseline, "blind": gain.blind}
        swapped = chosen[f"{name}.{'swap_across' if kind == 'modality' else 'swap_within'}"]
        row[name] = {
            "accuracy": accuracy(chosen[name], UNIT).to_json(),
            "blank": accuracy(chosen[f"{name}.blank"], UNIT).to_json(),
            "swapped": accuracy(swapped, UNIT).to_json(),
            "gain": gain.gain.to_json(),
            "minus_swapped": paired_difference(swapped, chosen[name], UNIT).difference.to_json(),
            "minus_continued": paired_difference(chosen["zero-shot"], chosen[name], UNIT).difference.to_json(),
            "minus_sft": paired_difference(chosen["sft"], chosen[name], UNIT).difference.to_json(),
        }
    return row


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Two tables, per cent: accuracies, and gains in points with 95 % intervals, images as units.

    Swapped images are of the same modality, and of another one where the modality is asked for.
    """
    rows = [row for row in rows if row["num_questions"] >= MIN_SHOWN]
    titles = [TITLES[name] for name in COMPARED]
    heads = ["", "", "questions", "images", "best blind", "", TITLES["tiny"], *titles, *(f"{title}, swapped" for title in titles)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        shares = [row[name]["accuracy"]["value"] for name in ("tiny", *COMPARED)] + [row[name]["swapped"]["value"] for name in COMPARED]
        cells = [row["dataset"], row["kind"], f"{row['num_questions']:,}", f"{row['num_images']:,}", row["baseline"], percent(row["blind"])]
        lines.append(f"| {' | '.join([*cells, *map(percent, shares)])} |")
    heads = ["", "", *(f"{title}: image gain" for title in titles), *(f"{title} minus SFT" for title in titles[2:])]
    lines += ["", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        gains = [_points(row[name]["gain"]) for name in COMPARED] + [_points(row[name]["minus_sft"]) for name in COMPARED[2:]]
        lines.append(f"| {' | '.join([row['dataset'], row['kind'], *gains])} |")
    return "\n".join(lines) + "\n"


def _points(raw: Mapping[str, Any]) -> str:
    return points(Estimate(value=raw["value"], low=raw["low"], high=raw["high"]))


def main(arguments: Iterable[str] | None = None) -> None:
    """Run what has not been run, then write results and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with slake, vqa_rad and bccd")
    parser.add_argument("--out", type=Path, default=Path("runs/real_images"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=150, help="of each method, 24 questions each")
    parser.add_argument("overrides", nargs="*", help="section.key=value, for every run")
    options = parser.parse_args(None if arguments is None else list(arguments))
    out, seeds = options.out.resolve(), [int(seed) for seed in options.seeds.split(",")]
    source = divide(options.data.resolve(), out)
    build(out, source)
    jobs = [*plan(out, seeds, source, options.steps, [f"--{value}" for value in options.overrides])]
    terms = load_config(RECIPE, source).to_json() + (out / FOLDS).read_text(encoding="utf-8")
    run_jobs(jobs, out, title="real images", terms=terms)
    answers = read_answers(out, seeds, source)
    rows = summarize(answers)
    write_json(out / "results.json", rows)
    write_whole(out / "tables.md", to_markdown(rows))
    sys.stdout.write(to_markdown(rows))


if __name__ == "__main__":
    main()
