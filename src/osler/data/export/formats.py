"""`osler export`: the questions of a recipe in the files that other trainers and harnesses read.

========== ================== =====================================================================================================
format     files              rows
========== ================== =====================================================================================================
verl       SPLIT.parquet      data_source, prompt, images, ability, reward_model, extra_info; reward.py grades as Osler does
ms_swift   SPLIT.jsonl        messages, images, solution; plugin.py holds the reward osler_accuracy
easyr1     SPLIT.jsonl        problem, answer, images (SPLIT.parquet where images are embedded); easyr1.yaml names them to EasyR1
lmms_eval  NAME.yaml, utils   a task folder over test.parquet, graded as Osler does
========== ================== =====================================================================================================

Prompts are rendered as Osler renders them, "<image>" standing for a picture, so a policy trained elsewhere is asked in the same words.
Nothing is held in memory but one batch of rows and one picture.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from osler.data.export.bridges import TEMPLATES
from osler.errors import ConfigError, DataError
from osler.images.files import ImageFile
from osler.prompts import Phase, render
from osler.types import ImageSource, Sample

Images = Literal["embed", "copy", "reference"]
Split = Literal["train", "test"]
Row = dict[str, Any]

PLACEHOLDER: Final = "<image>"
BATCH_ROWS: Final = 64
"""Rows of a parquet file in memory at a time, with their pictures when those are embedded."""

_RESERVED: Final = (PLACEHOLDER, "<video>", "<audio>")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_]*")
_ORIENTATION_TAG: Final = 0x0112


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One tool's files. `row(sample, content, images, split, index, strategy)` gives one line or row."""

    name: str  # "verl"
    suffix: Mapping[Images, str]  # how images travel -> "parquet"; what is not there is not offered
    row: Callable[..., Row]
    extras: Mapping[str, str] = field(default_factory=dict)  # file name -> text of a helper that stands beside the data
    splits: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was written."""

    out: Path
    files: Mapping[str, int]  # {"train.parquet": 600}: rows
    extras: tuple[str, ...]  # ("reward.py",)
    num_images: int  # written or embedded, each once
    num_references: int  # left where they were


def export(
    samples: Mapping[str, Sequence[Sample]], out: Path, *, to: str, strategy: str, images: Images | None = None, name: str = "osler"
) -> Export:
    """Write the samples of each split for one tool; `name` names the task of lmms_eval and the data source of verl.

    Training questions get the strategy's training prompt, all others its evaluation prompt. Files of the same names are replaced.

    Raises ConfigError for a format, a way for images or a name that does not exist, and DataError for a row that cannot be written: an
    image that is not at hand, or text that holds another tool's placeholder.
    """
    if (chosen := FORMATS.get(to)) is None:
        raise ConfigError(f"unknown format {to!r}: use one of {', '.join(FORMATS)}")
    way = images if images is not None else next(iter(chosen.suffix))
    if way not in chosen.suffix:
        raise ConfigError(f"{to} takes images as {' or '.join(chosen.suffix)}, not {way!r}")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a task: give --name with small letters, digits and '_' only")
    if empty := next((split for split, members in samples.items() if not members), None):
        raise DataError(f"there are no {empty} questions to export: check the selection")
    store = _ImageStore(out=out, way=way)
    files: dict[str, int] = {}
    for split, members in samples.items():
        rows = _rows(chosen, members, store, split=split, strategy=strategy, name=name)
        path = out / f"{split}.{chosen.suffix[way]}"
        files[path.name] = _write_parquet(path, rows) if path.suffix == ".parquet" else _write_lines(path, rows)
    for file, text in chosen.extras.items():
        filled = text.replace("{name}", name).replace("{strategy}", strategy).replace("{suffix}", chosen.suffix[way])
        _write(out / file.replace("NAME", name), filled)
    return Export(
        out=out,
        files=files,
        extras=tuple(file.replace("NAME", name) for file in chosen.extras),
        num_images=store.num_written,
        num_references=store.num_references,
    )


def _rows(chosen: Format, samples: Iterable[Sample], store: _ImageStore, *, split: str, strategy: str, name: str) -> Iterator[Row]:
    phase: Phase = "train" if split == "train" else "eval"
    for index, sample in enumerate(samples):
        text = render(sample, strategy, phase=phase).text
        if found := next((token for token in _RESERVED if token in text), None):
            raise DataError(f"{sample.id} holds {found} in its text, which {chosen.name} would take for an image: remove it from the data")
        images = [store.place(source) for source in sample.images]
        content = PLACEHOLDER * len(images) + text
        yield chosen.row(sample, content, images, split=split, index=index, strategy=strategy, name=name)


def _facts(sample: Sample, strategy: str) -> Row:
    """What a grader and a table of results need, the same in every format; texts only, since columns have one type."""
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


def _ms_swift_row(sample: Sample, content: str, images: list[Any], *, split: str, index: int, strategy: str, name: str) -> Row:  # noqa: ARG001
    facts = _facts(sample, strategy)
    return {"messages": [{"role": "user", "content": content}], "images": images, "solution": facts.pop("target"), **facts}


def _easyr1_row(sample: Sample, content: str, images: list[Any], *, split: str, index: int, strategy: str, name: str) -> Row:  # noqa: ARG001
    facts = _facts(sample, strategy)
    # EasyR1 makes an array of every further column of a batch and cannot join batches whose lists differ in length: a text is safe.
    facts["choices"] = json.dumps(facts["choices"], ensure_ascii=False)
    return {"problem": content, "answer": facts.pop("target"), "images": images, **facts}


def _lmms_eval_row(sample: Sample, content: str, images: list[Any], *, split: str, index: int, strategy: str, name: str) -> Row:  # noqa: ARG001
    return {"prompt": content.removeprefix(PLACEHOLDER * len(images)), "images": images, **_facts(sample, strategy)}


FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        chosen.name: chosen
        for chosen in (
            Format(
                name="verl",
                suffix={"embed": "parquet", "copy": "parquet", "reference": "parquet"},
                row=_verl_row,
                extras={"reward.py": TEMPLATES["verl"]},
            ),
            Format(
                name="ms_swift",
                suffix={"copy": "jsonl", "reference": "jsonl"},
                row=_ms_swift_row,
                extras={"plugin.py": TEMPLATES["ms_swift"]},
            ),
            Format(
                name="easyr1",
                suffix={"copy": "jsonl", "reference": "jsonl", "embed": "parquet"},
                row=_easyr1_row,
                extras={"easyr1.yaml": TEMPLATES["easyr1"]},
            ),
            Format(
                name="lmms_eval",
                suffix={"embed": "parquet"},
                row=_lmms_eval_row,
                extras={"NAME.yaml": TEMPLATES["lmms_eval_yaml"], "utils.py": TEMPLATES["lmms_eval_utils"]},
                splits=("test",),
            ),
        )
    }
)
"""Where questions can go, by name."""


class _ImageStore:
    """Puts each picture where the rows can name it, once."""

    def __init__(self, *, out: Path, way: Images) -> None:
        self._out = out
        self._way = way
        self._places: dict[ImageSource, str] = {}
        self._embedded: set[ImageSource] = set()
        self._num_references = 0

    @property
    def num_references(self) -> int:
        """Pictures that stay where they were."""
        return self._num_references

    @property
    def num_written(self) -> int:
        """Distinct pictures that were written or embedded."""
        return len(self._places) - self._num_references + len(self._embedded)

    def place(self, source: ImageSource) -> Any:
        """A path relative to the output folder, or the encoded picture itself."""
        if self._way == "embed":
            self._embedded.add(source)
            return {"bytes": encode_image(source)[0], "path": None}
        if source not in self._places:
            self._places[source] = self._refer(source) or self._copy(source)
        return self._places[source]

    def _refer(self, source: ImageSource) -> str | None:
        """The path to a file that any tool shows as Osler does; None where there is no such file."""
        if self._way != "reference" or not isinstance(source, ImageFile) or _plain_bytes(source) is None:
            return None
        self._num_references += 1
        full = (source.root / source.path).absolute()
        return Path(os.path.relpath(full, self._out.absolute())).as_posix()

    def _copy(self, source: ImageSource) -> str:
        content, suffix = encode_image(source)
        name = f"images/{hashlib.sha256(content).hexdigest()[:24]}.{suffix}"
        _write(self._out / name, content)
        return name


def encode_image(source: ImageSource) -> tuple[bytes, str]:
    """A picture as a file that any tool shows alike, and its suffix: its own bytes where that is so, else a PNG of what Osler shows."""
    if isinstance(source, ImageFile) and (plain := _plain_bytes(source)) is not None:
        return plain
    stream = io.BytesIO()
    source.load().save(stream, "PNG")
    return stream.getvalue(), "png"


def _plain_bytes(source: ImageFile) -> tuple[bytes, str] | None:
    """The bytes of a PNG or JPEG of 8 bits, without transparency or a rotation tag, which tools treat differently; else None."""
    from PIL import Image

    source.check_header()
    with source.open() as stream:
        content = stream.read()
    if not content.startswith((b"\x89PNG", b"\xff\xd8")):
        return None
    with Image.open(io.BytesIO(content)) as picture:
        is_plain = picture.mode in ("L", "RGB") and "transparency" not in picture.info
        is_plain = is_plain and picture.getexif().get(_ORIENTATION_TAG, 1) == 1
    return (content, "png" if content.startswith(b"\x89PNG") else "jpg") if is_plain else None


def _write_lines(path: Path, rows: Iterable[Row]) -> int:
    """JSON Lines; the file appears whole or not at all."""
    number = 0
    with _draft(path) as draft, draft.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row) + "\n")
            number += 1
    return number


def _write_parquet(path: Path, rows: Iterable[Row]) -> int:
    """Parquet with the column types that `datasets` reads pictures by, a batch at a time; the file appears whole or not at all."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    remaining = iter(rows)
    first = next(remaining)
    schema = _features(first).arrow_schema
    with _draft(path) as draft, pyarrow.parquet.ParquetWriter(draft, schema) as writer:
        batch = [first]
        while batch:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
            number += len(batch)
            batch = list(islice(remaining, BATCH_ROWS))
    return number


def _features(row: Row) -> Any:
    """The column types of rows like this one. A list without an entry is one of texts."""
    from datasets import Features, Image, List, Value

    def type_of(value: Any) -> Any:
        if isinstance(value, dict):
            return Image() if "bytes" in value else {key: type_of(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return List(type_of(value[0] if value else ""))
        return Value("int64" if isinstance(value, int) else "string")

    return Features({key: type_of(value) for key, value in row.items()})


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place when all went well, and goes when not."""
    draft = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        draft.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}): give another --out") from error
    finally:
        with suppress(OSError):
            draft.unlink()


def _write(path: Path, content: str | bytes) -> None:
    with _draft(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
