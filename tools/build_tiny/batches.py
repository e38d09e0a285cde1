"""Training batches for the language model: three text-only tasks, and questions about images.

The text-only tasks teach symbol binding: the model must answer an option by its letter. This is learnt fastest when every option is one
token, when many queries share one list of options, and when some lists stand directly before their queries. In a part of the rows the
options are replaced by words that occur in no phantom, so that the model learns to look an option up and cannot memorise answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from osler.context import to_context
from osler.prompts import render
from osler.types import LETTERS, Sample
from tools.build_tiny.encoding import PromptEncoder
from tools.build_tiny.image_pool import ImagePool, Question, shuffle_choices
from tools.build_tiny.rows import IGNORE_INDEX, Query, TrainingRow

LIST_QUERIES: Final = 12  # queries in a row of option_list_rows
CHAT_QUERIES: Final = 3  # queries in a row of chat_rows
TWO_CHOICES: Final = 0.15  # share of option lists with two options; the others have four

StrategyWeights = Mapping[str, float]  # the share of each prompt strategy; the shares add up to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTasks:
    """What the text-only tasks draw from."""

    pool: ImagePool
    encoder: PromptEncoder
    letters: tuple[int, ...]  # the tokens of A, B, C, D
    other_words: NDArray[np.int64]  # the tokens of words that occur in no phantom text
    other_words_share: float  # share of rows whose options are replaced by other_words


def draw_question(pool: ImagePool, rng: np.random.Generator, type_weights: Sequence[float] | None = None) -> Question:
    """A question of a random type, with its options in a random order."""
    types = tuple(pool.by_type)
    questions = pool.by_type[types[rng.choice(len(types), p=type_weights)]]
    return shuffle_choices(questions[rng.integers(len(questions))], rng)


def _draw_strategy(rng: np.random.Generator, weights: StrategyWeights) -> str:
    return tuple(weights)[rng.choice(len(weights), p=tuple(weights.values()))]


def option_list_rows(tasks: TextTasks, rng: np.random.Generator, num_rows: int, *, tagged: bool) -> list[TrainingRow]:
    r"""Rows of "A) x\nB) y\n..", then queries.

    A query is "x", or "x</think><answer>" if `tagged`, and its label is "A". The letters themselves are not part of the sequence.
    """
    encoder = tasks.encoder
    bracket, newline, tags = encoder.encode("A) cyst\n")[1], encoder.token_id("\n"), encoder.encode("</think><answer>")
    num_choices = 2 if rng.random() < TWO_CHOICES else 4
    rows = []
    for _ in range(num_rows):
        options = _draw_options(tasks, rng, num_choices)
        tokens = [token for letter, option in zip(tasks.letters, options, strict=False) for token in (letter, bracket, option, newline)]
        labels = [IGNORE_INDEX] * len(tokens)
        option_positions = tuple(range(2, len(tokens), 4))
        queries = []
        for index in rng.integers(0, num_choices, LIST_QUERIES):
            query = [options[index], *(tags if tagged else [])]
            tokens += query
            labels += [IGNORE_INDEX] * (len(query) - 1) + [tasks.letters[index]]
            queries.append(Query(position=len(tokens) - 1, option=int(index), option_token=options[index]))
        rows.append(TrainingRow(tokens=tokens, labels=labels, option_positions=option_positions, queries=tuple(queries)))
    return rows


def _draw_options(tasks: TextTasks, rng: np.random.Generator, num_choices: int) -> list[int]:
    if rng.random() < tasks.other_words_share:
        return [int(word) for word in rng.choice(tasks.other_words, num_choices, replace=False)]
    sample = draw_question(tasks.pool, rng).sample
    while len(sample.choices) < num_choices:
        sample = draw_question(tasks.pool, rng).sample
    return [tasks.encoder.token_id(choice) for choice in sample.choices[:num_choices]]


def chat_rows(
    tasks: TextTasks, rng: np.random.Generator, num_rows: int, strategies: StrategyWeights, *, options_only: float
) -> list[TrainingRow]:
    """Rows of a prompt without its image, then completions with reasoning, each for a random option.

    In a share `options_only` of the rows the list of options replaces the prompt.
    """
    encoder, rows = tasks.encoder, []
    end = encoder.encode("</answer>")
    for _ in range(num_rows):
        sample = draw_question(tasks.pool, rng).sample
        strategy = _draw_strategy(rng, strategies)
        replacement = _draw_replacement(tasks, rng, sample)
        if rng.random() < options_only:
            tokens = encoder.encode("".join(f"{letter}) {choice}\n" for letter, choice in zip(LETTERS, sample.choices, strict=False)))
        else:
            tokens = encoder.prompt(sample, strategy, has_images=False)
        labels = [IGNORE_INDEX] * len(tokens)
        option_positions, queries = encoder.option_positions(tokens), []
        reasoning = encoder.encode("<think>" + (sample.rationale or ""))[:-1]
        separator = "\n" if strategy in ("medvlm_r1", "med_r1_think") else ""
        tags = [*encoder.encode(f"</think>{separator}"), *encoder.encode("<answer>")]
        for index in rng.integers(0, len(sample.choices), CHAT_QUERIES):
            option = encoder.token_id(sample.choices[index])
            query = [*reasoning, option, *tags]
            queries.append(
                Query(position=len(tokens) + len(query) - 1, option=int(index), option_token=replacement.get(option, option)),
            )
            tokens = tokens + query + [tasks.letters[index], *end]
            labels = labels + [IGNORE_INDEX] * (len(query) - 1) + [tasks.letters[index], *end] + [IGNORE_INDEX]
        tokens = [replacement.get(token, token) for token in tokens]
        rows.append(TrainingRow(tokens=tokens, labels=labels, option_positions=option_positions, queries=tuple(queries)))
    return rows


def stated_answer_rows(tasks: TextTasks, rng: np.random.Generator, num_rows: int, strategies: StrategyWeights) -> list[TrainingRow]:
    """Rows whose patient context states the answer: the model must predict its letter without reasoning first."""
    encoder, rows = tasks.encoder, []
    for _ in range(num_rows):
        question = draw_question(tasks.pool, rng)
        sample = replace(question.sample, context=to_context(question.sample.rationale))
        strategy = _draw_strategy(rng, strategies)
        replacement = _draw_replacement(tasks, rng, sample)
        tokens = encoder.chat_prompt(render(sample, strategy, phase="train").text, num_images=0)
        tokens = tokens + (encoder.encode("<answer>") if strategy != "zero_shot" else [])
        letter, option = encoder.token_id(sample.target), encoder.token_id(sample.target_text)
        query = Query(position=len(tokens) - 1, option=LETTERS.index(sample.target), option_token=replacement.get(option, option))
        rows.append(
            TrainingRow(
                tokens=[replacement.get(token, token) for token in tokens],
                labels=[IGNORE_INDEX] * (len(tokens) - 1) + [letter],
                option_positions=encoder.option_positions(tokens),
                queries=(query,),
            )
        )
    return rows


def _draw_replacement(tasks: TextTasks, rng: np.random.Generator, sample: Sample) -> dict[int, int]:
    """For each option token of the sample the token that replaces it; empty in the rows that keep their options."""
    if rng.random() >= tasks.other_words_share:
        return {}
    words = rng.choice(tasks.other_words, len(sample.choices), replace=False)
    return {tasks.encoder.token_id(choice): int(word) for choice, word in zip(sample.choices, words, strict=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBatch:
    """Questions about images, two rows for each image."""

    rows: list[TrainingRow]
    images: list[int]  # indices into the pool
    image_of_row: list[int]  # for each row an index into `images`


def draw_image_batch(
    pool: ImagePool,
    encoder: PromptEncoder,
    rng: np.random.Generator,
    num_images: int,
    strategies: StrategyWeights,
    type_weights: Sequence[float],
) -> ImageBatch:
    """Two questions about each of `num_images` images; `type_weights`: the share of each question type, in the order of QuestionType."""
    rows, images, image_of_row = [], [], []
    for index in range(num_images):
        first = draw_question(pool, rng, type_weights)
        same_image = pool.by_image[first.image]
        second = same_image[rng.integers(len(same_image))]
        images.append(first.image)
        image_of_row += [index, index]
        for question in (first, shuffle_choices(second, rng)):
            strategy = _draw_strategy(rng, strategies)
            rows.append(encoder.question_row(question.sample, strategy, phase="train" if rng.random() < 0.5 else "eval"))
    return ImageBatch(rows=rows, images=images, image_of_row=image_of_row)
