"""Continue `osler-tiny` on the training images of a recipe, so that it has seen real pixels.

Its tokenizer is extended, because it answers by letter only if an option is one token. The vision encoder is first trained alone, by a
classifier for each question that is asked of several images with several answers; through the language model it would learn an order of
magnitude more slowly. Then both are trained on No-Think questions, beside the text-only tasks of the packaged policy. Training stops long
before convergence.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from osler.errors import DataError
from osler.policies.load import load_policy
from osler.prompts import render
from osler.text import fold_words
from osler.types import ImageSource, Sample
from tools.build_tiny.architecture import IMAGE_SIZE, save_policy
from tools.build_tiny.auxiliary_head import AuxiliaryHead
from tools.build_tiny.batched_model import NUM_VISUAL_TOKENS, cut_patches
from tools.build_tiny.image_pool import Question, build_pool, shuffle_choices
from tools.build_tiny.recipe import POOL_SEED, list_corpus, make_state, with_used
from tools.build_tiny.rows import TrainingRow
from tools.build_tiny.tokenizer import build_tokenizer
from tools.build_tiny.training_stages import MAX_GRAD_NORM, State, adamw, draw_text_batches, schedule, score_rows, update_weights

STRATEGY: Final = "no_think"
SUBJECTS: Final = 60  # of each modality, for the text-only tasks
MIN_OPTION, MAX_OPTIONS = 3, 100  # an option becomes one token when it is offered so often in training, if it is one of the most frequent
MIN_WORD, MAX_WORDS = 4, 300  # and a word when so many questions have it
MIN_IMAGES: Final = 12  # a classifier is trained for a question that is asked of so many images
MARGIN: Final = 16  # pixels by which an image is larger than what the policy sees of it in training
VISION_IMAGES, NUM_IMAGES, MAX_QUESTIONS = 24, 12, 4  # images in a step of each stage, and questions about one of them
FROZEN_VISION: Final = 100  # steps of the second stage before the vision encoder is trained on
_WORD: Final = re.compile(r" ?[^\W\d_]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class RealImages:
    """Images a little larger than the policy sees them, and the questions about each."""

    pixels: Mapping[ImageSource, NDArray[np.uint8]]
    questions: Mapping[ImageSource, Sequence[Sample]]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> RealImages:
        """The questions with choices about single images."""
        questions: defaultdict[ImageSource, list[Sample]] = defaultdict(list)
        for sample in samples:
            if sample.choices and len(sample.images) == 1:
                questions[sample.images[0]].append(sample)
        size = (IMAGE_SIZE + MARGIN, IMAGE_SIZE + MARGIN)
        pixels = {source: np.asarray(source.load().resize(size, Image.Resampling.BICUBIC)) for source in questions}
        return cls(pixels=pixels, questions=dict(questions))

    def draw(self, sources: Sequence[ImageSource], rng: np.random.Generator) -> Tensor:
        """The patches (I, N, 588) of these images, each cut out at a random place and size, and of random brightness and contrast."""
        return torch.from_numpy(np.stack([cut_patches(_vary(self.pixels[source], rng)) for source in sources]))


def _vary(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    side = int(rng.integers(IMAGE_SIZE - 4, len(pixels) + 1))
    top, left = rng.integers(0, len(pixels) - side + 1, 2)
    part = Image.fromarray(pixels[top : top + side, left : left + side]).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    varied = (np.asarray(part, dtype=np.float32) - 128) * rng.uniform(0.8, 1.25) + 128 + rng.uniform(-20, 20)
    return varied.clip(0, 255).astype(np.uint8)


def build_on_images(out: Path, samples: Sequence[Sample], *, seed: int, vision_steps: int = 400, language_steps: int = 400) -> None:
    """Train the packaged policy on the multiple-choice questions of `samples` and write its folder to `out`.

    It takes about four minutes on one idle core. The same arguments on the same machine yield the same weights, bit for bit.
    Raises DataError without such a question.
    """
    images = RealImages.of(samples)
    if not images.questions:
        raise DataError("no training question has choices and a single image: select such questions")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    policy = load_policy("osler-tiny")
    tokenizer = extend_tokenizer(policy.model, policy.tokenizer, samples)
    pool = build_pool(split="train", seed=POOL_SEED + seed, subjects=SUBJECTS)
    with tqdm(total=vision_steps + language_steps, unit="step", desc="osler-tiny on real images") as bar:

        def report(status: str) -> None:
            bar.set_postfix_str(status, refresh=False)
            bar.update()

        state = make_state(policy.model, tokenizer, pool, seed=seed, report=report)
        state = with_used(state, (render(sample, STRATEGY).text for sample in samples))
        _train_vision(state, images, steps=vision_steps)
        _train_both(state, images, steps=language_steps)
    save_policy(policy.model.eval(), tokenizer, out)


def extend_tokenizer(model: Any, tokenizer: Any, samples: Sequence[Sample]) -> Any:
    """A tokenizer with tokens for frequent options and words of `samples`. `model` gets its embeddings; new ones are random."""
    options = Counter(choice for sample in samples for choice in sample.choices)
    words = Counter(word for sample in samples for word in set(_WORD.findall(sample.question)))
    corpus = [*list_corpus(), *(f"{word}{word}" for word, count in words.most_common(MAX_WORDS) if count >= MIN_WORD)]
    extended = build_tokenizer(corpus, [option for option, count in options.most_common(MAX_OPTIONS) if count >= MIN_OPTION])
    before, known = model.get_input_embeddings().weight.detach().clone(), tokenizer.get_vocab()
    model.resize_token_embeddings(len(extended), mean_resizing=False)
    with torch.no_grad():
        weight = model.get_input_embeddings().weight.normal_(0, float(before.std()))
        for token, index in extended.get_vocab().items():
            if token in known:
                weight[index] = before[known[token]]
    return extended


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The answers to repeated questions as classes: each question has a range of the outputs of one linear layer."""

    num_outputs: int
    of_image: Mapping[ImageSource, Sequence[tuple[slice, int]]]  # the outputs of a question, and the place of the right one among them

    @classmethod
    def of(cls, images: RealImages) -> Labels:
        """The questions that are asked of at least MIN_IMAGES images and have several answers."""
        answers: defaultdict[str, list[str]] = defaultdict(list)
        for sample in (sample for asked in images.questions.values() for sample in asked):
            answers[fold_words(sample.question)].append(fold_words(sample.target_text))
        classes = {text: sorted(set(given)) for text, given in answers.items() if len(given) >= MIN_IMAGES and len(set(given)) > 1}
        ends = np.cumsum([0, *map(len, classes.values())]).tolist()
        outputs = {text: slice(start, end) for text, start, end in zip(classes, ends, ends[1:], strict=False)}
        of_image = {}
        for source, asked in images.questions.items():
            keys = [(fold_words(sample.question), fold_words(sample.target_text)) for sample in asked]
            if known := [(outputs[text], classes[text].index(answer)) for text, answer in keys if text in classes]:
                of_image[source] = known
        return cls(num_outputs=ends[-1], of_image=of_image)


def _train_vision(state: State, images: RealImages, *, steps: int) -> None:
    """Train the vision encoder to answer repeated questions, with classifiers that are discarded afterwards."""
    labels = Labels.of(images)
    if not labels.of_image:  # no question is asked of enough images
        return
    width = state.model.language.config.hidden_size
    classifier = nn.Sequential(
        *(nn.Linear(NUM_VISUAL_TOKENS * width, 2 * width), nn.GELU(), nn.Dropout(0.2), nn.Linear(2 * width, labels.num_outputs))
    )
    optimizer = adamw([*state.model.visual.parameters(), *classifier.parameters()], weight_decay=0.05)
    known = list(labels.of_image)
    for step in range(steps):
        drawn = [known[index] for index in state.rng.integers(0, len(known), VISION_IMAGES)]
        scores = classifier(state.model.encode_images(images.draw(drawn, state.rng)).flatten(1))
        pairs = [(scores[row, outputs], right) for row, source in enumerate(drawn) for outputs, right in labels.of_image[source]]
        loss = torch.stack([F.cross_entropy(own, torch.tensor(right)) for own, right in pairs]).mean()
        update_weights(state, optimizer, loss, 1e-3 * schedule(step, steps, warmup=30, hold=0.3, floor=0.03))
        state.report(f"vision encoder, loss {loss.item():.2f}")


def _train_both(state: State, images: RealImages, *, steps: int) -> None:
    """Train the language model, and after some steps the vision encoder with it; every second step also makes an update on text alone."""
    auxiliary = AuxiliaryHead(state.model)
    parameters = [*state.model.language.parameters(), *auxiliary.parameters()]
    text_optimizer, image_optimizer = adamw(parameters), adamw(parameters)
    vision_optimizer = adamw(state.model.visual.parameters(), weight_decay=0.05)
    sources = list(images.questions)
    loss_of = partial(score_rows, state, auxiliary)

    for step in range(steps):
        factor = schedule(step, steps, warmup=30)
        if step % 2 == 0:
            texts = torch.stack([loss_of(rows, None)[0] for rows in draw_text_batches(state)]).sum()
            update_weights(state, text_optimizer, texts, 1e-3 * factor)
        drawn = [sources[index] for index in state.rng.integers(0, len(sources), NUM_IMAGES)]
        rows, image_of_row = _draw_questions(state, [images.questions[source] for source in drawn])
        loss, letters = loss_of(rows, state.model.encode_images(images.draw(drawn, state.rng))[torch.tensor(image_of_row)])
        update_weights(state, image_optimizer, loss, 7e-4 * factor)
        if step >= FROZEN_VISION:
            nn.utils.clip_grad_norm_(state.model.visual.parameters(), MAX_GRAD_NORM)
            for group in vision_optimizer.param_groups:
                group["lr"] = 3e-4 * factor
            vision_optimizer.step()
        state.report(f"both, letters {letters:.2f}")


def _draw_questions(state: State, questions: Sequence[Sequence[Sample]]) -> tuple[list[TrainingRow], list[int]]:
    """Rows of at most MAX_QUESTIONS questions about each image, options in a random order, and the place of each row's image."""
    rows, image_of_row = [], []
    for place, asked in enumerate(questions):
        for index in state.rng.permutation(len(asked))[:MAX_QUESTIONS]:
            sample = shuffle_choices(Question(sample=asked[index], image=place), state.rng).sample
            rows.append(state.encoder.question_row(sample, STRATEGY))
            image_of_row.append(place)
    return rows, image_of_row
