"""The accuracy of `osler-tiny` on held-out phantoms, and its model card."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from osler.grading import grade
from osler.grading.statements import judge
from osler.metrics import DASH, percent, proportion
from osler.metrics.truth import state_of
from osler.taxonomy import Modality, QuestionType
from osler.types import Outcome, Sample, Verdict, answer_text
from tools.build_tiny.batched_model import BatchedModel
from tools.build_tiny.encoding import PromptEncoder
from tools.build_tiny.image_pool import build_pool

STRATEGIES: Final = ("think", "no_think", "think_after", "zero_shot")
REASONING_STRATEGIES: Final = ("think", "think_after")
HELD_OUT_SEED: Final = 4242
COUNTS_FILE: Final = "accuracy.json"
_BATCH_SIZE: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """The graded completions of one strategy, modality and question type."""

    strategy: str
    modality: str
    question_type: str
    total: int
    correct: int
    well_formed: int
    true: int  # reasonings with a statement that could be checked, and none that is false


def measure(model: Any, tokenizer: Any, *, subjects: int, strategies: Sequence[str] = STRATEGIES) -> list[Count]:
    """Grade greedy completions of five questions about each of `subjects` subjects of every modality, split "test", seed HELD_OUT_SEED."""
    pool = build_pool(split="test", seed=HELD_OUT_SEED, subjects=subjects)
    batched, encoder = BatchedModel(model.eval(), tokenizer), PromptEncoder(tokenizer)
    questions = [question for of_type in pool.by_type.values() for question in of_type]
    tally: dict[tuple[str, str, str], list[int]] = {}
    for strategy in strategies:
        for start in range(0, len(questions), _BATCH_SIZE):
            batch = questions[start : start + _BATCH_SIZE]
            prompts = [encoder.prompt(question.sample, strategy, phase="eval") for question in batch]
            completions = batched.generate(prompts, pool.patches[[question.image for question in batch]])
            for question, tokens in zip(batch, completions, strict=True):
                sample = question.sample
                text = tokenizer.decode(tokens, skip_special_tokens=True)
                verdict = grade(text, choices=sample.choices, target=sample.target, strategy=strategy)
                cell = tally.setdefault((strategy, str(sample.modality), str(sample.question_type)), [0, 0, 0, 0])
                facts = (True, verdict.outcome is Outcome.CORRECT, verdict.is_well_formed, _is_true(verdict, sample))
                for index, fact in enumerate(facts):
                    cell[index] += fact
    return [
        Count(strategy=name, modality=modality, question_type=question_type, total=total, correct=correct, well_formed=formed, true=true)
        for (name, modality, question_type), (total, correct, formed, true) in tally.items()
    ]


def _is_true(verdict: Verdict, sample: Sample) -> bool:
    """Whether the reasoning states something true of the image and nothing false."""
    assert sample.facts is not None
    chosen = answer_text(verdict.answer, sample.choices)
    statements = judge(verdict.reasoning or "", facts=sample.facts, terms=sample.terms, answer_text=chosen)
    return state_of(statements) == "true"


def write_counts(folder: Path, *, seed: int, steps: int, minutes: float, counts: Sequence[Count]) -> None:
    """Write COUNTS_FILE: the length of the training and the graded completions."""
    rows = [{name: getattr(count, name) for name in Count.__dataclass_fields__} for count in counts]
    text = json.dumps({"seed": seed, "steps": steps, "minutes": round(minutes, 1), "counts": rows}, indent=1)
    (folder / COUNTS_FILE).write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """The contents of COUNTS_FILE."""

    seed: int
    steps: int
    minutes: float
    counts: tuple[Count, ...]


def read_counts(folder: Path) -> Build:
    """The counts of a folder written by `write_counts`."""
    data = json.loads((folder / COUNTS_FILE).read_text(encoding="utf-8"))
    return Build(seed=data["seed"], steps=data["steps"], minutes=data["minutes"], counts=tuple(Count(**row) for row in data["counts"]))


def write_card(folder: Path, others: Sequence[Path] = ()) -> None:
    """Write `folder`/README.md from its own counts and those of builds with other seeds."""
    build = read_counts(folder)
    builds = (build, *(read_counts(other) for other in others))
    weights = folder / "model.safetensors"
    text = _CARD.format(
        parameters=_count_parameters(weights),
        megabytes=weights.stat().st_size / 1e6,
        seed=build.seed,
        steps=build.steps,
        minutes=build.minutes,
        by_type=_table(build, "question_type", tuple(QuestionType)),
        by_modality=_table(build, "modality", tuple(Modality)),
        truth=_truth_table(build),
        by_seed=_seed_table(builds),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _count_parameters(weights: Path) -> int:
    from safetensors import safe_open

    with safe_open(weights, "numpy") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118 (no mapping)


def _share(counts: Sequence[Count], strategy: str, fact: str = "correct") -> str:
    """The share of the completions with a fact ("correct" or "true"), in per cent with its interval, e.g. "61.8 [59.4, 64.2]"."""
    kept = [count for count in counts if count.strategy == strategy]
    return str(proportion(sum(getattr(count, fact) for count in kept), sum(count.total for count in kept)))


def _table(build: Build, by: str, names: Sequence[Modality | QuestionType]) -> str:
    """A Markdown table: a column for each strategy, a row for each of `names`, then rows for all questions and for the format."""
    lines = [f"| | n | {' | '.join(STRATEGIES)} |", f"|---|---|{'---|' * len(STRATEGIES)}"]
    for name in (*names, None):
        kept = [count for count in build.counts if name is None or getattr(count, by) == name]
        total = sum(count.total for count in kept if count.strategy == STRATEGIES[0])
        cells = [_share(kept, strategy) for strategy in STRATEGIES]
        lines.append(f"| {name.title if name else '**all**'} | {total} | {' | '.join(cells)} |")
    formed = [[count for count in build.counts if count.strategy == strategy] for strategy in STRATEGIES]
    shares = [percent(sum(c.well_formed for c in kept) / sum(c.total for c in kept)) if kept else DASH for kept in formed]
    return "\n".join([*lines, f"| well-formed | | {' | '.join(shares)} |"])


def _truth_table(build: Build) -> str:
    """A Markdown table of the share of true reasonings: a column for each strategy with reasoning, a row for each modality, one for all."""
    lines = [f"| | {' | '.join(REASONING_STRATEGIES)} |", f"|---|{'---|' * len(REASONING_STRATEGIES)}"]
    for modality in (*Modality, None):
        kept = [count for count in build.counts if modality is None or count.modality == modality]
        cells = [_share(kept, strategy, "true") for strategy in REASONING_STRATEGIES]
        lines.append(f"| {modality.title if modality else '**all**'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _seed_table(builds: Sequence[Build]) -> str:
    heads = [*STRATEGIES, *(f"true reasonings, {strategy}" for strategy in REASONING_STRATEGIES)]
    lines = [f"| seed | steps | {' | '.join(heads)} |", f"|---|---|{'---|' * len(heads)}"]
    for build in builds:
        cells = [_share(build.counts, strategy) for strategy in STRATEGIES]
        cells += [_share(build.counts, strategy, "true") for strategy in REASONING_STRATEGIES]
        lines.append(f"| {build.seed} | {build.steps} | {' | '.join(cells)} |")
    return "\n".join(lines)


_CARD: Final = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [qwen2_vl, medical, synthetic, tiny]
---
# osler-tiny

A Qwen2-VL of {parameters:,} parameters ({megabytes:.1f} MB) that was trained from random weights on synthetic images only. It is
packaged with Osler so that every part of it, reinforcement learning included, runs on a laptop in minutes.

**For research and teaching. It was not trained on any medical image, knows nothing about real ones and must not be used for any
clinical purpose.**

## What it does
It answers multiple-choice questions about Osler's phantoms (eight modalities, five question types, options in random order) by letter, in
the format that the strategy asks for: Think, No-Think, Think-After, a bare letter, and the prompts of MedVLM-R1 and Med-R1. Training
stopped long before convergence on purpose, and the language model saw few questions about MRI: this is a policy to train further, on MRI
in Osler's demo, not a result. Its reasoning is one to three short findings, then the conclusion.

It is an ordinary Qwen2-VL checkpoint: `AutoModelForImageTextToText`, `AutoTokenizer` and `AutoImageProcessor` load it,
with equal logits in Transformers 4.57 and 5.23. Images are resized to about 112 x 112 pixels, which are 16 visual tokens; each option text
of a phantom question is one token; other text falls back to words and bytes.

## Accuracy
Greedy answers to held-out phantoms (split "test", seed 4242), per cent, with Wilson's 95 % interval. Chance is 28.8 %: four choices,
or two in 15 % of the questions.

By question type:

{by_type}

By modality:

{by_modality}

## Truth of the reasoning
Share of reasonings that state something true of the image and nothing false, the conclusion aside, per cent with Wilson's interval:

{truth}

## Two builds
By seed of the build (the first row is this checkpoint):

{by_seed}

## Recipe
`python -m tools.build_tiny --out DIR`, run from the root of Osler's repository, rebuilds it from random weights: seed {seed},
{steps} steps, {minutes:.0f} minutes on one core of a laptop that had other work, with the time to draw the images.

Stage 1 trains the vision encoder alone: classifiers of what an image shows, discarded afterwards, and a loss
that aligns the visual tokens with the embeddings of the words for it. Stage 2 freezes the vision encoder and trains the language model on
text-only tasks and on questions about images. An auxiliary head, discarded afterwards, supervises single layers in answering an option by
its letter. The same seed on the same machine yields the same weights, bit for bit.

## Limits
* Phantoms only. The accuracies say nothing about real images; the rationales are
  short findings from templates, and many of them are false (see the table).
* English only, and only the wordings of Osler's prompts; free text is accepted but hardly understood.
* Long rationales, several images and open questions can be run, but were not trained.
"""
