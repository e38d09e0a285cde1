"""Load the samples of `[data.train]` or `[data.test]`: read the split, filter it, and draw a seeded subset."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from osler.config import DataConfig, SelectionConfig
from osler.data.distractors import redraw_distractors
from osler.data.facts.findings import add_findings
from osler.data.option_order import shuffle_options
from osler.data.privacy.keys import check_key_file, load_key
from osler.data.privacy.private import make_private, read_private
from osler.data.readers import ReadReport, Refusal, read_with_report, tell_refusals
from osler.data.splits.manifest import Manifest, check_reader, check_same, digest_sample, load_manifest, select_split, verify_images
from osler.data.studies import show_studies
from osler.errors import ConfigError, DataError
from osler.images.fingerprints import digest_image, map_images
from osler.taxonomy import AXES, Axis, Modality, QuestionType
from osler.types import HasDigest, ImageSource, Sample

GENERATED: Final = ("phantom", "phantom_study")
"""Readers that make as many questions as a recipe asks for."""

NONE: Final = "none"
"""The name of an unknown modality or question type in manifests."""


def load_split(
    data: DataConfig, which: Literal["train", "test"], *, refused: list[Refusal] | None = None, shows_studies: bool = True
) -> list[Sample]:
    """The samples that `[data.train]` or `[data.test]` selects, in the reader's order. Refused rows are appended to `refused`.

    A limit keeps the samples with the lowest hashes of seed and id: the same samples on every machine, and a smaller limit keeps a subset
    of a larger one. For phantoms a limit is the number of questions to generate, spread evenly over the modalities. Distractors are redrawn
    from all samples that were read, so that they do not depend on a limit. The options of test samples are shuffled here, and those of
    training samples in each epoch. Missing rationales of training samples are written from facts where `data.rationales` says so. Studies
    become the pictures that `[data.study]` shows of them, unless `shows_studies` is false.

    With a manifest the split is the manifest's; all samples, and the images of the selected samples, are compared with it.
    Raises DataError if nothing is selected or the data differ from the manifest, and the errors of the reader.
    """
    section = data.train if which == "train" else data.test
    told: list[Refusal] = []
    manifest = load_manifest(data.manifest) if data.manifest is not None else None
    if manifest is not None:
        samples = _read_assigned(data, section, manifest, refused=told)
    else:
        samples = read_all(data, _reader_options(data, section), refused=told)
    if refused is not None:
        refused += told
    kept = _select(samples, section)
    if not kept:
        raise DataError(_explain_empty(data, which, section, samples, told[-1] if told else None))
    is_generated = data.reader in GENERATED and manifest is None
    kept = _spread(kept, section) if is_generated else _limit(kept, section, data.seed)
    if manifest is not None:
        verify_images(manifest, kept)
    if data.distractors == "redrawn":
        kept = redraw_distractors(kept, seed=data.seed, pool=samples)
    if data.rationales == "facts" and which == "train":
        kept = add_findings(kept, seed=data.seed)
    if data.shuffle_options and which == "test":
        kept = [shuffle_options(sample, f"{data.seed}/test") for sample in kept]
    return show_studies(kept, data.study) if shows_studies else kept


def read_all(data: DataConfig, options: Mapping[str, Any], *, refused: list[Refusal] | None = None) -> list[Sample]:
    """The samples that the reader of `[data]` gives with these options. Refused rows are appended to `refused`, and told in one line.

    Raises DataError for a refused row where `[data] strict` is set, and the errors of the reader.
    """
    report = read_report(data, options)
    if data.strict and report.refused:
        first = report.refused[0]
        raise DataError(f"{len(report.refused):,} rows are refused, the first {first.row}: {first.reason} (strict)")
    tell_refusals(data.reader, report)
    if refused is not None:
        refused += report.refused
    return list(report.samples)


def read_report(data: DataConfig, options: Mapping[str, Any]) -> ReadReport:
    """What the reader of `[data]` returns with these options; under keyed names where `[data] private` is set.

    Raises ConfigError for a private dataset without a key file, or with one among the data.
    """
    if not data.private:
        return read_with_report(data.reader, data.root, **options)
    if data.key_file is None:
        raise ConfigError("[data] private needs a key: --data.key_file=FILE, which is made when it is missing")
    folders = [Path(folder) for folder in (data.root, data.options.get("images")) if folder is not None]
    check_key_file(data.key_file, *(folder if folder.is_dir() else folder.parent for folder in folders if folder.exists()))
    key = load_key(data.key_file)
    return make_private(read_private(lambda: read_with_report(data.reader, data.root, **options)), key, data.reader.rpartition(":")[2])


def _read_assigned(data: DataConfig, section: SelectionConfig, manifest: Manifest, *, refused: list[Refusal] | None) -> list[Sample]:
    """The samples of a split of a manifest, read with the manifest's reader options; options of the recipe can only remove samples.

    Phantoms are a fixed set of samples here, like any dataset.
    """
    check_reader(manifest, data.reader)
    folders = {key: value for key, value in data.options.items() if key == "images"}
    manifest_options = {"seed": manifest.data_seed, **manifest.options, **folders}
    assigned = select_split(manifest, read_all(data, manifest_options, refused=refused), section.split)
    options = {**manifest_options, **data.options, **section.options}
    if options == manifest_options:
        return assigned
    by_id = {sample.id: sample for sample in read_all(data, options)}
    kept = [sample for sample in assigned if sample.id in by_id]
    for sample in kept:
        check_same(manifest, sample, by_id[sample.id])
    return kept


def _limit(samples: Sequence[Sample], section: SelectionConfig, seed: int) -> list[Sample]:
    """The samples drawn by the limits of the section: per modality, then per question type, then in total."""
    kept = list(samples)
    for axis in AXES:
        if (limit := getattr(section, f"limit_per_{axis}")) is not None:
            drawn = {sample.id for members in _group(kept, axis) for sample in _draw(members, limit, seed)}
            kept = [sample for sample in kept if sample.id in drawn]
    return kept if section.limit is None else _draw(kept, section.limit, seed)


def counts(samples: Iterable[Sample], *, unknown: str = NONE, order: Callable[[str], Any] = str) -> dict[str, dict[str, int]]:
    """Modality -> question type -> number of samples, e.g. {"mri": {"disease_diagnosis": 120}}, without empty cells.

    `unknown` is the name of an unknown modality or question type; `order` is the sort key of the names.
    """
    cells = Counter((str(sample.modality or unknown), str(sample.question_type or unknown)) for sample in samples)
    table: dict[str, dict[str, int]] = {}
    for modality, question_type in sorted(cells, key=lambda cell: (order(cell[0]), order(cell[1]))):
        table.setdefault(modality, {})[question_type] = cells[modality, question_type]
    return table


def _reader_options(data: DataConfig, section: SelectionConfig) -> dict[str, Any]:
    """The options for the reader: the seed, `[data.options]`, the split and its own options, and for phantoms also the selection."""
    options: dict[str, Any] = {"seed": data.seed, **data.options, "split": section.split, **section.options}
    if data.reader not in GENERATED:
        return options
    if section.modalities:
        options["modalities"] = section.modalities
    if section.question_types:
        options["question_types"] = section.question_types
    if data.reader == "phantom_study":  # at least as many of each kind as any limit can keep
        per_type = None if section.limit_per_question_type is None else len(QuestionType) * section.limit_per_question_type
        limits = [limit for limit in (section.limit, section.limit_per_modality, per_type) if limit is not None]
        return options | ({"num_questions": min(limits)} if limits else {})
    if section.limit is not None:
        num_modalities = len(options.get("modalities") or Modality)
        options["num_questions"] = -(-section.limit // num_modalities)
    if section.limit_per_modality is not None:
        options["num_questions"] = min(section.limit_per_modality, options.get("num_questions", section.limit_per_modality))
    if section.limit_per_question_type is not None:
        # The questions of a modality cycle through the types, so this number contains its share of each type.
        num_types = len(section.question_types or QuestionType)
        share = num_types * -(-section.limit_per_question_type // len(options.get("modalities") or Modality))
        options["num_questions"] = min(share, options.get("num_questions", share))
    return options


def _select(samples: Sequence[Sample], section: SelectionConfig) -> list[Sample]:
    has_filter = section.modalities or section.question_types or section.has_choices is not None
    return [sample for sample in samples if _is_selected(sample, section)] if has_filter else list(samples)


def _is_selected(sample: Sample, section: SelectionConfig) -> bool:
    if section.modalities and sample.modality not in section.modalities:
        return False
    if section.has_choices is not None and section.has_choices != bool(sample.choices):
        return False
    return not section.question_types or sample.question_type in section.question_types


def _spread(samples: Sequence[Sample], section: SelectionConfig) -> list[Sample]:
    """The first samples of each modality, as many as the limits allow."""
    kept = list(samples)
    if (limit := section.limit_per_modality) is not None:
        kept = [sample for members in _group(kept, "modality") for sample in members[:limit]]
    if (limit := section.limit_per_question_type) is not None:
        kept = [sample for members in _group(kept, "question_type") for sample in _take_evenly(members, limit)]
    return kept if section.limit is None else _take_evenly(kept, section.limit)


def _take_evenly(samples: Sequence[Sample], limit: int) -> list[Sample]:
    groups = _group(samples, "modality")
    share, rest = divmod(limit, len(groups))
    return [sample for position, members in enumerate(groups) for sample in members[: share + (position < rest)]]


def _group(samples: Iterable[Sample], axis: Axis) -> list[list[Sample]]:
    """The samples of each modality or question type, in order of first appearance."""
    groups: dict[str | None, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[getattr(sample, axis)].append(sample)
    return list(groups.values())


def _draw(samples: Sequence[Sample], limit: int, seed: int) -> list[Sample]:
    """The `limit` samples with the lowest hashes of seed and id, in their own order."""
    ranked = sorted(range(len(samples)), key=lambda position: hashlib.sha256(f"{seed}/{samples[position].id}".encode()).digest())
    return [samples[position] for position in sorted(ranked[:limit])]


def _explain_empty(data: DataConfig, which: str, section: SelectionConfig, samples: Sequence[Sample], refusal: Refusal | None) -> str:
    if not samples and refusal is not None:
        return f"every row of {data.reader} is refused, such as {refusal.row}: {refusal.reason}"
    filters = [f"split {section.split!r}"]
    if section.modalities:
        filters.append(f"modalities {', '.join(section.modalities)}")
    if section.question_types:
        filters.append(f"question types {', '.join(section.question_types)}")
    if section.has_choices is not None:
        filters.append("with choices" if section.has_choices else "open-ended")
    remedy = f"no questions at all: name another split, such as --data.{which}.split=validation"
    exists = "; ".join(f"{modality}: {', '.join(row)}" for modality, row in counts(samples, unknown="unlabelled").items()) or remedy
    everything = (
        f"; --data.{which}.modalities='[]' takes every modality, and questions without one" if samples and section.modalities else ""
    )
    return f"[data.{which}] selects nothing from {data.reader} ({'; '.join(filters)}): it has {exists}{everything}"


def digest_content(samples: Sequence[Sample]) -> str:
    """The SHA-256 of what the samples ask, answer and show, in their order: the same ids with other answers or image bytes differ."""
    measured = map_images(_digest_source, (source for sample in samples for source in sample.images))
    digests = {source.uri: digest for source, digest in measured.items()}
    state = hashlib.sha256()
    for sample in samples:
        state.update(f"{sample.id}\0{digest_sample(sample, digests)}\0{sample.rationale or ''}\0".encode())
    return state.hexdigest()


def _digest_source(source: ImageSource) -> str | None:
    """The digest of an image that knows one; None for another, and for a file that cannot be opened, which stops whoever needs it."""
    return digest_image(source) if isinstance(source, HasDigest) else None


def digest_ids(ids: Iterable[str]) -> str:
    """The SHA-256 of ids in their order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def describe_samples(samples: Sequence[Sample]) -> dict[str, Any]:
    """A split as a run's manifest describes it: {"num_samples": .., "cells": `counts`, "datasets": names, "ids_sha256": hash of the ids}.

    If distractors were redrawn, "distractors" counts the samples of each outcome (see `distractors.Distractors`).
    """
    digest = digest_ids(sample.id for sample in samples)
    datasets = sorted({sample.dataset for sample in samples})
    described: dict[str, Any] = {"num_samples": len(samples), "cells": counts(samples), "datasets": datasets, "ids_sha256": digest}
    redrawn = Counter(str(sample.metadata["distractors"]) for sample in samples if "distractors" in sample.metadata)
    return {**described, "distractors": dict(sorted(redrawn.items()))} if redrawn else described


def named_datasets(described: Any) -> list[str] | None:
    """The datasets that a part of a run's manifest names, as `describe_samples` wrote it; None where an earlier version named none."""
    names = described.get("datasets") if isinstance(described, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else None
