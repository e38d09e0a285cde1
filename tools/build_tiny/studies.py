"""Continue `osler-tiny` on studies of several slices, so that the recipe `demo_volume` has something to lift.

The vision encoder stays as it is. The language model is trained on questions about phantom volumes, on questions about single images, and
on the text-only tasks of the packaged policy, so that it still answers an option by its letter. No recipe uses the seeds of these studies.
Training stops long before convergence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from osler.data.phantom.studies import Aspect, StudyKind, build_studies
from osler.policies.load import load_policy
from osler.prompts import render, target_completion
from osler.types import Sample
from tools.build_tiny.architecture import IMAGE_SIZE, save_policy
from tools.build_tiny.auxiliary_head import AuxiliaryHead
from tools.build_tiny.batched_model import BatchedModel, cut_patches
from tools.build_tiny.batches import draw_image_batch
from tools.build_tiny.image_pool import Question, build_pool, shuffle_choices
from tools.build_tiny.recipe import POOL_SEED, make_state, with_used
from tools.build_tiny.rows import TrainingRow
from tools.build_tiny.training_stages import (
    IMAGE_STRATEGIES,
    QUESTION_TYPES,
    ReportProgress,
    State,
    adamw,
    draw_text_batches,
    encode_pool,
    schedule,
    score_rows,
    update_weights,
)

NUM_SLICES: Final = 6
KINDS: Final = (StudyKind.CT_VOLUME, StudyKind.MRI_VOLUME)
ASPECTS: Final = (Aspect.DIAGNOSIS, Aspect.LEVEL, Aspect.EXTENT, Aspect.COUNT)
NUM_STUDIES: Final = 14  # questions about studies in a step
NUM_IMAGES: Final = 4  # and about single images, two questions each
STUDY_STRATEGIES: Final = {"think": 0.75, "no_think": 0.25}
SUBJECTS: Final = 150  # of each modality, for the single images and the text-only tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPool:
    """Questions about studies, and the visual tokens of their slices."""

    questions: tuple[Sample, ...]
    visual: Tensor  # (questions, slices, V, D)


def build_on_studies(out: Path, *, seed: int, steps: int = 1200, num_questions: int = 2400) -> None:
    """Train the packaged policy for `steps` on `num_questions` of each kind of volume, and write its folder to `out`."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)  # of the auxiliary head
    policy = load_policy("osler-tiny")
    pool = build_pool(split="train", seed=POOL_SEED + seed, subjects=SUBJECTS)
    questions = draw_questions(seed=POOL_SEED + seed, num_questions=num_questions)
    with tqdm(total=len(questions) + steps, unit="step", desc="osler-tiny on studies") as bar:

        def report(status: str) -> None:
            bar.set_postfix_str(status, refresh=False)
            bar.update()

        state = make_state(policy.model, policy.tokenizer, pool, seed=seed, report=report)
        state = with_used(state, _texts(questions))
        _train(state, encode_studies(state.model, questions, report), encode_pool(state), steps=steps)
    for name in ("is_local", "local_files_only"):  # how the tokenizer was loaded is no setting of it
        policy.tokenizer.init_kwargs.pop(name, None)
    save_policy(policy.model.eval(), policy.tokenizer, out)


def draw_questions(*, seed: int, num_questions: int) -> tuple[Sample, ...]:
    """`num_questions` questions about volumes of each kind."""
    kinds = [
        build_studies(
            kind=kind, split="train", seed=seed, num_questions=num_questions, aspects=ASPECTS, size=IMAGE_SIZE, num_slices=NUM_SLICES
        )
        for kind in KINDS
    ]
    return tuple(sample for samples in kinds for sample in samples)


@torch.no_grad()
def encode_studies(model: BatchedModel, questions: Sequence[Sample], report: ReportProgress) -> StudyPool:
    """The visual tokens of all slices, in half precision to save memory."""
    visual = []
    for sample in questions:
        patches = torch.from_numpy(np.stack([cut_patches(np.asarray(image.load())) for image in sample.images]))
        visual.append(model.encode_images(patches).half())
        report("drawing studies")
    return StudyPool(questions=tuple(questions), visual=torch.stack(visual))


def _texts(questions: Sequence[Sample]) -> Iterator[str]:
    """Prompts and target completions of about 2,000 questions."""
    for sample in questions[:: max(1, len(questions) // 2000)]:
        for strategy in STUDY_STRATEGIES:
            yield render(sample, strategy).text + "\n" + target_completion(sample, strategy)


def _train(state: State, studies: StudyPool, visual: Tensor, *, steps: int) -> None:
    """Every step makes one update on the text-only tasks and one on questions about studies and images, as the packaged policy's did."""
    auxiliary = AuxiliaryHead(state.model)
    parameters = [*state.model.language.parameters(), *auxiliary.parameters()]
    text_optimizer, image_optimizer = adamw(parameters), adamw(parameters)
    loss_of = partial(score_rows, state, auxiliary)

    for step in range(steps):
        factor = schedule(step, steps, warmup=30)
        update_weights(
            state, text_optimizer, torch.stack([loss_of(rows, None)[0] for rows in draw_text_batches(state)]).sum(), 1e-3 * factor
        )
        rows, tokens = _draw_studies(state, studies)
        study_loss, letters = loss_of(rows, tokens)
        batch = draw_image_batch(state.pool, state.encoder, state.rng, NUM_IMAGES, IMAGE_STRATEGIES, QUESTION_TYPES)
        image_loss, _ = loss_of(batch.rows, visual[torch.tensor(batch.images)][batch.image_of_row])
        update_weights(state, image_optimizer, study_loss + 0.5 * image_loss, 7e-4 * factor)
        state.report(f"language model, study loss {study_loss.item():.2f}, letters {letters:.2f}")


def _draw_studies(state: State, studies: StudyPool) -> tuple[list[TrainingRow], Tensor]:
    """Rows of random questions about studies, and their visual tokens (rows, slices * V, D)."""
    drawn = state.rng.integers(0, len(studies.questions), NUM_STUDIES)
    rows = []
    for index in drawn:
        sample = shuffle_choices(Question(sample=studies.questions[index], image=0), state.rng).sample
        strategy = tuple(STUDY_STRATEGIES)[state.rng.choice(len(STUDY_STRATEGIES), p=tuple(STUDY_STRATEGIES.values()))]
        rows.append(state.encoder.question_row(sample, strategy))
    return rows, studies.visual[torch.from_numpy(drawn)].float().flatten(1, 2)
