"""From `[data]` to the questions of a split: read, keep what was asked for, take a seeded sample of it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

from osler.config import DataConfig, SelectionConfig
from osler.errors import DataError
from osler.readers import read
from osler.taxonomy import Modality
from osler.types import Sample

NONE: Final = "none"
"""How a manifest names a modality or question type that a dataset does not state."""


def load_split(data: DataConfig, which: Literal["train", "test"]) -> list[Sample]:
    """The questions that `[data.train]` or `[data.test]` asks for, in the reader's order.

    A limit keeps the samples whose ids hash lowest with the seed: the same ones on every machine, and a smaller limit keeps a part of
    what a larger one keeps. Phantoms are drawn on demand, so there a limit asks for so many questions, spread evenly over the modalities.

    Raises DataError when nothing is left, and what the reader raises.
    """
    section = data.train if which == "train" else data.test
    samples = read(data.reader, data.root, **_reader_options(data, section))
    kept = [sample for sample in samples if _is_asked_for(sample, section)]
    if not kept:
        raise DataError(_explain_empty(data, which, section, samples))
    if data.reader == "phantom":
        return _spread(kept, section)
    if section.limit_per_modality is not None:
        groups = _by_modality(kept)
        keep = {sample.id for group in groups.values() for sample in _draw(group, section.limit_per_modality, data.seed)}
        kept = [sample for sample in kept if sample.id in keep]
    if section.limit is not None:
        kept = _draw(kept, section.limit, data.seed)
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
    return options


def _is_asked_for(sample: Sample, section: SelectionConfig) -> bool:
    if section.modalities and sample.modality not in section.modalities:
        return False
    if section.has_choices is not None and section.has_choices != bool(sample.choices):
        return False
    return not section.question_types or sample.question_type in section.question_types


def _spread(samples: Sequence[Sample], section: SelectionConfig) -> list[Sample]:
    """The first samples of every modality, `limit` in all, as even as can be."""
    if section.limit is None:
        return list(samples)
    groups = _by_modality(samples)
    share, rest = divmod(section.limit, len(groups))
    return [sample for position, group in enumerate(groups.values()) for sample in group[: share + (position < rest)]]


def _by_modality(samples: Iterable[Sample]) -> dict[Modality | None, list[Sample]]:
    groups: dict[Modality | None, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.modality].append(sample)
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
    exists = "; ".join(f"{modality}: {', '.join(row)}" for modality, row in counts(samples).items()) or "no questions at all"
    return f"[data.{which}] selects nothing from {data.reader} ({'; '.join(asked)}): it has {exists}"
