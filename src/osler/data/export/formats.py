"""`osler export`: write the questions of a recipe as the files that other training and evaluation tools read.

========== =================== ====================================================================================================
format     files               contents
========== =================== ====================================================================================================
verl       SPLIT.parquet       data_source, prompt, images, ability, reward_model, extra_info; reward.py grades with `osler.grade`
ms_swift   SPLIT.jsonl         messages, images, solution; plugin.py registers the rewards osler_accuracy and osler_format
easyr1     SPLIT.jsonl         problem, answer, images (SPLIT.parquet when images are embedded); easyr1.yaml is EasyR1's data section
lmms_eval  NAME.yaml, utils.py a task over test.parquet, graded with `osler.grade`
========== =================== ====================================================================================================

Prompts are the ones that Osler trains and evaluates with; "<image>" marks the place of an image.
Memory holds one batch of rows and one image at a time. The helper files are in templates/FORMAT/.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from osler.errors import ConfigError, DataError
from osler.files import replacing
from osler.images.files import EncodedImage, ImageFile
from osler.prompts import Phase, render
from osler.types import PLACE, ImageSource, Sample

Images = Literal["embed", "copy", "reference"]
Split = Literal["train", "test"]
Row = dict[str, Any]

BATCH_ROWS: Final = 64
"""Rows of a parquet file in memory at a time, with their images when these are embedded."""

_RESERVED: Final = ("<video>", "<audio>")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_]*")
_TEMPLATES: Final = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """The files of one tool. `row(sample, content, images, split=, index=, strategy=, name=)` returns one row of its data."""

    suffix: Mapping[Images, str]  # {"embed": "parquet"}: the supported ways to store images, the default first
    row: Callable[..., Row]
    extras: tuple[str, ...]  # ("reward.py",): helper files, from templates/verl; NAME in a file name stands for the task
    splits: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What `export` wrote."""

    out: Path
    files: Mapping[str, int]  # {"train.parquet": 600}: number of rows
    extras: tuple[str, ...]  # ("reward.py",)
    num_images: int  # distinct images that were copied or embedded
    num_references: int  # distinct images whose original file is referenced


def export(
    samples: Mapping[str, Sequence[Sample]], out: Path, *, to: str, strategy: str, images: Images | None = None, name: str = "osler"
) -> Export:
    """Write the samples of each split ({"train": samples}) for the tool `to`, a key of FORMATS; existing files are replaced.

    `images` is None for the format's default. `name` is the task name of lmms_eval and part of verl's data_source.
    The train split gets the strategy's training prompt, any other split its evaluation prompt.
    Raises ConfigError for an unknown format, image mode or strategy or an invalid name, and DataError for an empty split, an image that
    cannot be read, a question that contains an image placeholder, or a file that cannot be written.
    """
    if (layout := FORMATS.get(to)) is None:
        raise ConfigError(f"unknown format {to!r}: use one of {', '.join(FORMATS)}")
    image_mode = images if images is not None else next(iter(layout.suffix))
    if image_mode not in layout.suffix:
        raise ConfigError(f"{to} takes images as {' or '.join(layout.suffix)}, not {image_mode!r}")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a task: give --name with small letters, digits and '_' only")
    if empty := next((split for split, members in samples.items() if not members), None):
        raise DataError(f"there are no {empty} questions to export: check the selection")
    store = _ImageStore(out=out, image_mode=image_mode)
    files: dict[str, int] = {}
    for split, members in samples.items():
        rows = _rows(members, store, to=to, split=split, strategy=strategy, name=name)
        path = out / f"{split}.{layout.suffix[image_mode]}"
        with _replacing(path) as draft:
            (_write_parquet if path.suffix == ".parquet" else _write_lines)(draft, rows)
        files[path.name] = len(members)
    extras = {file.replace("NAME", name): (_TEMPLATES / to / file).read_text(encoding="utf-8") for file in layout.extras}
    for file, text in extras.items():
        with _replacing(out / file) as draft:
            filled = text.replace("{name}", name).replace("{strategy}", strategy).replace("{suffix}", layout.suffix[image_mode])
            draft.write_bytes(filled.encode())
    return Export(out=out, files=files, extras=tuple(extras), num_images=len(store.written), num_references=len(store.referenced))


def _rows(samples: Iterable[Sample], store: _ImageStore, *, to: str, split: str, strategy: str, name: str) -> Iterator[Row]:
    phase: Phase = "train" if split == "train" else "eval"
    for index, sample in enumerate(samples):
        prompt = render(sample, strategy, phase=phase)
        if reserved := next((token for token in _RESERVED if token in prompt.text), None):
            raise DataError(f"{sample.id} holds {reserved} in its text, which {to} would take for an image: remove it from the data")
        if prompt.has_places and to == "lmms_eval":
            raise DataError(f"{sample.id} has an image within its text, and lmms_eval shows images first: leave the question out")
        images = [store.place(source) for source in sample.images]
        content = prompt.text if prompt.has_places else PLACE * len(images) + prompt.text
        yield FORMATS[to].row(sample, content, images, split=split, index=index, strategy=strategy, name=name)


def _facts(sample: Sample, strategy: str) -> Row:
    """The columns that grading and result tables need, the same in every format; "" instead of None, because a column has one type."""
    return {
        "id": sample.id,
        "question": sample.question,
        "choices": list(sample.choices),
        "target": sample.target,
        "modality": sample.modality or "",
        "question_type": sample.question_type or "",
        "strategy": strategy,
    }


def _verl_row(sample: Sample, content: str, images: list[Any], *, split: str, index: int, strategy: str, name: str) -> Row:
    return {
        "data_source": f"osler/{name}",
        "prompt": [{"role": "user", "content": content}],
        "images": images,
        "ability": "medical_vqa",
        "reward_model": {"style": "rule", "ground_truth": sample.target},
        "extra_info": {"split": split, "index": index, **_facts(sample, strategy)},
    }


def _ms_swift_row(sample: Sample, content: str, images: list[Any], *, strategy: str, **_: Any) -> Row:
    facts = _facts(sample, strategy)
    return {"messages": [{"role": "user", "content": content}], "images": images, "solution": facts.pop("target"), **facts}


def _easyr1_row(sample: Sample, content: str, images: list[Any], *, strategy: str, **_: Any) -> Row:
    facts = _facts(sample, strategy)
    # EasyR1 turns every other column of a batch into an array and cannot concatenate lists of different lengths; a JSON string is safe.
    facts["choices"] = json.dumps(facts["choices"], ensure_ascii=False)
    return {"problem": content, "answer": facts.pop("target"), "images": images, **facts}


def _lmms_eval_row(sample: Sample, content: str, images: list[Any], *, strategy: str, **_: Any) -> Row:
    return {"prompt": content.removeprefix(PLACE * len(images)), "images": images, **_facts(sample, strategy)}


FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        "verl": Format(suffix={"embed": "parquet", "copy": "parquet", "reference": "parquet"}, row=_verl_row, extras=("reward.py",)),
        "ms_swift": Format(suffix={"copy": "jsonl", "reference": "jsonl"}, row=_ms_swift_row, extras=("plugin.py",)),
        "easyr1": Format(suffix={"copy": "jsonl", "reference": "jsonl", "embed": "parquet"}, row=_easyr1_row, extras=("easyr1.yaml",)),
        "lmms_eval": Format(suffix={"embed": "parquet"}, row=_lmms_eval_row, extras=("NAME.yaml", "utils.py"), splits=("test",)),
    }
)
"""The supported tools, by name."""


class _ImageStore:
    """Copies, embeds or references the images of the rows; a copied image is written once."""

    def __init__(self, *, out: Path, image_mode: Images) -> None:
        self._out = out
        self._image_mode = image_mode
        self._paths: dict[ImageSource, str] = {}
        self.written: set[ImageSource] = set()  # copied or embedded
        self.referenced: set[ImageSource] = set()

    def place(self, source: ImageSource) -> Any:
        """The entry of a row's image column: a path relative to the output folder, or {"bytes": encoded image, "path": None}."""
        if self._image_mode == "embed":
            self.written.add(source)
            return {"bytes": encode_image(source)[0], "path": None}
        if source not in self._paths:
            self._paths[source] = self._reference(source) or self._copy(source)
        return self._paths[source]

    def _reference(self, source: ImageSource) -> str | None:
        """The relative path of the original file; None if other tools would not decode it as Osler does."""
        if self._image_mode != "reference" or not isinstance(source, ImageFile) or _plain_bytes(source) is None:
            return None
        self.referenced.add(source)
        full = (source.root / source.path).absolute()
        return Path(os.path.relpath(full, self._out.absolute())).as_posix()

    def _copy(self, source: ImageSource) -> str:
        content, suffix = encode_image(source)
        name = f"images/{hashlib.sha256(content).hexdigest()[:24]}.{suffix}"
        with _replacing(self._out / name) as draft:
            draft.write_bytes(content)
        self.written.add(source)
        return name


def encode_image(source: ImageSource) -> tuple[bytes, str]:
    """The bytes and suffix ("png" or "jpg") of a file that every tool decodes alike: the original file if it is plain, else a new PNG."""
    if isinstance(source, EncodedImage) and (plain := _plain_bytes(source)) is not None:
        return plain
    stream = io.BytesIO()
    source.load().save(stream, "PNG")
    return stream.getvalue(), "png"


def _plain_bytes(source: EncodedImage) -> tuple[bytes, str] | None:
    """Bytes and suffix of an 8-bit PNG or JPEG without transparency or EXIF rotation, which tools treat differently; else None."""
    from PIL import ExifTags, Image

    source.check_header()
    with source.open() as stream:
        content = stream.read()
    if not content.startswith((b"\x89PNG", b"\xff\xd8")):
        return None
    with Image.open(io.BytesIO(content)) as picture:
        is_plain = picture.mode in ("L", "RGB") and "transparency" not in picture.info
        is_plain = is_plain and picture.getexif().get(ExifTags.Base.Orientation, 1) == 1
    return (content, "png" if content.startswith(b"\x89PNG") else "jpg") if is_plain else None


def _write_lines(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def _write_parquet(path: Path, rows: Iterable[Row]) -> None:
    """Parquet, a batch at a time, with the column types by which `datasets` recognises images."""
    import pyarrow
    import pyarrow.parquet

    remaining = iter(rows)
    batch = [next(remaining)]
    schema = _features(batch[0]).arrow_schema
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while batch:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
            batch = list(islice(remaining, BATCH_ROWS))


def _features(row: Row) -> Any:
    """The column types of rows like this one; an empty list counts as a list of strings."""
    from datasets import Features, Image, List, Value

    def type_of(value: Any) -> Any:
        if isinstance(value, dict):
            return Image() if "bytes" in value else {key: type_of(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return List(type_of(value[0] if value else ""))
        return Value("int64" if isinstance(value, int) else "string")

    return Features({key: type_of(value) for key, value in row.items()})


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """`osler.files.replacing`, with DataError for a file that cannot be written."""
    try:
        with replacing(path) as draft:
            yield draft
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}): give another --out") from error
