"""The manifest of a split, one JSON file: the split of each sample, and digests that show later whether a sample or image has changed.

::

    {"format": "osler-split", "version": 1, "digest": .., "reader": "slake", "options": {..}, "data_seed": 0,
     "protocol": "fractions", "seed": 0, "max_distance": 4, "fractions": {"train": 0.8, "test": 0.2}, "num_groups": 390,
     "counts": {"train": {"ct": {"disease_diagnosis": 120}}}, "images": {"imgs/a.png": "9f2c.."},
     "samples": [{"id": "slake/1", "split": "train", "group": 17, "sha256": "41d8.."}]}

A sample has one split for both axes, so a policy that is trained on one modality can be tested on any question type without a leak.
Image paths are relative to the data root, which is not in the file, so a manifest is valid on any machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from osler.errors import ConfigError, DataError
from osler.files import check_replaceable, read_text, write_whole
from osler.images.fingerprints import digest_image, map_images
from osler.types import ImageSource, Sample

FORMAT: Final = "osler-split"
VERSION: Final = 1
MAX_MANIFEST_BYTES: Final = 256 * 1024**2
REMEDY: Final = "restore the data, or make a new manifest with osler split"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One sample of a manifest."""

    id: str  # "slake/10513"
    split: str | None  # "train"; None for a sample that the protocol does not use
    group: int | None  # see `group_samples`; None for a sample that was not considered
    sha256: str  # of question, choices, target, labels and image digests


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A split of one dataset."""

    reader: str  # "slake"
    options: Mapping[str, Any]  # of the reader, without folders
    data_seed: int  # of the reader
    protocol: str  # "fractions" or "medvlm_r1"
    seed: int  # of the assignment
    max_distance: int | None  # bits by which perceptual hashes of near duplicates may differ; None if no image was opened
    fractions: Mapping[str, float]  # {"train": 0.8, "test": 0.2}; empty for a protocol
    num_groups: int
    counts: Mapping[str, Mapping[str, Mapping[str, int]]]  # split -> modality -> question type -> samples
    images: Mapping[str, str | None]  # uri -> SHA-256; None for an image that could not be read
    samples: tuple[Entry, ...]
    format: Literal["osler-split"] = FORMAT
    version: Literal[1] = VERSION
    path: str = field(default="the manifest", compare=False)  # of the file, for messages; not in the file

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits, e.g. ("train", "test")."""
        return tuple(self.counts)

    def digest(self) -> str:
        """The SHA-256 of `values`."""
        return hashlib.sha256(_canonical(self.values())).hexdigest()

    def values(self) -> dict[str, Any]:
        """The content of the file without the digest."""
        return {key: value for key, value in asdict(self).items() if key != "path"}


def digest_sample(sample: Sample, images: Mapping[str, str | None]) -> str:
    """The SHA-256 of a sample's content, in which an image is its digest in `images`, or its uri if that is None."""
    content = {
        "question": sample.question,
        "choices": sample.choices,
        "target": sample.target,
        "context": sample.context and sample.context.to_json(),
        "modality": sample.modality,
        "question_type": sample.question_type,
        "images": [images.get(source.uri) or source.uri for source in sample.images],
    }
    return hashlib.sha256(_canonical(content)).hexdigest()


def write_manifest(manifest: Manifest, path: Path, *, replace: bool = False) -> None:
    """Write a manifest with one sample per line; the file appears whole or not at all. Equal manifests give equal bytes.

    Raises ConfigError if the file exists with another content, unless `replace`, and DataError if it cannot be written, or would replace a
    file that is no manifest.
    """
    values = manifest.values()
    samples = ",\n  ".join(json.dumps(entry) for entry in values.pop("samples"))
    images = ",\n  ".join(f"{json.dumps(uri)}: {json.dumps(digest)}" for uri, digest in values.pop("images").items())
    head = {"format": values.pop("format"), "version": values.pop("version"), "digest": manifest.digest(), **values}
    text = json.dumps(head, indent=1).removesuffix("\n}")
    text = f'{text},\n "images": {{\n  {images}\n }},\n "samples": [\n  {samples}\n ]\n}}\n'
    try:
        if path.is_file() and not replace and path.read_bytes() != text.encode():
            raise ConfigError(f"{path} holds something else: give another --out, or --fresh to replace it")
        check_replaceable(path, f'{{\n "format": "{FORMAT}"', "manifest")
        write_whole(path, text)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}): give another --out") from error


def load_manifest(path: str | Path) -> Manifest:
    """Read a manifest. Raises DataError for a file that is missing, not a manifest, of another version, or was edited."""
    from pydantic import TypeAdapter, ValidationError

    if not Path(path).exists():
        raise DataError(f"{path} does not exist: make it with osler split")
    try:
        values = json.loads(read_text(Path(path), MAX_MANIFEST_BYTES, "name the file that osler split wrote"))
    except (ValueError, RecursionError):
        raise DataError(f"{path} is no manifest (not JSON): make one with osler split") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise DataError(f"{path} is no manifest: make one with osler split")
    if values.get("version") != VERSION:
        version = values.get("version")
        raise DataError(f"{path} is a manifest of version {version!r}, this is for {VERSION}: make a new one with osler split")
    digest = values.pop("digest", None)
    try:
        manifest = TypeAdapter(Manifest).validate_python({**values, "path": str(path)})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path} is a damaged manifest ({where}: {first['msg']}): make a new one with osler split") from None
    if manifest.digest() != digest:
        raise DataError(f"{path} was changed after it was made (its digest does not fit): make a new one with osler split")
    return manifest


def check_reader(manifest: Manifest, reader: str) -> None:
    """Raise ConfigError if the reader of a recipe is not the manifest's."""
    if reader != manifest.reader:
        raise ConfigError(f"{manifest.path} is a manifest of reader {manifest.reader!r}, [data] has {reader!r}: make one with osler split")


def check_same(manifest: Manifest, sample: Sample, other: Sample) -> None:
    """Raise ConfigError if `other`, which was read with a recipe's options, differs from `sample`, read with the manifest's options."""
    if digest_sample(sample, manifest.images) != digest_sample(other, manifest.images):
        made_with = ", ".join(f"{key} = {value!r}" for key, value in manifest.options.items()) or "no options"
        raise ConfigError(f"{sample.id} is another question than in {manifest.path}, which was made with {made_with}: use the same options")


def source_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a reader without `images`, a folder that differs between machines and changes no question."""
    return {key: value for key, value in options.items() if key != "images"}


def select_split(manifest: Manifest, samples: Sequence[Sample], split: str) -> list[Sample]:
    """The samples of one split, in their order. All samples are compared with the manifest first, but image files are not read.

    Raises ConfigError for an unknown split and DataError for a new, missing or changed sample.
    """
    if split not in manifest.splits:
        raise ConfigError(f"{manifest.path} has no split {split!r}: it has {', '.join(manifest.splits)}")
    entries = {entry.id: entry for entry in manifest.samples}
    chosen = []
    for sample in samples:
        if (entry := entries.pop(sample.id, None)) is None:
            raise DataError(f"{sample.id} is not in {manifest.path}: {REMEDY}")
        unknown = next((source.uri for source in sample.images if source.uri not in manifest.images), None)
        if unknown is not None:
            raise DataError(f"{sample.id} has the image {unknown!r}, which is not in {manifest.path}: {REMEDY}")
        if digest_sample(sample, manifest.images) != entry.sha256:
            raise DataError(f"{sample.id} is not what it was for {manifest.path} (question, choices, target or a label changed): {REMEDY}")
        if entry.split == split:
            chosen.append(sample)
    if entries:
        raise DataError(f"{next(iter(entries))} is in {manifest.path} but not in the data ({len(entries):,} are missing): {REMEDY}")
    return chosen


def verify_images(manifest: Manifest, samples: Iterable[Sample]) -> None:
    """Raise DataError if an image file of these samples is missing or changed; images without a digest in the manifest are skipped."""
    owners: dict[ImageSource, str] = {}
    for sample in samples:
        for source in sample.images:
            if manifest.images.get(source.uri) is not None:
                owners.setdefault(source, sample.id)
    for source, digest in map_images(digest_image, owners).items():
        if digest != manifest.images[source.uri]:
            what = "is not at hand" if digest is None else "has changed"
            raise DataError(f"{owners[source]}: the image {source.uri!r} {what} since {manifest.path} was made: {REMEDY}")


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()
