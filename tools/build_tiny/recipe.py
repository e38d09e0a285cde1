"""How `osler-tiny` is trained, from random weights to the packaged folder, on phantoms only.

1. The vision encoder alone: when it is trained through the language model, it learns an order of magnitude more slowly. Then it is frozen.
2. The language model, on a mixture of text-only tasks and questions about images, with an auxiliary head.

Training stops long before convergence, because users train the packaged policy further.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from osler.data.phantom import ATLASES, build_samples
from osler.data.phantom.images import IMAGES_PER_SUBJECT
from osler.prompts import BUILT_IN, render, target_completion
from osler.taxonomy import Modality
from tools.build_tiny.architecture import build_model, save_policy
from tools.build_tiny.batched_model import BatchedModel
from tools.build_tiny.batches import TextTasks
from tools.build_tiny.card import measure, write_card, write_counts
from tools.build_tiny.encoding import PromptEncoder
from tools.build_tiny.image_pool import ImagePool, build_pool, keep_fewer
from tools.build_tiny.tokenizer import NUM_BASE_TOKENS, build_tokenizer
from tools.build_tiny.training_stages import ReportProgress, State, encode_pool, train_language, train_vision

POOL_SEED: Final = 770_000
"""Added to the build's seed, so that the policy is not trained on the images of the small seeds that users train and evaluate on."""
RARE_MODALITY: Final = Modality.MRI
RARE_SHARE: Final = 0.15
"""The language model is trained on so few of the questions about MRI, so that a demo that trains on MRI has something to teach."""
HELD_OUT_SUBJECTS: Final = 40  # of each modality: 1,600 questions


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """The steps of both stages, and the subjects of each modality."""

    subjects: int = 2000
    vision_steps: int = 1800
    language_steps: int = 1600

    def scale(self, factor: float) -> Lengths:
        """Every length times `factor`, at least one step and four subjects."""
        subjects, vision, language = (max(1, round(length * factor)) for length in (self.subjects, self.vision_steps, self.language_steps))
        return Lengths(subjects=max(4, subjects), vision_steps=vision, language_steps=language)


@cache
def list_corpus() -> tuple[str, ...]:
    """The lines of all prompts and target completions of 400 phantom questions of each modality, sorted, without repetitions."""
    lines = set()
    for modality in ATLASES:
        for sample in build_samples(modality=modality, split="train", seed=POOL_SEED, num_questions=400):
            for strategy in (known.name for known in BUILT_IN):
                lines.update(render(sample, strategy, phase="train").text.splitlines(keepends=True))
                lines.update(render(sample, strategy, phase="eval").text.splitlines(keepends=True))
                lines.update(target_completion(sample, strategy).splitlines(keepends=True))
    return tuple(sorted(lines))


def build(out: Path, *, seed: int, time_scale: float = 1.0) -> None:
    """Train `osler-tiny` from random weights and write its folder to `out`, with model card and accuracies.

    The same seed and `time_scale` on the same machine yield the same weights, bit for bit. `time_scale` shortens both stages; 1 trains the
    packaged policy, in about 20 minutes on one core.
    """
    import torch
    from tqdm import tqdm

    torch.set_num_threads(1)
    lengths = Lengths().scale(time_scale)
    started, num_images = time.monotonic(), len(ATLASES) * IMAGES_PER_SUBJECT * lengths.subjects
    steps = lengths.vision_steps + lengths.language_steps
    with tqdm(total=num_images + steps, unit="step", desc="osler-tiny") as bar:

        def report(status: str) -> None:
            bar.set_postfix_str(status, refresh=False)
            bar.update()

        tokenizer = build_tokenizer(list_corpus())
        model = train(build_model(tokenizer, seed=seed), tokenizer, lengths, seed=seed, report=report)
    save_policy(model, tokenizer, out)
    minutes = (time.monotonic() - started) / 60
    counts = measure(model, tokenizer, subjects=max(1, round(HELD_OUT_SUBJECTS * min(1.0, time_scale))))
    write_counts(out, seed=seed, steps=steps, minutes=minutes, counts=counts)
    write_card(out)


def train(model: Any, tokenizer: Any, lengths: Lengths, *, seed: int, report: ReportProgress) -> Any:
    """Both stages; returns the trained model."""
    pool = build_pool(split="train", seed=POOL_SEED + seed, subjects=lengths.subjects, on_image=lambda: report("drawing images"))
    state = make_state(model, tokenizer, pool, seed=seed, report=report)
    train_vision(state, steps=lengths.vision_steps, seed=seed)
    state = _see_few(state, RARE_MODALITY, RARE_SHARE)
    # A new generator, so that the batches of stage 2 do not depend on the length of stage 1.
    train_language(replace(state, rng=np.random.default_rng([seed, 2])), encode_pool(state), steps=lengths.language_steps)
    return model.eval()


def _see_few(state: State, modality: Modality, share: float) -> State:
    """The state with only a share of the questions about one modality, in questions about images and in text-only tasks."""
    pool = keep_fewer(state.pool, modality, share)
    return replace(state, pool=pool, text_tasks=replace(state.text_tasks, pool=pool))


def with_used(state: State, texts: Iterable[str]) -> State:
    """The state of a training on further texts: their tokens are used too."""
    import torch

    used = {token for text in texts for token in state.encoder.encode(text)}
    return replace(state, unused_tokens=torch.tensor([token for token in state.unused_tokens.tolist() if token not in used]))


def make_state(model: Any, tokenizer: Any, pool: ImagePool, *, seed: int, report: ReportProgress) -> State:
    """The state that both stages share."""
    import torch

    encoder = PromptEncoder(tokenizer)
    used = {*encoder.chat_prompt("", num_images=1), *(token for line in list_corpus() for token in encoder.encode(line))}
    unused = [token for token in range(len(tokenizer)) if token not in used]
    text_tasks = TextTasks(
        pool=pool,
        encoder=encoder,
        letters=tuple(encoder.token_id(letter) for letter in "ABCD"),
        other_words=np.array([token for token in unused if token >= NUM_BASE_TOKENS]),
        other_words_share=0.3,
    )
    return State(
        model=BatchedModel(model, tokenizer),
        pool=pool,
        encoder=encoder,
        text_tasks=text_tasks,
        unused_tokens=torch.tensor(unused),
        rng=np.random.default_rng(seed),
        report=report,
    )
