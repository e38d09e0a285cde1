"""Does RL generalise where SFT memorises? Med-R1's matrix in No-Think without sampling noise, for log p, arcsine and p.

    python benchmarks/objectives_matrix.py [--out runs/objectives_matrix] [--limits 320,960] [--seed 0]

The right answer has the probability p; SFT climbs log p, GRPO 2 arcsin sqrt p, and GRPO without the deviation p (docs/learning.md). Each
objective trains one policy on each of the eight modalities of the phantoms, with so many questions, and is tested on all of them. The
off-diagonal cells (other modalities than the trained one) are compared at equal accuracy on the diagonal: between two lengths of training
the answers to a question count in the proportion in which the diagonals of both lengths average to the same accuracy. Beside the eight
specialists stands one policy for all modalities: with as many questions as all of them together, and with as many as one, the latter
also with a curriculum. Finished rows are not run again. Writes `results.json` and `tables.md`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osler.config import load_config
from osler.evaluation.compare import UNIT
from osler.evaluation.records import read_records
from osler.experiments.jobs import Job, plan_commands, run_jobs
from osler.files import write_json, write_whole
from osler.metrics import DASH, paired_difference, percent, points
from osler.metrics.accuracy import is_correct
from osler.metrics.clusters import ClusteredMean, cluster, clustered_difference, clustered_mean
from osler.taxonomy import Modality
from osler.types import Record

ENUMERATED: Final = "--trainer.expectation=enumerated"
OBJECTIVES: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = {  # title, verb, overrides
    "sft": ("SFT: log p", "sft", ()),
    "arcsine": ("GRPO: arcsine", "train", (ENUMERATED,)),
    "p": ("Dr. GRPO: p", "train", (ENUMERATED, "--grpo.scale_rewards=none")),
}
RECIPE: Final = "matrix_phantom"
ZERO_SHOT: Final = "zero-shot"
MATCHED: Final[Mapping[str, tuple[str, ...]]] = {"all": (), "all-variance": ("--data.mixture=balanced", "--data.curriculum=variance")}
"""One policy for all modalities in as many steps as one specialist, and its overrides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """The answers of eight policies to the questions of all modalities, as credits, in one order for all objectives."""

    keys: tuple[tuple[str, str], ...]  # trained modality, sample id
    records: tuple[Record, ...]
    earned: tuple[float, ...]

    def mean(self, *, diagonal: bool, earned: Sequence[float] | None = None) -> ClusteredMean | None:
        """The mean over the cells of the diagonal, or over the others, with images as units."""
        chosen = [place for place, (trained, _) in enumerate(self.keys) if (self.records[place].modality == trained) == diagonal]
        values = self.earned if earned is None else earned
        clusters = cluster([self.records[place] for place in chosen], UNIT)
        return clustered_mean([values[place] for place in chosen], clusters)


def plan(out: Path, limits: Sequence[int], seed: int, own: Sequence[str]) -> Iterator[Job]:
    """A job for each objective, length and modality, and the untrained policy. `own` are the user's overrides."""
    shared = ("--prompt.strategy=no_think", f"--seed={seed}", f"--data.seed={seed}", *own)
    yield Job(name=ZERO_SHOT, commands=plan_commands(RECIPE, out / ZERO_SHOT, shared))
    for name, (_, verb, overrides) in OBJECTIVES.items():
        for limit in sorted(limits, reverse=True):
            for modality in Modality:
                folder = f"{name}-{limit}-{modality}"
                questions = (f"--data.train.modalities=['{modality}']", f"--data.train.limit={limit}", "--trainer.checkpoint=none")
                commands = plan_commands(RECIPE, out / folder, (*shared, *questions, *overrides), verb=verb)
                yield Job(name=folder, commands=commands)
        for folder, limit, more in _plan_generalists(name, max(limits)):
            whole = ("--data.train.modalities=[]", f"--data.train.limit={limit}", "--trainer.checkpoint=none", *overrides, *more)
            yield Job(name=folder, commands=plan_commands(RECIPE, out / folder, (*shared, *whole), verb=verb))


def _plan_generalists(name: str, limit: int) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """The folder, the number of questions and the overrides of the policies for all modalities of one objective."""
    yield f"{name}-{len(Modality) * limit}-all", len(Modality) * limit, ()
    for ending, more in MATCHED.items():
        if name == "arcsine" or not more:
            yield f"{name}-{limit}-{ending}", limit, more


def read_cells(out: Path, name: str, limit: int) -> Cells:
    """The answers of one objective after so many questions."""
    rows = []
    for modality in Modality:
        rows += [((str(modality), record.sample_id), record) for record in _read(out, f"{name}-{limit}-{modality}")]
    rows.sort(key=lambda row: row[0])
    return Cells(
        keys=tuple(key for key, _ in rows),
        records=tuple(record for _, record in rows),
        earned=tuple(float(is_correct(record)) for _, record in rows),
    )


def mix(short: Cells, long: Cells, target: float) -> tuple[float, tuple[float, ...]]:
    """The share of the longer training with which the diagonal has the accuracy `target`, from 0 to 1, and the credits."""
    low, high = (_value(cells.mean(diagonal=True)) for cells in (short, long))
    share = min(1.0, max(0.0, (target - low) / (high - low))) if high != low else 1.0
    return share, tuple((1 - share) * one + share * other for one, other in zip(short.earned, long.earned, strict=True))


def _value(mean: ClusteredMean | None) -> float:
    value = None if mean is None else mean.estimate().value
    return 0.0 if value is None else value


def tabulate(out: Path, limits: Sequence[int]) -> tuple[str, dict[str, object]]:
    """The table in Markdown, and the same numbers."""
    short, long = min(limits), max(limits)
    cells = {name: {limit: read_cells(out, name, limit) for limit in limits} for name in OBJECTIVES}
    target = min(_value(own[long].mean(diagonal=True)) for own in cells.values())
    mixed = {name: mix(own[short], own[long], target) for name, own in cells.items()}
    means = {name: cells[name][long].mean(diagonal=False, earned=earned) for name, (_, earned) in mixed.items()}
    heads = ["", *(f"{part}, {limit} questions" for limit in sorted(limits) for part in ("diagonal", "others"))]
    heads += ["diagonal, matched", "others, matched", "others minus SFT's, matched"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    results: dict[str, object] = {"target": target}
    for name, (title, _, _) in OBJECTIVES.items():
        row = [title]
        for limit in sorted(limits):
            for diagonal in (True, False):
                mean = cells[name][limit].mean(diagonal=diagonal)
                row.append(DASH if mean is None else str(mean.estimate()))
        share, earned = mixed[name]
        diagonal_mean, others = cells[name][long].mean(diagonal=True, earned=earned), means[name]
        change = clustered_difference(others, means["sft"])
        row += [f"{100 * _value(diagonal_mean):.1f}", DASH if others is None else str(others.estimate())]
        row.append(DASH if name == "sft" else points(change))
        lines.append(f"| {' | '.join(row)} |")
        results[name] = {"share_of_longer": share, "change": change.to_json(), "others": _value(others)}
    results[ZERO_SHOT] = untrained = _share(_read(out, ZERO_SHOT))
    lines += ["", f"Untrained, all modalities: {percent(untrained)}."]
    return "\n".join(lines) + "\n", results


def compare_generalists(out: Path, limit: int) -> tuple[str, dict[str, object]]:
    """Eight specialists, each on its own modality, beside one policy for all: the table in Markdown, and the same numbers."""
    heads = ["", *map(str, Modality), "mean", "best minus worst", "minus specialists"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    results: dict[str, object] = {}
    untrained = _read(out, ZERO_SHOT)
    for name, (title, _, _) in OBJECTIVES.items():
        own = [record for modality in Modality for record in _read(out, f"{name}-{limit}-{modality}") if record.modality == modality]
        rows = {"untrained": untrained, f"{title}, eight specialists": own}
        for folder, number, more in _plan_generalists(name, limit):
            ending = ", balanced, curriculum" if more else ""
            rows[f"{title}, one policy, {number:,} questions{ending}"] = _read(out, folder)
        for label, records in rows.items():
            if label in results:
                continue
            shares: dict[Modality, float] = {
                modality: _share([record for record in records if record.modality == modality]) for modality in Modality
            }
            change = None if records is own or records is untrained else paired_difference(own, records, UNIT).difference
            spread = max(shares.values()) - min(shares.values())
            cells = [label, *map(percent, shares.values()), percent(_share(records)), percent(spread)]
            lines.append(f"| {' | '.join([*cells, DASH if change is None else points(change)])} |")
            results[label] = {"accuracy": shares, "change": change.to_json() if change else None}
    return "\n".join(lines) + "\n", results


def _read(out: Path, name: str) -> list[Record]:
    return list(read_records(Job(name=name, commands=()).records_file(out)))


def _share(records: Sequence[Record]) -> float:
    return sum(map(is_correct, records)) / len(records)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what has not been run, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/objectives_matrix"))
    parser.add_argument("--limits", default="320,960", help="training questions of each modality: two or more lengths, by comma")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", help="section.key=value, for every run")
    options = parser.parse_args(arguments)
    limits, own = [int(limit) for limit in options.limits.split(",")], [f"--{value}" for value in options.overrides]
    run_jobs([*plan(options.out, limits, options.seed, own)], options.out, title="matrix", terms=load_config(RECIPE, []).to_json())
    table, results = tabulate(options.out, limits)
    generalists, more = compare_generalists(options.out, max(limits))
    write_whole(options.out / "tables.md", f"{table}\n{generalists}")
    write_json(options.out / "results.json", {**results, "generalists": more})
    sys.stdout.write(f"{table}\n{generalists}")


if __name__ == "__main__":
    main()
