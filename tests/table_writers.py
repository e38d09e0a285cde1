"""The same questions in the tables and chats that people have. Each writer takes a folder, rows and the images by path, and returns a root.

A row has an id, an image, a question, a list of choices, the letter of the right answer, and perhaps a modality and a subject_id.
"""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import datasets

from osler.types import LETTERS

Row = dict[str, Any]
Images = dict[str, bytes]
Writer = Callable[[Path, Sequence[Row], Images], Path]


def without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def columns(row: Row) -> Row:
    return dict(zip(LETTERS, row["choices"], strict=False))


def asked(row: Row) -> str:
    """The question with its options in lines."""
    return "\n".join([row["question"], *(f"{letter}. {choice}" for letter, choice in columns(row).items())])


def write_lines(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_cells(path: Path, rows: Sequence[Row], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def jsonl(folder: Path, rows: Sequence[Row], _: Images) -> Path:
    (folder / "rows.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder / "rows.jsonl"


def json_list(folder: Path, rows: Sequence[Row], _: Images) -> Path:
    (folder / "rows.json").write_text(json.dumps(list(rows), indent=1))
    return folder / "rows.json"


def lines_named_json(folder: Path, rows: Sequence[Row], _: Images) -> Path:
    write_lines(folder / "rows.json", rows)
    return folder


def json_object(folder: Path, rows: Sequence[Row], _: Images) -> Path:
    (folder / "rows.json").write_text(json.dumps({"version": 1, "data": list(rows)}))
    return folder


def json_by_id(folder: Path, rows: Sequence[Row], _: Images) -> Path:
    (folder / "rows.json").write_text(json.dumps({row["id"]: without(row, "id") for row in rows}))
    return folder


def text_answers(folder: Path, rows: Sequence[Row], _: Images) -> Path:
    return write_lines(folder / "rows.jsonl", [{**row, "answer": columns(row)[row["answer"]]} for row in rows])


def options_by_letter(folder: Path, rows: Sequence[Row], _: Images) -> Path:
    return write_lines(folder / "rows.jsonl", [{**without(row, "choices"), "options": columns(row)} for row in rows])


def index_answers(folder: Path, rows: Sequence[Row], _: Images) -> Path:
    return write_lines(folder / "rows.jsonl", [{**row, "answer": LETTERS.index(row["answer"])} for row in rows])


def marked_options(folder: Path, rows: Sequence[Row], _: Images) -> Path:
    marked = ([f"{letter}. {choice}" for letter, choice in columns(row).items()] for row in rows)
    return write_lines(folder / "rows.jsonl", [{**row, "choices": choices} for row, choices in zip(rows, marked, strict=True)])


def r1v(folder: Path, rows: Sequence[Row], _: Images) -> Path:
    changed = [{"problem": asked(row), "solution": f"<answer> {row['answer']} </answer>"} for row in rows]
    kept = [without(row, "question", "choices", "answer") for row in rows]
    return write_lines(folder / "rows.jsonl", [{**one, **other} for one, other in zip(kept, changed, strict=True)])


def llava(folder: Path, rows: Sequence[Row], _: Images) -> Path:
    def chat(row: Row) -> Row:
        turns = [{"from": "human", "value": f"<image>\n{asked(row)}"}, {"from": "gpt", "value": row["answer"]}]
        return {**without(row, "question", "choices", "answer"), "conversations": turns}

    (folder / "rows.json").write_text(json.dumps([chat(row) for row in rows]))
    return folder


def ms_swift(folder: Path, rows: Sequence[Row], _: Images) -> Path:
    def chat(row: Row, *, has_system: bool) -> Row:
        turns = [{"role": "system", "content": "You read images."}] if has_system else []
        turns += [{"role": "user", "content": f"<image>{asked(row)}"}, {"role": "assistant", "content": row["answer"]}]
        return {**without(row, "question", "choices", "answer", "image"), "images": [row["image"]], "messages": turns}

    return write_lines(folder / "rows.jsonl", [chat(row, has_system=number % 2 == 0) for number, row in enumerate(rows)])


def qwen(folder: Path, rows: Sequence[Row], _: Images) -> Path:
    def chat(row: Row) -> Row:
        parts = [{"type": "image", "image": row["image"]}, {"type": "text", "text": row["question"]}]
        return {**without(row, "question", "image"), "messages": [{"role": "user", "content": parts}]}

    return write_lines(folder / "rows.jsonl", [chat(row) for row in rows])


def openai_data_urls(folder: Path, rows: Sequence[Row], images: Images) -> Path:
    def chat(row: Row) -> Row:
        url = "data:image/png;base64," + base64.b64encode(images[row["image"]]).decode()
        parts = [{"type": "text", "text": asked(row)}, {"type": "image_url", "image_url": {"url": url}}]
        turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text", "text": row["answer"]}]}]
        return {**without(row, "question", "image", "choices", "answer"), "messages": turns}

    return write_lines(folder / "rows.jsonl", [chat(row) for row in rows])


def csv_list(folder: Path, rows: Sequence[Row], _: Images) -> Path:
    return write_cells(folder / "rows.csv", [{**row, "choices": str(row["choices"])} for row in rows])


def csv_columns(folder: Path, rows: Sequence[Row], _: Images) -> Path:
    return write_cells(folder / "rows.csv", [{**without(row, "choices"), **columns(row)} for row in rows])


def vlmevalkit(folder: Path, rows: Sequence[Row], images: Images) -> Path:
    """TSV with base64 in the first row of an image; later rows name its index."""
    written, first = [], dict[str, int]()
    for number, row in enumerate(rows):
        path = row["image"]
        content = str(first[path]) if path in first else base64.b64encode(images[path]).decode()
        first.setdefault(path, number)
        written.append({"index": number, "image": content, "hint": "", **without(row, "id", "image", "choices"), **columns(row)})
    return write_cells(folder / "rows.tsv", written, "\t")


def dataset_of(rows: Sequence[Row], images: Images, *, as_list: bool) -> datasets.Dataset:
    cells = [{"bytes": images[row["image"]], "path": "source.png"} for row in rows]
    if as_list:
        dataset = datasets.Dataset.from_list([{**without(row, "image"), "images": [cell]} for row, cell in zip(rows, cells, strict=True)])
        return dataset.cast_column("images", datasets.List(datasets.Image()))
    dataset = datasets.Dataset.from_list([{**row, "image": cell} for row, cell in zip(rows, cells, strict=True)])
    return dataset.cast_column("image", datasets.Image())


def parquet(folder: Path, rows: Sequence[Row], images: Images) -> Path:
    """Shards with images in lists, as `push_to_hub` lays them out."""
    (folder / "data").mkdir()
    whole = dataset_of(rows, images, as_list=True)
    for shard in range(2):
        whole.shard(2, shard, contiguous=True).to_parquet(folder / f"data/test-{shard:05d}-of-00002.parquet")
    return folder


def parquet_with_paths(folder: Path, rows: Sequence[Row], _: Images) -> Path:
    datasets.Dataset.from_list(list(rows)).to_parquet(folder / "test.parquet")
    return folder


def saved(folder: Path, rows: Sequence[Row], images: Images) -> Path:
    dataset_of(rows, images, as_list=False).save_to_disk(folder / "saved")
    return folder / "saved"


def saved_splits(folder: Path, rows: Sequence[Row], images: Images) -> Path:
    datasets.DatasetDict({"test": dataset_of(rows, images, as_list=False)}).save_to_disk(folder / "saved")
    return folder / "saved"


def imagefolder(folder: Path, rows: Sequence[Row], images: Images) -> Path:
    for path, content in images.items():
        (folder / "test" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "test" / path).write_bytes(content)
    write_lines(folder / "test/metadata.jsonl", [{"file_name": row["image"], **without(row, "image")} for row in rows])
    return folder


WRITERS = MappingProxyType(
    {
        writer.__name__: writer
        for writer in (
            *(jsonl, json_list, lines_named_json, json_object, json_by_id, text_answers, options_by_letter, index_answers, marked_options),
            *(r1v, llava, ms_swift, qwen, openai_data_urls, csv_list, csv_columns, vlmevalkit),
            *(parquet, parquet_with_paths, saved, saved_splits, imagefolder),
        )
    }
)
WITHOUT_IDS = frozenset({"vlmevalkit"})
