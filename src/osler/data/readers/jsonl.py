"""JSON Lines, or one JSON list, in the two formats that training libraries use::

    {"image": "a.png", "problem": "What is it?\\nA) CT\\nB) MRI", "solution": "<answer> B </answer>"}
    {"images": ["a.png"], "messages": [{"role": "user", "content": "What is it?"}], "choices": ["CT", "MRI"], "answer": "B"}

The options are part of the question or listed under "choices"; without options the question is open-ended. The right answer is a letter
or the text of an option under "answer" or "solution", or a letter under "target". `osler data convert` writes the second format, with the
optional keys id, dataset, target, modality, question_type, subject_id, context, rationale, facts, terms and metadata. The terms of a row
hold for every row that is read with it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osler.data.readers.base import ReaderCard, ReadReport, Rows, check_choice, check_object, get_text, image_files
from osler.data.readers.read_files import load_lines, load_rows
from osler.data.readers.text import Problem, check_choices, letter_of, repair_mojibake, split_problem, unwrap_answer
from osler.errors import DataError
from osler.facts import Facts, Term
from osler.taxonomy import SPLITS, parse_modality, parse_question_type
from osler.types import Sample

if TYPE_CHECKING:
    from pydantic import TypeAdapter

CARD: Final = ReaderCard(
    title="JSON Lines",
    source="your own",
    licence="your own",
    counts="as many as it has",
    layout="a .jsonl or .json file, or a folder of such files; with a split, <split>.jsonl or <split>.json in that folder",
    options={"images": "the folder that image paths start from; the file's folder when left out"},
)

_PLACEHOLDER: Final = re.compile(r"\s*<image>\s*")


def read(root: Path, *, split: str | None = None, images: str | Path | None = None) -> ReadReport:
    """All rows of a file, or of the files of a folder: with `split` those named after it. Raises DataError."""
    check_choice("split", split, SPLITS)
    rows = Rows()
    for file in _list_files(root, split):
        image_root = Path(images) if images is not None else file.parent
        lines = enumerate(load_rows(file), start=1) if file.suffix == ".json" else load_lines(file)
        for number, row in lines:
            rows.add(f"{file.name}:{number}", _make_sample, number, row, file.stem, image_root, rows.notes)
    return rows.report(_share_terms)


def _share_terms(samples: Sequence[Sample], _: Counter[str]) -> Sequence[Sample]:
    """Every sample with the terms of all of them."""
    terms = tuple(dict.fromkeys(term for sample in samples for term in sample.terms))
    return [replace(sample, terms=terms) for sample in samples] if terms else samples


def _list_files(root: Path, split: str | None) -> list[Path]:
    if not root.is_dir():
        return [root]
    files = [file for suffix in ("jsonl", "json") for file in sorted(root.glob(f"{split or '*'}.{suffix}"))]
    if not files:
        raise DataError(f"{root} holds no {split or '*'}.jsonl: name the file itself as the root")
    return files


def _make_sample(number: int, row: Any, stem: str, image_root: Path, notes: Counter[str]) -> Sample:
    if isinstance(row, DataError):
        raise row
    row = check_object(row)
    problem = _problem(row, notes)
    answer = _answer(row, notes)
    dataset = _optional(row, "dataset") or stem
    modality, question_type = _optional(row, "modality"), _optional(row, "question_type")
    return Sample(
        id=_optional(row, "id") or f"{dataset}/{number}",
        dataset=dataset,
        images=image_files(row.get("images", row.get("image")), image_root, "'image' or 'images'"),
        question=problem.question,
        choices=problem.choices,
        target=letter_of(answer, problem.choices, notes, kind="letter" if "target" in row else "either") if problem.choices else answer,
        modality=parse_modality(modality) if modality else None,
        question_type=parse_question_type(question_type) if question_type else None,
        subject_id=_optional(row, "subject_id"),
        context=_optional(row, "context"),
        rationale=_optional(row, "rationale"),
        facts=_known(row, "facts", Facts),
        terms=_known(row, "terms", tuple[Term, ...]) or (),
        metadata=check_object(row.get("metadata") or {}, "'metadata'"),
    )


def _problem(row: dict[str, Any], notes: Counter[str]) -> Problem:
    """The question and its options, from whichever fields hold them."""
    raw = row.get("messages", row.get("prompt"))
    text = _last_turn(raw, "user") if isinstance(raw, list) else get_text(row, "problem" if "problem" in row else "question")
    if text is None:
        raise DataError("no message of role 'user'")
    if "<image>" in text:
        notes["<image> placeholder removed"] += 1
        text = _PLACEHOLDER.sub("\n", text).strip()
    question, choices = text, row.get("choices", row.get("options"))
    if choices is not None and choices != []:
        if row.get("question") is not None:  # the problem repeats the options
            question = get_text(row, "question")
    elif re.search(r"(?:^|\s)\(?A\)|^\s*A[.:]\s", text, re.MULTILINE):
        parts = split_problem(text)
        question, choices = parts.question, parts.choices
    question = _not_empty(repair_mojibake(question, notes), "question")
    return Problem(question=question, choices=check_choices(choices, notes) if choices not in (None, []) else ())


def _not_empty(text: str, what: str) -> str:
    if not text:
        raise DataError(f"the {what} is empty")
    return text


def _last_turn(messages: list[Any], role: str) -> str | None:
    """The text of the last message of a role, None without one. Its content is a text or a list of parts, of which some have a text."""
    turns = [message for message in messages if isinstance(message, dict) and message.get("role") == role]
    if not turns:
        return None
    content = turns[-1].get("content")
    if isinstance(content, str):
        return content.strip()
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise DataError("a message's content is neither text nor a list of parts")
    return "\n".join(part["text"] for part in content if isinstance(part.get("text"), str)).strip()


def _answer(row: dict[str, Any], notes: Counter[str]) -> str:
    """The answer under its key, or else the last assistant turn, without an <answer> tag."""
    for key in ("target", "answer", "solution"):
        if row.get(key) is not None:
            return _not_empty(unwrap_answer(repair_mojibake(get_text(row, key, notes), notes)), "answer")
    messages = row.get("messages")
    if (text := _last_turn(messages if isinstance(messages, list) else [], "assistant")) is None:
        raise DataError("no 'answer', 'solution' or assistant message")
    return _not_empty(unwrap_answer(text), "answer")


def _known(row: dict[str, Any], key: str, kind: Any) -> Any:
    """The facts or the terms under a key, None without any. Raises DataError, which names the field that is wrong."""
    if row.get(key) is None:
        return None
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python(row[key], extra="forbid")
    except ValidationError as error:
        fault = error.errors()[0]
        raise DataError(f"{'.'.join(map(str, (key, *fault['loc'])))!r} is wrong: {fault['msg']}") from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _optional(row: dict[str, Any], key: str) -> str | None:
    return get_text(row, key) if row.get(key) is not None else None
