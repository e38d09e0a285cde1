"""The recipe of `osler-tiny`, from random weights to the shipped folder, on phantoms only.

1. The visual tower alone: through the language model it would learn an order of magnitude more slowly. It then stands still.
2. The language model, on everything at once: letter drills, prompts without pictures, questions about pictures. A scaffold teaches it one
   layer at a time how an option becomes its letter.

It stops long before the ceiling, because the packaged policy is there to be trained further.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from osler.data.phantom import ATLASES, build_samples
from osler.data.phantom.images import IMAGES_PER_SUBJECT
from osler.prompts import STRATEGIES, render, target_completion
from tools.build_tiny.architecture import build_model, save_policy
from tools.build_tiny.card import measure, write_card, write_counts
from tools.build_tiny.drills import DrillSource
from tools.build_tiny.encoding import Encoder
from tools.build_tiny.fast import FastPath
from tools.build_tiny.pool import Pool, build_pool
from tools.build_tiny.stages import Advance, Lesson, Workshop, look, train_language, train_tower
from tools.build_tiny.tokenizer import FIRST_WORD, build_tokenizer

POOL_SEED: Final = 770_000
"""Added to the recipe's seed: the policy never sees a picture of the seeds that users train and evaluate on."""
HELD_OUT_SUBJECTS: Final = 40  # of each modality: 1,600 questions


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The length of both stages in steps, and of the pool in subjects of each modality."""

    subjects: int = 2000
    tower: int = 3000
    language: int = 400

    def scale(self, factor: float) -> Plan:
        """Every length times `factor`, at least one step and four subjects."""
        subjects, tower, language = (max(1, round(length * factor)) for length in (self.subjects, self.tower, self.language))
        return Plan(subjects=max(4, subjects), tower=tower, language=language)


PLAN: Final = Plan()
_TYPES: Final = (0.06, 0.12, 0.28, 0.28, 0.26)
_CHATS: Final = {"think": 0.86, "med_r1_think": 0.07, "medvlm_r1": 0.07}
_ANSWERS: Final = {"no_think": 0.5, "think_after": 0.35, "zero_shot": 0.15}
_STRATEGIES: Final = {
    "think": 0.28,
    "no_think": 0.28,
    "think_after": 0.18,
    "zero_shot": 0.08,
    "medvlm_r1": 0.05,
    "med_r1_think": 0.05,
    "med_r1_no_think": 0.04,
    "medvlm_r1_zero_shot": 0.02,
    "med_r1_zero_shot": 0.02,
}


@cache
def list_corpus() -> tuple[str, ...]:
    """Every kind of prompt and completion that the phantoms give rise to."""
    lines = set()
    for modality in ATLASES:
        for sample in build_samples(modality=modality, split="train", seed=POOL_SEED, num_questions=400):
            for strategy in STRATEGIES:
                lines.update(render(sample, strategy, phase="train").text.splitlines(keepends=True))
                lines.update(render(sample, strategy, phase="eval").text.splitlines(keepends=True))
                lines.update(target_completion(sample, strategy).splitlines(keepends=True))
    return tuple(sorted(lines))


def build(out: Path, *, seed: int, time_scale: float = 1.0, threads: int = 1) -> None:
    """Train `osler-tiny` from nothing and write its folder to `out`, model card and accuracies included.

    The same seed, `time_scale` and `threads` on one machine yield the same bytes. `time_scale` shortens every stage; 1 is
    the shipped recipe, about 20 minutes on one core.
    """
    import torch
    from tqdm import tqdm

    torch.set_num_threads(threads)
    plan = PLAN.scale(time_scale)
    started, num_pictures = time.monotonic(), len(ATLASES) * IMAGES_PER_SUBJECT * plan.subjects
    steps = plan.tower + plan.language
    with tqdm(total=num_pictures + steps, unit="step", desc="osler-tiny") as bar:

        def advance(status: str) -> None:
            bar.set_postfix_str(status, refresh=False)
            bar.update()

        tokenizer = build_tokenizer(list_corpus())
        model = train(build_model(tokenizer, seed=seed), tokenizer, plan, seed=seed, advance=advance)
    save_policy(model, tokenizer, out)
    minutes = (time.monotonic() - started) / 60
    counts = measure(model, tokenizer, subjects=max(1, round(HELD_OUT_SUBJECTS * min(1.0, time_scale))))
    write_counts(out, seed=seed, steps=steps, minutes=minutes, counts=counts)
    write_card(out)


def train(model: Any, tokenizer: Any, plan: Plan, *, seed: int, advance: Advance) -> Any:
    """Both stages; returns the trained model."""
    pool = build_pool(split="train", seed=POOL_SEED + seed, subjects=plan.subjects, advance=lambda: advance("drawing pictures"))
    shop = open_workshop(model, tokenizer, pool, seed=seed, advance=advance)
    train_tower(shop, steps=plan.tower, seed=seed)
    lesson = Lesson(steps=plan.language, types=_TYPES, strategies=_STRATEGIES, chats=_CHATS, answers=_ANSWERS)
    # A stream of its own: the second stage depends on the first through the weights alone.
    train_language(replace(shop, rng=np.random.default_rng([seed, 2])), lesson, look(shop))
    return model.eval()


def open_workshop(model: Any, tokenizer: Any, pool: Pool, *, seed: int, advance: Advance) -> Workshop:
    """What both stages share."""
    import torch

    encoder = Encoder(tokenizer)
    spoken = {*encoder.wrap("", has_picture=True), *(token for line in list_corpus() for token in encoder.encode(line))}
    idle = [token for token in range(len(tokenizer)) if token not in spoken]
    drills = DrillSource(
        pool=pool,
        encoder=encoder,
        letters=tuple(encoder.token(letter) for letter in "ABCD"),
        words=np.array([token for token in idle if token >= FIRST_WORD]),
        random_words=0.3,
    )
    return Workshop(
        path=FastPath(model, tokenizer),
        pool=pool,
        encoder=encoder,
        drills=drills,
        idle=torch.tensor(idle),
        rng=np.random.default_rng(seed),
        advance=advance,
    )
