"""Procedural studies of several pictures, with questions that no single picture answers; needs no files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from osler.data.readers.base import ReaderCard, ReadReport, check_choice, parse_names
from osler.data.readers.phantom import build_difficulty
from osler.errors import ConfigError
from osler.taxonomy import SPLITS, Modality, QuestionType, parse_modality, parse_question_type
from osler.types import Sample

if TYPE_CHECKING:
    from osler.config import Layout
    from osler.data.phantom.canvas import Difficulty

Name = TypeVar("Name", bound=StrEnum)

CARD: Final = ReaderCard(
    title="Phantom studies",
    source="drawn by Osler (osler.data.phantom.studies)",
    licence="Apache-2.0",
    counts="any number, of 5 kinds of studies",
    layout="nothing: the pictures are drawn when they are needed",
    options={
        "kinds": "list of ct_volume, mri_volume, ultrasound_cine, xray_views, follow_up; all when left out",
        "aspects": "list of side, level, count, extent, diagnosis, motion, contraction, site, change, new_site; all when left out",
        "modalities": "list of modalities, which limits the kinds; all when left out",
        "question_types": "list of question types, which limits the aspects; all when left out",
        "num_questions": "questions per kind and split; 200 when left out",
        "size": "side of a picture in pixels; 84 when left out",
        "num_slices": "slices of a volume and frames of a cine; 8 when left out",
        "single_slice": "show only this picture of each study, counted from 1; all when left out",
        "layout": "of the pictures of a volume or a cine: images, montage (one image) or video (one clip); images when left out",
        "difficulty": "table of contrast, noise and lesion_size; 1 each when left out",
        "shortcut": "share of the training questions whose right option alone has a qualifier; 0 when left out",
    },
)


def read(
    root: Path | None = None,
    *,
    split: str | None = None,
    seed: int = 0,
    kinds: Sequence[str] | None = None,
    aspects: Sequence[str] | None = None,
    modalities: Sequence[str] | None = None,
    question_types: Sequence[str] | None = None,
    num_questions: int = 200,
    size: int = 84,
    num_slices: int = 8,
    single_slice: int | None = None,
    layout: Layout = "images",
    difficulty: Difficulty | Mapping[str, float] | None = None,
    shortcut: float = 0.0,
) -> ReadReport:
    """`num_questions` questions of each kind and split, the kinds in turn. Raises ConfigError for an invalid option."""
    from osler.data.phantom.studies import ASPECTS, Aspect, StudyKind, build_studies
    from osler.data.phantom.studies.questions import LAYOUTS, QUESTION_TYPES

    if root is not None:
        raise ConfigError(f"phantoms are drawn and have no root: name the reader of {root} as [data] reader (--data.reader=jsonl)")
    check_choice("split", split, SPLITS)
    check_choice("layout", layout, LAYOUTS)
    for option, value in (("num_questions", num_questions), ("size", size), ("num_slices", num_slices), ("single_slice", single_slice)):
        if (not isinstance(value, int) or isinstance(value, bool)) and not (option == "single_slice" and value is None):
            raise ConfigError(f"{option} {value!r}: use a whole number")
    chosen_modalities = parse_names(_listed("modalities", modalities) or Modality, parse_modality)
    chosen_types = parse_names(_listed("question_types", question_types) or QuestionType, parse_question_type)
    asked = [aspect for aspect in _parse("aspects", aspects, Aspect) if QUESTION_TYPES[aspect] in chosen_types]
    chosen = [kind for kind in _parse("kinds", kinds, StudyKind) if kind.modality in chosen_modalities and {*ASPECTS[kind]} & {*asked}]
    if not chosen:
        raise ConfigError("no kind of study has such questions: use other kinds, aspects, modalities or question types")
    samples: list[Sample] = []
    for part in (split,) if split else SPLITS:
        of_kinds = [
            build_studies(
                kind=kind,
                split=part,  # type: ignore[arg-type] # one of SPLITS, checked above
                seed=seed,
                num_questions=num_questions,
                aspects=asked,
                size=size,
                num_slices=num_slices,
                single_slice=single_slice,
                layout=layout,
                difficulty=build_difficulty(difficulty),
                shortcut=shortcut,
            )
            for kind in chosen
        ]
        samples += [sample for turn in zip(*of_kinds, strict=True) for sample in turn]  # in turn, so that a limit keeps all kinds
    return ReadReport(samples=tuple(samples), splits=() if split else SPLITS)


def _listed(option: str, names: Any) -> Iterable[str]:
    if names is not None and (isinstance(names, str) or not isinstance(names, Iterable)):
        raise ConfigError(f"{option} is {names!r}: use a list of names")
    return names or ()


def _parse(option: str, names: Any, known: type[Name]) -> list[Name]:
    """The members of an enum by their names, in its order; all where none is named."""
    wanted = [*_listed(option, names)] or list(known)
    if unknown := [name for name in wanted if name not in list(known)]:
        raise ConfigError(f"unknown name {unknown[0]!r} in {option}: use one of {', '.join(known)}")
    return [name for name in known if name in wanted]
