"""Plain JSON Lines (or one JSON list), in the two shapes that trainers of this field use::

    {"image": "a.png", "problem": "What is it?\\nA) CT\\nB) MRI", "solution": "<answer> B </answer>"}
    {"images": ["a.png"], "messages": [{"role": "user", "content": "What is it?"}], "choices": ["CT", "MRI"], "answer": "B"}

Options stand inline or in `choices`; without either the question is open-ended. The right answer is a letter or an option's text under
"answer" or "solution", or a letter under "target". Osler's own `data convert` writes the second shape, with the keys id, dataset, target,
modality, question_type, subject_id, context, rationale and metadata.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from osler.data.readers.base import SPLITS, Reader, ReaderCard, ReadReport, Rows, check_choice, get_text
from osler.data.readers.read_files import Line, load_lines, load_rows
from osler.data.readers.text import Problem, check_choices, letter_of, repair_mojibake, split_problem, unwrap_answer
from osler.errors import DataError
from osler.images.files import ImageFile
from osler.taxonomy import parse_modality, parse_question_type
from osler.types import Sample

CARD: Final = ReaderCard(
    title="JSON Lines",
    source="your own",
    licence="your own",
    counts="as many as it has",
    layout="a .jsonl or .json file, or a folder of such files; with a split, <split>.jsonl or <split>.json in that folder",
    options={"images": "the folder that image paths start from; the file's folder when left out"},
)

_PLACEHOLDER: Final = re.compile(r"\s*<image>\s*")


def read_jsonl(root: Path, *, split: str | None = None, seed: int = 0, images: str | Path | None = None) -> ReadReport:
    """Every row of the file or files. `split` chooses files by name, and nothing where the root is a file; `seed` draws nothing here."""
    del seed
    check_choice("split", split, SPLITS)
    rows = Rows()
    for file in _list_files(root, split):
        image_root = Path(images) if images is not None else file.parent
        for line in _load(file):
            row_id = f"{file.name}:{line.number}"
            rows.add(row_id, lambda: _make_sample(line, file.stem, image_root, rows.notes))  # noqa: B023 - called at once
    return rows.report()


def _list_files(root: Path, split: str | None) -> list[Path]:
    if not root.is_dir():
        return [root]
    files = [file for suffix in ("jsonl", "json") for file in sorted(root.glob(f"{split or '*'}.{suffix}"))]
    if not files:
        raise DataError(f"{root} holds no {split or '*'}.jsonl: name the file itself as the root")
    return files


def _load(file: Path) -> Iterator[Line]:
    if file.suffix == ".json":
        return (Line(number=number, value=value) for number, value in enumerate(load_rows(file), start=1))
    return load_lines(file)


def _make_sample(line: Line, stem: str, image_root: Path, notes: Counter[str]) -> Sample:
    if line.fault is not None:
        raise DataError(line.fault)
    row = line.value
    if not isinstance(row, dict):
        raise DataError("the row is not an object")
    problem = _problem(row, notes)
    answer = _answer(row, notes)
    dataset = get_text(row, "dataset") if row.get("dataset") is not None else stem
    return Sample(
        id=get_text(row, "id") if row.get("id") is not None else f"{dataset}/{line.number}",
        dataset=dataset,
        images=_images(row, image_root),
        question=problem.question,
        choices=problem.choices,
        target=letter_of(answer, problem.choices, notes, kind="letter" if "target" in row else "either") if problem.choices else answer,
        modality=parse_modality(get_text(row, "modality")) if row.get("modality") is not None else None,
        question_type=parse_question_type(get_text(row, "question_type")) if row.get("question_type") is not None else None,
        subject_id=_optional(row, "subject_id"),
        context=_optional(row, "context"),
        rationale=_optional(row, "rationale"),
        metadata=_metadata(row),
    )


def _problem(row: dict[str, Any], notes: Counter[str]) -> Problem:
    raw = row.get("messages", row.get("prompt"))
    text = _user_text(raw) if isinstance(raw, list) else get_text(row, "problem" if "problem" in row else "question")
    if "<image>" in text:
        notes["<image> placeholder removed"] += 1
        text = _PLACEHOLDER.sub("\n", text).strip()
    if (explicit := row.get("choices", row.get("options"))) is not None and explicit != []:
        question, choices = text, explicit
        if row.get("question") is not None:  # the problem repeats the options
            question = get_text(row, "question")
    elif re.search(r"(?:^|\s)\(?A\)|^\s*A[.:]\s", text, re.MULTILINE):
        parts = split_problem(text)
        question, choices = parts.question, parts.choices
    else:
        return Problem(question=_required(repair_mojibake(text, notes)), choices=())
    return Problem(question=_required(repair_mojibake(question, notes)), choices=check_choices(choices, notes))


def _required(question: str) -> str:
    if not question:
        raise DataError("the question is empty")
    return question


def _user_text(messages: list[Any]) -> str:
    """The text of the last user turn, whose content is text or a list of parts."""
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return _content_text(message.get("content"))
    raise DataError("no message of role 'user'")


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content.strip()
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise DataError("a message's content is neither text nor a list of parts")
    return "\n".join(part["text"] for part in content if isinstance(part.get("text"), str)).strip()


def _answer(row: dict[str, Any], notes: Counter[str]) -> str:
    """The answer under its key, else the assistant's last message, without its <answer> tag."""
    for key in ("target", "answer", "solution"):
        if row.get(key) is not None:
            return _tagless(repair_mojibake(get_text(row, key, notes), notes))
    for message in reversed(row.get("messages") or []):
        if isinstance(message, dict) and message.get("role") == "assistant":
            return _tagless(_content_text(message.get("content")))
    raise DataError("no 'answer', 'solution' or assistant message")


def _tagless(text: str) -> str:
    if not (answer := unwrap_answer(text)):
        raise DataError("the answer is empty")
    return answer


def _images(row: dict[str, Any], image_root: Path) -> tuple[ImageFile, ...]:
    raw = row.get("images", row.get("image"))
    paths = [raw] if isinstance(raw, str) else raw
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
        raise DataError("'image' or 'images' is not a path or a list of paths")
    return tuple(ImageFile(root=image_root, path=path) for path in paths)


def _optional(row: dict[str, Any], key: str) -> str | None:
    return get_text(row, key) if row.get(key) is not None else None


def _metadata(row: dict[str, Any]) -> dict[str, Any]:
    metadata = row.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise DataError("'metadata' is not an object")
    return metadata


READER: Final = Reader(name="jsonl", card=CARD, read=read_jsonl)
