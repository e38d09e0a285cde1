"""From `[data]` to the questions of a split: read, keep what was asked for, take a seeded sample of it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

from osler.config import DataConfig, SelectionConfig
from osler.data.answer_options import redraw_distractors, shuffle_options
from osler.data.readers import Refusal, read, read_with_report
from osler.data.splits.manifest import Manifest, check_reader, check_same, load_manifest, select_split, verify_images
from osler.errors import DataError
from osler.taxonomy import Modality, QuestionType
from osler.types import Sample

NONE: Final = "none"
"""How a manifest names a modality or question type that a dataset does not state."""


def load_split(data: DataConfig, which: Literal["train", "test"], *, refused: list[Refusal] | None = None) -> list[Sample]:
    """The questions that `[data.train]` or `[data.test]` asks for, in the reader's order.

    A limit keeps the samples whose ids hash lowest with the seed: the same ones on every machine, and a smaller limit keeps a part of
    what a larger one keeps. Phantoms are drawn on demand, so there a limit asks for so many questions, spread evenly over the modalities.
    Distractors are redrawn from everything that was read, so that a limit changes no question of a file. Test questions have their options
    in the order in which they are asked; those for training are shuffled when an epoch reads them.

    With a manifest the split is the manifest's, and every question and the images of those that are kept must still be what it says.
    The rows that the reader refused are added to `refused`.

    Raises DataError when nothing is left, and what the reader and the manifest raise.
    """
    section = data.train if which == "train" else data.test
    manifest = load_manifest(data.manifest) if data.manifest is not None else None
    samples = _read_split(data, section, refused) if manifest is None else _read_assigned(data, section, manifest)
    kept = _select(data, which, section, samples)
    if manifest is not None:
        verify_images(manifest, kept)
    if data.distractors == "redrawn":
        kept = list(redraw_distractors(kept, seed=data.seed, pool=samples).samples)
    if data.shuffle_options and which == "test":
        kept = [shuffle_options(sample, f"{data.seed}/test") for sample in kept]
    return kept


def _select(data: DataConfig, which: Literal["train", "test"], section: SelectionConfig, samples: Sequence[Sample]) -> list[Sample]:
    """The samples that the section asks for, as many as its limits allow."""
    kept = [sample for sample in samples if _is_asked_for(sample, section)]
    if not kept:
        raise DataError(_explain_empty(data, which, section, samples))
    is_drawn = data.reader == "phantom" and data.manifest is None
    return _spread(kept, section) if is_drawn else _limit(kept, section, data.seed)


def _read_split(data: DataConfig, section: SelectionConfig, refused: list[Refusal] | None) -> list[Sample]:
    report = read_with_report(data.reader, data.root, **_reader_options(data, section))
    if refused is not None:
        refused += report.refused
    return list(report.samples)


def _read_assigned(data: DataConfig, section: SelectionConfig, manifest: Manifest) -> list[Sample]:
    """The samples that a manifest gives to a split. The manifest decides how the data are read; what a recipe asks for besides narrows it.

    Phantoms are a fixed set here, like any other.
    """
    check_reader(manifest, data.reader)
    folders = {key: value for key, value in data.options.items() if key == "images"}
    pinned = {"seed": manifest.data_seed, **manifest.options, **folders}
    chosen = select_split(manifest, read(data.reader, data.root, **pinned), section.split)
    asked = {**pinned, **data.options, **section.options}
    if asked == pinned:
        return chosen
    narrower = {sample.id: sample for sample in read(data.reader, data.root, **asked)}
    kept = [sample for sample in chosen if sample.id in narrower]
    for sample in kept:
        check_same(manifest, sample, narrower[sample.id])
    return kept


def _limit(samples: Sequence[Sample], section: SelectionConfig, seed: int) -> list[Sample]:
    """At most so many samples of each modality, of each question type, and in all."""
    kept = list(samples)
    if section.limit_per_modality is not None:
        groups = _by_modality(kept)
        keep = {sample.id for group in groups.values() for sample in _draw(group, section.limit_per_modality, seed)}
        kept = [sample for sample in kept if sample.id in keep]
    if section.limit_per_question_type is not None:
        types = _by_question_type(kept)
        keep = {sample.id for group in types.values() for sample in _draw(group, section.limit_per_question_type, seed)}
        kept = [sample for sample in kept if sample.id in keep]
    if section.limit is not None:
        kept = _draw(kept, section.limit, seed)
    return kept


def counts(samples: Iterable[Sample]) -> dict[str, dict[str, int]]:
    """How many questions of which modality and type, e.g. {"mri": {"disease_diagnosis": 120}}; what is not stated counts under "none"."""
    cells = Counter((sample.modality or NONE, sample.question_type or NONE) for sample in samples)
    table: dict[str, dict[str, int]] = defaultdict(dict)
    for (modality, question_type), number in sorted(cells.items()):
        table[str(modality)][str(question_type)] = number
    return dict(table)


def _reader_options(data: DataConfig, section: SelectionConfig) -> dict[str, Any]:
    """What the reader is told: `[data.options]`, then the split and its own options."""
    options: dict[str, Any] = {"seed": data.seed, **data.options, "split": section.split, **section.options}
    if data.reader != "phantom":
        return options
    if section.modalities:
        options["modalities"] = section.modalities
    if section.question_types:
        options["question_types"] = section.question_types
    if section.limit is not None:
        num_modalities = len(options.get("modalities") or Modality)
        options["num_questions"] = -(-section.limit // num_modalities)
    if section.limit_per_modality is not None:
        options["num_questions"] = min(section.limit_per_modality, options.get("num_questions", section.limit_per_modality))
    if section.limit_per_question_type is not None:
        # A modality asks its types in turn, so this many questions hold its share of each.
        num_types = len(section.question_types or QuestionType)
        share = num_types * -(-section.limit_per_question_type // len(options.get("modalities") or Modality))
        options["num_questions"] = min(share, options.get("num_questions", share))
    return options


def _is_asked_for(sample: Sample, section: SelectionConfig) -> bool:
    if section.modalities and sample.modality not in section.modalities:
        return False
    if section.has_choices is not None and section.has_choices != bool(sample.choices):
        return False
    return not section.question_types or sample.question_type in section.question_types


def _spread(samples: Sequence[Sample], section: SelectionConfig) -> list[Sample]:
    """The first samples of every modality, as even as can be: so many of each question type, and in all."""
    kept = list(samples)
    if section.limit_per_question_type is not None:
        types = _by_question_type(kept)
        kept = [sample for group in types.values() for sample in _take_evenly(group, section.limit_per_question_type)]
    return kept if section.limit is None else _take_evenly(kept, section.limit)


def _take_evenly(samples: Sequence[Sample], limit: int) -> list[Sample]:
    groups = _by_modality(samples)
    share, rest = divmod(limit, len(groups))
    return [sample for position, group in enumerate(groups.values()) for sample in group[: share + (position < rest)]]


def _by_modality(samples: Iterable[Sample]) -> dict[Modality | None, list[Sample]]:
    groups: dict[Modality | None, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.modality].append(sample)
    return groups


def _by_question_type(samples: Iterable[Sample]) -> dict[QuestionType | None, list[Sample]]:
    groups: dict[QuestionType | None, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.question_type].append(sample)
    return groups


def _draw(samples: Sequence[Sample], limit: int, seed: int) -> list[Sample]:
    """The `limit` samples whose ids hash lowest, in their own order."""
    ranked = sorted(range(len(samples)), key=lambda position: hashlib.sha256(f"{seed}/{samples[position].id}".encode()).digest())
    return [samples[position] for position in sorted(ranked[:limit])]


def _explain_empty(data: DataConfig, which: str, section: SelectionConfig, samples: Sequence[Sample]) -> str:
    asked = [f"split {section.split!r}"]
    if section.modalities:
        asked.append(f"modalities {', '.join(section.modalities)}")
    if section.question_types:
        asked.append(f"question types {', '.join(section.question_types)}")
    if section.has_choices is not None:
        asked.append("with choices" if section.has_choices else "open-ended")
    remedy = f"no questions at all: name another split, such as --data.{which}.split=validation"
    exists = "; ".join(f"{modality}: {', '.join(row)}" for modality, row in counts(samples).items()) or remedy
    return f"[data.{which}] selects nothing from {data.reader} ({'; '.join(asked)}): it has {exists}"


def describe_samples(samples: Sequence[Sample]) -> dict[str, Any]:
    """A split for a run's manifest: how many questions, of which modality and type, and a hash of their ids in order.

    Where distractors were redrawn, also how many, and why others were not (see `answer_options.Distractors`).
    """
    digest = hashlib.sha256("\n".join(sample.id for sample in samples).encode()).hexdigest()
    described: dict[str, Any] = {"num_samples": len(samples), "cells": counts(samples), "ids_sha256": digest}
    redrawn = Counter(str(sample.metadata["distractors"]) for sample in samples if "distractors" in sample.metadata)
    return {**described, "distractors": dict(sorted(redrawn.items()))} if redrawn else described
