"""The tables of a file or a folder, and their rows: JSON Lines, JSON, CSV, TSV, Parquet, and datasets that Hugging Face's library saved.

A split is told from the name of a file or of its folder ("val-00000-of-00002.parquet", "slake_test.csv", "train/metadata.jsonl").
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from osler.data.readers.layouts.fields import find_fields
from osler.data.readers.layouts.stored import read_parquet, read_saved
from osler.data.readers.read_files import MAX_LINE_BYTES, check_list, load_lines, parse_json, read_bytes
from osler.errors import ConfigError, DataError

SUFFIXES: Final = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""In the order in which the files of a folder are read."""

Row = tuple[int, Any]
"""The number of a row from 1, and its object; a DataError in place of a row that cannot be parsed."""

_ARCHIVES: Final = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
_REMEDIES: Final = {
    **dict.fromkeys(_ARCHIVES, "is an archive: unpack it, and name the folder"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "is a spreadsheet: save it as CSV"),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth", ".npy", ".npz"), "may run code when it is read: save the rows as JSON Lines"),
}
_DESCRIPTIONS: Final = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "osler.json"})
_SPLIT_NAMES: Final = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "validation"),
}
_WORD: Final = re.compile(r"[^-_.\s]+")
_LETTERS_ONLY: Final = re.compile(r"[a-z]+")
_MAX_INDEX: Final = 16
_SHARD: Final = re.compile(r"[-_](\d{4,6})-of-(\d{4,6})$")
_LEAST_ENCODED: Final = 64  # characters of an image in base64


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table of a dataset."""

    name: str  # "train.jsonl"; names its rows in refusals
    stem: str  # "train"; the dataset of rows that name none
    split: str | None  # what its name says
    prefix: str  # "train/": its folder below the root, where its image paths start
    rows: Callable[[], Iterator[Row]]
    lines: Path | None = None  # the file whose lines are its rows; None where they are not, or stand in several files


def find_tables(root: Path) -> list[Table]:
    """The tables of a file or a folder, in a fixed order. Raises DataError where there are none, with a remedy."""
    if (root / "dataset_dict.json").is_file():
        return [table for folder in sorted(root.iterdir()) if folder.is_dir() for table in _saved(folder)]
    if _is_saved(root):
        return _saved(root)
    if root.is_dir():
        if not _list_files(root) and (inner := [folder for folder in sorted(root.glob("*/")) if _is_saved(folder)]):
            return [table for folder in inner for table in _saved(folder)]
        files = _list_files(root) or _list_files(root / "data") or [file for part in sorted(root.glob("*/")) for file in _list_files(part)]
        if not files:
            raise DataError(f"{root} holds no table ({', '.join(SUFFIXES)}){_hint(root)}")
        return _group(files, root)
    if remedy := _REMEDIES.get(root.suffix.lower()):
        raise DataError(f"{root} {remedy}")
    return [replace(_table([root], root.parent), split=None)]  # a file that is named is read, whatever its own name says


def split_of(name: str) -> str | None:
    """The split that a name or a field tells with its last word: "val" -> "validation"; None for no split, and for two: "train_val"."""
    words = [word for word in _WORD.findall(_SHARD.sub("", name.lower())) if not word.isdigit()]
    if not words or len([word for word in words if word in _SPLIT_NAMES]) > 1 or {"not", "no", "non"} & set(words):
        return None
    return _SPLIT_NAMES.get(words[-1])


def check_split_of(file: Path, split: str | None) -> None:
    """Raise ConfigError where a file that is the root is named after another split than the one that is asked for."""
    named = {_SPLIT_NAMES[word] for word in _LETTERS_ONLY.findall(file.stem.lower()) if word in _SPLIT_NAMES}
    if split is not None and named and named != {split}:
        raise ConfigError(f"{file.name} is the {' and '.join(sorted(named))} split, and {split} is asked for: name the folder as the root")


def _hint(root: Path) -> str:
    others = sorted(file.name for file in root.iterdir() if file.suffix.lower() in _REMEDIES)
    return f"; {others[0]} {_REMEDIES[Path(others[0]).suffix.lower()]}" if others else ": name the file itself as the root"


def _is_saved(folder: Path) -> bool:
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def _list_files(folder: Path) -> list[Path]:
    files = [file for file in folder.glob("*") if file.suffix.lower() in SUFFIXES and file.name not in _DESCRIPTIONS and file.is_file()]
    return sorted(files, key=lambda file: (SUFFIXES.index(file.suffix.lower()), file.name))


def _group(files: Sequence[Path], root: Path) -> list[Table]:
    """One table for each file, and one for all shards "name-00000-of-00002.parquet". Raises DataError for a missing shard."""
    groups: dict[tuple[Path, str], list[Path]] = {}
    for file in files:
        shard = _SHARD.search(file.stem)
        groups.setdefault((file.with_name(_SHARD.sub("", file.stem) + file.suffix), shard[2] if shard else ""), []).append(file)
    for (file, count), shards in groups.items():
        if count and len(shards) != int(count):
            raise DataError(f"{file.parent} holds {len(shards)} of {int(count)} shards of {file.stem}: fetch the others")
    return [_table(shards, root) for shards in groups.values()]


def _table(files: Sequence[Path], root: Path) -> Table:
    first = files[0]
    stem = _SHARD.sub("", first.stem)
    inner = first.parent.name if first.parent not in (root, root / "data") else None
    readers = {".csv": read_delimited, ".tsv": read_delimited, ".json": _read_json, ".parquet": read_parquet}

    def rows() -> Iterator[Row]:
        done = 0
        for file in files:
            number = 0
            for number, row in readers.get(file.suffix.lower(), load_lines)(file):
                yield done + number, row
            done += number

    return Table(
        name=first.name if inner is None else f"{inner}/{first.name}",
        stem=stem if inner is None else inner,
        split=split_of(stem) or (split_of(inner) if inner else None),
        prefix="" if inner is None else f"{inner}/",
        rows=rows,
        lines=first if len(files) == 1 and first.suffix.lower() not in readers else None,
    )


def _saved(folder: Path) -> list[Table]:
    """The table of a folder that `Dataset.save_to_disk` wrote."""

    return [Table(name=folder.name, stem=folder.name, split=split_of(folder.name), prefix="", rows=lambda: read_saved(folder))]


def _read_json(path: Path) -> Iterator[Row]:
    """A list of rows; rows by their ids; an object that holds one list of rows; or JSON Lines under another name."""
    content = read_bytes(path)
    lines = content.splitlines()
    if content.lstrip()[:1] == b"{" and len(lines) > 1 and lines[0].rstrip().endswith(b"}"):
        yield from load_lines(path)
        return
    value = parse_json(content, path)
    if isinstance(value, dict) and {"question", "answer"} & find_fields(value).parts.keys():
        value = [value]
    elif isinstance(value, dict) and value:
        lists = [inner for inner in value.values() if isinstance(inner, list) and inner and isinstance(inner[0], dict)]
        if all(isinstance(inner, dict) for inner in value.values()):
            value = [{"id": key, **inner} for key, inner in value.items()]
        elif len(lists) == 1 and not {"messages", "conversations"} & value.keys():
            value = lists[0]
        elif len(lists) > 1:
            names = ", ".join(str(key) for key, inner in value.items() if isinstance(inner, list))
            raise DataError(f"{path} holds several lists ({names}): write each as a file of its own")
        else:
            value = [value]
    yield from enumerate(check_list(value, path), start=1)


def read_delimited(path: Path) -> Iterator[Row]:
    """CSV with commas or semicolons, or TSV, with a line of names first. Every cell is text as it stands: "01" and "None" stay.

    The text is decoded line by line: decoded whole, a file of 91 MB takes 0.5 GB more.
    """
    content = read_bytes(path)
    head = content[: content.find(b"\n")] if b"\n" in content else content
    others = [mark for mark in ("\t", ";") if mark.encode() in head and b"," not in head]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else others[0] if others else ","
    limit = csv.field_size_limit(MAX_LINE_BYTES)
    try:
        cells = csv.reader(io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline=""), delimiter=delimiter, strict=True)
        names = [name.strip() for name in next(cells, [])]
        if len(set(names)) < len(names):
            raise DataError(f"{path} names a column twice in its first line: name each once")
        rows = [row for row in cells if row]
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text (byte {_first_undecodable(content)}): save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}, line {cells.line_num}: {error}: double a quotation mark within a quoted cell") from error
    finally:
        csv.field_size_limit(limit)
    images: dict[str, str] = {}  # VLMEvalKit: a later row names the first by its index
    if {"index", "image"} <= set(names):
        index, image = names.index("index"), names.index("image")
        images = {row[index]: row[image] for row in rows if len(row) == len(names)}
    for number, values in enumerate(rows, start=1):
        row = dict(zip(names, values, strict=False))
        if len(values) != len(names):
            yield number, DataError(f"{len(values)} cells for {len(names)} columns: quote texts that hold the separator")
        elif delimiter == "\t" and any("\t" in value for value in values):
            yield number, DataError("a cell holds a tab: a quotation mark is opened before it, and the rows up to the next one are lost")
        elif len(name := row.get("image", "")) <= _MAX_INDEX and len(images.get(name, "")) > _LEAST_ENCODED:
            yield number, {**row, "image": images[name]}
        else:
            yield number, row


def _first_undecodable(content: bytes) -> int:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    raise AssertionError("the content is UTF-8")
