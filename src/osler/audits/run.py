"""The workflow of `osler audit`: read both splits, compare them, fit the blind baselines, and check the rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal, get_args

from osler.audits.axis import Numbered, Splits, audit_axes, compare_axes, other_axis
from osler.audits.baselines import ALL_BASELINES
from osler.audits.findings import GATES, LEAK_TITLES, Audit, AxisAudit, LeakKind, SharedImages, SourceCases
from osler.audits.leaks import (
    LeakKeys,
    case_groups,
    case_keys,
    cases_by_source,
    count_shared_images,
    hash_keys,
    image_keys,
    image_uris,
    near_spread,
    turned_spread,
)
from osler.audits.numbering import KeyTable, SampleTable
from osler.audits.quality import assess
from osler.audits.redrawn import RedrawnComparison, compare_redrawn
from osler.config import DataConfig
from osler.data.readers import READERS, Refusal
from osler.data.readers.read_files import pausing_collection
from osler.data.select import load_split
from osler.errors import ConfigError, DataError
from osler.images.files import ImageFile
from osler.images.fingerprints import DEFAULT_DISTANCE, Fingerprint, Opening, describe_undecoded, take_fingerprints
from osler.images.near import check_distance
from osler.images.turned import TurnedPairs, find_turned_pairs
from osler.metrics import percent
from osler.taxonomy import Axis
from osler.types import ImageSource, Sample

ImageComparison = Literal["auto", "paths", "pixels"]

MAX_AUTO_IMAGES: Final = 5000
"""How many image files "auto" opens at most; they take about a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditOptions:
    """How images are compared, and the limits of the gates. At the default limits chance alone gives no reason."""

    images: ImageComparison = "auto"  # auto opens the image files when all exist and there are few
    max_distance: int = DEFAULT_DISTANCE  # bits between the perceptual hashes of near-duplicates
    max_leak: float = 0.01  # share of a domain's test rows that may share something with its train rows
    max_shortcut: float = 0.10  # how far the interval of a blind baseline may be above guessing
    opening: Opening | None = None  # of the image files; None: that of `Opening()`
    redrawn: bool = False  # also fit and test the option prior on questions with redrawn distractors


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """How the rows of two splits are recognised as the same."""

    keys: Mapping[LeakKind, LeakKeys]
    images: str  # how images are compared, "by path"
    fingerprints: Mapping[ImageSource, Fingerprint]  # of the images that were opened
    turned: TurnedPairs  # of these images


def parse_gates(text: str | None) -> tuple[str, ...]:
    """The gates of `--fail-on leak,shortcut`. Raises ConfigError for an unknown one."""
    gates = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    if unknown := [gate for gate in gates if gate not in GATES]:
        raise ConfigError(f"unknown gate {unknown[0]!r}: --fail-on takes {', '.join(GATES)}, with commas between")
    if text is not None and not gates:
        raise ConfigError(f"--fail-on names no gate: use {', '.join(GATES)}")
    return gates


@pausing_collection()
def audit(data: DataConfig, options: AuditOptions | None = None) -> Audit:
    """Audit `[data.train]` against `[data.test]`, by modality and by question type.

    Raises ConfigError for options out of range and for redrawing data that are redrawn already, and what reading the data raises.
    """
    import numpy as np

    options = options or AuditOptions()
    _check(data, options)
    refused: list[Refusal] = []
    notes: list[str] = []
    main: Axis = "question_type" if data.options.get("axis") == "question_type" else "modality"
    has_axis_files = _has_axis_files(data)
    samples, splits = _read_axes(data, main, has_axis_files, refused, notes)
    table = SampleTable.of(samples)
    matching = _choose_matching(table, options, notes)
    train, test = splits[main].train, splits[main].test
    numbered = Numbered.of(samples, table, matching.keys, np.unique(np.concatenate([part.test for part in splits.values()])))
    axes = audit_axes(splits, numbered, can_recover=has_axis_files)
    shared = count_shared_images(matching.keys["same_image"].table, train, test)
    cases = cases_by_source(samples, matching.keys["same_case"].table, train, test)
    items: dict[str, RedrawnComparison] = {}
    if options.redrawn:
        known, bits = matching.fingerprints, options.max_distance
        parts = ([samples[place] for place in part.tolist()] for part in (train, test))
        items = compare_redrawn(*parts, by=main, seed=data.seed, fingerprints=known, max_distance=bits, turned=matching.turned)
        if not items:
            notes.append("No test question has choices, so no distractors were redrawn.")
    return Audit(
        reader=data.reader,
        title=READERS[data.reader].card.title,
        axis=main,
        axes=axes,
        images=SharedImages(compared=matching.images, num_test=shared.total, num_shared=shared.shared),
        cases={source: SourceCases(share=leak.value, num_rows=leak.total) for source, leak in cases.items()},
        across_axes=compare_axes(splits, numbered) if has_axis_files else {},
        quality=assess(samples, (refusal.reason for refusal in refused), table=table),
        notes=(*notes, *_note_absent_files(axes.values())),
        reasons=tuple(_find_reasons(axes[main], options)),
        items=items,
    )


def _check(data: DataConfig, options: AuditOptions) -> None:
    if options.images not in get_args(ImageComparison):
        raise ConfigError(f"unknown way to compare images {options.images!r}: use one of {', '.join(get_args(ImageComparison))}")
    check_distance(options.max_distance)
    for name, value in (("--max-leak", options.max_leak), ("--max-shortcut", options.max_shortcut)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} {value:g}: use a share between 0 and 1, such as 0.05")
    if options.redrawn and data.distractors == "redrawn":
        raise ConfigError('--redrawn sets original questions beside redrawn ones: leave data.distractors at "original"')


def _has_axis_files(data: DataConfig) -> bool:
    """Whether each axis has files of its own, which split the same rows differently; a manifest has one split for both."""
    reader = READERS.get(data.reader)
    return reader is not None and "axis" in reader.card.options and data.manifest is None


def _read_axes(
    data: DataConfig, main: Axis, has_axis_files: bool, refused: list[Refusal], notes: list[str]
) -> tuple[list[Sample], dict[Axis, Splits]]:
    """The samples of both axes, and the places of their splits; the other axis is left out, with a note, where it cannot be read."""
    samples: list[Sample] = []
    splits = {main: _read_splits(data, refused, samples)}
    other = other_axis(main)
    if not has_axis_files:
        return samples, splits | {other: splits[main]}
    options = {key: value for key, value in data.options.items() if key != "name"} | {"axis": other}
    try:
        splits[other] = _read_splits(data.model_copy(update={"options": options}), refused, samples)
    except DataError as error:
        notes.append(f"The files of the other axis, {other}, were not audited: {error}.")
    return samples, splits


def _read_splits(data: DataConfig, refused: list[Refusal], samples: list[Sample]) -> Splits:
    """The places of the train and test samples, which are appended to `samples`."""
    import numpy as np

    train, test = load_split(data, "train", refused=refused), load_split(data, "test", refused=refused)
    begin, middle = len(samples), len(samples) + len(train)
    samples += train
    samples += test
    return Splits(train=np.arange(begin, middle), test=np.arange(middle, len(samples)))


def _choose_matching(table: SampleTable, options: AuditOptions, notes: list[str]) -> Matching:
    """Compare images by path, or by bytes and perceptual hash where their files are opened."""
    samples = table.samples
    named = zip(chain.from_iterable(table.uris), chain.from_iterable(table.image_tuples), strict=True)
    sources = list(dict(named).values())
    is_opened = _should_open_images(sources, options, notes)
    has_progress = options.images == "pixels" or len(sources) > MAX_AUTO_IMAGES
    fingerprints = take_fingerprints(sources, has_progress=has_progress, opening=options.opening) if is_opened else {}
    digests = {image: fingerprint.digest for image, fingerprint in fingerprints.items()}
    keys: dict[LeakKind, LeakKeys] = {
        "same_row": LeakKeys(table=table.rows()),
        "same_image": LeakKeys(table=_image_table(table, digests)),
        "same_case": LeakKeys(table=KeyTable.of_groups(case_keys, samples, case_groups(table))),
    }
    if not is_opened:
        return Matching(keys=keys, images="by path", fingerprints={}, turned=[])
    if unreadable := sum(digest is None for digest in digests.values()):
        notes.append(f"{unreadable:,} of {len(fingerprints):,} images cannot be read and are compared by path.")
    if undecoded := describe_undecoded(fingerprints):
        notes.append(undecoded)
    hashes = {image: fingerprint.perceptual_hash for image, fingerprint in fingerprints.items()}
    near = KeyTable.of_groups(hash_keys(hashes), samples, table.images)
    keys["near_duplicate"] = LeakKeys(table=near, spread=near_spread(options.max_distance))
    turned = find_turned_pairs(fingerprints, options.max_distance)
    keys["turned_copy"] = LeakKeys(table=KeyTable.of_groups(image_uris, samples, table.images), spread=turned_spread(turned))
    notes.append("Copies that are turned by 90, 180 or 270 degrees or mirrored are found; cropped copies are not looked for.")
    images = f"by bytes, and by perceptual hashes at most {options.max_distance} of 64 bits apart"
    return Matching(keys=keys, images=images, fingerprints=fingerprints, turned=turned)


def _image_table(table: SampleTable, digests: Mapping[ImageSource, str | None]) -> KeyTable:
    """The `image_keys` of the samples."""
    if not digests:
        return KeyTable.of(tuple, table.uris).take(table.images)
    return KeyTable.of_groups(image_keys(digests), table.samples, table.images)


def _should_open_images(sources: Sequence[ImageSource], options: AuditOptions, notes: list[str]) -> bool:
    if options.images != "auto":
        return options.images == "pixels"
    if len(sources) > MAX_AUTO_IMAGES:
        notes.append(f"There are {len(sources):,} images, so they are compared by path only; --images pixels opens them.")
        return False
    files = [source.root / source.path for source in sources if isinstance(source, ImageFile)]
    if len(files) < len(sources) or not files:
        return False
    absent = sum(not file.is_file() for file in files)
    if absent:
        notes.append(f"{absent:,} of {len(files):,} images are not at hand, so images are compared by path.")
    return not absent


def _note_absent_files(axes: Iterable[AxisAudit]) -> Iterable[str]:
    """Which cells of the tables are empty because train files are absent."""
    for axis in axes:
        absent = [name for name in axis.rows.test if not axis.rows.train[name]]
        rest = "".join(f"; {count:,} of its rows stand in files of the other axis" for count in axis.rows.recovered.values())
        if absent:
            yield f"No train rows by {axis.title} for {', '.join(absent)}{rest}."


def _find_reasons(axis: AxisAudit, options: AuditOptions) -> Iterable[str]:
    """What the gates stop at: leaks above their limit, then shortcuts."""
    for domain, num_rows in axis.rows.test.items():
        for kind, grid in axis.leaks.items():
            leak = grid[domain][domain]
            if leak is not None and leak > options.max_leak:
                share = f"{percent(leak)} % ({round(leak * num_rows):,} of {num_rows:,})"
                limit = f"more than {percent(options.max_leak)} %"
                yield f"leak: {share} of the test rows of {domain} share {LEAK_TITLES[kind]} with train, {limit}"
    for domain, guessing in axis.chance.items():
        best = axis.best(domain)
        if best is None or guessing is None or best[1].low is None or best[1].low <= guessing + options.max_shortcut:
            continue
        name, accuracy = best
        above = f"more than {100 * options.max_shortcut:.1f} points above guessing ({percent(guessing)} %)"
        yield f"shortcut: {ALL_BASELINES[name].title.lower()} answers {percent(accuracy.value)} % of {domain} blind, {above}"
