"""`osler audit`: what a dataset gives away without its images, what its test set shares with train, and what is wrong with its rows."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from osler.audits.baselines import BASELINES, Catalogue, Items, blind_matrix, chance
from osler.audits.findings import ALL, GATES, LEAK_TITLES, Audit, AxisAudit, Recovered
from osler.audits.leaks import (
    Keys,
    Leak,
    case_keys,
    cases_by_source,
    count_shared_images,
    image_keys,
    leak_matrix,
    near_keys,
    paths_naming_target,
    remember,
    row_keys,
)
from osler.audits.quality import assess
from osler.audits.redrawn import DomainItems, compare_items
from osler.config import DataConfig
from osler.data.readers import READERS, Refusal
from osler.data.select import NONE, load_split
from osler.errors import ConfigError, DataError
from osler.images.files import ImageFile
from osler.images.fingerprints import DEFAULT_DISTANCE, MAX_DISTANCE, Fingerprint, take_fingerprints
from osler.metrics import percent, taxonomy_order
from osler.taxonomy import AXES, Axis
from osler.types import ImageSource, Sample

ImageLook = Literal["auto", "paths", "pixels"]
IMAGE_LOOKS: Final[tuple[ImageLook, ...]] = ("auto", "paths", "pixels")

MAX_AUTO_IMAGES: Final = 5000
"""How many image files are opened without being asked to: about a minute's work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditOptions:
    """How closely to look, and what is too much. The defaults let chance pass and stop what moves a headline number."""

    images: ImageLook = "auto"  # auto opens the image files when all are at hand and they are few
    max_distance: int = DEFAULT_DISTANCE  # bits between the perceptual hashes of near-duplicates
    max_leak: float = 0.01  # share of a domain's test rows that may share something with its train rows
    max_shortcut: float = 0.10  # how far a blind baseline's interval may lie above guessing
    redrawn: bool = False  # also redraw distractors, and fit and test the option prior on what comes out


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """The questions of both splits."""

    train: tuple[Sample, ...]
    test: tuple[Sample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The kinds of leak by their keys, and how images are compared."""

    keys: Mapping[str, Keys]
    how: str  # "by path"
    fingerprints: Mapping[ImageSource, Fingerprint]  # of the images that were opened


def parse_gates(text: str | None) -> tuple[str, ...]:
    """The gates of `--fail-on leak,shortcut`. Raises ConfigError for one that does not exist."""
    gates = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    if unknown := [gate for gate in gates if gate not in GATES]:
        raise ConfigError(f"unknown gate {unknown[0]!r}: --fail-on takes {', '.join(GATES)}, with commas between")
    if text is not None and not gates:
        raise ConfigError(f"--fail-on names no gate: use {', '.join(GATES)}")
    return gates


def audit(data: DataConfig, options: AuditOptions | None = None) -> Audit:
    """Audit `[data.train]` against `[data.test]`, by modality and by question type.

    Raises ConfigError for options out of range, for redrawing what is already redrawn, and what reading the data raises.
    """
    options = options or AuditOptions()
    _check(options)
    if options.redrawn and data.distractors == "redrawn":
        raise ConfigError('--redrawn sets original questions beside redrawn ones: leave data.distractors at "original"')
    with _no_garbage_collection():
        return _audit(data, options)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """No cycles are made while auditing, and the collector would walk hundreds of thousands of samples again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _audit(data: DataConfig, options: AuditOptions) -> Audit:
    refused: list[Refusal] = []
    notes: list[str] = []
    main = _main_axis(data)
    is_split_by_axis = _is_split_by_axis(data)
    sides = {main: _read_sides(data, refused)}
    if is_split_by_axis:
        sides |= _read_other_axis(data, main, refused, notes)
    else:
        sides |= dict.fromkeys(AXES, sides[main])
    distinct = tuple(sides.values()) if is_split_by_axis else (sides[main],)
    everything = [sample for side in distinct for sample in (*side.train, *side.test)]
    compared = _choose_comparison(everything, options, notes)
    keys = compared.keys
    catalogue = Catalogue()
    axes = {axis: _audit_axis(axis, sides, keys, catalogue, can_recover=is_split_by_axis) for axis in AXES if axis in sides}
    items = _compare_items(main, sides[main], data.seed, compared, options) if options.redrawn else ()
    if options.redrawn and not items:
        notes.append("No test question has choices, so no distractors were redrawn.")
    return Audit(
        reader=data.reader,
        title=READERS[data.reader].card.title,
        axis=main,
        axes=axes,
        images=compared.how,
        shared_images=count_shared_images(keys["same_image"], sides[main].train, sides[main].test),
        cases=cases_by_source(sides[main].train, sides[main].test),
        across_axes=_compare_axes(sides, keys["same_row"]) if is_split_by_axis else {},
        quality=assess(everything, (refusal.reason for refusal in refused)),
        notes=(*notes, *_note_absent(axes)),
        reasons=tuple(_find_reasons(axes[main], options)),
        items=items,
    )


def _check(options: AuditOptions) -> None:
    if options.images not in IMAGE_LOOKS:
        raise ConfigError(f"unknown way to compare images {options.images!r}: use one of {', '.join(IMAGE_LOOKS)}")
    if not 0 <= options.max_distance <= MAX_DISTANCE:
        raise ConfigError(f"a perceptual distance of {options.max_distance} bits: use 0 to {MAX_DISTANCE}")
    for name, value in (("--max-leak", options.max_leak), ("--max-shortcut", options.max_shortcut)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} {value:g}: use a share between 0 and 1, such as 0.05")


def _is_split_by_axis(data: DataConfig) -> bool:
    """Whether each axis has files of its own, which split the same rows differently; a manifest has one split for both."""
    found = READERS.get(data.reader)
    return found is not None and "axis" in found.card.options and data.manifest is None


def _main_axis(data: DataConfig) -> Axis:
    asked = data.options.get("axis", AXES[0])
    return AXES[AXES.index(asked)] if asked in AXES else AXES[0]  # the reader refuses a wrong one


def _read_sides(data: DataConfig, refused: list[Refusal]) -> Sides:
    return Sides(train=tuple(load_split(data, "train", refused=refused)), test=tuple(load_split(data, "test", refused=refused)))


def _read_other_axis(data: DataConfig, main: Axis, refused: list[Refusal], notes: list[str]) -> dict[Axis, Sides]:
    """The other axis's files, where they are at hand."""
    other = AXES[main == AXES[0]]
    options = {key: value for key, value in data.options.items() if key != "name"} | {"axis": other}
    try:
        return {other: _read_sides(data.model_copy(update={"options": options}), refused)}
    except DataError as error:
        notes.append(f"The files of the other axis, {other}, were not audited: {error}.")
        return {}


def _choose_comparison(samples: Iterable[Sample], options: AuditOptions, notes: list[str]) -> Comparison:
    """How the rows of two splits are found to be the same: by path, or by what their pictures show."""
    kinds: dict[str, Keys] = {"same_row": remember(row_keys), "same_image": remember(image_keys({})), "same_case": remember(case_keys)}
    sources = list({image.uri: image for sample in samples for image in sample.images}.values())
    if not _should_look(sources, options, notes):
        return Comparison(keys=kinds, how="by path", fingerprints={})
    prints = take_fingerprints(sources, has_progress=len(sources) > MAX_AUTO_IMAGES)
    unreadable = sum(found.digest is None for found in prints.values())
    if unreadable:
        notes.append(f"{unreadable:,} of {len(prints):,} images cannot be read and are compared by path.")
    kinds["same_image"] = remember(image_keys({image: found.digest for image, found in prints.items()}))
    kinds["near_duplicate"] = remember(near_keys({image: found.perceptual_hash for image, found in prints.items()}, options.max_distance))
    how = f"by bytes, and by perceptual hashes at most {options.max_distance} of 64 bits apart"
    return Comparison(keys=kinds, how=how, fingerprints=prints)


def _should_look(sources: Sequence[ImageSource], options: AuditOptions, notes: list[str]) -> bool:
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


def _audit_axis(axis: Axis, sides: Mapping[Axis, Sides], keys: Mapping[str, Keys], catalogue: Catalogue, *, can_recover: bool) -> AxisAudit:
    train, test = _by_domain(axis, sides[axis])
    fitted, asked = ({name: catalogue.add(samples) for name, samples in domains.items()} for domains in (train, test))
    recovered = _recover(axis, sides, keys["same_row"]) if can_recover and len(sides) > 1 else None
    regained = {} if recovered is None else {recovered[0]: catalogue.add(recovered[1])}
    blind = blind_matrix(fitted, asked, catalogue)
    return AxisAudit(
        axis=axis,
        train={name: len(samples) for name, samples in train.items()},
        test={name: len(samples) for name, samples in test.items()},
        chance={name: chance(items) for name, items in asked.items()},
        blind=blind,
        leaks={kind: leak_matrix(found, train, test) for kind, found in keys.items()},
        label_in_path={name: paths_naming_target(samples) for name, samples in test.items()},
        recovered=_blind_recovered(regained, asked, catalogue),
    )


def _by_domain(axis: Axis, sides: Sides) -> tuple[dict[str, list[Sample]], dict[str, list[Sample]]]:
    """Domain -> train rows, domain -> test rows, over the same domains in the taxonomy's order; "all" last where there are several."""
    tables: tuple[dict[str, list[Sample]], dict[str, list[Sample]]] = ({}, {})
    for table, samples in zip(tables, (sides.train, sides.test), strict=True):
        for sample in samples:
            table.setdefault(getattr(sample, axis) or NONE, []).append(sample)
    names = sorted(tables[0].keys() | tables[1].keys(), key=lambda name: (name == NONE, taxonomy_order(name)))
    train, test = ({str(name): table.get(name, []) for name in names} for table in tables)
    test = {name: samples for name, samples in test.items() if samples}
    if len(names) > 1:
        train[ALL], test[ALL] = list(sides.train), list(sides.test)
    return train, test


def _recover(axis: Axis, sides: Mapping[Axis, Sides], rows: Keys) -> tuple[str, list[Sample]] | None:
    """The one domain that has no train file, with the rows that only files of the other axis hold: they can be nowhere else.

    None where no domain lacks its file, or several do.
    """
    own, other = sides[axis], sides[AXES[axis == AXES[0]]]
    present = {getattr(sample, axis) for sample in own.train}
    missing = {getattr(sample, axis) for sample in own.test} - present - {None}
    if len(missing) != 1:
        return None
    known = {key for sample in (*own.train, *own.test) for key in rows(sample)}
    regained = {key: sample for sample in (*other.train, *other.test) for key in rows(sample) if key not in known}
    return str(missing.pop()), list(regained.values())


def _blind_recovered(regained: Mapping[str, Items], asked: Mapping[str, Items], catalogue: Catalogue) -> Recovered | None:
    for domain, items in regained.items():
        matrix = blind_matrix({domain: items}, {domain: asked[domain]}, catalogue)
        blind = {name: cells[domain][domain] for name, cells in matrix.items()}
        return Recovered(domain=domain, num_rows=len(items), blind=blind)
    return None


def _compare_items(axis: Axis, sides: Sides, seed: int, compared: Comparison, options: AuditOptions) -> tuple[DomainItems, ...]:
    """The option prior on original and on redrawn questions, with the domains in the order of the other tables."""
    prints = compared.fingerprints
    found = compare_items(sides.train, sides.test, by=axis, seed=seed, fingerprints=prints, max_distance=options.max_distance)
    return tuple(sorted(found, key=lambda items: (items.domain == NONE, taxonomy_order(items.domain))))


def _compare_axes(sides: Mapping[Axis, Sides], keys: Keys) -> dict[str, dict[str, Leak]]:
    """Train axis -> test axis -> test rows of the latter that the former trains on.

    Both axes hold the same rows, so a row that stands in no file of an axis whose train files are incomplete is in the one that is absent.
    """
    found: dict[str, dict[str, Leak]] = {}
    for train_axis, other in ((axis, AXES[axis == AXES[0]]) for axis in AXES if len(sides) > 1):
        own = sides[train_axis]
        trained = {key for sample in own.train for key in keys(sample)}
        tested = {key for sample in own.test for key in keys(sample)}
        is_incomplete = bool({getattr(s, train_axis) for s in own.test} - {getattr(s, train_axis) for s in own.train} - {None})
        rows = [key for sample in sides[other].test for key in keys(sample)]
        shared = sum(row in trained or (is_incomplete and row not in tested) for row in rows)
        found[train_axis] = {other: Leak(shared=shared, total=len(rows))}
    return found


def _note_absent(axes: Mapping[Axis, AxisAudit]) -> list[str]:
    """What the tables cannot say because train files are absent."""
    notes = []
    for axis, found in axes.items():
        absent = [name for name in found.test if not found.train[name]]
        if absent:
            rest = f"; {found.recovered.num_rows:,} of its rows stand in files of the other axis" if found.recovered else ""
            notes.append(f"No train rows by {axis.replace('_', ' ')} for {', '.join(absent)}{rest}.")
    return notes


def _find_reasons(found: AxisAudit, options: AuditOptions) -> Iterable[str]:
    """What a gate would stop, most serious kind first."""
    for domain in found.test:
        for kind, matrix in found.leaks.items():
            leak = matrix[domain][domain]
            if leak.value is not None and leak.value > options.max_leak:
                share = f"{percent(leak.value)} % ({leak.shared:,} of {leak.total:,})"
                limit = f"more than {percent(options.max_leak)} %"
                yield f"leak: {share} of the test rows of {domain} share {LEAK_TITLES[kind]} with train, {limit}"
    for domain, guessing in found.chance.items():
        best = found.best(domain)
        if best is None or guessing is None or best[1].low is None or best[1].low <= guessing + options.max_shortcut:
            continue
        name, cell = best
        above = f"more than {100 * options.max_shortcut:.1f} points above guessing ({percent(guessing)} %)"
        yield f"shortcut: {BASELINES[name].title.lower()} answers {percent(cell.value)} % of {domain} blind, {above}"
