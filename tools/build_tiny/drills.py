"""Text without pictures that teaches one thing: an option is answered by its letter.

Letters form best when options are single tokens, many queries share one list of options, and some lists stand close to their queries.
Words that no picture shows stand in for part of the options, so that the policy learns to look an option up and not a table of answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from osler.prompts import render
from osler.types import LETTERS, Sample
from tools.build_tiny.encoding import Encoder
from tools.build_tiny.fast import IGNORED, Query, Row
from tools.build_tiny.pool import Pool, Question, shuffle_choices

NUM_TURNS = 3  # questions in one chat drill
QUERIES = 12  # questions in one bare drill


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillSource:
    """Where drills come from."""

    pool: Pool
    encoder: Encoder
    letters: tuple[int, ...]  # the tokens of A, B, C, D
    words: NDArray[np.int64]  # tokens of words that no phantom speaks of
    random_words: float  # share of drills whose options are words that no picture shows


def pick_question(pool: Pool, rng: np.random.Generator, weights: Sequence[float] | None = None) -> Question:
    """A question of a random type with its options in a new order."""
    types = tuple(pool.questions)
    asked = pool.questions[types[rng.choice(len(types), p=weights)]]
    question = asked[rng.integers(len(asked))]
    return replace(question, sample=shuffle_choices(question.sample, rng))


def drill_bare(source: DrillSource, rng: np.random.Generator, size: int, *, tagged: bool) -> list[Row]:
    r"""Rows of "A) x\nB) y\n..." and then queries: "x" -> "A", or with `tagged` "x</think><answer>" -> "A"; letters are not fed back."""
    encoder = source.encoder
    bracket, newline, tags = encoder.encode("A) cyst\n")[1], encoder.token("\n"), encoder.encode("</think><answer>")
    num_choices = 2 if rng.random() < 0.15 else 4
    rows = []
    for _ in range(size):
        words = _draw_words(source, rng, num_choices)
        tokens = [token for letter, word in zip(source.letters, words, strict=False) for token in (letter, bracket, word, newline)]
        labels = [IGNORED] * len(tokens)
        options = tuple(range(2, len(tokens), 4))
        queries = []
        for pick in rng.integers(0, num_choices, QUERIES):
            query = [words[pick], *(tags if tagged else [])]
            tokens += query
            labels += [IGNORED] * (len(query) - 1) + [source.letters[pick]]
            queries.append(Query(at=len(tokens) - 1, option=int(pick), word=words[pick]))
        rows.append(Row(tokens=tokens, labels=labels, options=options, queries=tuple(queries)))
    return rows


def _draw_words(source: DrillSource, rng: np.random.Generator, num: int) -> list[int]:
    if rng.random() < source.random_words:
        return [int(word) for word in rng.choice(source.words, num, replace=False)]
    sample = pick_question(source.pool, rng).sample
    while len(sample.choices) < num:
        sample = pick_question(source.pool, rng).sample
    return [source.encoder.token(choice) for choice in sample.choices[:num]]


def drill_chat(source: DrillSource, rng: np.random.Generator, size: int, strategies: dict[str, float], *, bare: float) -> list[Row]:
    """Rows of a prompt without its picture, then several reasoned answers about its options. A share `bare` has options only."""
    rows = []
    names, weights = tuple(strategies), tuple(strategies.values())
    end = source.encoder.encode("</answer>")
    for _ in range(size):
        sample = pick_question(source.pool, rng).sample
        strategy = names[rng.choice(len(names), p=weights)]
        swap = _draw_swap(source, rng, sample)
        if rng.random() < bare:
            tokens = source.encoder.encode(
                "".join(f"{letter}) {choice}\n" for letter, choice in zip(LETTERS, sample.choices, strict=False))
            )
        else:
            tokens = source.encoder.prompt(sample, strategy, has_picture=False)
        labels = [IGNORED] * len(tokens)
        options, queries = source.encoder.options(tokens), []
        lead = source.encoder.encode("<think>" + (sample.rationale or ""))[:-1]
        separator = "\n" if strategy in ("medvlm_r1", "med_r1_think") else ""
        for pick in rng.integers(0, len(sample.choices), NUM_TURNS):
            query = [
                *lead,
                source.encoder.token(sample.choices[pick]),
                *source.encoder.encode(f"</think>{separator}"),
                *source.encoder.encode("<answer>"),
            ]
            word = source.encoder.token(sample.choices[pick])
            queries.append(Query(at=len(tokens) + len(query) - 1, option=int(pick), word=swap.get(word, word)))
            tokens = tokens + query + [source.letters[pick], *end]
            labels = labels + [IGNORED] * (len(query) - 1) + [source.letters[pick], *end] + [IGNORED]
        rows.append(Row(tokens=[swap.get(token, token) for token in tokens], labels=labels, options=options, queries=tuple(queries)))
    return rows


def drill_facts(source: DrillSource, rng: np.random.Generator, size: int, strategies: dict[str, float]) -> list[Row]:
    """Rows whose patient context states the answer, for strategies that answer first: from a word to its letter without reasoning."""
    rows = []
    names, weights = tuple(strategies), tuple(strategies.values())
    for _ in range(size):
        question = pick_question(source.pool, rng)
        sample = replace(question.sample, context=question.sample.rationale)
        strategy = names[rng.choice(len(names), p=weights)]
        swap = _draw_swap(source, rng, sample)
        tokens = source.encoder.wrap(render(sample, strategy, phase="train").text, has_picture=False)
        tokens = tokens + (source.encoder.encode("<answer>") if strategy != "zero_shot" else [])
        letter, word = source.encoder.token(sample.target), source.encoder.token(sample.target_text)
        rows.append(
            Row(
                tokens=[swap.get(token, token) for token in tokens],
                labels=[IGNORED] * (len(tokens) - 1) + [letter],
                options=source.encoder.options(tokens),
                queries=(Query(at=len(tokens) - 1, option=LETTERS.index(sample.target), word=swap.get(word, word)),),
            )
        )
    return rows


def _draw_swap(source: DrillSource, rng: np.random.Generator, sample: Sample) -> dict[int, int]:
    """Which token stands in for each option of the sample."""
    if rng.random() >= source.random_words:
        return {}
    words = rng.choice(source.words, len(sample.choices), replace=False)
    return {source.encoder.token(choice): int(word) for choice, word in zip(sample.choices, words, strict=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureBatch:
    """Rows about pictures, two rows for each picture."""

    rows: list[Row]
    pictures: list[int]  # indices into the pool, each once
    owners: list[int]  # for each row, its place in `pictures`


def draw_pictures(
    pool: Pool, encoder: Encoder, rng: np.random.Generator, size: int, strategies: dict[str, float], types: tuple[float, ...]
) -> PictureBatch:
    """Two questions about each of `size` pictures; `types` are the shares of the question types, in the order of QuestionType."""
    rows, pictures, owners = [], [], []
    names, shares = tuple(strategies), tuple(strategies.values())
    for place in range(size):
        first = pick_question(pool, rng, types)
        beside = pool.by_picture[first.picture]
        second = beside[rng.integers(len(beside))]
        pictures.append(first.picture)
        owners += [place, place]
        for question in (first, replace(second, sample=shuffle_choices(second.sample, rng))):
            strategy = names[rng.choice(len(names), p=shares)]
            rows.append(encoder.question_row(question.sample, strategy, question.picture, phase="train" if rng.random() < 0.5 else "eval"))
    return PictureBatch(rows=rows, pictures=pictures, owners=owners)
