"""The recipe of `osler-tiny`, from random weights to the shipped folder, on phantoms only.

The order of the stages is what makes it work in minutes:

1. the visual tower alone, under throw-away classifiers: through the language model it learns an order of magnitude more slowly;
2. its tokens are aligned with the embeddings of the words they stand for;
3. fresh language layers read pictures: a model that was drilled on letters first hardly learns to look afterwards;
4. bare letter drills, 5. the same behind the tags, with pictures in between, so that reading is not lost;
6. the real chat prompt with reasoning;
7. and 8. every strategy, with the middle layer taught the answer's word, since without reasoning it must be known before it can be matched;
9. the same with more answers that come before any reasoning, which are the hardest.

It stops long before the ceiling, because the packaged policy is there to be trained further.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from osler.phantom import ATLASES, build_samples
from osler.phantom.images import IMAGES_PER_SUBJECT
from osler.prompts import STRATEGIES, render, target_completion
from osler.tiny.architecture import build_model, save_policy
from osler.tiny.card import measure, write_card, write_counts
from osler.tiny.drills import DrillSource, Mix
from osler.tiny.encoding import CAPTION_REQUEST, Encoder, describe
from osler.tiny.fast import FastPath
from osler.tiny.pool import Pool, build_pool
from osler.tiny.stages import (
    Advance,
    Workshop,
    align_tower,
    learn_letters,
    learn_prompts,
    learn_strategies,
    read_pictures,
    renew_idle,
    train_tower,
)
from osler.tiny.tokenizer import FIRST_WORD, build_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

POOL_SEED: Final = 770_000
"""Added to the recipe's seed: the policy never sees a picture of the seeds that users train and evaluate on."""
HELD_OUT_SUBJECTS: Final = 40  # of each modality: 1,600 questions


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The length of each stage in steps, and of the pool in subjects of each modality."""

    subjects: int = 700
    tower: int = 1400
    align: int = 300
    read: int = 700
    letters: int = 600
    tagged: int = 500
    prompts: int = 500
    strategies: int = 900
    again: int = 900
    answers: int = 600

    def scale(self, factor: float) -> Plan:
        """Every length times `factor`, at least one step and four subjects."""
        return Plan(
            **{name: max(4 if name == "subjects" else 1, round(getattr(self, name) * factor)) for name in self.__dataclass_fields__}
        )

    @property
    def steps(self) -> int:
        """The steps of all stages; letters may take more."""
        return sum(getattr(self, name) for name in self.__dataclass_fields__ if name != "subjects")


PLAN: Final = Plan()
_TYPES: Final = (0.16, 0.16, 0.23, 0.23, 0.22)
_READING: Final = {"think": 0.7, "no_think": 0.3}
_REASONED: Final = {"think": 0.86, "med_r1_think": 0.07, "medvlm_r1": 0.07}
_ALL: Final = {
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
_ANSWERS: Final = {
    "think": 0.2,
    "no_think": 0.36,
    "think_after": 0.24,
    "zero_shot": 0.1,
    "medvlm_r1": 0.03,
    "med_r1_think": 0.03,
    "med_r1_no_think": 0.02,
    "medvlm_r1_zero_shot": 0.01,
    "med_r1_zero_shot": 0.01,
}
_ANSWER_FIRST: Final = {"no_think": 0.5, "think_after": 0.35, "zero_shot": 0.15}


def list_corpus() -> Iterable[str]:
    """Every kind of prompt and completion that the phantoms give rise to."""
    lines = set()
    for modality in ATLASES:
        for sample in build_samples(modality=modality, split="train", seed=POOL_SEED, num_questions=400):
            for strategy in STRATEGIES:
                lines.update(render(sample, strategy, phase="train").text.splitlines(keepends=True))
                lines.update(render(sample, strategy, phase="eval").text.splitlines(keepends=True))
                lines.update(target_completion(sample, strategy).splitlines(keepends=True))
    return sorted(lines)


def build(out: Path, *, seed: int, time_scale: float = 1.0, threads: int = 1) -> None:
    """Train `osler-tiny` from nothing and write its folder to `out`, model card and accuracies included.

    The same seed, `time_scale` and `threads` on one machine yield the same bytes. `time_scale` shortens every stage; 1 is
    the shipped recipe, about half an hour on one core.
    """
    import torch
    from tqdm import tqdm

    torch.set_num_threads(threads)
    plan = PLAN.scale(time_scale)
    started, num_pictures = time.monotonic(), len(ATLASES) * IMAGES_PER_SUBJECT * plan.subjects
    with tqdm(total=num_pictures + plan.steps, unit="step", desc="osler-tiny") as bar:

        def advance(status: str) -> None:
            bar.set_postfix_str(status, refresh=False)
            bar.update()

        tokenizer = build_tokenizer(list_corpus())
        model = train(build_model(tokenizer, seed=seed), tokenizer, plan, seed=seed, advance=advance)
        steps = bar.n - num_pictures
    save_policy(model, tokenizer, out)
    minutes = (time.monotonic() - started) / 60
    counts = measure(model, tokenizer, subjects=max(1, round(HELD_OUT_SUBJECTS * min(1.0, time_scale))))
    write_counts(out, seed=seed, steps=steps, minutes=minutes, counts=counts)
    write_card(out)


def train(model: Any, tokenizer: Any, plan: Plan, *, seed: int, advance: Advance) -> Any:
    """All stages in order; returns the trained model."""
    initial = model.model.language_model.embed_tokens.weight.detach().clone()
    pool = build_pool(split="train", seed=POOL_SEED + seed, subjects=plan.subjects, advance=lambda: advance("drawing pictures"))
    shop, idle = open_workshop(model, tokenizer, pool, advance)
    reading = Mix(captions=0.6, strategies=_READING, types=_TYPES)
    reasoned = Mix(captions=0.3, strategies=_REASONED, types=_TYPES)
    everything = Mix(captions=0.0, strategies=_ALL, types=_TYPES)
    answers = Mix(captions=0.0, strategies=_ANSWERS, types=_TYPES)

    shop = replace(shop, rng=np.random.default_rng(seed))
    train_tower(shop, steps=plan.tower, seed=seed)
    align_tower(shop, steps=plan.align)
    read_pictures(shop, reading, steps=plan.read)

    def draw(stream: int) -> Workshop:
        """The shop with random numbers of its own, so that a stage depends on the one before through the weights alone."""
        return replace(shop, rng=np.random.default_rng([seed, stream]))

    shop = renew_idle(shop, initial, idle)
    learn_letters(draw(2), reading, steps=plan.letters, tagged=False, stop=0.92, enough=0.92)
    learn_letters(draw(3), reading, steps=plan.tagged, tagged=True, stop=0.93, enough=0.8)
    learn_prompts(draw(4), reasoned, steps=plan.prompts, strategies=_REASONED, enough=0.8)
    learn_strategies(draw(5), everything, steps=plan.strategies, chat=_REASONED, facts=_ANSWER_FIRST)
    learn_strategies(draw(5), everything, steps=plan.again, chat=_REASONED, facts=_ANSWER_FIRST)
    learn_strategies(draw(7), answers, steps=plan.answers, chat=_REASONED, facts=_ANSWER_FIRST)
    return model.eval()


def open_workshop(model: Any, tokenizer: Any, pool: Pool, advance: Advance) -> tuple[Workshop, Tensor]:
    """What the stages share, and the tokens that no phantom speaks of."""
    import torch

    encoder = Encoder(tokenizer)
    lines = [*list_corpus(), CAPTION_REQUEST, *(describe(findings) for findings in pool.findings)]
    spoken = {*encoder.wrap("", has_picture=True), *(token for line in lines for token in encoder.encode(line))}
    idle = [token for token in range(len(tokenizer)) if token not in spoken]
    drills = DrillSource(
        pool=pool,
        encoder=encoder,
        letters=tuple(encoder.token(letter) for letter in "ABCD"),
        words=np.array([token for token in idle if token >= FIRST_WORD]),
        random_words=0.3,
    )
    shop = Workshop(
        path=FastPath(model, tokenizer),
        pool=pool,
        encoder=encoder,
        drills=drills,
        idle=torch.tensor([], dtype=torch.long),
        rng=np.random.default_rng(),
        advance=advance,
    )
    return shop, torch.tensor(idle)
