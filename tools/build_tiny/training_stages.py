"""The two training stages of `osler-tiny`: the vision encoder, then the language model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.build_tiny.auxiliary_head import AuxiliaryHead
from tools.build_tiny.batched_model import NUM_VISUAL_TOKENS, BatchedModel
from tools.build_tiny.batches import TextTasks, chat_rows, draw_image_batch, option_list_rows, stated_answer_rows
from tools.build_tiny.encoding import PromptEncoder
from tools.build_tiny.image_pool import ImagePool, list_attributes, list_signs_of
from tools.build_tiny.rows import TrainingRow

ATTRIBUTE_WEIGHTS: Final = (1.0, 0.5, 1.0, 1.0, 1.0)  # of the losses of stage 1, in the order of ATTRIBUTES
BETAS: Final = (0.9, 0.98)  # Adam's
MAX_GRAD_NORM: Final = 1.0
COSINE_SCALE: Final = 30.0  # inverse temperature of the cosine similarity between images and words
STATUS_WINDOW: Final = 20  # steps over which the letter accuracies of the progress bar are averaged

# The batches of a step of stage 2, and the share of each question type (in the order of QuestionType) and prompt strategy in them.
OPTION_LIST_ROWS: Final = 16
CHAT_ROWS: Final = 8
STATED_ANSWER_ROWS: Final = 12
NUM_IMAGES: Final = 16
QUESTION_TYPES: Final = (0.06, 0.12, 0.28, 0.28, 0.26)
CHAT_STRATEGIES: Final = {"think": 0.86, "med_r1_think": 0.07, "medvlm_r1": 0.07}
STATED_ANSWER_STRATEGIES: Final = {"no_think": 0.5, "think_after": 0.35, "zero_shot": 0.15}
IMAGE_STRATEGIES: Final = {
    "think": 0.50,
    "no_think": 0.19,
    "think_after": 0.13,
    "zero_shot": 0.05,
    "medvlm_r1": 0.04,
    "med_r1_think": 0.04,
    "med_r1_no_think": 0.03,
    "medvlm_r1_zero_shot": 0.01,
    "med_r1_zero_shot": 0.01,
}

ReportProgress = Callable[[str], None]
"""Called with a short status after each rendered image and each training step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What both training stages work on."""

    model: BatchedModel
    pool: ImagePool
    encoder: PromptEncoder
    text_tasks: TextTasks
    unused_tokens: Tensor  # ids of the tokens that occur in no phantom text; their embeddings are not trained
    rng: np.random.Generator
    report: ReportProgress


def schedule(step: int, steps: int, *, warmup: int, hold: float = 0.5, floor: float = 0.05) -> float:
    """The factor of the learning rate: linear warm-up, constant until the share `hold` of all steps, then linear decay to `floor`."""
    decay = 1.0 if step <= hold * steps else max(floor, (steps - step) / max(1.0, (1 - hold) * steps))
    return min(1.0, (step + 1) / warmup) * decay


def train_vision(state: State, *, steps: int, seed: int, batch_size: int = 32, learning_rate: float = 2e-3) -> None:
    """Stage 1: train the vision encoder to recognise the attributes of an image.

    Each attribute has three losses: one of a classifier that is discarded afterwards, and two that align the visual tokens with the
    embeddings of the attribute's word and of its sign.
    """
    names, labels = _label(list_attributes(findings) for findings in state.pool.findings)
    signs, sign_labels = _label(list_signs_of(findings) for findings in state.pool.findings)
    width = state.model.language.config.hidden_size
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Linear(NUM_VISUAL_TOKENS * width, 2 * width), nn.GELU(), nn.Dropout(0.1))
    classifiers = nn.ModuleList(nn.Linear(2 * width, len(values)) for values in names)
    words, sign_words = ([torch.tensor([state.encoder.encode(name)[0] for name in values]) for values in table] for table in (names, signs))
    optimizer = adamw([*state.model.visual.parameters(), *trunk.parameters(), *classifiers.parameters()], weight_decay=0.05)
    for step in range(steps):
        drawn = torch.from_numpy(state.rng.integers(0, len(state.pool.patches), batch_size))
        visual = state.model.encode_images(state.pool.patches[drawn])
        features = trunk(visual.flatten(1))
        similarity = _word_similarity(visual, state.model.language.embed_tokens.weight.detach())
        losses = [
            weight * (F.cross_entropy(classifier(features), label[drawn]) + F.cross_entropy(similarity[:, word], label[drawn]))
            for weight, classifier, word, label in zip(ATTRIBUTE_WEIGHTS, classifiers, words, labels, strict=True)
        ]
        losses += [
            weight * F.cross_entropy(similarity[:, word], label[drawn])
            for weight, word, label in zip(ATTRIBUTE_WEIGHTS, sign_words, sign_labels, strict=True)
        ]
        loss = torch.stack(losses).sum()
        update_weights(state, optimizer, loss, learning_rate * schedule(step, steps, warmup=50, hold=0.1, floor=0.03))
        state.report(f"vision encoder, loss {loss.item():.2f}")


def _label(rows: Iterable[Sequence[str]]) -> tuple[list[list[str]], list[Tensor]]:
    """For each column of the images' values its sorted values, and for each image the index of its value."""
    columns = list(zip(*rows, strict=True))
    names = [sorted(set(column)) for column in columns]
    return names, [torch.tensor([values.index(value) for value in column]) for values, column in zip(names, columns, strict=True)]


def _word_similarity(visual: Tensor, embeddings: Tensor) -> Tensor:
    """Scaled cosine similarity (I, W) between the mean of each image's visual tokens (I, V, D) and each word embedding (W, D)."""
    width = visual.shape[-1]
    mean = F.rms_norm(visual, (width,)).mean(1)
    similarity: Tensor = mean @ F.normalize(embeddings, dim=-1).T * (COSINE_SCALE / width**0.5)
    return similarity


@torch.no_grad()
def encode_pool(state: State, *, batch_size: int = 64) -> Tensor:
    """The visual tokens (I, V, D) of all images of the pool."""
    return torch.cat([state.model.encode_images(patches) for patches in torch.split(state.pool.patches, batch_size)])


def train_language(
    state: State, visual: Tensor, *, steps: int, text_learning_rate: float = 1e-3, image_learning_rate: float = 7e-4
) -> None:
    """Stage 2: train the language model on the visual tokens (I, V, D) of the frozen vision encoder.

    Every step makes one update on the text-only tasks and one on questions about images, each with its own Adam state, because their
    gradients conflict in one summed loss.
    """
    auxiliary = AuxiliaryHead(state.model)
    parameters = [*state.model.language.parameters(), *auxiliary.parameters()]
    text_optimizer, image_optimizer = adamw(parameters), adamw(parameters)
    recent: deque[tuple[float, float]] = deque(maxlen=STATUS_WINDOW)

    def update(optimizer: torch.optim.AdamW, batches: list[list[TrainingRow]], visual_tokens: Tensor | None, learning_rate: float) -> float:
        outputs = [state.model.forward(rows, visual_tokens) for rows in batches]
        losses = [output.loss + auxiliary.loss(rows, output.hidden_states) for rows, output in zip(batches, outputs, strict=True)]
        update_weights(state, optimizer, torch.stack(losses).sum(), learning_rate)
        return float(np.mean([output.letter_accuracy or 0.0 for output in outputs]))

    for step in range(steps):
        factor = schedule(step, steps, warmup=30)
        text_accuracy = update(text_optimizer, draw_text_batches(state), None, text_learning_rate * factor)
        batch = draw_image_batch(state.pool, state.encoder, state.rng, NUM_IMAGES, IMAGE_STRATEGIES, QUESTION_TYPES)
        visual_tokens = visual[torch.tensor(batch.images)][batch.image_of_row]
        recent.append((text_accuracy, update(image_optimizer, [batch.rows], visual_tokens, image_learning_rate * factor)))
        means = np.mean(recent, 0)
        state.report(f"language model, letters {means[0]:.2f} without images, {means[1]:.2f} with images")


def score_rows(state: State, auxiliary: AuxiliaryHead, rows: list[TrainingRow], visual: Tensor | None) -> tuple[Tensor, float]:
    """The loss of rows with their visual tokens, that of the auxiliary head included, and how many letters are right."""
    output = state.model.forward(rows, visual)
    return output.loss + auxiliary.loss(rows, output.hidden_states), output.letter_accuracy or 0.0


def draw_text_batches(state: State) -> list[list[TrainingRow]]:
    """One batch of each text-only task. They are run separately because their lengths differ, and their losses have equal weights."""
    tasks, rng = state.text_tasks, state.rng
    return [
        option_list_rows(tasks, rng, OPTION_LIST_ROWS, tagged=bool(rng.random() < 0.5)),
        chat_rows(tasks, rng, CHAT_ROWS, CHAT_STRATEGIES, options_only=0.2),
        stated_answer_rows(tasks, rng, STATED_ANSWER_ROWS, STATED_ANSWER_STRATEGIES),
    ]


def adamw(parameters: Iterable[nn.Parameter], *, weight_decay: float = 0.0) -> torch.optim.AdamW:
    """The optimizer of a stage."""
    return torch.optim.AdamW(parameters, betas=BETAS, weight_decay=weight_decay)  # update_weights sets the learning rate


def update_weights(state: State, optimizer: torch.optim.AdamW, loss: Tensor, learning_rate: float) -> None:
    """One update. The embeddings of unused tokens have no gradient.

    These tokens are wrong answers to every question. Their gradients would all point in the same direction, and their embeddings would
    become equal; then they could no longer serve as options of the text-only tasks.
    """
    state.model.model.zero_grad()
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    gradient = state.model.language.embed_tokens.weight.grad
    if gradient is not None:
        gradient[state.unused_tokens] = 0.0
    nn.utils.clip_grad_norm_([parameter for group in optimizer.param_groups for parameter in group["params"]], MAX_GRAD_NORM)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
