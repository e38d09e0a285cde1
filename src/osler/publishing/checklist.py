"""TRIPOD-LLM and CLAIM as tables: what a run answers by itself, and what its author must.

The topics are in `templates/checklist.toml`. What Osler fills in names a section of the model card or states a fact of the run; where a run
does not hold it, the item is the author's.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from pydantic import TypeAdapter

from osler.errors import ConfigError
from osler.publishing.card import Card, software
from osler.publishing.markdown import fill
from osler.reports.load_runs import manifest_cells

MUST: Final = "**the author must**"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item of a checklist."""

    number: str  # "14"
    topic: str
    osler: str | None = None  # a name in FILLS
    author: str | None = None  # what only the author can add


@dataclass(frozen=True, slots=True, kw_only=True)
class Checklist:
    """A reporting guideline."""

    title: str  # "CLAIM"
    reference: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An item with what is reported for it."""

    number: str
    topic: str
    osler: str  # "" where the run answers nothing
    author: str  # what the author states, or must still state; "" where nothing is needed
    is_open: bool  # whether the author must still state something


@cache
def read_checklists() -> tuple[Checklist, ...]:
    """The checklists of the package."""
    text = files("osler.publishing").joinpath("templates", "checklist.toml").read_text(encoding="utf-8")
    return TypeAdapter(tuple[Checklist, ...]).validate_python(tuple(tomllib.loads(text).values()))


def answer(card: Card, checklist: Checklist) -> tuple[Answer, ...]:
    """Every item of a checklist, with what the run and the author's file say."""
    return tuple(_answer(card, item, card.author.checklist.get(f"{checklist.title} {item.number}")) for item in checklist.items)


def _answer(card: Card, item: Item, stated: str | None) -> Answer:
    filled = FILLS[item.osler](card) if item.osler is not None else None
    asks = item.author or (item.topic[:1].lower() + item.topic[1:] if filled is None else None)
    is_open = stated is None and asks is not None
    return Answer(
        number=item.number,
        topic=item.topic,
        osler=filled or "",
        author=stated if stated is not None else f"{MUST}: {asks}" if asks is not None else "",
        is_open=is_open,
    )


def check_keys(stated: Mapping[str, Any]) -> None:
    """Raise ConfigError for a key of `[checklist]` in the author's file that names no item."""
    known = {f"{checklist.title} {item.number}" for checklist in read_checklists() for item in checklist.items}
    if unknown := sorted(set(stated) - known):
        raise ConfigError(f'[checklist] of the --author file has no item {unknown[0]!r}: use names such as "CLAIM 42" and "TRIPOD-LLM 13"')


def count_open(card: Card) -> int:
    """The number of items that wait for the author."""
    return sum(one.is_open for checklist in read_checklists() for one in answer(card, checklist))


def write_checklist(card: Card) -> str:
    """The tables as Markdown."""
    tables = [(checklist, answer(card, checklist)) for checklist in read_checklists()]
    return fill("checklist.md.j2", card=card, tables=tables, num_open=count_open(card))


def _kind(card: Card) -> str:
    tested = "tested" if card.finished.own else "not tested"
    return f"A vision-language model ({card.architecture}), fine-tuned by {card.finished.method} and {tested} on questions about images."


def _data(card: Card) -> str:
    sources = "; ".join(f"{one.title}: {one.source or 'source not stated'}" for one in card.data.sources)
    return f"{sources}; splits, counts and SHA-256: section Data."


def _counts(card: Card) -> str | None:
    return "Questions by modality, type and split: section Data." if card.results.counts else None


def _training(card: Card) -> str | None:
    if card.num_steps is None:
        return None
    order = "options in a new order in every epoch" if card.config.data.shuffle_options else "no augmentation"
    return f"{card.finished.method}, {card.num_steps:,} steps, one model, {order}; every setting: section Training."


def _grading(_card: Card) -> str:
    return (
        "Answers are read by fixed rules: no answer and two answers count as wrong. Accuracy, and image gain over baselines without the "
        "image: section Results."
    )


def _prompt(card: Card) -> str:
    return f"Strategy {card.finished.strategy}, word for word: section Prompt."


def _rewards(card: Card) -> str:
    if card.finished.method == "SFT":
        return "Reference answers; nobody judged completions."
    names = ", ".join(card.config.rewards.names)
    return f"Rewards by rules ({names}); nobody judged completions."


def _compute(card: Card) -> str | None:
    if card.seconds is None:
        return None
    return "Training time and machine: section Training; energy: section Environmental cost."


def _code(card: Card) -> str:
    commit = card.finished.run.environment.get("commit")
    at = f", commit {commit}" if isinstance(commit, str) else ""
    where = f"; {card.author.repository}" if card.author.repository else ""
    return f"Osler{at}, with the whole recipe in section Training{where}."


def _performance(card: Card) -> str | None:
    return (
        "Accuracies on the test questions with 95 % intervals, by modality and question type: section Results."
        if card.finished.own
        else None
    )


def _limits(_card: Card) -> str:
    return "What the run itself shows: section Limits."


def _preparation(card: Card) -> str:
    policy = card.config.policy
    sizes = [
        f"{key} {value:,}" for key, value in (("min_pixels", policy.min_pixels), ("max_pixels", policy.max_pixels)) if value is not None
    ]
    study = card.config.data.study
    shown = f"studies: up to {study.slices} slices, {study.layout}"
    return f"Images are resized by the processor ({', '.join(sizes) or 'its own limits'}), {shown}; [data.study] in the recipe."


def _selection(card: Card) -> str:
    train = card.config.data.train
    limits = [str(train.limit) if train.limit is not None else "", ", ".join(train.modalities)]
    parts = [f"training: {' of '.join(part for part in limits if part) or 'all questions'}, [data.train] in the recipe"]
    parts += [f"{', '.join(one.titles)}: {one.num_questions:,} questions of {one.place}" for one in card.data.tested]
    return f"{'; '.join(parts)}."


def _elements(_card: Card) -> str:
    return "The right answer is the dataset's own; modalities and question types by Osler's taxonomy."


def _privacy(card: Card) -> str:
    if card.config.data.private:
        return "Ids, subjects and names of images were keyed hashes during training and evaluation."
    return "No data are in this folder."


def _missing(card: Card) -> str:
    return "Rows that cannot be read are refused" + (" and stop the run." if card.config.data.strict else " and left out.")


def _split(card: Card) -> str:
    if card.data.tested and all(one.split_digest for one in card.data.tested):
        return "By a manifest of osler split; its SHA-256: section Data."
    tested = "".join(f"; tested on {one.place}" for one in card.data.tested)
    return f"Trained on {card.data.trained.title}, split {card.data.trained.split}{tested}: section Data."


def _disjoint(card: Card) -> str | None:
    tested = card.data.tested
    if tested and all(one.split_digest for one in tested):
        return f"Patients{' and near-duplicate images' if all(one.max_distance is not None for one in tested) else ''} stay together."
    return "Questions, by their ids: section Data." if tested and card.data.is_checked else None


def _power(card: Card) -> str | None:
    return "The number of test questions, and intervals that follow from it: section Results." if card.finished.own else None


def _model(card: Card) -> str:
    weights = card.finished.weights
    return f"{card.architecture}, {weights.num_parameters:,} parameters: images and text in, text out; config.json."


def _software(card: Card) -> str | None:
    return ", ".join(f"{name} {version}" for name, version in software(card)) or None


def _base(card: Card) -> str:
    return f"Those of {card.base_model or card.finished.base.name}."


def _final(_card: Card) -> str:
    return "The weights after the last step."


def _votes(card: Card) -> str:
    votes = card.config.eval.num_votes
    return f"No ensemble; the most frequent of {votes} answers." if votes > 1 else "None: one model, one greedy answer."


def _statistics(card: Card) -> str | None:
    if not card.finished.own:
        return None
    return "Wilson's 95 % intervals, by images or patients where questions share one; paired differences; Holm's correction."


def _robustness(card: Card) -> str | None:
    return "Altered images: section Results, Does it look?" if card.results.looks else None


def _truth(card: Card) -> str | None:
    return "The reasoning is compared with facts of the image: section Results, Is the reasoning true?" if card.results.truth else None


def _external(card: Card) -> str | None:
    if others := [one.title for one in card.data.tested if not one.is_of_training]:
        return f"Another dataset than that of training ({', '.join(dict.fromkeys(others))}): section Results."
    trained = set(manifest_cells(card.finished.run.manifest, "train"))
    tested = {name for one in card.data.tested for name in one.cells}
    if not trained or not tested - trained:
        return None
    return "Other modalities than those of training, of the same dataset; no other site."


def _failures(card: Card) -> str | None:
    return "Question types and modalities with their accuracies; single failures are in `osler report`." if card.finished.own else None


def _no_summaries(_card: Card) -> str:
    return "Not applicable: nothing is summarised."


FILLS: Final[Mapping[str, Callable[[Card], str | None]]] = {
    "kind": _kind,
    "data": _data,
    "counts": _counts,
    "training": _training,
    "grading": _grading,
    "prompt": _prompt,
    "rewards": _rewards,
    "compute": _compute,
    "code": _code,
    "performance": _performance,
    "limits": _limits,
    "preparation": _preparation,
    "selection": _selection,
    "elements": _elements,
    "privacy": _privacy,
    "missing": _missing,
    "split": _split,
    "disjoint": _disjoint,
    "power": _power,
    "model": _model,
    "software": _software,
    "base": _base,
    "final": _final,
    "votes": _votes,
    "statistics": _statistics,
    "robustness": _robustness,
    "truth": _truth,
    "external": _external,
    "failures": _failures,
    "no_summaries": _no_summaries,
}
"""What a run answers, by the name in `checklist.toml`; None where this run does not hold it."""
