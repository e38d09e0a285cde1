"""How good `osler-tiny` is on held-out phantoms, and the model card that says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from osler.grading import grade
from osler.metrics import DASH, percent, proportion
from osler.taxonomy import Modality, QuestionType
from osler.types import Outcome
from tools.build_tiny.encoding import Encoder
from tools.build_tiny.fast import FastPath
from tools.build_tiny.pool import build_pool

STRATEGIES: Final = ("think", "no_think", "think_after", "zero_shot")
HELD_OUT_SEED: Final = 4242
COUNTS_FILE: Final = "accuracy.json"
_BATCH: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Greedy completions of one strategy, modality and question type on held-out phantoms."""

    strategy: str
    modality: str
    question_type: str
    total: int
    correct: int
    well_formed: int


def measure(model: Any, tokenizer: Any, *, subjects: int, strategies: Sequence[str] = STRATEGIES) -> list[Count]:
    """Grade greedy answers to five questions about each of `subjects` subjects of every modality, split "test", seed HELD_OUT_SEED."""
    pool = build_pool(split="test", seed=HELD_OUT_SEED, subjects=subjects)
    path, encoder = FastPath(model.eval(), tokenizer), Encoder(tokenizer)
    questions = [question for asked in pool.questions.values() for question in asked]
    tally: dict[tuple[str, str, str], list[int]] = {}
    for strategy in strategies:
        for start in range(0, len(questions), _BATCH):
            batch = questions[start : start + _BATCH]
            prompts = [encoder.prompt(question.sample, strategy, phase="eval") for question in batch]
            completions = path.generate(prompts, pool.patches[[question.picture for question in batch]])
            for question, tokens in zip(batch, completions, strict=True):
                sample = question.sample
                text = tokenizer.decode(tokens, skip_special_tokens=True)
                verdict = grade(text, choices=sample.choices, target=sample.target, strategy=strategy)
                cell = tally.setdefault((strategy, str(sample.modality), str(sample.question_type)), [0, 0, 0])
                for place, fact in enumerate((True, verdict.outcome is Outcome.CORRECT, verdict.is_well_formed)):
                    cell[place] += fact
    return [
        Count(strategy=strategy, modality=modality, question_type=question_type, total=total, correct=correct, well_formed=well_formed)
        for (strategy, modality, question_type), (total, correct, well_formed) in tally.items()
    ]


def write_counts(folder: Path, *, seed: int, steps: int, minutes: float, counts: Sequence[Count]) -> None:
    """Write what was measured beside the weights."""
    rows = [{name: getattr(count, name) for name in Count.__dataclass_fields__} for count in counts]
    text = json.dumps({"seed": seed, "steps": steps, "minutes": round(minutes, 1), "counts": rows}, indent=1)
    (folder / COUNTS_FILE).write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the recipe, as its counts file says."""

    seed: int
    steps: int
    minutes: float
    counts: tuple[Count, ...]


def read_counts(folder: Path) -> Run:
    """The counts file of a folder."""
    data = json.loads((folder / COUNTS_FILE).read_text(encoding="utf-8"))
    return Run(seed=data["seed"], steps=data["steps"], minutes=data["minutes"], counts=tuple(Count(**row) for row in data["counts"]))


def write_card(folder: Path, others: Sequence[Path] = ()) -> None:
    """Write `folder`/README.md from its own counts and those of other runs of the recipe."""
    shipped = read_counts(folder)
    runs = (shipped, *(read_counts(other) for other in others))
    weights = folder / "model.safetensors"
    text = _CARD.format(
        parameters=_count_parameters(weights),
        megabytes=weights.stat().st_size / 1e6,
        seed=shipped.seed,
        steps=shipped.steps,
        minutes=shipped.minutes,
        by_type=_table(shipped, "question_type", tuple(QuestionType)),
        by_modality=_table(shipped, "modality", tuple(Modality)),
        by_seed=_seeds(runs),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _count_parameters(weights: Path) -> int:
    from safetensors import safe_open

    with safe_open(weights, "numpy") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118 (no mapping)
    total = 0
    for shape in shapes:
        size = 1
        for side in shape:
            size *= side
        total += size
    return total


def _cell(counts: Sequence[Count], keep: Callable[[Count], bool]) -> str:
    kept = [count for count in counts if keep(count)]
    return str(proportion(sum(count.correct for count in kept), sum(count.total for count in kept)))


def _table(run: Run, by: str, names: Sequence[Modality | QuestionType]) -> str:
    """A Markdown table: strategies across, `names` down, the whole in the last row."""
    lines = [f"| | n | {' | '.join(STRATEGIES)} |", f"|---|---|{'---|' * len(STRATEGIES)}"]
    for name in (*names, None):
        kept = [count for count in run.counts if name is None or getattr(count, by) == name]
        total = sum(count.total for count in kept if count.strategy == STRATEGIES[0])
        cells = [_cell(kept, lambda count, wanted=strategy: count.strategy == wanted) for strategy in STRATEGIES]  # type: ignore[misc]
        lines.append(f"| {name.title if name else '**all**'} | {total} | {' | '.join(cells)} |")
    formed = [[count for count in run.counts if count.strategy == strategy] for strategy in STRATEGIES]
    shares = [percent(sum(c.well_formed for c in kept) / sum(c.total for c in kept)) if kept else DASH for kept in formed]
    return "\n".join([*lines, f"| well-formed | | {' | '.join(shares)} |"])


def _seeds(runs: Sequence[Run]) -> str:
    lines = [f"| seed | steps | {' | '.join(STRATEGIES)} |", f"|---|---|{'---|' * len(STRATEGIES)}"]
    for run in runs:
        cells = [_cell(run.counts, lambda count, wanted=strategy: count.strategy == wanted) for strategy in STRATEGIES]  # type: ignore[misc]
        lines.append(f"| {run.seed} | {run.steps} | {' | '.join(cells)} |")
    return "\n".join(lines)


_CARD: Final = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [qwen2_vl, medical, synthetic, tiny]
---
# osler-tiny

A Qwen2-VL of {parameters:,} parameters ({megabytes:.1f} MB) that was trained from random weights on procedural pictures only, and that
ships with Osler so that every part of it, reinforcement learning included, runs on a laptop in minutes.

**For research and teaching. It has never seen a medical image, knows nothing about real ones and must not be used for any
clinical purpose.**

## What it does
It answers multiple-choice questions about Osler's phantoms (eight modalities, five question types, options in random order) by letter, in
the format that the strategy asks for: Think, No-Think, Think-After, a bare letter, and the prompts of MedVLM-R1 and Med-R1. Training
stopped far from the ceiling on purpose: it is a base to be trained further, not a result.

It is an ordinary Qwen2-VL folder: `AutoModelForImageTextToText`, `AutoTokenizer` and `AutoImageProcessor` load it. Pictures are resized
to about 112 x 112 pixels, which are 16 visual tokens; each phrase that a phantom can show is one token; other text falls back to words
and bytes.

## Accuracy
Greedy answers to held-out phantoms (split "test", seed 4242), per cent, with Wilson's 95 % interval. Chance is 28.8 %: four choices,
or two in 15 % of the questions.

By question type:

{by_type}

By modality:

{by_modality}

By seed of the recipe (the first row is what is shipped):

{by_seed}

## Recipe
`osler data tiny` rebuilds it from nothing: seed {seed}, {steps} steps, {minutes:.0f} minutes on one core of a laptop that had other work,
drawing the pictures included. First the visual tower alone, under throw-away classifiers and turned towards the words for what it sees;
then, on the finished tower, the language model on everything at once, with a throw-away scaffold that teaches it one layer at a time how an
option becomes its letter. The same seed on the same machine yields the same bytes.

## Limits
* Phantoms only. Accuracies say nothing about real images; the rationales are templates that name a sign, not evidence of reasoning.
* English only, and only the wordings of Osler's prompts; free text is read but hardly understood.
* Long rationales, several pictures and open questions load and run, but were never trained.
"""
