"""Procedural images with questions that have a known right answer; needs no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osler.data.readers.base import ReaderCard, ReadReport, check_choice, parse_names
from osler.errors import ConfigError
from osler.taxonomy import SPLITS, Modality, QuestionType, parse_modality, parse_question_type
from osler.types import Sample

if TYPE_CHECKING:
    from osler.data.phantom.canvas import Difficulty

CARD: Final = ReaderCard(
    title="Phantom",
    source="drawn by Osler (osler.data.phantom)",
    licence="Apache-2.0",
    counts="any number, in 8 modalities and 5 question types",
    layout="nothing: the images are drawn when they are needed",
    options={
        "modalities": "list of modalities; all eight when left out",
        "question_types": "list of question types; all five when left out",
        "num_questions": "questions per modality and split; 200 when left out",
        "size": "side of the square image in pixels; 112 when left out",
        "difficulty": "table of contrast, noise and lesion_size; 1 each when left out",
        "shortcut": "share of the training questions whose right option alone has a qualifier; 0 when left out",
    },
)


def read(
    root: Path | None = None,
    *,
    split: str | None = None,
    seed: int = 0,
    modalities: Sequence[str] | None = None,
    question_types: Sequence[str] | None = None,
    num_questions: int = 200,
    size: int = 112,
    difficulty: Difficulty | Mapping[str, float] | None = None,
    shortcut: float = 0.0,
) -> ReadReport:
    """`num_questions` questions of each modality and split, one modality after the other. Raises ConfigError for an invalid option."""
    from osler.data.phantom.questions import build_samples

    if root is not None:
        raise ConfigError(f"phantoms are drawn and have no root: name the reader of {root} as [data] reader (--data.reader=jsonl)")
    check_choice("split", split, SPLITS)
    chosen_modalities = parse_names(modalities or Modality, parse_modality)
    chosen_types = parse_names(question_types or QuestionType, parse_question_type)
    samples: list[Sample] = []
    for part in (split,) if split else SPLITS:
        for modality in dict.fromkeys(chosen_modalities):
            samples += build_samples(
                modality=modality,
                split=part,  # type: ignore[arg-type] # one of SPLITS, checked above
                seed=seed,
                num_questions=num_questions,
                question_types=chosen_types,
                size=size,
                difficulty=build_difficulty(difficulty),
                shortcut=shortcut,
            )
    return ReadReport(samples=tuple(samples), splits=() if split else SPLITS)


def build_difficulty(raw: Difficulty | Mapping[str, Any] | None) -> Difficulty:
    """The difficulty of a reader's option. Raises ConfigError for anything but a table of its numbers."""
    from osler.data.phantom.canvas import Difficulty

    if isinstance(raw, Difficulty):
        return raw
    try:
        values = {key: float(value) for key, value in (raw or {}).items()}
        return Difficulty(**values)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"difficulty {raw!r}: use a table of numbers with the keys contrast, noise, lesion_size") from error
